"""Sessions as tensors on one device: no file and no per-sample Python after this."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgelift.poses.cameras import rays
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.windows import LifterInput
from edgelift.trainer.settings import TrainSettings


@dataclass(frozen=True)
class MultiView:
    """Multi-view frames. Sessions with fewer views are padded with views in which every joint is missing.

    keypoints (n, views, frames, joints, 3) what the lifter is fed; rays (n, views, joints, 2) normalised image points
    of the newest frame, 0 where missing; camera (n, views) index into the tables below; given (cameras, 4) intrinsics
    the lifter is fed; R (cameras, 3, 3), t (cameras, 3) world to camera, metres; present (n, views) bool; poses
    (n, joints, 3) world metres, or None.
    """

    keypoints: Tensor
    rays: Tensor
    camera: Tensor
    present: Tensor
    given: Tensor
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
            self.rays[index],
            self.present[index],
            self.given[camera],
            self.R[camera],
            self.t[camera],
            None if self.poses is None else self.poses[index],
        )


@dataclass(frozen=True)
class Batch:
    """The same fields gathered: (b, views, ...)."""

    keypoints: Tensor
    rays: Tensor
    present: Tensor
    given: Tensor
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
    counts = [len(s.timestamps) for s in converted]
    keypoints = _padded([_windows(s, settings.input) for s in converted], views)
    index = [np.pad(np.arange(len(s.rig)), (0, views - len(s.rig))) + f for s, f in zip(converted, first, strict=False)]
    data = MultiView(
        keypoints=keypoints,
        rays=_padded([_rays(s) for s in converted], views),
        camera=torch.from_numpy(np.repeat(np.stack(index), counts, 0)),
        present=(keypoints[:, :, -1, :, 2] > 0).any(-1),
        given=_table([settings.input.intrinsics(c, c.size) for c in cameras]),
        R=_table([c.R for c in cameras]),
        t=_table([c.t for c in cameras]),
        poses=_poses(converted) if settings.supervision == "poses" else None,
    )
    return _teaching(data)


def _table(rows: Sequence[NDArray[np.floating]]) -> Tensor:
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def _windows(session: Session, fed: LifterInput) -> NDArray[np.float32]:
    """(frames, views, window, joints, 3) what the lifter is fed."""
    return np.stack([fed.windows(session, view) for view in range(len(session.rig))], 1)


def _rays(session: Session) -> NDArray[np.float32]:
    """(frames, views, joints, 2) normalised image points."""
    views = zip(session.keypoints, session.rig, strict=True)
    return np.stack([rays(keypoints[..., :2], camera) for keypoints, camera in views], 1).astype(np.float32)


def _padded(parts: Sequence[NDArray[np.float32]], views: int) -> Tensor:
    """One tensor of all sessions; missing views are zeros, and so is NaN: missing is read from confidence alone."""
    width = [(0, 0)] * (parts[0].ndim - 2)
    padded = [np.pad(part, [(0, 0), (0, views - part.shape[1]), *width]) for part in parts]
    return torch.from_numpy(np.nan_to_num(np.concatenate(padded), copy=False))


def _poses(sessions: Sequence[Session]) -> Tensor:
    return torch.from_numpy(np.concatenate([s.poses for s in sessions if s.poses is not None]))


def _check(session: Session, settings: TrainSettings) -> None:
    where = f"session {session.name}"
    if settings.supervision == "views" and len(session.rig) < 2:
        raise EdgeliftError(
            f"{where} for --supervision views", "one camera", "two or more calibrated cameras",
            "Record with another camera, or give labels and use --supervision poses.",
        )  # fmt: skip
    session.check_synchronised()
    if settings.supervision == "poses" and session.poses is None:
        raise EdgeliftError(
            f"{where} for --supervision poses", "no poses", "true poses in the session", "Use --supervision views."
        )


def _teaching(data: MultiView) -> MultiView:
    """Leave out frames that teach nothing; EdgeliftError where hardly any is left: training would end well, untrained.

    Every frame left shows the person, so that batch norm never sees fewer rows than frames.
    """
    seen = data.keypoints[:, :, -1, :, 2] > 0
    if data.poses is None:
        taught = (seen.sum(1) >= 2).any(-1)
    else:
        taught = data.present.any(1) & ~data.poses.isnan().any(-1).all(-1)
    if taught.sum() < 2:
        raise EdgeliftError(
            "training sessions", f"{int(taught.sum())} frames with a joint that two views, or view and label, know",
            "two at the very least", "Check detections and views with `edgelift triangulate`.",
        )  # fmt: skip
    by_frame = {name: getattr(data, name) for name in ("keypoints", "rays", "camera", "present", "poses")}
    return replace(data, **{name: tensor[taught] for name, tensor in by_frame.items() if tensor is not None})


def fingerprint(sessions: Sequence[Session], with_poses: bool) -> str:
    """Return a sha256 over what training reads: keypoints, times, cameras, and `poses` where they are the labels."""
    digest = hashlib.sha256()
    for s in sessions:
        digest.update(s.skeleton.name.encode())
        digest.update(s.keypoints.tobytes())
        digest.update(s.timestamps.tobytes())
        for camera in s.rig:
            digest.update(np.concatenate([camera.K.ravel(), camera.dist, camera.R.ravel(), camera.t]).tobytes())
            digest.update(np.array(camera.size).tobytes())
        if with_poses and s.poses is not None:
            digest.update(s.poses.tobytes())
    return digest.hexdigest()
