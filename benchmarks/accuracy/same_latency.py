"""How wide a frame lifter is when it takes as long as a sequence lifter: one thread, one person, ONNX Runtime, p50.

python benchmarks/accuracy/same_latency.py --recipe views_tcn27 -o benchmarks/results

Latency does not depend on what was learnt, so the weights are random. All are timed in turn, in one process; the widest
frame lifter that is not slower than the sequence lifter is the one to compare with (`views_same_latency`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
from protocols import RECIPES, Case

from edgelift.export.onnx_graph import export_onnx
from edgelift.trainer.models import build_model
from edgelift.trainer.settings import TrainSettings

WIDTHS = range(512, 2049, 128)


@dataclass
class Timed:
    """One graph, its input, and how long each run of it took."""

    width: int
    session: onnxruntime.InferenceSession
    feed: dict[str, np.ndarray]
    ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        started = time.perf_counter_ns()
        self.session.run(None, self.feed)
        self.ms.append((time.perf_counter_ns() - started) / 1e6)

    @property
    def p50_ms(self) -> float:
        return float(np.median(self.ms))


def timed(settings: TrainSettings, folder: Path) -> Timed:
    joints = len(settings.input.skeleton.joints)
    path = folder / "graph.onnx"
    export_onnx(build_model(settings).eval(), settings.frames, joints, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    keypoints = np.random.default_rng(0).uniform(0, 1000, (1, settings.frames, joints, 3)).astype(np.float32)
    values = (keypoints, np.array([[1145, 1145, 512, 512]], np.float32))
    names = [given.name for given in session.get_inputs()]
    return Timed(settings.width, session, dict(zip(names, values, strict=True)))


def interleaved(models: Sequence[Timed], rounds: int) -> None:
    for _ in range(rounds):
        for model in models:
            for _ in range(3):  # the first two fetch its weights into the cache again
                model.run()
            model.ms[-3:] = model.ms[-1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="views_tcn27")
    parser.add_argument("--width", type=int, default=512, help="of the sequence lifter")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    sequence = Case("H", 0, "noisy", options.recipe).settings(options.width, 1)
    frame = Case("H", 0, "noisy", "views_best")
    with tempfile.TemporaryDirectory() as folder:
        models = [timed(sequence, Path(folder)), *(timed(frame.settings(w, 1), Path(folder)) for w in WIDTHS)]
    interleaved(models, options.rounds)
    found = {
        "sequence": {"recipe": options.recipe, "width": options.width, "p50_ms": round(models[0].p50_ms, 4)},
        "frame": [{"width": m.width, "p50_ms": round(m.p50_ms, 4)} for m in models[1:]],
        "same": max((m.width for m in models[1:] if m.p50_ms <= models[0].p50_ms), default=None),
    }
    print(json.dumps(found, indent=1))
    path = options.output / f"same_latency_cpu_{date.today()}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
