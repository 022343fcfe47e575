"""Reduced graphs of a bundle: made, judged in millimetres, kept in `graphs/` or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgelift.calibration.ranges import Ranges, observe
from edgelift.export.judge import Judge
from edgelift.export.precision import activations, to_half, to_quantised
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.runtime.attachments import Attachment, attach
from edgelift.runtime.budget import Budget, enforce, facts
from edgelift.runtime.bundle import Bundle, sha256

OBSERVED_WINDOWS = 4096  # enough for the 99.999th percentile of a layer's units
OBSERVED_BATCH = 256


def keep_graph(
    bundle: Bundle, precision: str, ranges: Ranges | None, budget: Budget, force: bool = False
) -> Attachment:
    """Make a bundle's graph in fp16, int8 or fp8 and keep it, if poses move no further than the budget allows.

    int8 and fp8 need ranges; which of their methods is used is decided on one half of the reference set, and judged on
    the other. EdgeliftError with both figures where it is refused; force keeps it and says so in its sidecar.
    """
    model = onnx.load(bundle.onnx)
    told: dict[str, Any]
    judge = judge_of(bundle)
    if precision == "fp16":
        reduced = to_half(model)
        halves = [t.name for t in reduced.graph.initializer if t.data_type == TensorProto.FLOAT16]
        graph, told = reduced.SerializeToString(), {"half": halves}
        change = judge.change(graph)
    else:
        if ranges is None:
            raise EdgeliftError(
                f"--precision {precision}", "no --ranges", "ranges of activations on real keypoints",
                f"Run: edgelift calibrate ranges {bundle.path} SESSIONS -o DIR",
            )  # fmt: skip
        graph, told = _best(model, precision, ranges, budget, judge.half(odd=False))
        change = judge.half(odd=True).change(graph)
    forced = enforce(precision, change, budget, force)
    told |= {"kind": "graph", "flavour": "onnx", "precision": precision, "opset": opset(graph)}
    return attach(bundle, "graphs", f"{precision}.onnx", graph, told | facts(change, budget, forced))


def _best(
    model: ModelProto, precision: str, ranges: Ranges, budget: Budget, judge: Judge
) -> tuple[bytes, dict[str, Any]]:
    """Try every method of the ranges; return the graph that uses the least of the budget, and what the others did."""
    graphs = {m: to_quantised(model, r, precision).SerializeToString() for m, r in ranges.methods.items()}
    changes = {method: judge.change(graph) for method, graph in graphs.items()}
    chosen = min(changes, key=lambda method: budget.share(changes[method]))
    return graphs[chosen], {
        "ranges": {
            "method": chosen,
            "windows": ranges.windows,
            "tried": {method: asdict(change) for method, change in changes.items()},
        },
        "quantise_nodes": _pairs(graphs[chosen]),
    }


def _pairs(graph: bytes) -> int:
    return sum(n.op_type == "QuantizeLinear" for n in onnx.load_from_string(graph).graph.node)


def judge_of(bundle: Bundle) -> Judge:
    """Return the bundle's own held-out windows as a judge."""
    arrays = bundle.reference()
    return Judge.of(bundle.onnx.read_bytes(), arrays["keypoints"], arrays["intrinsics"], arrays["poses"])


def opset(graph: bytes) -> int:
    """Read back a graph's opset."""
    [version] = [o.version for o in onnx.load_from_string(graph).opset_import if o.domain in ("", "ai.onnx")]
    return int(version)


def calibrate(bundle: Bundle, sessions: Sequence[Session]) -> Ranges:
    """Observe the bundle's activations on windows of the sessions' views, evenly chosen."""
    model = onnx.load(bundle.onnx)
    tensors = activations(model)
    known = {o.name for o in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in known
    )
    keypoints, intrinsics = _windows(bundle, sessions)
    methods = observe(model.SerializeToString(), tensors, _batches(keypoints, intrinsics))
    return Ranges(sha256(bundle.onnx), len(keypoints), methods)


def _batches(keypoints: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    for i in range(0, len(keypoints), OBSERVED_BATCH):
        yield {"keypoints": keypoints[i : i + OBSERVED_BATCH], "intrinsics": intrinsics[i : i + OBSERVED_BATCH]}


def _windows(bundle: Bundle, sessions: Sequence[Session]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Up to OBSERVED_WINDOWS windows that show somebody, the same number of every view."""
    fed = bundle.input
    views = [(s.to_skeleton(fed.skeleton), view) for s in sessions for view in range(len(s.rig))]
    each = -(-OBSERVED_WINDOWS // max(1, len(views)))
    keypoints, intrinsics = [], []
    for session, view in views:
        windows = fed.windows(session, view)
        windows = windows[np.any(windows[:, -1, :, 2] > 0, axis=1)]
        chosen = (
            windows[np.unique(np.linspace(0, len(windows) - 1, each).round().astype(int))] if len(windows) else windows
        )
        camera = session.rig[view]
        keypoints.append(chosen)
        intrinsics.append(np.tile(fed.intrinsics(camera, camera.size), (len(chosen), 1)).astype(np.float32))
    if not sum(map(len, keypoints)):
        raise EdgeliftError(
            "sessions to calibrate on", "no view with a joint", "real keypoints", "Name other sessions."
        )
    return np.concatenate(keypoints), np.concatenate(intrinsics)
