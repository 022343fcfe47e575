"""The reference set: real windows that a run keeps, for the export to check parity on and a refresh not to lose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.sessions import Session, save_arrays
from edgelift.trainer.settings import TrainSettings

REFERENCE = "reference.npz"
REFERENCE_WINDOWS = 512


def save_reference(run: Path, sessions: Sequence[Session], settings: TrainSettings, held_out: bool) -> None:
    """Keep up to REFERENCE_WINDOWS real windows, evenly over the sessions' views, for export to check parity on."""
    parts = [_windows(s.to_skeleton(settings.input.skeleton), v, settings) for s in sessions for v in range(len(s.rig))]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    keep = np.unique(np.linspace(0, len(columns[0]) - 1, REFERENCE_WINDOWS).round().astype(int))
    keypoints, intrinsics, poses = (column[keep] for column in columns)
    arrays = {"keypoints": keypoints, "intrinsics": intrinsics, "poses": poses, "held_out": np.array(held_out)}
    save_arrays(run / REFERENCE, arrays)


def _windows(session: Session, view: int, settings: TrainSettings) -> tuple[NDArray[np.float32], ...]:
    camera = session.rig[view]
    windows = settings.input.windows(session, view)
    intrinsics = np.tile(settings.input.intrinsics(camera, camera.size), (len(windows), 1))
    poses = np.full((len(windows), *windows.shape[2:]), np.nan)
    if session.poses is not None:
        poses = world_to_camera(session.poses, camera)
    return windows, intrinsics, poses.astype(np.float32)
