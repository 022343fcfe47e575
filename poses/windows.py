"""Windows: keypoints cut causally onto a lifter's time grid, by the one code that trainer and runtime share.

A window has `frames` slots `frame_interval_s` apart and ends exactly at its newest frame. Slots between two frames are
linearly interpolated in time (never by index), so jitter, dropped frames and a short start look alike to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, screen_intrinsics, undistort_pixels
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import Skeleton, convert

MAX_GAP_S = 0.25  # two frames farther apart are not interpolated: half a stride of a walk lies between them
SNAP_S = 1e-4  # a slot this close to a frame is that frame, so that a regular stream passes through untouched

Keypoints = NDArray[np.float32]
CameraInput = Literal["rays", "screen"]


@dataclass(frozen=True)
class LifterInput:
    """What a lifter is fed: keypoints of its skeleton on its time grid, and its camera's intrinsics.

    camera_input `rays`: undistorted pixels and the true intrinsics. `screen`, for cameras whose intrinsics nobody
    knows: raw pixels, f = width / 2, c = size / 2.
    """

    skeleton: Skeleton
    camera_input: CameraInput
    frames: int = 1
    frame_interval_s: float = 0.05

    def intrinsics(self, camera: Camera | None, size: tuple[int, int] | None) -> NDArray[np.float32]:
        """(4,) fx, fy, cx, cy in pixels; EdgeliftError where what this lifter needs is not known."""
        known = camera if self.camera_input == "rays" else size
        if known is None:
            lacking = "intrinsics" if self.camera_input == "rays" else "image size"
            raise EdgeliftError(
                f"a {self.camera_input} lifter", f"a camera without {lacking}", f"a known {lacking}",
                "Convert the recording with --cameras (rays, screen) or --size (screen alone).",
            )  # fmt: skip
        row = known.intrinsics if isinstance(known, Camera) else screen_intrinsics(known)
        return row.astype(np.float32)

    def pixels(self, keypoints: NDArray[np.floating], camera: Camera | None) -> Keypoints:
        """(..., 3) raw pixels and confidence to those the lifter is fed; missing becomes NaN, NaN, 0."""
        return undistort_keypoints(keypoints, camera if self.camera_input == "rays" else None)

    def windows(self, session: Session, view: int) -> Keypoints:
        """(session frames, frames, joints, 3) pixels and confidence as fed: the windows ending at each frame."""
        keypoints = convert(session.keypoints[view], session.skeleton, self.skeleton)
        camera = None if session.cameras is None else session.cameras[view]
        return cut(self.pixels(keypoints, camera), session.timestamps, self.frames, self.frame_interval_s)


def undistort_keypoints(keypoints: NDArray[np.floating], camera: Camera | None) -> Keypoints:
    """(..., 3) raw pixels and confidence to undistorted pixels and confidence; missing becomes NaN, NaN, 0.

    So does a point that the lens model cannot have imaged. camera None leaves the pixels as they are.
    """
    xy = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan)
    if camera is not None:
        xy = undistort_pixels(xy, camera)
    seen = np.isfinite(xy).all(-1, keepdims=True)
    return np.concatenate([np.where(seen, xy, np.nan), np.where(seen, keypoints[..., 2:], 0)], -1).astype(np.float32)


def cut(
    keypoints: Keypoints, timestamps: NDArray[np.float64], frames: int, frame_interval_s: float, last: int | None = None
) -> Keypoints:
    """Cut the windows that end at each frame, or only those of the newest `last` frames.

    keypoints (n, joints, 3) and timestamps (n,) rising, seconds. Returns (n or last, frames, joints, 3), oldest slot
    first; a slot before the first frame, inside a gap over MAX_GAP_S, or next to a missing joint is missing.
    """
    ends = timestamps if last is None else timestamps[-last:]
    if frames == 1:
        return keypoints[len(timestamps) - len(ends) :, None]
    grid = ends[:, None] - frame_interval_s * np.arange(frames - 1, -1, -1)
    return _sample(keypoints, timestamps, grid)


def _sample(keypoints: Keypoints, timestamps: NDArray[np.float64], grid: NDArray[np.float64]) -> Keypoints:
    upper = np.searchsorted(timestamps, grid - SNAP_S).clip(max=len(timestamps) - 1)
    lower = (upper - 1).clip(min=0)
    on_frame = np.abs(timestamps[upper] - grid) <= SNAP_S
    lower = np.where(on_frame, upper, lower)
    span = timestamps[upper] - timestamps[lower]
    weight = np.where(span > 0, (grid - timestamps[lower]) / np.where(span > 0, span, 1), 0)[..., None, None]
    low, high = keypoints[lower], keypoints[upper]
    xy = low[..., :2] * (1 - weight) + high[..., :2] * weight
    outside = (grid < timestamps[0] - SNAP_S) | (span > MAX_GAP_S)
    confidence = np.where(outside[..., None], 0, np.minimum(low[..., 2], high[..., 2]))
    xy = np.where(confidence[..., None] > 0, xy, np.nan)
    return np.concatenate([xy, confidence[..., None]], -1).astype(np.float32)


class Stream:
    """The streaming side: frames go in one at a time, each gives the window that ends at it.

    Holds only what the next window can need. Equals `cut` on the whole recording.
    """

    def __init__(self, frames: int, frame_interval_s: float) -> None:
        self.frames = frames
        self.frame_interval_s = frame_interval_s
        self._keypoints: list[Keypoints] = []
        self._timestamps: list[float] = []

    def push(self, timestamp_s: float, keypoints: Keypoints) -> Keypoints:
        """Add undistorted keypoints (joints, 3); return the window (frames, joints, 3). Time must rise."""
        self._timestamps.append(timestamp_s)
        self._keypoints.append(keypoints)
        oldest = timestamp_s - (self.frames - 1) * self.frame_interval_s
        while len(self._timestamps) > 2 and self._timestamps[1] < oldest - SNAP_S:
            del self._timestamps[0], self._keypoints[0]
        if self.frames == 1:
            del self._timestamps[:-1], self._keypoints[:-1]
        stacked = np.stack(self._keypoints)
        window: Keypoints = cut(stacked, np.array(self._timestamps), self.frames, self.frame_interval_s, last=1)[0]
        return window
