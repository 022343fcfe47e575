"""OpenPose JSON folders: one file a frame, all its people; also what Pose2Sim and others write in this shape."""

from __future__ import annotations

from pathlib import Path

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import (
    Detections,
    Frame,
    check_numbers,
    field,
    number_files,
    person,
    to_recording,
)
from edgelift.poses.formats.untrusted import load_json
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

EXPECTED = 'an object {"people": [{"pose_keypoints_2d": [...]}]}'


def read_openpose(folder: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Read a folder of views (or of one view's JSON files); raw pixels, time = frame number / fps.

    The frame number is the last number of the file name; numbers without a file become frames without people.
    The joint count does not identify a skeleton, so it must be given.
    """
    return to_recording(parse_openpose(folder), folder, skeleton, fps)


def parse_openpose(folder: Path) -> list[Detections]:
    """Read the same without knowing skeleton and rate."""
    return [_parse_view(place) for place in _view_folders(folder)]


def _view_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise EdgeliftError(str(folder), "no such folder", "a folder of OpenPose JSON", "Check the path.")
    for place in (folder, folder / "pose"):
        if any(place.glob("*.json")):
            return [place]
        inside = sorted(child for child in place.glob("*") if any(child.glob("*.json")))
        if inside:
            return inside
    raise EdgeliftError(
        str(folder), "no .json file in it or in its folders", "one folder a view, one file a frame",
        "Give the folder that holds the views' folders.",
    )  # fmt: skip


def _parse_view(folder: Path) -> Detections:
    files = number_files(sorted(folder.glob("*.json")))
    check_numbers(str(folder), files)
    return Detections(folder.name, str(folder), {number: _parse_frame(path) for number, path in files.items()})


def _parse_frame(path: Path) -> Frame:
    where = str(path)
    people = field(where, load_json(path, EXPECTED), "people", list)
    return Frame(where, [person(where, field(where, p, "pose_keypoints_2d", list)) for p in people])
