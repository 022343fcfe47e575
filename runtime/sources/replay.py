"""Replay: a session's view as a live stream, at its own rate or as fast as possible."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import load_session
from edgelift.poses.skeletons import Skeleton


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of one camera: keypoints (joints, 3) raw pixels and confidence; `due_ns` is when it arrived."""

    seq: int
    t_ns: int
    keypoints: NDArray[np.float32]
    due_ns: int


class Replay:
    """Frames of one camera of a session. Late frames are skipped at rate (newest only) and counted in `dropped`."""

    def __init__(self, path: Path, camera: str | None, fast: bool) -> None:
        session = load_session(path)
        if camera is None and len(session.camera_names) > 1:
            raise EdgeliftError(
                f"session {path}", f"{len(session.camera_names)} cameras and no --camera",
                f"one of {', '.join(session.camera_names)}", "Add --camera NAME: a lifter sees one view.",
            )  # fmt: skip
        view = 0 if camera is None else session.view(camera)
        self.name: str = session.camera_names[view]
        self.camera: Camera | None = None if session.cameras is None else session.cameras[view]
        self.size = session.size(view)
        self.skeleton: Skeleton = session.skeleton
        self.keypoints = session.keypoints[view]
        self.timestamps = session.timestamps
        self.fast = fast
        self.frames = len(self.keypoints)
        self.dropped = 0

    def __iter__(self) -> Iterator[Frame]:
        started = time.perf_counter_ns()
        due = started + np.rint((self.timestamps - self.timestamps[0]) * 1e9).astype(np.int64)
        for seq, keypoints in enumerate(self.keypoints):
            if not self.fast:
                late = seq + 1 < self.frames and time.perf_counter_ns() >= due[seq + 1]
                if late:  # a newer frame is there already: lifting this one would only fall further behind
                    self.dropped += 1
                    continue
                time.sleep(max(0, due[seq] - time.perf_counter_ns()) / 1e9)
            arrived = time.perf_counter_ns() if self.fast else int(due[seq])
            yield Frame(seq, round(float(self.timestamps[seq]) * 1e9), keypoints, arrived)
