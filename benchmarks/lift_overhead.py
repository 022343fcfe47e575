"""One-frame latency of the live loop beside bare `session.run`, interleaved in one run.

python benchmarks/lift_overhead.py --bundle BUNDLE --session SESSION --camera NAME -o benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path

import numpy as np

from edgelift.poses.skeletons import convert
from edgelift.poses.windows import LifterInput
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.bundle import load_bundle
from edgelift.runtime.lift import lift_stream, percentiles
from edgelift.runtime.sinks.jsonl import JsonLines
from edgelift.runtime.sources.replay import Replay


def bare(backend: OnnxRuntimeCpu, source: Replay, fed: LifterInput) -> list[float]:
    """ms of session.run alone, on the windows the loop would make."""
    taken = []
    intrinsics = fed.intrinsics(source.camera, source.size)[None]
    for keypoints in source.keypoints:
        window = fed.pixels(convert(keypoints, source.skeleton, fed.skeleton), source.camera)[None, None]
        feed = dict(zip(backend.inputs, (window, intrinsics), strict=True))
        started = time.perf_counter_ns()
        backend.session.run(None, feed)
        taken.append((time.perf_counter_ns() - started) / 1e6)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--session", type=Path, required=True)
    parser.add_argument("--camera")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    loop: list[float] = []
    alone: list[float] = []
    with OnnxRuntimeCpu(bundle) as backend:
        for _ in range(options.rounds):
            source = Replay(options.session, options.camera, fast=True)
            alone += bare(backend, source, bundle.input)
            with JsonLines(str(options.output / ".lift.jsonl")) as sink:
                loop += lift_stream(bundle, backend, source, sink.write).latency_ms
    (options.output / ".lift.jsonl").unlink()
    quantiles = {
        k: round(float(np.percentile(loop, q) / np.percentile(alone, q)), 2) for k, q in (("p50", 50), ("p90", 90))
    }
    result = {"loop_ms": percentiles(loop), "session_run_ms": percentiles(alone), "ratio": quantiles}
    path = options.output / f"lift_overhead_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
