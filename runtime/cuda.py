"""What a GPU backend needs of CUDA: one stream, memory on both sides, events, graphs.

pycuda has all of it but graphs; those are captured by `cuda.bindings` on the same stream's handle. Both work in the
GPU's primary context, which is TensorRT's, ONNX Runtime's and PyTorch's too. A context that was pushed and not popped
aborts the interpreter when its thread ends, so it is current inside a `with` only; what the main thread leaves pushed
is popped at exit.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.engines.store import Gpu

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, on which other libraries may work
US_PER_MS = 1000.0
DOCTOR = "See `edgelift doctor`."


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory for one tensor, on both sides.

    host: pinned float32 array, zero at first. device: the GPU's address. mapped: both are the same memory, nothing has
    to be copied. owner: keeps the GPU's side alive.
    """

    host: NDArray[np.float32]
    device: int
    mapped: bool
    owner: object = None


class Graph(Protocol):
    """A captured CUDA graph."""

    def launch(self) -> None:
        """Enqueue all that was captured on the stream it was captured from."""

    def close(self) -> None:
        """Destroy it."""


class Mark(Protocol):
    """A moment on the stream."""

    def since_us(self, earlier: Mark) -> float:
        """Microseconds since an earlier mark, by the GPU's clock (its step is about half a microsecond)."""


Self = TypeVar("Self", bound="Cuda")


class Cuda(Protocol):
    """One stream, not the default one, of one GPU; everything but `gpu` and `stream` is used inside `with`.

    Entering makes the GPU's context current in this thread, leaving takes it away again; any thread may, several times.
    """

    gpu: Gpu
    stream: int
    """The stream's handle."""

    def __enter__(self: Self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def buffer(self, shape: tuple[int, ...], mapped: bool) -> Buffer:
        """Allocate float32 memory on both sides, or where mapped is true one that both see."""

    def copy_in(self, buffer: Buffer, rows: int) -> None:
        """Enqueue a copy of the first rows to the GPU."""

    def copy_out(self, buffer: Buffer, rows: int) -> None:
        """Enqueue a copy of the first rows from the GPU."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Capture what `work` enqueues, which is not executed; EdgeliftError where it cannot be captured."""

    def mark(self) -> Mark:
        """Enqueue a mark."""

    def synchronise(self) -> None:
        """Wait until all that was enqueued is done."""

    def close(self) -> None:
        """Release the stream; not inside `with`."""


def find_gpu() -> Gpu:
    """Return the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses); EdgeliftError with why there is none."""
    driver, device = _first_device()
    major, minor = device.compute_capability()
    integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
    return Gpu(str(device.name()), f"sm_{major}{minor}", integrated)


class Pycuda:
    """CUDA by pycuda, its graphs by cuda.bindings. See Cuda."""

    def __init__(self) -> None:
        self.gpu = find_gpu()
        self.driver, self.context = _primary_context()
        with self:
            self._stream = self.driver.Stream(NON_BLOCKING)
        self.stream = int(self._stream.handle)

    def __enter__(self) -> Pycuda:
        self.context.push()
        _pushed.depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _pop(self.driver)
        if isinstance(error, self.driver.Error):
            raise EdgeliftError(f"CUDA on {self.gpu.name}", str(error), "CUDA_SUCCESS", DOCTOR) from error

    def buffer(self, shape: tuple[int, ...], mapped: bool) -> Buffer:
        """See Cuda."""
        flags = self.driver.host_alloc_flags.DEVICEMAP if mapped else 0
        host = self.driver.pagelocked_zeros(shape, np.float32, mem_flags=flags)
        if mapped:
            return Buffer(host, int(host.base.get_device_pointer()), mapped)
        memory = self.driver.mem_alloc(host.nbytes)
        return Buffer(host, int(memory), mapped, memory)

    def copy_in(self, buffer: Buffer, rows: int) -> None:
        """See Cuda."""
        self.driver.memcpy_htod_async(buffer.device, buffer.host[:rows], self._stream)

    def copy_out(self, buffer: Buffer, rows: int) -> None:
        """See Cuda."""
        self.driver.memcpy_dtoh_async(buffer.host[:rows], buffer.device, self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """See Cuda."""
        driver = _import("cuda.bindings.driver")
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked("cuStreamBeginCapture", driver.cuStreamBeginCapture(self.stream, mode))
        try:
            work()
        finally:  # whatever happened: a stream that stays in capture can do nothing else
            ended = driver.cuStreamEndCapture(self.stream)
        graph = _checked("cuStreamEndCapture", ended)
        executable = _checked("cuGraphInstantiate", driver.cuGraphInstantiate(graph, 0))
        _checked("cuGraphDestroy", driver.cuGraphDestroy(graph))  # the executable does not need it
        return _Graph(driver, executable, self.stream)

    def mark(self) -> Mark:
        """See Cuda."""
        return _Mark(self.driver.Event().record(self._stream))

    def synchronise(self) -> None:
        """See Cuda."""
        self._stream.synchronize()

    def close(self) -> None:
        """See Cuda."""
        with self:
            self._stream = None


class _Graph:
    def __init__(self, driver: Any, executable: Any, stream: int) -> None:
        self.driver, self.executable, self.stream = driver, executable, stream

    def launch(self) -> None:
        _checked("cuGraphLaunch", self.driver.cuGraphLaunch(self.executable, self.stream))

    def close(self) -> None:
        _checked("cuGraphExecDestroy", self.driver.cuGraphExecDestroy(self.executable))


@dataclass(frozen=True, eq=False)
class _Mark:
    event: Any

    def since_us(self, earlier: Mark) -> float:
        assert isinstance(earlier, _Mark)
        return float(self.event.time_since(earlier.event)) * US_PER_MS


class _Pushed(threading.local):
    depth = 0


_pushed = _Pushed()
_retaining = threading.Lock()


def _primary_context() -> tuple[Any, Any]:
    """Return pycuda's driver and the primary context, retained once a process: pycuda takes two handles for two."""
    with _retaining:
        return _retained()


@functools.cache
def _retained() -> tuple[Any, Any]:
    driver, device = _first_device()
    context = device.retain_primary_context()
    atexit.register(_release, driver, context)
    return driver, context


def _release(driver: Any, context: Any) -> None:
    while _pushed.depth:
        _pop(driver)
    context.detach()  # left to its destructor, pycuda would call what a primary context does not support


def _pop(driver: Any) -> None:
    driver.Context.pop()
    _pushed.depth -= 1


def _first_device() -> tuple[Any, Any]:
    driver = _import("pycuda.driver")
    try:
        driver.init()
        return driver, driver.Device(0)
    except driver.Error as error:
        raise EdgeliftError("NVIDIA GPU", str(error), "one that CUDA can use", DOCTOR) from error


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "cuda") from error
    except (ImportError, OSError) as error:  # installed, without an NVIDIA driver under it
        raise EdgeliftError("NVIDIA driver", str(error), "libcuda.so.1 of an installed driver", DOCTOR) from error


def _checked(call: str, result: tuple[Any, ...]) -> Any:
    """Return what a call of cuda.bindings gave beside its CUresult, if anything; EdgeliftError unless it succeeded."""
    status, *values = result
    if int(status):
        raise EdgeliftError(
            f"CUDA call {call}", str(status.name), "CUDA_SUCCESS",
            "Without CUDA graphs it may work (capture=False); see `edgelift doctor`.",
        )  # fmt: skip
    return values[0] if values else None
