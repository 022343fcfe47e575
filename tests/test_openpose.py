import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.skeletons import skeleton

COCO = skeleton("coco17")


def _person(x: float, confidence: float = 0.5) -> list[float]:
    return [v for j in range(17) for v in (x + j, 2 * x + j, confidence)]


def _write(folder: Path, number: int, *people: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"video2_{number}_keypoints.json"
    path.write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": p} for p in people]}))
    return path


def test_frames_are_sorted_by_number_and_holes_keep_time(tmp_path: Path) -> None:
    for number, x in ((9, 100), (10, 200), (12, 400)):
        _write(tmp_path / "cam", number, _person(x))
    _write(tmp_path / "cam", 13)
    (view,) = read_openpose(tmp_path, COCO, 50).views
    assert view.name == "cam"
    assert np.allclose(view.timestamps, np.arange(9, 14) / 50)
    assert [len(p) for p in view.people] == [1, 1, 0, 1, 0]
    assert [float(p[0, 0, 0]) for p in view.people if len(p)] == [100, 200, 400]


def test_zero_is_missing_and_people_of_nothing_are_dropped(tmp_path: Path) -> None:
    flat = _person(100)
    flat[6:9] = [0, 0, 0]
    _write(tmp_path / "cam", 0, flat, [0] * 51, _person(300))
    people = read_openpose(tmp_path, COCO, 30).views[0].people[0]
    assert people.shape == (2, 17, 3)
    assert np.isnan(people[0, 2, :2]).all()
    assert people[0, 2, 2] == 0
    assert np.isfinite(people[0, 3]).all()


def test_views_one_folder_and_pose_folder_are_found(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write(tmp_path / "trial" / "pose" / name, 0, _person(100))
    assert [v.name for v in read_openpose(tmp_path / "trial", COCO, 30).views] == ["a", "b"]
    assert [v.name for v in read_openpose(tmp_path / "trial" / "pose", COCO, 30).views] == ["a", "b"]
    assert [v.name for v in read_openpose(tmp_path / "trial" / "pose" / "b", COCO, 30).views] == ["b"]
    with pytest.raises(EdgeliftError, match=r"no \.json file"):
        read_openpose(_write(tmp_path / "x" / "y" / "z", 0).parents[2], COCO, 30)


def test_mistakes_are_named(tmp_path: Path) -> None:
    def error(match: str, name: str) -> None:
        with pytest.raises(EdgeliftError, match=match):
            read_openpose(tmp_path / name, COCO, 30)

    _write(tmp_path / "count", 3, [1.0] * 75)
    error("_3_keypoints.json: received 25 joints.*body25 or body25b has 25", "count")
    _write(tmp_path / "norm", 0, [v / 1000 for v in _person(100)])
    error("coordinates of at most 0.216; expected pixels", "norm")
    _write(tmp_path / "conf", 0, _person(100, 2.0))
    error("confidence 2", "conf")
    _write(tmp_path / "json", 7).write_text('{"people": [')
    error("_7_keypoints.json: received malformed JSON", "json")
    _write(tmp_path / "list", 7).write_text("[]")
    error("_7_keypoints.json: received a list", "list")
    (_write(tmp_path / "twice", 7).parent / "other_07.json").write_text('{"people": []}')
    error("frame number of", "twice")
    _write(tmp_path / "stamps", 0)
    _write(tmp_path / "stamps", 1700000000)
    error("consecutive frame numbers", "stamps")
    error("no such folder", "absent")
