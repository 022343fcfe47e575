"""Sessions as tensors: one row a multi-view frame, in files mapped into memory, gathered batch by batch.

Files, because recordings outgrow memory: rows that a batch does not touch need not be in it. They have no name, so
nothing is left behind however a run ends; TMPDIR says where they lie.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgelift.poses.cameras import Camera, rays
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.reconstruction import reconstruct
from edgelift.poses.sessions import Session
from edgelift.poses.timeline import Plan, sample
from edgelift.poses.windows import LifterInput, plan
from edgelift.trainer.settings import TrainSettings

KNOWN_SIGMA_M = 0.1  # a reconstructed joint known less well than this teaches nothing
Prepared = Callable[[int, int], None]


@dataclass(frozen=True)
class MultiView:
    """All sessions, one row a frame. Sessions with fewer views are padded with views in which every joint is missing.

    keypoints (rows, views, joints, 3) pixels as the lifter is fed and confidence; rays (rows, views, joints, 2)
    normalised image points; both 0 where missing. target (rows, joints, 4) world metres and weight, 0 where unknown:
    reconstructed, or the labels. noise (sessions,): standard deviation of a keypoint's coordinate in rays, as
    reconstruction found it; NaN where the target is not reconstructed. camera (rows, views) index into tables of
    cameras: given (cameras, 4) intrinsics the lifter is fed; lens (cameras, 9) fx fy cx cy k1 k2 p1 p2 k3 of the pixels
    it is fed; zoom (cameras,) focal length over half an image's width; R (cameras, 3, 3) and t (cameras, 3), world to
    camera in metres. session (rows,). where: the window that ends at each row. rows_a_slot (sessions,): frames between
    two slots of a window. taught (n,): the rows that teach. people: whom each session shows.
    """

    keypoints: Tensor
    rays: Tensor
    target: Tensor
    noise: Tensor
    camera: Tensor
    session: Tensor
    given: Tensor
    lens: Tensor
    zoom: Tensor
    R: Tensor
    t: Tensor
    where: Plan
    rows_a_slot: Tensor
    taught: Tensor
    people: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.taught)

    def to(self, device: str) -> MultiView:
        """Return the same frames with every tensor on that device."""
        if device == "cpu":
            return self
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in ("where", "people")}
        return replace(self, **tensors, where=_each(self.where, lambda x: x.to(device)))

    def windows(self, table: Tensor, rows: Tensor) -> Tensor:
        """Cut the windows of a table (rows, ..., k + 1) that end at these rows: (b, frames, ..., k + 1)."""
        if self.where.lower.shape[1] == 1:
            return table[rows][:, None]
        windows: Tensor = sample(table, _each(self.where, lambda x: x[rows]), torch)
        return windows

    def view_windows(self, table: Tensor, rows: Tensor, view: Tensor) -> Tensor:
        """Cut the same of a table (rows, views, ..., k + 1), one view (b,) each: (b, frames, ..., k + 1)."""
        if self.where.lower.shape[1] == 1:
            return table[rows, view][:, None]
        views, plan = table.shape[1], _each(self.where, lambda x: x[rows])
        own = replace(plan, lower=plan.lower * views + view[:, None], upper=plan.upper * views + view[:, None])
        windows: Tensor = sample(table.flatten(0, 1), own, torch)
        return windows

    def local_target(self, rows: Tensor, camera: Tensor) -> Tensor:
        """Target of rows (b,) in the frames of cameras (b,): (b, joints, 4), camera metres and weight."""
        target = self.target[rows]
        local = torch.einsum("bxy,bjy->bjx", self.R[camera], target[..., :3]) + self.t[camera][:, None]
        return torch.cat([local, target[..., 3:]], -1)

    def batch(self, index: Tensor) -> Batch:
        """Gather all views of the taught frames of an index (b,)."""
        rows = self.taught[index]
        camera = self.camera[rows]
        keypoints = self.windows(self.keypoints, rows).transpose(1, 2)
        present = (keypoints[:, :, -1, :, 2] > 0).any(-1)
        cameras = (table[camera] for table in (self.given, self.zoom, self.R, self.t))
        return Batch(keypoints, self.rays[rows], present, *cameras)


@dataclass(frozen=True)
class Batch:
    """Frames gathered: keypoints (b, views, frames, joints, 3), the rest (b, views, ...) as in MultiView.

    present (b, views): views that show the person in the newest frame.
    """

    keypoints: Tensor
    rays: Tensor
    present: Tensor
    given: Tensor
    zoom: Tensor
    R: Tensor
    t: Tensor


def _each(where: Plan, change: Callable[[Tensor], Tensor]) -> Plan:
    return Plan(change(where.lower), change(where.upper), change(where.along), change(where.empty))


class _Column:
    """Rows appended session by session to a nameless file, then one tensor mapped onto it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file  # may be closed once it is mapped
        self.shape: tuple[int, ...] = ()
        self.rows = 0

    def append(self, rows: NDArray[np.float32]) -> None:
        self.shape = rows.shape[1:]
        self.rows += len(rows)
        np.ascontiguousarray(rows, np.float32).tofile(self.file)

    def tensor(self) -> Tensor:
        self.file.flush()
        return torch.from_numpy(np.memmap(self.file, np.float32, "r+", shape=(self.rows, *self.shape)))


def stored(parts: Iterable[Tensor], device: torch.device) -> Tensor:
    """Join float tensors (rows, ...) in a nameless file mapped into memory, or in a GPU's memory."""
    if device.type != "cpu":
        return torch.cat(list(parts))
    with tempfile.TemporaryFile() as file:
        column = _Column(file)
        for part in parts:
            column.append(part.numpy())
        return column.tensor()


def load_multiview(
    sessions: Sequence[Session], settings: TrainSettings, prepared: Prepared = lambda done, total: None
) -> MultiView:
    """Convert, undistort and reconstruct every session; true poses are read only for `--supervision poses`.

    sessions may load themselves as they are asked for (`SessionFiles`); one at a time is held.
    """
    if not len(sessions):
        raise EdgeliftError("training sessions", "none", "at least one", "Name session files or a directory.")
    views = max(_check(session, settings) for session in sessions)
    with contextlib.ExitStack() as files:
        keypoints, seen, target = (_Column(files.enter_context(tempfile.TemporaryFile())) for _ in range(3))
        cameras: list[Camera] = []
        plans, steps, noise, camera, counts, people = [], [], [], [], [], []
        for done, session in enumerate(sessions, 1):
            s = session.to_skeleton(settings.input.skeleton)
            keypoints.append(_padded(_fed(s, settings.input), views))
            seen.append(_padded(_rays(s), views))
            rows, spread = _target(s, settings)
            target.append(rows)
            noise.append(spread)
            steps.append(settings.input.frame_interval_s / _frame_time(s.timestamps))
            plans.append(plan(s.timestamps, settings.frames, settings.input.frame_interval_s))
            camera.append(np.pad(np.arange(len(s.rig)), (0, views - len(s.rig))) + len(cameras))
            counts.append(len(s.timestamps))
            people.append(s.subject or s.name)
            cameras += s.rig
            prepared(done, len(sessions))
        data = MultiView(
            keypoints=keypoints.tensor(),
            rays=seen.tensor(),
            target=target.tensor(),
            noise=_table(noise),
            camera=torch.from_numpy(np.repeat(np.stack(camera), counts, 0)),
            session=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
            **_camera_tables(cameras, settings.input),
            where=_joined(plans, np.cumsum([0, *counts[:-1]])),
            rows_a_slot=_table(steps),
            taught=torch.zeros(0, dtype=torch.long),
            people=tuple(people),
        )
    return replace(data, taught=_taught(data, settings))


def _camera_tables(cameras: Sequence[Camera], fed: LifterInput) -> dict[str, Tensor]:
    return {
        "given": _table([fed.intrinsics(c, c.size) for c in cameras]),
        "lens": _table([_lens(c, fed) for c in cameras]),
        "zoom": _table([2 * c.K[0, 0] / c.size[0] for c in cameras]),
        "R": _table([c.R for c in cameras]),
        "t": _table([c.t for c in cameras]),
    }


def _frame_time(timestamps: NDArray[np.float64]) -> float:
    """Seconds between frames, as a rule; a lone frame is taken as a second."""
    return float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 1.0


def _joined(plans: Sequence[Plan], first: NDArray[np.int64]) -> Plan:
    """One plan for all rows; a session's own indices begin at its first row."""
    lower, upper = (
        np.concatenate([getattr(p, side) + at for p, at in zip(plans, first, strict=True)]).astype(np.int32)
        for side in ("lower", "upper")
    )
    along, empty = (np.concatenate([getattr(p, name) for p in plans]) for name in ("along", "empty"))
    return Plan(*(torch.from_numpy(column) for column in (lower, upper, along, empty)))


def _table(rows: Sequence[NDArray[np.floating] | float]) -> Tensor:
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def _lens(camera: Camera, fed: LifterInput) -> NDArray[np.float64]:
    """(9,) fx fy cx cy k1 k2 p1 p2 k3: from ideal rays to the pixels that the lifter is fed."""
    dist = np.zeros(5) if fed.camera_input == "rays" else camera.dist
    return np.concatenate([camera.intrinsics, dist])


def _fed(session: Session, fed: LifterInput) -> NDArray[np.float32]:
    """(frames, views, joints, 3) pixels and confidence as the lifter is fed."""
    views = zip(session.keypoints, session.rig, strict=True)
    return np.stack([fed.pixels(keypoints, camera) for keypoints, camera in views], 1)


def _rays(session: Session) -> NDArray[np.float32]:
    """(frames, views, joints, 2) normalised image points."""
    views = zip(session.keypoints, session.rig, strict=True)
    return np.stack([rays(keypoints[..., :2], camera) for keypoints, camera in views], 1).astype(np.float32)


def _padded(part: NDArray[np.float32], views: int) -> NDArray[np.float32]:
    """Missing views are zeros, and so is NaN: missing is read from confidence alone."""
    padding = [(0, 0), (0, views - part.shape[1]), *[(0, 0)] * (part.ndim - 2)]
    return np.nan_to_num(np.pad(part, padding), copy=False)


def _target(session: Session, settings: TrainSettings) -> tuple[NDArray[np.float32], float]:
    """(frames, joints, 4) what the lifter is to say, in world metres, and its weight; then MultiView's noise."""
    noise = np.nan
    if settings.supervision == "poses":
        assert session.poses is not None
        poses, known = session.poses, np.asarray(np.isfinite(session.poses).all(-1))
    elif settings.loss == "teacher" and ((session.keypoints[..., 2] > 0).sum(0) >= 2).any():
        taught = reconstruct(session)
        poses, known, noise = taught.poses.astype(np.float32), taught.sigma < KNOWN_SIGMA_M, taught.noise_rad
    else:  # no joint is in two views
        poses = np.zeros((*session.keypoints.shape[1:3], 3), np.float32)
        known = np.zeros(poses.shape[:2], bool)
    return np.concatenate([np.where(known[..., None], poses, 0), known[..., None]], -1).astype(np.float32), noise


def _check(session: Session, settings: TrainSettings) -> int:
    """Return the number of views of a session that can train."""
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
    return len(session.rig)


def _taught(data: MultiView, settings: TrainSettings) -> Tensor:
    """Rows that teach; EdgeliftError where hardly any is left: training would end well, untrained.

    Every one of them shows the person, so that batch norm never sees fewer rows than frames.
    """
    seen = data.keypoints[..., 2] > 0
    if settings.targeted:
        taught = seen.any(-1).any(1) & (data.target[..., 3] > 0).any(-1)
    else:
        taught = (seen.sum(1) >= 2).any(-1)
    if taught.sum() < 2:
        raise EdgeliftError(
            "training sessions", f"{int(taught.sum())} frames with a joint that two views, or view and label, know",
            "two at the very least", "Check detections and views with `edgelift triangulate`.",
        )  # fmt: skip
    return taught.nonzero()[:, 0]


def fingerprint(sessions: Iterable[Session], with_poses: bool) -> str:
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
