"""Whether sessions can be believed: time, names, cameras and the person in them, judged by the keypoints alone.

Views that fit together meet in one point. So what is wrong shows in triangulation's residual, and what would mend it is
found by trying: a view moved in time, two views exchanged. What was found is told; nothing is mended silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, project, triangulate
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import Skeleton

Float64 = NDArray[np.float64]

MOST_MISSING = 0.8
LEAST_FRAMES = 60
LEAST_JOINTS = 200  # that two views know: fewer say nothing of cameras
POINTS = 3000  # joints at moments that are tried: more change no answer
FARTHEST_SHIFT_S = 1.0
SHIFT_STEP_S = 0.02
REFINED = 4  # rounds, where several views lag
# what has to be gained before it is told: noise alone gains a few percent
SHIFT_GAINS, EXCHANGE_GAINS = 0.9, 0.6
LEAST_SHIFT_S = 0.03
# a rig of the same form: angles between its cameras, and how much their distances' ratios differ
SAME_TURN_RAD, SAME_FORM, SAME_SCALE = 0.01, 0.02, 0.02
FARTHEST_BUILD = 1.25  # bones longer or shorter by more than this, all of them: another unit, or cameras out of scale
OTHER_BUILD = 1.08


@dataclass(frozen=True)
class Finding:
    """Something wrong with a session. refused: it must not be adapted to; otherwise it is only told.

    left: the share of the residual that mending it leaves, where that says which of two explanations is the better.
    """

    session: str
    what: str
    refused: bool
    left: float | None = None

    def __str__(self) -> str:
        return f"session {self.session}: {self.what}"


def examine(session: Session) -> list[Finding]:
    """Look at one session's cameras, missing joints, synchrony and camera names."""
    if session.cameras is None or len(session.rig) < 2:
        return [_refused(session, "two calibrated views at least are needed: convert it with --cameras")]
    if session.time_offset_s.any():
        told = f"time_offset_s {session.time_offset_s.tolist()}: resample the views to one clock"
        return [_refused(session, told)]
    shown = session.keypoints[..., 2] > 0
    missing = 1 - shown[:, shown.any((0, 2))].mean() if shown.any() else 1.0
    frames = int((shown.sum(0) >= 2).any(-1).sum())
    if missing > MOST_MISSING or frames < LEAST_FRAMES:
        told = f"{missing:.0%} of the joints are missing, {frames} frames show a joint to two views"
        return [_refused(session, f"{told}; at most {MOST_MISSING:.0%} and at least {LEAST_FRAMES} are needed")]
    keypoints = spread(session.keypoints, POINTS).astype(np.float64)
    residual = residual_rad(keypoints, session.rig)
    if not np.isfinite(residual):
        return [_refused(session, "no joint that two views know")]
    exchanged = find_exchanged(keypoints, session.rig, residual)
    if exchanged is not None:
        a, b = (session.camera_names[view] for view in exchanged)
        return [_refused(session, f"cameras {a} and {b} look exchanged: their views fit when their names are swapped")]
    return _unsynchronised(session, keypoints)


def _refused(session: Session, what: str) -> Finding:
    return Finding(session.name, what, True)


def _unsynchronised(session: Session, keypoints: Float64) -> list[Finding]:
    shifts = find_shifts(session)
    mended = _mended(session, {session.view(name): shift for name, shift in shifts.items()})
    moved = spread(mended.keypoints, POINTS).astype(np.float64)
    left = residual_rad(moved, session.rig) / residual_rad(keypoints, session.rig)
    return [Finding(session.name, _late(name, shift), True, left) for name, shift in shifts.items()]


def _late(name: str, shift_s: float) -> str:
    when = "later" if shift_s > 0 else "earlier"
    return f"view {name} is not synchronised: it shows things {abs(shift_s):.2f} s {when} than the others"


def residual_rad(keypoints: Float64, cameras: Sequence[Camera]) -> float:
    """Median residual of triangulating keypoints (views, ..., 3), in units of the focal length; NaN for no point."""
    residual = triangulate(keypoints, cameras)[1]
    focal = np.array([camera.K[0, 0] for camera in cameras]).reshape(-1, *[1] * (residual.ndim - 1))
    at_least_two = np.isfinite(residual)
    return float(np.median((residual / focal)[at_least_two])) if at_least_two.any() else np.nan


def find_exchanged(keypoints: Float64, cameras: Sequence[Camera], residual: float) -> tuple[int, int] | None:
    """Views whose names are exchanged: the pair that makes the residual smallest when swapped, if by far."""
    tried: dict[tuple[int, int], float] = {}
    for pair in combinations(range(len(cameras)), 2):
        order = list(range(len(cameras)))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        tried[pair] = residual_rad(keypoints[order], cameras)
    best = min(tried, key=lambda pair: tried[pair])
    return best if tried[best] < EXCHANGE_GAINS * residual else None


def find_shifts(session: Session) -> dict[str, float]:
    """Seconds by which views lag behind the others, of those that do, by camera name. Needs three views.

    A view's residual against what the other views triangulate, moved in time, is smallest at its shift. The view that
    gains most is believed first and moved, the others are then looked at again, and all that lag once more in the end:
    the first ones were compared with views that lagged, too.
    """
    found: dict[int, float] = {}
    views = len(session.rig)
    while views >= 3 and len(found) < views - 2:
        tried = {v: _best_shift(_mended(session, found), v) for v in range(views) if v not in found}
        worst = min(tried, key=lambda v: tried[v][1])
        shift, gain = tried[worst]
        if gain > SHIFT_GAINS or abs(shift) < LEAST_SHIFT_S:
            break
        found[worst] = shift
    for _ in range(REFINED if len(found) > 1 else 0):
        for view in found:
            others = {other: shift for other, shift in found.items() if other != view}
            found[view] = _best_shift(_mended(session, others), view)[0]
    return {session.camera_names[view]: shift for view, shift in found.items()}


def _mended(session: Session, shifts: Mapping[int, float]) -> Session:
    for view, shift in shifts.items():
        session = _moved(session, view, shift)
    return session


def _best_shift(session: Session, view: int) -> tuple[float, float]:
    """(seconds, residual there over the residual at none) of one view against the others' triangulation."""
    others = [v for v in range(len(session.rig)) if v != view]
    points = triangulate(session.keypoints[others], [session.rig[v] for v in others])[0]
    places = project(points, session.rig[view])
    shifts = np.arange(-FARTHEST_SHIFT_S, FARTHEST_SHIFT_S + SHIFT_STEP_S / 2, SHIFT_STEP_S)
    there = np.flatnonzero((np.isfinite(places[..., 0]) & (session.keypoints[view, ..., 2] > 0)).any(-1))
    rows = _evenly(there, POINTS // points.shape[1])
    seen = np.where(session.keypoints[view, rows, :, 2:] > 0, session.keypoints[view, rows, :, :2], np.nan)
    errors = np.array([_error(places, session.timestamps, rows, seen, shift) for shift in shifts])
    if not np.isfinite(errors).any():
        return 0.0, 1.0
    best = int(np.nanargmin(errors))
    none = errors[len(shifts) // 2]
    return float(shifts[best]), float(errors[best] / none) if np.isfinite(none) else 1.0


def _error(places: Float64, times: Float64, rows: NDArray[np.int_], seen: Float64, shift: float) -> float:
    """Median pixels between what a view shows at these rows and where the others were `shift` seconds before."""
    at = times[rows] - shift
    high = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
    along = (at - times[high - 1]) / (times[high] - times[high - 1])
    inside = (along >= 0) & (along <= 1)
    there = places[high - 1] + along[:, None, None] * (places[high] - places[high - 1])
    distance = np.linalg.norm(there - seen, axis=-1)[inside]
    known = np.isfinite(distance)
    return float(np.median(distance[known])) if known.sum() >= LEAST_JOINTS else np.nan


def _moved(session: Session, view: int, shift: float) -> Session:
    """Return the session with one view's keypoints as they were `shift` seconds later on its own clock."""
    keypoints = session.keypoints.copy()
    at = np.searchsorted(session.timestamps, session.timestamps + shift)
    inside = at < len(session.timestamps)
    keypoints[view] = np.where(
        inside[:, None, None], keypoints[view, np.minimum(at, len(at) - 1)], np.array([np.nan, np.nan, 0], np.float32)
    )
    return replace(session, keypoints=keypoints)


def spread(keypoints: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """(views, points, 3) joints at moments that two views know, evenly over keypoints (views, frames, joints, 3)."""
    flat = keypoints.reshape(len(keypoints), -1, 3)
    known = np.flatnonzero((flat[..., 2] > 0).sum(0) >= 2)
    return flat[:, _evenly(known, most)]


def _evenly(numbers: NDArray[np.int_], most: int) -> NDArray[np.int_]:
    """At most so many of the numbers, spread evenly."""
    chosen: NDArray[np.int_] = numbers[np.linspace(0, max(len(numbers) - 1, 0), min(most, len(numbers))).astype(int)]
    return chosen


def compare_rigs(session: Session, known: Sequence[Sequence[Camera]]) -> list[Finding]:
    """Refuse a session whose rig is one of the known rigs, but larger or smaller: a calibration with a wrong length.

    People cannot tell that: they only seem to be larger or smaller. Cameras are matched by name; whoever moves them
    turns them, too.
    """
    pairs = ([(c, k) for c in session.rig for k in rig if c.name == k.name] for rig in known)
    # of two cameras there is one distance: it has no form to compare
    scales = [scale for own in pairs if len(own) >= 3 and (scale := _scale(*zip(*own, strict=True))) is not None]
    if not scales or any(abs(scale - 1) <= SAME_SCALE for scale in scales):
        return []
    told = f"its cameras stand as those that the lifter knows do, but {scales[0]:.3f} times as far apart"
    return [_refused(session, f"{told}: check the lengths that they were calibrated with")]


def _scale(own: Sequence[Camera], known: Sequence[Camera]) -> float | None:
    """How many times as large a rig is as a known one of the same form; None where its form is another."""
    turns = [[a.R @ b.R.T for a, b in combinations(rig, 2)] for rig in (own, known)]
    apart = [np.arccos(np.clip((np.trace(a @ b.T) - 1) / 2, -1, 1)) for a, b in zip(*turns, strict=True)]
    ratios = np.array([
        float(np.linalg.norm(a.centre - b.centre)) / max(float(np.linalg.norm(c.centre - d.centre)), 1e-6)
        for (a, b), (c, d) in zip(combinations(own, 2), combinations(known, 2), strict=True)
    ])  # fmt: skip
    scale = float(np.median(ratios))
    same_form = max(apart) < SAME_TURN_RAD and float(np.ptp(ratios)) < SAME_FORM * scale
    return scale if same_form else None


def bone_lengths(poses: NDArray[np.floating], skeleton: Skeleton) -> Float64:
    """Median length of each bone of poses (..., joints, 3), metres; NaN where it is never known."""
    bones = np.stack([poses[..., child, :] - poses[..., parent, :] for parent, child in skeleton.bones], -2)
    length = np.linalg.norm(bones.reshape(-1, *bones.shape[-2:]), axis=-1)
    known = np.isfinite(length)
    return np.array([np.median(column[k]) if k.any() else np.nan for column, k in zip(length.T, known.T, strict=True)])


def compare_build(sessions: Sequence[Session], known: Float64) -> list[Finding]:
    """Compare the bones of one person, in all sessions of theirs, with those (bones,), metres, that a lifter knows.

    A person may be of another build, and that is told; all bones far too long or too short are another unit, or
    cameras out of scale.
    """
    skeleton = sessions[0].skeleton
    ratios = bone_lengths(np.concatenate([s.triangulate()[0] for s in sessions]), skeleton) / known
    ratio = float(np.nanmedian(ratios)) if np.isfinite(ratios).any() else 1.0
    factor = max(ratio, 1 / ratio)
    told = f"bones are {ratio:.2f} times as long as those of the people whom the lifter knows"
    if factor > FARTHEST_BUILD:
        return [_refused(session, f"{told}: check the unit of the cameras' positions") for session in sessions]
    return [Finding(sessions[0].name, f"{told}: a person of another build", False)] if factor > OTHER_BUILD else []
