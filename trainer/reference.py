"""The reference set: real windows that a run keeps, for the export to check parity on and a refresh not to lose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.sessions import Session, save_arrays
from edgelift.runtime.bundle import REFERENCE
from edgelift.trainer.settings import TrainSettings

REFERENCE_WINDOWS = 512


def save_reference(run: Path, sessions: Sequence[Session], settings: TrainSettings, held_out: bool) -> None:
    """Keep REFERENCE_WINDOWS real windows or fewer, evenly over the sessions, for export to check parity on."""
    chosen = np.unique(np.linspace(0, len(sessions) - 1, REFERENCE_WINDOWS).round().astype(int))
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for number in chosen.tolist():
        session = sessions[number].to_skeleton(settings.input.skeleton)
        each = -(-REFERENCE_WINDOWS // (len(chosen) * len(session.rig)))
        parts += [_spread(_windows(session, view, settings), each) for view in range(len(session.rig))]
    columns = _spread([np.concatenate(column) for column in zip(*parts, strict=True)], REFERENCE_WINDOWS)
    names = ("keypoints", "intrinsics", "poses")
    save_arrays(run / REFERENCE, dict(zip(names, columns, strict=True)) | {"held_out": np.array(held_out)})


def _spread(columns: Sequence[NDArray[np.float32]], count: int) -> tuple[NDArray[np.float32], ...]:
    """Take up to `count` rows of every column, evenly."""
    keep = np.unique(np.linspace(0, len(columns[0]) - 1, count).round().astype(int))
    return tuple(column[keep] for column in columns)


def _windows(session: Session, view: int, settings: TrainSettings) -> tuple[NDArray[np.float32], ...]:
    camera = session.rig[view]
    windows = settings.input.windows(session, view)
    intrinsics = np.tile(settings.input.intrinsics(camera, camera.size), (len(windows), 1))
    poses = np.full((len(windows), *windows.shape[2:]), np.nan)
    if session.poses is not None:
        poses = world_to_camera(session.poses, camera)
    return windows, intrinsics, poses.astype(np.float32)
