"""What a frame lifter's call costs on one CPU thread, by edgelift's backend and by everything else that runs it.

edgelift export RUN -o BUNDLE --engine cpu --precision int8
pip install --target .bindings/openvino openvino
python benchmarks/cpu/latency.py BUNDLE --run RUN --openvino .bindings/openvino -o benchmarks/results

Batch 1, one thread, one process, turn by turn; each with the distance of its poses from PyTorch's, so that nobody is
fast by being wrong. The overhead of edgelift's backend is measured call by call against `run` of its own session: two
sessions over one graph differ by more than that. OpenVINO is no dependency of edgelift; where it is missing, its rows
say so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.numpy import load_file
from turns import Contestant, Float32, machine, one_by_one, take_calls, take_turns, times_as_long, with_one_thread

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.backends.onnx_runtime import graph_of
from edgelift.runtime.budget import change
from edgelift.runtime.bundle import REFIT, Bundle
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.deploy import bundle_of

Make = Callable[[], Contestant]
NUMPY_LIMIT_MM = 0.01
BACKEND, BARE = "edgelift, {}", "bare session.run, {}"


def backend(bundle: Bundle, precision: str) -> Contestant:
    return Contestant(BACKEND.format(precision), OnnxRuntimeCpu(bundle, precision=precision))


def bare(bundle: Bundle, precision: str) -> Contestant:
    """A session of its own over the same graph, with the same options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = graph_of(bundle, precision, "engines", "cpu")
    return _around(onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]), precision)


def _around(session: Any, precision: str) -> Contestant:
    def lift(keypoints: Float32, intrinsics: Float32) -> Float32:
        poses: Float32 = session.run(("poses",), {"keypoints": keypoints, "intrinsics": intrinsics})[0]
        return poses

    return Contestant(BARE.format(precision), lift)


def eager(run: Path) -> Contestant:
    return Contestant("PyTorch, eager", _torch_lift(load_checkpoint(run).model().eval()))


def compiled(run: Path, bundle: Bundle) -> Contestant:
    """Compiled by a first call, without a cache."""
    lift, arrays = _torch_lift(torch.compile(load_checkpoint(run).model().eval())), bundle.reference()
    started = time.perf_counter()
    lift(arrays["keypoints"][:1], arrays["intrinsics"][:1])
    facts = {"compile_seconds": round(time.perf_counter() - started, 1)}
    return Contestant("PyTorch, compiled", lift, facts)


def _torch_lift(model: Callable[..., Any]) -> Callable[[Float32, Float32], Float32]:
    def lift(keypoints: Float32, intrinsics: Float32) -> Float32:
        with torch.inference_mode():
            poses: Float32 = model(torch.from_numpy(keypoints), torch.from_numpy(intrinsics)).numpy()
        return poses

    return lift


def openvino(bundle: Bundle, asked: str | None) -> Contestant:
    """asked: f32, or None for what OpenVINO chooses by itself, which is bf16 on a CPU that has it."""
    import openvino

    properties = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    properties |= {"INFERENCE_PRECISION_HINT": asked} if asked else {}
    model = openvino.Core().compile_model(bundle.onnx, "CPU", properties)
    request = model.create_infer_request()

    def lift(keypoints: Float32, intrinsics: Float32) -> Float32:
        found = request.infer({"keypoints": keypoints, "intrinsics": intrinsics}, share_inputs=True)
        poses: Float32 = found["poses"]
        return poses

    precision = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Contestant(f"OpenVINO, {asked or 'default'}", lift, {"precision": precision})


def in_numpy(bundle: Bundle) -> Contestant:
    """The same arithmetic by hand, with the bundle's folded weights; asserted to be the backend's."""
    weights = load_file(bundle.path / REFIT)
    root = bundle.skeleton.root
    names = [key.removesuffix(".weight") for key in weights if key.endswith(".weight")]
    layers = {name: (weights[f"{name}.weight"].T, weights[f"{name}.bias"]) for name in names}
    blocks = sorted({name.split(".layers.")[0] for name in names if ".layers." in name})

    def linear(x: Float32, name: str) -> Float32:
        weight, bias = layers[name]
        y: Float32 = x @ weight + bias
        return y

    def lift(keypoints: Float32, intrinsics: Float32) -> Float32:
        features, centroid = _normalised(keypoints[:, 0], intrinsics)
        x = np.maximum(linear(features, "trunk.0"), 0)
        for block in blocks:
            y = np.maximum(linear(x, f"{block}.layers.0"), 0)
            x = x + np.maximum(linear(y, f"{block}.layers.4"), 0)
        return _placed(linear(x, "head").reshape(len(x), -1, 3), centroid, root)

    arrays = bundle.reference()
    with OnnxRuntimeCpu(bundle) as lifter:
        apart = lift(arrays["keypoints"], arrays["intrinsics"]) - lifter(arrays["keypoints"], arrays["intrinsics"])
    worst_mm = 1000 * float(np.linalg.norm(apart, axis=-1).max())
    assert worst_mm <= NUMPY_LIMIT_MM, worst_mm
    return Contestant("NumPy", lift)


def _normalised(keypoints: Float32, intrinsics: Float32) -> tuple[Float32, Float32]:
    """Features (n, 3 * joints + 2) of (n, joints, 3) and (n, 4), and the centroid's ray (n, 1, 2)."""
    visible = keypoints[..., 2:] > 0
    focal, centre = intrinsics[:, None, :2], intrinsics[:, None, 2:]
    rays = (np.where(visible, keypoints[..., :2], centre) - centre) / focal
    seen = visible.astype(np.float32)
    centroid = rays.sum(1, keepdims=True) / np.maximum(seen.sum(1, keepdims=True), 1)
    beside = np.where(visible, rays - centroid, np.float32(0))
    flat = [part.reshape(len(keypoints), -1) for part in (beside, seen, centroid)]
    return np.concatenate(flat, 1), centroid


def _placed(out: Float32, centroid: Float32, root: int) -> Float32:
    """Poses from the network's (n, joints, 3): the root on the centroid's ray, all others relative to it."""
    position = out[:, root : root + 1].copy()
    position[..., :2] += centroid * position[..., 2:]
    poses = out + position
    poses[:, root] = position[:, 0]
    return poses


def all_of(bundle: Bundle, run: Path) -> dict[str, Make]:
    """Whoever takes part, by the name of its row."""
    makes: dict[str, Make] = {}
    for precision in ("fp32", "int8"):
        makes[BACKEND.format(precision)] = partial(backend, bundle, precision)
        makes[BARE.format(precision)] = partial(bare, bundle, precision)
    return makes | {
        "PyTorch, eager": partial(eager, run),
        "PyTorch, compiled": partial(compiled, run, bundle),
        "OpenVINO, f32": partial(openvino, bundle, "f32"),
        "OpenVINO, default": partial(openvino, bundle, None),
        "NumPy": partial(in_numpy, bundle),
    }


def rows_of(bundle: Bundle, run: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """One row each: p50, p99, ratio to bare session.run in FP32, distance from PyTorch; or why there is none."""
    ready: list[Contestant] = []
    for name, make in all_of(bundle, run).items():
        try:
            ready.append(make())
        except (EdgeliftError, ModuleNotFoundError) as error:
            yield {"name": name, "missing": str(error)}
    arrays = bundle.reference()
    somebody = np.any(arrays["keypoints"][:, -1, :, 2] > 0, axis=1)
    keypoints, intrinsics, truth = (arrays[key][somebody] for key in ("keypoints", "intrinsics", "poses"))
    by_name = {one.name: one for one in ready}
    expected = one_by_one(by_name["PyTorch, eager"].lift, keypoints, intrinsics)
    moved = {one.name: asdict(change(expected, one_by_one(one.lift, keypoints, intrinsics), truth)) for one in ready}
    take_turns(ready, keypoints, intrinsics, rounds)
    for one in ready:
        relative = times_as_long(one, by_name[BARE.format("fp32")])
        yield {"name": one.name, **one.figures(), **relative, "from_pytorch": moved[one.name], **one.facts}


def overheads(bundle: Bundle, rounds: int) -> Iterator[dict[str, Any]]:
    """Of edgelift's backend over `run` of the very session it holds."""
    arrays = bundle.reference()
    for precision in ("fp32", "int8"):
        try:
            lifter = OnnxRuntimeCpu(bundle, precision=precision)
        except EdgeliftError as error:
            yield {"precision": precision, "missing": str(error)}
            continue
        pair = Contestant(BACKEND.format(precision), lifter), _around(lifter.session, precision)
        take_calls(pair, arrays["keypoints"], arrays["intrinsics"], rounds)
        apart = np.median(pair[0].p50s_us() - pair[1].p50s_us())
        yield {"precision": precision, **times_as_long(*pair), "microseconds": round(float(apart), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="that the bundle was exported from")
    parser.add_argument("--openvino", type=Path, help="folder it was installed to, if not where Python finds it")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.compiler.config.force_disable_caches = True  # or compiling took no time the second time
    with_one_thread()
    torch.set_num_threads(1)
    if options.openvino:
        sys.path.append(str(options.openvino.resolve()))
    bundle = bundle_of(options.run, options.bundle)
    rows = []
    for row in rows_of(bundle, options.run, options.rounds):
        rows.append(row)
        print(row, flush=True)
    overhead = list(overheads(bundle, options.rounds))
    print(overhead)
    width = bundle.manifest["training"]["settings"]["width"]
    result = {"width": width, "rounds": options.rounds, "machine": machine(), "rows": rows, "overhead": overhead}
    path = options.output / f"latency_w{width}_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
