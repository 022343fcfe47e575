"""Building an engine and keeping it as it is, and running one against ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, find
from edgelift.runtime.backends import Backend, open_backend
from edgelift.runtime.backends.onnx_runtime import graph_of, import_onnxruntime
from edgelift.runtime.budget import BUDGETS, change
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.cuda import find_gpu
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.flavours import load
from edgelift.runtime.engines.make import GRAPH_FACTS
from edgelift.runtime.engines.store import build_engine
from edgelift.runtime.evaluate import backend_lift

Float32 = NDArray[np.float32]
FLAVOURS = ("tensorrt", "rtx")
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
WINDOWS = 512  # of a reference set: more say nothing new about an engine
BATCHES = (3, 16)


def preload() -> None:
    """Load CUDA and cuDNN of pip's packages; by itself ONNX Runtime finds the system's alone, as the doctor tells."""
    onnxruntime = import_onnxruntime("gpu")
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        onnxruntime.preload_dlls()


def build(bundle: Bundle, settings: BuildSettings) -> dict[str, Any]:
    """Build an engine and keep it, run or not: `edgelift build` would take away one that does not run here."""
    load(settings.flavour)
    gpu = find_gpu() if settings.flavour == "tensorrt" else None
    graph = graph_of(bundle, settings.precision, "graphs", None)
    engine = build_engine(bundle, settings, graph, _graph_facts(bundle, settings.precision), gpu)
    return {key: engine.facts[key] for key in ("version", "targets", "bytes", "build_seconds", "refittable")}


def _graph_facts(bundle: Bundle, precision: str) -> dict[str, Any]:
    if precision == "fp32":
        return {"graph_parity": bundle.manifest["parity"], "budget": asdict(BUDGETS["fp32"]), "forced": False}
    [graph] = find(bundle, "graphs", lambda f: f["precision"] == precision)
    return {key: graph.facts[key] for key in GRAPH_FACTS if key in graph.facts}


def engine_of(bundle: Bundle, flavour: str, precision: str) -> Attachment:
    """The engine that a part needs; EdgeliftError where it was not built."""
    wanted = (flavour, precision)
    engines = find(bundle, "engines", lambda f: (f["flavour"], f["precision"]) == wanted)
    if not engines:
        raise EdgeliftError(f"{flavour} {precision}", "no engine", "a built one", f"See the section engines_{flavour}.")
    return engines[0]


def reference(bundle: Bundle) -> tuple[Float32, Float32, Float32]:
    """Windows, cameras, truth."""
    arrays = bundle.reference()
    return arrays["keypoints"][:WINDOWS], arrays["intrinsics"][:WINDOWS], arrays["poses"][:WINDOWS]


def on_cpu(bundle: Bundle, windows: Float32, cameras: Float32) -> Float32:
    """What the bundle's FP32 graph makes of them."""
    with open_backend(bundle, "cpu") as cpu:
        return backend_lift(cpu)(windows, cameras)


def one_by_one(backend: Backend, windows: Float32, cameras: Float32) -> Float32:
    """Lift at batch 1."""
    return np.concatenate([backend(windows[i : i + 1], cameras[i : i + 1]) for i in range(len(windows))])


def ran(bundle: Bundle, opener: Callable[[], Backend]) -> dict[str, Any]:
    """What a backend does to poses, and whether it does it alike at every batch size and whatever missing joints hold.

    opened_s: with the first run, for which TensorRT-RTX compiles. first_call_s of each batch size likewise.
    """
    windows, cameras, truth = reference(bundle)
    expected = on_cpu(bundle, windows, cameras)
    started = time.perf_counter()
    with opener() as backend:
        told: dict[str, Any] = {"provider": backend.provider, "opened_s": round(time.perf_counter() - started, 3)}
        alone = one_by_one(backend, windows, cameras)
        told |= asdict(change(expected, alone, truth))
        share = BUDGETS[backend.precision].share(change(expected, alone, truth))
        told |= {"share_of_budget": share, "max_batch": backend.max_batch}
        told["batches"] = {str(n): _batched(backend, n, windows, cameras, alone) for n in _fitting(backend, windows)}
        told |= _missing(backend, windows[:8], cameras[:8])
    return told


def _fitting(backend: Backend, windows: Float32) -> list[int]:
    most = min(backend.max_batch or len(windows), len(windows))
    return [n for n in BATCHES if n <= most]


def _batched(backend: Backend, n: int, windows: Float32, cameras: Float32, alone: Float32) -> dict[str, float]:
    started = time.perf_counter()
    first = backend(windows[:n], cameras[:n])
    seconds = time.perf_counter() - started
    again = backend(windows[:n], cameras[:n])  # by the graph that the first call captured
    furthest = [1000 * float(np.abs(poses - alone[:n]).max()) for poses in (first, again)]
    return {"first_call_s": round(seconds, 4), "first_from_batch_1_mm": furthest[0], "from_batch_1_mm": furthest[1]}


def _missing(backend: Backend, windows: Float32, cameras: Float32) -> dict[str, Any]:
    """Lift with every third joint missing, by what lies in it, and with none seen; all at batch 1."""
    absent = windows.copy()
    absent[:, :, ::3, 2] = 0
    poses = {}
    for junk in (0.0, np.nan, 1e9):
        filled = absent.copy()
        filled[..., :2] = np.where(absent[..., 2:] > 0, absent[..., :2], np.float32(junk))
        poses[str(junk)] = one_by_one(backend, filled, cameras)
    empty = windows[:1].copy()
    empty[..., :2], empty[..., 2] = np.nan, 0
    return {
        "nan_changes_nothing": bool(np.array_equal(poses["0.0"], poses["nan"])),
        "1e9_changes_nothing": bool(np.array_equal(poses["0.0"], poses["1000000000.0"])),
        "nobody_seen_is_finite": bool(np.isfinite(one_by_one(backend, empty, cameras[:1])).all()),
    }
