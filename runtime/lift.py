"""The live loop: frames of one camera in, pose messages out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import convert
from edgelift.poses.windows import Stream
from edgelift.runtime.backends import Backend
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.sources.replay import Frame, Replay

POSE3D_VERSION = 1
CLOCK = "recording"  # t_ns counts on the recording's own timeline


@dataclass
class LiftSummary:
    """What a stream gave. latency_ms is from a frame's arrival to its message, one number a lifted frame."""

    provider: str
    frames: int = 0
    dropped: int = 0
    latency_ms: list[float] = field(default_factory=list)
    backend_ms: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The keys of `edgelift lift --json`."""
        return {
            "frames": self.frames,
            "lifted": len(self.latency_ms),
            "dropped": self.dropped,
            "provider": self.provider,
            "latency_ms": percentiles(self.latency_ms),
            "backend_ms": percentiles(self.backend_ms),
        }


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50, p90, p99 and max, never clipped; None for no value."""
    if not values:
        return dict.fromkeys(("p50", "p90", "p99", "max"))
    levels = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(values, level)), 4) for name, level in levels.items()}


def lift_stream(
    bundle: Bundle, backend: Backend, source: Replay, write: Callable[[dict[str, Any]], None]
) -> LiftSummary:
    """Lift every frame of the source as it comes; a frame without a joint gives a message with no person."""
    fed = bundle.input
    intrinsics = fed.intrinsics(source.camera, source.size)[None]
    stream = Stream(fed.frames, fed.frame_interval_s)
    summary = LiftSummary(backend.provider, frames=source.frames)
    try:
        for frame in source:
            keypoints = convert(frame.keypoints, source.skeleton, fed.skeleton)
            window = stream.push(frame.t_ns / 1e9, fed.pixels(keypoints, source.camera))
            started = time.perf_counter_ns()
            pose = backend(window[None], intrinsics)[0]
            done = time.perf_counter_ns()
            summary.backend_ms.append((done - started) / 1e6)
            write(_message(bundle, source, frame, keypoints, pose, backend.provider, summary.backend_ms[-1]))
            summary.latency_ms.append((time.perf_counter_ns() - frame.due_ns) / 1e6)
    except KeyboardInterrupt:
        pass  # how people end a stream: what was lifted is kept and summed up
    summary.dropped = source.dropped
    return summary


def _message(
    bundle: Bundle,
    source: Replay,
    frame: Frame,
    keypoints: NDArray[np.float32],
    pose: NDArray[np.float32],
    provider: str,
    backend_ms: float,
) -> dict[str, Any]:
    if not np.isfinite(pose).all():
        raise EdgeliftError(f"frame {frame.seq}", "a pose that is not finite", "metres", "Export the bundle again.")
    confidence = keypoints[:, 2].astype(np.float64)
    person: dict[str, Any] = {
        "id": 0,
        "xyz": pose.astype(np.float64).round(5).tolist(),
        "conf": confidence.round(4).tolist(),
    }
    return {
        "v": POSE3D_VERSION,
        "type": "pose3d",
        "stream": source.name,
        "seq": frame.seq,
        "t_ns": frame.t_ns,
        "clock": CLOCK,
        "skeleton": bundle.skeleton.name,
        "units": "m",
        "frame": "camera",
        "root": person["xyz"][bundle.skeleton.root] if confidence.any() else None,
        "scale": "metric",
        "provider": provider,
        "latency_ms": {"backend": round(backend_ms, 4), "total": round(_since_ms(frame.due_ns), 4)},
        "dropped": source.dropped,
        "persons": [person] if confidence.any() else [],
    }


def _since_ms(due_ns: int) -> float:
    return (time.perf_counter_ns() - due_ns) / 1e6
