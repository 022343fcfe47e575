"""Windows: keypoints cut causally onto a lifter's time grid, by the one code that trainer and runtime share.

A window has `frames` slots `frame_interval_s` apart and ends exactly at its newest frame. Slots between two frames are
linearly interpolated in time (never by index), so jitter, dropped frames and a short start look alike to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, PixelTable, screen_intrinsics, undistort_pixels
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import Skeleton, convert
from edgelift.poses.timeline import MAX_GAP_S, SNAP_S, Plan, between, sample

MOST_HZ = 1000  # no camera gives more frames a second

MISSING = np.array([np.nan, np.nan, 0], np.float32)

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

    def pixels(
        self, keypoints: NDArray[np.floating], camera: Camera | None, table: PixelTable | None = None
    ) -> Keypoints:
        """(..., 3) raw pixels and confidence to those the lifter is fed; missing becomes NaN, NaN, 0.

        table: of the camera, for frames that are waited for.
        """
        undistorts = self.camera_input == "rays"
        return undistort_keypoints(keypoints, camera if undistorts else None, table if undistorts else None)

    def windows(self, session: Session, view: int) -> Keypoints:
        """(session frames, frames, joints, 3) pixels and confidence as fed: the windows ending at each frame."""
        keypoints = convert(session.keypoints[view], session.skeleton, self.skeleton)
        camera = None if session.cameras is None else session.cameras[view]
        return cut(self.pixels(keypoints, camera), session.timestamps, self.frames, self.frame_interval_s)


def undistort_keypoints(
    keypoints: NDArray[np.floating], camera: Camera | None, table: PixelTable | None = None
) -> Keypoints:
    """(..., 3) raw pixels and confidence to undistorted pixels and confidence; missing becomes NaN, NaN, 0.

    So does a point that the lens model cannot have imaged. camera None leaves the pixels as they are.
    """
    known = np.where(keypoints[..., 2:] > 0, keypoints, MISSING)
    out = known.astype(np.float32)
    if camera is not None:
        out[..., :2] = undistort_pixels(known[..., :2], camera) if table is None else table(known[..., :2])
    out[np.logical_or.reduce(np.isnan(out), -1)] = MISSING
    return out


def plan(
    timestamps: NDArray[np.float64],
    frames: int,
    frame_interval_s: float,
    last: int | None = None,
    max_gap_s: float = MAX_GAP_S,
) -> Plan:
    """Plan the windows that end at each frame, or only those of the newest `last` frames.

    timestamps (n,) rising, seconds. A slot before the first frame or inside a gap over max_gap_s is empty.
    """
    ends = timestamps if last is None else timestamps[-last:]
    grid = ends[:, None] - frame_interval_s * np.arange(frames - 1, -1, -1)
    return between(timestamps, grid, max_gap_s)


def cut(
    keypoints: Keypoints, timestamps: NDArray[np.float64], frames: int, frame_interval_s: float, last: int | None = None
) -> Keypoints:
    """Cut the windows that end at each frame, or only those of the newest `last` frames.

    keypoints (n, joints, 3) and timestamps (n,) rising, seconds. Returns (n or last, frames, joints, 3), oldest slot
    first; a slot before the first frame, inside a gap over MAX_GAP_S, or next to a missing joint is missing.
    """
    if frames == 1:
        return keypoints[len(timestamps) - (last or len(timestamps)) :, None]
    windows: Keypoints = sample(keypoints, plan(timestamps, frames, frame_interval_s, last)).astype(np.float32)
    return windows


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
        """Add undistorted keypoints (joints, 3); return the window (frames, joints, 3). Time must rise.

        EdgeliftError where MOST_HZ is exceeded, as by times in another unit; the frame is not kept then.
        """
        oldest = timestamp_s - (self.frames - 1) * self.frame_interval_s
        while len(self._timestamps) > 1 and self._timestamps[1] < oldest - SNAP_S:
            del self._timestamps[0], self._keypoints[0]
        if len(self._timestamps) > 2 + MOST_HZ * self.frames * self.frame_interval_s:
            raise EdgeliftError(
                "timestamps", f"{len(self._timestamps)} frames in {timestamp_s - self._timestamps[0]:.4g} s",
                f"fewer than {MOST_HZ} a second", "Check their unit: t_ns counts nanoseconds.",
            )  # fmt: skip
        self._timestamps.append(timestamp_s)
        self._keypoints.append(keypoints)
        stacked = np.stack(self._keypoints)
        window: Keypoints = cut(stacked, np.array(self._timestamps), self.frames, self.frame_interval_s, last=1)[0]
        return window
