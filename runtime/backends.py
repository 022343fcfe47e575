"""Backends: one runner contract for everything that can execute a lifter."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.bundle import Bundle

Float32 = NDArray[np.float32]


class Backend(Protocol):
    """A context manager whose call lifts windows.

    keypoints (n, frames, joints, 3) undistorted pixels and confidence, intrinsics (n, 4) -> poses (n, joints, 3) metres
    in the camera's frame; the result belongs to the caller. `provider` is what really executes.
    """

    provider: str

    def __call__(self, keypoints: Float32, intrinsics: Float32) -> Float32:
        """Lift n windows."""

    def __enter__(self) -> Backend:
        """Hold the session."""

    def __exit__(self, *exc: Any) -> None:
        """Release it."""


class OnnxRuntimeCpu:
    """ONNX Runtime on the CPU, one thread: a lifter is too small to gain from more, and the camera needs the rest."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise missing_extra("onnxruntime", "cpu") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session: Any = onnxruntime.InferenceSession(str(bundle.onnx), options, providers=["CPUExecutionProvider"])
        self.provider: str = self.session.get_providers()[0]  # asked back: the request proves nothing
        self.inputs = [i["name"] for i in bundle.manifest["inputs"]]
        self.shape = (bundle.input.frames, len(bundle.skeleton.joints), 3)

    def __call__(self, keypoints: Float32, intrinsics: Float32) -> Float32:
        """Lift n windows."""
        if keypoints.shape[1:] != self.shape or intrinsics.shape != (len(keypoints), 4):
            raise EdgeliftError(
                "lifter input", f"keypoints {keypoints.shape}, intrinsics {intrinsics.shape}",
                f"(n, {', '.join(map(str, self.shape))}) and (n, 4)", "Convert the keypoints to the bundle's skeleton.",
            )  # fmt: skip
        poses: Float32 = self.session.run(None, dict(zip(self.inputs, (keypoints, intrinsics), strict=True)))[0]
        return poses

    def __enter__(self) -> OnnxRuntimeCpu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.session
