from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.motion import Clip, load_motion, resample
from edgelift.poses.person import SKELETON, actions, clips


@pytest.fixture(scope="module")
def made() -> list[Clip]:
    return clips(6.0, 60.0, 2, 0)


def test_every_subject_does_every_action(made: list[Clip]) -> None:
    names = ["walk", "jog", "box", "sit", "wave"]
    assert [a.name for a in actions()] == names
    assert [c.name for c in made] == [f"person{s}_{n}" for s in (1, 2) for n in names]
    assert all(c.poses.shape == (360, 17, 3) and np.isfinite(c.poses).all() for c in made)


def test_bones_keep_their_length_and_are_symmetric(made: list[Clip]) -> None:
    mirror = SKELETON.mirror
    for clip in made:
        length = {c: np.linalg.norm(clip.poses[:, c] - clip.poses[:, p], axis=-1) for p, c in SKELETON.bones}
        for joint, values in length.items():
            assert np.ptp(values) < 1e-5
            assert values[0] == pytest.approx(length[mirror[joint]][0], abs=1e-5)


def test_people_stand_on_the_floor_stay_near_and_move_like_people(made: list[Clip]) -> None:
    for clip in made:
        lowest = clip.poses[..., 2].min(1)
        assert (lowest > 0.05).all()
        assert (lowest < 0.15).all()
        assert 1.3 < clip.poses[0, :, 2].max() < 2.3 or clip.action == "sit"
        assert np.abs(clip.poses[:, 0, :2]).max() < 2.5
        assert np.linalg.norm(np.diff(clip.poses, axis=0), axis=-1).max() * clip.fps < 12


def test_walkers_walk_forward(made: list[Clip]) -> None:
    for clip in made:
        if clip.action not in ("walk", "jog"):
            continue
        right = clip.poses[:-1, 1] - clip.poses[:-1, 4]
        forward = np.cross([0.0, 0.0, 1.0], right)
        step = np.diff(clip.poses[:, 0], axis=0)
        assert (forward[:, :2] * step[:, :2]).sum(1).mean() > 0


def test_sitting_lowers_the_hips(made: list[Clip]) -> None:
    sit = next(c for c in made if c.action == "sit")
    assert np.ptp(sit.poses[:, 0, 2]) > 0.25


def test_one_seed_one_person_another_seed_another() -> None:
    a, b, c = clips(2.0, 20.0, 1, 0), clips(2.0, 20.0, 1, 0), clips(2.0, 20.0, 1, 1)
    np.testing.assert_array_equal(a[0].poses, b[0].poses)
    assert np.abs(a[0].poses - c[0].poses).max() > 0.01


def motion_file(path: Path, **changes: Any) -> Path:
    poses = np.arange(30 * 17 * 3, dtype=np.float32).reshape(30, 17, 3) / 1000
    arrays = {
        "poses": poses, "clip_start": np.array([0, 10, 30]), "clip_name": np.array(["a", "b"]),
        "clip_subject": np.array(["01", "mix"]), "clip_action": np.array(["walk", "run"]),
        "clip_fps": np.array([60.0, 30.0]), "clip_split": np.array(["train", "test"]), "units": np.array("metres, Z"),
    }  # fmt: skip
    np.savez(path, **(arrays | changes))
    return path


def test_motion_files_are_cut_into_clips(tmp_path: Path) -> None:
    path = motion_file(tmp_path / "m.npz")
    both = load_motion(path)
    assert [(c.name, len(c.poses), c.fps) for c in both] == [("a", 10, 60.0), ("b", 20, 30.0)]
    assert [c.name for c in load_motion(path, "test")] == ["b"]
    assert [c.name for c in load_motion(path, exclude_subjects=["mix"])] == ["a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": np.array("mm")}, "metres"),
        ({"poses": np.zeros((30, 15, 3), np.float32)}, "joints"),
    ],
)
def test_other_units_and_skeletons_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeliftError, match=message):
        load_motion(motion_file(tmp_path / "m.npz", **changes))


def test_an_unknown_split_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EdgeliftError, match="test, train"):
        load_motion(motion_file(tmp_path / "m.npz"), "validation")


def test_resampling_is_linear_in_time(tmp_path: Path) -> None:
    clip = load_motion(motion_file(tmp_path / "m.npz"))[0]
    doubled = resample(clip, 120.0)
    np.testing.assert_allclose(doubled.poses[::2], clip.poses, atol=1e-6)
    np.testing.assert_allclose(doubled.poses[1], (clip.poses[0] + clip.poses[1]) / 2, atol=1e-6)


def test_the_shared_motion_loads(shared: Path) -> None:
    test = load_motion(shared / "mocap" / "cmu17.npz", "test")
    assert {c.subject for c in test} >= {"02", "49"}
    assert all(np.isfinite(c.poses).all() for c in test)
