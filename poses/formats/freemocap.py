"""FreeMoCap's recording folders: one array of 2D points from all cameras, beside the synchronised videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.detections import Detections, to_recording
from edgelift.poses.formats.tables import open_npy
from edgelift.poses.formats.untrusted import load_toml, to_real
from edgelift.poses.formats.views import check_names, to_frames
from edgelift.poses.recordings import Recording
from edgelift.poses.rigs import plain_name
from edgelift.poses.skeletons import Skeleton

EXPECTED = "a FreeMoCap recording folder with output_data and synchronized_videos"
POINTS = "*2dData_numCams_numFrames_numTrackedPoints_pixelXY.npy"  # the tracker's name stands before, with or without _
VIDEOS = (".mp4", ".avi", ".mov", ".mkv")
# MediaPipe's body comes first of body, hands and face (which has 468 points, or 478 with irises)
MEDIAPIPE_POINTS = (33, 33 + 21 + 21 + 468, 33 + 21 + 21 + 478)


def read_freemocap(folder: Path, skeleton: Skeleton, fps: float) -> Recording:
    """Read a recording folder: (cameras, frames, points, 2 or 3) pixels, of which the third number is a depth.

    Confidence is not in it: it is 1 where a point is finite (and not exactly 0, 0: older versions leave that where
    nothing was found). The cameras are in the order of the videos' names, and views are called after their video or,
    where the folder holds a calibration TOML, after the camera in it whose name is the video's. The skeleton is
    mediapipe33, or that of another tracker with exactly as many points.
    """
    path = _points_file(folder)
    points = _body(path, open_npy(path, EXPECTED), skeleton)
    names = _camera_names(folder)
    if len(names) != len(points):
        raise EdgeliftError(
            str(folder / "synchronized_videos"), f"{len(names)} videos ({', '.join(names) or 'none'})",
            f"one for each of the {len(points)} cameras in {path.name}",
            "Put back the videos of this recording, and only them: their names say which camera is which.",
        )  # fmt: skip
    numbers = np.arange(points.shape[1])
    views = [
        Detections(name, str(path), to_frames(f"{path}, {name}", numbers, _people(str(path), xy)))
        for name, xy in zip(names, points, strict=True)
    ]
    check_names(str(folder), views)
    return to_recording(views, folder, skeleton, fps)


def _points_file(folder: Path) -> Path:
    found = sorted((folder / "output_data").rglob(POINTS)) if (folder / "output_data").is_dir() else []
    if len(found) != 1:
        received = f"{len(found)} files {POINTS}" if found else f"no output_data/**/{POINTS}"
        raise EdgeliftError(
            str(folder), received, f"{EXPECTED}, and one file of 2D points in it",
            "Give the folder of one recording; of several trackers leave one.",
        )  # fmt: skip
    return found[0]


def _body(path: Path, array: NDArray[np.generic], skeleton: Skeleton) -> NDArray[np.generic]:
    """Return (cameras, frames, joints, 2) of the array in the file."""
    count = len(skeleton.joints)
    allowed = MEDIAPIPE_POINTS if skeleton.name == "mediapipe33" else (count,)
    if array.ndim != 4 or array.shape[2] not in allowed or array.shape[3] not in (2, 3) or not array.size:
        counts = " or ".join(map(str, allowed))
        raise EdgeliftError(
            str(path), f"an array of shape {array.shape}", f"(cameras, frames, {counts}, 2 or 3) for {skeleton.name}",
            "Give the skeleton of its tracker: mediapipe33 for MediaPipe.",
        )  # fmt: skip
    return array[:, :, :count, :2]


def _camera_names(folder: Path) -> list[str]:
    """Return the name of each camera, in the order of the array: of the sorted videos, spelt as in the calibration."""
    videos = folder / "synchronized_videos"
    found = sorted(p for p in videos.glob("*") if p.suffix.lower() in VIDEOS) if videos.is_dir() else []
    calibrated = {plain_name(name): name for path in folder.glob("*calibration.toml") for name in _calibrated(path)}
    return [calibrated.get(plain_name(path.stem), path.stem) for path in found]


def _calibrated(path: Path) -> list[str]:
    cameras = [table for table in load_toml(path, "a calibration").values() if isinstance(table, dict)]
    return [camera["name"] for camera in cameras if isinstance(camera.get("name"), str)]


def _people(where: str, points: NDArray[np.generic]) -> NDArray[np.float64]:
    """(frames, 1, joints, 3): the one person of (frames, joints, 2)."""
    xy = to_real(where, points, np.float64)
    found = np.isfinite(xy).all(-1) & (xy != 0).any(-1)
    # infinity stays: it is an error, not a missing point
    found |= np.isinf(xy).any(-1)
    return np.concatenate([xy, found[..., None]], axis=-1)[:, None]
