"""Cameras as parameters: a rig corrected by the people whom it recorded, before a lifter is trained with it.

Bundle adjustment (Triggs et al. 2000) of the cameras and of joints that several views see, joints eliminated by the
Schur complement, errors re-weighted by Student's t. Rotations move on SO(3). What the keypoints cannot tell (where the
world is, how it is turned, and its size) and what they tell badly the anchor decides: every parameter has a Gaussian
prior at its given value, so the scale is that of the given distances between the cameras.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgelift.calibration.soundness import Finding, spread
from edgelift.poses.cameras import Camera, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.trainer.settings import LearnCameras
from edgelift.trainer.virtual import through_lens

POINTS = 6000  # joints at moments, evenly over a rig's sessions: more move no camera by a tenth of its error
LEAST_POINTS = 100
ROUNDS = 15
CHECKED_POINTS, CHECKED_ROUNDS = 1500, 5  # to find out whether cameras fit
LEAST_SEEN_S = 2.0  # errors of a detector last 0.2 s: cameras fit to hardly any of them take all of them up
MISFIT = 0.88  # of the residual is left by corrected cameras: noise that they take up leaves 0.95 of 3 s or more
TAIL_DEGREES = 4.0
LEAST_NOISE = 1e-5  # of the focal length
# standard deviations of the priors: rotation (rad), translation (m), log focal length, principal point (of the focal
# length). A careful calibration is ten times better, a bumped tripod about that bad
PRIORS = torch.tensor([0.05] * 3 + [0.1] * 3 + [0.05] + [0.01] * 2, dtype=torch.float64)
FREE = {
    "extrinsics": torch.tensor([1.0] * 6 + [0.0] * 3, dtype=torch.float64),
    "intrinsics": torch.tensor([0.0] * 6 + [1.0] * 3, dtype=torch.float64),
    "all": torch.ones(9, dtype=torch.float64),
    "none": torch.zeros(9, dtype=torch.float64),
}


@dataclass(frozen=True)
class LearntRig:
    """A rig before and after; residuals are medians in pixels."""

    given: tuple[Camera, ...]
    learnt: tuple[Camera, ...]
    residual_px: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """What changed, camera by camera: degrees, mm, and percent of the focal length."""
        return {
            "residual_px": [round(r, 3) for r in self.residual_px],
            "cameras": [_change(a, b) for a, b in zip(self.given, self.learnt, strict=True)],
        }


class Recalibrated(Sequence[Session]):
    """Sessions whose cameras are the learnt ones; loads no more of them than the sequence it wraps."""

    def __init__(self, sessions: Sequence[Session], rigs: dict[bytes, LearntRig]) -> None:
        self.sessions, self.rigs = sessions, rigs

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: Any) -> Any:
        session = self.sessions[index]
        return replace(session, cameras=self.rigs[_key(session)].learnt)


def learn_cameras(sessions: Sequence[Session], what: LearnCameras) -> Recalibrated:
    """Correct every rig of the sessions (sessions with equal cameras share one).

    EdgeliftError where a rig has too little to learn from. Frames are drawn evenly; no label is read.
    """
    frames: dict[bytes, int] = {}
    for session in sessions:
        frames[_key(session)] = frames.get(_key(session), 0) + session.keypoints.shape[1]
    sights: dict[bytes, list[NDArray[np.float32]]] = {key: [] for key in frames}
    cameras: dict[bytes, tuple[Camera, ...]] = {}
    for session in sessions:
        key = _key(session)
        cameras[key] = session.rig
        every = max(1, frames[key] * len(session.skeleton.joints) // POINTS)
        sights[key].append(session.keypoints[:, ::every].reshape(len(session.rig), -1, 3))
    rigs = {key: adjust(cameras[key], np.concatenate(parts, 1), what) for key, parts in sights.items()}
    return Recalibrated(sessions, rigs)


def check_cameras(sessions: Sequence[Session]) -> list[Finding]:
    """Find rigs that the people in them contradict: corrected cameras would leave much less of the residual.

    Each session by itself, as a camera may have been bumped between two; then those that passed, with equal cameras,
    together: many weak signs are a strong one.
    """
    by_rig: dict[bytes, list[Session]] = {}
    for session in sessions:
        by_rig.setdefault(_key(session), []).append(session)
    found = [finding for session in sessions for finding in _misfit([session])]
    bad = {finding.session for finding in found}
    rest = ([s for s in own if s.name not in bad] for own in by_rig.values())
    return found + [finding for own in rest if len(own) > 1 for finding in _misfit(own)]


def _misfit(sessions: Sequence[Session]) -> list[Finding]:
    thinned = np.concatenate([spread(s.keypoints, CHECKED_POINTS // len(sessions)) for s in sessions], 1)
    if thinned.shape[1] < LEAST_POINTS or sum(map(_seen_s, sessions)) < LEAST_SEEN_S:
        return []
    rig = adjust(sessions[0].rig, thinned, "all", CHECKED_ROUNDS)
    # with points as well placed: better points alone leave less of a residual, too
    before = adjust(sessions[0].rig, thinned, "none", CHECKED_ROUNDS).residual_px[1]
    after = rig.residual_px[1]
    if after > MISFIT * before:
        return []
    worst = max(rig.to_dict()["cameras"], key=lambda c: c["rotation_deg"] + c["centre_mm"] / 50)
    told = (
        f"its cameras do not fit the people in it: residual {before:.1f} px, {after:.1f} px with corrected ones "
        f"({worst['name']} by {worst['rotation_deg']:.2f} degrees, {worst['centre_mm']:.0f} mm and "
        f"{worst['focal_percent']:.1f} % of its focal length). Calibrate again, or use --learn-cameras all"
    )
    return [Finding(session.name, told, True, after / before) for session in sessions]


def _seen_s(session: Session) -> float:
    """Seconds in which two views know a joint."""
    known = ((session.keypoints[..., 2] > 0).sum(0) >= 2).any(-1).sum()
    return float(known * np.median(np.diff(session.timestamps))) if len(session.timestamps) > 1 else 0.0


def adjust(
    cameras: tuple[Camera, ...], keypoints: NDArray[np.float32], what: LearnCameras, rounds: int = ROUNDS
) -> LearntRig:
    """Adjust one rig to keypoints (views, points, 3), raw pixels and confidence; what one view sees is ignored."""
    points = triangulate(keypoints, cameras)[0]
    known = np.isfinite(points).all(-1)
    if known.sum() < LEAST_POINTS:
        raise EdgeliftError(
            "--learn-cameras", f"{int(known.sum())} joints seen by two views", f"at least {LEAST_POINTS}",
            "Record longer, or train with the given cameras.",
        )  # fmt: skip
    problem = _Problem(cameras, keypoints[:, known])
    X, change = torch.from_numpy(points[known]), torch.zeros(len(cameras), 9, dtype=torch.float64)
    before = problem.median_px(change, X)
    for _ in range(rounds):
        change, X = problem.improve(change, X, FREE[what])
    learnt = tuple(_changed(c, row) for c, row in zip(cameras, change, strict=True))
    return LearntRig(cameras, learnt, (before, problem.median_px(change, X)))


class _Problem:
    """Residuals of every view and point in units of the focal length, and one Gauss-Newton round on them."""

    def __init__(self, cameras: Sequence[Camera], keypoints: NDArray[np.float32]) -> None:
        as_tensor = torch.from_numpy
        self.R = torch.stack([as_tensor(c.R) for c in cameras])
        self.t = torch.stack([as_tensor(c.t) for c in cameras])
        self.lens = torch.stack([as_tensor(np.concatenate([c.intrinsics, c.dist])) for c in cameras])
        seen = keypoints[..., 2] > 0
        self.seen = as_tensor(np.where(seen, keypoints[..., 2], 0).astype(np.float64))
        self.observed = as_tensor(np.where(seen[..., None], keypoints[..., :2], 0).astype(np.float64))

    def residual(self, change: Tensor, X: Tensor, R: Tensor, t: Tensor, lens: Tensor, observed: Tensor) -> Tensor:
        """(2,) of one view's change (9,) and one point (3,)."""
        local = torch.linalg.matrix_exp(_skew(change[:3])) @ (R @ X) + t + change[3:6]
        focal = lens[:2] * change[6].exp()
        moved = torch.cat([focal, lens[2:4] + change[7:] * lens[:2], lens[4:]])
        return (through_lens(local[:2] / local[2], moved) - observed) / lens[0]

    def all(self, function: Any, change: Tensor, X: Tensor) -> Any:
        """`function` of residual's arguments for every view and point: (views, points, ...)."""
        over_points = torch.func.vmap(function, (None, 0, None, None, None, 0))
        over_views = torch.func.vmap(over_points, (0, None, 0, 0, 0, 0))
        return over_views(change, X, self.R, self.t, self.lens, self.observed)

    def median_px(self, change: Tensor, X: Tensor) -> float:
        """Median length of the residuals."""
        length = self.all(self.residual, change, X).norm(dim=-1) * self.lens[:, :1]
        return float(length[self.seen > 0].median())

    def improve(self, change: Tensor, X: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """One round: weights from the residuals, then cameras with points eliminated, then points."""
        r = self.all(self.residual, change, X)
        A, B = self.all(torch.func.jacfwd(self.residual, (0, 1)), change, X)  # (views, points, 2, 9 and 3)
        A = A * free
        noise = (r[self.seen > 0].abs().median() / 0.6745).clamp(min=LEAST_NOISE)
        w = self.seen * (TAIL_DEGREES + 2) / (TAIL_DEGREES + r.square().sum(-1) / noise**2) / noise**2
        V = torch.einsum("cp,cpri,cprj->pij", w, B, B) + 1e-6 * torch.eye(3, dtype=X.dtype)
        W = torch.einsum("cp,cpri,cprj->cpij", w, A, B)
        gp = torch.einsum("cp,cpri,cpr->pi", w, B, r)
        gc = torch.einsum("cp,cpri,cpr->ci", w, A, r) + change / PRIORS**2 * free
        U = torch.einsum("cp,cpri,cprj->cij", w, A, A)
        inverse = torch.linalg.inv(V)
        n = change.numel()
        S: Tensor = torch.block_diag(*U)  # type: ignore[no-untyped-call]
        S = S + torch.diag((1 / PRIORS**2).repeat(len(change)))
        S = S - torch.einsum("cpij,pjk,dplk->cidl", W, inverse, W).reshape(n, n)
        g = gc - torch.einsum("cpij,pjk,pk->ci", W, inverse, gp)
        step = -torch.linalg.solve(S, g.reshape(n)).view_as(change) * free
        moved = -torch.einsum("pij,pj->pi", inverse, gp + torch.einsum("cpij,ci->pj", W, step))
        return change + step, X + moved


def _skew(v: Tensor) -> Tensor:
    zero = torch.zeros_like(v[0])
    return torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).view(3, 3)


def _changed(camera: Camera, change: Tensor) -> Camera:
    turn = torch.linalg.matrix_exp(_skew(change[:3])).numpy()
    K = camera.K.copy()
    K[:2, 2] += change[7:].numpy() * camera.intrinsics[:2]
    K[:2, :2] *= float(change[6].exp())
    return replace(camera, R=turn @ camera.R, t=camera.t + change[3:6].numpy(), K=K)


def _change(given: Camera, learnt: Camera) -> dict[str, Any]:
    turn = np.degrees(np.arccos(np.clip((np.trace(learnt.R @ given.R.T) - 1) / 2, -1, 1)))
    return {
        "name": given.name,
        "rotation_deg": round(float(turn), 4),
        "centre_mm": round(1000 * float(np.linalg.norm(learnt.centre - given.centre)), 2),
        "focal_percent": round(100 * float(learnt.K[0, 0] / given.K[0, 0] - 1), 4),
        "K": learnt.K.tolist(), "dist": learnt.dist.tolist(), "R": learnt.R.tolist(), "t": learnt.t.tolist(),
    }  # fmt: skip


def _key(session: Session) -> bytes:
    parts: Iterator[NDArray[np.float64]] = (x for c in session.rig for x in (c.K, c.dist, c.R, c.t))
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
