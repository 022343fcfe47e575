"""Ultralytics' poses (YOLO): the JSON of `Results.summary()`, and the label files of `save_txt`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.cameras import Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import (
    ABSENT,
    NORMALISED_LIMIT,
    Detections,
    Frame,
    field,
    largest,
    person,
    read_views,
    to_recording,
)
from edgelift.poses.formats.untrusted import load_json, read_text
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

EXPECTED = "a list of frames, each the list that Results.summary() gives, or one such list a file"
LABEL = "class, box (4 numbers), then x, y or x, y, confidence of each joint"
REMEDY = "Run the detector again with save_txt=True."
BOX = 5  # numbers of a label line before its joints: class, centre, size

Size = tuple[int, int]


def read_ultralytics(path: Path, skeleton: Skeleton, fps: float, size: Size | None = None) -> Recording:
    """Read a video's JSON (one view), a folder of them (a view each) or of one JSON an image, or a folder of those.

    Where there is no .json, a folder of `save_txt` labels (.txt, one an image), or a folder of those. Raw pixels; time
    = frame / fps: frames are counted in a list, and else are the last number of a file's name. size: (width, height) of
    all images in pixels, with which labels, and summaries made with normalize=True, are multiplied; without it they are
    refused. Models without visibility tell no confidence: a joint has 1 then. A joint at 0, 0 is missing: Ultralytics
    writes that for one it is not sure of. Track ids are not used.
    """
    return to_recording(parse_ultralytics(path, size, len(skeleton.joints)), path, skeleton, fps)


def parse_ultralytics(path: Path, size: Size | None = None, joints: int | None = None) -> list[Detections]:
    """Read the same without knowing skeleton and rate; joints: how many a label line holds, where that is known."""
    if not _is_labels(path):
        views = read_views(path, ".json", EXPECTED, _load)
        return views if size is None else [_to_pixels(view, size) for view in views]
    views = read_views(path, ".txt", LABEL, partial(_load_labels, joints=joints))
    if size is None:
        remedy = "Give --size WIDTHxHEIGHT of the images."
        raise EdgeliftError(str(path), "labels in shares of the image", "the image's size", remedy)
    for view in views:
        if largest(view) > NORMALISED_LIMIT:
            raise EdgeliftError(view.where, f"coordinates of up to {largest(view):g}", "shares of the image", REMEDY)
    # an image without people has no file
    return [replace(_to_pixels(view, size), absent=ABSENT) for view in views]


def _is_labels(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".txt"
    found = {file.suffix for pattern in ("*.json", "*.txt", "*/*.json", "*/*.txt") for file in path.glob(pattern)}
    return found == {".txt"}


def _load(path: Path) -> Detections | Frame:
    where = str(path)
    told = load_json(path, EXPECTED)
    if not isinstance(told, list):
        raise EdgeliftError(where, f"a {type(told).__name__}", EXPECTED, "Dump [r.summary() for r in results].")
    if told and all(isinstance(frame, list) for frame in told):
        frames = {n: _frame(f"{where}, frame {n}", people) for n, people in enumerate(told)}
        return Detections(path.stem, where, frames)
    return _frame(where, told)


def _frame(where: str, people: list[Any]) -> Frame:
    return Frame(where, [_person(where, item) for item in people])


def _person(where: str, item: Any) -> Float64:
    points = field(where, item, "keypoints", dict)
    x, y = (field(where, points, axis, list) for axis in "xy")
    visible = field(where, points, "visible", list) if "visible" in points else [1.0] * len(x)
    if not len(x) == len(y) == len(visible):
        received = f"{len(x)} x, {len(y)} y and {len(visible)} visible"
        raise EdgeliftError(where, received, "as many of each", "Run the detector again.")
    return person(where, [v for joint in zip(x, y, visible, strict=True) for v in joint])


def _load_labels(path: Path, joints: int | None) -> Frame:
    people = []
    for number, line in enumerate(read_text(path, LABEL).splitlines(), start=1):
        if line.strip():
            people.append(_label(f"{path}, line {number}", line, joints))
    return Frame(str(path), people)


def _label(where: str, line: str, joints: int | None) -> Float64:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError as error:
        raise EdgeliftError(where, "words that are no numbers", LABEL, REMEDY) from error
    held = len(numbers) - BOX
    # behind the joints may stand the person's confidence (save_conf) and a track id
    fitting = [] if joints is None else [width for width in (3, 2) if 0 <= held - width * joints <= 2]
    if not fitting:
        expected = f"{LABEL}, and at most two numbers more" + ("" if joints is None else f", for {joints} joints")
        remedy = "Give --skeleton, or check that it is this one."
        raise EdgeliftError(where, f"{len(numbers)} numbers", expected, remedy)
    rows = np.ones((joints or 0, 3))
    rows[:, : fitting[0]] = np.reshape(numbers[BOX : BOX + fitting[0] * len(rows)], (len(rows), fitting[0]))
    return person(where, rows.ravel().tolist())


def _to_pixels(view: Detections, size: Size) -> Detections:
    """Multiply what lies in shares of the image; pixels are left alone, because nobody stands in two of them."""
    if largest(view) > NORMALISED_LIMIT:
        return view
    return replace(view, frames={n: Frame(f.where, [p * (*size, 1) for p in f.people]) for n, f in view.frames.items()})
