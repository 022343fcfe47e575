"""What only the views together can tell of a recording: exchanged sides, cameras that moved, lags and drifts.

All of it needs a rig; find_moved and find_timing need three views, as of two nobody can say which one is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.soundness import POINTS, examine, find_shifts, residual_rad, spread
from edgelift.poses.cameras import Camera, project, rays, triangulate, world_to_camera
from edgelift.poses.reconstruction import LEAST_NOISE, NEAREST_M, TAIL_DEGREES
from edgelift.poses.rigs import matrix_to_rotvec, rotvec_to_matrix
from edgelift.poses.sessions import Session

Float64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

# exchanged sides. A joint's residual is cut: beyond 0.1 (10 cm at 1 m) it says no more than that it is wrong
CUT_RESIDUAL = 0.1
LEAST_RESIDUAL = 0.005  # of the focal length, where sides are looked at: the best detectors' p50 is 0.007
# of a frame's residual: exchanging a view back leaves a tenth to a third, noise never less than two thirds
SWAP_LEFT, SWAP_STEP = 0.5, 0.9
LEAST_PAIRS = 3  # of left and right joints that a view must show to tell its sides (as runtime/people.py)
# cameras
MOVED_POINTS = 1500
MOVED_ROUNDS = 10
MOVED_LEFT = 0.88  # of the residual, as learn_cameras: noise that a corrected camera takes up leaves 0.92 or more
# what a lag or a moved camera has to leave to be told, of the focal length: after all it is to explain the residual
EXPLAINED = 0.02
FARTHEST_SHIFT_M = 1.5  # beyond, it is no bumped tripod but another camera, or another person
# a lag is one number and a camera six: who walks in a circle makes the six fit a lag, and noise besides
SIMPLER = 0.75
LEAST_OFFSET = 0.0015  # of the focal length: a camera that is off by less is off by less than any detector errs
TURN_PRIOR_RAD, SHIFT_PRIOR_M = 0.05, 0.1  # turn and shift explain each other: neither is larger than it has to be
# a recording is looked at in three parts, at its begin, middle and end: clocks drift, and tripods are bumped
PART_S = 30.0
DRIFTING_S = 20.0  # between first and last part: in less even the worst clocks stay together
LEAST_PART_S = 3.0  # errors of a detector last 0.2 s: fifteen of them


@dataclass(frozen=True)
class Moved:
    """A camera that stands otherwise than the rig says: by how much, when (None: all the time), and what it explains.

    offset_px: how far keypoints lie from where they would, median. left: the share of the median residual of all views
    that the corrected camera leaves.
    """

    degrees: float
    metres: float
    offset_px: float
    left: float
    during_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds by which each view is later than the others, and by how much that grows from begin to end.

    lag_s (views,), 0 where none was found: in the middle. drift_s (views,): NaN where the recording is too short.
    """

    lag_s: Float64
    drift_s: Float64


@dataclass(frozen=True, eq=False)
class _Part:
    """One stretch of the recording, looked at by itself."""

    at_s: tuple[float, float]
    lags: dict[str, float] = field(default_factory=dict)
    moved: dict[str, Moved] = field(default_factory=dict)


def find_swaps(session: Session) -> Flags:
    """(views, frames): where exchanging left and right of the whole body in that view makes the views fit.

    The views that fit are believed: where half of them are exchanged (one of two, two of four) nobody can say which
    half is right, and either may be named.
    """
    mirror = session.skeleton.mirror
    sided = [joint for joint, other in enumerate(mirror) if joint != other]
    back = [sided.index(mirror[joint]) for joint in sided]
    keypoints = session.keypoints[:, :, sided].astype(np.float64)
    swapped = np.zeros(keypoints.shape[:2], np.bool_)
    cost = _cost(keypoints, session.rig)
    doubted = np.flatnonzero(cost > LEAST_RESIDUAL)
    kept, was = keypoints[:, doubted], cost[doubted]
    now, flipped = was.copy(), np.zeros((len(kept), len(doubted)), np.bool_)
    for _ in range(len(kept) // 2 if doubted.size else 0):
        tried = np.stack([_cost(_exchanged(kept, flipped ^ one, back), session.rig) for one in _single(flipped.shape)])
        best = tried.argmin(0)
        least = tried.min(0)
        better = least < SWAP_STEP * now
        flipped[best[better], np.flatnonzero(better)] ^= True
        now = np.where(better, least, now)
    seen = kept[..., 2] > 0
    told = (seen & seen[:, :, back]).sum(-1) >= 2 * LEAST_PAIRS
    swapped[:, doubted] = flipped & told & (now < SWAP_LEFT * was)
    return swapped


def _single(shape: tuple[int, ...]) -> Flags:
    """(views, views, 1): the first axis chooses one view."""
    return np.eye(shape[0], dtype=np.bool_)[:, :, None]


def _exchanged(keypoints: Float64, views: Flags, back: Sequence[int]) -> Float64:
    return np.where(views[..., None, None], keypoints[:, :, back], keypoints)


def _cost(keypoints: Float64, cameras: Sequence[Camera]) -> Float64:
    """(frames,) mean residual in units of the focal length, cut; infinite where two views share no joint."""
    focal = np.array([camera.K[0, 0] for camera in cameras])[:, None, None]
    residual = np.minimum(triangulate(keypoints, cameras)[1] / focal, CUT_RESIDUAL)
    known = np.isfinite(residual)
    total = np.where(known, residual, 0.0).sum((0, 2))
    return np.asarray(np.where(known.any((0, 2)), total / np.maximum(known.sum((0, 2)), 1), np.inf))


def look_at_parts(session: Session) -> tuple[Timing, dict[str, Moved]]:
    """Lags and drifts of views, and cameras that moved, each judged in three parts of a session of three views or more.

    Where somebody walks a late view and a moved camera explain each other's residual: what leaves less is told.
    """
    parts = [_look_at(session.during(part)) for part in _parts(session)]
    lags = np.array([[part.lags.get(name, 0.0) for name in session.camera_names] for part in parts])
    timing = Timing(np.median(lags, axis=0), _drift(lags, [part.at_s for part in parts], session))
    found = {name: [part for part in parts if name in part.moved] for name in session.camera_names}
    moved = {name: _summed(name, own, parts) for name, own in found.items() if own}
    return timing, moved


def _drift(lags: Float64, at_s: Sequence[tuple[float, float]], session: Session) -> Float64:
    """(views,) what lags (parts, views), from the middle of the first part to that of the last, are from end to end."""
    between = float(np.mean(at_s[-1]) - np.mean(at_s[0]))
    if between < DRIFTING_S:
        return np.full(lags.shape[1], np.nan)
    return np.asarray((lags[-1] - lags[0]) / between * np.ptp(session.timestamps))


def _summed(name: str, found: Sequence[_Part], parts: Sequence[_Part]) -> Moved:
    """One camera's entry for all the parts in which it stands elsewhere: the largest, and when."""
    worst = max((part.moved[name] for part in found), key=lambda moved: moved.offset_px)
    during = None if {parts[0], parts[-1]} <= set(found) else (found[0].at_s[0], found[-1].at_s[1])
    return replace(worst, during_s=during)


def _parts(session: Session) -> list[slice]:
    """One stretch of at most PART_S of moments that two views know, or three if there are enough of them."""
    known = np.flatnonzero(((session.keypoints[..., 2] > 0).sum(0) >= 2).any(-1))
    step = float(np.median(np.diff(session.timestamps))) if len(session.timestamps) > 1 else 1.0
    many = len(known) * step >= 3 * LEAST_PART_S
    length = max(2, min(len(known) // (3 if many else 1), int(PART_S / step)))
    starts = np.linspace(0, len(known) - length, 3).astype(int) if many else [0]
    # somebody who comes and goes makes a part longer in time, but not without bound
    ends = [min(int(known[min(s + length, len(known)) - 1]) + 1, int(known[s]) + 3 * length) for s in starts]
    return [slice(int(known[s]), end) for s, end in zip(starts, ends, strict=True)]


def _look_at(part: Session) -> _Part:
    at_s = (float(part.timestamps[0]), float(part.timestamps[-1]))
    lags, moved = find_shifts(part), find_moved(part)
    if lags and _lags_explain(part, moved):
        moved = {}
    elif lags:
        lags = {}
    return _Part(at_s, lags, moved)


def _lags_explain(part: Session, moved: Mapping[str, Moved]) -> bool:
    """Whether the lags found leave little of the residual, and not much more than the cameras that moved would."""
    left = max((finding.left for finding in examine(part) if finding.left is not None), default=np.inf)
    residual = residual_rad(spread(part.keypoints, POINTS).astype(np.float64), part.rig)
    return left * residual <= EXPLAINED and SIMPLER * left < min((one.left for one in moved.values()), default=np.inf)


def find_moved(session: Session) -> dict[str, Moved]:
    """Cameras of three or more that fit the others' triangulation much better where they are turned and shifted.

    The camera that gains most is believed first and corrected, and the others are looked at again.
    """
    keypoints = spread(session.keypoints, MOVED_POINTS).astype(np.float64)
    rig, found = list(session.rig), dict[str, Moved]()
    residual = residual_rad(keypoints, rig)
    while len(found) < len(rig) - 2 and np.isfinite(residual):
        tried = {v: _corrected(rig, v, keypoints) for v in range(len(rig)) if rig[v].name not in found}
        left = {v: residual_rad(keypoints, _with(rig, v, camera)) for v, camera in tried.items()}
        view = min(left, key=lambda v: left[v])
        given, rig = rig[view], _with(rig, view, tried[view])
        offset = _offset_px(keypoints, given, rig, view)
        if not left[view] < MOVED_LEFT * residual or offset < LEAST_OFFSET * given.K[0, 0]:
            break
        turn = np.degrees(np.linalg.norm(matrix_to_rotvec(rig[view].R @ given.R.T)))
        shift = np.linalg.norm(rig[view].centre - given.centre)
        if left[view] > EXPLAINED or shift > FARTHEST_SHIFT_M:
            break
        found[given.name] = Moved(float(turn), float(shift), offset, left[view] / residual)
        residual = left[view]
    return found


def _with(rig: Sequence[Camera], view: int, camera: Camera) -> list[Camera]:
    return [*rig[:view], camera, *rig[view + 1 :]]


def _offset_px(keypoints: Float64, given: Camera, rig: Sequence[Camera], view: int) -> float:
    """Median pixels between where a camera as given and as corrected sees the person."""
    points = triangulate(keypoints, rig)[0]
    apart = np.linalg.norm(project(points, given) - project(points, rig[view]), axis=-1)
    known = np.isfinite(apart)
    return float(np.median(apart[known])) if known.any() else 0.0


def _corrected(rig: Sequence[Camera], view: int, keypoints: Float64) -> Camera:
    """One camera, turned and shifted to where the other views' points lie where it saw them (Gauss-Newton)."""
    others = [v for v in range(len(rig)) if v != view]
    points = triangulate(keypoints[others], [rig[v] for v in others])[0]
    seen = rays(keypoints[view, :, :2], rig[view])
    known = np.isfinite(points).all(-1) & np.isfinite(seen).all(-1) & (keypoints[view, :, 2] > 0)
    camera, change = rig[view], np.zeros(6)
    for _ in range(MOVED_ROUNDS if known.any() else 0):
        step = _step(world_to_camera(points[known], camera), seen[known], change)
        turn, change = rotvec_to_matrix(step[:3]), change + step
        camera = replace(camera, R=turn @ camera.R, t=turn @ camera.t + step[3:])
    return camera


def _step(local: Float64, seen: Float64, change: Float64) -> Float64:
    """(6,) turn in radians and shift in metres that move points (n, 3) before a camera towards their rays (n, 2).

    change (6,): so far, which the prior holds small. Residuals are weighted by Student's t; the derivatives are those
    of x/z and y/z by the point, and of the point by turn and shift.
    """
    x, y, z = local.T
    z = np.maximum(z, NEAREST_M)
    residual = seen - np.stack([x / z, y / z], -1)
    noise = max(float(np.median(np.abs(residual))) / 0.6745, LEAST_NOISE)
    weight = (TAIL_DEGREES + 2) / (TAIL_DEGREES + (residual**2).sum(-1) / noise**2) / noise**2
    by_point = np.zeros((len(local), 2, 3))
    by_point[:, 0, 0] = by_point[:, 1, 1] = 1 / z
    by_point[:, 0, 2], by_point[:, 1, 2] = -x / z**2, -y / z**2
    zero = np.zeros_like(x)
    by_turn = np.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).reshape(-1, 3, 3)  # minus the cross-product matrix
    A = np.concatenate([by_point @ by_turn, by_point], -1)
    weighted = A * weight[:, None, None]
    prior = 1 / np.array([TURN_PRIOR_RAD] * 3 + [SHIFT_PRIOR_M] * 3) ** 2
    normal = np.einsum("nri,nrj->ij", weighted, A) + np.diag(prior)
    return np.asarray(np.linalg.solve(normal, np.einsum("nri,nr->i", weighted, residual) - prior * change))
