from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import (
    Session,
    clean_keypoints,
    find_sessions,
    load_arrays,
    load_session,
    load_sessions,
    save_session,
)
from edgelift.poses.skeletons import convert, convert_poses, skeleton

COCO = skeleton("coco17")
VIEWS, FRAMES, JOINTS = 3, 7, 17


def cameras() -> tuple[Camera, ...]:
    rng = np.random.default_rng(5)
    made = []
    for name in ("left", "front", "right"):
        Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        Q[:, 0] *= np.linalg.det(Q)
        K = np.array([[700 + rng.random(), 0.1, 320], [0, 701.0, 240], [0, 0, 1]])
        made.append(Camera(name, K, rng.normal(size=5) * 0.1, Q, rng.normal(size=3), (640, 480)))
    return tuple(made)


def session(**changes: Any) -> Session:
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 1, size=(VIEWS, FRAMES, JOINTS, 3)).astype(np.float32)
    keypoints[..., :2] *= 480
    keypoints[1, 2, 3] = keypoints[2, :, 0] = (np.nan, np.nan, 0)
    poses = rng.normal(size=(FRAMES, JOINTS, 3)).astype(np.float32)
    poses[4, 2] = np.nan
    values: dict[str, Any] = {
        "keypoints": keypoints,
        "timestamps": np.cumsum(rng.uniform(0.01, 0.04, FRAMES)),
        "camera_names": ("left", "front", "right"),
        "cameras": cameras(),
        "skeleton": COCO,
        "time_offset_s": np.array([0, 0.01, -0.02]),
        "subject": "S1",
        "action": "Gehen äöü",
        "poses": poses,
        "name": "walk",
    }
    return Session(**(values | changes))


def assert_same(a: Session, b: Session) -> None:
    """Every field equal to the last bit, dtype included."""
    for field in fields(Session):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), field.name
        elif field.name == "cameras" and x is not None:
            for mine, theirs in zip(x, y, strict=True):
                assert (mine.name, mine.size) == (theirs.name, theirs.size)
                assert all(getattr(mine, k).tobytes() == getattr(theirs, k).tobytes() for k in ("K", "dist", "R", "t"))
        else:
            assert x == y, field.name


@pytest.mark.parametrize("changes", [{}, {"cameras": None}, {"poses": None}, {"cameras": None, "poses": None}])
def test_round_trip_is_bit_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = session(**changes)
    save_session(made, tmp_path / "new" / "walk.npz")
    assert_same(load_session(tmp_path / "new" / "walk.npz"), made)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["walk.npz"]


def test_the_file_needs_no_pickle(tmp_path: Path) -> None:
    save_session(session(), tmp_path / "walk.npz")
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as archive:
        assert {archive[key].dtype.kind for key in archive.files} <= set("fiU")


def test_a_file_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"keypoints": np.array([{"a": 1}], dtype=object)}
    np.savez(tmp_path / "evil.npz", **arrays)
    with pytest.raises(EdgeliftError, match=r"evil\.npz"):
        load_session(tmp_path / "evil.npz")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "walk.npz"
    save_session(session(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(EdgeliftError, match=r"walk\.npz"):
        load_session(path)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "walk.npz"
    save_session(session(), path)
    whole = bytearray(path.read_bytes())
    whole[200:260] = bytes(60)  # inside the compressed keypoints
    path.write_bytes(whole)
    with pytest.raises(EdgeliftError, match=r"walk\.npz"):
        load_session(path)


def test_foreign_and_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("text.npz", "array.npz", "none.npz"):
        with pytest.raises(EdgeliftError, match=name.replace(".", r"\.")):
            load_session(tmp_path / name)


@pytest.mark.parametrize("lacking", ["keypoints", "timestamps", "skeleton", "camera_names", "camera_R"])
def test_a_file_without_a_field_names_it(tmp_path: Path, lacking: str) -> None:
    save_session(session(), tmp_path / "walk.npz")
    arrays: dict[str, Any] = load_arrays(tmp_path / "walk.npz")
    del arrays[lacking]
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(EdgeliftError, match=lacking):
        load_session(tmp_path / "part.npz")


def test_a_file_with_too_few_cameras_is_told(tmp_path: Path) -> None:
    save_session(session(), tmp_path / "walk.npz")
    arrays: dict[str, Any] = load_arrays(tmp_path / "walk.npz")
    np.savez(tmp_path / "part.npz", **(arrays | {"camera_t": arrays["camera_t"][:2]}))
    with pytest.raises(EdgeliftError, match="3 of each"):
        load_session(tmp_path / "part.npz")


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "walk.npz"
    first = session()
    save_session(first, path)

    def fail(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space"):
        save_session(session(subject="S2"), path)
    with pytest.raises(OSError, match="no space"):
        save_session(first, tmp_path / "other.npz")
    assert_same(load_session(path), first)
    assert [p.name for p in find_sessions([tmp_path])] == ["walk.npz"]
    assert [p.name for p in tmp_path.iterdir()] == ["walk.npz"]


def edited(field: str, edit: Callable[[Any], None]) -> dict[str, Any]:
    array = getattr(session(), field).copy()
    edit(array)
    return {field: array}


def put(index: Any, value: float) -> Callable[[Any], None]:
    return lambda array: array.__setitem__(index, value)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "keypoints without views": ({"keypoints": np.zeros((FRAMES, JOINTS, 3), np.float32)}, "keypoints"),
    "another skeleton": ({"skeleton": skeleton("body25")}, "body25"),
    "too few camera names": ({"camera_names": ("left", "front")}, "2 camera names for 3 views"),
    "camera names twice": ({"camera_names": ("left", "left", "right")}, "names that differ"),
    "offsets of other views": ({"time_offset_s": np.zeros(2)}, "time_offset_s"),
    "timestamps of other frames": ({"timestamps": np.arange(FRAMES + 1.0)}, "timestamps"),
    "no frame": (
        {"keypoints": np.zeros((VIEWS, 0, JOINTS, 3), np.float32), "timestamps": np.zeros(0), "poses": None},
        "no frame",
    ),
    "a timestamp twice": (edited("timestamps", lambda t: t.__setitem__(3, t[2])), "strictly rising"),
    "falling timestamps": (edited("timestamps", lambda t: t.__setitem__(slice(None), t[::-1].copy())), "rising"),
    "a NaN timestamp": (edited("timestamps", put(0, np.nan)), "finite"),
    "an infinite timestamp": (edited("timestamps", put(-1, np.inf)), "finite"),
    "confidence above one": (edited("keypoints", put((0, 0, 0, 2), 1.01)), "confidence"),
    "confidence below zero": (edited("keypoints", put((0, 0, 0, 2), -0.01)), "confidence"),
    "confidence NaN": (edited("keypoints", put((0, 0, 0, 2), np.nan)), "confidence"),
    "NaN pixel with confidence": (edited("keypoints", put((0, 0, 0, 1), np.nan)), "confidence > 0"),
    "infinite pixel with confidence": (edited("keypoints", put((0, 0, 0, 0), np.inf)), "confidence > 0"),
    "cameras in another order": ({"cameras": cameras()[::-1]}, "in order"),
    "too few cameras": ({"cameras": cameras()[:2]}, "one a view"),
    "poses of other frames": ({"poses": np.zeros((FRAMES - 1, JOINTS, 3), np.float32)}, "poses"),
    "poses of other joints": ({"poses": np.zeros((FRAMES, 14, 3), np.float32)}, "poses"),
}


@pytest.mark.parametrize(("changes", "match"), BROKEN.values(), ids=BROKEN)
def test_every_rule_is_kept(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(EdgeliftError, match=match):
        session(**changes)


def test_rules_hold_for_what_is_loaded(tmp_path: Path) -> None:
    save_session(session(), tmp_path / "walk.npz")
    arrays: dict[str, Any] = load_arrays(tmp_path / "walk.npz")
    np.savez(tmp_path / "bad.npz", **(arrays | {"timestamps": arrays["timestamps"][::-1]}))
    with pytest.raises(EdgeliftError, match="session bad: timestamps"):
        load_session(tmp_path / "bad.npz")


def test_clean_keypoints_marks_all_that_is_missing_one_way() -> None:
    raw = np.array([[1, 2, 0.5], [0, 0, 0], [3, 4, np.nan], [np.nan, 4, 0.9], [3, np.inf, 0.9], [3, 4, -1]])
    clean = clean_keypoints(raw)
    np.testing.assert_array_equal(clean[0], np.array([1, 2, 0.5], np.float32))
    np.testing.assert_array_equal(clean[1:], np.tile(np.array([np.nan, np.nan, 0], np.float32), (5, 1)))
    np.testing.assert_array_equal(clean_keypoints(clean), clean)
    assert raw[1, 0] == 0  # the input is left alone


def test_to_skeleton_converts_keypoints_and_poses() -> None:
    made, target = session(), skeleton("h36m17")
    other = made.to_skeleton(target)
    assert other.skeleton is target
    np.testing.assert_array_equal(other.keypoints, convert(made.keypoints, COCO, target))
    assert made.poses is not None
    assert other.poses is not None
    np.testing.assert_array_equal(other.poses, convert_poses(made.poses, COCO, target))
    assert_same(replace(other, keypoints=made.keypoints, poses=made.poses, skeleton=COCO), made)
    assert made.to_skeleton(COCO) is made


def test_views_and_rigs_that_are_not_there_are_told() -> None:
    made = session()
    assert [made.view(name) for name in made.camera_names] == [0, 1, 2]
    assert [camera.name for camera in made.rig] == list(made.camera_names)
    with pytest.raises(EdgeliftError, match="left, front, right"):
        made.view("back")
    with pytest.raises(EdgeliftError, match="no cameras"):
        _ = session(cameras=None).rig


def test_directories_are_searched_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save_session(session(), tmp_path / f"{name}.npz")
    (tmp_path / "notes.txt").write_text("not a session")
    loaded = load_sessions([tmp_path, tmp_path / "b.npz"])
    assert [s.name for s in loaded] == ["a", "b", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgeliftError, match="without"):
        find_sessions([tmp_path / "empty"])


def test_offsets_in_time_are_carried_and_must_be_mended_before_training() -> None:
    shifted = session(time_offset_s=np.array([0.0, 0.5, 0.0]))
    with pytest.raises(EdgeliftError, match=r"time_offset_s: received \[0.0, 0.5, 0.0\]"):
        shifted.check_synchronised()
    shifted.synchronised().check_synchronised()
    with pytest.raises(EdgeliftError, match="finite seconds"):
        session(time_offset_s=np.array([0.0, np.nan, 0.0]))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_session(session(), tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as archive:
        whole = dict(archive)
    for name, value in {
        "camera_size": np.array([[np.nan, 1.0]] * 3), "camera_names": np.array("cam"),
        "keypoints": np.array(["text"]), "format_version": np.array(99), "poses_source": np.array("guess"),
    }.items():  # fmt: skip
        np.savez(tmp_path / "bad.npz", **(whole | {name: value}))
        with pytest.raises(EdgeliftError):
            load_session(tmp_path / "bad.npz")


def test_image_sizes_are_known_without_a_rig_and_poses_say_what_they_are(tmp_path: Path) -> None:
    bare = session(cameras=None, image_sizes=((640, 480),) * 3)
    save_session(bare, tmp_path / "bare.npz")
    again = load_session(tmp_path / "bare.npz")
    assert (again.cameras, again.size(2)) == (None, (640, 480))
    poses = np.zeros((*bare.keypoints.shape[1:3], 3), np.float32)
    save_session(session(poses=poses, poses_source="triangulation"), tmp_path / "t.npz")
    assert load_session(tmp_path / "t.npz").poses_source == "triangulation"
