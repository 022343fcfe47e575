"""A rig from the people in its recordings: no checkerboard, no 3D label.

Relative poses of view pairs from essential matrices, a tree of the surest, bundle adjustment over all cameras and
joints, outliers left out by observation, by joint and by frame; then size, upright and floor, and how sure it all is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.bundle import (
    ALONE,
    FARTHEST,
    FOCAL,
    LENS,
    MIDDLE,
    UNKNOWN_SPREAD,
    Bools,
    Bundle,
    Float64,
    Sightings,
    Spread,
    adjust,
)
from edgelift.calibration.metric import (
    Scale,
    Upright,
    in_the_world,
    scale_by_bones,
    scale_by_distance,
    scale_by_height,
    upright_by_axis,
    upright_by_people,
)
from edgelift.calibration.structure import LEAST_SHARED, crossed_points, disagreement, first_rig
from edgelift.calibration.uncertainty import Uncertainty, focal_spread, uncertainty
from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import convert_poses, skeleton

Estimate = Literal["none", "focal", "all"]
Tell = Callable[[str], None]

MOST_POINTS = 60_000  # joints at moments, evenly over the sessions: more move no camera by a tenth of its error
USUAL_FOCAL = 1.2  # of an image's longer side: where nothing is known of the lens (a field of view of 45 degrees)
FOCAL_TRIES = (0.7, 1.0, 1.4)  # times the prior, to begin with: an adjustment finds the valley that it starts in
LEAST_KEPT = 0.5  # of a joint's, frame's or view's observations: what fits less often than not is left out, or refused
SEED = 0
COMMON = skeleton("common14")  # what every skeleton gives


@dataclass(frozen=True)
class Cues:
    """What gives size and upright: one of distances, height_m and bones, in metres; up as (camera, axis), or people."""

    distances: dict[tuple[str, str], float] | None = None
    height_m: float | None = None
    bones: dict[tuple[str, str], float] | None = None
    up: tuple[str, tuple[float, float, float]] | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """A rig in metres, Z up, and what is known of it.

    uncertainty is in metres; residual_px (views,) median of each view; poses (frames, joints, 3) world metres of the
    frames that were used, common14; left out: joints and the number of frames that did not fit; distance_m (views,) of
    each camera from the people; seen_s: how long the recordings are that it comes from.
    """

    cameras: tuple[Camera, ...]
    uncertainty: Uncertainty
    scale: Scale
    upright: Upright
    residual_px: Float64
    bundle: Bundle
    poses: Float64
    joints_left_out: tuple[str, ...]
    frames_left_out: int
    distance_m: Float64
    seen_s: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by camera in the rig's order."""
        centre = 1000 * np.sqrt(np.trace(self.uncertainty.centre, axis1=1, axis2=2))
        turn = np.degrees(np.sqrt(np.trace(self.uncertainty.turn, axis1=1, axis2=2)))
        return {
            "cameras": [camera.name for camera in self.cameras],
            "reprojection_px": [round(float(r), 3) for r in self.residual_px],
            "centre_sd_mm": centre.round(2).tolist(),
            "rotation_sd_deg": turn.round(4).tolist(),
            "focal_px": [round(float(c.K[0, 0]), 2) for c in self.cameras],
            "focal_sd_percent": (100 * self.uncertainty.focal).round(3).tolist(),
            "scale": {"how": self.scale.how, "sd_percent": round(100 * self.scale.sd, 2)},
            "up": {"how": self.upright.how, "sd_deg": round(self.upright.sd_deg, 2)},
            "joints_used": int(self.bundle.counted.any(0).sum()),
            "joints_left_out": list(self.joints_left_out),
            "frames_left_out": self.frames_left_out,
            "seconds": round(self.seconds, 2),
        }


def calibrate_cameras(
    sessions: Sequence[Session], cues: Cues, estimate: Estimate = "none", tell: Tell = lambda _: None
) -> Calibration:
    """Find the rig that recorded the sessions; poses of cameras that they hold are not read.

    estimate: what of the intrinsics is found too, starting from those of the sessions or, where they have none, from
    USUAL_FOCAL and the middle of the image. EdgeliftError where views share too little, or no cue for size is given.
    """
    started = time.perf_counter()
    cameras = intrinsics_of(sessions, estimate)
    _check_cues(cues)
    sightings = sightings_of(sessions)
    rng = np.random.default_rng(SEED)
    tell(f"{sightings.seen.shape[1]} joints that two views see; relative poses of {len(cameras)} cameras")
    start = started_rig(sightings, cameras, estimate, rng)
    tell("bundle adjustment")
    steps = np.concatenate([np.diff(s.timestamps) for s in sessions])
    # sessions of one moment each tell nothing of lasting errors
    step_s = float(np.median(steps)) if len(steps) else 1.0
    bundle = _adjusted(sightings, start, cameras, free_parameters(estimate), step_s)
    doubt = uncertainty(bundle, step_s)
    return _in_metres(bundle, sightings, sessions[0], doubt, cues, step_s, started)


def sightings_of(sessions: Sequence[Session]) -> Sightings:
    """All joints that two views see, thinned evenly to MOST_POINTS; frames count on through the sessions."""
    parts = [_of_session(s) for s in sessions]
    first = np.cumsum([0, *(int(p.frame.max(initial=0)) + 1000 for p in parts)])  # no block of time spans two sessions
    joined = Sightings(
        np.concatenate([p.keypoints for p in parts], 1),
        np.concatenate([p.seen for p in parts], 1),
        np.concatenate([p.frame + f for p, f in zip(parts, first[:-1], strict=True)]),
        np.concatenate([p.joint for p in parts]),
    )
    frames = np.unique(joined.frame)
    every = max(1, round(len(joined.frame) / MOST_POINTS))
    return joined if every == 1 else joined.take(np.isin(joined.frame, frames[::every]))


def _of_session(session: Session) -> Sightings:
    views, frames, joints = session.keypoints.shape[:3]
    flat = session.keypoints.reshape(views, -1, 3).astype(np.float64)
    several = np.flatnonzero((flat[..., 2] > 0).sum(0) >= 2)
    return Sightings(
        flat[:, several, :2], flat[:, several, 2] > 0, np.repeat(np.arange(frames), joints)[several],
        np.tile(np.arange(joints), frames)[several],
    )  # fmt: skip


def intrinsics_of(sessions: Sequence[Session], estimate: Estimate) -> tuple[Camera, ...]:
    """Cameras of the sessions' intrinsics, or of the prior ones, all at the origin."""
    names = sessions[0].camera_names
    for session in sessions:
        if session.camera_names != names or session.skeleton.name != sessions[0].skeleton.name:
            raise EdgeliftError(
                f"session {session.name}",
                f"{session.skeleton.name} from cameras {', '.join(session.camera_names)}",
                f"{sessions[0].skeleton.name} from {', '.join(names)}, as session {sessions[0].name}",
                "Calibrate recordings of one rig and one detector together.",
            )  # fmt: skip
        _check_lenses(session, sessions[0])
    if len(names) < 2:
        raise EdgeliftError(f"session {sessions[0].name}", "one camera", "two or more", "Record with more cameras.")
    given = sessions[0].cameras
    if given is None and estimate == "none":
        raise EdgeliftError(
            f"session {sessions[0].name}", "no intrinsics", "a calibrated lens for each camera",
            "Convert it with --cameras (its poses are not read); calibrate cameras can find lenses: --estimate focal.",
        )  # fmt: skip
    return tuple(_at_origin(sessions[0], view) for view in range(len(names)))


def _check_lenses(session: Session, first: Session) -> None:
    """EdgeliftError where two sessions have other lenses, or one has none."""
    own, known = session.cameras, first.cameras
    same = (own is None) == (known is None) and all(
        np.array_equal(a.K, b.K) and np.array_equal(a.dist, b.dist) and a.size == b.size
        for a, b in zip(own or (), known or (), strict=True)
    )
    if not same:
        raise EdgeliftError(
            f"session {session.name}", f"other lenses than session {first.name}", "the same intrinsics in all sessions",
            "Convert all of them with the same --cameras, or calibrate them by themselves.",
        )  # fmt: skip


def _at_origin(session: Session, view: int) -> Camera:
    if session.cameras is not None:
        return replace(session.cameras[view], R=np.eye(3), t=np.zeros(3))
    size = session.size(view)
    if size is None:
        raise EdgeliftError(
            f"session {session.name}", "no image sizes", "the size of each view's images", "Convert it with --size."
        )
    f = USUAL_FOCAL * max(size)
    K = np.array([[f, 0, size[0] / 2], [0, f, size[1] / 2], [0, 0, 1]])
    return Camera(session.camera_names[view], K, np.zeros(5), np.eye(3), np.zeros(3), size)


def _check_cues(cues: Cues) -> None:
    given = [cue for cue in (cues.distances, cues.height_m, cues.bones) if cue]
    if len(given) != 1:
        raise EdgeliftError(
            "scale", "no measure" if not given else "several measures", "one: people do not tell how large a rig is",
            "Give --distance CAM_A,CAM_B=METRES (best), --height METRES of the person, or --bone JOINT,JOINT=METRES.",
        )  # fmt: skip


def free_parameters(estimate: Estimate) -> Bools:
    """(PARAMETERS,): what of each camera moves in an adjustment."""
    free = ALONE.copy()
    if estimate != "none":
        free[FOCAL] = True
    if estimate == "all":
        free[MIDDLE] = free[LENS] = True
    return free


def started_rig(
    sightings: Sightings, cameras: Sequence[Camera], estimate: Estimate, rng: np.random.Generator
) -> tuple[Camera, ...]:
    """Return the first rig, in units of its own; where lenses are estimated the best of several focal lengths."""
    if estimate == "none":
        return first_rig(sightings, cameras, rng)
    rigs = []
    for factor in FOCAL_TRIES:
        tried = [replace(c, K=c.K * np.array([[factor, 1, 1], [1, factor, 1], [1, 1, 1]])) for c in cameras]
        rig = first_rig(sightings, tried, rng)
        points, counted = crossed_points(sightings, rig)
        several = np.flatnonzero(counted.any(0))
        use = several[:: max(1, len(several) // 3000)]
        if len(use) >= LEAST_SHARED:
            rig = adjust(
                sightings.take(use), rig, points[use], counted[:, use], free_parameters("focal"), given=cameras
            ).cameras
        rigs.append(rig)
    return min(rigs, key=lambda rig: disagreement(sightings, rig))


def _adjusted(
    sightings: Sightings, start: Sequence[Camera], given: Sequence[Camera], free: Bools, step_s: float
) -> Bundle:
    """Adjust, leave out joints and frames that do not fit, cross all rays anew by the better rig, adjust again."""
    everything = np.ones(sightings.seen.shape[1], bool)
    first, used = _adjusted_once(sightings, start, given, free, everything, UNKNOWN_SPREAD)
    spread = focal_spread(first, step_s) if free[FOCAL] else UNKNOWN_SPREAD
    sound, limit = _sound(sightings, first, used), FARTHEST * first.noise.deviation_px
    return _adjusted_once(sightings, first.cameras, given, free, sound, spread, limit)[0]


def _adjusted_once(
    sightings: Sightings,
    start: Sequence[Camera],
    given: Sequence[Camera],
    free: Bools,
    sound: Bools,
    spread: Spread,
    limit_px: float | None = None,
) -> tuple[Bundle, NDArray[np.intp]]:
    """Adjust the sound points on which views agree, and return which those are."""
    points, agreed = crossed_points(sightings, start, limit_px)
    use = np.flatnonzero(agreed.any(0) & sound)
    if len(use) < LEAST_SHARED:
        raise EdgeliftError(
            "calibration", f"{len(use)} joints on which views agree", f"{LEAST_SHARED} at least",
            "Check that all views show the same person, at the same time (edgelift calibrate sync).",
        )  # fmt: skip
    bundle = adjust(sightings.take(use), start, points[use], agreed[:, use], free, given=given, spread=spread)
    check_agreement(bundle)
    return bundle, use


def check_agreement(bundle: Bundle) -> None:
    """EdgeliftError where a view fits the others less often than not: it shows somebody else, or another time.

    Such a camera would be placed by the few joints that happen to fit, and its covariance would not show it.
    """
    counted, seen = bundle.counted.sum(1), bundle.sightings.seen.sum(1)
    odd = np.flatnonzero((counted < LEAST_KEPT * seen) | (counted < LEAST_SHARED))
    if len(odd):
        told = ", ".join(f"{bundle.cameras[v].name} agrees on {counted[v]} of {seen[v]} joints" for v in odd)
        raise EdgeliftError(
            "calibration", told, f"most joints, and {LEAST_SHARED} at least, where other cameras see them",
            "Check that it shows the same person at the same time (edgelift calibrate sync), and its lens.",
        )  # fmt: skip


def _sound(sightings: Sightings, bundle: Bundle, used: NDArray[np.intp]) -> Bools:
    """Points (all,) of joints and frames that fit more often than not."""
    fits = np.zeros(sightings.seen.shape[1])
    fits[used] = bundle.counted.sum(0)
    seen = sightings.seen.sum(0)
    sound = np.ones(len(fits), bool)
    for group in (sightings.joint, sightings.frame):
        _, index = np.unique(group, return_inverse=True)
        share = np.bincount(index, fits) / np.maximum(np.bincount(index, seen), 1)
        sound &= share[index] >= LEAST_KEPT
    return sound


def _in_metres(
    bundle: Bundle,
    sightings: Sightings,
    session: Session,
    doubt: Uncertainty,
    cues: Cues,
    step_s: float,
    started: float,
) -> Calibration:
    poses, noise = _people(bundle, session, doubt.point)
    scale, upright = _scale(bundle, cues, poses, noise), _upright(bundle, cues, poses)
    cameras = in_the_world(bundle.cameras, scale, upright, np.nanmedian(poses.reshape(-1, 3), 0))
    turn = scale.metres * cameras[0].R.T @ bundle.cameras[0].R
    world = (poses - bundle.cameras[0].centre) @ turn.T + cameras[0].centre
    middle = np.nanmedian(world.reshape(-1, 3), axis=0)
    joints = set(np.unique(sightings.joint)) - set(np.unique(bundle.sightings.joint))
    frames = np.unique(bundle.sightings.frame)
    return Calibration(
        cameras=cameras, uncertainty=replace(doubt, centre=turn @ doubt.centre @ turn.T), scale=scale, upright=upright,
        residual_px=np.nanmedian(np.linalg.norm(bundle.residuals(), axis=-1), axis=1), bundle=bundle, poses=world,
        joints_left_out=tuple(session.skeleton.joints[j] for j in sorted(joints)),
        frames_left_out=len(np.unique(sightings.frame)) - len(frames),
        distance_m=np.array([float(np.linalg.norm(c.centre - middle)) for c in cameras]),
        seen_s=step_s * len(frames), seconds=time.perf_counter() - started,
    )  # fmt: skip


def _scale(bundle: Bundle, cues: Cues, poses: Float64, noise: Float64) -> Scale:
    if cues.distances:
        return scale_by_distance(bundle.cameras, cues.distances)
    if cues.bones:
        return scale_by_bones(poses, noise, COMMON, cues.bones)
    return scale_by_height(poses, noise, COMMON, float(cues.height_m or 0))


def _upright(bundle: Bundle, cues: Cues, poses: Float64) -> Upright:
    ankles = np.array([COMMON.joints.index(f"{side}_ankle") for side in ("left", "right")])
    if cues.up is None:
        return upright_by_people(poses, COMMON, ankles)
    return upright_by_axis(bundle.cameras, *cues.up, poses[:, ankles].reshape(-1, 3))


def _people(bundle: Bundle, session: Session, variance: Float64) -> tuple[Float64, Float64]:
    """Poses (frames, joints, 3) of common14 in units of the rig, and (frames, joints) the variances of their joints."""
    frames, index = np.unique(bundle.sightings.frame, return_inverse=True)
    raw = np.full((len(frames), len(session.skeleton.joints), 3), np.nan)
    spread = raw.copy()
    placed = bundle.counted.any(0)
    where = index[placed], bundle.sightings.joint[placed]
    raw[where] = bundle.points[placed]
    spread[where] = variance[placed, None]
    poses = convert_poses(raw, session.skeleton, COMMON)
    # a midpoint's variance is half of this mean: on the safe side, and of the trunk alone
    noise = convert_poses(spread, session.skeleton, COMMON)[..., 0]
    return np.asarray(poses, np.float64), np.asarray(noise, np.float64)
