"""A refittable engine for machines without a GPU: an ONNX graph whose initializers are overridden by name.

It rehearses what a refit does, to the last bit of a fresh export. ONNX Runtime folds the old weights into constants
at any optimisation level above none, silently (fp16 and int8 graphs then answer metres off), and takes unknown names
silently: so there is no optimisation, and names, shapes and types are checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.runtime.backends.contract import Backend, Float32
from edgelift.runtime.backends.onnx_runtime import import_onnxruntime
from edgelift.runtime.bundle import Bundle


class CpuTwin(Backend):
    """A backend and a Refittable (see refit.py) over a graph of a bundle."""

    name = "cpu"

    def __init__(self, bundle: Bundle, graph: bytes, half: tuple[str, ...] = ()) -> None:
        """graph: of this bundle, fp32 or fp16; half: names of the initializers that it holds as halves."""
        super().__init__(bundle)
        self.onnxruntime = import_onnxruntime("cpu")
        self.precision = "fp16" if half else "fp32"
        self.graph, parameters = graph, set(bundle.manifest["graph"]["parameters"])
        self.shapes = {
            name: (np.dtype(np.float16 if name in half else dtype), tuple(shape))
            for name, dtype, shape in bundle.manifest["graph"]["initializers"]
            if name in parameters
        }
        self.values: dict[str, NDArray[Any]] = {}
        self.session = self._session()
        self.provider = f"{self.session.get_providers()[0]}, twin of an engine"

    def names(self) -> set[str]:
        """See Refittable."""
        return set(self.shapes)

    def offer(self, name: str, values: NDArray[Any]) -> bool:
        """See Refittable."""
        if self.shapes.get(name) != (values.dtype, values.shape):
            return False
        self.values[name] = values
        return True

    def missing(self) -> set[str]:
        """See Refittable: TensorRT asks for weights that were fused with offered ones; here nothing is fused."""
        return set()

    def commit(self) -> bool:
        """See Refittable."""
        self.session = self._session()
        return True

    def _session(self) -> Any:
        options = self.onnxruntime.SessionOptions()
        options.graph_optimization_level = self.onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        # the options hold only references: the arrays must live as long as the session
        self.held = {n: self.onnxruntime.OrtValue.ortvalue_from_numpy(v) for n, v in self.values.items()}
        for name, value in self.held.items():
            options.add_initializer(name, value)
        return self.onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def _execute(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        return {"poses": self.session.run(("poses",), dict(inputs))[0]}
