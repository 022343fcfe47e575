"""MediaPipe Pose for worker.py, in MediaPipe's own environment: one person, 33 joints, weights from its wheel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SKELETON = "mediapipe33"
NEEDS, REMEDY = "a complete installation", "Remove its environment and set it up again (edgelift detect --setup)."


def open_finder() -> Callable[[Any], list[list[list[float]]]]:
    """Return what finds people, [] or one, in an image (height, width, 3) BGR: joints x, y in pixels and visibility."""
    import cv2
    import mediapipe

    # complexity 1 is the only one whose weights are in the wheel
    pose = mediapipe.solutions.pose.Pose(model_complexity=1)

    def find(image: Any) -> list[list[list[float]]]:
        height, width = image.shape[:2]
        found = pose.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).pose_landmarks
        # x and y are shares of width and height; points outside the image keep their place
        return [] if found is None else [[[p.x * width, p.y * height, p.visibility] for p in found.landmark]]

    return find
