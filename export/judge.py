"""Judging a graph on held-out windows, by ONNX Runtime on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.budget import Change, change

Float32 = NDArray[np.float32]
BATCH = 64


@dataclass(frozen=True, eq=False)
class Judge:
    """Held-out windows, what the FP32 graph makes of them, and the truth where it is known."""

    keypoints: Float32
    intrinsics: Float32
    truth: Float32
    poses: Float32

    @classmethod
    def of(cls, graph: bytes, keypoints: Float32, intrinsics: Float32, truth: Float32) -> Judge:
        """Lift the windows that show somebody with the FP32 graph."""
        somebody = np.any(keypoints[:, -1, :, 2] > 0, axis=1)
        kept = keypoints[somebody], intrinsics[somebody]
        if not somebody.any():
            raise EdgeliftError("reference set", "no window with a joint", "held-out input", "Train again.")
        return cls(*kept, truth[somebody], lift(graph, *kept, level="ORT_ENABLE_ALL"))

    def change(self, graph: bytes, level: str = "ORT_ENABLE_BASIC") -> Change:
        """Measure a graph; higher optimisation levels than BASIC corrupt quantised ones on the CPU."""
        poses = lift(graph, self.keypoints, self.intrinsics, level)
        return change(self.poses, poses, self.truth)


def lift(graph: bytes, keypoints: Float32, intrinsics: Float32, level: str) -> Float32:
    """Run a graph with ONNX Runtime on the CPU at an optimisation level, in batches."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    starts = range(0, len(keypoints), BATCH)
    feeds = ({"keypoints": keypoints[i : i + BATCH], "intrinsics": intrinsics[i : i + BATCH]} for i in starts)
    return np.concatenate([session.run(("poses",), feed)[0] for feed in feeds])
