"""OpenPose JSON folders: one file a frame, all its people; also what Pose2Sim and others write in this shape."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.recordings import Recording, View
from edgelift.poses.sessions import clean_keypoints
from edgelift.poses.skeletons import SKELETONS, Skeleton

NORMALISED_LIMIT = 2.0  # no person in pixels lies within two of the corner; `--keypoint_scale` gives at most [-1, 1]
MOST_HOLES = 10  # frames without a file, for each file: beyond, the numbers are no frame numbers

Keypoints = NDArray[np.float32]


def read_openpose(folder: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Read a folder of views (or of one view's JSON files); raw pixels, time = frame number / fps.

    The frame number is the last number of the file name; numbers without a file become frames without people.
    The joint count does not identify a skeleton, so it must be given.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise EdgeliftError("--fps", f"{fps}", "a positive frame rate", "Give the frame rate of the videos.")
    views = tuple(_read_view(place, skeleton, fps) for place in _view_folders(folder))
    return Recording(views, skeleton, folder.resolve().name)


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


def _read_view(folder: Path, skeleton: Skeleton, fps: float) -> View:
    files = _number_files(folder)
    numbers = range(min(files), max(files) + 1)
    if len(numbers) > (MOST_HOLES + 1) * len(files):
        raise EdgeliftError(
            str(folder), f"{len(files)} files numbered {min(files)} to {max(files)}", "consecutive frame numbers",
            "Rename the files so that the last number of a name is its frame.",
        )  # fmt: skip
    nobody = np.empty((0, len(skeleton.joints), 3), np.float32)
    people = [_read_frame(files[n], skeleton) if n in files else nobody for n in numbers]
    _check_pixels(folder, people)
    return View(folder.name, np.array(numbers, np.float64) / fps, people)


def _number_files(folder: Path) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for path in sorted(folder.glob("*.json")):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise EdgeliftError(str(path), "no number in its name", "a frame number", "Rename it, or move it away.")
        if int(digits[-1]) in files:
            received = f"the frame number of {files[int(digits[-1])].name} again"
            raise EdgeliftError(str(path), received, "one file a frame", "Put each view in its own folder.")
        files[int(digits[-1])] = path
    return files


def _read_frame(path: Path, skeleton: Skeleton) -> Keypoints:
    """(people, joints, 3) of one file; people without a single joint are left out."""
    try:
        people = [person["pose_keypoints_2d"] for person in json.loads(path.read_bytes())["people"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdgeliftError(
            str(path), f"malformed JSON ({type(error).__name__}: {error})",
            'an object {"people": [{"pose_keypoints_2d": [...]}]}', "Run the detector on this frame again.",
        ) from error  # fmt: skip
    parsed = [_read_person(path, flat, skeleton) for flat in people]
    stacked = np.array(parsed, np.float32).reshape(-1, len(skeleton.joints), 3)
    return stacked[(stacked[..., 2] > 0).any(-1)]


def _read_person(path: Path, flat: Any, skeleton: Skeleton) -> Keypoints:
    count = len(skeleton.joints)
    if not isinstance(flat, list) or len(flat) != 3 * count:
        found = len(flat) / 3 if isinstance(flat, list) else 0
        fitting = [s.name for s in SKELETONS.values() if len(s.joints) == found]
        raise EdgeliftError(
            str(path), f"{found:g} joints", f"the {count} of skeleton {skeleton.name}",
            f"Give --skeleton: {' or '.join(fitting) or 'none that is known'} has {found:g} joints.",
        )  # fmt: skip
    try:
        joints = np.array(flat, np.float64).reshape(count, 3)
    except (TypeError, ValueError) as error:
        raise EdgeliftError(str(path), f"{error}", "numbers x, y, confidence", "Run the detector again.") from error
    confidence = joints[:, 2]
    if ((confidence > 1) | (confidence < 0)).any():
        worst = confidence[np.nanargmax(np.abs(confidence - 0.5))]
        raise EdgeliftError(
            str(path), f"confidence {worst:g}", "[0, 1]", "Scale the confidences (or visibility flags) to [0, 1]."
        )
    return clean_keypoints(joints)


def _check_pixels(folder: Path, people: list[Keypoints]) -> None:
    largest = max((float(np.nanmax(np.abs(p[..., :2]))) for p in people if len(p)), default=np.inf)
    if largest <= NORMALISED_LIMIT:
        raise EdgeliftError(
            str(folder), f"coordinates of at most {largest:g}", "pixels",
            "They are normalised: run OpenPose with --keypoint_scale 0, or multiply them by the image size.",
        )  # fmt: skip
