"""TensorRT and TensorRT-RTX: an engine of the bundle, run over fixed buffers, by a CUDA graph for each batch size.

A captured graph is bound to its execution context, shapes and addresses, so every batch size has a context and a graph
of its own, made at its first call; the least recently used goes where there are more than GRAPHS. Buffers are allocated
once, for the largest batch, and only the rows of a call are copied. Where CPU and GPU share memory nothing is copied.
"""

from __future__ import annotations

import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment
from edgelift.runtime.backends.contract import Backend, Float32
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.cuda import Buffer, Cuda, Graph, Pycuda
from edgelift.runtime.engines.api import (
    ICudaEngine,
    ICudaEngineRtx,
    IExecutionContext,
    IExecutionContextRtx,
    TensorRTRtx,
)
from edgelift.runtime.engines.flavours import TITLES, Loaded, load
from edgelift.runtime.engines.refit import EngineRefitter, constants_of, refit, weights_for
from edgelift.runtime.engines.store import runnable_engine, verify_plan

GRAPHS = 8  # batch sizes that are kept ready: a live stream has one for each number of people
Tensors = dict[str, tuple[bool, str, tuple[int, ...]]]
"""Of a graph: whether it goes in, dtype, shape with -1 for the batch; by name."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """A batch size that can run: its execution context, and its graph if it is captured."""

    context: IExecutionContext
    graph: Graph | None


class TensorRTBackend(Backend):
    """An engine of a bundle on the first GPU. flavour: tensorrt or rtx; capture=False enqueues without a CUDA graph.

    Opening runs batch 1 once, so that what cannot run or be captured is told then. attachment: the engine's file,
    built_for the bundle whose weights that has. cuda: None opens the GPU by pycuda; closed with the backend. engine:
    None takes the first one of the bundle that can run here; plan: its contents, where they were verified before.
    """

    def __init__(
        self,
        bundle: Bundle,
        flavour: str,
        precision: str = "fp32",
        capture: bool = True,
        cuda: Cuda | None = None,
        engine: Attachment | None = None,
        plan: bytes | None = None,
    ) -> None:
        super().__init__(bundle)
        self.trt = load(flavour)
        self.name, self.precision, self.capture = flavour, precision, capture
        self.provider = f"{TITLES[flavour]} {self.trt.version}" + ", CUDA graph" * capture
        self.cuda: Cuda = cuda or Pycuda()
        self.built_for = bundle
        self.ready: OrderedDict[int, _Ready] = OrderedDict()
        try:
            self.attachment = engine or runnable_engine(bundle, flavour, precision, self.trt.version, self.cuda.gpu)
            self.plan = plan or verify_plan(self.attachment)  # kept: its file goes with its version
            with self.cuda, _nothing_left_in_tracebacks():
                self._open()
        except BaseException:
            self.cuda.close()
            raise

    def _open(self) -> None:
        name = str(self.attachment.path)
        self.engine = open_engine(self.trt, self.plan, name)
        self.tensors = check_tensors(self.trt, self.engine, self.built_for, name)
        self.going_in = [name for name, (goes_in, _, _) in self.tensors.items() if goes_in]
        self.coming_out = [name for name in self.tensors if name not in self.going_in]
        self.max_batch: int = largest_batch(self.engine, self.going_in)
        self.buffers = {name: self._buffer(shape[1:]) for name, (_, _, shape) in self.tensors.items()}
        self._prepared(1)

    def _execute(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        with self.cuda, _nothing_left_in_tracebacks():
            return self._executed(inputs)

    def _executed(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        batch = self._fill(inputs)
        ready = self._prepared(batch)
        if ready.graph is None:
            self._enqueue(ready.context, batch)
        else:
            ready.graph.launch()
        self.cuda.synchronise()
        return {name: self.buffers[name].host[:batch].copy() for name in self.coming_out}

    def timed(self, inputs: Mapping[str, Float32]) -> dict[str, float]:
        """Run once without a graph; return copy_in_us, run_us and copy_out_us by the GPU's clock."""
        self._check(inputs)
        with self.cuda:
            batch = self._fill(inputs)
            context = self._prepared(batch).context
            parts: list[Callable[[], None]] = [
                lambda: self._copy_in(batch), lambda: self._run(context), lambda: self._copy_out(batch)
            ]  # fmt: skip
            marks = [self.cuda.mark()]
            for part in parts:
                part()
                marks.append(self.cuda.mark())
            self.cuda.synchronise()
            spent = [later.since_us(earlier) for earlier, later in pairwise(marks)]
        return dict(zip(("copy_in_us", "run_us", "copy_out_us"), spent, strict=True))

    def refit(self, new: Bundle) -> None:
        """Replace its weights by another version's, in place; nobody may call it meanwhile.

        EdgeliftError where it does not take all of them: it is worth nothing then, close it.
        """
        weights = weights_for(self.attachment.facts, new)
        with self.cuda, _nothing_left_in_tracebacks():
            self.cuda.synchronise()
            self._forget_all()
            refit(EngineRefitter(self.trt, self.engine), weights, constants_of(new))
            self._prepared(1)

    def another(self) -> TensorRTBackend:
        """Open the same plan once more, with the weights that it was built with."""
        return TensorRTBackend(
            self.built_for, self.name, self.precision, self.capture, engine=self.attachment, plan=self.plan
        )

    def recapture(self) -> None:
        """Make contexts and graphs anew: no vendor says that a graph holds after a refit."""
        with self.cuda:
            self._forget_all()
            self._prepared(1)

    def close(self) -> None:
        """Release all that is held on the GPU."""
        with self.cuda:
            self._forget_all()
            self.buffers.clear()
            del self.engine
        self.cuda.close()

    def _buffer(self, rest: tuple[int, ...]) -> Buffer:
        return self.cuda.buffer((self.max_batch, *rest), mapped=self.cuda.gpu.integrated)

    def _fill(self, inputs: Mapping[str, Float32]) -> int:
        """Put arrays into the pinned buffers; return their batch size."""
        batch = len(inputs[self.going_in[0]])
        for name, array in inputs.items():
            self.buffers[name].host[:batch] = array
        return batch

    def _prepared(self, batch: int) -> _Ready:
        """Return what runs a batch size, made at the first call of that size."""
        if batch not in self.ready:
            if len(self.ready) == GRAPHS:
                self._forget(next(iter(self.ready)))
            context = self._context(batch)
            self.ready[batch] = _Ready(context, self._captured(context, batch) if self.capture else None)
        self.ready.move_to_end(batch)
        return self.ready[batch]

    def _context(self, batch: int) -> IExecutionContext:
        """Make an execution context of one batch size over the buffers."""
        context = make_context(self.trt, self.engine)
        for name in self.going_in:
            self._require(context.set_input_shape(name, (batch, *self.tensors[name][2][1:])), f"shape of {name}")
        open_shapes = context.infer_shapes()
        self._require(not open_shapes, f"shapes left open: {open_shapes}")
        for name, buffer in self.buffers.items():
            self._require(context.set_tensor_address(name, buffer.device), f"address of {name}")
        return context

    def _captured(self, context: IExecutionContext, batch: int) -> Graph:
        """Run once, since TensorRT leaves work to the first run that cannot be captured, then capture."""
        self._enqueue(context, batch)
        self.cuda.synchronise()
        if self.name == "rtx":
            capturable = cast(IExecutionContextRtx, context).is_stream_capturable(self.cuda.stream)
            self._require(capturable, f"batch {batch} cannot be captured")
        return self.cuda.capture(lambda: self._enqueue(context, batch))

    def _enqueue(self, context: IExecutionContext, batch: int) -> None:
        self._copy_in(batch)
        self._run(context)
        self._copy_out(batch)

    def _copy_in(self, batch: int) -> None:
        for name in self.going_in:
            if not self.buffers[name].mapped:
                self.cuda.copy_in(self.buffers[name], batch)

    def _run(self, context: IExecutionContext) -> None:
        self._require(context.execute_async_v3(self.cuda.stream), "enqueue")

    def _copy_out(self, batch: int) -> None:
        for name in self.coming_out:
            if not self.buffers[name].mapped:
                self.cuda.copy_out(self.buffers[name], batch)

    def _require(self, granted: bool, what: str) -> None:
        if not granted:
            raise EdgeliftError(
                f"{self.provider} on {self.cuda.gpu.name}", f"{what}: {self.trt.complaints()[:800]}", "no refusal",
                "See `edgelift doctor`.",
            )  # fmt: skip

    def _forget(self, batch: int) -> None:
        graph = self.ready.pop(batch).graph
        if graph is not None:
            graph.close()

    def _forget_all(self) -> None:
        for batch in list(self.ready):
            self._forget(batch)


@contextmanager
def _nothing_left_in_tracebacks() -> Iterator[None]:
    """Let go of what a traceback holds of the GPU while its context is current: what failed is closed soon."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def open_engine(trt: Loaded, plan: bytes, name: str) -> ICudaEngine:
    """Deserialise a verified plan; EdgeliftError with TensorRT's words where it refuses. `name` is for the message."""
    trt.messages.clear()
    try:
        engine = trt.api.Runtime(trt.logger).deserialize_cuda_engine(plan)
    except TypeError:  # how the bindings say that there is no runtime, without a driver or with one too old
        engine = None
    if engine is None:
        raise EdgeliftError(
            name, f"no engine from {TITLES[trt.flavour]} {trt.version}: {trt.complaints()[:800]}", "one that it opens",
            "See `edgelift doctor`, or build it again on this machine: edgelift build BUNDLE.",
        )  # fmt: skip
    return engine


def make_context(trt: Loaded, engine: ICudaEngine) -> IExecutionContext:
    """Make an execution context.

    TensorRT-RTX compiles the kernels of the batch size before they run: by default it would swap them in during later
    calls, and never in a captured graph.
    """
    if trt.flavour == "rtx":
        api, of_rtx = cast(TensorRTRtx, trt.api), cast(ICudaEngineRtx, engine)
        config = of_rtx.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        context = of_rtx.create_execution_context(config)
    else:
        context = engine.create_execution_context()
    if context is None:
        raise EdgeliftError(
            f"{TITLES[trt.flavour]} {trt.version}", f"no execution context: {trt.complaints()[:800]}", "one",
            "Free memory of the GPU; see `edgelift doctor`.",
        )  # fmt: skip
    return context


def check_tensors(trt: Loaded, engine: ICudaEngine, bundle: Bundle, name: str) -> Tensors:
    """Return an engine's tensors; EdgeliftError where they are not those of the bundle's graph."""
    wanted: Tensors = {i["name"]: (True, i["dtype"], (-1, *i["shape"][1:])) for i in bundle.manifest["inputs"]}
    wanted["poses"] = (False, "float32", (-1, len(bundle.skeleton.joints), 3))
    found: Tensors = {}
    for number in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(number)
        goes_in = engine.get_tensor_mode(tensor) == trt.api.TensorIOMode.INPUT
        dtype = np.dtype(trt.api.nptype(engine.get_tensor_dtype(tensor))).name
        found[tensor] = (goes_in, dtype, tuple(engine.get_tensor_shape(tensor)))
    if found != wanted:
        raise EdgeliftError(name, _told(found), _told(wanted), "Build it again: edgelift build BUNDLE.")
    return found


def largest_batch(engine: ICudaEngine, inputs: list[str]) -> int:
    """Return the most windows that an engine's profile takes at once."""
    largest = (engine.get_tensor_profile_shape(name, 0)[2] for name in inputs)
    return min(next(iter(shape)) for shape in largest)


def _told(tensors: Tensors) -> str:
    told = ((name, "in" if goes_in else "out", dtype, shape) for name, (goes_in, dtype, shape) in tensors.items())
    return ", ".join(" ".join(map(str, tensor)) for tensor in sorted(told))
