"""AlphaPose's alphapose-results.json: one list of people for all frames of a video."""

from __future__ import annotations

from pathlib import Path

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.coco import frames_of_people
from edgelift.poses.formats.detections import ABSENT, PEAK, Detections, read_views, to_recording
from edgelift.poses.formats.untrusted import load_json
from edgelift.poses.recordings import Recording
from edgelift.poses.skeletons import Skeleton

EXPECTED = 'a list of {"image_id": "0.jpg", "keypoints": [x, y, score, ...]}'


def read_alphapose(path: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Read a results file (one view), a folder of them (a view each), or a folder of folders with one each.

    Raw pixels; time = frame / fps. Frames without people are absent from the file: the number in `image_id` is the
    frame, and what lacks between the first and the last has nobody. Scores are peaks of the network's answer: not
    positive is missing, up to 1.5 counts as 1, above is refused. Track ids (`idx`) and `score` of people are not used.
    """
    return to_recording(parse_alphapose(path), path, skeleton, fps)


def parse_alphapose(path: Path) -> list[Detections]:
    """Read the same without knowing skeleton and rate."""
    return read_views(path, ".json", EXPECTED, _load)


def _load(path: Path) -> Detections:
    told = load_json(path, EXPECTED)
    if isinstance(told, dict):
        raise EdgeliftError(
            str(path), "an object, as AlphaPose's --format cmu and open write it", EXPECTED,
            "Run AlphaPose without --format.",
        )  # fmt: skip
    return Detections(path.stem, str(path), frames_of_people(str(path), told, PEAK), absent=ABSENT)
