import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.safe_pickle import load_pickled_arrays
from edgelift.poses.formats.videopose3d import H36M_KEEP, read_videopose3d
from edgelift.poses.skeletons import skeleton

H36M = skeleton("h36m17")
RIG = tuple(
    Camera(n, np.diag([1000.0, 1000.0, 1.0]), np.zeros(5), np.eye(3), np.array([x, 0, 4.0]), (1000, 1000))
    for n, x in (("L", 1.0), ("R", -1.0))
)


def rig_of(subject: str) -> tuple[Camera, ...]:
    return RIG


class _Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def _files(folder: Path, subject: str = "S9", joints: int = 17, scale: float = 1.0) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    views = [rng.uniform(100, 900, (frames, joints, 2)).astype(np.float32) for frames in (7, 8)]
    views[0][2, 3] = np.nan
    metadata = {"layout_name": "any", "num_joints": joints, "keypoints_symmetry": [[1], [2]]}
    poses = (rng.normal(size=(6, 32, 3)) * scale).astype(np.float32)
    np.savez_compressed(folder / "2d.npz", positions_2d={subject: {"Walking 1": views}}, metadata=metadata)  # type: ignore[arg-type]
    np.savez_compressed(folder / "3d.npz", positions_3d={subject: {"Walking 1": poses}})  # type: ignore[arg-type]
    return folder / "2d.npz", folder / "3d.npz"


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    np.savez(tmp_path / "bad.npz", positions_2d=np.array({"S1": _Attack(marker)}, object))
    with pytest.raises(EdgeliftError, match=r"a pickle that calls (posix|nt)\.system"):
        load_pickled_arrays(tmp_path / "bad.npz")
    assert not marker.exists()
    # the attack is real: numpy's own loader runs it
    np.load(tmp_path / "bad.npz", allow_pickle=True)["positions_2d"]
    assert marker.exists()


def test_arrays_and_containers_survive(tmp_path: Path) -> None:
    nested = {"a": [np.arange(3), (np.float32(2), {1, 2}, b"x", 1 + 2j)], "b": None}
    np.savez(tmp_path / "ok.npz", nested=nested, plain=np.eye(2), row=np.array([{}, [1]], object))  # type: ignore[arg-type]
    loaded = load_pickled_arrays(tmp_path / "ok.npz")
    assert loaded["nested"]["a"][0].tolist() == [0, 1, 2]
    assert loaded["nested"]["a"][1] == (2.0, {1, 2}, b"x", 1 + 2j)
    assert loaded["plain"].tolist() == [[1, 0], [0, 1]]
    assert loaded["row"].tolist() == [{}, [1]]
    (tmp_path / "cut.npz").write_bytes((tmp_path / "ok.npz").read_bytes()[:300])
    with pytest.raises(EdgeliftError, match="unreadable archive"):
        load_pickled_arrays(tmp_path / "cut.npz")


def test_sessions_hold_the_file(tmp_path: Path) -> None:
    path_2d, path_3d = _files(tmp_path)
    (session,) = read_videopose3d(path_2d, path_3d, rig_of, 50, H36M)
    raw = np.load(path_2d, allow_pickle=True)["positions_2d"].item()["S9"]["Walking 1"]
    truth = np.load(path_3d, allow_pickle=True)["positions_3d"].item()["S9"]["Walking 1"]
    assert (session.name, session.subject, session.action) == ("S9_Walking_1", "S9", "Walking 1")
    assert session.keypoints.shape == (2, 6, 17, 3)
    for view, array in enumerate(raw):
        np.testing.assert_array_equal(session.keypoints[view, ..., :2], array[:6])
    assert session.keypoints[0, 2, 3, 2] == 0
    assert session.keypoints[..., 2].sum() == 2 * 6 * 17 - 1
    assert session.poses is not None
    np.testing.assert_array_equal(session.poses, truth[:, H36M_KEEP])
    assert np.allclose(session.timestamps, np.arange(6) / 50)
    (without,) = read_videopose3d(path_2d, None, rig_of, 50, H36M)
    assert without.poses is None
    assert without.keypoints.shape[1] == 7  # the shorter of the two views


def test_humaneva_subjects_find_their_rig(tmp_path: Path) -> None:
    path_2d, _ = _files(tmp_path, "Train/S1", 15)
    asked = []

    def rig_of(subject: str) -> tuple[Camera, ...]:
        asked.append(subject)
        return RIG

    (session,) = read_videopose3d(path_2d, None, rig_of, 60, skeleton("humaneva15"))
    assert asked == ["S1"]
    assert (session.subject, session.name) == ("Train/S1", "Train_S1_Walking_1")


def test_mistakes_are_named(tmp_path: Path) -> None:
    path_2d, path_3d = _files(tmp_path, scale=1000.0)
    with pytest.raises(EdgeliftError, match="expected metres"):
        read_videopose3d(path_2d, path_3d, rig_of, 50, H36M)
    with pytest.raises(EdgeliftError, match="2 views; expected 1"):
        read_videopose3d(path_2d, None, lambda subject: RIG[:1], 50, H36M)
    with pytest.raises(EdgeliftError, match="17 joints of layout any"):
        read_videopose3d(path_2d, None, rig_of, 50, skeleton("body25"))
    with pytest.raises(EdgeliftError, match="positions_2d"):
        read_videopose3d(path_3d, None, rig_of, 50, H36M)
    with pytest.raises(EdgeliftError, match="skeleton coco17"):
        read_videopose3d(path_2d, path_3d, rig_of, 50, skeleton("coco17"))
