"""From sightings to a first rig: relative poses of view pairs, a tree of the surest, and joints that views agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.bundle import ALONE, Bools, Cameras, Float64, Sightings, adjust
from edgelift.calibration.essential import RelativePose, depths, homogeneous, relative_pose
from edgelift.poses.cameras import Camera, camera_to_world, project, rays, world_to_camera
from edgelift.poses.errors import EdgeliftError

LEAST_SHARED = 60  # joints at moments that two views must share to be compared
THINNED = 1000  # points that a first rig is adjusted with
SCALED = 1000  # points for each camera that stands, by which the distance of the next is found
LEAST_PAIRS = 6  # of views, whose rays are crossed to find a joint; as many as views, where those are more
LEAST_CROSSING = 0.03  # squared sine of the angle between two rays (10 degrees) below which they place nothing
PARTNERS = 5  # of each view, that it is compared with
PROPOSALS = 3  # of its surest partners, of where a camera stands
BEGINNINGS, COMPARED = 3, 4  # pairs that a rig is begun with; cameras until the best of them is chosen
FAR_PX = 100.0  # views that disagree by more do not say by how much
UNSURE = 6.0  # scales within which views agree on a joint to begin with

Standing = dict[int, Camera]


def first_rig(sightings: Sightings, cameras: Cameras, rng: np.random.Generator) -> tuple[Camera, ...]:
    """Place cameras of known intrinsics, in no particular world and size; poses of `cameras` are not read.

    Each of the surest pairs begins once, as two views alone may be ambiguous; the rig on which views agree best is
    kept. EdgeliftError where a camera shares too little with the others.
    """
    growth = Growth(sightings, cameras, rng)
    begun = [growth.until(growth.begun(pair), min(len(cameras), COMPARED)) for pair in growth.surest_pairs()]
    best = min(begun, key=growth.disagreement) if len(begun) > 1 else begun[0]
    stands = growth.until(best, len(cameras))
    return tuple(stands[v] for v in range(len(cameras)))


def disagreement(s: Sightings, cameras: Cameras) -> float:
    """Mean distance in pixels of what is seen from where views agree, at most that of a person's width."""
    sample = np.linspace(0, s.seen.shape[1] - 1, min(THINNED, s.seen.shape[1])).astype(int)
    s = s.take(sample)
    return _miss(s, cameras, crossed_points(s, cameras)[0])


def _miss(s: Sightings, cameras: Cameras, points: Float64) -> float:
    """Mean distance in pixels, cut off, of what cameras saw from where joints are; infinite where they saw nothing."""
    distances = _Crossing(s, cameras, np.empty(0), s.seen).distances(points)
    return float(np.minimum(distances[s.seen], FAR_PX).mean()) if s.seen.any() else np.inf


class Growth:
    """A rig that grows, camera by camera: which of them stand, and where.

    relative: of pairs of views (each way), where the second stands as the first one sees it, one unit away.
    """

    def __init__(self, sightings: Sightings, cameras: Cameras, rng: np.random.Generator) -> None:
        self.s, self.cameras, self.rng = sightings, cameras, rng
        self.ideal = np.stack([rays(k, c) for k, c in zip(sightings.keypoints, cameras, strict=True)])
        self.seen = sightings.seen & np.isfinite(self.ideal).all(-1)
        self.relative: dict[tuple[int, int], RelativePose] = {}
        for a, b in self._partners():
            both = rng.permutation(np.flatnonzero(self.seen[a] & self.seen[b]))[: 2 * THINNED]
            pose = relative_pose(self.ideal[a, both], self.ideal[b, both], rng)
            if pose is not None:
                self.relative[a, b] = pose
                self.relative[b, a] = RelativePose(pose.R.T, -pose.R.T @ pose.t, pose.doubt, pose.misfit)

    def _partners(self) -> list[tuple[int, int]]:
        """Pairs of views to compare: each with those that it shares most joints with, so not all of a large rig."""
        seen = self.seen.astype(np.float32)
        shared = seen @ seen.T
        np.fill_diagonal(shared, 0)
        chosen = set()
        for a, row in enumerate(shared):
            for b in np.argsort(-row, kind="stable")[:PARTNERS]:
                if row[b] >= LEAST_SHARED:
                    chosen.add((min(a, int(b)), max(a, int(b))))
        return sorted(chosen)

    def surest_pairs(self) -> list[tuple[int, int]]:
        """The pairs to begin with; EdgeliftError where there is none."""
        pairs = sorted((p for p in self.relative if p[0] < p[1]), key=lambda p: self.relative[p].doubt)
        if not pairs:
            raise self._lonely(range(len(self.cameras)))
        return pairs[: BEGINNINGS if len(self.cameras) > 2 else 1]

    def begun(self, pair: tuple[int, int]) -> Standing:
        """The first two cameras, one unit apart."""
        a, b = pair
        pose = self.relative[pair]
        return {
            a: replace(self.cameras[a], R=np.eye(3), t=np.zeros(3)),
            b: replace(self.cameras[b], R=pose.R, t=pose.t),
        }

    def until(self, stands: Standing, count: int) -> Standing:
        """Add cameras, at most as many at a time as stand, and adjust all, until so many stand."""
        while len(stands) < count:
            joining = self._joining(stands)[: min(len(stands) - 1, count - len(stands)) or 1]
            several = self.rng.permutation(np.flatnonzero(self.seen.sum(0) >= 2))[: SCALED * len(stands)]
            order = sorted(stands)
            points = crossed_points(self.s.views(order).take(several), [stands[v] for v in order])[0]
            placed = {new: self._placed(stands, nears, new, points, several) for new, nears in joining}
            stands = stands | placed
            order = sorted(stands)
            better = _settled(self.s.views(order), [stands[v] for v in order], self.rng)
            stands = dict(zip(order, better, strict=True))
        return stands

    def _joining(self, stands: Standing) -> list[tuple[int, list[int]]]:
        """Each camera that could join with those that stand beside it, the surest first in both."""
        beside: dict[int, list[int]] = {}
        for near, new in sorted(self.relative, key=lambda pair: self.relative[pair].doubt):
            if near in stands and new not in stands:
                beside.setdefault(new, []).append(near)
        if not beside:
            raise self._lonely([v for v in range(len(self.cameras)) if v not in stands])
        return list(beside.items())

    def _placed(
        self, stands: Standing, nears: Sequence[int], new: int, points: Float64, several: NDArray[np.intp]
    ) -> Camera:
        """Place a camera by the pair whose pose shows it the joints nearest to where it saw them.

        A pair that is sure of itself may be wrong all the same: of two cameras that face each other, with the person
        between them, one behind the other is nearly as likely.
        """
        found = [self._beside(stands[near], near, new, points, several) for near in nears[:PROPOSALS]]
        own = self.s.views([new]).take(several)
        return min(found, key=lambda camera: _miss(own, [camera], points))

    def _beside(self, beside: Camera, near: int, new: int, points: Float64, several: NDArray[np.intp]) -> Camera:
        pose = self.relative[near, new]
        scale = self._scale(points, several, beside, near, new)
        return replace(self.cameras[new], R=pose.R @ beside.R, t=pose.R @ beside.t + scale * pose.t)

    def _lonely(self, views: Sequence[int]) -> EdgeliftError:
        return EdgeliftError(
            f"camera {', '.join(self.cameras[v].name for v in views)}",
            "hardly a moment shared with the other cameras",
            f"{LEAST_SHARED} joints seen with another camera at the same time",
            "Record somebody who walks through the images of several cameras at once, or leave the camera out.",
        )  # fmt: skip

    def _scale(self, points: Float64, several: NDArray[np.intp], beside: Camera, near: int, new: int) -> float:
        """How far a camera is from its neighbour: depths of joints by those that stand over those of the pair.

        1 where none are shared, which the adjustment then has to mend.
        """
        shared = self.seen[near, several] & self.seen[new, several] & np.isfinite(points).all(-1)
        pose, which = self.relative[near, new], several[shared]
        stands = world_to_camera(points[shared], beside)[:, 2]
        units = depths(pose.R, pose.t, self.ideal[near, which], self.ideal[new, which])[0]
        ratio = stands / np.where(units > 0, units, np.nan)
        ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
        return float(np.median(ratio)) if len(ratio) else 1.0

    def disagreement(self, stands: Standing) -> float:
        """Of the cameras that stand, in pixels."""
        order = sorted(stands)
        return disagreement(self.s.views(order), [stands[v] for v in order])


def _settled(s: Sightings, cameras: Cameras, rng: np.random.Generator) -> tuple[Camera, ...]:
    """Adjust turns and centres on some of the points."""
    several = np.flatnonzero(s.seen.sum(0) >= 2)
    # those that most views share bind them best
    order = several[np.argsort(-s.seen[:, several].sum(0) - rng.random(len(several)))][:THINNED]
    thinned = s.take(order)
    points, counted = crossed_points(thinned, cameras)
    use = np.flatnonzero(counted.any(0))
    if len(use) < LEAST_SHARED // 4:
        return tuple(cameras)
    return adjust(thinned.take(use), cameras, points[use], counted[:, use], ALONE, rounds=4).cameras


def crossed_points(s: Sightings, cameras: Cameras, limit_px: float | None = None) -> tuple[Float64, Bools]:
    """Return the points (points, 3) on which most views agree, NaN where none do, and the observations that agree.

    Every pair of views proposes the place where its rays cross, and what all views say of it, cut off at the limit, is
    its cost: outliers of a minority of views change nothing. limit_px: what counts as agreement; by default UNSURE
    times the scale of the residuals that are found so.
    """
    ideal = np.stack([rays(k, c) for k, c in zip(s.keypoints, cameras, strict=True)])
    seen = s.seen & np.isfinite(ideal).all(-1)
    pairs = _widest_pairs(cameras)
    if limit_px is None:
        sample = np.linspace(0, s.seen.shape[1] - 1, min(THINNED, s.seen.shape[1])).astype(int)
        some = _Crossing(s.take(sample), cameras, ideal[:, sample], seen[:, sample])
        distance = some.distances(some.best(pairs, np.inf))
        known = distance[np.isfinite(distance)]
        limit_px = UNSURE * float(np.median(known)) / 1.18 + 1.0 if len(known) else np.inf
    crossing = _Crossing(s, cameras, ideal, seen)
    points = crossing.best(pairs, limit_px)
    agreed: Bools = np.asarray(crossing.distances(points) <= limit_px)
    agreed &= agreed.sum(0) >= 2
    points[~agreed.any(0)] = np.nan
    return points, agreed


def _widest_pairs(cameras: Cameras) -> list[tuple[int, int]]:
    """Pairs of views, those whose axes cross at about a right angle first; of each view some, where there are many."""
    pairs = sorted(combinations(range(len(cameras)), 2), key=lambda p: abs(cameras[p[0]].R[2] @ cameras[p[1]].R[2]))
    most = max(LEAST_PAIRS, len(cameras))
    share, taken = -(-2 * most // len(cameras)), dict.fromkeys(range(len(cameras)), 0)
    chosen = []
    for a, b in pairs:
        if taken[a] < share and taken[b] < share:
            chosen.append((a, b))
            taken[a], taken[b] = taken[a] + 1, taken[b] + 1
    return chosen


class _Crossing:
    """Points proposed by pairs of views, judged by all of them."""

    def __init__(self, s: Sightings, cameras: Cameras, ideal: Float64, seen: Bools) -> None:
        self.s, self.cameras, self.ideal, self.seen = s, cameras, ideal, seen

    def best(self, pairs: Sequence[tuple[int, int]], limit_px: float) -> Float64:
        count = self.seen.shape[1]
        cost, points = np.full(count, np.inf), np.full((count, 3), np.nan)
        for a, b in pairs:
            here = np.flatnonzero(self.seen[a] & self.seen[b])
            proposed = _between(self.ideal[a, here], self.ideal[b, here], self.cameras[a], self.cameras[b])
            if np.isinf(limit_px):  # nothing is known of the noise yet: the median view decides
                own = _median_of_views(self.distances(proposed, here))
            else:
                off = np.minimum(self.distances(proposed, here), limit_px)
                own = np.where(self.seen[:, here], off**2, 0).sum(0)
            own = np.where(np.isfinite(proposed[:, 0]), own, np.inf)
            better = own < cost[here]
            cost[here[better]], points[here[better]] = own[better], proposed[better]
        return points

    def distances(self, points: Float64, here: NDArray[np.intp] | slice = slice(None)) -> Float64:
        """(views, n) pixels from what is seen; infinite where a view does not see it or has it behind."""
        out = []
        for v, camera in enumerate(self.cameras):
            with np.errstate(over="ignore", invalid="ignore"):  # a point may be anywhere
                off = np.linalg.norm(project(points, camera) - self.s.keypoints[v, here], axis=-1)
            out.append(np.where(self.seen[v, here] & np.isfinite(off), off, np.inf))
        return np.stack(out)


def _median_of_views(distances: Float64) -> Float64:
    ordered = np.sort(distances, axis=0)
    known = np.isfinite(ordered).sum(0)
    return np.asarray(np.take_along_axis(ordered, np.maximum(known - 1, 0)[None] // 2, 0)[0])


def _between(first: Float64, second: Float64, a: Camera, b: Camera) -> Float64:
    """(n, 3) points halfway between two rays where they are nearest; NaN behind a camera, or along each other."""
    R = b.R @ a.R.T
    depth = depths(R, b.t - R @ a.t, first, second, LEAST_CROSSING)[..., None]
    depth = np.where((depth > 0).all(0), depth, np.nan)
    one = camera_to_world(homogeneous(first) * depth[0], a)
    two = camera_to_world(homogeneous(second) * depth[1], b)
    return np.asarray((one + two) / 2)
