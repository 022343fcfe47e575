"""Recording: what detectors saw, any number of people a frame and view; the choice of the one person of a Session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64, project, rays, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, clean_keypoints
from edgelift.poses.skeletons import Skeleton

RESIDUAL_LIMIT_MRAD = 40.0  # median over a person's joints; real detectors stay below 15, another person is beyond 100
LEAST_JOINTS = 4  # fewer joints in common do not tell two people apart
CANDIDATES = 6  # combinations of detections kept a frame for the path through time
BLOCK = 1000  # frames judged at once: bounds memory, changes nothing
UNSEEN_SHIFT = 0.25  # what appearing or vanishing in a view costs, as a shift in body sizes

Picks = NDArray[np.intp]  # indices of people, -1 for nobody


@dataclass(frozen=True, eq=False)
class View:
    """What one camera's detector saw.

    timestamps float64 (frames,) seconds of this view's clock, rising. people: for each frame float32 (people, joints,
    3) raw pixels and confidence, missing = NaN, NaN, 0; the order of people carries no identity.
    """

    name: str
    timestamps: NDArray[np.float64]
    people: list[NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Recording:
    """Views of one scene, all in one skeleton."""

    views: tuple[View, ...]
    skeleton: Skeleton
    name: str


@dataclass(frozen=True)
class ViewSelection:
    """What choosing did to one view. residual_px: median to the triangulation of all views, NaN where there is none."""

    name: str
    frames: int
    crowded_frames: int
    discarded: int
    missing_frames: int
    residual_px: float


@dataclass(frozen=True)
class Selection:
    """How the person was chosen, and what it did to each view."""

    how: str
    views: tuple[ViewSelection, ...]

    def summary(self) -> list[str]:
        """Return lines for a human: the rule, then one line a view."""
        return [f"person: {self.how}", *(_describe(view) for view in self.views)]


def _describe(view: ViewSelection) -> str:
    residual = "" if np.isnan(view.residual_px) else f", median residual {view.residual_px:.1f} px"
    doubt = "; its people fit no other view: is it this camera?" if 2 * view.missing_frames > view.frames else ""
    return (
        f"{view.name}: {view.frames} frames, {view.crowded_frames} with several people, {view.discarded} detections "
        f"discarded, {view.missing_frames} frames without the person{residual}{doubt if view.discarded else ''}"
    )


def choose_person(recording: Recording, cameras: tuple[Camera, ...] | None) -> tuple[Session, Selection]:
    """Choose one person and return their Session.

    cameras: one a view, in the order of the views, or None. With two or more, the person is the one whose detections
    agree best across views (triangulation residual) along the smoothest path in time; a view where nobody agrees within
    RESIDUAL_LIMIT_MRAD is missing in that frame, and so is a frame without two agreeing views. Otherwise it is, in each
    view, the largest person along the smoothest path: views may then disagree on who that is.
    """
    check_views(recording, cameras)
    timestamps, rows = common_timeline(recording.views)
    people = [_stack_people(v, row, recording.skeleton) for v, row in zip(recording.views, rows, strict=True)]
    if not any((p[..., 2] > 0).any() for p in people):
        raise nobody(recording, "no person in any frame")
    if cameras is not None and len(cameras) > 1:
        how = f"least residual across {len(cameras)} views, at most {RESIDUAL_LIMIT_MRAD:g} mrad, continuous in time"
        picks = _follow_across_views(people, cameras)
        if not (picks >= 0).any():
            raise nobody(recording, f"no person on whom two views agree within {RESIDUAL_LIMIT_MRAD:g} mrad")
    else:
        reason = "one view" if len(people) == 1 else "no rig, so views were not compared"
        how = f"largest and most continuous in each view ({reason})"
        picks = np.concatenate([_follow_in_view(p) for p in people], axis=1)
    keypoints = _gather(people, picks)
    session = to_session(recording, cameras, timestamps, keypoints)
    present = np.stack([(view[..., 2] > 0).any(-1).sum(1) for view in people])
    return session, Selection(how, count_views(session, present, (picks.T >= 0).astype(np.intp)))


def to_session(
    recording: Recording, cameras: tuple[Camera, ...] | None, timestamps: Float64, keypoints: NDArray[np.floating]
) -> Session:
    """Make the Session of keypoints (views, frames, joints, 3) on one timeline, named after the recording."""
    names = tuple(view.name for view in recording.views) if cameras is None else tuple(c.name for c in cameras)
    return Session(
        keypoints=clean_keypoints(keypoints),
        timestamps=timestamps,
        camera_names=names,
        cameras=cameras,
        skeleton=recording.skeleton,
        time_offset_s=np.zeros(len(names)),
        name=recording.name,
    )


def check_views(recording: Recording, cameras: tuple[Camera, ...] | None) -> None:
    """EdgeliftError unless there are views, one camera for each if any, and a rising timestamp for each frame."""
    views = recording.views
    if not views or (cameras is not None and len(cameras) != len(views)):
        received = f"{len(views)} views and {'no' if cameras is None else len(cameras)} cameras"
        raise EdgeliftError(f"recording {recording.name}", received, "one camera a view", "Match views and cameras.")
    for view in views:
        rising = len(view.timestamps) > 0 and bool((np.diff(view.timestamps) > 0).all())
        if not rising or len(view.people) != len(view.timestamps):
            received = f"{len(view.timestamps)} timestamps for {len(view.people)} frames, or not rising"
            remedy = "Give each frame its own time."
            raise EdgeliftError(f"view {view.name}", received, "a rising timestamp for each frame", remedy)


def nobody(recording: Recording, what: str) -> EdgeliftError:
    """Return the error for a recording in which no person was found; what: was found instead."""
    return EdgeliftError(
        f"recording {recording.name}",
        what,
        "a person",
        "Check the detections, then which view is which camera, and units.",
    )


def common_timeline(views: Sequence[View]) -> tuple[Float64, list[Picks]]:
    """Return timestamps (frames,) and, for each view, the row of each frame in that view, -1 where it has none.

    The longest view is the reference; where it has no frame the others' times fill in. A view's frame belongs to the
    nearest time within half a frame interval.
    """
    reference = max(views, key=lambda view: len(view.timestamps))
    interval = float(np.median(np.diff(reference.timestamps))) if len(reference.timestamps) > 1 else 0.0
    times = reference.timestamps
    for view in views:
        # 0.75: two clocks half an interval apart must not double the frames through their jitter
        lonely = np.abs(view.timestamps - times[_nearest(times, view.timestamps)]) > 0.75 * interval
        times = np.union1d(times, view.timestamps[lonely])
    rows = []
    for view in views:
        row = _nearest(view.timestamps, times)
        near = np.abs(view.timestamps[row] - times) <= 0.5 * interval * (1 + 1e-6)
        rows.append(np.where(near, row, -1))
    return times, rows


def _nearest(sorted_times: Float64, wanted: Float64) -> Picks:
    right = np.clip(np.searchsorted(sorted_times, wanted), 1, max(len(sorted_times) - 1, 1))
    right = np.minimum(right, len(sorted_times) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - sorted_times[left] <= sorted_times[right] - wanted, left, right)


def _stack_people(view: View, rows: Picks, skeleton: Skeleton) -> Float64:
    """(frames, people, joints, 3), padded with people of whom nothing is seen (at least one)."""
    most = max([1, *(len(p) for p in view.people)])
    out = np.zeros((len(rows), most, len(skeleton.joints), 3))
    for t, row in enumerate(rows):
        if row >= 0:
            out[t, : len(view.people[row])] = view.people[row]
    out[~(out[..., 2] > 0)] = (np.nan, np.nan, 0)
    return out


def _follow_across_views(people: list[Float64], cameras: Sequence[Camera]) -> Picks:
    """(frames, views) indices of the chosen person."""
    ideal = ideal_cameras(cameras)
    angles = [to_rays(p, c) for p, c in zip(people, cameras, strict=True)]
    blocks = [slice(start, start + BLOCK) for start in range(0, len(people[0]), BLOCK)]
    found = [_frame_candidates([a[block] for a in angles], ideal) for block in blocks]
    candidates, costs = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _smoothest_path(candidates, costs, people)


def ideal_cameras(cameras: Sequence[Camera]) -> list[Camera]:
    """Return the cameras without lens and pixels: their image points are rays x/z, y/z, their distances tangents.

    Residuals are angles then, and nothing is undistorted twice.
    """
    return [Camera(c.name, np.eye(3), np.zeros(5), c.R, c.t, c.size) for c in cameras]


def to_rays(people: NDArray[np.floating], camera: Camera) -> Float64:
    """(..., 3) raw pixels and confidence to rays x/z, y/z and confidence; NaN passes through."""
    return np.concatenate([rays(people[..., :2], camera), people[..., 2:]], -1)


def _follow_in_view(people: Float64) -> Picks:
    """(frames, 1) indices of the person that is largest and moves least."""
    size = sizes(people)
    seen = (people[..., 2] > 0).any(-1)
    costs = np.where(seen, RESIDUAL_LIMIT_MRAD * (1 - size / size.max()), np.inf)
    candidates = np.broadcast_to(np.arange(people.shape[1])[:, None], (*people.shape[:2], 1))
    return _smoothest_path(candidates, costs, [people]) if seen.any() else np.full((len(people), 1), -1)


def _frame_candidates(people: list[Float64], cameras: Sequence[Camera]) -> tuple[Picks, Float64]:
    """Return combinations (frames, CANDIDATES, views) and their costs in mrad, infinite where there is none.

    Every pair of detections in two views is triangulated and every view joins it with its best person: quadratic in
    views and people, never exponential. The best are triangulated again from all their views.
    """
    seeds = list(_pair_seeds(people, cameras))
    if not seeds:
        none = np.full((len(people[0]), CANDIDATES, len(people)), -1)
        return none, np.full(none.shape[:2], np.inf)
    best = _cheapest_distinct(*_stack_candidates(seeds))
    refined = []
    for k in range(best.shape[1]):
        points = triangulate(_gather(people, best[:, k]), cameras)[0]
        refined.append(_assign(points, people, cameras))
    return _stack_candidates(refined)


def _stack_candidates(found: Sequence[tuple[Picks, Float64]]) -> tuple[Picks, Float64]:
    picks, costs = zip(*found, strict=True)
    return np.stack(picks, axis=1), np.stack(costs, axis=1)


def _pair_seeds(people: list[Float64], cameras: Sequence[Camera]) -> Iterator[tuple[Picks, Float64]]:
    """Yield what `_assign` gives for every pair of detections in two views, on the frames that have both of them.

    One crowded frame then costs what it holds, and not every frame of the recording.
    """
    there = [np.asarray((p[..., 2] > 0).any(-1)) for p in people]
    for a, b in combinations(range(len(people)), 2):
        for i, j in product(range(people[a].shape[1]), range(people[b].shape[1])):
            frames = np.flatnonzero(there[a][:, i] & there[b][:, j])
            if not len(frames):
                continue
            here = [p[frames] for p in people]
            points = triangulate(np.stack([here[a][:, i], here[b][:, j]]), (cameras[a], cameras[b]))[0]
            picks, costs = np.full((len(people[0]), len(people)), -1), np.full(len(people[0]), np.inf)
            picks[frames], costs[frames] = _assign(points, here, cameras)
            yield picks, costs


def _assign(points: Float64, people: list[Float64], cameras: Sequence[Camera]) -> tuple[Picks, Float64]:
    """Return the best person of each view for points (frames, joints, 3), (frames, views), and the mean cost in mrad.

    A view whose best is beyond the limit has nobody and costs the limit; fewer than two views cost infinity.
    """
    picks, costs = [], []
    for view, camera in zip(people, cameras, strict=True):
        residual = person_residual(points, view, camera)
        least = residual.min(1)
        picks.append(np.where(least <= RESIDUAL_LIMIT_MRAD, residual.argmin(1), -1))
        costs.append(np.minimum(least, RESIDUAL_LIMIT_MRAD))
    chosen = np.stack(picks, axis=1)
    enough = (chosen >= 0).sum(1) >= 2
    return np.where(enough[:, None], chosen, -1), np.where(enough, np.mean(costs, axis=0), np.inf)


def person_residual(points: Float64, people: Float64, camera: Camera) -> Float64:
    """(frames, people) median distance in mrad of people's joints from points; infinite where too few are shared."""
    distance = np.linalg.norm(project(points, camera)[:, None] - people[..., :2], axis=-1)
    return 1000 * median(distance)


def median(values: Float64) -> Float64:
    """Lower median of the last axis without NaN; infinite where fewer than LEAST_JOINTS remain."""
    count = np.isfinite(values).sum(-1)
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf), axis=-1)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[..., None] // 2, -1)[..., 0]
    return np.where(count >= LEAST_JOINTS, middle, np.inf)


def _cheapest_distinct(picks: Picks, costs: Float64) -> Picks:
    """(frames, CANDIDATES, views): the cheapest distinct of picks (frames, seeds, views), -1 where fewer."""
    out = np.full((len(picks), CANDIDATES, picks.shape[2]), -1)
    for t, order in enumerate(np.argsort(costs, axis=1, kind="stable")):
        kept = dict.fromkeys(tuple(picks[t, h]) for h in order if np.isfinite(costs[t, h]))
        for k, combination in enumerate(list(kept)[:CANDIDATES]):
            out[t, k] = combination
    return out


def _smoothest_path(candidates: Picks, costs: Float64, people: list[Float64]) -> Picks:
    """(frames, views): the sequence of candidates (frames, candidates, views) of least cost plus movement (Viterbi).

    Frames without a candidate are nobody's and are stepped over, so that the person is found again behind them.
    """
    live = np.flatnonzero(np.isfinite(costs).any(1))
    out = np.full((len(costs), candidates.shape[2]), -1)
    if not len(live):
        return out
    total, origins = costs[live[0]], []
    for before, now in pairwise(live):
        reached = total[:, None] + _movement(candidates[before], candidates[now], [(p[before], p[now]) for p in people])
        origins.append(reached.argmin(0))
        total = reached.min(0) + costs[now]
    state = int(total.argmin())
    for t, origin in zip(live[:0:-1], origins[::-1], strict=True):
        out[t] = candidates[t, state]
        state = int(origin[state])
    out[live[0]] = candidates[live[0], state]
    return out


def _movement(before: Picks, now: Picks, people: Sequence[tuple[Float64, Float64]]) -> Float64:
    """(candidates before, candidates now) mean shift over views, in the unit of the costs."""
    shifts = []
    for v, (then, here) in enumerate(people):
        # one row and column more for nobody, where index -1 lands
        table = np.full((len(then) + 1, len(here) + 1), UNSEEN_SHIFT)
        table[:-1, :-1] = _relative_shift(then, here)
        table[-1, -1] = 0
        shifts.append(table[before[:, v][:, None], now[:, v][None]])
    return np.asarray(RESIDUAL_LIMIT_MRAD * np.mean(shifts, axis=0))


def _relative_shift(then: Float64, here: Float64) -> Float64:
    """(people then, people here) median joint shift in sizes of the person, at most 1."""
    shift = median(np.linalg.norm(then[:, None, :, :2] - here[None, :, :, :2], axis=-1))
    return np.minimum(shift / np.maximum(sizes(then)[:, None], 1.0), 1.0)


def sizes(people: Float64) -> Float64:
    """(..., people) diagonal in pixels of the box around the joints, 0 where nothing is seen."""
    seen = people[..., 2:] > 0
    high = np.where(seen, people[..., :2], -np.inf).max(-2)
    low = np.where(seen, people[..., :2], np.inf).min(-2)
    return np.asarray(np.linalg.norm(np.maximum(high - low, 0), axis=-1), np.float64)


def _gather(people: list[Float64], picks: Picks) -> Float64:
    """(views, frames, joints, 3) of the picked people; NaN, NaN, 0 for nobody."""
    frames = np.arange(len(picks))
    chosen = np.stack([view[frames, picks[:, v]] for v, view in enumerate(people)])
    chosen[picks.T < 0] = (np.nan, np.nan, 0)
    return chosen


def count_views(session: Session, present: Picks, taken: Picks) -> tuple[ViewSelection, ...]:
    """Count what became of the detections of each view.

    present (views, frames): how many people it saw; taken (views, frames): how many of them are in this session, or in
    another one made of the same recording.
    """
    residuals = np.full(session.keypoints.shape[:3], np.nan)
    if session.cameras is not None and len(session.cameras) > 1:
        residuals = triangulate(session.keypoints, session.cameras)[1]
    counts = []
    for v, name in enumerate(session.camera_names):
        seen = np.any(session.keypoints[v, ..., 2] > 0, axis=-1)
        finite = residuals[v][np.isfinite(residuals[v])]
        counts.append(
            ViewSelection(
                name=name,
                frames=session.keypoints.shape[1],
                crowded_frames=int((present[v] > 1).sum()),
                discarded=int(present[v].sum() - taken[v].sum()),
                missing_frames=int((~seen).sum()),
                residual_px=float(np.median(finite)) if finite.size else float("nan"),
            )
        )
    return tuple(counts)
