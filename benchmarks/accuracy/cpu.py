"""The CPU: what edgelift's backend adds to a bare session, other runtimes, and how fast a lifter as good can be.

Runs: cd benchmarks/accuracy; for W in 1024 512 384:
    python run.py M 0 noisy views_best --width W --data ../../../shared/data --keep RUNS/wW -o RESULTS
Then: python benchmarks/accuracy/cpu.py --data ../shared/data --runs RUNS -o benchmarks/results
OpenVINO is asked if it is there: pip install --target DIR openvino, and PYTHONPATH=DIR.

Batch 1, one thread, all in one process and turn by turn. Every row also says how far it is from PyTorch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from protocols import SEEN, Case, clip_of, sessions, weighted
from safetensors.numpy import load_file
from table import by_clip, compare

from edgelift.export.additions import Addition, add
from edgelift.poses.metrics import score
from edgelift.poses.sessions import Session
from edgelift.runtime.backends import Backend, open_backend
from edgelift.runtime.bench import cpu_name
from edgelift.runtime.bundle import REFIT, Bundle
from edgelift.runtime.evaluate import backend_lift, lift_views
from edgelift.runtime.speed import in_turns
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.deploy import export_run

Array = NDArray[np.float32]
Lift = Callable[[Array, Array], Array]
CASE = Case("M", 0, "noisy", "views_best")
KEYS = ("mpjpe_mm", "mixed_mpjpe_mm", "root_relative_mpjpe_mm")


def bare(graph: bytes) -> Lift:
    """A session with the backend's options and nothing around it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda k, i: session.run(None, {"keypoints": k, "intrinsics": i})[0]


def numpy_lifter(bundle: Bundle) -> Lift:
    """The frame lifter in plain NumPy, batch norm folded in."""
    w = {name: np.ascontiguousarray(value.T) for name, value in load_file(bundle.path / REFIT).items()}
    blocks = sorted({name.rpartition(".layers")[0] for name in w if ".layers." in name})
    root, joints = bundle.skeleton.root, len(bundle.skeleton.joints)

    def layer(x: Array, name: str) -> Array:
        y: Array = np.maximum(x @ w[f"{name}.weight"] + w[f"{name}.bias"], 0)
        return y

    def lift(keypoints: Array, intrinsics: Array) -> Array:
        visible = keypoints[:, -1, :, 2:] > 0
        focal, centre = intrinsics[:, None, :2], intrinsics[:, None, 2:]
        rays = (np.where(visible, keypoints[:, -1, :, :2], centre) - centre) / focal
        seen = visible.astype(np.float32)
        centroid = rays.sum(1, keepdims=True) / np.maximum(seen.sum(1, keepdims=True), 1)
        rays = np.where(visible, rays, centroid) - centroid
        n = len(rays)
        x = layer(np.concatenate([rays.reshape(n, -1), seen.reshape(n, -1), centroid.reshape(n, -1)], 1), "trunk.0")
        for block in blocks:
            x = x + layer(layer(x, f"{block}.layers.0"), f"{block}.layers.4")
        out = (x @ w["head.weight"] + w["head.bias"]).reshape(n, joints, 3)
        own = out[:, root : root + 1].copy()
        out[:, root] = 0
        poses: Array = out + own + np.concatenate([centroid * own[..., 2:], 0 * own[..., 2:]], 2)
        return poses

    return lift


def torch_lifters(run: Path, row: Callable[[str, Lift | None, dict[str, Any]], None]) -> None:
    """PyTorch as it is, and compiled; the compilation's seconds apart."""
    model = load_checkpoint(run).model().eval()

    def lifter(module: Any) -> Lift:
        def lift(k: Array, i: Array) -> Array:
            with torch.inference_mode():
                return module(torch.from_numpy(k), torch.from_numpy(i)).numpy()  # type: ignore[no-any-return]

        return lift

    row("PyTorch", lifter(model), {})
    compiled, started = lifter(torch.compile(model)), time.perf_counter()
    window = np.ones((1, 1, model.joints, 3), np.float32)
    compiled(window, np.ones((1, 4), np.float32))
    row("torch.compile", compiled, {"compile_s": round(time.perf_counter() - started, 1)})


def openvino_lifters(bundle: Bundle, row: Callable[[str, Lift | None, dict[str, Any]], None]) -> None:
    """OpenVINO in FP32, and as it comes: that may be bfloat16, without a word."""
    try:
        import openvino
    except ModuleNotFoundError:
        row("OpenVINO", None, {"reason": "not installed"})
        return
    core = openvino.Core()
    for name, more in (("OpenVINO, f32", {"INFERENCE_PRECISION_HINT": "f32"}), ("OpenVINO, default", {})):
        config = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"} | more
        request = core.compile_model(str(bundle.onnx), "CPU", config).create_infer_request()

        def lift(k: Array, i: Array, request: Any = request) -> Array:
            return request.infer({"keypoints": k, "intrinsics": i})["poses"].copy()  # type: ignore[no-any-return]

        row(name, lift, {})


def runtimes(bundle: Bundle, run: Path) -> list[dict[str, Any]]:
    """One row a runtime: microseconds, ratio to a bare session, worst joint from PyTorch in mm."""
    lifts: list[Lift] = []
    rows: list[dict[str, Any]] = []

    def row(name: str, lift: Lift | None, more: dict[str, Any]) -> None:
        rows.append({"runtime": name, **more})
        if lift is not None:
            lifts.append(lift)

    eight = next((bundle.path / "engines").glob("cpu-int8.onnx")).read_bytes()
    row("bare session.run", bare(bundle.onnx.read_bytes()), {})
    row("edgelift", open_backend(bundle, "cpu"), {})
    row("bare session.run, 8-bit file", bare(eight), {})
    row("edgelift, 8-bit file", open_backend(bundle, "cpu", "int8"), {})
    torch_lifters(run, row)
    openvino_lifters(bundle, row)
    row("NumPy", numpy_lifter(bundle), {})
    arrays = bundle.reference()
    spent = in_turns(lifts, arrays["keypoints"], arrays["intrinsics"])
    expected = lifts[[r["runtime"] for r in rows].index("PyTorch")](arrays["keypoints"], arrays["intrinsics"])
    timed = [r for r in rows if "reason" not in r]
    for told, lift, times in zip(timed, lifts, spent, strict=True):
        moved = np.linalg.norm(lift(arrays["keypoints"], arrays["intrinsics"]) - expected, axis=-1)
        p50, p99 = np.percentile(times, (50, 99)) / 1e3
        told |= {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}
        told |= {"ratio": round(float(p50 / (np.median(spent[0]) / 1e3)), 3)}
        told["worst_mm"] = round(1000 * float(moved.max()), 4)
    assert rows[-1]["worst_mm"] < 0.01, "the NumPy lifter is another one"
    return rows


def errors(backend: Backend, bundle: Bundle, tests: list[Session]) -> list[dict[str, Any]]:
    """One row a session and view, in the form that table.py compares."""
    rows = []
    for session in tests:
        for view in lift_views(backend_lift(backend), session, bundle.input):
            if np.isfinite(view.predicted).any():
                found = score(view.predicted, view.reference, bundle.skeleton).to_dict()
                rows.append({"clip": clip_of(session), "frames": found["frames"]} | {key: found[key] for key in KEYS})
    return rows


def as_good(bundles: dict[str, Bundle], tests: list[Session]) -> list[dict[str, Any]]:
    """Each width in FP32 and with 8-bit weights, against the widest in FP32: error and speed."""
    names = [(width, precision) for width in bundles for precision in ("fp32", "int8")]
    opened = [open_backend(bundles[width], "cpu", precision) for width, precision in names]
    arrays = bundles[names[0][0]].reference()
    spent = [np.median(t) / 1e3 for t in in_turns(opened, arrays["keypoints"], arrays["intrinsics"])]
    found = [errors(backend, bundles[width], tests) for (width, _), backend in zip(names, opened, strict=True)]
    rows = []
    for (width, precision), rows_of, p50 in zip(names, found, spent, strict=True):
        told: dict[str, Any] = {"lifter": width, "precision": precision, "p50_us": round(float(p50), 1)}
        told["times_as_fast"] = round(float(spent[0] / p50), 2)
        for key in KEYS:
            mean, low, high = compare(by_clip(rows_of, key, 0), by_clip(found[0], key, 0))
            told[key] = {"mm": round(weighted(rows_of, key), 2), "ratio": mean, "interval": [low, high]}
        rows.append(told)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of w1024, w512 and w384")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = {f"w{width}": options.runs / f"w{width}" / CASE.name for width in (1024, 512, 384)}
    tests = [s.only(SEEN) for s in sessions(options.data, CASE, testing=True)]
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {name: export_run(run, Path(scratch) / name) for name, run in runs.items()}
        for bundle in bundles.values():
            add(bundle, Addition("cpu", "int8"))
        result: dict[str, Any] = {
            "cpu": cpu_name(), "onnxruntime": onnxruntime.__version__, "torch": torch.__version__,
            "runtimes": {name: runtimes(bundles[name], runs[name]) for name in ("w1024", "w512")},
            "as_good": as_good(bundles, tests),
        }  # fmt: skip
    path = options.output / f"runtimes_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
