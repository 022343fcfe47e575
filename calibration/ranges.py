"""Ranges of activations on real keypoints, for graphs that compute in 8 bits: several ways to choose them.

Which way is best depends on the lifter and is decided by millimetres on held-out input (`export.reduced`), not here.
Histograms and thresholds are ONNX Runtime's own (`onnxruntime.quantization.calibrate`; entropy after Migacz 2017).
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.files import replaced

RANGES = "ranges.json"
PERCENTILES = (99.9, 99.99, 99.999)
HEADROOM = (1.0, 1.25, 1.5)  # over the largest value seen: the next person may be a little farther out
BINS, LEVELS = 2048, 128  # of a histogram; of an int8's magnitude
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Ranges:
    """What a graph's tensors held: methods["max_1.25"]["relu_1"] = (lowest, highest) to keep.

    graph_sha256: of the graph that was observed, over so many windows.
    """

    graph_sha256: str
    windows: int
    methods: dict[str, dict[str, tuple[float, float]]]

    def save(self, folder: Path) -> Path:
        """Write `ranges.json` into a folder."""
        path = folder / RANGES
        with replaced(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path, graph_sha256: str) -> Ranges:
        """Read a folder's ranges; EdgeliftError where there are none, or another graph's."""
        path = folder / RANGES
        remedy = "Make them for this bundle: edgelift calibrate ranges BUNDLE SESSIONS -o DIR"
        if not path.is_file():
            raise EdgeliftError(f"--ranges {folder}", f"no {RANGES}", "a folder of `edgelift calibrate ranges`", remedy)
        try:
            ranges = cls(**json.loads(path.read_text()))
            spans = [high - low for method in ranges.methods.values() for low, high in method.values()]
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError, AttributeError) as error:
            raise EdgeliftError(str(path), f"unreadable ranges ({error})", "ranges", remedy) from error
        if not spans or not np.isfinite(spans).all() or min(spans) <= 0:
            raise EdgeliftError(str(path), "ranges without an extent", "lowest and highest values", remedy)
        if ranges.graph_sha256 != graph_sha256:
            raise EdgeliftError(str(path), "ranges of another lifter", "those of this graph", remedy)
        return ranges


def observe(graph: bytes, tensors: list[str], batches: Iterable[Arrays]) -> dict[str, dict[str, tuple[float, float]]]:
    """Run a graph that gives `tensors` as outputs over named input arrays; ranges by method and tensor."""
    try:
        import onnxruntime
        from onnxruntime.quantization.calibrate import HistogramCollector
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "onnxruntime", "train") from error
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    collectors = {
        f"percentile_{p}": HistogramCollector("percentile", True, BINS, LEVELS, p, "same") for p in PERCENTILES
    }
    collectors["entropy"] = HistogramCollector("entropy", True, BINS, LEVELS, 100.0, "same")
    extent = {name: (np.inf, -np.inf) for name in tensors}
    with contextlib.redirect_stdout(io.StringIO()):  # they print, and standard output belongs to --json
        for batch in batches:
            seen = dict(zip(tensors, session.run(tensors, dict(batch)), strict=True))
            extent = {n: (min(low, seen[n].min()), max(high, seen[n].max())) for n, (low, high) in extent.items()}
            for collector in collectors.values():
                collector.collect(seen)
        found = {name: _magnitudes(collector) for name, collector in collectors.items()}
    wider = {f"max_{h}": {n: (float(h * low), float(h * high)) for n, (low, high) in extent.items()} for h in HEADROOM}
    return wider | {method: _cut(extent, magnitudes) for method, magnitudes in found.items()}


def _cut(extent: dict[str, tuple[float, float]], magnitudes: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Cut what was seen at a magnitude on either side."""
    return {n: (float(max(low, -magnitudes[n])), float(min(high, magnitudes[n]))) for n, (low, high) in extent.items()}


def _magnitudes(collector: Any) -> dict[str, float]:
    results = collector.compute_collection_result()
    return {tensor: float(max(abs(low), abs(high))) for tensor, (low, high, *_) in results.items()}
