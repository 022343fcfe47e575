"""Several people of one recording, each as a session of their own: who is who across views and through time.

In images people overlap, in the world they do not. So people are followed as bodies in the world: where somebody would
be if they went on as before, each view's detection that fits is theirs, and what these agree on is where they are.
Whoever nobody follows yet is found in windows of a second: detections of one view are joined to tracks, and tracks of
several views that one triangulated body explains are one person. Last, all detections are given to the bodies anew,
which are then known before and after. Nothing enumerates combinations of views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64, project, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.recordings import (
    BLOCK,
    RESIDUAL_LIMIT_MRAD,
    Picks,
    Recording,
    Selection,
    View,
    check_views,
    common_timeline,
    count_views,
    ideal_cameras,
    median,
    nobody,
    person_residual,
    sizes,
    to_rays,
    to_session,
)
from edgelift.poses.sessions import Session, clean_keypoints
from edgelift.poses.skeletons import Skeleton, check_joints

LEAST_S = 2.0  # two views have to see a person for so long (or for half of a shorter recording), or it is none
LEAST_SHARE = 0.25  # so large a share of the views that look where a person is have to see them, or it is none
# people that are followed
EXPECTED_MRAD = 32.0  # what is farther from where somebody is expected, in the next frame, is not taken for them
COAST_S = 0.5  # so long somebody is expected where they would be if they went on as before
FOLLOW, SETTLE_S = 0.6, 0.1  # share of a step that a pose follows at once; seconds in which its velocity does
REACH_M, SPEED_M_S = 0.15, 1.5  # how far a body may be from where it was expected, and how fast from where it was lost
ABSENT_S = 2.0  # who is found again later than this is somebody else, unless a view followed them meanwhile
ASTRAY_S = 0.25  # so long before they are lost somebody may be followed wrongly
BRIDGE_S = 1.0  # gaps of a body so long are searched for it at the end, between where it is known
# people that are found
WINDOW_S, LEAST_WINDOW = 1.0, 5  # in windows of so many seconds, or frames where the rate is low
SAMPLES = 6  # frames of a window that are looked at
TRACKED = 0.1  # share of a window in which a track is seen, or it is not looked at
PARTNERS = 3  # of each track: those it agrees with best make bodies that are tried
LEAST_ACROSS = 0.25  # sine of the angle between a ray and the line between cameras: below, any two rays meet
SAME_M = 0.25  # bodies (median joint) nearer than this are one person
# tracks of one view, distances in sizes of the person
GAP_S = 0.25  # a track goes on behind so long a gap
STEP, PACE, MOST_STEP = 0.05, 2.0, 0.25  # how far on the next detection may be: at once, more by the second, at most
RIVAL = 2.0  # whoever else might be meant is so many times as far, or the track ends

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Sightings:
    """All detections of one view in the order of time, n in all.

    frame (n,): of the common timeline. first (frames + 1,): those of frame t are first[t] to first[t + 1]. sights
    float32 (n, joints, 3): rays x/z, y/z and confidence, missing NaN, NaN, 0. track (n,): a number, the same for those
    that are most likely one person's.
    """

    frame: Picks
    first: Picks
    sights: NDArray[np.float32]
    track: Picks


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Tracks of all views within one window, n in all.

    view, track (n,); at (n, frames of the window): the detection, -1 where there is none.
    """

    view: Picks
    track: Picks
    at: Picks


@dataclass(frozen=True, eq=False)
class _Found:
    """A body that was found in one window. tracks: (view, track) of its pieces.

    body: (joints, 3) world metres, NaN where unknown, in each frame in which two views agree; at least one.
    """

    tracks: frozenset[tuple[int, int]]
    body: dict[int, Float64]


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


def separate_people(recording: Recording, cameras: tuple[Camera, ...] | None) -> list[tuple[Session, Selection]]:
    """Return a session for each person, `<recording>_1` for who is seen longest, and what became of the detections.

    cameras: one a view, in the order of the views; two or more, or EdgeliftError: without a rig nothing says who is who
    across views. A session reaches from the first to the last frame in which two views agree on where the person is
    (median joint within RESIDUAL_LIMIT_MRAD); a view that does not agree is missing in that frame, and so is a frame
    without two agreeing views. A person is whom two views see for LEAST_S, and LEAST_SHARE of those
    that look there, so a detector's ghost is none; EdgeliftError where there is nobody. In a Selection, `discarded` are
    detections that are no person's.
    """
    rig = _check_rig(recording, cameras)
    timestamps, rows = common_timeline(recording.views)
    interval = float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 1.0
    views = [
        _sightings(view, row, recording.skeleton, camera, interval)
        for view, row, camera in zip(recording.views, rows, rig, strict=True)
    ]
    if not any(len(view.frame) for view in views):
        raise nobody(recording, "no person in any frame")
    ideal = ideal_cameras(rig)
    least = max(1, min(round(LEAST_S / interval), len(timestamps) // 2))
    bodies = [body for body in _follow_all(views, ideal, interval) if len(body) >= least]
    least_seen = f"no person on whom two views agree within {RESIDUAL_LIMIT_MRAD:g} mrad for {least} frames"
    if not bodies:
        raise nobody(recording, least_seen)
    picks = _give_out(views, ideal, [_whole(body, len(timestamps)) for body in bodies], interval)
    real = [_seen(p).sum() >= least and _looked_at(p, body, rig) for p, body in zip(picks, bodies, strict=True)]
    picks = sorted((p for p, kept in zip(picks, real, strict=True) if kept), key=lambda p: -int(_seen(p).sum()))
    if not picks:
        raise nobody(recording, least_seen)
    return _sessions(recording, rig, timestamps, rows, views, picks)


def _check_rig(recording: Recording, cameras: tuple[Camera, ...] | None) -> tuple[Camera, ...]:
    check_views(recording, cameras)
    if cameras is None or len(cameras) < 2:
        raise EdgeliftError(
            f"recording {recording.name}", "one view" if len(recording.views) == 1 else "no rig",
            "two or more calibrated views: without them nothing says who is who across views",
            "Give --cameras for several views, or convert the one person that is seen best.",
        )  # fmt: skip
    return cameras


# --- one view: detections to tracks ---


def _sightings(view: View, rows: Picks, skeleton: Skeleton, camera: Camera, interval: float) -> _Sightings:
    frame, keypoints = _flatten(view, rows, skeleton)
    sights = to_rays(keypoints, camera)
    sights[~np.isfinite(sights).all(-1)] = (np.nan, np.nan, 0)
    first = np.searchsorted(frame, np.arange(len(rows) + 1))
    return _Sightings(frame, first, sights.astype(np.float32), _tracks(first, keypoints, interval))


def _flatten(view: View, rows: Picks, skeleton: Skeleton) -> tuple[Picks, NDArray[np.float32]]:
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


# --- all views, one window: tracks to bodies ---


def _find(views: Sequence[_Sightings], cameras: Sequence[Camera], free: Sequence[Flags], window: range) -> list[_Found]:
    """Return the bodies of one window in what nobody took, the best supported first."""
    pieces = _pieces(views, free, window.start, window.stop)
    found = [_found(pieces, members, window.start, views, cameras) for members in _match(pieces, views, cameras)]
    return [one for one in found if one.body]


def _pieces(views: Sequence[_Sightings], free: Sequence[Flags], start: int, stop: int) -> _Pieces:
    found = [_pieces_of_view(view, own, start, stop) for view, own in zip(views, free, strict=True)]
    view = np.repeat(np.arange(len(views)), [len(track) for track, _ in found])
    return _Pieces(view, np.concatenate([t for t, _ in found]), np.concatenate([at for _, at in found]))


def _pieces_of_view(view: _Sightings, free: Flags, start: int, stop: int) -> tuple[Picks, Picks]:
    """Return tracks (n,) and their detections (n, frames), as far as these are free."""
    here = np.arange(view.first[start], view.first[stop])
    here = here[free[here]]
    tracks, piece, count = np.unique(view.track[here], return_inverse=True, return_counts=True)
    at = np.full((len(tracks), stop - start), -1)
    at[piece, view.frame[here] - start] = here
    kept = count >= TRACKED * (stop - start)
    return tracks[kept], at[kept]


def _match(pieces: _Pieces, views: Sequence[_Sightings], cameras: Sequence[Camera]) -> list[Picks]:
    """Return sets of pieces of which each is one person, the best supported ones first.

    Pairs of pieces whose rays meet are triangulated. A body is supported by what fits it in all views; the one with
    most support takes its pieces, then the next. Quadratic in pieces.
    """
    length = pieces.at.shape[1]
    samples = np.unique(np.linspace(0, length - 1, min(SAMPLES, length)).round().astype(int))
    sights = _gather_pieces(pieces, samples, views)
    seeds = _seeds(_disagreement(pieces, sights, cameras))
    if not len(seeds):
        return []
    share = (pieces.at >= 0).mean(1)
    residual = _residuals(_pair_bodies(seeds, pieces, sights, cameras), pieces, sights, cameras)
    free = np.ones(len(pieces.view), bool)
    found = []
    while (best := _best_supported(seeds, residual, pieces, share, free)) >= 0:
        seeds, body = np.delete(seeds, best, 0), residual[best]
        residual = np.delete(residual, best, 0)
        members = _members(body, pieces, free)
        for _ in range(2):  # from all its views a body fits better, and is known in more frames
            members = _members(_set_residual(members, pieces, sights, cameras), pieces, free)
        if len(np.unique(pieces.view[members])) >= 2:
            found.append(members)
            free[members] = False
    return found


def _gather_pieces(pieces: _Pieces, samples: Picks, views: Sequence[_Sightings]) -> Float64:
    """(pieces, samples, joints, 3) rays and confidence."""
    out = np.empty((len(pieces.view), len(samples), *views[0].sights.shape[1:]))
    for v, view in enumerate(views):
        own = pieces.view == v
        out[own] = _take(view, pieces.at[own][:, samples])
    return out


def _take(view: _Sightings, picks: Picks) -> Float64:
    """(..., joints, 3) sights of picked detections, missing where a pick is -1."""
    inside = picks >= 0
    out = np.full((*picks.shape, *view.sights.shape[1:]), np.nan)
    out[..., 2] = 0
    out[inside] = view.sights[picks[inside]]
    return out


def _disagreement(pieces: _Pieces, sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """(pieces, pieces) median over frames and joints, in mrad, of how far rays of two views miss each other.

    That is the angle from a ray to the plane that the other ray and both cameras span, the greater of the two. Infinite
    where too little is shared, within a view, and for the lower triangle.
    """
    out = np.full((len(sights), len(sights)), np.inf)
    world = np.concatenate([sights[..., :2], np.ones_like(sights[..., :1])], -1)
    world = np.einsum("nfjx,nxw->nfjw", world, np.stack([c.R for c in cameras])[pieces.view])
    world /= np.linalg.norm(world, axis=-1, keepdims=True)
    owners = [np.flatnonzero(pieces.view == v) for v in range(len(cameras))]
    for a, b in combinations(range(len(cameras)), 2):
        base = cameras[b].centre - cameras[a].centre
        if len(owners[a]) and len(owners[b]) and np.any(base):
            rays_a, rays_b = world[owners[a]], world[owners[b]]
            out[np.ix_(owners[a], owners[b])] = 1000 * _miss(rays_a, rays_b, base / np.linalg.norm(base))
    return out


def _miss(rays_a: Float64, rays_b: Float64, base: Float64) -> Float64:
    """(a, b) from unit rays (a or b, frames, joints, 3)."""
    across_a, across_b = np.cross(base, rays_a), np.cross(base, rays_b)
    sine = np.minimum(np.linalg.norm(across_a, axis=-1)[:, None], np.linalg.norm(across_b, axis=-1)[None])
    volume = np.abs(np.einsum("afjx,bfjx->abfj", across_a, rays_b))
    miss = np.where(sine >= LEAST_ACROSS, volume / np.maximum(sine, LEAST_ACROSS), np.nan)
    return median(miss.reshape(*miss.shape[:2], -1))


def _seeds(disagreement: Float64) -> Picks:
    """(seeds, 2) pairs of pieces: each piece with the PARTNERS that it agrees with best."""
    both = np.minimum(disagreement, disagreement.T)
    partner = np.argsort(both, axis=1, kind="stable")[:, :PARTNERS]
    own = np.broadcast_to(np.arange(len(both))[:, None], partner.shape)
    good = both[own, partner] <= RESIDUAL_LIMIT_MRAD
    pairs = np.sort(np.stack([own[good], partner[good]], -1), -1)
    return np.unique(pairs, axis=0)


def _pair_bodies(seeds: Picks, pieces: _Pieces, sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """(seeds, samples, joints, 3) world metres, NaN where one of the two views does not see a joint."""
    out = np.empty((len(seeds), *sights.shape[1:]))
    looks = pieces.view[seeds]
    for a, b in np.unique(looks, axis=0):
        own = np.flatnonzero((looks == (a, b)).all(1))
        out[own] = triangulate(np.stack([sights[seeds[own, 0]], sights[seeds[own, 1]]]), (cameras[a], cameras[b]))[0]
    return out


def _residuals(bodies: Float64, pieces: _Pieces, sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """(bodies, pieces) median over frames and joints in mrad; infinite where too little is shared."""
    out = np.full((len(bodies), len(sights)), np.inf)
    points = bodies.reshape(len(bodies), -1, 3)
    for v, camera in enumerate(cameras):
        own = np.flatnonzero(pieces.view == v)
        if len(own):
            out[:, own] = person_residual(points, sights[own].reshape(1, len(own), -1, 3), camera)
    return out


def _best_supported(seeds: Picks, residual: Float64, pieces: _Pieces, share: Float64, free: Flags) -> int:
    """Return the body with the most support of free pieces, -1 if none whose seeds are free.

    A view supports a body by how well its best piece fits, times the share of the window in which it is seen.
    """
    alive = np.flatnonzero(free[seeds].all(1))
    if not len(alive):
        return -1
    fit = np.where(free, np.maximum(1 - residual[alive] / RESIDUAL_LIMIT_MRAD, 0) * share, 0)
    support = sum(fit[:, pieces.view == v].max(1) for v in np.unique(pieces.view))
    return int(alive[np.argmax(support)])


def _members(residual: Float64, pieces: _Pieces, free: Flags) -> Picks:
    """Return the free pieces that fit a body, best first; those of one view do not overlap in time."""
    taken = np.zeros((pieces.view.max() + 1, pieces.at.shape[1]), bool)
    members = []
    for piece in np.argsort(residual, kind="stable"):
        there, view = pieces.at[piece] >= 0, pieces.view[piece]
        if free[piece] and residual[piece] <= RESIDUAL_LIMIT_MRAD and not (there & taken[view]).any():
            taken[view] |= there
            members.append(piece)
    return np.array(members, np.intp)


def _set_residual(members: Picks, pieces: _Pieces, sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """(pieces,) residual to the body that the members make together."""
    together = np.full((len(cameras), *sights.shape[1:]), np.nan)
    together[..., 2] = 0
    for member in members:
        there = (sights[member, ..., 2] > 0).any(-1)
        together[pieces.view[member], there] = sights[member, there]
    body = triangulate(together, cameras)[0]
    return np.asarray(_residuals(body[None], pieces, sights, cameras)[0])


def _found(
    pieces: _Pieces, members: Picks, start: int, views: Sequence[_Sightings], cameras: Sequence[Camera]
) -> _Found:
    picks = np.full((pieces.at.shape[1], len(views)), -1)
    for member in members:
        there = pieces.at[member] >= 0
        picks[there, pieces.view[member]] = pieces.at[member, there]
    _, points = _agreeing(picks, views, cameras)
    tracks = zip(pieces.view[members].tolist(), pieces.track[members].tolist(), strict=True)
    return _Found(frozenset(tracks), {start + t: points[t] for t in np.flatnonzero(_known(points)).tolist()})


def _agreeing(picks: Picks, views: Sequence[_Sightings], cameras: Sequence[Camera]) -> tuple[Picks, Float64]:
    """Drop from picks (n, views) the view that fits worst, again and again, until all agree; at least two do.

    Returns picks and points (n, joints, 3), NaN where too few agree.
    """
    picks = picks.copy()
    points = np.full((len(picks), *views[0].sights.shape[1:]), np.nan)
    open_ = np.arange(len(picks))
    while True:
        open_ = open_[(picks[open_] >= 0).sum(1) >= 2]
        sights = np.stack([_take(view, picks[open_, v]) for v, view in enumerate(views)])
        found, misfit = _fit(sights, cameras)
        agreed = misfit.max(0) <= RESIDUAL_LIMIT_MRAD
        points[open_[agreed]] = found[agreed]
        if agreed.all():
            break
        open_ = open_[~agreed]
        picks[open_, misfit[:, ~agreed].argmax(0)] = -1
    picks[~_known(points)] = -1
    return picks, points


def _fit(sights: Float64, cameras: Sequence[Camera]) -> tuple[Float64, Float64]:
    """Triangulate sights (views, n, joints, 3): points, and the residual (views, n) in mrad.

    The residual is infinite where a view shares too little with the others, minus infinite where it sees nobody.
    """
    points, apart = triangulate(sights, cameras)
    there = (sights[..., 2] > 0).any(-1)
    return points, np.where(there, 1000 * median(apart), -np.inf)


def _known(points: Float64) -> Flags:
    """(frames,) whether enough joints of a body are known to compare it."""
    return np.isfinite(median(points[..., 0]))


# --- through time: people are followed, others are found among what is left ---


def _follow_all(views: Sequence[_Sightings], cameras: Sequence[Camera], interval: float) -> list[dict[int, Float64]]:
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
        for body in _find(views, cameras, free, window):
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
    views: Sequence[_Sightings],
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
            residual = person_residual(guesses, _take(view, here[None]), camera)
            chosen = _pair_off(residual[:, None], EXPECTED_MRAD)[:, 0]
            picks[:, v] = np.where(chosen >= 0, here[chosen], -1)
    picks, points = _agreeing(picks, views, cameras)
    off = median(np.linalg.norm(points - guesses, axis=-1))
    for person, own, place, moved in zip(near, picks, points, off, strict=True):
        if moved <= REACH_M + SPEED_M_S * abs(frame - person.last) * interval:
            person.see(place, frame, interval)
            for w in np.flatnonzero(own >= 0).tolist():
                free[w][own[w]] = False
                person.tracks[w] = int(views[w].track[own[w]])


def _admit(found: _Found, interval: float) -> _Person:
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


def _whole(body: dict[int, Float64], frames: int) -> Float64:
    """(frames, joints, 3) where a person is, NaN where unknown."""
    out = np.full((frames, *next(iter(body.values())).shape), np.nan)
    for frame, points in body.items():
        out[frame] = points
    return out


# --- frame by frame: detections to people ---


def _give_out(
    views: Sequence[_Sightings], cameras: Sequence[Camera], bodies: list[Float64], interval: float
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
    views: Sequence[_Sightings], cameras: Sequence[Camera], bodies: list[Float64], block: slice
) -> list[Picks]:
    frames = np.arange(len(bodies[0]))
    picks = np.full((len(bodies), len(frames), len(views)), -1)
    here = [b for b, body in enumerate(bodies) if np.isfinite(body).any()]
    for v, (view, camera) in enumerate(zip(views, cameras, strict=True)):
        first = view.first[block.start : block.start + len(frames) + 1]
        slots = first[:-1, None] + np.arange(max(1, int(np.diff(first).max())))
        slots = np.where(slots < first[1:, None], slots, -1)
        if here:
            sights = _take(view, slots)
            chosen = _pair_off(
                np.stack([person_residual(bodies[b], sights, camera) for b in here]), RESIDUAL_LIMIT_MRAD
            )
            picks[here, :, v] = np.where(chosen >= 0, slots[frames, chosen], -1)
    return [_agreeing(own, views, cameras)[0] for own in picks]


def _pair_off(residual: Float64, limit: float) -> Picks:
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


def _looked_at(picks: Picks, body: dict[int, Float64], cameras: Sequence[Camera]) -> bool:
    """Whether LEAST_SHARE of the views in whose image a body is see it: ghosts of a few among many views may agree."""
    frames = np.array(sorted(body))
    points = np.stack([body[frame] for frame in frames.tolist()])
    known = np.isfinite(points)
    middle = np.where(known, points, 0).sum(1) / known.sum(1)
    within = 0
    for camera in cameras:
        pixels = project(middle, camera)
        within += int(((pixels >= 0) & (pixels < np.array(camera.size))).all(-1).sum())
    return int((picks[frames] >= 0).sum()) >= LEAST_SHARE * within


def _seen(picks: Picks) -> Flags:
    """(frames,) whether anybody sees a person."""
    return np.asarray((picks >= 0).any(1))


# --- people to sessions ---


def _sessions(
    recording: Recording,
    cameras: tuple[Camera, ...],
    timestamps: Float64,
    rows: Sequence[Picks],
    views: Sequence[_Sightings],
    picks: Sequence[Picks],
) -> list[tuple[Session, Selection]]:
    keypoints = [_flatten(v, row, recording.skeleton)[1] for v, row in zip(recording.views, rows, strict=True)]
    present = np.stack([np.diff(view.first) for view in views])
    taken = np.sum([p >= 0 for p in picks], axis=0).T
    out = []
    for number, own in enumerate(picks, start=1):
        seen = np.flatnonzero(_seen(own))
        stay = slice(int(seen[0]), int(seen[-1]) + 1)
        chosen = np.stack([_pick(view, own[stay, v]) for v, view in enumerate(keypoints)])
        named = replace(recording, name=f"{recording.name}_{number}")
        session = to_session(named, cameras, timestamps[stay], chosen)
        how = (
            f"{number} of {len(picks)} people, each on whom two of {len(cameras)} views agree within "
            f"{RESIDUAL_LIMIT_MRAD:g} mrad; discarded is what is nobody's"
        )
        out.append((session, Selection(how, count_views(session, present[:, stay], taken[:, stay]))))
    return out


def _pick(keypoints: NDArray[np.float32], picks: Picks) -> NDArray[np.float32]:
    """(frames, joints, 3) raw keypoints; NaN, NaN, 0 for nobody."""
    out = np.full((len(picks), *keypoints.shape[1:]), np.nan, np.float32)
    out[..., 2] = 0
    out[picks >= 0] = keypoints[picks[picks >= 0]]
    return out
