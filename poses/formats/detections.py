"""What detectors' files tell before skeleton and rate are known: numbers checked, frames numbered, views found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.cameras import Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.pose2d import FAR_PX, NUMBERS
from edgelift.poses.recordings import Recording, View
from edgelift.poses.sessions import clean_keypoints
from edgelift.poses.skeletons import SKELETONS, Skeleton

NORMALISED_LIMIT = 2.0  # no person in pixels lies within two of the corner; normalised is at most [-1, 1]
MOST_HOLES = 10  # frames without a file, for each that has one: beyond, the numbers are no frame numbers
ABSENT = 36_000  # frames (ten minutes at 60 Hz) that may lack besides, where a frame without people is not written
CONFIDENCE = (0.0, 1.0)
# the peak of a network's answer leaves [0, 1] a little (RTMPose reaches 1.1, MSPN 1.3); not positive is not found
PEAK = (-0.5, 1.5)
LONGEST_NUMBER = 15  # digits of a frame number
NAMES_TOLD = 40  # joint names in a message


@dataclass(frozen=True, eq=False)
class Frame:
    """The people of one image: float64 (joints, 3) x, y, confidence each, as the file has them; where it tells them."""

    where: str
    people: list[Float64]


@dataclass(frozen=True, eq=False)
class Detections:
    """One view: its frames by number; a number between the first and the last that is absent has nobody.

    where: the file or folder. joint_names: in the file's order, empty where it does not tell them. absent: how many
    frames may lack beyond MOST_HOLES.
    """

    name: str
    where: str
    frames: dict[int, Frame]
    joint_names: tuple[str, ...] = ()
    absent: int = 0


Load = Callable[[Path], Detections | Frame]  # a file is a view, or one frame of a view


def to_recording(views: Sequence[Detections], source: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Return the Recording of views (raw pixels, missing = NaN, NaN, 0), named after the source; time = number / fps.

    The joint count does not identify a skeleton, so it must be given; EdgeliftError where it contradicts the file.
    People without a single joint are left out.
    """
    check_rate(fps)
    made = tuple(_to_view(view, skeleton, fps) for view in views)
    return Recording(made, skeleton, source.resolve().stem if source.is_file() else source.resolve().name)


def check_rate(fps: float) -> None:
    """EdgeliftError unless fps, frames a second, is a positive number."""
    if not (np.isfinite(fps) and fps > 0):
        raise EdgeliftError("--fps", f"{fps}", "a positive frame rate", "Give the frame rate of the videos.")


def _to_view(view: Detections, skeleton: Skeleton, fps: float) -> View:
    check_numbers(view.where, view.frames, view.absent)
    _check_names(view, skeleton)
    numbers = range(min(view.frames), max(view.frames) + 1)
    nobody = Frame(view.where, [])
    people = [_clean(view.frames.get(number, nobody), skeleton) for number in numbers]
    if largest(view) <= NORMALISED_LIMIT:
        raise EdgeliftError(
            view.where, f"coordinates of at most {largest(view):g}", "pixels",
            "They are normalised: multiply them by the image size (OpenPose: run it with --keypoint_scale 0).",
        )  # fmt: skip
    return View(view.name, np.array(numbers, np.float64) / fps, people)


def largest(view: Detections) -> float:
    """Return the largest coordinate of a view, either way from zero; infinity where nobody is seen."""
    known = (p[p[:, 2] > 0, :2] for frame in view.frames.values() for p in frame.people)
    finite = (np.abs(xy[np.isfinite(xy)]) for xy in known)
    return max((float(xy.max()) for xy in finite if xy.size), default=np.inf)


def _clean(frame: Frame, skeleton: Skeleton) -> Any:
    """float32 (people, joints, 3) of those of whom anything is seen."""
    count = len(skeleton.joints)
    for person in frame.people:
        if len(person) != count:
            raise EdgeliftError(
                frame.where, f"{len(person)} joints", f"the {count} of skeleton {skeleton.name}",
                f"Give --skeleton: {_fitting(len(person))} has {len(person)} joints.",
            )  # fmt: skip
    people = clean_keypoints(np.array(frame.people, np.float64).reshape(-1, count, 3))
    return people[(people[..., 2] > 0).any(-1)]


def _fitting(joints: int) -> str:
    return " or ".join(s.name for s in SKELETONS.values() if len(s.joints) == joints) or "none that is known"


def _check_names(view: Detections, skeleton: Skeleton) -> None:
    """EdgeliftError where a joint of the skeleton has its name at another place of the file."""
    for index, name in enumerate(view.joint_names):
        if name in skeleton.joints and skeleton.joints.index(name) != index:
            raise EdgeliftError(
                view.where, f"{name} as joint {index}",
                f"joint {skeleton.joints.index(name)}, as in skeleton {skeleton.name}",
                f"Give --skeleton for the file's joints: {_listed(view.joint_names)}.",
            )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_TOLD]) + (", ..." if len(names) > NAMES_TOLD else "")


def check_numbers(where: str, numbers: Iterable[int], absent: int = 0) -> None:
    """EdgeliftError where numbers are too sparse for those of frames: memory grows with their range."""
    found = sorted(numbers)
    if not found:
        raise EdgeliftError(where, "no frame", "at least one", "Run the detector again.")
    if found[-1] - found[0] >= (MOST_HOLES + 1) * len(found) + absent:
        raise EdgeliftError(
            where, f"{len(found)} frames numbered {found[0]} to {found[-1]}", "consecutive frame numbers",
            "Rename the files (or ids) so that the last number of a name is its frame.",
        )  # fmt: skip


def frame_number(where: str, name: str) -> int:
    """Return the last number of a name, which is its frame's; EdgeliftError where it has none."""
    digits = re.findall("[0-9]+", name)
    if not digits or len(digits[-1]) > LONGEST_NUMBER:
        received = "no number in its name" if not digits else f"{len(digits[-1])} digits"
        raise EdgeliftError(where, received, "a frame number", "Rename it, or move it away.")
    return int(digits[-1])


def person(where: str, flat: Any, limits: tuple[float, float] = CONFIDENCE) -> Float64:
    """Return the (joints, 3) x, y, confidence of a flat list, confidence cut to [0, 1]; limits: what it may be.

    NaN is missing, and so is what lies exactly in the corner: detectors write 0, 0 for what they did not find.
    """
    if not isinstance(flat, list) or len(flat) % 3 or not NUMBERS.issuperset(map(type, flat)):
        raise EdgeliftError(where, _shown(flat), "numbers x, y, confidence of each joint", "Run the detector again.")
    try:
        joints = np.array(flat, np.float64).reshape(-1, 3)
    except OverflowError as error:
        raise EdgeliftError(where, f"{error}", "pixels", "Run the detector again.") from error
    confidence = joints[:, 2]
    if ((confidence > limits[1]) | (confidence < limits[0])).any():
        worst = confidence[np.nanargmax(np.abs(confidence - 0.5))]
        raise EdgeliftError(
            where, f"confidence {worst:g}", "[0, 1]", "Scale the confidences (or visibility flags) to [0, 1]."
        )
    if (np.abs(joints[:, :2]) > FAR_PX).any():
        received = f"a joint at {np.nanmax(np.abs(joints[:, :2])):.3g}"
        raise EdgeliftError(where, received, f"pixels within {FAR_PX:g}", "Run the detector again.")
    joints[:, 2] = np.clip(confidence, *CONFIDENCE)
    joints[(joints[:, :2] == 0).all(-1), 2] = 0
    return joints


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return f"a {type(value).__name__}"
    strangers = sorted({type(v).__name__ for v in value if type(v) not in NUMBERS})
    return f"{len(value)} values" + (f", {', '.join(strangers)} among them" if strangers else "")


def field(where: str, value: Any, key: str, kind: type) -> Any:
    """Return value[key] of a JSON object; EdgeliftError where it is none, or has no such field of that kind."""
    found = value.get(key) if isinstance(value, dict) else None
    if type(found) is not kind:
        names = {dict: "an object", list: "a list", int: "a whole number", str: "a text"}
        received = f"a {type(value).__name__}" if not isinstance(value, dict) else f"{key}: {type(found).__name__}"
        raise EdgeliftError(where, received, f"an object with {key}: {names[kind]}", "Run the detector again.")
    return found


def read_views(source: Path, suffix: str, expected: str, load: Load) -> list[Detections]:
    """Read a file (one view), a folder of files (a view each), or a folder of folders (a view each).

    A view is called after its file or, in a folder of its own, after that. Files of one frame each are together one
    view, named after their folder, and the last number of each file's name is its frame.
    """
    if source.is_file():
        return _join(source, False, [source], load)
    if not source.is_dir():
        raise EdgeliftError(str(source), "no such file or folder", expected, "Check the path.")
    files = _inside(source, suffix)
    if files:
        return _join(source, False, files, load)
    views = [
        view for folder in sorted(source.iterdir()) if folder.is_dir() and (files := _inside(folder, suffix))
        for view in _join(folder, True, files, load)
    ]  # fmt: skip
    if not views:
        received = f"no {suffix} file in it or in its folders"
        raise EdgeliftError(str(source), received, expected, "Give the folder that holds the views.")
    return views


def _inside(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if path.is_file())


def _join(place: Path, own_folder: bool, files: Sequence[Path], load: Load) -> list[Detections]:
    loaded = {path: load(path) for path in files}
    views = [found for found in loaded.values() if isinstance(found, Detections)]
    images = {path: found for path, found in loaded.items() if isinstance(found, Frame)}
    if not views:
        return [Detections(place.stem if place.is_file() else place.name, str(place), _by_number(images))]
    if images or (own_folder and len(views) > 1):
        received = f"{len(views)} files of whole views and {len(images)} of single frames"
        raise EdgeliftError(str(place), received, "one view, or its frames", "Put each view in its own folder.")
    return [replace(views[0], name=place.name)] if own_folder else views


def _by_number(images: Mapping[Path, Frame]) -> dict[int, Frame]:
    return {number: images[path] for number, path in number_files(list(images)).items()}


def number_files(files: Sequence[Path]) -> dict[int, Path]:
    """Return the files of one view by frame number; EdgeliftError where they have none, or one twice."""
    numbered: dict[int, Path] = {}
    for path in files:
        number = frame_number(str(path), path.stem)
        if number in numbered:
            received = f"the frame number of {numbered[number].name} again"
            raise EdgeliftError(str(path), received, "one file a frame", "Put each view in its own folder.")
        numbered[number] = path
    return numbered


def evidence(views: Sequence[Detections]) -> str:
    """Tell what files say about their skeleton and rate: joints, who has as many, names, frames."""
    counts = {len(person) for view in views for frame in view.frames.values() for person in frame.people}
    joints = [f"{count} joints ({_fitting(count)})" for count in sorted(counts)]
    names = next((view.joint_names for view in views if view.joint_names), ())
    frames = [
        f"{view.name} {len(view.frames)} frames numbered {min(view.frames)} to {max(view.frames)}"
        for view in views if view.frames
    ]  # fmt: skip
    told = [", ".join(joints) or "no person", *([f"named {_listed(names)}"] if names else []), *frames]
    return "; ".join([*told, "no skeleton and no time"])
