"""Detectors' JSON files: round trips through what each tool writes, their traps, and files that are broken."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.conversion import FORMATS, Conversion, convert
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.alphapose import read_alphapose
from edgelift.poses.formats.coco import read_coco
from edgelift.poses.formats.mmpose import read_mmpose
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.ultralytics import read_ultralytics
from edgelift.poses.recordings import Recording
from edgelift.poses.rigs import read_rig, write_rig
from edgelift.poses.sessions import Session, load_arrays, load_session, save_session
from edgelift.poses.skeletons import skeleton

from .conftest import make_sessions

H36M, COCO = skeleton("h36m17"), skeleton("coco17")
SIZE = (1000, 1000)
FPS = 20.0
FRAMES = 60
GONE = 7  # a frame in which nobody is seen

Person = list[list[float]]  # joints of x, y, confidence
People = list[list[Person]]  # frames of people
Write = Callable[[Path, People], None]


@pytest.fixture(scope="module")
def filmed() -> Session:
    """Three views of one person, confidences of a detector, and one frame without anybody in the second view."""
    made = make_sessions(1, frames=FRAMES, missing=0.05)[0]
    keypoints = made.keypoints.copy()
    sure = np.random.default_rng(0).uniform(0.3, 0.99, keypoints.shape[:3])
    keypoints[..., 2] = np.where(keypoints[..., 2] > 0, sure, 0)
    keypoints[1, GONE] = (np.nan, np.nan, 0)
    return replace(made, keypoints=keypoints)


def people_of(session: Session, view: int) -> People:
    """One view as detectors hold it: a missing joint is 0, 0, 0, and a second person stands beside in odd frames."""
    frames: People = []
    for t, joints in enumerate(np.nan_to_num(session.keypoints[view]).tolist()):
        seen = [joints] if any(c > 0 for _, _, c in joints) else []
        frames.append(seen + [[[x + 30, y, c] for x, y, c in joints]] * (t % 2) * len(seen))
    return frames


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def mmpose_instance(person: Person) -> dict[str, Any]:
    return {
        "keypoints": [[x, y] for x, y, _ in person], "keypoint_scores": [c for *_, c in person],
        "bbox": [[0.0, 0.0, 9.0, 9.0]], "bbox_score": 0.9,
    }  # fmt: skip


def write_mmpose(first: int) -> Write:
    def write(place: Path, frames: People) -> None:
        told = [{"frame_id": t, "instances": [mmpose_instance(p) for p in people]}
                for t, people in enumerate(frames, start=first)]  # fmt: skip
        meta = {"dataset_name": "h36m", "keypoint_id2name": {str(j): n for j, n in enumerate(H36M.joints)},
                "sigmas": {"__ndarray__": [0.1], "dtype": "float32", "shape": [1]}}  # fmt: skip
        dump(place.with_suffix(".json"), {"meta_info": meta, "instance_info": told})

    return write


def write_mmpose_list(place: Path, frames: People) -> None:
    told = [{"frame_id": t, "instances": [mmpose_instance(p) for p in people]} for t, people in enumerate(frames)]
    dump(place.with_suffix(".json"), told)


def write_mmpose_images(place: Path, frames: People) -> None:
    for t, people in enumerate(frames):
        instances = [mmpose_instance(p) for p in people]
        for instance in instances:
            instance["keypoints"] = {"__ndarray__": instance["keypoints"], "dtype": "float32", "shape": [17, 2]}
        dump(place / f"take2_{t:04d}.json", instances)


def write_alphapose(place: Path, frames: People) -> None:
    told = [
        {"image_id": f"{t}.jpg", "category_id": 1, "keypoints": [v for joint in p for v in joint], "score": 3.2,
         "box": [1.0, 2.0, 3.0, 4.0], "idx": [0.0]}
        for t, people in enumerate(frames) for p in people
    ]  # fmt: skip
    dump(place / "alphapose-results.json", told)


def write_coco(place: Path, frames: People) -> None:
    told = [
        {"image_id": t, "category_id": 1, "keypoints": [v for joint in p for v in joint], "score": 0.9}
        for t, people in enumerate(frames) for p in people
    ]  # fmt: skip
    dump(place.with_suffix(".json"), told)


def summary(person: Person) -> dict[str, Any]:
    x, y, visible = ([joint[k] for joint in person] for k in range(3))
    return {"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0},
            "track_id": 1, "keypoints": {"x": x, "y": y, "visible": visible}}  # fmt: skip


def write_ultralytics(place: Path, frames: People) -> None:
    dump(place.with_suffix(".json"), [[summary(p) for p in people] for people in frames])


def write_ultralytics_images(place: Path, frames: People) -> None:
    for t, people in enumerate(frames):
        dump(place / f"take2_{t}.json", [summary(p) for p in people])


def write_labels(place: Path, frames: People) -> None:
    place.mkdir(parents=True)
    for t, people in enumerate(frames):
        shares = [[v for x, y, c in p for v in (x / SIZE[0], y / SIZE[1], c)] for p in people]
        lines = [" ".join(map(repr, [0, 0.5, 0.5, 0.1, 0.2, *share, 3])) for share in shares]
        if lines:  # an image without people has no file
            (place / f"take2_{t}.txt").write_text("\n".join(lines) + "\n")


def write_openpose(place: Path, frames: People) -> None:
    for t, people in enumerate(frames):
        told = [{"person_id": [-1], "pose_keypoints_2d": [v for joint in p for v in joint]} for p in people]
        dump(place / f"take2_{t:012d}_keypoints.json", {"version": 1.3, "people": told})


def read_sized(path: Path, owner: Any, fps: float) -> Recording:
    return read_ultralytics(path, owner, fps, SIZE)


Read = Callable[[Path, Any, float], Recording]
CASES: dict[str, tuple[Write, Read]] = {
    "openpose": (write_openpose, read_openpose),
    "mmpose demo": (write_mmpose(1), read_mmpose),
    "mmpose inferencer": (write_mmpose(0), read_mmpose),
    "mmpose list": (write_mmpose_list, read_mmpose),
    "mmpose images": (write_mmpose_images, read_mmpose),
    "alphapose": (write_alphapose, read_alphapose),
    "coco": (write_coco, read_coco),
    "ultralytics": (write_ultralytics, read_ultralytics),
    "ultralytics images": (write_ultralytics_images, read_ultralytics),
    "ultralytics labels": (write_labels, read_sized),
}


@pytest.mark.parametrize("case", CASES)
def test_every_form_gives_the_keypoints_it_was_written_from(case: str, filmed: Session, tmp_path: Path) -> None:
    write, read = CASES[case]
    for view in range(3):
        write(tmp_path / "take" / f"cam{view}", people_of(filmed, view))
    recording = read(tmp_path / "take", H36M, FPS)
    assert (recording.name, [v.name for v in recording.views]) == ("take", ["cam0", "cam1", "cam2"])
    for view, seen in enumerate(recording.views):
        np.testing.assert_allclose(seen.timestamps, np.arange(FRAMES) / FPS, atol=1e-12)
        there = [0 if view == 1 and t == GONE else 1 + t % 2 for t in range(FRAMES)]
        assert [len(people) for people in seen.people] == there
        for t in np.flatnonzero(there):
            # labels went through shares of the image, in double precision; all others are the same float32
            atol = 1e-4 if case == "ultralytics labels" else 0.0
            np.testing.assert_allclose(seen.people[t][0], filmed.keypoints[view, t], rtol=0, atol=atol)


@pytest.mark.parametrize("case", CASES)
def test_one_view_alone_is_read_from_its_own_file_or_folder(case: str, filmed: Session, tmp_path: Path) -> None:
    write, read = CASES[case]
    write(tmp_path / "cam", people_of(filmed, 0))
    (place,) = tmp_path.iterdir()
    (view,) = read(place, H36M, FPS).views
    assert len(view.people) == FRAMES
    np.testing.assert_allclose(view.people[3][0], filmed.keypoints[0, 3], rtol=0, atol=1e-4)


FORMS: dict[str, Write] = {
    "mmpose": write_mmpose_list,
    "alphapose": write_alphapose,
    "coco": write_coco,
    "ultralytics": write_ultralytics,
}


@pytest.mark.parametrize("form", FORMS)
def test_real_detections_become_one_session_in_whatever_form_they_come(form: str, shared: Path, tmp_path: Path) -> None:
    trial, rig = shared / "pose2sim" / "BalancingTrial", str(shared / "pose2sim" / "Calib.toml")
    for view in read_openpose(trial, skeleton("body25b"), 60).views:
        people = [np.nan_to_num(found).tolist() for found in view.people]
        FORMS[form](tmp_path / "take" / view.name, people)
    names = {"skeleton": "body25b", "fps": 60, "cameras": rig, "units": "m"}
    convert(Conversion(trial, tmp_path / "openpose.npz", "openpose", **names))  # type: ignore[arg-type]
    convert(Conversion(tmp_path / "take", tmp_path / "other.npz", form, **names))  # type: ignore[arg-type]
    one, other = (load_session(tmp_path / name) for name in ("openpose.npz", "other.npz"))
    assert one.keypoints.shape == (4, 100, 25, 3)
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    np.testing.assert_array_equal(one.timestamps, other.timestamps)


def told(read: Read, path: Path, owner: Any = COCO) -> str:
    with pytest.raises(EdgeliftError) as caught:
        read(path, owner, FPS)
    return str(caught.value)


def standing(score: float = 0.9, joints: int = 17) -> Person:
    return [[100.0 + j, 200.0 + 2 * j, score] for j in range(joints)]


def flat(person: Person) -> list[float]:
    return [v for joint in person for v in joint]


def test_mmpose_scores_above_one_count_as_one_and_not_positive_ones_are_missing(tmp_path: Path) -> None:
    person = standing()
    person[0][2], person[1][2] = 1.11, -0.02
    write_mmpose_list(tmp_path / "cam", [[person]])
    joints = read_mmpose(tmp_path / "cam.json", COCO, FPS).views[0].people[0][0]
    assert joints[0, 2] == 1
    assert np.isnan(joints[1, :2]).all()
    person[0][2] = 8.0
    write_mmpose_list(tmp_path / "cam", [[person]])
    assert "confidence 8" in told(read_mmpose, tmp_path / "cam.json")


def test_mmpose_frames_that_begin_elsewhere_or_repeat_are_refused(tmp_path: Path) -> None:
    for first in (0, 1):
        write_mmpose(first)(tmp_path / f"from{first}", [[standing()]] * 3)
    names = [v.timestamps.tolist() for v in read_mmpose(tmp_path, H36M, FPS).views]
    assert names[0] == names[1] == [0.0, 0.05, 0.1]
    for ids in ([5, 6], [0, 0], [0, 10**6]):
        dump(tmp_path / "x.json", [{"frame_id": i, "instances": [mmpose_instance(standing())]} for i in ids])
        assert "frame" in told(read_mmpose, tmp_path / "x.json")


def test_mmpose_in_3d_is_refused_with_the_reason(tmp_path: Path) -> None:
    person = {"keypoints": [[0.1, 0.2, 1.4]] * 17, "keypoint_scores": [1.0] * 17}
    for points in (person, person | {"keypoints": [person["keypoints"]]}):
        dump(tmp_path / "x.json", {"meta_info": {}, "instance_info": [{"frame_id": 1, "instances": [points]}]})
        assert "3D demos exchange axes" in told(read_mmpose, tmp_path / "x.json")


def test_mmpose_names_contradict_another_skeleton(tmp_path: Path) -> None:
    write_mmpose(1)(tmp_path / "cam", [[standing()]])  # its meta_info names Human3.6M's joints
    assert "pelvis, right_hip" in told(read_mmpose, tmp_path / "cam.json")
    assert read_mmpose(tmp_path / "cam.json", H36M, FPS)


def test_alphapose_frames_without_people_keep_their_time(tmp_path: Path) -> None:
    people = [{"image_id": f"out{n:07d}.png", "keypoints": flat(standing()), "score": 3.1, "idx": [[0.0], [0.0]]}
              for n in (3, 4, 900)]  # fmt: skip
    dump(tmp_path / "alphapose-results.json", people)
    (view,) = read_alphapose(tmp_path / "alphapose-results.json", COCO, FPS).views
    assert view.timestamps[[0, -1]].tolist() == [3 / FPS, 900 / FPS]
    assert [t for t, found in enumerate(view.people) if len(found)] == [0, 1, 897]
    dump(tmp_path / "open.json", {"0.jpg": {"people": []}})
    assert "--format cmu and open" in told(read_alphapose, tmp_path / "open.json")
    dump(tmp_path / "x.json", [people[0] | {"image_id": "17000000000000000.png"}])
    assert "17 digits" in told(read_alphapose, tmp_path / "x.json")
    dump(tmp_path / "x.json", [people[0], people[1] | {"image_id": 10**9}])
    assert "consecutive frame numbers" in told(read_alphapose, tmp_path / "x.json")


def test_coco_ground_truth_and_what_may_be_it_are_refused(tmp_path: Path) -> None:
    def one(person: Person, image: Any = 1) -> dict[str, Any]:
        return {"image_id": image, "category_id": 1, "keypoints": flat(person), "score": 0.9}

    path = tmp_path / "x.json"
    dump(path, {"images": [], "annotations": [one(standing(2))]})
    assert "ground truth" in told(read_coco, path)
    dump(path, [one(standing(2))])
    assert "visibility flags" in told(read_coco, path)
    dump(path, [one(standing(1)), one(standing(0))])
    assert "0, 1 as third values" in told(read_coco, path)
    dump(path, [one(standing(), image) for image in (139, 285, 632, 724)])
    assert "consecutive frame numbers" in told(read_coco, path)
    for image in (-1, 1.5, None, "photo"):
        dump(path, [one(standing(), image)])
        assert "person 0" in told(read_coco, path)


def test_ultralytics_shares_of_the_image_need_its_size(tmp_path: Path) -> None:
    person = [[x / SIZE[0], y / SIZE[1], c] for x, y, c in standing()]
    write_ultralytics(tmp_path / "cam", [[person]])
    assert "normalised" in told(read_ultralytics, tmp_path / "cam.json")
    (view,) = read_sized(tmp_path / "cam.json", COCO, FPS).views
    np.testing.assert_allclose(view.people[0][0], standing(), rtol=1e-6)
    write_ultralytics(tmp_path / "cam", [[standing()]])  # pixels: the size is not needed, and changes nothing
    (view,) = read_sized(tmp_path / "cam.json", COCO, FPS).views
    np.testing.assert_allclose(view.people[0][0], standing(), rtol=1e-6)
    write_labels(tmp_path / "labels", [[standing()]])
    assert "Give --size" in told(read_ultralytics, tmp_path / "labels")
    (tmp_path / "labels" / "take2_1.txt").write_text("0 1 1 1 1 " + "300 " * 51)
    assert "300" in told(read_sized, tmp_path / "labels")
    assert "56 numbers" in told(read_sized, tmp_path / "labels", skeleton("halpe26"))


def test_ultralytics_without_visibility_and_what_it_is_not_sure_of(tmp_path: Path) -> None:
    person = standing()
    person[5][:2] = [0.0, 0.0]  # what it writes for a joint of little confidence
    item = summary(person)
    dump(tmp_path / "a.json", [[item], []])
    (view,) = read_ultralytics(tmp_path / "a.json", COCO, FPS).views
    assert [len(people) for people in view.people] == [1, 0]
    assert np.isnan(view.people[0][0, 5, :2]).all()
    del item["keypoints"]["visible"]
    dump(tmp_path / "a.json", [[item]])
    joints = read_ultralytics(tmp_path / "a.json", COCO, FPS).views[0].people[0][0]
    assert joints[:, 2].tolist() == [0.0 if j == 5 else 1.0 for j in range(17)]
    dump(tmp_path / "a.json", [[{"name": "person", "box": {}}]])
    assert "keypoints" in told(read_ultralytics, tmp_path / "a.json")


def test_files_of_views_and_of_frames_do_not_mix(tmp_path: Path) -> None:
    write_ultralytics(tmp_path / "cam1", [[standing()]])
    dump(tmp_path / "take_1.json", [summary(standing())])
    assert "1 files of whole views and 1 of single frames" in told(read_ultralytics, tmp_path)
    write_coco(tmp_path / "two" / "cam" / "a", [[standing()]])
    write_coco(tmp_path / "two" / "cam" / "b", [[standing()]])
    assert "2 files of whole views" in told(read_coco, tmp_path / "two")
    assert "no such file or folder" in told(read_coco, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no .json file" in told(read_coco, tmp_path / "empty")


# --------------------------------------------------------------------------------------------------------- broken files


def one_file(case: str, home: Path) -> tuple[Path, Path, Read]:
    """A recording of one small view: what is read, a file of it, and the reader."""
    write, read = CASES[case]
    write(home / "cam", [[standing()], [], [standing(), standing(0.5)]])
    (place,) = home.iterdir()
    return place, place if place.is_file() else sorted(place.iterdir())[-1], read


def told_or_read(read: Read, place: Path) -> bool:
    """Read something broken: a Recording, or exactly one EdgeliftError; whether it was refused."""
    message = ""
    try:
        read(place, COCO, FPS)
    except EdgeliftError as error:
        message = str(error)
    assert len(message) < 2000
    return bool(message)


@pytest.mark.parametrize("case", CASES)
def test_files_cut_anywhere_or_damaged_are_told(case: str, tmp_path: Path) -> None:
    place, path, read = one_file(case, tmp_path)
    whole = path.read_bytes()
    rng = random.Random(0)
    for length in rng.sample(range(len(whole) - 1), 60):
        path.write_bytes(whole[:length])
        refused = told_or_read(read, place)
        # a label file cut between two lines is a label file; JSON is whole or not
        assert refused or case == "ultralytics labels"
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.sample(range(len(whole)), 3):
            damaged[at] = rng.randrange(256)
        path.write_bytes(damaged)
        told_or_read(read, place)
    for content in (b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"NaN", b"null"):
        path.write_bytes(content)
        assert told_or_read(read, place) or not content


STRANGERS: tuple[Any, ...] = (
    None, True, "x", "1", -1, 7, 0.5, 1e308, 10**400, float("nan"), float("inf"), [], {}, [[]], [[[1]]], {"a": 1}
)  # fmt: skip


def mutations(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in a JSON document; of a list of numbers, its first and last alone."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from mutations(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from mutations(value[index], (*path, index))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    out = copy.deepcopy(document)
    inside = out
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return out


@pytest.mark.parametrize("case", [case for case in CASES if case != "ultralytics labels"])
def test_values_of_another_type_are_told(case: str, tmp_path: Path) -> None:
    place, path, read = one_file(case, tmp_path)
    document = json.loads(path.read_text())
    refused = 0
    places = list(mutations(document))
    for at, stranger in random.Random(2).sample(list(product(places, STRANGERS)), 150):
        path.write_text(json.dumps(changed(document, at, stranger)))
        refused += told_or_read(read, place)
    assert refused > 50  # of 150: much in these files is not read at all


def test_a_million_brackets_and_huge_numbers_end_quickly(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" + "[]," * (2**24) + "[]]")
    assert "lists and objects" in told(read_ultralytics, tmp_path / "x.json")
    dump(tmp_path / "x.json", [{"image_id": 1, "keypoints": [1e300, 1.0, 0.5] * 17}])
    assert "a joint at 1e+300" in told(read_alphapose, tmp_path / "x.json")
    dump(tmp_path / "x.json", [{"image_id": 1, "keypoints": ["1", 2.0, 0.5] * 17}])
    assert "str among them" in told(read_alphapose, tmp_path / "x.json")


def test_sessions_cut_or_damaged_anywhere_are_told(filmed: Session, tmp_path: Path) -> None:
    path = tmp_path / "take.npz"
    save_session(filmed, path)
    whole = path.read_bytes()
    rng = random.Random(1)
    for length in rng.sample(range(len(whole)), 40):
        path.write_bytes(whole[:length])
        with pytest.raises(EdgeliftError, match=r"take\.npz"):
            load_session(path)
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.sample(range(len(whole)), 4):
            damaged[at] = rng.randrange(256)
        path.write_bytes(damaged)
        with suppress(EdgeliftError):
            load_session(path)


def test_session_fields_of_another_type_are_told(filmed: Session, tmp_path: Path) -> None:
    save_session(filmed, tmp_path / "take.npz")
    arrays: dict[str, Any] = load_arrays(tmp_path / "take.npz")
    strangers = (np.array("x"), np.zeros(0), np.array([1, 2]), np.array(np.nan), np.zeros((2, 2, 2, 2)))
    for key in arrays:
        for stranger in strangers:
            np.savez(tmp_path / "bad.npz", **(arrays | {key: stranger}))
            try:
                load_session(tmp_path / "bad.npz")
            except EdgeliftError:
                continue
            assert key in {"subject", "action", "camera_size", "poses_source"}, (key, stranger)


# ----------------------------------------------------------------------------------------------------------- conversion


@pytest.fixture
def takes(filmed: Session, tmp_path: Path) -> Path:
    for view, camera in enumerate(filmed.rig):
        write_mmpose(1)(tmp_path / "takes" / camera.name, people_of(filmed, view))
    write_rig(filmed.rig, tmp_path / "rig.toml")
    return tmp_path


def asked(home: Path, **changes: Any) -> Conversion:
    rig = str(home / "rig.toml")
    whole = Conversion(home / "takes", home / "take.npz", "mmpose", "h36m17", FPS, cameras=rig, units="m")
    return replace(whole, **changes)


def refused(home: Path, **changes: Any) -> str:
    with pytest.raises(EdgeliftError) as caught:
        convert(asked(home, **changes))
    assert not (home / "take.npz").exists()
    return str(caught.value)


def test_a_conversion_chooses_the_person_all_views_see(filmed: Session, takes: Path) -> None:
    facts, lines = convert(asked(takes))
    assert (facts["views"], facts["frames"]) == (3, FRAMES)
    assert lines[-1].startswith("3 views, 60 frames, h36m17")
    session = load_session(takes / "take.npz")
    assert session.camera_names == filmed.camera_names
    # whoever stands beside in odd frames is as far from the lens in all views: only even frames are certain
    np.testing.assert_array_equal(session.keypoints[:, ::2], filmed.keypoints[:, ::2])


def test_views_without_a_rig_take_the_size_of_their_images(filmed: Session, takes: Path) -> None:
    convert(asked(takes, cameras=None, units=None, size="1088x1920"))
    session = load_session(takes / "take.npz")
    assert (session.cameras, session.size(2)) == (None, (1088, 1920))
    for size in ("1088", "0x5", "1x999999999999", "²x3", "axb"):
        (takes / "take.npz").unlink(missing_ok=True)
        assert "WIDTHxHEIGHT" in refused(takes, cameras=None, units=None, size=size)


def test_what_is_not_stated_is_refused_with_what_the_files_tell(takes: Path) -> None:
    lacking = refused(takes, skeleton=None, fps=None)
    assert "--skeleton, --fps: received nothing; expected what the mmpose files were made with" in lacking
    assert "17 joints (coco17 or h36m17); named pelvis, right_hip" in lacking
    assert "cam_01 60 frames numbered 0 to 59" in lacking
    assert refused(takes, fps=None).startswith("--fps: received nothing")
    for format_ in ("deeplabcut", "sleap", "videopose3d", "freemocap"):
        assert "--skeleton: received nothing" in refused(takes, format=format_, skeleton=None)
    unit = refused(takes, units=None)
    assert "metres" in unit
    assert "cannot be read" in refused(takes, skeleton=None, source=takes / "absent")


def test_flags_that_a_format_does_not_know_are_refused(takes: Path) -> None:
    assert "--poses: received --format mmpose" in refused(takes, poses=Path("x"))
    assert "--joints, --to: received --format mmpose" in refused(takes, joints=Path("x"), to="trc")
    assert "--skeleton, --fps: received --format pose2d" in refused(takes, format="pose2d")
    assert "--size: received --cameras --units as well" in refused(takes, size="10x10")
    session = refused(takes, format="session", people="all")
    assert "--skeleton, --fps, --cameras, --units, --people: received --format session" in session
    assert "--to" in refused(takes, format="session", skeleton=None, fps=None, cameras=None, units=None)
    assert "ends in .npz" in refused(takes, output=takes / "x")
    assert "--cameras: received nothing" in refused(takes, cameras=None, units=None)


def test_all_people_are_written_beside_each_other(
    filmed: Session, takes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelift.poses import conversion
    from edgelift.poses.recordings import Selection

    def two(recording: Recording, cameras: Any) -> list[tuple[Session, Selection]]:
        assert [c.name for c in cameras] == [v.name for v in recording.views]
        return [(replace(filmed, name=f"{recording.name}_{n}"), Selection(f"person {n}", ())) for n in (1, 2)]

    monkeypatch.setattr(conversion, "separate_people", two)
    facts, lines = convert(asked(takes, people="all", output=takes / "out"))
    assert [p["session"] for p in facts["people"]] == [str(takes / "out" / f"takes_{n}.npz") for n in (1, 2)]
    assert "person: person 2" in lines
    convert(asked(takes, people="all", output=takes / "out" / "x.npz"))
    names = sorted(path.name for path in (takes / "out").iterdir())
    assert names == ["takes_1.npz", "takes_2.npz", "x_1.npz", "x_2.npz"]
    assert "--cameras" in refused(takes, people="all", cameras=None, units=None)


def test_a_rig_is_written_anew_in_metres(filmed: Session, tmp_path: Path) -> None:
    cameras = [{"id": c.name, "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(),
                "size": c.size} for c in filmed.rig]  # fmt: skip
    dump(tmp_path / "rigs.json", {"rigs": {"lab": cameras}})
    facts, _ = convert(Conversion(Path(f"{tmp_path}/rigs.json:lab"), tmp_path / "rig.toml", "cameras"))
    assert facts["cameras"] == list(filmed.camera_names)
    for one, other in zip(read_rig(str(tmp_path / "rig.toml"), "m"), filmed.rig, strict=True):
        np.testing.assert_allclose(one.R, other.R, atol=1e-12)
        np.testing.assert_allclose(one.t, other.t, atol=1e-12)
    with pytest.raises(EdgeliftError, match=r"ends in \.toml"):
        convert(Conversion(tmp_path / "rig.toml", tmp_path / "rig.npz", "cameras", units="m"))


def test_joint_names_come_from_toml_or_json_and_nothing_else(tmp_path: Path) -> None:
    from edgelift.poses.conversion import read_joint_names

    (tmp_path / "a.toml").write_text('snout = "nose"\n"left paw" = "left_wrist"\n')
    dump(tmp_path / "a.json", {"snout": "nose", "left paw": "left_wrist"})
    assert read_joint_names(tmp_path / "a.toml") == read_joint_names(tmp_path / "a.json")
    for name, text in (("b.toml", "snout = 1"), ("b.json", "[]"), ("c.toml", ""), ("d.toml", "x = " + "[" * 10**5)):
        (tmp_path / name).write_text(text)
        with pytest.raises(EdgeliftError, match=name.replace(".", r"\.")):
            read_joint_names(tmp_path / name)


def test_the_command_line_knows_every_format() -> None:
    from typing import get_args

    from edgelift.cli.files import Format

    assert set(get_args(Format)) == set(FORMATS)
