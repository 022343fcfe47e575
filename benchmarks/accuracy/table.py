"""The table of ratios, from the results of run.py; --train first trains what is missing.

cd benchmarks/accuracy
python table.py --results ../results/accuracy -o ../results
python table.py --results ../results/accuracy -o ../results --train ../../../shared/data --jobs 2

A ratio compares two recipes on the same test clips of all folds; its 95 % interval draws whole clips (bootstrap,
paired). A row is reached when the interval's upper end is at most the target + 0.02.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from protocols import FOLDS, Case

DRAWS = 10_000
SLACK = 0.02
MIXED, RELATIVE = "mixed_mpjpe_mm", "root_relative_mpjpe_mm"
BESIDE = (MIXED, RELATIVE, "p_mpjpe_mm", "root_error_mm", "velocity_error_mm")
BEST_SHORT = "views_best_short"
Clips = dict[tuple[int, str], tuple[float, int]]  # by fold and clip: a figure's sum over frames, and the frames
OWN, UNSEEN, OTHER = "cameras 0-2", "camera 3", "humaneva_S1"


@dataclass(frozen=True)
class Row:
    """One ratio: recipe / against, by a figure, and the views on which each side is scored."""

    number: str
    what: str
    protocol: str
    noise: str
    recipe: str
    against: str
    target: float | None  # None: beside another row, for comparison
    figure: str = MIXED
    scored: str = OWN
    folds: tuple[int, ...] = tuple(range(len(FOLDS)))  # of M


def unseen(number: str, recipe: str) -> tuple[Row, Row]:
    """Cameras that never trained / those that did, root-relative."""
    what = "unseen / seen camera"
    camera_3 = Row(f"{number}, camera 3", what, "M", "noisy", recipe, recipe, 1.15, RELATIVE, UNSEEN)
    return camera_3, replace(camera_3, number=f"{number}, other rig", scored=OTHER)


ROWS = (
    Row("1", "label-free / labelled, plain", "M", "exact", "views_plain", "labels_plain", 1.00),
    Row("2", "label-free / labelled, plain", "M", "noisy", "views_plain", "labels_plain", 1.03),
    Row("3", "both with the better method", "M", "noisy", "views_best", "labels_best", 1.03),
    Row("4", "best label-free / plain labelled", "M", "noisy", "views_best", "labels_plain", 0.85),
    *(
        Row(f"4, {name}", "folds 0 and 2", "M", "noisy", recipe, against, None, folds=(0, 2))
        for name, recipe, against in (
            ("40 epochs", "views_best", "labels_plain"),
            ("80 epochs", "views_best_long", "labels_plain_long"),
            ("plain, 80 / 40", "labels_plain_long", "labels_plain"),
            ("best, 80 / 40", "views_best_long", "views_best"),
        )
    ),
    Row("5", "screen input", "M", "noisy", "views_screen", "labels_screen", 1.03, RELATIVE),
    *unseen("6", "views_best"),
    *unseen("6, cameras varied", "views_other_cameras"),
    *unseen("6, cameras varied by 2", "views_far_cameras"),
    Row("7, H", "27 frames / frame", "H", "noisy", "views_tcn27", "views_best", 0.75),
    *(
        Row(f"7, H, {model}, 20 epochs", "sequence / frame", "H", "noisy", f"views_{model}_short", BEST_SHORT, 0.75)
        for model in ("tcn27", "tcn81", "transformer27")
    ),
    Row("7, H, independent noise", "27 frames / frame", "H", "independent", "views_tcn27_short", BEST_SHORT, None),
    Row("7, H, exact", "27 frames / frame", "H", "exact", "views_tcn27", "views_best", 0.90),
    Row("7, M", "27 frames / frame", "M", "noisy", "views_tcn27", "views_best", 0.85, folds=(0,)),
    Row("8, H", "27 frames / frame as slow", "H", "noisy", "views_tcn27", "views_same_latency", 0.85),
    Row("12, not learnt", "wrong rig / true rig", "M", "noisy", "views_wrong_rig", "views_plain", None, folds=(0,)),
    Row("12", "wrong rig, learnt / true rig", "M", "noisy", "views_learnt_rig", "views_plain", 1.05),
)


def cases(row: Row) -> list[tuple[Case, Case]]:
    """Both sides of every fold."""
    folds = row.folds if row.protocol == "M" else (0,)
    return [
        (Case(row.protocol, f, row.noise, row.recipe), Case(row.protocol, f, row.noise, row.against)) for f in folds
    ]


def read(results: Path, case: Case) -> list[dict[str, Any]] | None:
    path = results / f"{case.name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else None


def scored(rows: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Rows of a test's seen cameras, its unseen one, or the other rig."""
    if where == OTHER:
        return [row for row in rows if row["rig"] == OTHER]
    own = [row for row in rows if row["rig"] == "own"]
    cameras = sorted({row["camera"] for row in own})
    unseen = cameras[3:]
    return [row for row in own if (row["camera"] in unseen) == (where == UNSEEN)]


def by_clip(rows: list[dict[str, Any]], figure: str, fold: int) -> Clips:
    """Sum of a figure over frames, and the frames, of every clip."""
    sums: Clips = {}
    for row in rows:
        total, frames = sums.get((fold, row["clip"]), (0.0, 0))
        sums[fold, row["clip"]] = total + row[figure] * row["frames"], frames + row["frames"]
    return sums


def compare(one: Clips, other: Clips) -> tuple[float, float, float]:
    """Ratio of two means over the clips that both have, and its 95 % interval, which draws clips."""
    clips = sorted(set(one) & set(other))
    sums = np.array([[side[clip] for clip in clips] for side in (one, other)])  # (sides, clips, sum and frames)
    draws = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
    drawn = sums[:, draws].sum(2)
    spread = (drawn[0, :, 0] / drawn[0, :, 1]) / (drawn[1, :, 0] / drawn[1, :, 1])
    low, high = np.quantile(spread, (0.025, 0.975))
    means = sums.sum(1)
    mean = means[0, 0] / means[0, 1] / (means[1, 0] / means[1, 1])
    return round(float(mean), 4), round(float(low), 4), round(float(high), 4)


def ratio(row: Row, results: Path) -> dict[str, Any] | None:
    """The row's figures, None while a result of it is missing."""
    sides: list[Clips] = [{}, {}]
    beside: list[dict[str, list[tuple[float, int]]]] = [{k: [] for k in BESIDE} for _ in sides]
    for fold, pair in enumerate(cases(row)):
        for side, case, where in zip((0, 1), pair, (row.scored, OWN), strict=True):
            rows = read(results, case)
            if rows is None:
                return None
            sides[side] |= by_clip(scored(rows, where), row.figure, fold)
            for key in BESIDE:
                beside[side][key] += by_clip(scored(rows, where), key, fold).values()
    mean, low, high = compare(*sides)
    return {
        "row": row.number, "what": row.what, "protocol": row.protocol, "noise": row.noise, "figure": row.figure,
        "recipe": row.recipe, "against": row.against, "scored": row.scored, "clips": len(set(sides[0]) & set(sides[1])),
        "ratio": mean, "interval": [low, high], "target": row.target,
        "reached": None if row.target is None else bool(high <= row.target + SLACK),
        "mm": [{k: round(sum(s for s, _ in v) / sum(n for _, n in v), 2) for k, v in b.items()} for b in beside],
    }  # fmt: skip


def train(case: Case, data: Path, results: Path, jobs: int) -> None:
    """Run run.py in a process of its own, with its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    run = Path(__file__).with_name("run.py")
    words = [case.protocol, str(case.fold), case.noise, case.recipe, "--data", str(data), "-o", str(results)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, str(run), *words], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="only these, comma-separated: 1,2,7 H")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="train what is missing, with this data")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    wanted = [r for r in ROWS if not options.rows or any(r.number.startswith(w) for w in options.rows.split(","))]
    if options.train:
        needed = {case for row in wanted for pair in cases(row) for case in pair}
        missing = sorted((c for c in needed if read(options.results, c) is None), key=lambda c: c.name)
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda c: train(c, options.train, options.results, options.jobs), missing))
    table = [found for row in wanted if (found := ratio(row, options.results)) is not None]
    for row in table:
        low, high = row["interval"]
        aim = f"target {row['target']:.2f} {'' if row['reached'] else 'not '}reached" if row["target"] else ""
        print(f"{row['row']:28} {row['ratio']:.3f} [{low:.3f}, {high:.3f}] {aim}  {row['mm'][0][row['figure']]:.1f} / "
              f"{row['mm'][1][row['figure']]:.1f} mm  {row['what']}, {row['protocol']}, {row['noise']}")  # fmt: skip
    path = options.output / f"accuracy_table_cpu_{date.today()}.json"
    path.write_text(json.dumps(table, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
