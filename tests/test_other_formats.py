"""Files of MediaPipe, FreeMoCap, DeepLabCut and SLEAP, built as those tools write them: whole, changed, cut short."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.deeplabcut import parse_deeplabcut, read_deeplabcut
from edgelift.poses.formats.freemocap import read_freemocap
from edgelift.poses.formats.mediapipe import read_mediapipe
from edgelift.poses.formats.sleap import parse_sleap, read_sleap
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import skeleton

from .other_files import (
    COCO,
    CSV_SHAPES,
    JOINTS,
    JSON_SHAPES,
    MATLAB,
    MEDIAPIPE,
    OLD,
    SCORER,
    SIZE,
    STANDARD,
    Floats,
    as_dict,
    dlc,
    freemocap,
    sleap,
    some_landmarks,
    tracked_people,
)


@pytest.fixture
def landmarks() -> Floats:
    return some_landmarks()


@pytest.fixture
def tracked() -> Floats:
    return tracked_people()


def in_pixels(landmarks: Floats) -> Floats:
    """(frames, 33, 3): what a reader should give for landmarks, missing = NaN, NaN, 0."""
    out = landmarks[..., [0, 1, 3]] * [*SIZE, 1]
    out[out[..., 2] == 0] = (np.nan, np.nan, 0)
    return out


def only_view(recording: Recording) -> list[NDArray[np.float32]]:
    (view,) = recording.views
    np.testing.assert_allclose(view.timestamps, np.arange(len(view.people)) / 50)
    return view.people


@pytest.mark.parametrize("shape", JSON_SHAPES)
def test_mediapipe_json_in_every_shape(tmp_path: Path, landmarks: Floats, shape: str) -> None:
    frames = [[as_dict(row) for row in frame] for frame in landmarks]
    (tmp_path / "cam.json").write_text(json.dumps(JSON_SHAPES[shape](frames)))
    people = only_view(read_mediapipe(tmp_path / "cam.json", MEDIAPIPE, 50, SIZE))
    np.testing.assert_allclose(np.concatenate(people), in_pixels(landmarks), rtol=1e-6)


def test_mediapipe_frames_without_people_and_holes_keep_time(tmp_path: Path, landmarks: Floats) -> None:
    person = [as_dict(row) for row in landmarks[1]]
    nothing: list[Any] = [None, [], {}, {"pose_landmarks": []}, {"landmark": [{"x": None, "y": None, "z": None}] * 33}]
    (tmp_path / "a.json").write_text(json.dumps([*nothing, [person, person]]))
    people = only_view(read_mediapipe(tmp_path / "a.json", MEDIAPIPE, 50, SIZE))
    assert [len(p) for p in people] == [0, 0, 0, 0, 0, 2]
    frames = [{"frame_number": n, "landmarks": person} for n in (4, 6)]
    (tmp_path / "a.json").write_text(json.dumps(frames))
    (view,) = read_mediapipe(tmp_path / "a.json", MEDIAPIPE, 50, SIZE).views
    np.testing.assert_allclose(view.timestamps, [0.08, 0.1, 0.12])
    assert [len(p) for p in view.people] == [1, 0, 1]


@pytest.mark.parametrize("shape", CSV_SHAPES)
def test_mediapipe_csv_in_every_shape(tmp_path: Path, landmarks: Floats, shape: str) -> None:
    (tmp_path / "cam.csv").write_text(CSV_SHAPES[shape](landmarks))
    people = only_view(read_mediapipe(tmp_path / "cam.csv", MEDIAPIPE, 50, SIZE))
    np.testing.assert_allclose(np.concatenate(people), in_pixels(landmarks), rtol=1e-6)


def test_mediapipe_arrays_and_a_folder_of_views(tmp_path: Path, landmarks: Floats) -> None:
    for name in ("b", "a"):
        np.save(tmp_path / f"{name}.npy", landmarks)
    recording = read_mediapipe(tmp_path, MEDIAPIPE, 50, SIZE)
    assert [view.name for view in recording.views] == ["a", "b"]
    np.savez(tmp_path / "c.npz", whatever=landmarks[:, None])
    alone = only_view(read_mediapipe(tmp_path / "c.npz", MEDIAPIPE, 50, SIZE))
    for people in (recording.views[1].people, alone):
        np.testing.assert_allclose(np.concatenate(people), in_pixels(landmarks), rtol=1e-6)


def test_mediapipe_pixels_need_no_size_and_normalised_ones_do(tmp_path: Path, landmarks: Floats) -> None:
    np.save(tmp_path / "a.npy", landmarks)
    with pytest.raises(EdgeliftError, match=r"normalised coordinates.*--size"):
        read_mediapipe(tmp_path / "a.npy", MEDIAPIPE, 50)
    np.save(tmp_path / "a.npy", landmarks * [*SIZE, 1, 1])
    for size in (None, SIZE):
        people = only_view(read_mediapipe(tmp_path / "a.npy", MEDIAPIPE, 50, size))
        np.testing.assert_allclose(np.concatenate(people), in_pixels(landmarks), rtol=1e-6)


def test_mediapipe_mistakes_are_named(tmp_path: Path, landmarks: Floats) -> None:
    path = tmp_path / "a.json"
    person = [as_dict(row) for row in landmarks[0]]

    def error(match: str, data: Any) -> None:
        path.write_text(json.dumps(data))
        with pytest.raises(EdgeliftError, match=match):
            read_mediapipe(path, MEDIAPIPE, 50, SIZE)

    error("every landmark would count as seen", [[{"x": 0.5, "y": 0.5, "z": 0.1}] * 33])
    error("every landmark would count as seen", [[[0.5, 0.5, 0.1]] * 33])
    error("21 landmarks", [person[:21]])
    error("confidence 7.*logits", [[{**landmark, "visibility": 7.0} for landmark in person]])
    error("a joint at inf", [[{**landmark, "x": float("inf")} for landmark in person]])
    error("a joint at 1.92e\\+08", [[*person[1:], {"x": 3e5, "y": 0, "visibility": 1}]])
    error("expected numbers", [[{**landmark, "x": "0.5"} for landmark in person]])
    error("expected numbers", [[{**landmark, "x": True} for landmark in person]])
    error("do not rise", [{"frame": 3, "landmarks": person}, {"frame": 3, "landmarks": person}])
    error("consecutive", [{"frame": 10**9 * i, "landmarks": person} for i in range(2)])
    error("keys time", [{"time": 3}])
    error("frame -1", [{"frame": -1, "landmarks": person}])
    error("list of frames", {"pose_landmarks": [person]})
    error("expected 33 landmarks", [[[[[[[[0.5, 0.5, 0.5, 0.5]]]]]]]])
    error("int; expected 33 landmarks", [7])
    path.write_text("[" * 100_000)
    with pytest.raises(EdgeliftError, match="malformed JSON"):
        read_mediapipe(path, MEDIAPIPE, 50, SIZE)
    with pytest.raises(EdgeliftError, match="mediapipe33"):
        read_mediapipe(path, COCO, 50, SIZE)
    path.write_text(json.dumps([person]))
    with pytest.raises(EdgeliftError, match="--fps"):
        read_mediapipe(path, MEDIAPIPE, 0, SIZE)
    (tmp_path / "a.csv").write_text("x1,y1,z1,v1\n0.1,0.2,0.3,0.4\n")
    with pytest.raises(EdgeliftError, match="3 columns of landmarks"):
        read_mediapipe(tmp_path / "a.csv", MEDIAPIPE, 50, SIZE)
    with pytest.raises(EdgeliftError, match=r"files \.json, \.csv"):
        read_mediapipe(tmp_path, MEDIAPIPE, 50, SIZE)


def test_mediapipe_on_a_real_recording(shared: Path) -> None:
    path = shared / "pose2sim" / "pose2sim_balancing_mediapipe.npz"
    recording = read_mediapipe(path, MEDIAPIPE, 60)
    with np.load(path) as real:
        arrays = dict(real)
    assert [view.name for view in recording.views] == arrays["camera_names"].tolist()
    keypoints = np.stack([np.stack([p[0] if len(p) else nobody() for p in view.people]) for view in recording.views])
    expected = np.where(arrays["keypoints_2d"][..., 2:] > 0, arrays["keypoints_2d"], (np.nan, np.nan, 0))
    np.testing.assert_array_equal(keypoints, expected.astype(np.float32))
    rig = [
        Camera(*row) for row in zip(*(arrays[k] for k in ("camera_names", "K", "dist", "R", "t", "size")), strict=True)
    ]
    points, _ = triangulate(keypoints, rig)
    known = np.isfinite(points).all(-1) & np.isfinite(arrays["xyz_triangulated_dlt"]).all(-1)
    assert known.mean() > 0.9
    apart = np.linalg.norm(points - arrays["xyz_triangulated_dlt"], axis=-1)[known]
    assert np.median(apart) < 0.02  # another weighting of the views, so not equal


def nobody() -> NDArray[np.float32]:
    return np.tile(np.array([np.nan, np.nan, 0], np.float32), (33, 1))


@pytest.mark.parametrize(("name", "columns"), [("mediapipe_2dData", 3), ("mediapipe2dData", 2)])
def test_freemocap_folders_old_and_new(tmp_path: Path, name: str, columns: int) -> None:
    points = np.random.default_rng(0).uniform(10, 400, (2, 4, 553, columns))
    points[1, 2] = np.nan
    points[0, 0, 3], points[0, 1, 4, 0] = 0, np.nan
    folder = freemocap(tmp_path / "walk", points, name)
    (folder / "walk_camera_calibration.toml").write_text(
        '[cam_0]\nname = "C-10"\n[cam_1]\nname = "other"\n[metadata]\n'
    )
    recording = read_freemocap(folder, MEDIAPIPE, 50)
    # videos sort as text: c_10 is the first camera of the array, and is spelt as in the calibration
    assert (recording.name, [view.name for view in recording.views]) == ("walk", ["C-10", "c_2"])
    assert [len(p) for p in recording.views[1].people] == [1, 1, 0, 1]
    first = recording.views[0].people[0][0]
    np.testing.assert_allclose(first[4:, :2], points[0, 0, 4:33, :2], rtol=1e-6)
    assert first[:, 2].tolist() == [1, 1, 1, 0] + [1] * 29
    assert recording.views[0].people[1][0, 4, 2] == 0


def test_freemocap_holds_what_the_detector_saw(tmp_path: Path, shared: Path) -> None:
    """A real detector's points in FreeMoCap's layout give the same keypoints as its own file does."""
    path = shared / "pose2sim" / "pose2sim_balancing_mediapipe.npz"
    with np.load(path) as real:
        points, names = np.full((4, 100, 553, 3), np.nan), tuple(real["camera_names"])
        points[:, :, :33, :2] = np.where(real["keypoints_2d"][..., 2:] > 0, real["keypoints_2d"][..., :2], np.nan)
    ours = read_freemocap(freemocap(tmp_path / "x", points, videos=names), MEDIAPIPE, 60)
    for view, own in zip(ours.views, read_mediapipe(path, MEDIAPIPE, 60).views, strict=True):
        assert view.name == own.name
        for a, b in zip(view.people, own.people, strict=True):
            np.testing.assert_array_equal(a[..., :2], b[..., :2])


def test_freemocap_mistakes_are_named(tmp_path: Path) -> None:
    points = np.full((2, 3, 553, 2), 50.0)

    def error(match: str, folder: Path, owner: str = "mediapipe33") -> None:
        with pytest.raises(EdgeliftError, match=match):
            read_freemocap(folder, skeleton(owner), 50)

    error("no output_data", tmp_path)
    error("3 videos", freemocap(tmp_path / "videos", points, videos=("a", "b", "c")))
    error("several views named a", twice(tmp_path, points))
    error(r"\(cameras, frames, 17, 2 or 3\) for coco17", freemocap(tmp_path / "skeleton", points), "coco17")
    error("coordinates of at most 0.5", freemocap(tmp_path / "normalised", points / 100))
    error("a joint at inf", freemocap(tmp_path / "inf", np.where(points > 0, np.inf, points)))
    error("real numbers", freemocap(tmp_path / "text", np.full((2, 3, 553, 2), "a")))
    folder = freemocap(tmp_path / "two", points)
    np.save(folder / "output_data" / "yolo_2dData_numCams_numFrames_numTrackedPoints_pixelXY.npy", points)
    error("2 files", folder)
    folder = freemocap(tmp_path / "toml", points)
    (folder / "x_camera_calibration.toml").write_bytes(b"\xff\xfe")
    error("unreadable", folder)


def twice(tmp_path: Path, points: Floats) -> Path:
    folder = freemocap(tmp_path / "twice", points, videos=("a",))
    (folder / "synchronized_videos" / "a.avi").touch()
    return folder


def expected_joints(people: Floats) -> Floats:
    """(..., 17, 3): parts snout, L hip, tail as JOINTS says."""
    out = np.tile(np.array([np.nan, np.nan, 0.0]), (*people.shape[:-2], 17, 1))
    for part, joint in ((0, "nose"), (1, "left_hip")):
        out[..., COCO.joints.index(joint), :] = np.where(
            np.isnan(people[..., part, :]), [np.nan, np.nan, 0], people[..., part, :]
        )
    return out


def test_deeplabcut_individuals_are_people(tmp_path: Path, tracked: Floats) -> None:
    path = dlc(tmp_path / f"cam1{SCORER}_el.csv", tracked, ["snout", "L hip", "tail"], ["ind1", "ind2"])
    (view,) = parse_deeplabcut(path)
    assert view.joint_names == ("snout", "L hip", "tail")
    recording = read_deeplabcut(path, COCO, 50, JOINTS)
    assert [v.name for v in recording.views] == ["cam1"]
    people = only_view(recording)
    assert [len(p) for p in people] == [1, 1, 2, 2, 2, 2]
    expected = expected_joints(tracked)
    np.testing.assert_allclose(people[1], expected[1, :1], rtol=1e-6)
    np.testing.assert_allclose(np.stack(people[2:]), expected[2:], rtol=1e-6)


def test_deeplabcut_single_animals_in_a_folder_of_views(tmp_path: Path, tracked: Floats) -> None:
    for name in ("cam2", "cam1"):
        dlc(tmp_path / "trial" / f"{name}{SCORER}.csv", tracked[:, :1], ["nose", "left_hip", "tail"])
    recording = read_deeplabcut(tmp_path / "trial", COCO, 50)
    assert (recording.name, [v.name for v in recording.views]) == ("trial", ["cam1", "cam2"])
    np.testing.assert_allclose(np.stack(recording.views[0].people), expected_joints(tracked[:, :1]), rtol=1e-6)


def test_deeplabcut_parts_that_only_one_individual_has(tmp_path: Path, tracked: Floats) -> None:
    """DeepLabCut's unique body parts belong to `single`; the animals have no columns of them."""
    path = dlc(tmp_path / "a.csv", tracked, ["snout", "L hip", "tail"], ["ind1", "single"])
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([*cells[:10], *cells[16:]]) for cells in lines))
    people = only_view(read_deeplabcut(path, COCO, 50, {"snout": "nose", "L hip": "left_hip", "tail": "right_hip"}))
    assert np.isfinite(people[3][0, COCO.joints.index("nose"), 0])
    assert np.isnan(people[3][1, COCO.joints.index("nose"), 0])
    assert people[3][1, COCO.joints.index("right_hip"), 0] == np.float32(tracked[3, 1, 2, 0])


def test_deeplabcut_mistakes_are_named(tmp_path: Path, tracked: Floats) -> None:
    text = dlc(tmp_path / "a.csv", tracked, ["snout", "L hip", "tail"], ["ind1", "ind2"]).read_text()

    def error(match: str, changed: str, joints: dict[str, str] | None = None) -> None:
        (tmp_path / "b" / "a.csv").parent.mkdir(exist_ok=True)
        (tmp_path / "b" / "a.csv").write_text(changed)
        with pytest.raises(EdgeliftError, match=match):
            read_deeplabcut(tmp_path / "b", COCO, 50, JOINTS if joints is None else joints)

    error("joints snout, L hip, tail; expected joints of coco17", text, {})
    error("received ear; expected joints of", text, {"ear": "nose"})
    error("received nos; expected joints of coco17", text, {"snout": "nos"})
    error("received nose; expected one joint of the file", text, {"snout": "nose", "tail": "nose"})
    error("3D coordinates", text.replace("likelihood", "z"))
    error("no likelihood, as in labelled images", text.replace("likelihood", "score"))
    error("no row coords", text.replace("coords", "cords"))
    error("different lengths", text.replace("bodyparts,snout", "bodyparts"))
    error("one column of the header twice", text.replace("ind2", "ind1"))
    error("frame numbers that are none", text.replace("\n3,", "\n3.5,"))
    error("could not convert string", text.replace("\n3,", "\nlabeled-data/img3.png,"))
    error("do not rise", text.replace("\n3,", "\n2,"))
    error("consecutive", text.replace("\n5,", "\n5000000,"))
    error("confidence 3", change(text, 6, 3, "3"))
    error("a joint at inf", change(text, 6, 1, "inf"))
    error("17 cells|18 cells", text.rsplit(",", 1)[0])
    error("no row", "\n".join(text.splitlines()[:4]))
    error("no row bodyparts", "")
    wide = [f"{i}" for i in range(3000)]
    header = ["scorer,", "individuals,", "bodyparts,"]
    error("3000 individuals and 3000 body parts", "\n".join([
        *(lead + ",".join(["s"] * 3000 if lead == "scorer," else wide) for lead in header),
        "coords," + ",".join(["likelihood"] * 3000), "0," + ",".join(["1"] * 3000),
    ]))  # fmt: skip
    (tmp_path / "b" / f"cam{SCORER}.csv").write_text(text)
    (tmp_path / "b" / f"cam{SCORER}_filtered.csv").write_text(text)
    (tmp_path / "b" / "a.csv").unlink()
    with pytest.raises(EdgeliftError, match="several views named cam"):
        read_deeplabcut(tmp_path / "b", COCO, 50, JOINTS)


def change(text: str, row: int, column: int, cell: str) -> str:
    lines = [line.split(",") for line in text.splitlines()]
    lines[row][column] = cell
    return "\n".join(",".join(line) for line in lines)


@pytest.mark.parametrize(("order", "dims"), [(MATLAB, True), (STANDARD, True), (MATLAB, False), (OLD, False)])
def test_sleap_in_every_order(tmp_path: Path, tracked: Floats, order: tuple[str, ...], dims: bool) -> None:
    path = sleap(tmp_path / "cam1.analysis.h5", tracked, ["snout", "L hip", "tail"], order, dims)
    assert parse_sleap(path)[0].joint_names == ("snout", "L hip", "tail")
    recording = read_sleap(path, COCO, 50, JOINTS)
    assert recording.views[0].name == "cam1"
    people = only_view(recording)
    assert [len(p) for p in people] == [1, 1, 2, 2, 2, 2]
    np.testing.assert_allclose(np.stack(people[2:]), expected_joints(tracked)[2:], rtol=1e-6)


def test_sleap_scores_overshoot_and_points_by_hand_are_sure(tmp_path: Path, tracked: Floats) -> None:
    tracked[3, 0, 0, 2], tracked[3, 0, 1, 2] = 1.04, np.nan
    people = only_view(read_sleap(sleap(tmp_path / "a.h5", tracked, [*JOINTS, "x"], MATLAB, True), COCO, 50, JOINTS))
    assert people[3][0, COCO.joints.index("nose"), 2] == 1
    assert people[3][0, COCO.joints.index("left_hip"), 2] == 1
    assert np.isnan(people[4][0, COCO.joints.index("left_hip"), 0])


def test_sleap_mistakes_are_named(tmp_path: Path, tracked: Floats) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"

    def error(match: str, mend: Callable[[Any], object]) -> None:
        sleap(path, tracked, [*JOINTS, "tail"], MATLAB, True)
        with h5py.File(path, "a") as file:
            mend(file)
        with pytest.raises(EdgeliftError, match=match):
            read_sleap(path, COCO, 50, JOINTS)

    def replace(name: str, **settings: Any) -> Callable[[Any], object]:
        def mend(file: Any) -> None:
            del file[name]
            file.create_dataset(name, **settings)

        return mend

    def elsewhere(file: Any) -> None:
        del file["tracks"]
        file["tracks"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "tracks")

    # nothing is stored of it: on disk it is as small as any
    error(
        "too much for a file of this size",
        replace("tracks", shape=(2, 2, 3, 10**9), dtype="f8", chunks=(1, 2, 3, 1000)),
    )
    error("too much for a file of this size", replace("node_names", shape=(10**9,), dtype="S100", chunks=(1000,)))
    error("one in another file", elsewhere)
    error("one in another file", replace("tracks", shape=(2,), dtype="f8", external=str(path)))
    error("no dataset", lambda file: file.pop("tracks"))
    error("no dataset", lambda file: file.pop("node_names"))
    error("floats by frame", replace("tracks", data=np.zeros((2, 2, 3), "f8")))
    error("floats by frame", replace("tracks", data=np.full((2, 2, 3, 4), b"x")))
    error("3 nodes of 2 numbers; expected 2 of x and y", replace("node_names", data=[b"snout", b"L hip"]))
    error(r"shape \(5, 2, 3\)", replace("point_scores", data=np.zeros((2, 3, 5))))
    error("scores about", replace("point_scores", data=np.full((2, 3, 6), 80.0)))
    error("axes a, b;", lambda file: file["tracks"].attrs.modify("dims", '["a", "b"]'))
    error("dims: received \\[;", lambda file: file["tracks"].attrs.modify("dims", "["))
    error("dims: received 3;", lambda file: file["tracks"].attrs.modify("dims", "3"))
    error("unreadable", replace("node_names", data=[b"\xff\xfe", b"a", b"b"]))
    error("a joint at", replace("tracks", data=np.full((2, 2, 3, 6), np.inf)))
    path.write_bytes(b"no HDF5")
    with pytest.raises(EdgeliftError, match="unreadable"):
        read_sleap(path, COCO, 50, JOINTS)


def test_hdf5_that_loops_or_crashes_the_library_is_an_error(
    tmp_path: Path, tracked: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sleap(tmp_path / "a.h5", tracked, [*JOINTS, "tail"], MATLAB, True)
    content = path.read_bytes()
    heap = content.index(b"GCOL") + 16
    # an object of the heap that holds texts is made free space of no bytes: the library goes on from there to there
    path.write_bytes(content[:heap] + bytes(16) + content[heap + 16 :])
    monkeypatch.setattr("edgelift.poses.formats.hdf5.PATIENCE_S", 3.0)
    with pytest.raises(EdgeliftError, match="no end after 3 s"):
        read_sleap(path, COCO, 50, JOINTS)
    path.write_bytes(content)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EdgeliftError, match="its reader ended with 1"):
        read_sleap(path, COCO, 50, JOINTS)


def test_sleap_names_the_package_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EdgeliftError, match=r"edgelift\[files\]"):
        read_sleap(tmp_path / "a.h5", COCO, 50)
