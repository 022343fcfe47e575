"""Sessions as OpenPose JSON: a folder a view, in it a file a frame; what `read_openpose` and Pose2Sim read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session

VERSION = 1.3
_EMPTY = (
    "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d",
    "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d",
)  # fmt: skip


def write_openpose(folder: Path, session: Session, first: int = 0) -> None:
    """Write a session's keypoints, raw pixels; frame i of it is number `first` + i in the files' names.

    A missing joint is 0, 0, 0, a frame without a joint has no person, and person_id is -1, as OpenPose has it: not
    tracked. Numbers are as short as float32 allows, so that they come back exactly. Skeleton, cameras and times are in
    no file. The folder must not be there yet, or be empty; it appears whole.
    """
    _check(folder, session)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name, view in zip(session.camera_names, session.keypoints, strict=True):
            (temporary / name).mkdir(parents=True)
            for number, joints in enumerate(view, start=first):
                path = temporary / name / f"{name}_{number:012d}_keypoints.json"
                path.write_text(json.dumps(_frame(joints)), encoding="utf-8")
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(folder: Path, session: Session) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise EdgeliftError(str(folder), "something that is there", "a new folder", "Choose another name.")
    unsafe = [
        name
        for name in session.camera_names
        if not re.fullmatch(r"[^\x00-\x1f/\\:*?\"<>|.][^\x00-\x1f/\\:*?\"<>|]*", name)
    ]
    if unsafe:
        raise EdgeliftError(
            f"cameras of session {session.name}", ", ".join(map(repr, unsafe)), "names that a folder can have",
            "Rename the cameras in the rig and convert the recording again.",
        )  # fmt: skip


def _frame(joints: NDArray[np.float32]) -> dict[str, Any]:
    """Return what the file of one frame holds; joints (joints, 3)."""
    seen = joints[:, 2:] > 0
    if not seen.any():
        return {"version": VERSION, "people": []}
    # str of a float32 is the shortest number that is still this one
    flat = [float(str(value)) for value in np.where(seen, joints, 0).ravel()]
    person = {"person_id": [-1], "pose_keypoints_2d": flat, **{key: [] for key in _EMPTY}}
    return {"version": VERSION, "people": [person]}
