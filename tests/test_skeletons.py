import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import SKELETONS, Skeleton, check_joints, convert, convert_poses, skeleton

COUNTS = {
    "coco17": 17,
    "body25": 25,
    "body25b": 25,
    "halpe26": 26,
    "mediapipe33": 33,
    "h36m17": 17,
    "humaneva15": 15,
    "common14": 14,
}
COCO, H36M, COMMON = skeleton("coco17"), skeleton("h36m17"), skeleton("common14")
every_skeleton = pytest.mark.parametrize("owner", SKELETONS.values(), ids=SKELETONS)


def test_joint_counts() -> None:
    assert {name: len(s.joints) for name, s in SKELETONS.items()} == COUNTS


# the joint orders of the detectors' and data sets' own documentation, in their words
FACE = "nose Leye Reye Lear Rear"
BOTH = "Lsho Rsho Lelb Relb Lwri Rwri"
COCO_ORDER = f"{FACE} {BOTH} Lhip Rhip Lkne Rkne Lank Rank"
FEET = "Lbigtoe Lsmalltoe Lheel Rbigtoe Rsmalltoe Rheel"
ORDERS = {
    "coco17": COCO_ORDER,
    "body25": "nose neck "
    "Rsho Relb Rwri Lsho Lelb Lwri midhip Rhip Rkne Rank Lhip Lkne Lank Reye Leye Rear Lear " + FEET,
    "body25b": f"{COCO_ORDER} upperneck headtop {FEET}",
    "halpe26": f"{COCO_ORDER} headtop neck hip Lbigtoe Rbigtoe Lsmalltoe Rsmalltoe Lheel Rheel",
    "mediapipe33": f"nose Leyeinner Leye Leyeouter Reyeinner Reye Reyeouter Lear Rear Lmouth Rmouth {BOTH} "
    "Lpinky Rpinky Lindex Rindex Lthumb Rthumb Lhip Rhip Lkne Rkne Lank Rank Lheel Rheel Lfootindex Rfootindex",
    "h36m17": "pelvis Rhip Rkne Rank Lhip Lkne Lank spine thorax necknose head Lsho Lelb Lwri Rsho Relb Rwri",
    "humaneva15": "pelvis thorax Lsho Lelb Lwri Rsho Relb Rwri Lhip Lkne Lank Rhip Rkne Rank head",
    "common14": "midhip Rhip Rkne Rank Lhip Lkne Lank midshoulder Lsho Lelb Lwri Rsho Relb Rwri",
}
FULL = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "kne": "knee", "ank": "ankle"}


@every_skeleton
def test_joint_orders_are_the_documented_ones(owner: Skeleton) -> None:
    def spelt_out(word: str) -> str:
        side = {"L": "left", "R": "right"}.get(word[0], "")
        own = word[1:] if side else word
        return side + FULL.get(own, own)

    assert [name.replace("_", "") for name in owner.joints] == [spelt_out(word) for word in ORDERS[owner.name].split()]


def test_mocap_parents_are_the_documented_ones() -> None:
    assert H36M.parents == (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
    assert skeleton("humaneva15").parents == (-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1)


@every_skeleton
def test_names_are_distinct_and_every_joint_hangs_from_one_root(owner: Skeleton) -> None:
    assert len(set(owner.joints)) == len(owner.joints) == len(owner.parents)
    assert owner.parents.count(-1) == 1
    for joint in range(len(owner.joints)):
        path = [joint]
        while owner.parents[path[-1]] >= 0:
            path.append(owner.parents[path[-1]])
            assert len(path) <= len(owner.joints), f"a cycle at {owner.joints[joint]}"
        assert path[-1] == owner.root
    assert len(owner.bones) == len(owner.joints) - 1


@every_skeleton
def test_mirror_is_an_involution_that_swaps_sides_and_bones(owner: Skeleton) -> None:
    mirror = owner.mirror
    assert [mirror[m] for m in mirror] == list(range(len(owner.joints)))
    for joint, other in zip(owner.joints, (owner.joints[m] for m in mirror), strict=True):
        assert other.replace("left_", "right_") == joint.replace("left_", "right_")
        assert (other == joint) == (not joint.startswith(("left_", "right_")))
    # where the root is on the midline, the mirrored tree is the tree
    if mirror[owner.root] == owner.root:
        bones = {(mirror[p], mirror[c]) for p, c in owner.bones}
        lopsided = {b for b in bones ^ set(owner.bones) if "nose" not in owner.joints[b[1]]}
        assert not lopsided


@every_skeleton
def test_every_skeleton_gives_common14_and_keeps_its_own_joints(owner: Skeleton) -> None:
    keypoints = np.random.default_rng(0).uniform(0.1, 1, size=(2, len(owner.joints), 3))
    common = convert(keypoints, owner, COMMON)
    knee, mine = COMMON.joints.index("left_knee"), owner.joints.index("left_knee")
    np.testing.assert_array_equal(common[:, knee], keypoints[:, mine])
    np.testing.assert_array_equal(convert(keypoints, owner, owner), keypoints)


@every_skeleton
def test_conversion_commutes_with_mirroring(owner: Skeleton) -> None:
    keypoints = np.random.default_rng(1).uniform(0.1, 1, size=(4, len(owner.joints), 3))
    mirrored_first = convert(keypoints[:, list(owner.mirror)], owner, COMMON)
    mirrored_last = convert(keypoints, owner, COMMON)[:, list(COMMON.mirror)]
    np.testing.assert_allclose(mirrored_first, mirrored_last, rtol=1e-12)


def test_coco_to_h36m_golden() -> None:
    keypoints = np.stack([np.arange(17) * 10.0, np.arange(17) * -1.0, np.linspace(0.2, 1.0, 17)], -1)
    out = convert(keypoints, COCO, H36M)
    # COCO: 0 nose, 1 2 eyes, 5 6 shoulders, 7 8 elbows, 9 10 wrists, 11 12 hips, 13 14 knees, 15 16 ankles (left first)
    sources = [
        [11, 12], [12], [14], [16], [11], [13], [15], [5, 6, 11, 12], [5, 6], [0], [1, 2], [5], [7], [9], [6], [8],
        [10],
    ]  # fmt: skip
    np.testing.assert_allclose(out[:, :2], [keypoints[s, :2].mean(0) for s in sources], rtol=1e-12)
    np.testing.assert_allclose(out[:, 2], [keypoints[s, 2].min() for s in sources], rtol=1e-12)
    np.testing.assert_allclose(out[0], [115, -11.5, 0.2 + 0.05 * 11], rtol=1e-12)  # the pelvis, by hand


@pytest.mark.parametrize("confidence", [0.0, -1.0, np.nan])
def test_a_missing_source_makes_the_derived_joint_missing(confidence: float) -> None:
    keypoints = np.ones((17, 3), np.float32)
    keypoints[COCO.joints.index("left_hip"), 2] = confidence
    out = convert(keypoints, COCO, H36M)
    missing = {joint for joint, row in zip(H36M.joints, out, strict=True) if np.isnan(row[:2]).all() and row[2] == 0}
    assert missing == {"pelvis", "left_hip", "spine"}
    assert np.isfinite(out).all(1).sum() == 14
    assert out.dtype == np.float32


def test_nan_poses_pass_on_to_what_is_derived() -> None:
    poses = np.random.default_rng(0).normal(size=(3, 17, 3))
    poses[1, COCO.joints.index("right_shoulder")] = np.nan
    out = convert_poses(poses, COCO, COMMON)
    lost = {COMMON.joints[j] for j in np.flatnonzero(np.isnan(out[1]).all(-1))}
    assert lost == {"right_shoulder", "mid_shoulder"}
    assert np.isfinite(out[[0, 2]]).all()
    hips = [COCO.joints.index(f"{side}_hip") for side in ("left", "right")]
    np.testing.assert_allclose(out[:, COMMON.root], poses[:, hips].mean(1), rtol=1e-12)


def test_a_joint_that_cannot_be_had_is_named() -> None:
    with pytest.raises(EdgeliftError, match="neck_nose") as caught:
        convert(np.ones((14, 3)), COMMON, H36M)
    assert "common14" in caught.value.remedy


def test_an_unknown_skeleton_lists_the_known_ones() -> None:
    with pytest.raises(EdgeliftError) as caught:
        skeleton("coco18")
    assert all(name in caught.value.expected for name in COUNTS)
    assert "coco18" in caught.value.received


@pytest.mark.parametrize("shape", [(17,), (3,), (4, 16, 3), (4, 17, 2), (17, 3, 1)])
def test_a_wrong_joint_count_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgeliftError, match="coco17"):
        check_joints(np.ones(shape), COCO)
    with pytest.raises(EdgeliftError, match="coco17"):
        convert(np.ones(shape), COCO, H36M)
