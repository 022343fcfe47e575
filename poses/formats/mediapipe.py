"""Dumps of MediaPipe's pose landmarks. There is no file format: these are the shapes in which people write them.

- JSON: frames, each `{"pose_landmarks": [people]}`, `{"frame": 12, "landmarks": [33]}`, `{"landmark": [33]}` (what
  protobuf's MessageToDict gives), a list of people, or nothing (null, {}, []) where nobody was found. A landmark is an
  object with x, y and visibility, or [x, y, z, visibility].
- CSV, a row a frame: columns `x1,y1,z1,v1,...` (from 0 or 1), or `nose_x,nose_y,nose_z,nose_visibility,...`.
- CSV, a row a landmark: columns frame, landmark (number or name), x, y, visibility.
- .npy or .npz: one array (frames, 33, 4) or (frames, people, 33, 4) of x, y, z, visibility; or, in an .npz,
  `keypoints_2d` (views, frames, 33, 3) of x, y, visibility with `camera_names`.

x is normalised by the width of the image and y by its height, so the size is needed to get pixels, unless whoever wrote
the file has multiplied them already: a whole person within two pixels of the corner is none. z, world landmarks, hands
and faces are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import MOST_CAMERAS
from edgelift.poses.formats.detections import NORMALISED_LIMIT, Detections, Frame, read_views, to_recording
from edgelift.poses.formats.pose2d import NUMBERS
from edgelift.poses.formats.tables import open_npy, read_rows, to_numbers
from edgelift.poses.formats.untrusted import load_json, to_real
from edgelift.poses.formats.views import check_names, check_people, to_frames, whole_numbers
from edgelift.poses.recordings import Recording
from edgelift.poses.sessions import load_arrays
from edgelift.poses.skeletons import SKELETONS, Skeleton

Float64 = NDArray[np.float64]

EXPECTED = "MediaPipe landmarks (.json, .csv, .npz, .npy), or a folder with one file a view"
COUNT = 33
FRAME = ("frame", "frame_number", "frame_num", "frame_index", "frame_idx", "frame_id")
PEOPLE = ("pose_landmarks", "poseLandmarks", "pose", "landmarks", "landmark", "people", "persons")
LANDMARK = ("landmark", "landmark_id", "landmark_index", "landmark_name")
AXES = {
    "x": 0, "y": 1, "v": 2, "vis": 2, "visibility": 2, "viscon": 2, "confidence": 2,
}  # fmt: skip
SUFFIXES = (".json", ".csv", ".npy")
LONGEST_INDEX = 3  # digits of a landmark's number
DEEPEST = 4  # lists and objects between a frame and a landmark

# MediaPipe names the mouth the other way round
_OURS = {name: j for j, name in enumerate(SKELETONS["mediapipe33"].joints)}
_INDEX = _OURS | {"mouth_left": _OURS["left_mouth"], "mouth_right": _OURS["right_mouth"]}


def read_mediapipe(path: Path, skeleton: Skeleton, fps: float, size: tuple[int, int] | None = None) -> Recording:
    """Read one file, or a folder with one a view: raw pixels, confidence = visibility. See the module for the shapes.

    size: (width, height) of all images in pixels; needed where coordinates are normalised, and never guessed. Time is
    frame number / fps, the frame's place in the file where it has no number. NaN (or null) is missing. EdgeliftError on
    anything else, dumps without visibility among it, because every landmark would count as seen.
    """
    if skeleton.name != "mediapipe33":
        raise EdgeliftError(
            "--skeleton", skeleton.name, "mediapipe33, the 33 landmarks", "Give --skeleton mediapipe33."
        )
    views = parse_mediapipe(path)
    check_names(str(path), views)
    return to_recording([_to_pixels(view, size) for view in views], path, skeleton, fps)


def parse_mediapipe(path: Path) -> list[Detections]:
    """Read the same without rate and size: coordinates are as in the file."""
    if path.is_file() and path.suffix.lower() == ".npz":
        return _read_npz(path)
    return read_views(path, _suffix(path), EXPECTED, _read_file)


def _suffix(path: Path) -> str:
    """Return what kind of files the views are."""
    if not path.is_dir():
        found = [path.suffix.lower()]
    else:
        found = [end for end in SUFFIXES if any(path.glob(f"*{end}")) or any(path.glob(f"*/*{end}"))]
    if len(found) != 1 or found[0] not in SUFFIXES:
        raise EdgeliftError(str(path), f"files {', '.join(found) or 'of no such kind'}", EXPECTED, "Check the path.")
    return found[0]


def _to_pixels(view: Detections, size: tuple[int, int] | None) -> Detections:
    """Multiply normalised coordinates by the size. The median decides: a landmark may lie far beside the image."""
    people = [person for frame in view.frames.values() for person in frame.people]
    whole = np.array(people).reshape(-1, COUNT, 3)
    seen = np.abs(whole[..., :2][whole[..., 2] > 0])
    seen = seen[np.isfinite(seen)]
    if not seen.size or np.median(seen) > NORMALISED_LIMIT:
        return view
    if size is None:
        raise EdgeliftError(
            view.where, f"normalised coordinates (median {np.median(seen):.2f})", "pixels, or the size of the images",
            "Give --size WIDTHxHEIGHT of the images that MediaPipe saw.",
        )  # fmt: skip
    scale = np.array([*size, 1.0])
    frames = view.frames.items()
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused, or was not seen
        check_people(view.where, whole * scale)
        scaled = {n: replace(frame, people=[person * scale for person in frame.people]) for n, frame in frames}
    return replace(view, frames=scaled)


def _read_file(path: Path) -> Detections:
    read = {".json": _read_json, ".csv": _read_csv, ".npy": _read_npy}[path.suffix.lower()]
    return Detections(path.stem, str(path), read(path), SKELETONS["mediapipe33"].joints)


def _read_json(path: Path) -> dict[int, Frame]:
    data = load_json(path, EXPECTED)
    frames = data.get("frames") if isinstance(data, dict) else data
    if not isinstance(frames, list) or not frames:
        raise EdgeliftError(str(path), f"{type(frames).__name__}", "a list of frames", "Write a list, a frame an item.")
    numbers = np.array([_frame_number(path, frame, place) for place, frame in enumerate(frames)], np.int64)
    people = [
        np.array([*_people(f"{path}, frame {number}", frame, 0)]).reshape(-1, COUNT, 3)
        for number, frame in zip(numbers.tolist(), frames, strict=True)
    ]
    return to_frames(str(path), numbers, people)


def _frame_number(path: Path, frame: Any, place: int) -> int:
    told = [frame[key] for key in FRAME if key in frame] if isinstance(frame, dict) else []
    number = told[0] if told else place
    if type(number) is not int or not 0 <= number < 2**53:
        raise EdgeliftError(f"{path}, item {place}", f"frame {number!r:.40}", "a whole number from 0", "Correct it.")
    return number


def _people(where: str, item: Any, depth: int) -> Iterator[Float64]:
    """Yield the people (33, 3) of a frame, however it is wrapped."""
    if item is None or item == [] or item == {}:
        return
    if depth > DEEPEST or not isinstance(item, (list, dict)):
        raise EdgeliftError(
            where, f"{type(item).__name__}", f"{COUNT} landmarks", "See docs/formats.md for the shapes."
        )
    if isinstance(item, dict):
        keys = [key for key in PEOPLE if key in item]
        if not keys:
            raise EdgeliftError(where, f"keys {', '.join(item)[:80]}", f"one of {', '.join(PEOPLE)}", "Name it so.")
        yield from _people(where, item[keys[0]], depth + 1)
    elif _is_landmark(item[0]):
        yield _person(where, item)
    else:
        for person in item:
            yield from _people(where, person, depth + 1)


def _is_landmark(item: Any) -> bool:
    return (isinstance(item, dict) and "x" in item) or (
        isinstance(item, list) and bool(item) and type(item[0]) in NUMBERS
    )


def _person(where: str, landmarks: Sequence[Any]) -> Float64:
    if len(landmarks) != COUNT:
        raise EdgeliftError(
            where, f"{len(landmarks)} landmarks", f"{COUNT} of a pose", "Write the pose landmarks only."
        )
    return np.array([_landmark(f"{where}, landmark {i}", item) for i, item in enumerate(landmarks)])


def _landmark(where: str, item: Any) -> list[float]:
    """x, y, visibility; NaN where the file has null."""
    if isinstance(item, dict) and "x" in item and "y" in item and (item["x"] is None or "visibility" in item):
        values = [item["x"], item["y"], item.get("visibility")]
    elif isinstance(item, list) and len(item) == 4:
        values = [item[0], item[1], item[3]]
    else:
        raise EdgeliftError(
            where, f"{item!r:.80}", "x, y and visibility, or [x, y, z, visibility]",
            "Write the visibility too: without it every landmark would count as seen.",
        )  # fmt: skip
    if any(value is not None and type(value) not in NUMBERS for value in values):
        raise EdgeliftError(where, f"{item!r:.80}", "numbers", "Write x, y and visibility as numbers.")
    try:
        return [np.nan if value is None else float(value) for value in values]
    except OverflowError as error:
        raise EdgeliftError(where, "an integer beyond all floats", "coordinates", "Correct it.") from error


def _read_csv(path: Path) -> dict[int, Frame]:
    rows = read_rows(path, EXPECTED)
    header = [cell.casefold().replace(" ", "_") for cell in next(rows, [])]
    long = [header.index(name) for name in LANDMARK if name in header]
    return _read_long(path, header, rows, long[0]) if long else _read_wide(path, header, rows)


def _read_wide(path: Path, header: Sequence[str], rows: Iterator[list[str]]) -> dict[int, Frame]:
    """A row a frame."""
    columns = _wide_columns(path, header)
    frame = [header.index(name) for name in FRAME if name in header][:1]
    table = to_numbers(path, rows, len(header), [*frame, *columns.ravel().tolist()])
    numbers = whole_numbers(f"{path}: frame", table[:, 0]) if frame else np.arange(len(table))
    return to_frames(str(path), numbers, table[:, len(frame) :].reshape(-1, 1, COUNT, 3))


def _wide_columns(path: Path, header: Sequence[str]) -> NDArray[np.intp]:
    """(33, 3) columns of x, y and visibility."""
    found = {key: column for column, cell in enumerate(header) if (key := _split(cell)) is not None}
    landmarks = {name for name, _ in found}
    # numbered from 0 or from 1: the whole set says which
    first = min((int(name) for name in landmarks if name.isdecimal()), default=0)
    index = {name: int(name) - first if name.isdecimal() else _INDEX.get(name, -1) for name in landmarks}
    columns = np.full((COUNT, 3), -1, np.intp)
    for (name, axis), column in found.items():
        if 0 <= index[name] < COUNT:
            columns[index[name], axis] = column
    if (columns < 0).any() or len(found) != columns.size:
        raise EdgeliftError(
            str(path), f"a header of {len(found)} columns of landmarks: {', '.join(header[:6]):.80}, ...",
            f"x, y and visibility of {COUNT} landmarks",
            "Name them x1, y1, z1, v1, ... or nose_x, nose_y, nose_z, nose_visibility, ...",
        )  # fmt: skip
    return columns


def _split(cell: str) -> tuple[str, int] | None:
    """Take a column's name apart: landmark (name or number) and axis, None where it is no x, y or visibility."""
    axes = "|".join(AXES)
    numbered = re.fullmatch(rf"({axes})_?(\d{{1,{LONGEST_INDEX}}})", cell)
    named = re.fullmatch(rf"(?:landmark_?|lm_?|pose_)?(\w+?)_({axes})", cell)
    if numbered:
        return str(int(numbered[2])), AXES[numbered[1]]
    if named and not named[1].isdecimal():
        return named[1], AXES[named[2]]
    if named and len(named[1]) <= LONGEST_INDEX:
        return str(int(named[1])), AXES[named[2]]
    return None


def _read_long(path: Path, header: Sequence[str], rows: Iterator[list[str]], landmark: int) -> dict[int, Frame]:
    """A row a landmark; a frame's missing rows are missing landmarks."""
    frame = [header.index(name) for name in FRAME if name in header]
    axes = [[header.index(n) for n, a in AXES.items() if a == axis and n in header] for axis in range(3)]
    if not (frame and all(axes)):
        raise EdgeliftError(
            str(path), f"a header {', '.join(header)[:80]}", "frame, landmark, x, y, visibility", "Name the columns so."
        )
    which: list[int] = []
    table = to_numbers(path, _noting(path, rows, landmark, which), len(header), [frame[0], *(a[0] for a in axes)])
    numbers, row = np.unique(whole_numbers(f"{path}: frame", table[:, 0]), return_inverse=True)
    place = row * COUNT + np.array(which)
    if len(np.unique(place)) < len(place):
        raise EdgeliftError(str(path), "a landmark twice in one frame", "one person", "Write each person's own file.")
    people = np.full((len(numbers) * COUNT, 3), np.nan)
    people[place] = table[:, 1:]
    return to_frames(str(path), numbers, people.reshape(-1, 1, COUNT, 3))


def _noting(path: Path, rows: Iterator[list[str]], column: int, which: list[int]) -> Iterator[list[str]]:
    """Pass rows on, and put the index of each row's landmark in `which`."""
    for cells in rows:
        word = cells[column].casefold() if column < len(cells) else ""
        index = int(word) if re.fullmatch(rf"\d{{1,{LONGEST_INDEX}}}", word) else _INDEX.get(word, -1)
        if not 0 <= index < COUNT:
            raise EdgeliftError(str(path), f"landmark {word!r:.40}", f"0 to {COUNT - 1}, or a name", "Correct it.")
        which.append(index)
        yield cells


def _read_npy(path: Path) -> dict[int, Frame]:
    return _from_array(str(path), open_npy(path, EXPECTED))


def _read_npz(path: Path) -> list[Detections]:
    arrays = load_arrays(path)
    if "keypoints_2d" in arrays:
        return _from_views(path, arrays)
    if len(arrays) != 1:
        raise EdgeliftError(
            str(path), f"arrays {', '.join(arrays)[:80]}", "one array, or keypoints_2d with camera_names",
            "Save the landmarks alone.",
        )  # fmt: skip
    frames = _from_array(str(path), next(iter(arrays.values())))
    return [Detections(path.stem, str(path), frames, SKELETONS["mediapipe33"].joints)]


def _from_array(where: str, array: NDArray[Any]) -> dict[int, Frame]:
    """From (frames[, people], 33, 4)."""
    whole = array[:, None] if array.ndim == 3 else array
    if whole.ndim != 4 or whole.shape[2:] != (COUNT, 4) or not whole.size or whole.dtype.kind not in "fiu":
        raise EdgeliftError(
            where, f"{array.dtype} of shape {array.shape}", f"(frames, {COUNT}, 4): x, y, z, visibility",
            "Save the visibility too: without it every landmark would count as seen.",
        )  # fmt: skip
    return to_frames(where, np.arange(len(whole)), to_real(where, whole[..., [0, 1, 3]], np.float64))


def _from_views(path: Path, arrays: Mapping[str, NDArray[Any]]) -> list[Detections]:
    array, names = arrays["keypoints_2d"], arrays.get("camera_names", np.empty(0, str))
    wanted = f"({MOST_CAMERAS} views at most, frames, {COUNT}, 3): x, y, visibility, and camera_names of as many"
    wrong = array.ndim != 4 or array.shape[2:] != (COUNT, 3) or array.dtype.kind not in "fiu"
    if wrong or not array.size or len(array) > MOST_CAMERAS:
        raise EdgeliftError(f"{path}: keypoints_2d", f"{array.dtype} of shape {array.shape}", wanted, "Save it so.")
    if names.shape != array.shape[:1] or names.dtype.kind != "U":
        raise EdgeliftError(f"{path}: camera_names", f"{names.dtype} of shape {names.shape}", wanted, "Save it so.")
    numbers, joints = np.arange(array.shape[1]), SKELETONS["mediapipe33"].joints
    return [
        Detections(name, str(path), to_frames(f"{path}, {name}", numbers, view[:, None]), joints)
        for name, view in zip(names.tolist(), to_real(str(path), array, np.float64), strict=True)
    ]
