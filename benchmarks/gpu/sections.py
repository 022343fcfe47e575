"""The sections of check.py in the order of their worth: each yields its parts, a name and what answers it.

Sections of TensorRT and of TensorRT-RTX are apart, and so in different processes: one that breaks must not take the
other along.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lifters import Parts, bundles, lifters, main_bundle, scratch
from questions import overhead, precisions, ratios, refit_parts, targets
from ran import FLAVOURS, PRECISIONS, build, preload, ran
from standin import VERSION, install

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import find
from edgelift.runtime.backends import open_backend
from edgelift.runtime.backends.onnx_runtime import OnnxRuntimeCpu, OnnxRuntimeCuda
from edgelift.runtime.backends.tensorrt import TensorRTBackend
from edgelift.runtime.bench import BACK_TO_BACK, BenchSettings, bench, machine_facts
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.cuda import find_gpu
from edgelift.runtime.doctor import examine
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.flavours import load
from edgelift.runtime.engines.make import make_engine
from edgelift.runtime.telemetry import sampled

PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_cu12", "tensorrt_cu13", "tensorrt_rtx", "pycuda",
    "cuda-bindings", "safetensors", "torch", "onnx", "nvidia-ml-py", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
)  # fmt: skip
THIRTY = BenchSettings(warmup_calls=20, measure_s=0.6, measure_calls=500, paced_s=1.0, paced_calls=30, cold_starts=2)
REHEARSED = BenchSettings(
    warmup_s=0.05, warmup_calls=3, measure_s=0.1, measure_calls=50, paced_s=0.2, paced_calls=5, cold_starts=1
)
stands_in = install()  # in every section's process, before anything asks for pycuda


def machine(home: Path, quick: bool) -> Parts:
    """What this machine is and what is installed."""
    yield "versions", _versions
    yield "gpu", lambda: asdict(find_gpu())
    yield "driver", _driver
    yield "facts", _machine_facts
    yield "tensorrt and tensorrt_rtx in one process", _both
    yield "doctor", lambda: [finding.to_dict() for finding in examine()]


def _versions() -> dict[str, str]:
    installed = {str(d.metadata["Name"]).lower(): d.version for d in importlib.metadata.distributions()}
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return found | ({"pycuda": VERSION} if stands_in else {})


def _driver() -> dict[str, Any]:
    """The CUDA version of the driver, asked without any package, and nvidia-smi's words."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EdgeliftError("NVIDIA driver", str(error), "libcuda.so.1", "Install a driver.") from error
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    keys = (
        "name",
        "driver_version",
        "compute_cap",
        "memory.total",
        "clocks.max.sm",
        "persistence_mode",
        "mig.mode.current",
    )
    command = ["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except OSError as error:
        said = str(error)
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "nvidia_smi": said}


def _machine_facts() -> dict[str, Any]:
    with sampled(0.5) as telemetry:
        time.sleep(0.6)
    return machine_facts(telemetry) | {"telemetry": telemetry.to_dict()}


def _both() -> dict[str, str]:
    return {name: load(name).version for name in FLAVOURS}


def engines(flavour: str, home: Path, quick: bool) -> Parts:
    """Every lifter and precision, and the main one refittable: built and kept, whether or not it then runs."""
    main = main_bundle(home)
    for precision in PRECISIONS:
        yield f"{main.path.name} {precision}", partial(build, main, BuildSettings(flavour, precision))
    for precision in ("fp32", "fp16"):
        settings = BuildSettings(flavour, precision, refittable=True)
        yield f"{main.path.name} {precision}, refittable", partial(_refittable, home, settings)
    for name, bundle in list(bundles(home).items())[1:]:
        for precision in PRECISIONS[:2] if flavour == "tensorrt" else PRECISIONS:  # TensorRT's builds are slow
            yield f"{name} {precision}", partial(build, bundle, BuildSettings(flavour, precision))


def _refittable(home: Path, settings: BuildSettings) -> dict[str, Any]:
    """In a bundle of its own: opening by flavour and precision takes the first engine that fits."""
    folder = home / f"refittable_{settings.flavour}_{settings.precision}"
    return build(scratch(main_bundle(home), folder), settings)


def runs(flavour: str, home: Path, quick: bool) -> Parts:
    """Every engine against ONNX Runtime on the CPU; then what `edgelift build` says to one."""
    for name, bundle in bundles(home).items():
        for precision in PRECISIONS:
            opener = partial(open_backend, bundle, flavour, precision)
            yield f"{name} {precision}", partial(ran, bundle, opener)
    main = main_bundle(home)
    yield (
        f"{main.path.name} fp32, no CUDA graph",
        partial(ran, main, partial(TensorRTBackend, main, flavour, "fp32", False)),
    )
    yield f"{main.path.name} fp32, built for one window", partial(_static, home, flavour)
    for precision in ("fp16", "int8"):
        yield f"edgelift build, {precision}", partial(_made, home, BuildSettings(flavour, precision))


def _static(home: Path, flavour: str) -> dict[str, Any]:
    bundle = scratch(main_bundle(home), home / f"static_{flavour}")
    build(bundle, BuildSettings(flavour, max_batch=1))
    return ran(bundle, partial(open_backend, bundle, flavour))


def _made(home: Path, settings: BuildSettings) -> dict[str, Any]:
    """Does `edgelift build` keep it: within its budget, and faster than FP32?"""
    find_gpu()
    main = main_bundle(home)
    bundle = scratch(main, home / "made")
    make_engine(bundle, BuildSettings(settings.flavour))
    engine = make_engine(bundle, settings)
    return {key: engine.facts[key] for key in ("engine_parity", "speed", "forced", "build_seconds")}


def runs_cuda(home: Path, quick: bool) -> Parts:
    """ONNX Runtime on the GPU against itself on the CPU."""
    preload()
    for name, bundle in bundles(home).items():
        for precision in ("fp32", "fp16"):
            for capture in (False, True):
                opener = partial(OnnxRuntimeCuda, bundle, precision, capture)
                yield f"{name} {precision}{', CUDA graph' * capture}", partial(ran, bundle, opener)


def bench_rows(backend: str, home: Path, quick: bool) -> Parts:
    """`edgelift bench`: all modes at batch 1, back to back at 16; two modes of the other lifters."""
    settings = REHEARSED if quick else THIRTY
    wanted = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16")}.get(backend, PRECISIONS)
    many, some = replace(settings, modes=(BACK_TO_BACK,)), replace(settings, modes=(BACK_TO_BACK, "paced_30"))
    if backend == "cuda":
        preload()
    (main, bundle), *others = bundles(home).items()
    for precision in wanted:
        yield f"{main} {precision}", partial(_benched, bundle, backend, precision, 1, settings)
    for precision in wanted:
        yield f"{main} {precision}, 16 people", partial(_benched, bundle, backend, precision, 16, many)
    for name, bundle in others:
        for precision in wanted[:1] if backend == "cpu" else wanted[:2]:
            yield f"{name} {precision}", partial(_benched, bundle, backend, precision, 1, some)


def _benched(bundle: Bundle, backend: str, precision: str, batch: int, settings: BenchSettings) -> dict[str, Any]:
    if backend == "cpu" and precision == "int8" and not find(bundle, "engines", lambda f: f["flavour"] == "cpu"):
        from edgelift.export.additions import Addition, add

        add(bundle, Addition("cpu", "int8", force=True))
    report = bench(bundle, [backend], [precision], [batch], settings)
    if not report.rows:
        raise EdgeliftError(
            f"{backend} {precision}", "; ".join(s["reason"] for s in report.skipped), "a row", "See `edgelift doctor`."
        )
    return {"rows": report.rows, "skipped": report.skipped}


def cpu_overhead(home: Path, quick: bool) -> Parts:
    """The CPU backend against a bare session."""
    yield "fp32", partial(_cpu_overhead, home)


def _cpu_overhead(home: Path) -> dict[str, Any]:
    bundle = main_bundle(home)
    arrays = bundle.reference()
    with OnnxRuntimeCpu(bundle) as backend:
        session = backend.session

        def bare(window: Any, camera: Any) -> Any:
            return session.run(("poses",), {"keypoints": window, "intrinsics": camera})[0]

        return ratios({"bare": bare, "edgelift": backend}, arrays["keypoints"], arrays["intrinsics"])


SECTIONS: dict[str, Callable[[Path, bool], Parts]] = {
    "machine": machine, "lifters": lifters,
    "engines_rtx": partial(engines, "rtx"), "runs_rtx": partial(runs, "rtx"),
    "engines_tensorrt": partial(engines, "tensorrt"), "runs_tensorrt": partial(runs, "tensorrt"),
    "targets": targets,
    "refit_tensorrt": partial(refit_parts, "tensorrt"), "refit_rtx": partial(refit_parts, "rtx"),
    "overhead_tensorrt": partial(overhead, "tensorrt"), "overhead_rtx": partial(overhead, "rtx"),
    "overhead_cuda": partial(overhead, "cuda"), "overhead_cpu": cpu_overhead,
    "precisions_tensorrt": partial(precisions, "tensorrt"), "precisions_rtx": partial(precisions, "rtx"),
    "runs_cuda": runs_cuda,
    "bench_tensorrt": partial(bench_rows, "tensorrt"), "bench_rtx": partial(bench_rows, "rtx"),
    "bench_cuda": partial(bench_rows, "cuda"), "bench_cpu": partial(bench_rows, "cpu"),
}  # fmt: skip
