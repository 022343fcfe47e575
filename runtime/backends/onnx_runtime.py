"""ONNX Runtime on the CPU or on an NVIDIA GPU.

A session that was asked for CUDA and runs on the CPU is the classic silent failure: `get_available_providers` lists
CUDA on machines without a GPU, and a provider that fails to load is skipped. So the session is asked what it got.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.attachments import attachments
from edgelift.runtime.backends.contract import Backend, Float32
from edgelift.runtime.bundle import Bundle


def import_onnxruntime(extra: str) -> Any:
    """Import onnxruntime lazily; EdgeliftError naming the pip line of `extra` (cpu, gpu)."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing_extra("onnxruntime", extra) from error
    if extra == "gpu" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN that came as pip packages are on no path
    return onnxruntime


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime on the CPU, one thread: a lifter is too small to gain from more, and the camera needs the rest.

    precision int8 runs the CPU's own file with 8-bit weights, where the bundle holds it (`edgelift export --engine
    cpu`).
    """

    name = "cpu"

    def __init__(self, bundle: Bundle, threads: int = 1, precision: str = "fp32") -> None:
        super().__init__(bundle)
        onnxruntime = import_onnxruntime("cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.precision = precision
        # by its path where it has one: from bytes, a copy of the graph stays in memory
        graph = str(bundle.onnx) if precision == "fp32" else graph_of(bundle, precision, "engines", "cpu")
        self.session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.provider = self.session.get_providers()[0]  # asked back: the request proves nothing

    def _execute(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        return {"poses": self.session.run(("poses",), dict(inputs))[0]}

    def close(self) -> None:
        """Drop the session."""
        del self.session


class OnnxRuntimeCuda(Backend):
    """ONNX Runtime on an NVIDIA GPU, with bound input and output buffers.

    capture=True captures a CUDA graph for each batch size, at its first call; its buffers are then reused. Without, the
    buffers are made anew when the batch size changes.
    """

    name = "cuda"
    WANTED = "CUDAExecutionProvider"

    def __init__(self, bundle: Bundle, precision: str = "fp32", capture: bool = False) -> None:
        super().__init__(bundle)
        self.onnxruntime = import_onnxruntime("gpu")
        self.precision, self.capture = precision, capture
        self.graph = graph_of(bundle, precision, "graphs", None)
        self.bound: dict[int, tuple[Any, Any, dict[str, Any], Any]] = {}
        self.session = self._session()
        self.provider = self.WANTED
        self.joints = len(bundle.skeleton.joints)

    def _session(self) -> Any:
        options = self.onnxruntime.SessionOptions()
        if self.WANTED not in self.onnxruntime.get_available_providers():
            raise self._absent(f"onnxruntime {self.onnxruntime.__version__} without it")
        # TF32 rounds to ten bits: at 5 m that is millimetres
        asked = {"use_tf32": "0", "enable_cuda_graph": "1" if self.capture else "0"}
        try:
            session = self.onnxruntime.InferenceSession(self.graph, options, providers=[(self.WANTED, asked)])
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise self._absent(str(error)[:300]) from error
        if session.get_providers()[0] != self.WANTED:
            raise self._absent(f"a session on {session.get_providers()[0]}")
        return session

    def _absent(self, received: str) -> EdgeliftError:
        return EdgeliftError(
            "backend cuda", received, f"a session on {self.WANTED}",
            "See `edgelift doctor`: an NVIDIA GPU, its driver, onnxruntime-gpu, and onnxruntime not beside it.",
        )  # fmt: skip

    def _execute(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        batch = len(inputs["keypoints"])
        if batch not in self.bound:
            if not self.capture:
                self.bound.clear()
            self.bound[batch] = self._bind(inputs)
        session, binding, places, output = self.bound[batch]
        for name, array in inputs.items():
            places[name].update_inplace(np.ascontiguousarray(array))
        session.run_with_iobinding(binding)
        poses: Float32 = output.numpy()
        return {"poses": poses}

    def _bind(self, inputs: Mapping[str, Float32]) -> tuple[Any, Any, dict[str, Any], Any]:
        """Bind fixed device buffers for one batch size; a captured graph is tied to its session's first shapes."""
        session = self._session() if self.capture and self.bound else self.session
        binding, make = session.io_binding(), self.onnxruntime.OrtValue.ortvalue_from_numpy
        places = {name: make(np.ascontiguousarray(array), "cuda", 0) for name, array in inputs.items()}
        output = make(np.zeros((len(inputs["keypoints"]), self.joints, 3), np.float32), "cuda", 0)
        for name, value in places.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("poses", output)
        return session, binding, places, output

    def close(self) -> None:
        """Free the device's buffers."""
        self.bound.clear()
        del self.session


def graph_of(bundle: Bundle, precision: str, folder: str, flavour: str | None) -> bytes:
    """Return a bundle's graph in a precision: the portable one for fp32, else what was added to `folder`."""
    if precision == "fp32":
        return bundle.onnx.read_bytes()
    for attachment in attachments(bundle, folder):
        facts = attachment.facts
        if facts["precision"] == precision and (flavour is None or facts["flavour"] == flavour):
            return attachment.read()
    engine = "" if flavour is None else f" --engine {flavour}"
    raise EdgeliftError(
        f"{bundle.path}", f"no {precision} {'graph' if flavour is None else 'file for the ' + flavour}",
        "one that was exported", f"Run: edgelift export RUN -o {bundle.path} --precision {precision}{engine}",
    )  # fmt: skip
