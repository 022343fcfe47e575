"""From a finished run to a bundle, and from a bundle's graph back to a function the evaluation can call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.export.bundles import Reference, export_bundle
from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, load_arrays
from edgelift.poses.skeletons import skeleton
from edgelift.poses.windows import cut, undistort_keypoints
from edgelift.runtime.backends import Backend
from edgelift.runtime.bundle import Bundle
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.data import lifter_intrinsics
from edgelift.trainer.evaluate import Lift
from edgelift.trainer.settings import TrainSettings

REFERENCE = "reference.npz"
REFERENCE_WINDOWS = 512


def save_reference(run: Path, sessions: Sequence[Session], settings: TrainSettings, held_out: bool) -> None:
    """Keep up to REFERENCE_WINDOWS real windows, evenly over the sessions' views, for export to check parity on."""
    parts = [
        _windows(s.to_skeleton(skeleton(settings.skeleton)), v, settings) for s in sessions for v in range(len(s.rig))
    ]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    keep = np.unique(np.linspace(0, len(columns[0]) - 1, REFERENCE_WINDOWS).round().astype(int))
    keypoints, intrinsics, poses = (column[keep] for column in columns)
    run.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        run / REFERENCE, keypoints=keypoints, intrinsics=intrinsics, poses=poses, held_out=np.array(held_out)
    )


def _windows(session: Session, view: int, settings: TrainSettings) -> tuple[NDArray[np.float32], ...]:
    camera = session.rig[view]
    windows = cut(undistort_keypoints(session.keypoints[view], camera), session.timestamps, 1, 0.05)
    intrinsics = np.tile(lifter_intrinsics(camera, settings.camera_input), (len(windows), 1))
    poses = np.full((len(windows), *windows.shape[2:]), np.nan)
    if session.poses is not None:
        poses = world_to_camera(session.poses, camera)
    return windows, intrinsics.astype(np.float32), poses.astype(np.float32)


def export_run(run: Path, path: Path) -> Bundle:
    """Export a run's lifter to a bundle at `path`."""
    checkpoint = load_checkpoint(run)
    folder = run if run.is_dir() else run.parent
    if not (folder / REFERENCE).is_file():
        raise EdgeliftError(str(folder), f"no {REFERENCE}", "a run of `edgelift train`", "Train again.")
    arrays = load_arrays(folder / REFERENCE)
    reference = Reference(*(np.asarray(arrays[k], np.float32) for k in ("keypoints", "intrinsics", "poses")))
    training = {
        "settings": checkpoint.settings.to_dict(),
        "facts": checkpoint.facts,
        "reference_held_out": bool(arrays["held_out"]),
    }
    settings = checkpoint.settings
    return export_bundle(
        checkpoint.model(), path, skeleton(settings.skeleton), settings.camera_input, reference, training
    )


def backend_lift(backend: Backend, batch: int = 256) -> Lift:
    """Return a runtime backend as the evaluation's function of arrays."""

    def lift(windows: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
        starts = range(0, len(windows), batch)
        return np.concatenate([backend(windows[i : i + batch], intrinsics[i : i + batch]) for i in starts])

    return lift
