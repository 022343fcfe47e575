from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.blocks import BLOCK
from edgelift.poses.formats.bvh import rotations_to_degrees, write_bvh
from edgelift.poses.motion import load_motion
from edgelift.poses.skeletons import SKELETONS, Skeleton, convert_poses, skeleton

Float64 = NDArray[np.float64]
COMMON14 = skeleton("common14")
AXES = {"X": 0, "Y": 1, "Z": 2}


@dataclass
class Bvh:
    """A BVH file, as a program that knows nothing of ours reads it."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[Float64] = field(default_factory=list)
    channels: list[list[str]] = field(default_factory=list)
    interval_s: float = 0.0
    motion: Float64 = field(default_factory=lambda: np.empty(0))

    def rotations(self) -> Float64:
        """(frames, nodes, 3, 3) relative to the parents."""
        out = np.tile(np.eye(3), (len(self.motion), len(self.names), 1, 1))
        column = 0
        for node, channels in enumerate(self.channels):
            for channel in channels:
                if channel.endswith("rotation"):
                    out[:, node] = out[:, node] @ about(channel[0], np.radians(self.motion[:, column]))
                column += 1
        return out

    def places(self) -> dict[str, Float64]:
        """By name (frames, 3), in the file's unit and axes: forward kinematics."""
        turns, rotations, places = self.rotations(), [], []
        for node, parent in enumerate(self.parents):
            if parent < 0:
                assert self.channels[node][:3] == ["Xposition", "Yposition", "Zposition"]
                places.append(self.offsets[node] + self.motion[:, :3])
                rotations.append(turns[:, node])
            else:
                places.append(places[parent] + rotations[parent] @ self.offsets[node])
                rotations.append(rotations[parent] @ turns[:, node])
        return dict(zip(self.names, places, strict=True))


def about(axis: str, angle: Float64) -> Float64:
    i = AXES[axis]
    j, k = (i + 1) % 3, (i + 2) % 3
    out = np.zeros((len(angle), 3, 3))
    out[:, i, i] = 1
    out[:, j, j] = out[:, k, k] = np.cos(angle)
    out[:, k, j], out[:, j, k] = np.sin(angle), -np.sin(angle)
    return out


def read_bvh(path: Path) -> Bvh:
    head, _, tail = path.read_text(encoding="utf-8").partition("MOTION\n")
    bvh, words = Bvh(), iter(head.split())
    open_nodes: list[int] = []
    for word in words:
        if word in ("ROOT", "JOINT"):
            bvh.parents.append(open_nodes[-1] if open_nodes else -1)
            bvh.names.append(next(words))
            kind = len(bvh.names) - 1
        elif word == "End":
            assert next(words) == "Site"
            kind = -1
        elif word == "{":
            open_nodes.append(kind)
        elif word == "}":
            open_nodes.pop()
        elif word == "OFFSET":
            offset = np.array([float(next(words)) for _ in range(3)])
            if open_nodes[-1] >= 0:
                bvh.offsets.append(offset)
        elif word == "CHANNELS":
            bvh.channels.append([next(words) for _ in range(int(next(words)))])
    assert not open_nodes
    frames, time, *rows = tail.splitlines()
    bvh.interval_s = float(time.removeprefix("Frame Time:"))
    bvh.motion = np.array([[float(cell) for cell in row.split()] for row in rows])
    assert bvh.motion.shape == (int(frames.removeprefix("Frames:")), sum(map(len, bvh.channels)))
    return bvh


def joints_of(bvh: Bvh, body: Skeleton) -> Float64:
    """(frames, joints, 3) metres, Z-up."""
    places = bvh.places()
    return np.stack([places[name] for name in body.joints], axis=1)[..., [2, 0, 1]] / 100


def directions(poses: Float64, body: Skeleton) -> Float64:
    bones = np.stack([poses[:, c] - poses[:, p] for p, c in body.bones], axis=1)
    unit: Float64 = bones / np.linalg.norm(bones, axis=-1, keepdims=True)
    return unit


def angles(a: Float64, b: Float64) -> Float64:
    """Between unit vectors, exact near zero as an arccosine is not."""
    between: Float64 = 2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1))
    return between


def puppet(body: Skeleton, frames: int, seed: int = 0) -> Float64:
    """A figure whose bones keep their lengths and point anywhere: (frames, joints, 3) metres."""
    rng = np.random.default_rng(seed)
    poses = np.zeros((frames, len(body.joints), 3))
    poses[:, body.root] = rng.uniform(-3, 3, (frames, 3))
    for joint in body.outwards:
        direction = rng.normal(size=(frames, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        poses[:, joint] = poses[:, body.parents[joint]] + rng.uniform(0.1, 0.5) * direction
    return poses


@pytest.mark.parametrize("name", SKELETONS)
def test_a_figure_of_constant_bones_comes_back(tmp_path: Path, name: str) -> None:
    body = SKELETONS[name]
    poses = puppet(body, 50)
    assert write_bvh(tmp_path / "a.bvh", poses, 1 / 30, body) == 0
    bvh = read_bvh(tmp_path / "a.bvh")
    again = joints_of(bvh, body)
    assert bvh.interval_s == pytest.approx(1 / 30, abs=1e-7)
    np.testing.assert_allclose(again[:, body.root], poses[:, body.root], rtol=0, atol=1e-6)
    assert angles(directions(again, body), directions(poses, body)).max() < 1e-4
    np.testing.assert_allclose(again, poses, rtol=0, atol=1e-5)


def test_real_motion_keeps_its_directions(tmp_path: Path, shared: Path) -> None:
    clips = load_motion(shared / "mocap" / "cmu17.npz", "test")
    clip = max(clips, key=lambda c: float(np.ptp(c.poses[..., 2])))  # who moves up and down the most
    poses = convert_poses(clip.poses, clip.skeleton, COMMON14).astype(np.float64)
    write_bvh(tmp_path / "a.bvh", poses, 1 / clip.fps, COMMON14)
    again = joints_of(read_bvh(tmp_path / "a.bvh"), COMMON14)
    assert angles(directions(again, COMMON14), directions(poses, COMMON14)).max() < 1e-4
    lengths = np.stack([np.linalg.norm(poses[:, c] - poses[:, p], axis=-1) for p, c in COMMON14.bones])
    stretch = np.abs(lengths - np.median(lengths, axis=1, keepdims=True))
    # a joint is off by what the bones between it and the root stretch, and by nothing else
    for joint in COMMON14.outwards:
        chain, at = 0, joint
        while at != COMMON14.root:
            chain = chain + stretch[[c for _, c in COMMON14.bones].index(at)]
            at = COMMON14.parents[at]
        assert (np.linalg.norm(again[:, joint] - poses[:, joint], axis=-1) <= chain + 1e-5).all()


def test_bones_are_not_twisted_about_themselves(tmp_path: Path) -> None:
    write_bvh(tmp_path / "a.bvh", puppet(COMMON14, 40), 0.05, COMMON14)
    bvh = read_bvh(tmp_path / "a.bvh")
    turns = bvh.rotations()
    checked = 0
    for node in range(len(bvh.names)):
        children = [c for c, p in enumerate(bvh.parents) if p == node]
        if len(children) != 1:
            continue
        bone = bvh.offsets[children[0]]
        axis = np.stack([turns[:, node, 2, 1], turns[:, node, 0, 2], turns[:, node, 1, 0]], -1)
        axis -= np.stack([turns[:, node, 1, 2], turns[:, node, 2, 0], turns[:, node, 0, 1]], -1)
        np.testing.assert_allclose(axis @ bone / np.linalg.norm(bone), 0, atol=1e-6)
        checked += 1
    assert checked == 13  # eight joints with one child, five extra ones


def test_children_on_one_line_leave_no_twist(tmp_path: Path) -> None:
    """Both shoulders lie on a line through mid_shoulder: how far it turns about that line is not seen."""
    poses = puppet(COMMON14, 40)
    left, right, middle = (COMMON14.joints.index(n) for n in ("left_shoulder", "right_shoulder", "mid_shoulder"))
    half = (poses[:, left] - poses[:, middle]) * 0.8
    poses[:, left], poses[:, right] = poses[:, middle] + half, poses[:, middle] - half
    write_bvh(tmp_path / "a.bvh", poses, 0.05, COMMON14)
    bvh = read_bvh(tmp_path / "a.bvh")
    turn = bvh.rotations()[:, bvh.names.index("mid_shoulder")]
    along_x = np.stack([turn[:, 2, 1] - turn[:, 1, 2]])  # the shoulders' line at rest
    np.testing.assert_allclose(along_x, 0, atol=1e-5)


def test_a_rigid_pelvis_turns_as_one(tmp_path: Path) -> None:
    """Hips and spine as they are at rest, turned: the joint takes the whole turn, those for each child none."""
    poses = puppet(COMMON14, 40)
    rng = np.random.default_rng(3)
    z, x, y = rng.uniform(-3, 3, (3, 40))
    turn = about("Z", z) @ about("X", x) @ about("Y", y)
    for name, rest in (("left_hip", (0.1, 0, 0)), ("right_hip", (-0.1, 0, 0)), ("mid_shoulder", (0, 0.5, 0))):
        joint = COMMON14.joints.index(name)
        moved = (poses[:, [0]] + (turn @ np.array(rest))[:, None, [2, 0, 1]]) - poses[:, [joint]]
        poses[:, [joint, *COMMON14.beyond(joint)]] += moved
    write_bvh(tmp_path / "a.bvh", poses, 0.05, COMMON14)
    bvh = read_bvh(tmp_path / "a.bvh")
    np.testing.assert_allclose(bvh.rotations()[:, 0], turn, rtol=0, atol=1e-5)
    for name in ("left_hip", "right_hip", "mid_shoulder"):
        extra = bvh.rotations()[:, bvh.names.index(f"mid_hip_to_{name}")]
        np.testing.assert_allclose(extra, np.tile(np.eye(3), (40, 1, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SKELETONS)
def test_at_rest_everybody_stands_facing_z(tmp_path: Path, name: str) -> None:
    body = SKELETONS[name]
    write_bvh(tmp_path / "a.bvh", puppet(body, 3), 0.05, body)
    bvh = read_bvh(tmp_path / "a.bvh")
    bvh.motion = np.zeros((1, bvh.motion.shape[1]))
    rest = {joint: place[0] for joint, place in bvh.places().items()}
    across = rest["left_shoulder"] - rest["right_shoulder"]
    assert across[0] > 0
    for side, sign in (("left", 1), ("right", -1)):
        upper_arm = rest[f"{side}_elbow"] - rest[f"{side}_shoulder"]
        shin = rest[f"{side}_ankle"] - rest[f"{side}_knee"]
        assert upper_arm[0] * sign == pytest.approx(np.linalg.norm(upper_arm))
        assert -shin[1] == pytest.approx(np.linalg.norm(shin))
    if "nose" in rest and "left_ear" in rest:
        assert rest["nose"][2] > rest["left_ear"][2]


def test_an_arm_turned_right_round_is_still_drawn(tmp_path: Path) -> None:
    """Opposite to where it is at rest, every axis across is as short."""
    poses = np.repeat(puppet(COMMON14, 1), 2, axis=0)
    elbow, wrist = COMMON14.joints.index("left_elbow"), COMMON14.joints.index("left_wrist")
    poses[1, wrist] = poses[1, elbow] - (poses[1, elbow] - poses[1, COMMON14.joints.index("left_shoulder")])
    write_bvh(tmp_path / "a.bvh", poses, 0.05, COMMON14)
    again = joints_of(read_bvh(tmp_path / "a.bvh"), COMMON14)
    bent = directions(again, COMMON14)[:, [c for _, c in COMMON14.bones].index(wrist)]
    np.testing.assert_allclose(bent, directions(poses, COMMON14)[:, 9], atol=1e-6)


def test_gaps_repeat_the_pose_before(tmp_path: Path) -> None:
    frames = BLOCK + 20
    poses = np.repeat(puppet(COMMON14, 1), frames, axis=0) + np.arange(frames)[:, None, None] * 0.001
    poses[:2] = np.nan  # before anybody was seen
    poses[BLOCK - 3 : BLOCK + 4] = np.nan  # over the end of a block
    poses[BLOCK + 10, 5, 1] = np.nan  # one joint
    assert write_bvh(tmp_path / "a.bvh", poses, 0.05, COMMON14) == 10
    again = joints_of(read_bvh(tmp_path / "a.bvh"), COMMON14)
    shown = np.arange(frames)
    shown[:2], shown[BLOCK - 3 : BLOCK + 4], shown[BLOCK + 10] = 2, BLOCK - 4, BLOCK + 9
    np.testing.assert_allclose(again, poses[shown], rtol=0, atol=1e-5)


@pytest.mark.parametrize("x", [0.3, 1.2, np.pi / 2, -np.pi / 2, np.pi / 2 - 1e-7])
def test_angles_give_the_rotation_back(x: float) -> None:
    z, y = (a.ravel() for a in np.meshgrid(np.linspace(-3, 3, 7), np.linspace(-3, 3, 5)))
    rotations = about("Z", z) @ about("X", np.full_like(z, x)) @ about("Y", y)
    turned = np.radians(rotations_to_degrees(rotations))
    again = about("Z", turned[:, 0]) @ about("X", turned[:, 1]) @ about("Y", turned[:, 2])
    np.testing.assert_allclose(again, rotations, rtol=0, atol=1e-8)


def test_a_take_without_one_whole_pose_is_refused(tmp_path: Path) -> None:
    poses = puppet(COMMON14, 5)
    poses[:, 3] = np.nan
    with pytest.raises(EdgeliftError, match="every joint"):
        write_bvh(tmp_path / "a.bvh", poses, 0.05, COMMON14)
    assert not list(tmp_path.iterdir())
