"""Backends: one contract for everything that can execute a lifter."""

from __future__ import annotations

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends.contract import Backend
from edgelift.runtime.backends.onnx_runtime import OnnxRuntimeCpu, OnnxRuntimeCuda
from edgelift.runtime.bundle import Bundle

BACKENDS = ("cpu", "cuda", "tensorrt", "rtx")

__all__ = ["BACKENDS", "Backend", "OnnxRuntimeCpu", "OnnxRuntimeCuda", "open_backend"]


def open_backend(bundle: Bundle, name: str, precision: str = "fp32", threads: int = 1) -> Backend:
    """Open a bundle's lifter on the backend that was asked for; where that cannot be, EdgeliftError and no other one.

    threads: of the CPU backend.
    """
    if name == "cpu":
        return OnnxRuntimeCpu(bundle, threads, precision)
    if name == "cuda":
        return OnnxRuntimeCuda(bundle, precision)
    if name in ("tensorrt", "rtx"):
        from edgelift.runtime.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(bundle, name, precision)
    raise EdgeliftError("--backend", name, " or ".join(BACKENDS), "Choose one of them.")
