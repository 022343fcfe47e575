"""Is there a lifter as accurate as the 1024-wide one at five times its speed on one CPU thread?

for W in 1024 896 512 384; do python benchmarks/accuracy/run.py M 0 noisy views_best --width $W --data ../shared/data \\
  --keep RUNS/w$W -o RUNS/w$W; done
python benchmarks/cpu/accuracy.py --data ../shared/data --runs RUNS -o benchmarks/results

Each width in FP32 and as the CPU's 8-bit file, scored by the runtime's backend on the test people of protocol M's first
fold and timed with batch 1, turn by turn, in this process. The interval of a ratio draws whole clips (bootstrap,
paired). `as_accurate_by`: the figures that say so, on the views that trained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from turns import Contestant, machine, take_turns, times_as_long, with_one_thread

sys.path.append(str(Path(__file__).parents[1] / "accuracy"))

from protocols import SEEN, Case, clip_of, sessions, weighted
from table import by_clip, compare

from edgelift.export.additions import Addition, add
from edgelift.poses.metrics import score
from edgelift.poses.sessions import Session
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.evaluate import backend_lift, lift_views
from edgelift.trainer.deploy import bundle_of

CASE = Case("M", 0, "noisy", "views_best")
WIDTHS = (1024, 896, 512, 384)
FIGURES = ("mpjpe_mm", "mixed_mpjpe_mm", "root_relative_mpjpe_mm")
ACCURATE, FAST = 1.01, 5.0

Row = dict[str, Any]


def scored(lifter: OnnxRuntimeCpu, bundle: Bundle, tests: list[Session]) -> list[Row]:
    """One row a session and view that shows the person: clip, view, frames, and their mean errors."""
    rows = []
    for session in tests:
        names = list(session.camera_names)
        for view in lift_views(backend_lift(lifter), session, bundle.input):
            if np.isfinite(view.predicted).any():
                scores = score(view.predicted, view.reference, bundle.skeleton).to_dict()
                kept = {key: scores[key] for key in ("frames", *FIGURES)}
                rows.append({"clip": clip_of(session), "view": names.index(view.camera), **kept})
    return rows


def compared(rows: list[Row], reference: list[Row]) -> Row:
    """Each figure's mean over frames in mm, and its ratio to the reference's with a 95 % interval."""
    found: Row = {}
    for figure in FIGURES:
        ratio, *interval = compare(by_clip(rows, figure, 0), by_clip(reference, figure, 0))
        found[figure] = {"mm": round(weighted(rows, figure), 2), "ratio": ratio, "interval": interval}
    return found


def bundles(runs: Path, folder: Path) -> dict[int, Bundle]:
    """Export every width, with the CPU's 8-bit file."""
    made = {width: bundle_of(runs / f"w{width}" / CASE.name, folder / f"w{width}") for width in WIDTHS}
    for bundle in made.values():
        add(bundle, Addition("cpu", "int8"))
    return made


def rows_of(made: dict[int, Bundle], tests: list[Session], rounds: int) -> list[Row]:
    """One row a width and precision; the first is the reference of all."""
    lifters = {
        f"{width} {precision}": (OnnxRuntimeCpu(bundle, precision=precision), bundle)
        for width, bundle in made.items()
        for precision in ("fp32", "int8")
    }
    contestants = [Contestant(name, lifter) for name, (lifter, _) in lifters.items()]
    arrays = made[WIDTHS[0]].reference()
    windows = arrays["keypoints"], arrays["intrinsics"]
    take_turns(contestants, *windows, rounds)
    scores = [scored(lifter, bundle, tests) for lifter, bundle in lifters.values()]
    rows = []
    for one, found in zip(contestants, scores, strict=True):
        seen = compared(_seen(found), _seen(scores[0]))
        faster = times_as_long(contestants[0], one)
        accurate = [figure for figure in FIGURES if seen[figure]["ratio"] <= ACCURATE]
        rows.append({
            "name": one.name, **one.figures(), "times_as_fast": faster,
            "fast": faster["ratio"] >= FAST, "as_accurate_by": accurate,
            "views 0-2": seen, "all views": compared(found, scores[0]),
        })  # fmt: skip
    return rows


def _seen(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["view"] in SEEN]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="RUNS of the command above")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with_one_thread()
    tests = sessions(options.data, CASE, testing=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(bundles(options.runs, Path(folder)), tests, options.rounds)
    for row in rows:
        print(json.dumps(row))
    result = {"case": vars(CASE), "rounds": options.rounds, "machine": machine(), "rows": rows}
    path = options.output / f"accuracy_and_latency_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
