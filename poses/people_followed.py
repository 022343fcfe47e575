"""People followed through time as bodies in the world: who is new is found among what is left, who is one is joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.people_found import Found, find
from edgelift.poses.people_given import agreeing, pair_off
from edgelift.poses.people_tracks import Flags, Sightings, take
from edgelift.poses.recordings import median, person_residual

EXPECTED_MRAD = 32.0  # what is farther from where somebody is expected, in the next frame, is not taken for them
COAST_S = 0.5  # so long somebody is expected where they would be if they went on as before
FOLLOW, SETTLE_S = 0.6, 0.1  # share of a step that a pose follows at once; seconds in which its velocity does
REACH_M, SPEED_M_S = 0.15, 1.5  # how far a body may be from where it was expected, and how fast from where it was lost
ABSENT_S = 2.0  # who is found again later than this is somebody else, unless a view followed them meanwhile
ASTRAY_S = 0.25  # so long before they are lost somebody may be followed wrongly
WINDOW_S, LEAST_WINDOW = 1.0, 5  # others are found in windows of so many seconds, or frames where the rate is low
SAME_M = 0.25  # bodies (median joint) nearer than this are one person


@dataclass(eq=False)
class _Person:
    """Somebody who is followed. pose (joints, 3) world metres and velocity (3,) m/s at the frame `last`.

    tracks: of each view the last one that was theirs. body: the joints in each frame in which two views agree. Who is
    followed back in time is one of these too: then `last` is the first frame, and the body is that of their own future.
    """

    pose: Float64
    velocity: Float64
    last: int
    tracks: dict[int, int]
    body: dict[int, Float64]

    def guess(self, frame: int, interval: float) -> Float64:
        """(joints, 3) where they are at a frame if they go on as before."""
        return np.asarray(self.pose + self.velocity * (frame - self.last) * interval)

    def see(self, points: Float64, frame: int, interval: float) -> None:
        """Note where they are, in a later frame than the last, or an earlier one for who is followed back."""
        guess, seconds = self.guess(frame, interval), (frame - self.last) * interval
        off = points - guess
        step = np.median(off[np.isfinite(off).all(-1)], axis=0)
        share = min(1.0, abs(seconds) / SETTLE_S)
        self.velocity = self.velocity + np.sign(seconds) * share * step / max(abs(seconds), SETTLE_S)
        pose = guess + FOLLOW * off
        self.pose = np.where(np.isfinite(pose), pose, np.where(np.isfinite(points), points, guess))
        self.last = frame
        self.body[frame] = points


def follow_all(views: Sequence[Sightings], cameras: Sequence[Camera], interval: float) -> list[dict[int, Float64]]:
    """Return everybody's body: in each frame in which two views agree, (joints, 3) world metres.

    Who is followed goes on from frame to frame; in every window others are found in what nobody took. Last all are
    followed back from where they were found, and those are joined who are one person.
    """
    frames, length = len(views[0].first) - 1, max(LEAST_WINDOW, round(WINDOW_S / interval))
    people: list[_Person] = []
    pasts: list[_Person] = []
    free = [np.ones(len(view.frame), bool) for view in views]
    for start in range(0, frames, length):
        window = range(start, min(start + length, frames))
        for frame in window:
            _follow(_near(people, frame, interval), frame, views, cameras, free, interval)
        for body in find(views, cameras, free, window):
            if all(_apart(other.body, body.body) > SAME_M for other in people):
                person = _admit(body, interval)
                people.append(person)
                pasts.append(replace(person, tracks=person.tracks.copy()))  # with the same body
                for frame in window:
                    _follow(_near([person], frame, interval), frame, views, cameras, free, interval)
    for frame in range(frames - 1, -1, -1):
        near = [past for past in _near(pasts, frame, -interval) if frame not in past.body]
        _follow(near, frame, views, cameras, free, interval)
    return _join(people, pasts, interval)


def _near(people: Sequence[_Person], frame: int, interval: float) -> list[_Person]:
    """Return those who were seen shortly before, or with a negative interval shortly after."""
    return [person for person in people if 0 < (frame - person.last) * interval <= COAST_S]


def _follow(
    near: Sequence[_Person],
    frame: int,
    views: Sequence[Sightings],
    cameras: Sequence[Camera],
    free: Sequence[Flags],
    interval: float,
) -> None:
    """Give the free detections of a frame to those whom they fit where they are expected."""
    if not near:
        return
    guesses = np.stack([person.guess(frame, interval) for person in near])
    picks = np.full((len(near), len(views)), -1)
    for v, (view, camera) in enumerate(zip(views, cameras, strict=True)):
        here = np.arange(view.first[frame], view.first[frame + 1])
        here = here[free[v][here]]
        if len(here):
            residual = person_residual(guesses, take(view, here[None]), camera)
            chosen = pair_off(residual[:, None], EXPECTED_MRAD)[:, 0]
            picks[:, v] = np.where(chosen >= 0, here[chosen], -1)
    picks, points = agreeing(picks, views, cameras)
    off = median(np.linalg.norm(points - guesses, axis=-1))
    for person, own, place, moved in zip(near, picks, points, off, strict=True):
        if moved <= REACH_M + SPEED_M_S * abs(frame - person.last) * interval:
            person.see(place, frame, interval)
            for w in np.flatnonzero(own >= 0).tolist():
                free[w][own[w]] = False
                person.tracks[w] = int(views[w].track[own[w]])


def _admit(found: Found, interval: float) -> _Person:
    """Return the person of a body where they are to be followed from, with the mean velocity of all its frames.

    That is the frame that shows most, of the middle half: tracks may begin or end at somebody else.
    """
    frames = sorted(found.body)
    points = np.stack([found.body[frame] for frame in frames])
    quarter, seconds = len(frames) // 4, (frames[-1] - frames[0]) * interval
    shown = np.isfinite(points[..., 0]).sum(1)
    best = quarter + int(np.argmax(shown[quarter : len(shown) - quarter]))
    way = points[-1] - points[0]
    both = np.isfinite(way).all(-1)
    velocity = np.median(way[both], axis=0) / seconds if seconds and both.any() else np.zeros(3)
    return _Person(points[best], velocity, frames[best], dict(found.tracks), {frames[best]: points[best]})


def _join(people: Sequence[_Person], pasts: Sequence[_Person], interval: float) -> list[dict[int, Float64]]:
    """Return the bodies of people, those as one who stand in one place or go on where another was lost."""
    owner = list(range(len(people)))
    for i, j in combinations(range(len(people)), 2):
        if _apart(people[i].body, people[j].body) <= SAME_M:
            owner = [owner[i] if own == owner[j] else own for own in owner]
    leaps = sorted(
        (cost, i, j)
        for (i, person), (j, past) in product(enumerate(people), enumerate(pasts))
        if i != j and (cost := _leap(person, past, interval)) < np.inf
    )
    ended, begun = set(), set()
    for _, i, j in leaps:
        if i not in ended and j not in begun:
            ended.add(i)
            begun.add(j)
            owner = [owner[i] if own == owner[j] else own for own in owner]
    bodies: dict[int, dict[int, Float64]] = {}
    for own, person in zip(owner, people, strict=True):
        bodies[own] = person.body | bodies.get(own, {})
    return list(bodies.values())


def _apart(one: dict[int, Float64], other: dict[int, Float64]) -> float:
    """Median distance in metres over joints and frames in which both are known; infinite where there are none."""
    both = sorted(one.keys() & other.keys())
    if not both:
        return np.inf
    return float(median(np.ravel([np.linalg.norm(one[frame] - other[frame], axis=-1) for frame in both])))


def _leap(person: _Person, past: _Person, interval: float) -> float:
    """Return what it costs, in metres, that a person who was lost is who begins with `past`; infinite if it cannot be.

    How far they moved, and could have moved; less where tracks go on from the one to the other. The one who is lost may
    go astray in their last moments, when the other has begun.
    """
    away_s = (past.last - person.last) * interval
    shared = len(person.tracks.items() & past.tracks.items()) / len(past.tracks)
    if away_s < -ASTRAY_S or (away_s > ABSENT_S and not shared):
        return np.inf
    moved = float(median(np.linalg.norm(person.pose - past.pose, axis=-1)))
    reach = 2 * REACH_M + SPEED_M_S * abs(away_s)  # both may be somewhat off
    return moved + reach - SAME_M * shared if moved <= reach else np.inf
