"""Metrics of 3D poses in the field's names: MPJPE and its aligned kin, PCK, velocity error, flexion angles.

Inputs are `predicted` and `truth`, float (frames, joints, 3) metres in one frame (world or camera); a joint that is not
finite in either is unknown and left out of every mean. Results are millimetres unless a name says otherwise, and NaN
where nothing was known; `score` turns a comparison without any known joint into an EdgeliftError.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import FloatArray, Skeleton, check_joints

Float64 = NDArray[np.float64]

MM_PER_M = 1000.0
MIN_ALIGNED_JOINTS = 3  # fewer points leave a similarity (or a scale) undetermined, and the error meaninglessly small
PCK_THRESHOLD_MM = 150.0  # Mehta et al. 2017, MPI-INF-3DHP

_ANGLES = {
    "knee": ("hip", "knee", "ankle"),
    "hip": ("shoulder", "hip", "knee"),
    "elbow": ("shoulder", "elbow", "wrist"),
}
_SIDES = ("left", "right")


def joint_errors(predicted: FloatArray, truth: FloatArray) -> Float64:
    """Return (frames, joints) distances in mm, nothing aligned; NaN where a joint is unknown."""
    p, t = _pair(predicted, truth)
    return _distances(p, t)


def root_relative(poses: FloatArray, root: int) -> Float64:
    """Return (frames, joints, 3) poses with joint `root` at the origin; a frame without its root is all NaN."""
    p = np.asarray(poses, np.float64)
    return p - p[:, root : root + 1]


def procrustes_align(predicted: FloatArray, truth: FloatArray) -> Float64:
    """Return predicted (frames, joints, 3) moved onto truth by the best similarity a frame (Umeyama 1991).

    Rotation, translation and positive scale, never a reflection. NaN at unknown joints, and throughout a frame with
    fewer than 3 known joints.
    """
    p, t = _pair(predicted, truth)
    known = _known(p)
    centre = _mean_point(t, known)
    p, t = _centred(p, known), _centred(t, known)
    U, S, Vt = np.linalg.svd(np.swapaxes(p, -1, -2) @ t)
    sign = np.ones_like(S)
    sign[:, 2] = np.where(np.linalg.det(U @ Vt) < 0, -1.0, 1.0)  # the least harmful axis pays for a proper rotation
    spread = (p**2).sum((-1, -2))
    # a prediction that is one point has no scale; any does, as it lands on the centroid
    scale = (S * sign).sum(-1) / np.where(spread > 0, spread, 1.0)
    aligned = scale[:, None, None] * (p @ ((U * sign[:, None]) @ Vt)) + centre
    enough = known.sum(1, keepdims=True) >= MIN_ALIGNED_JOINTS
    return np.where(known & enough, aligned, np.nan)


def scale_align(predicted: FloatArray, truth: FloatArray) -> Float64:
    """Return predicted (frames, joints, 3) times the least-squares scale a frame, about the frame's origin.

    NaN at unknown joints, and throughout a frame with fewer than 3 known joints.
    """
    p, t = _pair(predicted, truth)
    known = _known(p)
    spread = np.where(known, p * p, 0.0).sum((-1, -2))
    scale = np.where(known, p * t, 0.0).sum((-1, -2)) / np.where(spread > 0, spread, 1.0)
    enough = known.sum(1, keepdims=True) >= MIN_ALIGNED_JOINTS
    return np.where(enough, p * scale[:, None, None], np.nan)


def mpjpe(predicted: FloatArray, truth: FloatArray) -> float:
    """Mean per-joint position error in mm, nothing aligned."""
    return _mean(joint_errors(predicted, truth))


def root_relative_mpjpe(predicted: FloatArray, truth: FloatArray, root: int) -> float:
    """MPJPE in mm with the roots aligned: what papers call protocol 1.

    The root's own zero counts in the mean, as in the field's code; over J joints that lowers it by 1/J.
    """
    return _mean(_relative_errors(predicted, truth, root))


def p_mpjpe(predicted: FloatArray, truth: FloatArray) -> float:
    """MPJPE in mm after the best similarity a frame (`procrustes_align`): what papers call protocol 2."""
    return _mean(_aligned_errors(predicted, truth))


def n_mpjpe(predicted: FloatArray, truth: FloatArray, root: int) -> float:
    """MPJPE in mm, root-relative, after the best scale a frame (Rhodin et al. 2018); the root's zero counts."""
    t = root_relative(truth, root)
    return _mean(joint_errors(scale_align(root_relative(predicted, root), t), t))


def root_error(predicted: FloatArray, truth: FloatArray, root: int) -> float:
    """Mean distance of the roots in mm, nothing aligned."""
    return _mean(joint_errors(predicted, truth)[:, root])


def pck(predicted: FloatArray, truth: FloatArray, root: int, threshold_mm: float = PCK_THRESHOLD_MM) -> float:
    """Fraction in [0, 1] of known joints whose root-relative error is below the threshold; the root's zero counts."""
    errors = _relative_errors(predicted, truth, root)
    return _mean(np.where(np.isfinite(errors), errors < threshold_mm, np.nan))


def velocity_error(predicted: FloatArray, truth: FloatArray, sequence: NDArray[np.integer] | None = None) -> float:
    """Mean distance in mm per frame between predicted and true displacements (MPJVE, Pavllo et al. 2019).

    Displacements go from frame to frame: per frame, not per second, so compare only at one frame rate. Nothing is
    aligned; give root-relative poses for the papers' number. `sequence` (frames,) marks which clip a frame is of: no
    displacement is taken across a seam.
    """
    p, t = _pair(predicted, truth)
    _check_labels("sequence", sequence, len(t))
    errors = _distances(np.diff(p, axis=0), np.diff(t, axis=0))
    return _mean(errors if sequence is None else errors[np.diff(sequence) == 0])


def mixed_mpjpe(predicted: FloatArray, truth: FloatArray, root: int) -> float:
    """Mean error in mm over a vector of absolute root and root-relative other joints, one weight a joint.

    The number of reports whose network output is that vector; neither `mpjpe` nor `root_relative_mpjpe`.
    """
    return _mean(mixed_errors(predicted, truth, root))


def mixed_errors(predicted: FloatArray, truth: FloatArray, root: int) -> Float64:
    """(frames, joints) in mm: the root's distance absolute, all others' relative to it; NaN where truth is."""
    errors = _relative_errors(predicted, truth, root)
    errors[:, root] = joint_errors(predicted, truth)[:, root]
    return errors


def flexion_angles(poses: FloatArray, skeleton: Skeleton) -> dict[str, Float64]:
    """Return degrees (frames,) of flexion under `left_knee`, `right_knee`, `left_hip` and so on.

    Knee is hip-knee-ankle, hip shoulder-hip-knee (the trunk's lean counts), elbow shoulder-elbow-wrist.
    poses (frames, joints, 3), any frame and unit. 0 is straight (180 degrees less the included angle); NaN where one of
    the three joints is unknown or a limb has no length.
    """
    check_joints(poses, skeleton)
    angles = {}
    for side in _SIDES:
        for name, chain in _ANGLES.items():
            a, b, c = (np.asarray(poses[:, skeleton.joints.index(f"{side}_{j}")], np.float64) for j in chain)
            angles[f"{side}_{name}"] = _turn_deg(b - a, c - b)
    return angles


def flexion_error_deg(predicted: FloatArray, truth: FloatArray, skeleton: Skeleton) -> dict[str, float]:
    """Return mean absolute differences of flexion in degrees, both sides together, for knee, hip and elbow."""
    p, t = _pair(predicted, truth)
    mine, theirs = flexion_angles(p, skeleton), flexion_angles(t, skeleton)
    sides = {name: [f"{side}_{name}" for side in _SIDES] for name in _ANGLES}
    return {name: _mean(np.stack([np.abs(mine[k] - theirs[k]) for k in keys])) for name, keys in sides.items()}


@dataclass(frozen=True)
class ActionScores:
    """The three headline errors of one action, mm, NaN where nothing was known."""

    mpjpe_mm: float
    root_relative_mpjpe_mm: float
    p_mpjpe_mm: float
    frames: int
    """Frames with a known joint."""


@dataclass(frozen=True)
class Scores:
    """Every metric of one comparison; a number is NaN where nothing it needs was known."""

    mpjpe_mm: float
    root_relative_mpjpe_mm: float
    p_mpjpe_mm: float
    n_mpjpe_mm: float
    root_error_mm: float
    pck150: float
    """Fraction in [0, 1]."""
    velocity_error_mm: float
    """mm per frame."""
    mixed_mpjpe_mm: float
    flexion_error_deg: dict[str, float]
    frames: int
    """Frames with a known joint."""
    per_joint_mm: dict[str, float]
    """Root-relative error of each joint."""
    per_action: dict[str, ActionScores]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and numbers that are valid JSON: None where a number is NaN."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def score(
    predicted: FloatArray,
    truth: FloatArray,
    skeleton: Skeleton,
    sequence: NDArray[np.integer] | None = None,
    actions: NDArray[np.str_] | None = None,
) -> Scores:
    """Return every metric of predicted against truth, (frames, joints, 3) metres of one skeleton in one frame.

    sequence (frames,) marks the clip of a frame (None: one clip), actions (frames,) its action (None: no split by
    action). EdgeliftError where no joint is known in both, or shapes differ.
    """
    check_joints(truth, skeleton)
    p, t = _pair(predicted, truth)
    _check_labels("actions", actions, len(t))
    root = skeleton.root
    absolute, relative, aligned = joint_errors(p, t), _relative_errors(p, t, root), _aligned_errors(p, t)
    if not np.isfinite(absolute).any():
        raise EdgeliftError(
            "metrics", f"{len(t)} frames without a joint known in prediction and truth", "at least one",
            "Check that the session holds poses and that prediction and truth cover the same frames.",
        )  # fmt: skip

    def of(frames: NDArray[np.bool_]) -> ActionScores:
        known = int(np.isfinite(absolute[frames]).any(-1).sum())
        return ActionScores(_mean(absolute[frames]), _mean(relative[frames]), _mean(aligned[frames]), known)

    everything = of(np.ones(len(t), np.bool_))
    return Scores(
        mpjpe_mm=everything.mpjpe_mm,
        root_relative_mpjpe_mm=everything.root_relative_mpjpe_mm,
        p_mpjpe_mm=everything.p_mpjpe_mm,
        n_mpjpe_mm=n_mpjpe(p, t, root),
        root_error_mm=root_error(p, t, root),
        pck150=pck(p, t, root, PCK_THRESHOLD_MM),
        velocity_error_mm=velocity_error(p, t, sequence),
        mixed_mpjpe_mm=mixed_mpjpe(p, t, root),
        flexion_error_deg=flexion_error_deg(p, t, skeleton),
        frames=everything.frames,
        per_joint_mm={joint: _mean(relative[:, j]) for j, joint in enumerate(skeleton.joints)},
        per_action={} if actions is None else {str(a): of(actions == a) for a in np.unique(actions)},
    )


def _pair(predicted: FloatArray, truth: FloatArray) -> tuple[Float64, Float64]:
    """Return both as float64, a joint NaN in both where it is not finite in either."""
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or t.ndim != 3 or t.shape[-1] != 3:
        raise EdgeliftError(
            "metrics", f"predicted {p.shape}, truth {t.shape}", "two arrays (frames, joints, 3)",
            "Convert both to one skeleton and one timeline first.",
        )  # fmt: skip
    known = _known(p) & _known(t)
    return np.where(known, p, np.nan), np.where(known, t, np.nan)


def _check_labels(name: str, labels: NDArray[Any] | None, frames: int) -> None:
    if labels is not None and labels.shape != (frames,):
        raise EdgeliftError(f"metrics: {name}", f"shape {labels.shape}", f"({frames},)", "Give one label a frame.")


def _known(points: Float64) -> NDArray[np.bool_]:
    """Where a point (..., 3) has all its numbers, (..., 1)."""
    return np.asarray(np.isfinite(points).all(-1, keepdims=True))


def _distances(p: Float64, t: Float64) -> Float64:
    distances: Float64 = np.linalg.norm(p - t, axis=-1) * MM_PER_M
    return distances


def _relative_errors(predicted: FloatArray, truth: FloatArray, root: int) -> Float64:
    return joint_errors(root_relative(predicted, root), root_relative(truth, root))


def _aligned_errors(predicted: FloatArray, truth: FloatArray) -> Float64:
    return joint_errors(procrustes_align(predicted, truth), truth)


def _mean_point(points: Float64, known: NDArray[np.bool_]) -> Float64:
    """Mean (frames, 1, 3) of the known points (frames, joints, 3); zero where none is."""
    mean: Float64 = np.where(known, points, 0.0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    return mean


def _centred(points: Float64, known: NDArray[np.bool_]) -> Float64:
    """Points less the mean of the known ones, zero where unknown."""
    return np.where(known, points - _mean_point(points, known), 0.0)


def _turn_deg(u: Float64, v: Float64) -> Float64:
    """Angle between two vectors (..., 3); arctan2 keeps its accuracy near straight limbs, where arccos loses it."""
    sine, cosine = np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(-1)
    degenerate = (np.linalg.norm(u, axis=-1) == 0) | (np.linalg.norm(v, axis=-1) == 0)
    return np.where(degenerate, np.nan, np.degrees(np.arctan2(sine, cosine)))


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
