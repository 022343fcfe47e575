"""Who is who in one camera's stream, from frame to frame: ids, and sides that a detector took for one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.skeletons import Skeleton
from edgelift.runtime.frames import Float32

SwapPolicy = Literal["mend", "flag", "ignore"]

FORGET_S = 1.0  # who was not seen for so long is somebody new
# of a joint's position in units of the square root of a person's area: COCO's constants for object keypoint similarity
OKS_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
    "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
OTHER_SIGMA = 0.08
MOST_PEOPLE = 64  # of one stream who are remembered at once: a detector may find somebody new in every frame
LEAST_S = 0.01
LEAST_OKS = 0.3  # usual for tracking (mmpose); a person who walks is at 0.7 from frame to frame at 30 Hz
LEAST_PAIRS = 3  # of left and right joints that must be seen to tell sides
LEAST_APART = 0.04  # mean distance of left from right, in diagonals of the person: side-on, sides cannot be told
LEAST_EVIDENCE = 0.4  # of 1, where everything speaks for a swap; -1: everything against it
UNCLEAR_S = 0.2  # how long frames that are neither are compared with what was before them
BELIEVE_S = 1.0  # a detector that keeps to its sides for so long is right, and the track was wrong


@cache
def _sigmas(skeleton: Skeleton) -> NDArray[np.float64]:
    def of(joint: str) -> float:
        return next((sigma for word, sigma in OKS_SIGMAS.items() if word in joint), OTHER_SIGMA)

    return np.array([of(joint) for joint in skeleton.joints])


@cache
def _spread(skeleton: Skeleton) -> NDArray[np.float64]:
    """What a squared distance over the person's area is divided by, of each joint."""
    return np.asarray(2 * (2 * _sigmas(skeleton)) ** 2)


def oks(then: Float32, now: Float32, skeleton: Skeleton) -> NDArray[np.float64]:
    """Object keypoint similarity of people then (n, joints, 3) and now (m, joints, 3), pixels: (n, m) in [0, 1].

    A missing joint is NaN, NaN, 0. Over the joints that both have; 0 where there is none. The area is that of the box
    around the earlier person, at least a quarter of its longer side squared (Ronchi & Perona 2017, as COCO evaluates;
    sigma doubled there too).
    """
    was, now = then[..., :2].astype(np.float64), now[..., :2].astype(np.float64)
    sides = np.fmax.reduce(was, 1) - np.fmin.reduce(was, 1)  # unlike nanmax, without a word where all is missing
    area = np.maximum(np.maximum(sides[:, 0] * sides[:, 1], 0.25 * np.maximum.reduce(sides, 1) ** 2), 1.0)
    away = was[:, None] - now
    similar = np.exp(-(away[..., 0] ** 2 + away[..., 1] ** 2) / (area[:, None, None] * _spread(skeleton)))
    seen = similar == similar  # not NaN
    return np.asarray(np.add.reduce(similar, -1, where=seen) / np.maximum(np.add.reduce(seen, -1), 1))


def remembered(shown: int) -> int:
    """How many people of a stream are remembered, where a frame shows so many."""
    return max(MOST_PEOPLE, 2 * shown)


@cache
def _mirror(skeleton: Skeleton) -> NDArray[np.intp]:
    return np.array(skeleton.mirror)


@dataclass(eq=False)
class _Track:
    number: int
    keypoints: Float32
    velocity: NDArray[np.float64]
    seen_s: float


class Tracker:
    """Ids for people of a stream that has none: greedy by OKS with where each was, at its own velocity.

    Remembers MOST_PEOPLE at once, or twice as many as a frame shows.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.tracks: list[_Track] = []
        self.next_number = 0

    def assign(self, keypoints: Float32, at_s: float) -> tuple[int, ...]:
        """Return an id for each of the people (n, joints, 3) of a frame; a new one for who is like nobody before."""
        self.tracks = [track for track in self.tracks if at_s - track.seen_s <= FORGET_S]
        chosen = self._match(keypoints, at_s)
        numbers = tuple(
            self._go_on(chosen[k], person, at_s) if k in chosen else self._begin(person, at_s)
            for k, person in enumerate(keypoints)
        )
        if len(self.tracks) > remembered(len(numbers)):
            self.tracks = sorted(self.tracks, key=lambda track: track.seen_s)[-remembered(len(numbers)) :]
        return numbers

    def _match(self, keypoints: Float32, at_s: float) -> dict[int, _Track]:
        if not self.tracks or not len(keypoints):
            return {}
        expected = np.array([track.keypoints for track in self.tracks])
        expected[..., :2] += np.array([track.velocity * (at_s - track.seen_s) for track in self.tracks])[:, None]
        mirrored = keypoints[:, _mirror(self.skeleton)]  # who swaps sides is still the same person
        similar = oks(expected, np.concatenate((keypoints, mirrored)), self.skeleton)
        similar = np.maximum(similar[:, : len(keypoints)], similar[:, len(keypoints) :])
        chosen: dict[int, _Track] = {}
        while similar.size and similar.max() >= LEAST_OKS:
            track, person = divmod(int(similar.argmax()), similar.shape[1])
            chosen[person] = self.tracks[track]
            similar[track] = similar[:, person] = -1
        return chosen

    def _go_on(self, track: _Track, keypoints: Float32, at_s: float) -> int:
        since = at_s - track.seen_s
        moved = keypoints[:, :2] - track.keypoints[:, :2]
        moved.sort(axis=0)  # NaN, what either lacks, comes last; np.median takes five times as long
        known = len(moved) - int(np.isnan(moved[:, 0]).sum())
        if known and since > 0:
            # over less time than LEAST_S noise would be taken for a run
            median = 0.5 * (moved[(known - 1) // 2] + moved[known // 2]) / max(since, LEAST_S)
            track.velocity = 0.5 * track.velocity + 0.5 * median  # halfway: detectors jitter
        track.keypoints, track.seen_s = keypoints.copy(), at_s
        return track.number

    def _begin(self, keypoints: Float32, at_s: float) -> int:
        track = _Track(self.next_number, keypoints.copy(), np.zeros(2), at_s)
        self.tracks.append(track)
        self.next_number += 1
        return track.number


@dataclass(eq=False)
class Sides:
    """Which side is left, of one person: detectors exchange left and right of the whole body for frames on end.

    A person does not: left and right joints go on where they were. So each frame is compared with the last one, as it
    was mended. Side-on, nothing can be told and the detector is believed; after BELIEVE_S it is believed as well, so
    that a track that began with the wrong sides gets well again.
    """

    skeleton: Skeleton
    last: Float32 | None = None
    last_s: float = 0.0
    swapped_since: float | None = None

    def swapped(self, keypoints: Float32, at_s: float) -> bool:
        """Whether left and right of keypoints (joints, 3) are exchanged; keeps them, mended, for the next frame."""
        evidence = 0.0
        if self.last is not None and at_s - self.last_s <= FORGET_S:
            evidence = swap_evidence(self.last, keypoints, self.skeleton)
        if 0 < abs(evidence) < LEAST_EVIDENCE and at_s - self.last_s <= UNCLEAR_S:
            return self.swapped_since is not None  # half exchanged: nothing to compare the next frame with
        swapped = evidence > LEAST_EVIDENCE
        if swapped and self.swapped_since is not None and at_s - self.swapped_since > BELIEVE_S:
            swapped = False
        self.swapped_since = None if not swapped else at_s if self.swapped_since is None else self.swapped_since
        self.last = keypoints[_mirror(self.skeleton)] if swapped else keypoints
        self.last_s = at_s
        return swapped


@cache
def _pairs(skeleton: Skeleton) -> tuple[list[int], list[int]]:
    left = [j for j, name in enumerate(skeleton.joints) if name.startswith("left_")]
    return left, [skeleton.mirror[j] for j in left]


def swap_evidence(then: Float32, now: Float32, skeleton: Skeleton) -> float:
    """How much speaks for sides that were exchanged between two frames of a person (joints, 3): -1 to 1, 0 unknown.

    Were they, then left joints lie where right ones were: with left and right `apart` by d, same joints move 2 d a pair
    and opposite ones 0. The difference is divided by what it would be.
    """
    left, right = _pairs(skeleton)
    old_l, old_r, new_l, new_r = (_places(person, side) for person in (then, now) for side in (left, right))
    # rows: same joints, opposite joints, left to right; a missing joint is NaN in its whole column
    moved = np.abs(np.array([old_l - new_l, old_r - new_r, old_l - new_r, old_r - new_l, old_l - old_r]))
    known = np.isfinite(moved).all(0)
    pairs = int(known.sum())
    if pairs < LEAST_PAIRS:
        return 0.0
    same_l, same_r, crossed_l, crossed_r, apart = (moved if pairs == len(left) else moved[:, known]).sum(1).tolist()
    evidence = (same_l + same_r - crossed_l - crossed_r) / max(2 * apart, 1e-9)
    if evidence > -LEAST_EVIDENCE and apart < LEAST_APART * pairs * _diagonal(then):
        return 0.0
    return float(evidence)


def _places(person: Float32, joints: list[int]) -> NDArray[np.complex64]:
    """Where joints are, as x + iy; NaN where they are missing."""
    picked = person[joints, :2]
    return picked.view(np.complex64)[:, 0]


def _diagonal(person: Float32) -> float:
    return float(np.hypot(*np.ptp(person[person[:, 2] > 0, :2], axis=0)))


def mirrored(keypoints: Float32, which: Sequence[bool], skeleton: Skeleton) -> Float32:
    """Return people with left and right exchanged where `which` says so."""
    if not any(which):
        return keypoints
    return np.where(np.asarray(which)[:, None, None], keypoints[:, _mirror(skeleton)], keypoints)
