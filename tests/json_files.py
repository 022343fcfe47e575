"""Detectors' JSON files as each tool writes them, and their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.alphapose import read_alphapose
from edgelift.poses.formats.coco import read_coco
from edgelift.poses.formats.mmpose import read_mmpose
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.formats.ultralytics import read_ultralytics
from edgelift.poses.recordings import Recording
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton

from .conftest import make_sessions

H36M, COCO = skeleton("h36m17"), skeleton("coco17")
SIZE = (1000, 1000)
FPS = 20.0
FRAMES = 60
GONE = 7  # a frame in which nobody is seen

Person = list[list[float]]  # joints of x, y, confidence
People = list[list[Person]]  # frames of people
Write = Callable[[Path, People], None]


def detected_session() -> Session:
    """Three views of one person, confidences of a detector, and one frame without anybody in the second view."""
    made = make_sessions(1, frames=FRAMES, missing=0.05)[0]
    keypoints = made.keypoints.copy()
    sure = np.random.default_rng(0).uniform(0.3, 0.99, keypoints.shape[:3])
    keypoints[..., 2] = np.where(keypoints[..., 2] > 0, sure, 0)
    keypoints[1, GONE] = (np.nan, np.nan, 0)
    return replace(made, keypoints=keypoints)


def people_of(session: Session, view: int) -> People:
    """One view as detectors hold it: a missing joint is 0, 0, 0, and a second person stands beside in odd frames."""
    frames: People = []
    for t, joints in enumerate(np.nan_to_num(session.keypoints[view]).tolist()):
        seen = [joints] if any(c > 0 for _, _, c in joints) else []
        frames.append(seen + [[[x + 30, y, c] for x, y, c in joints]] * (t % 2) * len(seen))
    return frames


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def mmpose_instance(person: Person) -> dict[str, Any]:
    return {
        "keypoints": [[x, y] for x, y, _ in person], "keypoint_scores": [c for *_, c in person],
        "bbox": [[0.0, 0.0, 9.0, 9.0]], "bbox_score": 0.9,
    }  # fmt: skip


def write_mmpose(first: int) -> Write:
    def write(place: Path, frames: People) -> None:
        told = [{"frame_id": t, "instances": [mmpose_instance(p) for p in people]}
                for t, people in enumerate(frames, start=first)]  # fmt: skip
        meta = {"dataset_name": "h36m", "keypoint_id2name": {str(j): n for j, n in enumerate(H36M.joints)},
                "sigmas": {"__ndarray__": [0.1], "dtype": "float32", "shape": [1]}}  # fmt: skip
        dump(place.with_suffix(".json"), {"meta_info": meta, "instance_info": told})

    return write


def write_mmpose_list(place: Path, frames: People) -> None:
    told = [{"frame_id": t, "instances": [mmpose_instance(p) for p in people]} for t, people in enumerate(frames)]
    dump(place.with_suffix(".json"), told)


def write_mmpose_images(place: Path, frames: People) -> None:
    for t, people in enumerate(frames):
        instances = [mmpose_instance(p) for p in people]
        for instance in instances:
            instance["keypoints"] = {"__ndarray__": instance["keypoints"], "dtype": "float32", "shape": [17, 2]}
        dump(place / f"take2_{t:04d}.json", instances)


def write_alphapose(place: Path, frames: People) -> None:
    told = [
        {"image_id": f"{t}.jpg", "category_id": 1, "keypoints": [v for joint in p for v in joint], "score": 3.2,
         "box": [1.0, 2.0, 3.0, 4.0], "idx": [0.0]}
        for t, people in enumerate(frames) for p in people
    ]  # fmt: skip
    dump(place / "alphapose-results.json", told)


def write_coco(place: Path, frames: People) -> None:
    told = [
        {"image_id": t, "category_id": 1, "keypoints": [v for joint in p for v in joint], "score": 0.9}
        for t, people in enumerate(frames) for p in people
    ]  # fmt: skip
    dump(place.with_suffix(".json"), told)


def summary(person: Person) -> dict[str, Any]:
    x, y, visible = ([joint[k] for joint in person] for k in range(3))
    return {"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0},
            "track_id": 1, "keypoints": {"x": x, "y": y, "visible": visible}}  # fmt: skip


def write_ultralytics(place: Path, frames: People) -> None:
    dump(place.with_suffix(".json"), [[summary(p) for p in people] for people in frames])


def write_ultralytics_images(place: Path, frames: People) -> None:
    for t, people in enumerate(frames):
        dump(place / f"take2_{t}.json", [summary(p) for p in people])


def write_labels(place: Path, frames: People) -> None:
    place.mkdir(parents=True)
    for t, people in enumerate(frames):
        shares = [[v for x, y, c in p for v in (x / SIZE[0], y / SIZE[1], c)] for p in people]
        lines = [" ".join(map(repr, [0, 0.5, 0.5, 0.1, 0.2, *share, 3])) for share in shares]
        if lines:  # an image without people has no file
            (place / f"take2_{t}.txt").write_text("\n".join(lines) + "\n")


def write_openpose(place: Path, frames: People) -> None:
    for t, people in enumerate(frames):
        told = [{"person_id": [-1], "pose_keypoints_2d": [v for joint in p for v in joint]} for p in people]
        dump(place / f"take2_{t:012d}_keypoints.json", {"version": 1.3, "people": told})


def read_sized(path: Path, owner: Any, fps: float) -> Recording:
    return read_ultralytics(path, owner, fps, SIZE)


Read = Callable[[Path, Any, float], Recording]

CASES: dict[str, tuple[Write, Read]] = {
    "openpose": (write_openpose, read_openpose),
    "mmpose demo": (write_mmpose(1), read_mmpose),
    "mmpose inferencer": (write_mmpose(0), read_mmpose),
    "mmpose list": (write_mmpose_list, read_mmpose),
    "mmpose images": (write_mmpose_images, read_mmpose),
    "alphapose": (write_alphapose, read_alphapose),
    "coco": (write_coco, read_coco),
    "ultralytics": (write_ultralytics, read_ultralytics),
    "ultralytics images": (write_ultralytics_images, read_ultralytics),
    "ultralytics labels": (write_labels, read_sized),
}


def told(read: Read, path: Path, owner: Any = COCO) -> str:
    with pytest.raises(EdgeliftError) as caught:
        read(path, owner, FPS)
    return str(caught.value)


def standing(score: float = 0.9, joints: int = 17) -> Person:
    return [[100.0 + j, 200.0 + 2 * j, score] for j in range(joints)]
