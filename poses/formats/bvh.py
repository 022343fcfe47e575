"""BVH motion: a skeleton at rest and the rotations of its joints, what animation tools read.

A lifter gives positions, BVH wants rotations, and positions do not say everything: **how far a bone is twisted about
itself cannot be seen from them.** Each joint is turned by the smallest rotation, relative to its parent, that carries
the bone at rest onto the measured one, which leaves the twist at rest. The format has no comments to say so in.

- Centimetres, Y-up: (x, y, z) of the file is (y, z, x) of the Z-up world, as in our TRC files.
- Rest: a T-pose that faces +Z, arms along X (left is +X), with the median bone lengths of the take. A bone that
  stretches is drawn at that length, in the measured direction.
- A joint with several children is turned as fits them best, and each child hangs on a joint of its own there, of length
  zero (`mid_hip_to_left_hip`), that turns the rest of the way: a pelvis and a spine are not one rigid body.
- The root has a position and a rotation, every other joint a rotation: Z, then X, then Y, degrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.poses.formats.blocks import Poses, blocks
from edgelift.poses.formats.trc import TO_Y_UP
from edgelift.poses.skeletons import Skeleton

Float64 = NDArray[np.float64]

CM_PER_M = 100
LENGTH_FRAMES = 10_000  # so many of a take, evenly spread, say how long its bones are
PULL_TO_REST = 1e-6  # decides what children on one line leave open (shoulders beside a neck), and nothing else
_NO_DIRECTION = 1e-9  # metres: two joints on one point have none between them
_CHANNELS = "Zrotation Xrotation Yrotation"

# where joints are at rest (x left, y up, z forward); only the directions between them are used, `left_` is mirrored
_T_POSE = {
    "pelvis": (0, 95, 0), "mid_hip": (0, 95, 0), "hip": (0, 95, 0), "spine": (0, 120, 0), "thorax": (0, 145, 0),
    "mid_shoulder": (0, 145, 0), "neck": (0, 145, 0), "upper_neck": (0, 155, 0), "neck_nose": (0, 157, 5),
    "head": (0, 170, 0), "head_top": (0, 175, 0), "nose": (0, 162, 12),
    "left_eye": (3, 166, 10), "left_eye_inner": (2, 166, 11), "left_eye_outer": (5, 166, 9), "left_ear": (8, 163, 0),
    "left_mouth": (3, 157, 10), "left_shoulder": (18, 145, 0), "left_elbow": (45, 145, 0), "left_wrist": (70, 145, 0),
    "left_pinky": (78, 145, -3), "left_index": (79, 145, 3), "left_thumb": (74, 145, 5),
    "left_hip": (10, 95, 0), "left_knee": (10, 50, 0), "left_ankle": (10, 8, 0), "left_heel": (10, 2, -5),
    "left_big_toe": (8, 2, 17), "left_small_toe": (15, 2, 15), "left_foot_index": (10, 2, 17),
}  # fmt: skip


@dataclass(frozen=True)
class _Node:
    """A joint of the file. joint: the joint it lies on; aims: the joints it turns towards; parent: -1 at the root."""

    name: str
    joint: int
    parent: int
    aims: tuple[int, ...]
    depth: int


def write_bvh(path: Path, poses: Poses, interval_s: float, skeleton: Skeleton) -> int:
    """Write poses (frames, joints, 3), metres, Z-up, a frame every interval_s seconds; see the module for what is kept.

    A frame with an unknown joint (NaN) repeats the pose before it; frames before the first whole pose show that one.
    Returns how many frames were filled so. EdgeliftError where no frame is whole.
    """
    first, lengths = _first_pose_and_lengths(path, poses, skeleton)
    nodes, rest = _nodes(skeleton), _rest_directions(skeleton)
    filled = 0
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in _hierarchy(nodes, rest * lengths[:, None] * CM_PER_M))
        file.write(f"MOTION\nFrames: {poses.shape[0]}\nFrame Time: {interval_s:.7f}\n")
        numbers = " ".join(["%.6f"] * 3 * (len(nodes) + 1)) + "\n"
        for block in blocks(poses):
            whole, repeated = _filled(_y_up(block), first)
            first, filled = whole[-1], filled + repeated
            turns = rotations_to_degrees(_rotations(whole, nodes, rest)).reshape(len(whole), -1)
            rows = np.concatenate([whole[:, skeleton.root] * CM_PER_M, turns], axis=1).tolist()
            file.writelines(numbers % tuple(row) for row in rows)
    return filled


def rotations_to_degrees(rotations: Float64) -> Float64:
    """Rotations (..., 3, 3) to (..., 3) angles about z, x, y in degrees: R = Rz Rx Ry.

    With x at 90 degrees z and y turn about one axis; y is 0 then.
    """
    level = np.hypot(rotations[..., 0, 1], rotations[..., 1, 1])
    x = np.arctan2(rotations[..., 2, 1], level)
    locked = level < 1e-9
    z = np.where(
        locked,
        np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]),
        np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1]),
    )
    y = np.where(locked, 0, np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2]))
    angles: Float64 = np.degrees(np.stack([z, x, y], axis=-1))
    return angles


def _y_up(block: NDArray[np.floating]) -> Float64:
    return block[..., TO_Y_UP].astype(np.float64)


def _first_pose_and_lengths(path: Path, poses: Poses, skeleton: Skeleton) -> tuple[Float64, Float64]:
    """The first whole pose (joints, 3), Y-up, and the median length of the bone that ends at each joint (root: 0)."""
    step = -(-poses.shape[0] // LENGTH_FRAMES)
    first, lengths = None, []
    for block in blocks(poses):
        whole = _y_up(block[np.isfinite(block).all((1, 2))])
        if len(whole):
            first = whole[0] if first is None else first
            bones = [whole[::step, c] - whole[::step, p] for p, c in skeleton.bones]
            lengths.append(np.linalg.norm(np.stack(bones, axis=1), axis=-1))
    if first is None:
        raise EdgeliftError(str(path), "no frame with every joint", "one at least", "Write .trc, which has gaps.")
    median = np.zeros(len(skeleton.joints))
    median[[child for _, child in skeleton.bones]] = np.median(np.concatenate(lengths), axis=0)
    return first, median


def _filled(block: Float64, before: Float64) -> tuple[Float64, int]:
    """Put the newest whole pose (of the block, or the one before it) where a joint is unknown; say how often."""
    whole = np.isfinite(block).all((1, 2))
    newest = np.maximum.accumulate(np.where(whole, np.arange(1, len(block) + 1), 0))
    return np.concatenate([before[None], block])[newest], int((~whole).sum())


def _nodes(skeleton: Skeleton) -> tuple[_Node, ...]:
    """The file's joints, every one after its parent and before its siblings' children, as BVH nests them."""
    nodes: list[_Node] = []

    def visit(joint: int, parent: int, depth: int) -> None:
        own, name = len(nodes), skeleton.joints[joint]
        children = tuple(c for c, p in enumerate(skeleton.parents) if p == joint)
        nodes.append(_Node(name, joint, parent, children, depth))
        for child in children:
            if len(children) == 1:
                visit(child, own, depth + 1)
                continue
            nodes.append(_Node(f"{name}_to_{skeleton.joints[child]}", joint, own, (child,), depth + 1))
            visit(child, len(nodes) - 1, depth + 2)

    visit(skeleton.root, -1, 0)
    return tuple(nodes)


def _rest_directions(skeleton: Skeleton) -> Float64:
    """(joints, 3) unit vectors, Y-up: where the bone that ends at each joint points at rest (root: 0)."""
    places = np.array([_at_rest(name) for name in skeleton.joints], dtype=np.float64)
    directions = np.zeros_like(places)
    for parent, child in skeleton.bones:
        directions[child] = _unit(places[child] - places[parent])
    return directions


def _at_rest(joint: str) -> tuple[float, float, float]:
    if not joint.startswith("right_"):
        return _T_POSE[joint]
    x, y, z = _T_POSE["left_" + joint[6:]]
    return -x, y, z


def _hierarchy(nodes: tuple[_Node, ...], offsets: Float64) -> Iterator[str]:
    """The lines of HIERARCHY. offsets (joints, 3) centimetres at rest, from the joint before."""
    yield "HIERARCHY"
    for number, node in enumerate(nodes):
        indent = "\t" * node.depth
        # a joint that lies where its parent does is one of the extra ones
        moved = node.parent >= 0 and nodes[node.parent].joint != node.joint
        x, y, z = offsets[node.joint] if moved else (0, 0, 0)
        position = "Xposition Yposition Zposition " if node.parent < 0 else ""
        yield f"{indent}{'JOINT' if node.parent >= 0 else 'ROOT'} {node.name}"
        yield f"{indent}{{"
        yield f"{indent}\tOFFSET {x:.6f} {y:.6f} {z:.6f}"
        yield f"{indent}\tCHANNELS {6 if position else 3} {position}{_CHANNELS}"
        if not node.aims:
            yield from (f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET 0 0 0", f"{indent}\t}}")
        deeper = nodes[number + 1].depth if number + 1 < len(nodes) else 0
        for depth in range(node.depth, deeper - 1, -1):
            yield "\t" * depth + "}"


def _rotations(poses: Float64, nodes: tuple[_Node, ...], rest: Float64) -> Float64:
    """Rotations (frames, nodes, 3, 3) of each node relative to its parent, of poses (frames, joints, 3), Y-up."""
    own = np.tile(np.eye(3), (len(poses), len(nodes), 1, 1))
    world = own.copy()
    for number, node in enumerate(nodes):
        before = world[:, node.parent] if node.parent >= 0 else np.eye(3)
        if node.aims:
            bones = poses[:, list(node.aims)] - poses[:, [node.joint]]
            seen = bones @ before  # row vectors: the inverse of the parent's rotation
            short = np.linalg.norm(seen, axis=-1, keepdims=True) < _NO_DIRECTION
            seen = _unit(np.where(short, rest[list(node.aims)], seen))
            fit = _best_rotations if len(node.aims) > 1 else _smallest_rotations
            own[:, number] = fit(rest[list(node.aims)], seen)
        world[:, number] = before @ own[:, number]
    return own


def _smallest_rotations(rest: Float64, seen: Float64) -> Float64:
    """Rotations (frames, 3, 3) that carry the unit vector rest (1, 3) onto seen (frames, 1, 3) the shortest way."""
    half = rest + seen
    # opposite: any axis across the bone is as short
    across = _unit(np.cross(rest, np.eye(3)[np.abs(rest[0]).argmin()]))
    half = _unit(np.where(np.linalg.norm(half, axis=-1, keepdims=True) < _NO_DIRECTION, across, half))
    # two half turns, about the bone and about halfway: exact where the formula with the sine loses digits
    return _half_turns(half[:, 0]) @ _half_turns(rest)


def _half_turns(axes: Float64) -> Float64:
    return 2 * axes[:, :, None] * axes[:, None, :] - np.eye(3)


def _best_rotations(rest: Float64, seen: Float64) -> Float64:
    """Rotations (frames, 3, 3) that carry unit vectors rest (k, 3) nearest to seen (frames, k, 3): Kabsch 1976."""
    u, _, vt = np.linalg.svd(np.einsum("fki,kj->fij", seen, rest) + PULL_TO_REST * np.eye(3))
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]  # never a mirror image
    turned: Float64 = u @ vt
    return turned


def _unit(vectors: Float64) -> Float64:
    unit: Float64 = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
