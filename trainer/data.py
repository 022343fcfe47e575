"""Sessions as tensors on one device: no file and no per-sample Python after this."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.windows import LifterInput
from edgelift.trainer.settings import TrainSettings


@dataclass(frozen=True)
class MultiView:
    """Multi-view frames. Sessions with fewer views are padded with views in which every joint is missing.

    keypoints (n, views, frames, joints, 3) undistorted pixels; camera (n, views) index into the tables below;
    given (cameras, 4) intrinsics the lifter is handed; true (cameras, 4) those of the lens; R (cameras, 3, 3),
    t (cameras, 3) world to camera, metres; present (n, views) bool; poses (n, joints, 3) world metres, or None.
    """

    keypoints: Tensor
    camera: Tensor
    present: Tensor
    given: Tensor
    true: Tensor
    R: Tensor
    t: Tensor
    poses: Tensor | None

    def __len__(self) -> int:
        return len(self.keypoints)

    def to(self, device: str) -> MultiView:
        """Return the same frames with every tensor on that device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in tensors.items() if t is not None})

    def batch(self, index: Tensor) -> Batch:
        """Gather the frames of an index (b,)."""
        camera = self.camera[index]
        return Batch(
            self.keypoints[index],
            self.present[index],
            self.given[camera],
            self.true[camera],
            self.R[camera],
            self.t[camera],
            None if self.poses is None else self.poses[index],
        )


@dataclass(frozen=True)
class Batch:
    """The same fields gathered: (b, views, ...)."""

    keypoints: Tensor
    present: Tensor
    given: Tensor
    true: Tensor
    R: Tensor
    t: Tensor
    poses: Tensor | None


def load_multiview(sessions: Sequence[Session], settings: TrainSettings) -> MultiView:
    """Convert, undistort and window every session; `poses` are taken only for `--supervision poses`."""
    if not sessions:
        raise EdgeliftError("training sessions", "none", "at least one", "Name session files or a directory.")
    for session in sessions:
        _check(session, settings)
    converted = [session.to_skeleton(settings.input.skeleton) for session in sessions]
    views = max(len(s.camera_names) for s in converted)
    cameras = [camera for s in converted for camera in s.rig]
    first = np.cumsum([0, *(len(s.rig) for s in converted)])
    parts = [_windows(s, views, settings.input) for s in converted]
    index = [np.pad(np.arange(len(s.rig)), (0, views - len(s.rig))) + f for s, f in zip(converted, first, strict=False)]
    counts = [len(p) for p in parts]
    keypoints = np.concatenate(parts)
    real = np.repeat([[v < len(s.rig) for v in range(views)] for s in converted], counts, 0)
    return MultiView(
        keypoints=torch.from_numpy(keypoints),
        camera=torch.from_numpy(np.repeat(np.stack(index), counts, 0)),
        present=torch.from_numpy(real & (keypoints[:, :, -1, :, 2] > 0).any(-1)),
        given=_table([settings.input.intrinsics(c) for c in cameras]),
        true=_table([c.intrinsics for c in cameras]),
        R=_table([c.R for c in cameras]),
        t=_table([c.t for c in cameras]),
        poses=_poses(converted) if settings.supervision == "poses" else None,
    )


def _table(rows: Sequence[NDArray[np.floating]]) -> Tensor:
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def _windows(session: Session, views: int, fed: LifterInput) -> NDArray[np.float32]:
    stacked = np.stack([fed.windows(session, view) for view in range(len(session.rig))], 1)
    empty = np.zeros((len(stacked), views - stacked.shape[1], *stacked.shape[2:]), np.float32)
    padded: NDArray[np.float32] = np.concatenate([stacked, empty], 1)
    return np.nan_to_num(padded, copy=False)  # missing is read from confidence alone


def _poses(sessions: Sequence[Session]) -> Tensor:
    return torch.from_numpy(np.concatenate([s.poses for s in sessions if s.poses is not None]))


def _check(session: Session, settings: TrainSettings) -> None:
    where = f"session {session.name}"
    if settings.supervision == "views" and len(session.rig) < 2:
        raise EdgeliftError(
            f"{where} for --supervision views", "one camera", "two or more calibrated cameras",
            "Record with another camera, or give labels and use --supervision poses.",
        )  # fmt: skip
    if settings.supervision == "poses" and session.poses is None:
        raise EdgeliftError(
            f"{where} for --supervision poses", "no poses", "true poses in the session", "Use --supervision views."
        )


def fingerprint(sessions: Sequence[Session]) -> str:
    """Return a sha256 over what label-free training reads: keypoints, times, cameras (never `poses`)."""
    digest = hashlib.sha256()
    for s in sessions:
        digest.update(s.skeleton.name.encode())
        digest.update(s.keypoints.tobytes())
        digest.update(s.timestamps.tobytes())
        for camera in s.rig:
            digest.update(np.concatenate([camera.K.ravel(), camera.dist, camera.R.ravel(), camera.t]).tobytes())
    return digest.hexdigest()
