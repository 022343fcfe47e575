"""Which backends are ready on this machine, and what stands in the way of the others."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import BACKENDS
from edgelift.runtime.backends.onnx_runtime import import_onnxruntime
from edgelift.runtime.cuda import find_gpu
from edgelift.runtime.engines.flavours import TITLES, load

# one Relu over one float, opset 17: the least that a session can be made of
TINY = base64.b64decode("CAgSADozCgwKAXgSAXkiBFJlbHUSAWdaDwoBeBIKCggIARIECgIIAWIPCgF5EgoKCAgBEgQKAggBQgQKABAR")
CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Finding:
    """A backend: whether it can run here, what was found or is missing, what to do; builds: an engine can be built."""

    backend: str
    ready: bool
    found: str
    remedy: str | None = None
    builds: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The keys of `edgelift doctor --json`."""
        return asdict(self)


def examine() -> list[Finding]:
    """Try every backend, each by itself."""
    checks: dict[str, Callable[[], Finding]] = {
        "cpu": _cpu, "cuda": _cuda, "tensorrt": lambda: _engines("tensorrt"), "rtx": lambda: _engines("rtx"),
    }  # fmt: skip
    return [_tried(name, checks[name]) for name in BACKENDS]


def _tried(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except EdgeliftError as error:
        return Finding(name, False, f"{error.subject}: {error.received}", error.remedy)


def _onnxruntimes() -> list[str]:
    """List the distributions that own the module onnxruntime: more than one overwrite each other's files."""
    names = ("onnxruntime", "onnxruntime-gpu")
    return [f"{d.metadata['Name']} {d.version}" for d in metadata.distributions() if d.metadata["Name"] in names]


def _one_onnxruntime(backend: str, extra: str) -> Finding | None:
    installed = _onnxruntimes()
    if len(installed) < 2:
        return None
    return Finding(
        backend, False, f"{' and '.join(installed)}: one module, they break each other",
        f"Run: pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'edgelift[{extra}]'",
    )  # fmt: skip


def _cpu() -> Finding:
    onnxruntime = import_onnxruntime("cpu")
    clash = _one_onnxruntime("cpu", "cpu")
    if clash is not None:
        return clash
    return Finding("cpu", True, f"onnxruntime {onnxruntime.__version__}")


def _cuda() -> Finding:
    onnxruntime = import_onnxruntime("gpu")
    clash = _one_onnxruntime("cuda", "gpu")
    if clash is not None:
        return clash
    if CUDA not in onnxruntime.get_available_providers():
        found = f"onnxruntime {onnxruntime.__version__} without {CUDA}"
        return Finding("cuda", False, found, "Run: pip uninstall -y onnxruntime; pip install 'edgelift[gpu]'")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its complaint is told below
    try:
        given = onnxruntime.InferenceSession(TINY, options, providers=[CUDA]).get_providers()[0]
    except Exception as error:  # ONNX Runtime's errors have no common class
        return Finding("cuda", False, f"no session: {str(error)[:200]}", "Install an NVIDIA driver, CUDA and cuDNN.")
    if given != CUDA:
        found = f"a session that was asked for {CUDA} runs on {given}"
        return Finding(
            "cuda", False, found, "Install an NVIDIA driver, CUDA and cuDNN that this onnxruntime-gpu is for."
        )
    return Finding("cuda", True, f"onnxruntime {onnxruntime.__version__}, a session on {CUDA}")


def _engines(flavour: str) -> Finding:
    trt = load(flavour)
    title = f"{TITLES[flavour]} {trt.version}"
    try:
        gpu = find_gpu()
    except EdgeliftError as error:
        found = f"{title}; {error.subject}: {error.received}"
        return Finding(flavour, False, found, error.remedy, builds=flavour == "rtx")
    return Finding(flavour, True, f"{title} on {gpu.name} ({gpu.target})", builds=True)
