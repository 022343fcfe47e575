"""People whom nobody follows yet, found within one window: tracks of several views that one body explains are one's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from edgelift.poses.cameras import Camera, Float64, triangulate
from edgelift.poses.people_given import agreeing, comparable
from edgelift.poses.people_tracks import Flags, Sightings, take
from edgelift.poses.recordings import RESIDUAL_LIMIT_MRAD, Picks, median, person_residual

SAMPLES = 6  # frames of a window that are looked at
TRACKED = 0.1  # share of a window in which a track is seen, or it is not looked at
PARTNERS = 3  # of each track: those it agrees with best make bodies that are tried
LEAST_ACROSS = 0.25  # sine of the angle between a ray and the line between cameras: below, any two rays meet


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Tracks of all views within one window, n in all.

    view, track (n,); at (n, frames of the window): the detection, -1 where there is none.
    """

    view: Picks
    track: Picks
    at: Picks


@dataclass(frozen=True, eq=False)
class Found:
    """A body that was found in one window. tracks: (view, track) of its pieces.

    body: (joints, 3) world metres, NaN where unknown, in each frame in which two views agree; at least one.
    """

    tracks: frozenset[tuple[int, int]]
    body: dict[int, Float64]


def find(views: Sequence[Sightings], cameras: Sequence[Camera], free: Sequence[Flags], window: range) -> list[Found]:
    """Return the bodies of one window in what nobody took, the best supported first."""
    pieces = _pieces(views, free, window.start, window.stop)
    found = [_found(pieces, members, window.start, views, cameras) for members in _match(pieces, views, cameras)]
    return [one for one in found if one.body]


def _pieces(views: Sequence[Sightings], free: Sequence[Flags], start: int, stop: int) -> _Pieces:
    found = [_pieces_of_view(view, own, start, stop) for view, own in zip(views, free, strict=True)]
    view = np.repeat(np.arange(len(views)), [len(track) for track, _ in found])
    return _Pieces(view, np.concatenate([t for t, _ in found]), np.concatenate([at for _, at in found]))


def _pieces_of_view(view: Sightings, free: Flags, start: int, stop: int) -> tuple[Picks, Picks]:
    """Return tracks (n,) and their detections (n, frames), as far as these are free."""
    here = np.arange(view.first[start], view.first[stop])
    here = here[free[here]]
    tracks, piece, count = np.unique(view.track[here], return_inverse=True, return_counts=True)
    at = np.full((len(tracks), stop - start), -1)
    at[piece, view.frame[here] - start] = here
    kept = count >= TRACKED * (stop - start)
    return tracks[kept], at[kept]


def _match(pieces: _Pieces, views: Sequence[Sightings], cameras: Sequence[Camera]) -> list[Picks]:
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


def _gather_pieces(pieces: _Pieces, samples: Picks, views: Sequence[Sightings]) -> Float64:
    """(pieces, samples, joints, 3) rays and confidence."""
    out = np.empty((len(pieces.view), len(samples), *views[0].sights.shape[1:]))
    for v, view in enumerate(views):
        own = pieces.view == v
        out[own] = take(view, pieces.at[own][:, samples])
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


def _found(pieces: _Pieces, members: Picks, start: int, views: Sequence[Sightings], cameras: Sequence[Camera]) -> Found:
    picks = np.full((pieces.at.shape[1], len(views)), -1)
    for member in members:
        there = pieces.at[member] >= 0
        picks[there, pieces.view[member]] = pieces.at[member, there]
    _, points = agreeing(picks, views, cameras)
    tracks = zip(pieces.view[members].tolist(), pieces.track[members].tolist(), strict=True)
    return Found(frozenset(tracks), {start + t: points[t] for t in np.flatnonzero(comparable(points)).tolist()})
