"""Sessions written as other tools' files, and read again."""

from __future__ import annotations

import json
import pickletools
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.csv_poses import read_csv_poses, write_csv_poses
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.trc import read_trc
from edgelift.poses.formats.videopose3d import read_videopose3d
from edgelift.poses.recordings import choose_person
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.writing import write_session

from .conftest import make_sessions
from .test_bvh import directions, joints_of, read_bvh
from .test_c3d import read_c3d

KINDS = ("openpose", "videopose3d", "trc", "c3d", "bvh", "csv")


def target(kind: str, folder: Path) -> Path:
    return folder / {"openpose": "take", "videopose3d": "data_2d_custom_take.npz"}.get(kind, f"take.{kind}")


@pytest.fixture(scope="module")
def session() -> Session:
    return make_sessions(1, frames=40, noise_px=2.0, missing=0.1)[0]


def dropped(session: Session, *frames: int) -> Session:
    """The session without these frames, as a camera that lost them gives it."""
    kept = np.setdiff1d(np.arange(len(session.timestamps)), frames)
    poses = None if session.poses is None else session.poses[kept]
    return replace(session, keypoints=session.keypoints[:, kept], timestamps=session.timestamps[kept], poses=poses)


def test_openpose_comes_back_exactly(tmp_path: Path, session: Session) -> None:
    facts, lines = write_session(session, "openpose", tmp_path / "take")
    again = read_openpose(tmp_path / "take", session.skeleton, 20.0)
    assert [view.name for view in again.views] == list(session.camera_names)
    for view, keypoints in zip(again.views, session.keypoints, strict=True):
        np.testing.assert_allclose(view.timestamps, session.timestamps, rtol=0, atol=1e-9)
        for people, joints in zip(view.people, keypoints, strict=True):
            np.testing.assert_array_equal(people, joints[None][(joints[:, 2] > 0).any(keepdims=True)])
    assert facts["views"] == len(session.camera_names)
    assert lines[-1].endswith(f"-> {tmp_path / 'take'}")
    assert [path.name for path in tmp_path.iterdir()] == ["take"]


def test_openpose_files_are_as_openpose_writes_them(tmp_path: Path, session: Session) -> None:
    name = session.camera_names[0]
    keypoints = session.keypoints.copy()
    keypoints[0, 1] = (np.nan, np.nan, 0)
    keypoints[0, 0, 3] = (np.nan, np.nan, 0)
    write_session(replace(session, keypoints=keypoints), "openpose", tmp_path / "take")
    first, empty = (
        json.loads((tmp_path / "take" / name / f"{name}_{number:012d}_keypoints.json").read_text()) for number in (0, 1)
    )
    assert empty == {"version": 1.3, "people": []}
    (person,) = first["people"]
    assert person["person_id"] == [-1]
    assert person["pose_keypoints_2d"][9:12] == [0, 0, 0]
    assert person["face_keypoints_2d"] == []
    assert len(str(person["pose_keypoints_2d"][0])) < 10  # the shortest number that is this float32


def test_a_lost_frame_keeps_its_number(tmp_path: Path, session: Session) -> None:
    later = replace(session, timestamps=session.timestamps + 0.15)
    _, lines = write_session(dropped(later, 4, 5), "openpose", tmp_path / "take")
    (view, *_) = read_openpose(tmp_path / "take", session.skeleton, 20.0).views
    np.testing.assert_allclose(view.timestamps, later.timestamps, rtol=0, atol=1e-9)
    assert [len(people) for people in view.people[3:7]] == [1, 0, 0, 1]
    assert lines[0] == "2 places have no frame: they are empty, 40 frames in all"
    assert "numbered from 3 (20 Hz)" in lines[1]


def test_a_rounded_clock_does_not_drift(tmp_path: Path, session: Session) -> None:
    """30 Hz in whole milliseconds: the usual interval is 33 ms, 40 frames last 1,300."""
    rounded = np.round(np.arange(40) / 30, 3)
    _, lines = write_session(replace(session, timestamps=rounded), "openpose", tmp_path / "take")
    assert len(list((tmp_path / "take" / session.camera_names[0]).iterdir())) == 40
    assert "up to 0.333 ms from" in lines[0]
    assert "(30 Hz)" in lines[1]


def test_a_real_recording_survives_openpose(tmp_path: Path, shared: Path) -> None:
    pose2sim = shared / "pose2sim"
    recording = read_openpose(pose2sim / "BalancingTrial", skeleton("body25b"), 60)
    rig = read_rig(str(pose2sim / "Calib.toml"), "m")
    session, _ = choose_person(recording, rig)
    write_session(session, "openpose", tmp_path / "take")
    again = read_openpose(tmp_path / "take", session.skeleton, 60)
    same, _ = choose_person(again, rig)
    np.testing.assert_array_equal(same.keypoints, session.keypoints)
    np.testing.assert_allclose(same.timestamps, session.timestamps, rtol=0, atol=1e-9)


def test_videopose3d_comes_back(tmp_path: Path, session: Session) -> None:
    session = replace(session, subject="S9", action="Walking 1")
    path = tmp_path / "data_2d_custom_take.npz"
    write_session(dropped(session, 7), "videopose3d", path)
    (again,) = read_videopose3d(
        path, tmp_path / "data_3d_custom_take.npz", lambda _: session.rig, 20.0, session.skeleton
    )
    assert (again.subject, again.action) == ("S9", "Walking 1")
    expected = np.where(session.keypoints[..., 2:] > 0, session.keypoints[..., :2], np.nan)
    expected[:, 7] = np.nan
    np.testing.assert_array_equal(again.keypoints[..., :2], expected)
    np.testing.assert_allclose(again.timestamps, session.timestamps, rtol=0, atol=1e-9)
    assert again.poses is not None
    assert session.poses is not None
    np.testing.assert_array_equal(np.delete(again.poses, 7, 0), np.delete(session.poses, 7, 0))
    assert np.isnan(again.poses[7]).all()


def test_videopose3d_itself_would_read_it(tmp_path: Path, session: Session) -> None:
    """What its loaders do with a file: numpy.load, item(), and names that every numpy has."""
    session = replace(session.only([0]), subject="clip.mp4", action="")
    write_session(session, "videopose3d", tmp_path / "data_2d_custom_my.npz")
    with np.load(tmp_path / "data_2d_custom_my.npz", allow_pickle=True) as archive:
        metadata, positions = archive["metadata"].item(), archive["positions_2d"].item()
    assert metadata["video_metadata"]["clip.mp4"] == dict(zip("wh", session.rig[0].size, strict=True))
    assert (metadata["layout_name"], metadata["num_joints"]) == ("h36m", 17)
    assert metadata["keypoints_symmetry"] == [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
    (view,) = positions["clip.mp4"]["custom"]
    assert view.dtype == np.float32
    view[..., :2] *= 2  # it normalises in place
    with np.load(tmp_path / "data_3d_custom_my.npz", allow_pickle=True) as archive:
        assert archive["positions_3d"].item()["clip.mp4"]["custom"].shape == (40, 32, 3)
    for path in tmp_path.iterdir():
        with zipfile.ZipFile(path) as whole:
            assert whole.testzip() is None
            for member in whole.namelist():
                data = whole.read(member)
                named = {
                    str(arg) for op, arg, _ in pickletools.genops(data[data.index(b"\n") + 1 :]) if op.name == "GLOBAL"
                }
                assert named <= {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype", "_codecs encode"}


def test_trc_and_csv_come_back_with_their_own_times(tmp_path: Path, session: Session) -> None:
    assert session.poses is not None
    poses = session.poses.copy()
    poses[3, 5] = np.nan
    uneven = dropped(replace(session, poses=poses), 11)
    for kind in ("trc", "csv"):
        path = target(kind, tmp_path)
        _, lines = write_session(uneven, kind, path)
        again, times, names = read_trc(path) if kind == "trc" else read_csv_poses(path)
        np.testing.assert_allclose(again, np.delete(poses, 11, 0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(times, uneven.timestamps, rtol=0, atol=1e-6 if kind == "trc" else 0)
        assert names == session.skeleton.joints
        assert lines[0] == "poses: the session's (truth)"
        assert any("uneven" in line for line in lines) == (kind == "trc")
    _, lines = write_session(session, "trc", tmp_path / "even.trc")
    assert not any("uneven" in line for line in lines)


def test_c3d_comes_back(tmp_path: Path, session: Session) -> None:
    pytest.importorskip("c3d")
    assert session.poses is not None
    later = replace(session, timestamps=session.timestamps + 2)
    _, lines = write_session(dropped(later, 11), "c3d", tmp_path / "take.c3d")
    again = read_c3d(tmp_path / "take.c3d")
    np.testing.assert_allclose(np.delete(again.points, 11, 0) / 1000, np.delete(session.poses, 11, 0), atol=1e-5)
    assert np.isnan(again.points[11]).all()
    assert again.labels == session.skeleton.joints
    assert again.reader.point_rate == pytest.approx(20)
    assert any("frame 1 is at 2 s" in line for line in lines)


def test_bvh_keeps_the_directions_of_bones(tmp_path: Path, session: Session) -> None:
    assert session.poses is not None
    _, lines = write_session(dropped(session, 11), "bvh", tmp_path / "take.bvh")
    bvh = read_bvh(tmp_path / "take.bvh")
    assert bvh.interval_s == pytest.approx(0.05)
    again = np.delete(joints_of(bvh, session.skeleton), 11, 0)
    poses = np.delete(session.poses, 11, 0).astype(np.float64)
    np.testing.assert_allclose(again[:, 0], poses[:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(directions(again, session.skeleton), directions(poses, session.skeleton), atol=1e-4)
    assert any("1 frames that lack a joint" in line for line in lines)


def test_poses_are_triangulated_where_there_are_none(tmp_path: Path, session: Session) -> None:
    blind = replace(session, poses=None)
    _, lines = write_session(blind, "csv", tmp_path / "take.csv")
    np.testing.assert_allclose(read_csv_poses(tmp_path / "take.csv")[0], blind.triangulate()[0], rtol=0, atol=1e-6)
    assert "triangulated from 3 views" in lines[0]
    write_session(blind, "videopose3d", tmp_path / "keypoints.npz")
    assert not (tmp_path / "keypoints_3d.npz").exists()
    write_session(session, "videopose3d", tmp_path / "keypoints.npz")
    assert (tmp_path / "keypoints_3d.npz").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, session: Session, kind: str) -> None:
    if kind == "c3d":
        pytest.importorskip("c3d")

    def error(match: str, wrong: Session, output: Path) -> None:
        with pytest.raises(EdgeliftError, match=match):
            write_session(wrong, kind, output)
        assert list(tmp_path.iterdir()) == []

    output = target(kind, tmp_path)
    if kind != "openpose":
        error("a name that ends in", session, output.with_suffix(".txt"))
    if kind in ("openpose", "videopose3d"):
        shifted = replace(session, time_offset_s=np.array([0.0, 0.1, 0.0]))
        error("synchronised views", shifted, output)
    else:
        uncalibrated = replace(session, poses=None, cameras=None)
        error("no cameras", uncalibrated, output)
    if kind not in ("trc", "csv"):
        times = session.timestamps.copy()
        times[-1] += 1000
        error("without long gaps", replace(session, timestamps=times), output)
    if kind in ("trc", "c3d", "bvh"):
        error("one frame", dropped(session, *range(1, 40)), output)


def test_one_frame_is_written_where_no_rate_is_needed(tmp_path: Path, session: Session) -> None:
    one = dropped(session, *range(1, 40))
    for kind in ("openpose", "videopose3d", "csv"):
        write_session(one, kind, target(kind, tmp_path))
    assert len(read_openpose(tmp_path / "take", session.skeleton, 1).views[0].people) == 1


def test_openpose_refuses_what_is_there_and_names_no_folder_has(tmp_path: Path, session: Session) -> None:
    (tmp_path / "take").mkdir()
    write_session(session, "openpose", tmp_path / "take")  # an empty folder is as good as none
    with pytest.raises(EdgeliftError, match="something that is there"):
        write_session(session, "openpose", tmp_path / "take")
    for name in ("../up", "a/b", "..", "", "c:"):
        odd = replace(session.only([0]), camera_names=(name,), cameras=None)
        with pytest.raises(EdgeliftError, match="names that a folder can have"):
            write_session(odd, "openpose", tmp_path / "odd")
    assert [path.name for path in tmp_path.iterdir()] == ["take"]


def test_kinds_are_named(tmp_path: Path, session: Session) -> None:
    with pytest.raises(EdgeliftError, match="one of openpose, videopose3d, trc, c3d, bvh, csv"):
        write_session(session, "fbx", tmp_path / "a.fbx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, session: Session, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "c3d":
        pytest.importorskip("c3d")

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_session(session, kind, target(kind, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "a header"),
        ("frame,time_s\n0,1\n", "a header"),
        ("frame,time_s,a_x_m,a_y_m\n0,1,2,3\n", "a header"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m,a_x_m,a_y_m,a_z_m\n0,1,2,3,4,2,3,4\n", "a header"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m\n", "no row"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m\n0,1,2,3\n", "4 cells"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m\n0,1,2,3,x\n", "could not convert"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m\n0,1,2,3,inf\n", "infinity"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m\n0,1,2,3,4\n1,1,2,3,4\n", "rise"),
        ("frame,time_s,a_x_m,a_y_m,a_z_m\n0,,2,3,4\n", "rise"),
        ("\xff", "unreadable"),
    ],
)
def test_csv_of_another_kind_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(EdgeliftError, match=match):
        read_csv_poses(tmp_path / "a.csv")


def test_csv_arrays_of_different_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeliftError, match="a name a joint"):
        write_csv_poses(tmp_path / "a.csv", np.zeros((2, 3, 3)), np.arange(3.0), ("a", "b", "c"))


def test_c3d_is_named_where_it_is_missing(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c3d", None)
    with pytest.raises(EdgeliftError, match=r"edgelift\[files\]"):
        write_session(session, "c3d", tmp_path / "take.c3d")
