"""Skeletons as data: joint names, parents, left/right pairs, and what each can derive for others.

Joint orders follow the detectors' and datasets' own documentation. A name means one anatomical point everywhere:
`mid_hip` and `mid_shoulder` are the midpoints that any detector can give, `pelvis` and `thorax` the joints of mocap
skeletons, which lie a few centimetres off them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError

FloatArray = NDArray[np.floating]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Skeleton:
    """Joint names in file order, their parents (-1 at the root), and joints it can derive as the mean of its own."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    derived: dict[str, tuple[str, ...]] = field(hash=False)

    @cached_property
    def root(self) -> int:
        """Index of the joint without a parent: the hip midpoint or pelvis where there is one, else the left hip."""
        return self.parents.index(-1)

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """For each joint the index of its left/right counterpart (itself on the midline)."""
        return tuple(self.joints.index(_other_side(name)) for name in self.joints)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(parent, child) index pairs."""
        return tuple((p, c) for c, p in enumerate(self.parents) if p >= 0)

    @cached_property
    def outwards(self) -> tuple[int, ...]:
        """All joints but the root, every one after its parent."""
        order = [self.root]
        for joint in order:
            order += [c for c, p in enumerate(self.parents) if p == joint]
        return tuple(order[1:])

    def beyond(self, joint: int) -> tuple[int, ...]:
        """Indices of the joints that move when the body bends at `joint`: its children, theirs, and so on."""
        found: list[int] = []
        for j in self.outwards:
            if self.parents[j] == joint or self.parents[j] in found:
                found.append(j)
        return tuple(found)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """For each joint the part of the body it belongs to: left_arm, right_arm, left_leg, right_leg or torso."""
        return tuple(_part(name) for name in self.joints)

    def sources(self, joint: str) -> tuple[int, ...] | None:
        """Return indices of own joints whose mean is `joint`, or None where this skeleton cannot give it."""
        if joint in self.joints:
            return (self.joints.index(joint),)
        names = self.derived.get(joint)
        return None if names is None else tuple(self.joints.index(n) for n in names)


def _other_side(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name[5:]
    return "left_" + name[6:] if name.startswith("right_") else name


_LEG = ("hip", "knee", "ankle", "toe", "heel", "foot")
_ARM = ("shoulder", "elbow", "wrist", "pinky", "index", "thumb")


def _part(name: str) -> str:
    side, _, place = name.partition("_")
    if side in ("left", "right"):
        for part, words in (("leg", _LEG), ("arm", _ARM)):  # legs first: there is a foot_index
            if any(word in place for word in words):
                return f"{side}_{part}"
    return "torso"


def _skeleton(name: str, tree: str, derived: dict[str, str]) -> Skeleton:
    """Parse `child<parent` words in joint order (no parent: the root)."""
    pairs = [word.partition("<") for word in tree.split()]
    joints = tuple(child for child, _, _ in pairs)
    parents = tuple(joints.index(parent) if parent else -1 for _, _, parent in pairs)
    return Skeleton(name, joints, parents, {k: tuple(v.split()) for k, v in derived.items()})


_HIPS = "left_hip right_hip"
_SHOULDERS = "left_shoulder right_shoulder"
_MIDPOINTS = {"mid_hip": _HIPS, "mid_shoulder": _SHOULDERS}
# what a face-and-limbs detector gives for the mocap joints (mmpose and MotionBERT agree on these for COCO)
_MOCAP = _MIDPOINTS | {"pelvis": _HIPS, "thorax": _SHOULDERS, "spine": f"{_HIPS} {_SHOULDERS}", "neck_nose": "nose"}

_COCO = """nose<left_shoulder left_eye<nose right_eye<nose left_ear<left_eye right_ear<right_eye
left_shoulder<left_hip right_shoulder<right_hip left_elbow<left_shoulder right_elbow<right_shoulder
left_wrist<left_elbow right_wrist<right_elbow left_hip right_hip<left_hip left_knee<left_hip right_knee<right_hip
left_ankle<left_knee right_ankle<right_knee"""

_FEET = """left_big_toe<left_ankle left_small_toe<left_ankle left_heel<left_ankle
right_big_toe<right_ankle right_small_toe<right_ankle right_heel<right_ankle"""

_ALL = (
    _skeleton("coco17", _COCO, _MOCAP | {"head": "left_eye right_eye"}),
    _skeleton(
        "body25",
        """nose<neck neck<mid_hip right_shoulder<neck right_elbow<right_shoulder right_wrist<right_elbow
        left_shoulder<neck left_elbow<left_shoulder left_wrist<left_elbow mid_hip right_hip<mid_hip
        right_knee<right_hip right_ankle<right_knee left_hip<mid_hip left_knee<left_hip left_ankle<left_knee
        right_eye<nose left_eye<nose right_ear<right_eye left_ear<left_eye """
        + _FEET,
        _MOCAP | {"pelvis": "mid_hip", "thorax": "neck", "spine": "mid_hip neck", "head": "left_eye right_eye"},
    ),
    _skeleton(
        "body25b", f"{_COCO} upper_neck<left_shoulder head_top<upper_neck {_FEET}", _MOCAP | {"head": "head_top"}
    ),
    _skeleton(
        "halpe26",
        f"""{_COCO.replace("left_hip right_hip<left_hip", "left_hip<hip right_hip<hip")}
        head_top<neck neck<hip hip left_big_toe<left_ankle right_big_toe<right_ankle left_small_toe<left_ankle
        right_small_toe<right_ankle left_heel<left_ankle right_heel<right_ankle""",
        _MOCAP | {"pelvis": "hip", "thorax": "neck", "spine": "hip neck", "head": "head_top"},
    ),
    _skeleton(
        "mediapipe33",
        """nose<left_shoulder left_eye_inner<nose left_eye<left_eye_inner left_eye_outer<left_eye
        right_eye_inner<nose right_eye<right_eye_inner right_eye_outer<right_eye left_ear<left_eye_outer
        right_ear<right_eye_outer left_mouth<nose right_mouth<nose left_shoulder<left_hip right_shoulder<right_hip
        left_elbow<left_shoulder right_elbow<right_shoulder left_wrist<left_elbow right_wrist<right_elbow
        left_pinky<left_wrist right_pinky<right_wrist left_index<left_wrist right_index<right_wrist
        left_thumb<left_wrist right_thumb<right_wrist left_hip right_hip<left_hip left_knee<left_hip
        right_knee<right_hip left_ankle<left_knee right_ankle<right_knee left_heel<left_ankle right_heel<right_ankle
        left_foot_index<left_ankle right_foot_index<right_ankle""",
        _MOCAP | {"head": "left_eye right_eye"},
    ),
    _skeleton(
        "h36m17",
        """pelvis right_hip<pelvis right_knee<right_hip right_ankle<right_knee left_hip<pelvis left_knee<left_hip
        left_ankle<left_knee spine<pelvis thorax<spine neck_nose<thorax head<neck_nose left_shoulder<thorax
        left_elbow<left_shoulder left_wrist<left_elbow right_shoulder<thorax right_elbow<right_shoulder
        right_wrist<right_elbow""",
        _MIDPOINTS,
    ),
    _skeleton(
        "humaneva15",
        """pelvis thorax<pelvis left_shoulder<thorax left_elbow<left_shoulder left_wrist<left_elbow
        right_shoulder<thorax right_elbow<right_shoulder right_wrist<right_elbow left_hip<pelvis left_knee<left_hip
        left_ankle<left_knee right_hip<pelvis right_knee<right_hip right_ankle<right_knee head<thorax""",
        _MIDPOINTS | {"spine": "pelvis thorax"},
    ),
    _skeleton(
        "common14",
        """mid_hip right_hip<mid_hip right_knee<right_hip right_ankle<right_knee left_hip<mid_hip left_knee<left_hip
        left_ankle<left_knee mid_shoulder<mid_hip left_shoulder<mid_shoulder left_elbow<left_shoulder
        left_wrist<left_elbow right_shoulder<mid_shoulder right_elbow<right_shoulder right_wrist<right_elbow""",
        {"pelvis": "mid_hip", "thorax": "mid_shoulder", "spine": "mid_hip mid_shoulder"},
    ),
)

SKELETONS: dict[str, Skeleton] = {s.name: s for s in _ALL}


def skeleton(name: str) -> Skeleton:
    """Return the skeleton of that name; EdgeliftError lists the known ones."""
    if name not in SKELETONS:
        raise EdgeliftError("skeleton", repr(name), f"one of {', '.join(SKELETONS)}", "Name the detector's skeleton.")
    return SKELETONS[name]


def convert(keypoints: FloatArray, source: Skeleton, target: Skeleton) -> FloatArray:
    """Convert keypoints (..., source joints, 3) = x, y, confidence to (..., target joints, 3), same unit and dtype.

    A derived joint is the mean of its sources and has the lowest of their confidences; it is missing (NaN, NaN, 0)
    where one of them is. EdgeliftError where the source cannot give a joint.
    """
    check_joints(keypoints, source)
    known = np.where(keypoints[..., 2:] > 0, keypoints, _missing(keypoints.dtype))
    first, derived = _gather(source, target)
    out = known.take(first, -2)
    for joints, sources in derived:  # few joints are derived, and a live stream converts every frame
        parents = known.take(sources, -2)
        out[..., joints, :2] = np.add.reduce(parents[..., :2], -2) / parents.shape[-2]
        out[..., joints, 2] = np.minimum.reduce(parents[..., 2], -1)
    return out


def convert_poses(poses: FloatArray, source: Skeleton, target: Skeleton) -> FloatArray:
    """Convert 3D poses (..., source joints, 3), any frame and unit; NaN (unknown) passes on."""
    check_joints(poses, source)
    return np.stack([poses[..., index, :].mean(-2) for index in _plan(source, target)], axis=-2)


def check_joints(array: FloatArray, owner: Skeleton) -> None:
    """EdgeliftError unless the last but one axis counts the skeleton's joints and the last one 3 numbers."""
    if array.ndim < 2 or array.shape[-2:] != (len(owner.joints), 3):
        raise EdgeliftError(
            f"joints of skeleton {owner.name}",
            f"an array of shape {array.shape}",
            f"(..., {len(owner.joints)}, 3)",
            f"Name the skeleton that the file was written in ({', '.join(SKELETONS)}).",
        )


@cache
def _plan(source: Skeleton, target: Skeleton) -> tuple[tuple[int, ...], ...]:
    """For each target joint the source joints whose mean it is."""
    plans = {joint: source.sources(joint) for joint in target.joints}
    lost = [joint for joint, plan in plans.items() if plan is None]
    if lost:
        raise EdgeliftError(
            f"conversion {source.name} to {target.name}",
            f"no source for {', '.join(lost)}",
            "every joint present or derivable",
            "Use common14, which every skeleton gives.",
        )
    return tuple(plan for plan in plans.values() if plan is not None)


@cache
def _missing(dtype: np.dtype[np.floating]) -> FloatArray:
    return np.array([np.nan, np.nan, 0], dtype)


@cache
def _gather(source: Skeleton, target: Skeleton) -> tuple[Indices, list[tuple[Indices, Indices]]]:
    """Each target joint's first source; then, for every number of sources above one, the joints and their sources."""
    plan = _plan(source, target)
    counts = sorted({len(sources) for sources in plan} - {1})
    derived = [[(j, sources) for j, sources in enumerate(plan) if len(sources) == count] for count in counts]
    groups = [(np.array([j for j, _ in group]), np.array([s for _, s in group])) for group in derived]
    return np.array([sources[0] for sources in plan]), groups
