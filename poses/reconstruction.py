"""Reconstruction: a session's keypoints of all views to one 3D track a joint, and how well it is known. No 3D label.

Triangulation knows one frame at a time, but a person neither jumps nor stretches. Here every joint is the state of a
Kalman smoother (position and velocity under white-noise acceleration; Rauch, Tung & Striebel 1965), each keypoint of
each view a measurement of it, re-weighted by its own residual (Student's t), and each bone one more: its length is one
number a session.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import rays
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import Skeleton

Float64 = NDArray[np.float64]

FREE_ROUNDS, BONE_ROUNDS = 2, 2  # of re-weighting, without and with bone lengths: more change nothing
TAIL_DEGREES = 4.0  # of Student's t: real detectors' errors (poses/studio.py)
LEAST_NOISE = 1e-5  # radians, a hundredth of a pixel: exact keypoints stay exact
NEAREST_M = 0.1
# power of the driving acceleration, m2/s3, for joints at the ends of limbs, in their middle, and of the trunk: from
# the accelerations of real motion (11-13, 8 and 4-5 m/s2 RMS at 20 frames/s)
RESTLESSNESS = (12.0, 4.0, 1.0)
LIMB_ENDS = ("wrist", "ankle", "heel", "toe", "pinky", "index", "thumb")
LIMB_MIDDLES = ("elbow", "knee")
COASTING_S = 0.5  # how long a joint that nobody sees keeps its velocity
BONE_SIGMA_M = 0.01  # how constant a bone between two detected joints is at best
RAYLEIGH_MEDIAN = np.sqrt(2 * np.log(2)).item()  # median length of a 2D normal error of standard deviation 1
MEDIAN_OF_SQUARE = 0.455  # of a standard normal number's square
UNKNOWN_M2, UNKNOWN_M2_S2 = 100.0, 25.0  # variance of a position and a velocity before the first measurement


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """poses (frames, joints, 3) world metres, finite everywhere; sigma (frames, joints) metres.

    sigma: standard deviation of a coordinate as the views alone give it, large where they say nothing.
    noise_rad: standard deviation of a keypoint's coordinate, radians.
    """

    poses: Float64
    sigma: Float64
    noise_rad: float


@dataclass(frozen=True, eq=False)
class _Sight:
    """rays (views, frames, joints, 2), weight (views, frames, joints) 0 where missing, and R, t of every view."""

    rays: Float64
    weight: Float64
    R: Float64
    t: Float64


def reconstruct(session: Session) -> Reconstruction:
    """Reconstruct a session's person; EdgeliftError for one camera, or where no joint is ever seen by two."""
    points, _ = session.triangulate()
    sight = _look(session)
    poses = _filled(points, session)
    noise = _noise(poses, sight)
    steps = np.diff(session.timestamps)
    power = _restlessness(session.skeleton)
    for _ in range(FREE_ROUNDS):
        information, vector = _measurements(poses, sight, noise)
        poses, covariance = smooth(information, vector, poses[0], steps, power)
    sigma = np.sqrt(np.trace(covariance, axis1=-2, axis2=-1) / 3)
    for _ in range(BONE_ROUNDS):
        information, vector = _measurements(poses, sight, noise)
        bones, bone_vector = _bones(poses, covariance, session.skeleton)
        poses, covariance = smooth(information + bones, vector + bone_vector, poses[0], steps, power)
    return Reconstruction(poses, sigma, noise)


def _look(session: Session) -> _Sight:
    seen = np.stack([rays(k[..., :2], c) for k, c in zip(session.keypoints, session.rig, strict=True)])
    known = (session.keypoints[..., 2] > 0) & np.isfinite(seen).all(-1)
    R, t = (np.stack([getattr(c, name) for c in session.rig]) for name in ("R", "t"))
    return _Sight(np.where(known[..., None], seen, 0.0), np.where(known, session.keypoints[..., 2], 0.0), R, t)


def _filled(points: Float64, session: Session) -> Float64:
    """Where to start from: gaps in time interpolated; a joint that is never triangulated starts at the mean of all."""
    known: NDArray[np.bool_] = np.all(np.isfinite(points), axis=-1)
    if not known.any():
        raise EdgeliftError(
            f"session {session.name}", "no joint that two views see at once", "overlapping views of one person",
            "Check views and cameras with `edgelift triangulate`.",
        )  # fmt: skip
    filled: Float64 = np.broadcast_to(points[known].mean(0), points.shape).copy()
    for joint in np.flatnonzero(np.any(known, axis=0)).tolist():
        rows = np.flatnonzero(known[:, joint])
        for axis in range(3):
            filled[:, joint, axis] = np.interp(session.timestamps, session.timestamps[rows], points[rows, joint, axis])
    return filled


def _residuals(poses: Float64, sight: _Sight) -> tuple[Float64, Float64]:
    """(views, frames, joints, 2) normalised image residuals and (views, frames, joints) depths in metres."""
    local = np.einsum("vxy,fjy->vfjx", sight.R, poses) + sight.t[:, None, None]
    depth = np.maximum(local[..., 2], NEAREST_M)
    return local[..., :2] / depth[..., None] - sight.rays, depth


def _noise(poses: Float64, sight: _Sight) -> float:
    """Standard deviation of a coordinate, radians: triangulation's median residual, less what its fit took away."""
    error = np.linalg.norm(_residuals(poses, sight)[0], axis=-1)
    views = (sight.weight > 0).sum(0)
    left = np.sqrt(np.maximum(2 * views - 3, 1) / np.maximum(2 * views, 1))
    median = np.median((error / left)[(sight.weight > 0) & (views >= 2)])
    return max(float(median / RAYLEIGH_MEDIAN), LEAST_NOISE)


def _measurements(poses: Float64, sight: _Sight, noise: float) -> tuple[Float64, Float64]:
    """Information (frames, joints, 3, 3) and its vector (frames, joints, 3) of all keypoints."""
    residual, depth = _residuals(poses, sight)
    robust = (TAIL_DEGREES + 2) / (TAIL_DEGREES + (residual**2).sum(-1) / noise**2)
    weight = sight.weight * robust / (depth * noise) ** 2
    rows = sight.R[:, None, None, :2] - sight.rays[..., None] * sight.R[:, None, None, 2:]
    offset = sight.t[:, None, None, :2] - sight.rays * sight.t[:, None, None, 2:]
    weighted = weight[..., None, None] * rows
    information = (weighted.swapaxes(-1, -2) @ rows).sum(0)
    vector = -(weighted * offset[..., None]).sum((0, -2))
    return information, vector


def _bones(poses: Float64, covariance: Float64, skeleton: Skeleton) -> tuple[Float64, Float64]:
    """The same for bones: each end lies a bone's length from the other, along the bone, as well as that is known."""
    information, vector = np.zeros_like(covariance), np.zeros_like(poses)
    for parent, child in skeleton.bones:
        bone = poses[:, child] - poses[:, parent]
        both = covariance[:, child] + covariance[:, parent]
        # noise lengthens bones: E|d + n|^2 = |d|^2 + trace of n's covariance
        length = np.sqrt(max(np.median((bone**2).sum(-1) - np.trace(both, axis1=-2, axis2=-1)), 1e-4))
        measured = np.linalg.norm(bone, axis=-1)
        along = bone / np.maximum(measured, 1e-9)[:, None]
        noise = np.median(np.einsum("fx,fxy,fy->f", along, both, along))
        changes = max(np.median((measured - length) ** 2) / MEDIAN_OF_SQUARE - noise, BONE_SIGMA_M**2)
        doubt = changes + (measured - length) ** 2 / TAIL_DEGREES  # far off, "along the bone" is a wrong direction too
        for own, other, sign in ((child, parent, 1), (parent, child, -1)):
            variance = doubt + np.einsum("fx,fxy,fy->f", along, covariance[:, other], along)
            at = (along * (poses[:, other] + sign * length * along)).sum(-1)
            information[:, own] += along[:, :, None] * along[:, None, :] / variance[:, None, None]
            vector[:, own] += along * (at / variance)[:, None]
    return information, vector


def _restlessness(skeleton: Skeleton) -> Float64:
    def of(name: str) -> float:
        kinds = (LIMB_ENDS, LIMB_MIDDLES)
        return next((p for p, k in zip(RESTLESSNESS, kinds, strict=False) if name.endswith(k)), RESTLESSNESS[-1])

    return np.array([of(name) for name in skeleton.joints])


def smooth(
    information: Float64, vector: Float64, start: Float64, steps: Float64, power: Float64
) -> tuple[Float64, Float64]:
    """Kalman filter forwards, Rauch-Tung-Striebel backwards, all tracks at once.

    information (n, tracks, 3, 3) and vector (n, tracks, 3) of the measurements (zeros: none), start (tracks, 3)
    metres, steps (n - 1,) seconds, power (tracks,) m2/s3. Returns means (n, tracks, 3), covariances (n, tracks, 3, 3).
    """
    tracks = len(start)
    x = np.concatenate([start, np.zeros((tracks, 3))], -1)
    P = np.tile(np.diag([UNKNOWN_M2] * 3 + [UNKNOWN_M2_S2] * 3), (tracks, 1, 1))
    means, covariances, predicted = [], [], []
    for n in range(len(information)):
        if n:
            F, Q = _motion(steps[n - 1])
            x, P = x @ F.T, F @ P @ F.T + power[:, None, None] * Q
        predicted.append((x, P))
        gain = P[..., :3] @ information[n] @ np.linalg.inv(np.eye(3) + P[..., :3, :3] @ information[n])
        P = P - gain @ P[..., :3, :]
        P = (P + P.swapaxes(-1, -2)) / 2
        x = x + np.einsum("txy,ty->tx", P[..., :3], vector[n] - np.einsum("txy,ty->tx", information[n], x[:, :3]))
        means.append(x)
        covariances.append(P)
    for n in range(len(information) - 2, -1, -1):
        (x, P), F = predicted[n + 1], _motion(steps[n])[0]
        G = covariances[n] @ F.T @ np.linalg.inv(P)
        means[n] = means[n] + np.einsum("txy,ty->tx", G, means[n + 1] - x)
        covariances[n] = covariances[n] + G @ (covariances[n + 1] - P) @ G.swapaxes(-1, -2)
    return np.stack(means)[..., :3], np.stack(covariances)[..., :3, :3]


def _motion(step: float) -> tuple[Float64, Float64]:
    """Transition (6, 6) and noise (6, 6) of one step: velocity fades with COASTING_S, noise as if it did not."""
    keep = np.exp(-step / COASTING_S)
    one = np.eye(3)
    F = np.block([[one, COASTING_S * (1 - keep) * one], [0 * one, keep * one]])
    Q = np.block([[step**3 / 3 * one, step**2 / 2 * one], [step**2 / 2 * one, step * one]])
    return F, Q
