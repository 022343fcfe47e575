"""Detectors' JSON files: round trips through what each tool writes, their traps, and files that are broken."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.conversion import Conversion, convert
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.alphapose import read_alphapose
from edgelift.poses.formats.coco import read_coco
from edgelift.poses.formats.mmpose import read_mmpose
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.ultralytics import read_ultralytics
from edgelift.poses.sessions import Session, load_arrays, load_session, save_session
from edgelift.poses.skeletons import skeleton

from .json_files import (
    CASES,
    COCO,
    FPS,
    FRAMES,
    GONE,
    H36M,
    SIZE,
    Person,
    Read,
    Write,
    detected_session,
    dump,
    mmpose_instance,
    people_of,
    read_sized,
    standing,
    summary,
    told,
    write_alphapose,
    write_coco,
    write_labels,
    write_mmpose,
    write_mmpose_list,
    write_ultralytics,
)


@pytest.fixture(scope="module")
def filmed() -> Session:
    return detected_session()


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
