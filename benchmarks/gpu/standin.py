"""The part of pycuda that edgelift touches, over cuda.bindings.

pycuda has no wheels: it must be compiled with CUDA's headers, which a borrowed machine may lack. For the checks here
alone, and reported: `edgelift` itself asks for pycuda.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = "none; standin.py over cuda.bindings"


def install() -> bool:
    """Take pycuda's place where it is not installed and cuda.bindings is; whether it did."""
    if "pycuda" in sys.modules or importlib.util.find_spec("pycuda") is not None:
        return False
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return False
    package, module = types.ModuleType("pycuda"), types.ModuleType("pycuda.driver")
    for name in ("Error", "init", "Device", "Context", "Stream", "Event", "device_attribute", "host_alloc_flags",
                 "pagelocked_zeros", "mem_alloc", "memcpy_htod_async", "memcpy_dtoh_async"):  # fmt: skip
        setattr(module, name, globals()[name])
    package.driver = module  # type: ignore[attr-defined]
    sys.modules |= {"pycuda": package, "pycuda.driver": module}
    return True


class Error(Exception):
    """A CUDA call that failed."""


@functools.cache
def _api() -> Any:
    from cuda.bindings import driver

    return driver


def _call(name: str, *values: Any) -> Any:
    try:
        status, *given = getattr(_api(), name)(*values)
    except RuntimeError as error:  # no driver to call
        raise Error(f"{name}: {error}") from error
    if int(status):
        raise Error(f"{name} failed: {status.name}")
    return tuple(given) if len(given) > 1 else given[0] if given else None


def init() -> None:
    _call("cuInit", 0)


class device_attribute:  # noqa: N801 - pycuda's name
    INTEGRATED = 18


class host_alloc_flags:  # noqa: N801 - pycuda's name
    DEVICEMAP = 2


class Context:
    """The primary one."""

    def __init__(self, device: int) -> None:
        self.device, self.handle = device, _call("cuDevicePrimaryCtxRetain", device)

    def push(self) -> None:
        _call("cuCtxPushCurrent", self.handle)

    @staticmethod
    def pop() -> None:
        _call("cuCtxPopCurrent")

    def detach(self) -> None:
        _call("cuDevicePrimaryCtxRelease", self.device)


class Device:
    def __init__(self, number: int) -> None:
        self.device = _call("cuDeviceGet", number)

    def name(self) -> str:
        return bytes(_call("cuDeviceGetName", 256, self.device)).partition(b"\0")[0].decode()

    def compute_capability(self) -> tuple[int, int]:
        major, minor = _call("cuDeviceComputeCapability", self.device)
        return int(major), int(minor)

    def get_attribute(self, attribute: int) -> int:
        return int(_call("cuDeviceGetAttribute", _api().CUdevice_attribute(attribute), self.device))

    def retain_primary_context(self) -> Context:
        return Context(self.device)


class Stream:
    def __init__(self, flags: int) -> None:
        self.stream = _call("cuStreamCreate", flags)
        self.handle = int(self.stream)

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", self.handle)


class Event:
    def __init__(self) -> None:
        self.event = _call("cuEventCreate", 0)

    def record(self, stream: Stream) -> Event:
        _call("cuEventRecord", self.event, stream.handle)
        return self

    def time_since(self, earlier: Event) -> float:
        return float(_call("cuEventElapsedTime", earlier.event, self.event))


class _Pinned:
    """Host memory that numpy arrays lie on; never freed, which a short check may do."""

    def __init__(self, bytes_: int, flags: int) -> None:
        self.address, self.bytes = int(_call("cuMemHostAlloc", bytes_, flags)), bytes_

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (self.address, False), "shape": (self.bytes,), "typestr": "|u1", "version": 3}

    def get_device_pointer(self) -> int:
        return int(_call("cuMemHostGetDevicePointer", self.address, 0))


class _Mapped(np.ndarray[Any, np.dtype[np.float32]]):
    """An array that knows whose memory it is: `base` of a plain one is another array."""

    owner: _Pinned

    @property
    def base(self) -> Any:
        return self.owner


def pagelocked_zeros(shape: tuple[int, ...], dtype: Any, mem_flags: int = 0) -> NDArray[np.float32]:
    owner = _Pinned(int(np.prod(shape)) * np.dtype(dtype).itemsize, mem_flags)
    ctypes.memset(owner.address, 0, owner.bytes)
    array: _Mapped = np.asarray(owner).view(dtype).reshape(shape).view(_Mapped)
    array.owner = owner
    return array


class mem_alloc(int):  # noqa: N801 - pycuda's name
    """An address on the GPU; not freed either."""

    def __new__(cls, bytes_: int) -> mem_alloc:
        return super().__new__(cls, int(_call("cuMemAlloc", bytes_)))


def memcpy_htod_async(to: int, source: NDArray[Any], stream: Stream) -> None:
    _call("cuMemcpyHtoDAsync", int(to), source.ctypes.data, source.nbytes, stream.handle)


def memcpy_dtoh_async(to: NDArray[Any], source: int, stream: Stream) -> None:
    _call("cuMemcpyDtoHAsync", to.ctypes.data, int(source), to.nbytes, stream.handle)
