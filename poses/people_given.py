"""Detections given to bodies that are known or expected, frame by frame: each view's that fits best, if views agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgelift.poses.cameras import Camera, Float64, triangulate
from edgelift.poses.people_tracks import Flags, Sightings, take
from edgelift.poses.recordings import BLOCK, RESIDUAL_LIMIT_MRAD, Picks, median, person_residual

BRIDGE_S = 1.0  # gaps of a body so long are searched for it at the end, between where it is known


def give_out(
    views: Sequence[Sightings], cameras: Sequence[Camera], bodies: list[Float64], interval: float
) -> list[Picks]:
    """Give every detection to the body that it fits; (frames, views) detections for each body."""
    guessed = [_bridge(body, max(1, round(BRIDGE_S / interval))) for body in bodies]
    blocks = [slice(start, start + BLOCK) for start in range(0, len(views[0].first) - 1, BLOCK)]
    found = [_give_block(views, cameras, [body[block] for body in guessed], block) for block in blocks]
    return [np.concatenate(picks) for picks in zip(*found, strict=True)]


def _bridge(body: Float64, most: int) -> Float64:
    """(frames, joints, 3) with gaps of at most so many frames filled linearly, each joint on its own."""
    out: Float64 = body.copy()
    for joint in range(body.shape[1]):
        known = np.flatnonzero(np.isfinite(body[:, joint, 0]))
        if len(known) < 2:
            continue
        at = np.arange(known[0], known[-1] + 1)
        after = np.searchsorted(known, at)
        near = known[after] - known[np.maximum(after - 1, 0)] <= most + 1
        for axis in range(3):
            out[at[near], joint, axis] = np.interp(at[near], known, body[known, joint, axis])
    return out


def _give_block(
    views: Sequence[Sightings], cameras: Sequence[Camera], bodies: list[Float64], block: slice
) -> list[Picks]:
    frames = np.arange(len(bodies[0]))
    picks = np.full((len(bodies), len(frames), len(views)), -1)
    here = [b for b, body in enumerate(bodies) if np.isfinite(body).any()]
    for v, (view, camera) in enumerate(zip(views, cameras, strict=True)):
        first = view.first[block.start : block.start + len(frames) + 1]
        slots = first[:-1, None] + np.arange(max(1, int(np.diff(first).max())))
        slots = np.where(slots < first[1:, None], slots, -1)
        if here:
            sights = take(view, slots)
            chosen = pair_off(np.stack([person_residual(bodies[b], sights, camera) for b in here]), RESIDUAL_LIMIT_MRAD)
            picks[here, :, v] = np.where(chosen >= 0, slots[frames, chosen], -1)
    return [agreeing(own, views, cameras)[0] for own in picks]


def pair_off(residual: Float64, limit: float) -> Picks:
    """(bodies, frames): of residual (bodies, frames, detections) the detection of each body, -1 for none.

    The best pair of a frame first, then the best of who is left, as far as the limit.
    """
    left = np.where(residual <= limit, residual, np.inf)
    chosen = np.full(residual.shape[:2], -1)
    frames = np.arange(residual.shape[1])
    for _ in range(min(residual.shape[0], residual.shape[2])):
        flat = left.transpose(1, 0, 2).reshape(len(frames), -1)
        body, detection = np.divmod(flat.argmin(1), residual.shape[2])
        found = np.isfinite(flat.min(1))
        if not found.any():
            break
        chosen[body[found], frames[found]] = detection[found]
        left[body[found], frames[found]] = np.inf
        left[:, frames[found], detection[found]] = np.inf
    return chosen


def agreeing(picks: Picks, views: Sequence[Sightings], cameras: Sequence[Camera]) -> tuple[Picks, Float64]:
    """Drop from picks (n, views) the view that fits worst, again and again, until all agree; at least two do.

    Returns picks and points (n, joints, 3), NaN where too few agree.
    """
    picks = picks.copy()
    points = np.full((len(picks), *views[0].sights.shape[1:]), np.nan)
    open_ = np.arange(len(picks))
    while True:
        open_ = open_[(picks[open_] >= 0).sum(1) >= 2]
        sights = np.stack([take(view, picks[open_, v]) for v, view in enumerate(views)])
        found, misfit = _fit(sights, cameras)
        agreed = misfit.max(0) <= RESIDUAL_LIMIT_MRAD
        points[open_[agreed]] = found[agreed]
        if agreed.all():
            break
        open_ = open_[~agreed]
        picks[open_, misfit[:, ~agreed].argmax(0)] = -1
    picks[~comparable(points)] = -1
    return picks, points


def _fit(sights: Float64, cameras: Sequence[Camera]) -> tuple[Float64, Float64]:
    """Triangulate sights (views, n, joints, 3): points, and the residual (views, n) in mrad.

    The residual is infinite where a view shares too little with the others, minus infinite where it sees nobody.
    """
    points, apart = triangulate(sights, cameras)
    there = (sights[..., 2] > 0).any(-1)
    return points, np.where(there, 1000 * median(apart), -np.inf)


def comparable(points: Float64) -> Flags:
    """(frames,) whether enough joints of a body are known to compare it."""
    return np.isfinite(median(points[..., 0]))
