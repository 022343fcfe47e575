"""COCO's keypoint results: one list of people for all images, as evaluations write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import (
    CONFIDENCE,
    Detections,
    Frame,
    field,
    frame_number,
    person,
    read_views,
    to_recording,
)
from edgelift.poses.formats.untrusted import load_json
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

EXPECTED = 'a list of {"image_id": ..., "keypoints": [x, y, score, ...]}'
FLAGS = (0.0, 1.0, 2.0)  # COCO's visibility: not labelled, labelled but hidden, visible


def read_coco(path: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Read a results file (one view), a folder of them (a view each), or a folder of folders with one each.

    Raw pixels; time = image / fps. `image_id` (a whole number, or the last number of a name) is the frame and must run
    without large gaps, as where a video's frames were numbered; the ids of COCO's own photographs are refused. The
    third value is a detector's score in [0, 1]. Ground truth has visibility flags 0, 1, 2 there: it is refused, and so
    is a file whose third values are all 0 and 1, which may be either.
    """
    return to_recording(parse_coco(path), path, skeleton, fps)


def parse_coco(path: Path) -> list[Detections]:
    """Read the same without knowing skeleton and rate."""
    return read_views(path, ".json", EXPECTED, _load)


def _load(path: Path) -> Detections:
    told = load_json(path, EXPECTED)
    if isinstance(told, dict) and "annotations" in told:
        raise EdgeliftError(
            str(path), "annotations: ground truth, with visibility flags", EXPECTED,
            "Give a detector's results: a flag is no confidence.",
        )  # fmt: skip
    frames = frames_of_people(str(path), told, CONFIDENCE)
    third = {float(c) for frame in frames.values() for p in frame.people for c in np.unique(p[:, 2])}
    if third.issubset(FLAGS):
        raise EdgeliftError(
            str(path), f"nothing but {', '.join(f'{c:g}' for c in sorted(third)) or 'nothing'} as third values",
            "scores of a detector", "Visibility flags are no confidences: write the detector's scores.",
        )  # fmt: skip
    return Detections(path.stem, str(path), frames)


def frames_of_people(where: str, told: Any, limits: tuple[float, float]) -> dict[int, Frame]:
    """Return the frames of a list of people with `image_id` and flat `keypoints`; limits: what a confidence may be."""
    if not isinstance(told, list) or not told:
        received = "an empty list" if isinstance(told, list) else f"a {type(told).__name__}"
        raise EdgeliftError(where, received, EXPECTED, "Run the detector again, with this format.")
    frames: dict[int, Frame] = {}
    for index, item in enumerate(told):
        number = _image(f"{where}, person {index}", item)
        frame = frames.setdefault(number, Frame(f"{where}, image {number}", []))
        frame.people.append(person(frame.where, field(frame.where, item, "keypoints", list), limits))
    return frames


def _image(where: str, item: Any) -> int:
    image = item.get("image_id") if isinstance(item, dict) else None
    if isinstance(image, str):
        return frame_number(where, Path(image).stem)
    if type(image) is not int or image < 0:
        raise EdgeliftError(where, f"image_id {image!r:.40}", "a number from 0, or a name", "Run the detector again.")
    return frame_number(where, str(image))
