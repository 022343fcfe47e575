"""From sightings to a first rig: relative poses of view pairs, a tree of the surest, and joints that views agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.bundle import ALONE, Bools, Cameras, Float64, Sightings, adjust
from edgelift.calibration.essential import RelativePose, depths, relative_pose
from edgelift.poses.cameras import Camera, denormalise, distort, rays
from edgelift.poses.errors import EdgeliftError

LEAST_SHARED = 60  # joints at moments that two views must share to be compared
THINNED = 1500  # points that a first rig is adjusted with
MOST_PAIRS = 40  # of views, whose rays are crossed to find a joint: more find no better ones
LEAST_CROSSING = 0.03  # squared sine of the angle between two rays (10 degrees) below which they place nothing
BEGINNINGS = 3  # pairs that a rig is begun with
FAR_PX = 100.0  # views that disagree by more do not say by how much
UNSURE = 6.0  # scales within which views agree on a joint to begin with


def first_rig(sightings: Sightings, cameras: Cameras, rng: np.random.Generator) -> tuple[Camera, ...]:
    """Place cameras of known intrinsics, in no particular world and size; poses of `cameras` are not read.

    Each of the surest pairs begins once, as two views alone may be ambiguous; the rig on which views agree best is
    kept. EdgeliftError where a camera shares too little with the others.
    """
    ideal = np.stack([rays(k, c) for k, c in zip(sightings.keypoints, cameras, strict=True)])
    seen = sightings.seen & np.isfinite(ideal).all(-1)
    relative = _relative_poses(ideal, seen, rng)
    pairs = sorted(relative, key=lambda pair: relative[pair].doubt)[:BEGINNINGS]
    if len(cameras) < 3 and pairs:
        return _grown(sightings, cameras, ideal, seen, relative, pairs[0], rng)
    rigs = [_grown(sightings, cameras, ideal, seen, relative, pair, rng) for pair in pairs or [(0, 0)]]
    return min(rigs, key=lambda rig: disagreement(sightings, rig))


def disagreement(s: Sightings, cameras: Cameras) -> float:
    """Mean distance in pixels of what is seen from where views agree, at most that of a person's width."""
    sample = np.linspace(0, s.seen.shape[1] - 1, min(THINNED, s.seen.shape[1])).astype(int)
    s = s.take(sample)
    points, _ = crossed_points(s, cameras)
    distances = _Crossing(s, cameras, np.empty(0), s.seen).distances(points)
    return float(np.minimum(distances[s.seen], FAR_PX).mean())


def _grown(
    sightings: Sightings,
    cameras: Cameras,
    ideal: Float64,
    seen: Bools,
    relative: dict[tuple[int, int], RelativePose],
    pair: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Camera, ...]:
    """Start with a pair, then add the camera that is surest relative to one that stands, and adjust, until all stand.

    A camera's distance from its neighbour is that at which the depths of joints agree.
    """
    a, b = pair
    placed = {a: replace(cameras[a], R=np.eye(3), t=np.zeros(3))}
    if a != b:
        placed[b] = replace(cameras[b], R=relative[pair].R, t=relative[pair].t)
    while len(placed) < len(cameras):
        near, new, pose = _surest(relative, placed, [c.name for c in cameras])
        R = pose.R @ placed[near].R
        scale = _scale(sightings, seen, ideal, placed, near, new, pose)
        placed[new] = replace(cameras[new], R=R, t=pose.R @ placed[near].t + scale * pose.t)
        order = sorted(placed)
        better = _settled(sightings.views(order), [placed[v] for v in order], rng)
        placed = dict(zip(order, better, strict=True))
    return tuple(placed[v] for v in range(len(cameras)))


def _relative_poses(ideal: Float64, seen: Bools, rng: np.random.Generator) -> dict[tuple[int, int], RelativePose]:
    found = {}
    for a, b in combinations(range(len(ideal)), 2):
        both = np.flatnonzero(seen[a] & seen[b])
        if len(both) >= LEAST_SHARED:
            both = rng.permutation(both)[: 2 * THINNED]
            pose = relative_pose(ideal[a, both], ideal[b, both], rng)
            if pose is not None:
                found[a, b] = pose
    return found


def _surest(
    relative: dict[tuple[int, int], RelativePose], placed: dict[int, Camera], names: Sequence[str]
) -> tuple[int, int, RelativePose]:
    """The surest pair of a camera that stands and one that does not, and how the latter stands to the former."""
    open_pairs = {}
    for (a, b), pose in relative.items():
        if (a in placed) != (b in placed):
            turned = RelativePose(pose.R.T, -pose.R.T @ pose.t, pose.doubt, pose.misfit)
            open_pairs[(a, b) if a in placed else (b, a)] = pose if a in placed else turned
    if not open_pairs:
        lonely = [name for v, name in enumerate(names) if v not in placed]
        raise EdgeliftError(
            f"camera {', '.join(lonely)}", "hardly a moment shared with the other cameras",
            f"{LEAST_SHARED} joints seen with another camera at the same time",
            "Record somebody who walks through the images of several cameras at once, or leave the camera out.",
        )  # fmt: skip
    (near, new), pose = min(open_pairs.items(), key=lambda item: item[1].doubt)
    return near, new, pose


def _scale(
    s: Sightings,
    seen: Bools,
    ideal: Float64,
    placed: dict[int, Camera],
    near: int,
    new: int,
    pose: RelativePose,
) -> float:
    """How far the new camera is from its neighbour: depths of joints by the standing cameras over those of the pair."""
    if len(placed) == 1:
        return 1.0
    order = sorted(placed)
    points, _ = crossed_points(s.views(order), [placed[v] for v in order])
    shared = np.flatnonzero(seen[near] & seen[new] & np.isfinite(points).all(-1))
    if len(shared) < LEAST_SHARED // 4:
        return 1.0
    stands = (points[shared] @ placed[near].R.T + placed[near].t)[:, 2]
    units = depths(pose.R, pose.t, ideal[near, shared], ideal[new, shared])[0]
    ratio = stands / np.where(units > 0, units, np.nan)
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.median(ratio)) if len(ratio) else 1.0


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
    return adjust(thinned.take(use), cameras, points[use], counted[:, use], ALONE, rounds=6).cameras


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
    if len(pairs) <= MOST_PAIRS:
        return pairs
    share, taken = 2 * MOST_PAIRS // len(cameras), dict.fromkeys(range(len(cameras)), 0)
    chosen = []
    for a, b in pairs:
        if taken[a] < share or taken[b] < share:
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
            local = points @ camera.R.T + camera.t
            with np.errstate(all="ignore"):
                pixels = denormalise(distort(local[:, :2] / local[:, 2:], camera.dist), camera.K)
                off = np.linalg.norm(pixels - self.s.keypoints[v, here], axis=-1)
            out.append(np.where(self.seen[v, here] & (local[:, 2] > 0) & np.isfinite(off), off, np.inf))
        return np.stack(out)


def _median_of_views(distances: Float64) -> Float64:
    ordered = np.sort(distances, axis=0)
    known = np.isfinite(ordered).sum(0)
    return np.asarray(np.take_along_axis(ordered, np.maximum(known - 1, 0)[None] // 2, 0)[0])


def _between(first: Float64, second: Float64, a: Camera, b: Camera) -> Float64:
    """(n, 3) points halfway between two rays where they are nearest; NaN behind a camera, or along each other."""
    one = np.concatenate([first, np.ones((len(first), 1))], 1) @ a.R
    two = np.concatenate([second, np.ones((len(second), 1))], 1) @ b.R
    apart = b.centre - a.centre
    aa, bb, ab = (one * one).sum(1), (two * two).sum(1), (one * two).sum(1)
    along, across = one @ apart, two @ apart
    determinant = aa * bb - ab**2
    with np.errstate(all="ignore"):
        near, far = (bb * along - ab * across) / determinant, (ab * along - aa * across) / determinant
    points = 0.5 * (a.centre + near[:, None] * one + b.centre + far[:, None] * two)
    points[~((near > 0) & (far > 0) & (determinant > LEAST_CROSSING * aa * bb))] = np.nan
    return np.asarray(points)
