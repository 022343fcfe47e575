"""VideoPose3D's `.npz` files: 2D keypoints by subject, action and camera, and the 3D poses beside them."""

from __future__ import annotations

import pickle
import re
import reprlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.poses.formats.safe_pickle import load_pickled_arrays
from edgelift.poses.formats.untrusted import to_real, twice
from edgelift.poses.sessions import Session, clean_keypoints
from edgelift.poses.skeletons import SKELETONS, Skeleton

RigOf = Callable[[str], tuple[Camera, ...]]  # subject to its rig

# of Human3.6M's 32 joints (many doubled) the 17 that are used, in the order of skeleton h36m17
H36M_KEEP = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
LAYOUTS = {"coco": "coco17", "h36m": "h36m17", "humaneva15": "humaneva15"}  # `layout_name` where it identifies one
METRES_LIMIT = 50.0  # nobody stands 50 m from the origin of a rig; in millimetres everybody does


def read_videopose3d(
    path_2d: Path, path_3d: Path | None, rig_of: RigOf, fps: float, skeleton: Skeleton
) -> list[Session]:
    """Read one Session a subject and action, named like `S9_Walking_1`.

    2D: raw pixels without confidence, so 1 where finite; NaN is missing. 3D: world metres, 32 joints reduced to 17. All
    cameras of an action are cut to the shortest of them and the poses. rig_of: the rig of a subject, called with `S1`
    for HumanEva's `Train/S1`; cameras in the order of the file's views.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise EdgeliftError("--fps", f"{fps}", "a positive frame rate", "Give the frame rate of the recording.")
    archive = load_pickled_arrays(path_2d)
    positions = _positions(path_2d, archive, "positions_2d")
    _check_metadata(path_2d, archive.get("metadata"), skeleton)
    poses = None if path_3d is None else _positions(path_3d, load_pickled_arrays(path_3d), "positions_3d")
    sessions = []
    for subject, actions in positions.items():
        rig = rig_of(subject.rpartition("/")[2])
        for action, views in actions.items():
            where = f"{path_2d} {subject} / {action}"
            keypoints = _keypoints(where, views, rig, skeleton)
            truth = None if poses is None else _poses(f"{path_3d}", poses, subject, action, skeleton)
            sessions.append(_session(keypoints, truth, rig, fps, skeleton, subject, action))
    _check_distinct(path_2d, [session.name for session in sessions])
    return sessions


def _positions(path: Path, archive: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] | None = archive.get(key)
    if not isinstance(found, dict) or not found or not all(map(_is_subject, found, found.values())):
        raise EdgeliftError(
            str(path), reprlib.repr(list(archive)), f"{key}: {{subject: {{action: ...}}}}",
            "Give a data_2d_*.npz for the keypoints and a data_3d_*.npz for the poses.",
        )  # fmt: skip
    return found


def _is_subject(name: Any, actions: Any) -> bool:
    return isinstance(actions, dict) and all(isinstance(key, str) for key in (name, *actions))


def _check_metadata(path: Path, metadata: Any, skeleton: Skeleton) -> None:
    if not isinstance(metadata, dict):
        return
    layout, count = metadata.get("layout_name"), metadata.get("num_joints", len(skeleton.joints))
    if not isinstance(count, (int, np.integer)):
        received = f"num_joints that are a {type(count).__name__}"
        raise EdgeliftError(f"{path}: metadata", received, "a whole number", "Correct it, or leave it out.")
    layout = layout if isinstance(layout, str) else type(layout).__name__
    known = LAYOUTS.get(layout)
    if count != len(skeleton.joints) or known not in (None, skeleton.name):
        fitting = known or " or ".join(s.name for s in SKELETONS.values() if len(s.joints) == count)
        raise EdgeliftError(
            f"{path}: metadata", f"{count} joints of layout {layout:.80}",
            f"skeleton {skeleton.name} with {len(skeleton.joints)} joints",
            f"Give --skeleton {fitting or 'of that kind'}.",
        )  # fmt: skip


def _keypoints(where: str, views: Any, rig: Sequence[Camera], skeleton: Skeleton) -> NDArray[np.float32]:
    """(views, frames, joints, 3), cut to the shortest view."""
    held = len(views) if isinstance(views, (list, tuple)) or np.ndim(views) else 0
    if held != len(rig):
        names = ", ".join(camera.name for camera in rig)
        raise EdgeliftError(where, f"{held} views", f"{len(rig)} ({names})", "Give the cameras of these views.")
    arrays = [to_real(where, view, np.float32) for view in views]
    joints = len(skeleton.joints)
    for array in arrays:
        if array.ndim != 3 or array.shape[1:] != (joints, 2):
            expected = f"(frames, {joints}, 2) for skeleton {skeleton.name}"
            raise EdgeliftError(where, f"shape {array.shape}", expected, "Give the skeleton of this file.")
    frames = min(len(array) for array in arrays)
    xy = np.stack([array[:frames] for array in arrays])
    return clean_keypoints(np.concatenate([xy, np.ones_like(xy[..., :1])], -1))


def _poses(path: str, poses: Mapping[str, Any], subject: str, action: str, skeleton: Skeleton) -> NDArray[np.float32]:
    """(frames, joints, 3) world metres."""
    where = f"{path} {subject} / {action}"
    if action not in poses.get(subject, {}):
        raise EdgeliftError(
            where, "no such action", "every action of the 2D file", "Leave the 3D file out, or match them."
        )
    array = to_real(where, poses[subject][action], np.float32)
    if array.ndim == 3 and array.shape[1] == 32 and skeleton.name == "h36m17":
        array = array[:, H36M_KEEP]
    if array.ndim != 3 or array.shape[1:] != (len(skeleton.joints), 3):
        raise EdgeliftError(
            where, f"shape {array.shape}", f"(frames, {len(skeleton.joints)}, 3) for skeleton {skeleton.name}",
            "Leave the 3D file out, or give 2D keypoints of the same skeleton.",
        )  # fmt: skip
    finite = np.abs(array[np.isfinite(array)])
    if finite.size and np.median(finite) > METRES_LIMIT:
        raise EdgeliftError(where, f"a median coordinate of {np.median(finite):.0f}", "metres", "Divide it by 1000.")
    return array


def _session(
    keypoints: NDArray[np.float32],
    poses: NDArray[np.float32] | None,
    rig: tuple[Camera, ...],
    fps: float,
    skeleton: Skeleton,
    subject: str,
    action: str,
) -> Session:
    # the 2D of an action may be longer than its 3D; both start together
    frames = keypoints.shape[1] if poses is None else min(keypoints.shape[1], len(poses))
    return Session(
        keypoints=keypoints[:, :frames],
        timestamps=np.arange(frames) / fps,
        camera_names=tuple(camera.name for camera in rig),
        cameras=rig,
        skeleton=skeleton,
        time_offset_s=np.zeros(len(rig)),
        subject=subject,
        action=action,
        poses=None if poses is None else poses[:frames],
        name=re.sub(r"[^A-Za-z0-9.-]+", "_", f"{subject}_{action}"),
    )


def _check_distinct(path: Path, names: Sequence[str]) -> None:
    again = twice(names)
    if again:
        raise EdgeliftError(
            str(path), f"actions that become one name: {reprlib.repr(again)}", "distinct names", "Rename them."
        )


def write_videopose3d(session: Session, path_2d: Path, path_3d: Path | None = None) -> None:
    """Write a session's keypoints and, where path_3d is given, its poses as VideoPose3D reads them; both or neither.

    2D: raw pixels, missing = NaN; no confidence, no times: frames count evenly. 3D: world metres, NaN where unknown; of
    h36m17 in the 32 joints that VideoPose3D expects of Human3.6M, zeros in those it leaves out. The subject is the
    session's name and the action `custom` where the session has none.
    """
    place = (session.subject or session.name, session.action or "custom")
    keypoints = [np.ascontiguousarray(view[..., :2]) for view in session.keypoints]
    arrays_2d = {"positions_2d": _nested(place, keypoints), "metadata": _metadata(session, place[0])}
    if path_3d is None:
        with replaced(path_2d) as temporary:
            _save(temporary, arrays_2d)
        return
    if session.poses is None:
        raise EdgeliftError(f"session {session.name}", "no poses", "poses for the 3D file", "Triangulate it first.")
    poses = session.poses
    if session.skeleton.name == "h36m17":
        poses = np.zeros((len(poses), 32, 3), np.float32)
        poses[:, H36M_KEEP] = session.poses
    with replaced(path_3d) as temporary_3d, replaced(path_2d) as temporary:
        _save(temporary_3d, {"positions_3d": _nested(place, poses)})
        _save(temporary, arrays_2d)


def _nested(place: tuple[str, str], value: Any) -> dict[str, dict[str, Any]]:
    return {place[0]: {place[1]: value}}


def _metadata(session: Session, subject: str) -> dict[str, Any]:
    """Return what VideoPose3D wants to know; its custom data set looks for the image size under the subject."""
    joints = session.skeleton.joints
    left = [j for j, name in enumerate(joints) if name.startswith("left_")]
    sizes = [session.size(view) for view in range(len(session.camera_names))]
    names = [subject] if len(sizes) == 1 else session.camera_names
    known = {name: {"w": size[0], "h": size[1]} for name, size in zip(names, sizes, strict=True) if size is not None}
    layouts = {ours: theirs for theirs, ours in LAYOUTS.items()}
    return {
        "layout_name": layouts.get(session.skeleton.name, session.skeleton.name),
        "num_joints": len(joints),
        "keypoints_symmetry": [left, [session.skeleton.mirror[j] for j in left]],
        "video_metadata": known,
    }


def _save(path: Path, values: Mapping[str, Any]) -> None:
    """Write an `.npz` of pickled objects, one a member, as numpy.savez does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in values.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
                file.write(_pickled(value))


def _pickled(value: Any) -> bytes:
    """Pickle an object in an array, so that VideoPose3D's numpy, which is older than ours, can read it.

    Since version 2 numpy's pickles name a module `numpy._core`, which the older ones lack; both know `numpy.core`. The
    name stands once, at the beginning, before any data.
    """
    return pickle.dumps(np.array(value, object), protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.", 1)
