"""Several people of one recording, each as a session of their own: who is who across views and through time.

In images people overlap, in the world they do not. So people are followed as bodies in the world: where somebody would
be if they went on as before, each view's detection that fits is theirs, and what these agree on is where they are.
Whoever nobody follows yet is found in windows of a second: detections of one view are joined to tracks, and tracks of
several views that one triangulated body explains are one person. Last, all detections are given to the bodies anew,
which are then known before and after. Nothing enumerates combinations of views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64, project
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.people_followed import follow_all
from edgelift.poses.people_given import give_out
from edgelift.poses.people_tracks import Flags, Sightings, flatten, sightings
from edgelift.poses.recordings import (
    RESIDUAL_LIMIT_MRAD,
    Picks,
    Recording,
    Selection,
    check_views,
    common_timeline,
    count_views,
    ideal_cameras,
    nobody,
    to_session,
)
from edgelift.poses.sessions import Session

LEAST_S = 2.0  # two views have to see a person for so long (or for half of a shorter recording), or it is none
LEAST_SHARE = 0.25  # so large a share of the views that look where a person is have to see them, or it is none


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
        sightings(view, row, recording.skeleton, camera, interval)
        for view, row, camera in zip(recording.views, rows, rig, strict=True)
    ]
    if not any(len(view.frame) for view in views):
        raise nobody(recording, "no person in any frame")
    ideal = ideal_cameras(rig)
    least = max(1, min(round(LEAST_S / interval), len(timestamps) // 2))
    bodies = [body for body in follow_all(views, ideal, interval) if len(body) >= least]
    least_seen = f"no person on whom two views agree within {RESIDUAL_LIMIT_MRAD:g} mrad for {least} frames"
    if not bodies:
        raise nobody(recording, least_seen)
    picks = give_out(views, ideal, [_whole(body, len(timestamps)) for body in bodies], interval)
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


def _whole(body: dict[int, Float64], frames: int) -> Float64:
    """(frames, joints, 3) where a person is, NaN where unknown."""
    out = np.full((frames, *next(iter(body.values())).shape), np.nan)
    for frame, points in body.items():
        out[frame] = points
    return out


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


def _sessions(
    recording: Recording,
    cameras: tuple[Camera, ...],
    timestamps: Float64,
    rows: Sequence[Picks],
    views: Sequence[Sightings],
    picks: Sequence[Picks],
) -> list[tuple[Session, Selection]]:
    keypoints = [flatten(v, row, recording.skeleton)[1] for v, row in zip(recording.views, rows, strict=True)]
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
