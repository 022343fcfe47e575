"""Adaptation of the label-free frame lifter to one take: scored on that take, and on later takes of the same person.

python benchmarks/accuracy/run.py M 0 noisy views_best --data ../shared/data --keep runs -o results   # and exact; folds
python benchmarks/accuracy/adaptation.py --noise noisy --data ../shared/data --runs runs -o benchmarks/results
python benchmarks/accuracy/adaptation.py --noise exact --folds 0 --data ../shared/data --runs runs -o benchmarks/results

Test people of protocol M with more than 70 s: the take is their first clips up to 60 s, later clips are later takes.
`as reported`: exact keypoints, no virtual views, nothing held out, scored on the take itself. `later take`: noisy
keypoints, the last camera of the take held out to say when to stop; all cameras with the default steps; and for longer,
with more virtual views, while the person also makes the movements of half of the base's training sessions.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocols import FOLDS, SEEN, Case, clip_of, sessions, training_sessions

from edgelift.poses.metrics import mixed_mpjpe, root_relative_mpjpe
from edgelift.poses.sessions import Session
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.adapt import AdaptSettings, adapt
from edgelift.trainer.checkpoint import Checkpoint, load_checkpoint
from edgelift.trainer.models import Lifter
from edgelift.trainer.validation import module_lift

TAKE_S, LEAST_S = 60.0, 70.0
DRAWS = 10_000
KINDS = {
    "as reported": (
        "exact",
        AdaptSettings(steps=10000, batch=64, learning_rate=1e-3, virtual_views=0, held_out_views=0, anchor=0),
    ),
    "later take, all views": ("noisy", AdaptSettings(held_out_views=0)),
    "later take, one view held out": ("noisy", AdaptSettings()),
    "later take, all views, rehearsed": (
        "noisy",
        AdaptSettings(steps=2000, learning_rate=1e-3, virtual_views=0.9, held_out_views=0, anchor=0),
    ),
}
REHEARSED = 2  # one in so many of the base's training sessions
MM = ("mixed_mpjpe_mm", "root_relative_mpjpe_mm", "root_error_mm")


def takes(tests: list[Session]) -> dict[str, tuple[list[Session], list[Session]]]:
    """For every person with enough clips: the sessions of the take and of the later takes."""
    found = {}
    for person in sorted({body(s) for s in tests}):
        own = [s for s in tests if body(s) == person]
        if sum(_seconds(s) for s in own) < LEAST_S:
            continue
        take: list[str] = []
        for clip in dict.fromkeys(clip_of(s) for s in own):
            if sum(_seconds(s) for s in own if clip_of(s) in take) < TAKE_S:
                take.append(clip)
        later = [s for s in own if clip_of(s) not in take]
        if later:
            first = [s for s in own if clip_of(s) in take]
            while sum(map(_seconds, first)) > TAKE_S:
                first.pop()
            found[person] = first, later
    return found


def body(session: Session) -> str:
    """Whose body a session shows: conversions of one subject's clips differ, 05 has thighs of 37 and of 48 cm."""
    assert session.poses is not None
    knee = session.skeleton.joints.index("left_knee")
    thigh = session.poses[:, knee] - session.poses[:, session.skeleton.parents[knee]]
    return f"{session.subject}, thigh {100 * np.median(np.linalg.norm(thigh, axis=-1)):.0f} cm"


def _seconds(session: Session) -> float:
    return float(session.timestamps[-1] - session.timestamps[0])


def figures(model: Lifter, base: Checkpoint, tests: list[Session]) -> dict[str, Any]:
    """Errors of a lifter on every seen view, and session by session for the intervals."""
    scores = evaluate(module_lift(model), tests, base.settings.input)
    return {key: round(scores[key], 2) for key in MM} | {
        "clips": [
            [clip_of(s), len(s.timestamps), evaluate(module_lift(model), [s], base.settings.input)[MM[0]]]
            for s in tests
        ]
    }


def triangulated(tests: list[Session]) -> dict[str, float]:
    """The take's own triangulation from all seen views against its truth, joints that two views know."""
    pairs = [(s.triangulate()[0], s.poses) for s in tests if s.poses is not None]
    points, truth = (np.concatenate(side) for side in zip(*pairs, strict=True))
    root = tests[0].skeleton.root
    return {
        MM[0]: round(mixed_mpjpe(points, truth, root), 2),
        MM[1]: round(root_relative_mpjpe(points, truth, root), 2),
    }


def summary(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All people of a kind together: after / before on the take and on later takes, intervals by clip."""
    figure: dict[str, Any] = {"kind": kind, "people": len(rows), "seconds": max(row["seconds"] for row in rows)}
    for where in ("take", "later"):
        before, after = ([_clips(row, f"{when}, {where}") for row in rows] for when in ("before", "after"))
        sums = np.array([np.concatenate(side) for side in (before, after)])  # (when, clips, error sum and frames)
        draws = np.random.default_rng(0).integers(sums.shape[1], size=(DRAWS, sums.shape[1]))
        (b, n), (a, _) = sums.sum(1)
        drawn = sums[:, draws, 0].sum(-1)
        figure[where] = {
            "before_mm": round(b / n, 2), "after_mm": round(a / n, 2), "ratio": round(a / b, 3),
            "interval": [round(float(q), 3) for q in np.quantile(drawn[1] / drawn[0], (0.025, 0.975))],
        }  # fmt: skip
    weights = [_clips(row, "after, take")[:, 1].sum() for row in rows]
    triangulation = np.average([row["triangulation"][MM[0]] for row in rows], weights=weights)
    return figure | {"triangulation_mm": round(float(triangulation), 2)}


def _clips(row: dict[str, Any], key: str) -> np.ndarray:
    """(clips, 2): error times frames, and frames."""
    sums: dict[str, np.ndarray] = {}
    for clip, frames, error in row[key]["clips"]:
        sums[clip] = np.add(sums.get(clip, np.zeros(2)), (error * frames, frames))
    return np.array(list(sums.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="what run.py kept: M0_noisy_views_best, ...")
    parser.add_argument("--folds", default="0,1,2")
    parser.add_argument("--noise", choices=("exact", "noisy"), required=True, help="exact: as reported")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    chosen = {kind: settings for kind, (noise, settings) in KINDS.items() if noise == options.noise}
    rows = []
    for fold in map(int, options.folds.split(",")):
        assert fold < len(FOLDS)
        for kind, settings in chosen.items():
            case = Case("M", fold, options.noise, "views_best")
            base = load_checkpoint(options.runs / case.name)
            tests = [s.only(SEEN) for s in sessions(options.data, case, testing=True)]
            rehearse = training_sessions(options.data, case)[::REHEARSED] if "rehearsed" in kind else []
            for person, (take, later) in takes(tests).items():
                started = time.perf_counter()
                adapted = adapt(base, take, settings, rehearse=rehearse)
                rows.append({
                    "kind": kind, "fold": fold, "person": person, "take_s": round(sum(map(_seconds, take)), 1),
                    "seconds": round(time.perf_counter() - started, 1), "best_step": adapted.best_step,
                    "threads": torch.get_num_threads(), "triangulation": triangulated(take),
                    "before, take": figures(base.model(), base, take),
                    "after, take": figures(adapted.model, base, take),
                    "before, later": figures(base.model(), base, later),
                    "after, later": figures(adapted.model, base, later),
                })  # fmt: skip
                print({k: v if not isinstance(v, dict) else v.get(MM[0]) for k, v in rows[-1].items()}, flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"adaptation_{options.noise}_cpu_{date.today()}.json"
    table = [summary(kind, [row for row in rows if row["kind"] == kind]) for kind in chosen]
    for line in table:
        print(json.dumps(line))
    path.write_text(json.dumps({"summary": table, "rows": rows}) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
