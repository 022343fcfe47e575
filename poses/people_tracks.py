"""What one view saw of several people: detections in the order of time, joined to tracks where nobody else is meant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.recordings import BLOCK, Picks, View, median, sizes, to_rays
from edgelift.poses.sessions import clean_keypoints
from edgelift.poses.skeletons import Skeleton, check_joints

# tracks: distances in sizes of the person
GAP_S = 0.25  # a track goes on behind so long a gap
STEP, PACE, MOST_STEP = 0.05, 2.0, 0.25  # how far on the next detection may be: at once, more by the second, at most
RIVAL = 2.0  # whoever else might be meant is so many times as far, or the track ends

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sightings:
    """All detections of one view in the order of time, n in all.

    frame (n,): of the common timeline. first (frames + 1,): those of frame t are first[t] to first[t + 1]. sights
    float32 (n, joints, 3): rays x/z, y/z and confidence, missing NaN, NaN, 0. track (n,): a number, the same for those
    that are most likely one person's.
    """

    frame: Picks
    first: Picks
    sights: NDArray[np.float32]
    track: Picks


def sightings(view: View, rows: Picks, skeleton: Skeleton, camera: Camera, interval: float) -> Sightings:
    """Return all that a view saw, its tracks numbered.

    rows (frames,): the view's own frame at each of the common timeline, -1 for none; interval: seconds between these.
    EdgeliftError where people have other joints than the skeleton.
    """
    frame, keypoints = flatten(view, rows, skeleton)
    sights = to_rays(keypoints, camera)
    sights[~np.isfinite(sights).all(-1)] = (np.nan, np.nan, 0)
    first = np.searchsorted(frame, np.arange(len(rows) + 1))
    return Sightings(frame, first, sights.astype(np.float32), _tracks(first, keypoints, interval))


def flatten(view: View, rows: Picks, skeleton: Skeleton) -> tuple[Picks, NDArray[np.float32]]:
    """Frames (n,) and raw keypoints (n, joints, 3) of all detections in which anything is seen."""
    used = [view.people[row] for row in rows if row >= 0]
    frame = np.repeat(np.flatnonzero(rows >= 0), [len(people) for people in used])
    for people in used:
        check_joints(people, skeleton)
    keypoints = clean_keypoints(np.concatenate([np.empty((0, len(skeleton.joints), 3)), *used]))
    seen = (keypoints[..., 2] > 0).any(-1)
    return frame[seen], keypoints[seen]


def _tracks(first: Picks, keypoints: NDArray[np.float32], interval: float) -> Picks:
    """(n,) numbers of tracks: detections follow each other where they are near and nobody else could be meant."""
    ends, begins = np.ones((2, len(keypoints)), bool)
    before = np.arange(len(keypoints))  # itself: a track begins
    for gap in range(1, max(1, round(GAP_S / interval)) + 1):
        then, now = _steps(first, gap, ends, begins)
        shift = _shifts(keypoints, then, now)
        sure = shift <= min(STEP + PACE * gap * interval, MOST_STEP)
        sure &= _unrivalled(then, shift) & _unrivalled(now, shift) & ends[then] & begins[now]
        before[now[sure]] = then[sure]
        ends[then[sure]] = begins[now[sure]] = False
    while ((earlier := before[before]) != before).any():
        before = earlier
    return before


def _steps(first: Picks, gap: int, ends: Flags, begins: Flags) -> tuple[Picks, Picks]:
    """Every detection and every one that is `gap` frames later, where the one is an end or the other a beginning."""
    count = np.diff(first)
    then_count, now_count = count[:-gap], count[gap:]
    both = then_count * now_count
    frame = np.repeat(np.arange(len(both)), both)
    within = np.arange(both.sum()) - np.repeat(np.cumsum(both) - both, both)
    then, now = first[frame] + within // now_count[frame], first[frame + gap] + within % now_count[frame]
    used = ends[then] | begins[now]
    return then[used], now[used]


def _shifts(keypoints: NDArray[np.float32], then: Picks, now: Picks) -> Float64:
    """(pairs,) median joint distance in sizes of the person, infinite where too few joints are shared."""
    out = np.empty(len(then))
    for start in range(0, len(then), 16 * BLOCK):
        part = slice(start, start + 16 * BLOCK)
        before, after = keypoints[then[part]].astype(np.float64), keypoints[now[part]]
        apart = median(np.linalg.norm(before[..., :2] - after[..., :2], axis=-1))
        out[part] = apart / np.maximum(sizes(before), 1.0)
    return out


def _unrivalled(owner: Picks, shift: Float64) -> Flags:
    """(steps,) whether a step is its owner's shortest one, by RIVAL."""
    order = np.lexsort((shift, owner))
    owner, shift = owner[order], shift[order]
    shortest = np.append(True, owner[1:] != owner[:-1])[: len(owner)]
    second = np.append(np.where(shortest[1:], np.inf, shift[1:]), np.inf)[: len(owner)]
    out = np.zeros(len(owner), bool)
    out[order] = shortest & (second >= RIVAL * shift)
    return out


def take(view: Sightings, picks: Picks) -> Float64:
    """(..., joints, 3) sights of picked detections, missing where a pick is -1."""
    inside = picks >= 0
    out = np.full((*picks.shape, *view.sights.shape[1:]), np.nan)
    out[..., 2] = 0
    out[inside] = view.sights[picks[inside]]
    return out
