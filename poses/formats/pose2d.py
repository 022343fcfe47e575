"""pose2d messages, the JSON lines of keypoints that detectors write: one message checked, files of them read."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.untrusted import twice
from edgelift.poses.recordings import Recording, View
from edgelift.poses.skeletons import SKELETONS, Skeleton, skeleton

Float32 = NDArray[np.float32]
Ids = tuple[int, ...] | None

CLOCKS = ("recording", "unix", "mono", "ptp")
VERSION = 1
INT64, FROM_0 = range(-(2**63), 2**63), range(2**63)
NUMBERS = frozenset((int, float))  # bool is an int to isinstance, but no number of a detector
NOT_FOUND, MISSING = [0.0, 0.0, 0.0], (np.nan, np.nan, 0.0)
LONGEST_NAME = 200
LONGEST_LINE = 2**24  # bytes of a file's line: a thousand people of 133 joints are half of it
FAR_PX = 1e6  # from the image's corner: no detection is there, and squares of such numbers overflow
SUBJECT, REMEDY = "pose2d message", "docs/messages.md describes the message."


@dataclass(frozen=True, eq=False)
class Pose2d:
    """One message: the people that one camera's detector found in one frame.

    keypoints (people, joints, 3): raw pixels x, y and confidence in (0, 1]; a missing joint is NaN, NaN, 0, and people
    of whom every joint is missing are left out. ids: one a person, or None where the message tells none (it does not
    if it has nobody). size: (width, height) of the image in pixels, or None. t_ns counts on `clock`.
    """

    stream: str
    seq: int
    t_ns: int
    clock: str
    skeleton: Skeleton
    size: tuple[int, int] | None
    ids: tuple[int, ...] | None
    keypoints: Float32


def parse_message(message: object, most_people: int | None = None) -> Pose2d:
    """Check a pose2d message, as JSON or MessagePack gives it; EdgeliftError says what is wrong with it.

    most_people: how many it may tell of; None for any number.
    """
    if type(message) is not dict or message.get("type") != "pose2d":
        raise _wrong("type", message.get("type") if type(message) is dict else message, "an object of type pose2d")
    if type(message.get("v")) is not int or message["v"] != VERSION:
        raise _wrong("v", message.get("v"), f"{VERSION}", "Send messages of the version that this edgelift knows.")
    stream, clock, name = message.get("stream"), message.get("clock"), message.get("skeleton")
    if type(stream) is not str or not stream.isprintable() or not 0 < len(stream) <= LONGEST_NAME:
        raise _wrong("stream", stream, f"a name of 1 to {LONGEST_NAME} printable characters")
    if type(clock) is not str or clock not in CLOCKS:
        raise _wrong("clock", clock, f"one of {', '.join(CLOCKS)}")
    if type(name) is not str or name not in SKELETONS:
        raise _wrong("skeleton", name, f"one of {', '.join(SKELETONS)}")
    people = message.get("persons")
    if type(people) is not list:
        raise _wrong("persons", people, "a list")
    if most_people is not None and len(people) > most_people:
        raise EdgeliftError(f"{SUBJECT}: persons", f"{len(people)}", f"{most_people} at most", "Send fewer.")
    owner = SKELETONS[name]
    keypoints, ids = _known(_numbers(people, len(owner.joints)), _ids(people), len(owner.joints))
    seq, t_ns = _whole(message, "seq", FROM_0), _whole(message, "t_ns", INT64)
    return Pose2d(stream, seq, t_ns, clock, owner, _size(message.get("size")), ids, keypoints)


def _whole(message: dict[Any, Any], key: str, allowed: range) -> int:
    value = message.get(key)
    if type(value) is not int or value not in allowed:
        raise _wrong(key, value, f"a whole number{' from 0' if allowed is FROM_0 else ''} in 64 bits")
    return value


def _size(size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    if type(size) is not list or len(size) != 2 or any(type(v) is not int or not 0 < v < 2**31 for v in size):
        raise _wrong("size", size, "[width, height] in whole pixels")
    return size[0], size[1]


def _numbers(people: list[Any], joints: int) -> list[float]:
    """Return x, y, confidence of all joints of all people, one after the other; confidence 0 where there is a null."""
    rows: list[list[float]] = []
    for index, person in enumerate(people):
        kpts = person.get("kpts") if type(person) is dict else None
        if type(kpts) is not list:
            raise _wrong(f"persons[{index}]", person, "an object with a list kpts")
        if len(kpts) != joints:
            raise _wrong_count(f"persons[{index}].kpts", len(kpts), joints)
        rows += kpts
    if None in rows:
        rows = [NOT_FOUND if row is None else row for row in rows]
    # sets of types, because a live frame waits: a loop over the numbers would take twice as long as all the rest
    if {list}.issuperset(map(type, rows)) and {3}.issuperset(map(len, rows)):
        flat = list(chain.from_iterable(rows))
        if NUMBERS.issuperset(map(type, flat)):
            return flat
    raise _wrong_joint(rows, joints)


def _known(flat: list[float], ids: Ids, joints: int) -> tuple[Float32, Ids]:
    """Return keypoints (people, joints, 3), missing joints as NaN, NaN, 0, and ids, both without people of nothing."""
    try:
        near = sum(map(abs, flat)) < FAR_PX  # as in most frames, which then need no look at each number; NaN is not
        with np.errstate(over="ignore"):
            out = np.array(flat, np.float32).reshape(-1, joints, 3)
    except OverflowError as error:
        raise EdgeliftError(f"{SUBJECT}: kpts", "an integer beyond all floats", "pixels", REMEDY) from error
    known = out[..., 2] > 0
    if not near:
        known &= np.isfinite(out).all(-1)
    if not near or max(flat[2::3], default=0) > 1:
        _check_ranges(out, known)
    if not known.all():
        out[~known] = MISSING
        seen = np.logical_or.reduce(known, -1)
        out, ids = out[seen], ids and tuple(number for number, there in zip(ids, seen, strict=True) if there)
    return out, ids


def _check_ranges(keypoints: Float32, known: NDArray[np.bool_]) -> None:
    if (keypoints[..., 2] > 1).any():
        raise EdgeliftError(
            f"{SUBJECT}: kpts", f"confidence {np.nanmax(keypoints[..., 2]):g}", "[0, 1]",
            "Scale the confidences (or visibility flags, or per cent) to [0, 1].",
        )  # fmt: skip
    if (np.abs(keypoints[known]) > FAR_PX).any():
        raise EdgeliftError(
            f"{SUBJECT}: kpts", f"a joint at {np.abs(keypoints[known]).max():.3g}", f"pixels within {FAR_PX:g}",
            "Leave a joint that was not found null.",
        )  # fmt: skip


def _ids(people: list[dict[str, Any]]) -> Ids:
    ids = [person.get("id") for person in people]
    if all(number is None for number in ids):
        return None
    if any(type(number) is not int or number not in INT64 for number in ids):
        raise _wrong("persons: id", ids, "a whole number for each person, or none for any", "Leave all ids out.")
    if len(set(ids)) < len(ids):
        raise _wrong("persons: id", ids, "ids that differ", "Leave ids out where the detector does not track.")
    return tuple(ids)  # type: ignore[arg-type] # checked above


def _wrong_count(place: str, found: int, joints: int) -> EdgeliftError:
    fitting = [s.name for s in SKELETONS.values() if len(s.joints) == found]
    remedy = f"Name the skeleton: {' or '.join(fitting) or 'none that is known'} has {found} joints."
    return EdgeliftError(f"{SUBJECT}: {place}", f"{found} joints", f"the {joints} of its skeleton", remedy)


def _wrong_joint(rows: Sequence[Any], joints: int) -> EdgeliftError:
    """Return the error about the first row that is not three numbers."""
    fine = [type(row) is list and len(row) == 3 and NUMBERS.issuperset(map(type, row)) for row in rows]
    index = fine.index(False)
    return _wrong(f"persons[{index // joints}].kpts[{index % joints}]", rows[index], "[x, y, confidence] or null")


def _wrong(place: str, received: object, expected: str, remedy: str = REMEDY) -> EdgeliftError:
    return EdgeliftError(f"{SUBJECT}: {place}", reprlib.repr(received), expected, remedy)


def read_pose2d(path: Path) -> Recording:
    """Read a pose2d file (.jsonl) of one stream or several, or a folder of such files, as the views of one scene.

    A view is named after its stream or, where several files hold streams of one name, after its file. Times are the
    messages' own; on a clock other than `recording` they count from the earliest frame of all views.
    """
    streams = read_streams(path)
    skeletons = {frame.skeleton.name for _, frames in streams for frame in frames}
    clocks = {frame.clock for _, frames in streams for frame in frames}
    for what, found in (("skeleton", skeletons), ("clock", clocks)):
        if len(found) > 1:
            raise EdgeliftError(
                str(path), f"{what}s {', '.join(sorted(found))}", f"one {what}", f"Convert each {what} by itself."
            )
    start = 0 if clocks == {"recording"} else min(frames[0].t_ns for _, frames in streams)
    views = tuple(_view(name, frames, start) for name, frames in streams)
    return Recording(views, skeleton(skeletons.pop()), path.resolve().stem if path.is_file() else path.resolve().name)


def read_streams(path: Path) -> list[tuple[str, list[Pose2d]]]:
    """Return the messages of a file or folder as they are, by stream, named as `read_pose2d` names its views."""
    streams = [_Stream(file, name, frames) for file in _files(path) for name, frames in _read_file(file).items()]
    return [(name, stream.frames) for name, stream in zip(_name_views(path, streams), streams, strict=True)]


@dataclass(frozen=True)
class _Stream:
    file: Path
    name: str
    frames: list[Pose2d]


def _view(name: str, frames: Sequence[Pose2d], start_ns: int) -> View:
    times = np.array([frame.t_ns - start_ns for frame in frames], np.int64) / 1e9
    return View(name, times, [frame.keypoints for frame in frames])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.jsonl")) if path.is_dir() else []
    if not found:
        received = "no .jsonl file in it" if path.is_dir() else "no such file or folder"
        raise EdgeliftError(str(path), received, "a pose2d .jsonl file, or a folder of them", "Check the path.")
    return found


def _read_file(path: Path) -> dict[str, list[Pose2d]]:
    """Return the frames of each stream of a file, checked to rise in number and time."""
    streams: dict[str, list[Pose2d]] = {}
    for number, message in _messages(path):
        frames = streams.setdefault(message.stream, [])
        if frames and not (message.seq > frames[-1].seq and message.t_ns > frames[-1].t_ns):
            received = f"seq {message.seq}, t_ns {message.t_ns} after seq {frames[-1].seq}, t_ns {frames[-1].t_ns}"
            raise EdgeliftError(
                f"{path}, line {number}, stream {message.stream}", received, "both to rise frame by frame",
                "Write each take to its own file.",
            )  # fmt: skip
        frames.append(message)
    if not streams:
        raise EdgeliftError(str(path), "no line", "pose2d messages, one a line", "Run the detector again.")
    return streams


def _messages(path: Path) -> Iterator[tuple[int, Pose2d]]:
    """Yield the number of each line, from 1, and its message; blank lines are passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=1):
            if len(line) == LONGEST_LINE:
                received, remedy = f"more than {LONGEST_LINE} bytes", "Write each message on a line of its own."
                raise EdgeliftError(f"{path}, line {number}", received, "one pose2d message a line", remedy)
            if not line.strip():
                continue
            try:
                yield number, parse_message(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise EdgeliftError(
                    f"{path}, line {number}", f"malformed JSON ({error})", "one pose2d message a line",
                    "A file that was cut short can be shortened to its last whole line.",
                ) from error  # fmt: skip
            except EdgeliftError as error:
                subject = f"{path}, line {number}: {error.subject}"
                raise EdgeliftError(subject, error.received, error.expected, error.remedy) from error


def _name_views(path: Path, streams: Sequence[_Stream]) -> list[str]:
    names, stems = [stream.name for stream in streams], [stream.file.stem for stream in streams]
    for unique in (names, stems):
        if len(set(unique)) == len(unique):
            return unique
    again = ", ".join(twice(names))
    raise EdgeliftError(
        str(path), f"several files with a stream {again:.200}, and with more than one stream",
        "streams whose names differ, or one stream a file", "Name the streams when detecting (--name).",
    )  # fmt: skip
