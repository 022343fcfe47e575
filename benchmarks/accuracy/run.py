"""Train one recipe on one protocol and score it clip by clip; tables.py reads what it writes.

python benchmarks/accuracy/run.py M 0 noisy views_best --data ../shared/data -o benchmarks/results/accuracy
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocols import FOLDS, RECIPES, Case, clip_of, clips, sessions, studio, through, training_sessions

from edgelift.poses.metrics import score
from edgelift.poses.sessions import Session
from edgelift.runtime.evaluate import Lift, lift_views
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.fit import train
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.validation import module_lift

KEYS = ("mixed_mpjpe_mm", "mpjpe_mm", "root_relative_mpjpe_mm", "p_mpjpe_mm", "root_error_mm", "velocity_error_mm")


def rows_of(lift: Lift, tests: list[Session], settings: TrainSettings, rig: str) -> Iterator[dict[str, Any]]:
    """One row a session and camera: frames that show the person, and their mean errors."""
    for session in tests:
        for view in lift_views(lift, session, settings.input):
            if not np.isfinite(view.predicted).any():
                continue  # out of this camera's sight
            scores = score(view.predicted, view.reference, settings.input.skeleton).to_dict()
            yield {
                "rig": rig, "camera": view.camera, "clip": clip_of(session), "session": session.name,
                "action": session.action, "frames": scores["frames"], **{key: round(scores[key], 3) for key in KEYS},
            }  # fmt: skip


def run(data: Path, case: Case, settings: TrainSettings, keep: Path | None, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep / case.name if keep else Path(scratch)
        training = training_sessions(data, case)
        result = train(
            training, folder, settings, progress=lambda e, n, row: print(case.name, n, row, flush=True), device=device
        )
        lift = module_lift(load_checkpoint(folder).model())
    rows = list(rows_of(lift, sessions(data, case, testing=True), settings, "own"))
    if case.protocol == "M":
        # 3 px in its smaller images are about the angle of 5 px in those of Human3.6M
        noise = studio(Case("H", 0, case.noise, case.recipe), testing=True)
        other = through(data, "humaneva_S1", clips(data, case, testing=True), noise)
        rows += rows_of(lift, other, settings, "humaneva_S1")
    return {
        "case": vars(case), "settings": settings.to_dict(), "training": result.to_dict() | {"checkpoint": None},
        "machine": {"device": device, "processor": platform.processor() or platform.machine(),
                    "threads": torch.get_num_threads(), "cores": os.cpu_count(),
                    "torch": torch.__version__, "date": str(date.today())},
        "rows": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=("M", "H"))
    parser.add_argument("fold", type=int, choices=range(len(FOLDS)))
    parser.add_argument("noise", choices=("exact", "noisy", "independent"))
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--keep", type=Path, help="keep the run, and go on from it, in this folder")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    case = Case(options.protocol, options.fold, options.noise, options.recipe)
    result = run(options.data, case, case.settings(options.width, options.epochs), options.keep, options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{case.name}.json"
    path.write_text(json.dumps(result) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
