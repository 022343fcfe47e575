"""rtmlib for worker.py, in rtmlib's own environment: YOLOX finds people, RTMPose their 17 joints.

Its PoseTracker is not used: it swallows exceptions and keeps its tracks to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SKELETON = "coco17"
NEEDS = "its weights, which it downloads when it is first used"
REMEDY = "Run it once with a network, or copy ~/.cache/rtmlib from a machine where it has run."


def open_finder() -> Callable[[Any], list[list[list[float]]]]:
    """Return what finds people in an image (height, width, 3) BGR: joints x, y in pixels and the model's score."""
    from rtmlib import Body

    body = Body(mode="balanced", backend="onnxruntime", device="cpu")

    def find(image: Any) -> list[list[list[float]]]:
        boxes = body.det_model(image)
        if len(boxes) == 0:  # without a box the pose model would take the whole image for a person
            return []
        points, scores = body.pose_model(image, bboxes=boxes)
        return [
            [[float(x), float(y), float(score)] for (x, y), score in zip(person, sure, strict=True)]
            for person, sure in zip(points, scores, strict=True)
        ]

    return find
