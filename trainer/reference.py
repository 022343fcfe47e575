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
    """Keep REFERENCE_WINDOWS real windows or fewer, as many of every session and view, for export to check parity on.

    Which of a view's is left to chance: a fixed place, such as its start, would be the same moment in all of them.
    """
    chance = np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(sessions) - 1, REFERENCE_WINDOWS).round().astype(int))
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for number in chosen.tolist():
        session = sessions[number].to_skeleton(settings.input.skeleton)
        each = -(-REFERENCE_WINDOWS // (len(chosen) * len(session.rig)))
        parts += [_some(_windows(session, view, settings), each, chance) for view in range(len(session.rig))]
    columns = _some([np.concatenate(column) for column in zip(*parts, strict=True)], REFERENCE_WINDOWS, chance)
    names = ("keypoints", "intrinsics", "poses")
    save_arrays(run / REFERENCE, dict(zip(names, columns, strict=True)) | {"held_out": np.array(held_out)})


def _some(
    columns: Sequence[NDArray[np.float32]], count: int, chance: np.random.Generator
) -> tuple[NDArray[np.float32], ...]:
    """Take up to `count` rows of every column, the same ones, in order."""
    rows = len(columns[0])
    keep = np.sort(chance.choice(rows, min(count, rows), replace=False))
    return tuple(column[keep] for column in columns)


def _windows(session: Session, view: int, settings: TrainSettings) -> tuple[NDArray[np.float32], ...]:
    camera = session.rig[view]
    windows = settings.input.windows(session, view)
    intrinsics = np.tile(settings.input.intrinsics(camera, camera.size), (len(windows), 1))
    poses = np.full((len(windows), *windows.shape[2:]), np.nan)
    if session.poses is not None:
        poses = world_to_camera(session.poses, camera)
    return windows, intrinsics, poses.astype(np.float32)
