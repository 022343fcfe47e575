"""Reduced graphs of a bundle: made, judged in millimetres, kept in `graphs/` or refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgelift.calibration.ranges import Ranges, observe
from edgelift.export.judge import Judge
from edgelift.export.precision import activations, layers, to_half, to_quantised
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.runtime.attachments import Attachment, attach
from edgelift.runtime.budget import Budget, Change, enforce, facts
from edgelift.runtime.bundle import Bundle, sha256

OBSERVED_WINDOWS = 4096  # enough for the 99.999th percentile of a layer's units
OBSERVED_BATCH = 256
# how far a search goes into the budget: of 9,000 windows of other people the worst joint moved up to twice as far as of
# the 500 that chose, the 99th percentile a tenth farther
USED_P99, USED_WORST = 0.9, 0.5


def keep_graph(
    bundle: Bundle, precision: str, ranges: Ranges | None, budget: Budget, force: bool = False
) -> Attachment:
    """Make a bundle's graph in fp16, int8 or fp8 and keep it, if poses move no further than the budget allows.

    int8 and fp8 need ranges; which of their methods is used, and which layers are better spared, is decided by
    millimetres on the reference set. EdgeliftError with both figures where a graph is refused; force keeps it and says
    so in its sidecar.
    """
    if precision != "fp16" and ranges is None:
        raise EdgeliftError(
            f"--precision {precision}", "no --ranges", "ranges of activations on real keypoints",
            f"Run: edgelift calibrate ranges {bundle.path} SESSIONS -o DIR",
        )  # fmt: skip
    search = _Search(onnx.load(bundle.onnx), precision, ranges, budget, judge_of(bundle))
    reduced, told = search.found()
    graph = reduced.SerializeToString()
    change = search.judge.change(graph)
    forced = enforce(precision, change, budget, force)
    told |= {"kind": "graph", "flavour": "onnx", "precision": precision, "opset": opset(graph)}
    return attach(bundle, "graphs", f"{precision}.onnx", graph, told | facts(change, budget, forced))


CAST = "cast"  # fp16's only method


@dataclass(frozen=True, eq=False)
class _Search:
    """Looks for the reduced graph that moves poses least, and reduces all that the budget allows."""

    model: ModelProto
    precision: str
    ranges: Ranges | None
    budget: Budget
    judge: Judge

    def found(self) -> tuple[ModelProto, dict[str, Any]]:
        """Choose a method; spare the most harmful layers until there is room, or half of them are spared."""
        methods = [CAST] if self.ranges is None or self.precision == "fp16" else list(self.ranges.methods)
        tried = {method: self.change(self.graph(method)) for method in methods}
        method = min(tried, key=lambda m: self.share(tried[m]))
        spared: list[str] = []
        graph = self.graph(method)
        if self.share(tried[method]) > 1:
            for layer in self.by_harm(method)[: len(layers(self.model)) // 2]:
                spared.append(layer)
                graph = self.graph(method, spared)
                if self.share(self.change(graph)) <= 1:
                    break
        return graph, {"spared": spared} | self.told(graph, method, tried)

    def told(self, graph: ModelProto, method: str, tried: dict[str, Change]) -> dict[str, Any]:
        """Return what the sidecar says of how the graph was made."""
        if method == CAST:
            return {"half": [t.name for t in graph.graph.initializer if t.data_type == TensorProto.FLOAT16]}
        assert self.ranges is not None
        figures = {name: asdict(change) for name, change in tried.items()}
        pairs = sum(n.op_type == "QuantizeLinear" for n in graph.graph.node)
        ranges = {"method": method, "windows": self.ranges.windows, "tried": figures}
        return {"ranges": ranges, "quantise_nodes": pairs}

    def change(self, graph: ModelProto) -> Change:
        """Measure a graph on the reference set."""
        return self.judge.change(graph.SerializeToString())

    def share(self, change: Change) -> float:
        """Return the largest share of what a search may use."""
        b = self.budget
        return replace(b, p99_mm=USED_P99 * b.p99_mm, worst_mm=USED_WORST * b.worst_mm).share(change)

    def graph(self, method: str, spared: Collection[str] = ()) -> ModelProto:
        """Reduce all layers but the spared ones."""
        if method == CAST:
            return to_half(self.model, spared)
        assert self.ranges is not None
        return to_quantised(self.model, self.ranges.methods[method], self.precision, spared)

    def by_harm(self, method: str) -> list[str]:
        """Order layers by what each does when it alone is reduced, the most harmful first."""
        every = set(layers(self.model))
        harm = {name: self.share(self.change(self.graph(method, every - {name}))) for name in every}
        return sorted(every, key=lambda name: -harm[name])


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
