"""What a refresh gains on later takes of a person, and what it takes: `edgelift adapt` as a user runs it, four people.

python benchmarks/refresh/bases.py --data ../shared/data --runs runs/refresh
python benchmarks/refresh/gain.py --data ../shared/data --runs runs/refresh -o benchmarks/results

Each person's first takes are adapted to by the base that does not know them; later takes are lifted from single views
by the base and by what was published (the base again, where nothing was), and scored against the truth. For 135, whose
first takes are two minutes at 30 Hz before four cameras, a running loop follows the registry meanwhile: seconds count
from the start of the command to the first frame that the new version lifted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from takes import PEOPLE, RECORDED_HZ, recorded

from edgelift.poses.metrics import mixed_errors
from edgelift.poses.sessions import Session, save_session
from edgelift.runtime.backends import open_backend
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.counts import Live
from edgelift.runtime.evaluate import backend_lift, evaluate, lift_views
from edgelift.runtime.registries import LocalRegistry
from edgelift.runtime.start import LiftSettings, lift
from edgelift.runtime.swap import SwapSettings

LONG = "135"  # two minutes of first takes
BLOCK_S, DRAWS = 1.0, 5000
MM = ("mixed_mpjpe_mm", "mpjpe_mm", "root_relative_mpjpe_mm", "root_error_mm")
SHADOW_S = 3.0


def person_row(person: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Adapt to one person's first takes and score on the later ones."""
    takes = recorded(options.data, person)
    for session in takes.first:
        save_session(session, folder / "first" / f"{session.name}.npz")
    registry = folder / "registry"
    command = [sys.executable, "-m", "edgelift.cli", "adapt", str(options.runs / f"{person}.bundle")]
    command += [str(folder / "first"), "-o", str(registry), "--budget", options.budget, "--json"]
    command += ["--device", options.device]
    base = load_bundle(options.runs / f"{person}.bundle")
    follower = Following(registry, takes.later, folder, base) if person == LONG else None
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    told = json.loads(done.stdout)
    row = {"person": person, "command_s": round(seconds, 2), "refresh": told}
    row["first_s"], row["later_s"] = (round(sum(map(_seconds, side)), 1) for side in (takes.first, takes.later))
    if follower is not None:
        row |= follower.end(started)
    return row | scored(base, LocalRegistry(registry).load(), takes.later)


def scored(base: Bundle, now: Bundle, later: list[Session]) -> dict[str, Any]:
    """Errors of both on every single view of the later takes, and the ratio's interval over blocks of a second."""
    row: dict[str, Any] = {"published": base.manifest["seal"] != now.manifest["seal"]}
    sums = []
    for name, bundle in (("before", base), ("after", now)):
        with open_backend(bundle, "cpu", threads=2) as backend:
            run = backend_lift(backend)
            row[name] = {key: round(value, 2) for key, value in evaluate(run, later, bundle.input).items() if key in MM}
            sums.append(np.concatenate([block_sums(run, session, bundle) for session in later]))
    before, after = sums
    draws = np.random.default_rng(0).integers(len(before), size=(DRAWS, len(before)))
    drawn = after[draws, 0].sum(1) / before[draws, 0].sum(1)
    row["ratio"] = round(float(after[:, 0].sum() / before[:, 0].sum()), 3)
    row["interval"] = [round(float(q), 3) for q in np.quantile(drawn, (0.025, 0.975))]
    return row


def block_sums(run: Any, session: Session, bundle: Bundle) -> np.ndarray:
    """(blocks, 2): sum of the mixed errors of all views in each second, and their number."""
    block = ((session.timestamps - session.timestamps[0]) / BLOCK_S).astype(int)
    out = np.zeros((block[-1] + 1, 2))
    for part in lift_views(run, session, bundle.input):
        errors = mixed_errors(part.predicted.astype(np.float64), part.reference, bundle.skeleton.root)
        known = np.isfinite(errors)
        np.add.at(out, block, np.stack([np.where(known, errors, 0).sum(1), known.sum(1)], 1))
    return out


class Following:
    """A loop that lifts one view of the person's later takes as it was recorded, and follows the registry."""

    def __init__(self, registry: Path, later: list[Session], folder: Path, base: Bundle) -> None:
        LocalRegistry(registry).create(base)
        self.live, self.stopping, take = Live(), threading.Event(), folder / "live.npz"
        save_session(on_and_on(later), take)
        settings = LiftSettings(
            bundle=registry, sources=(str(take),), sinks=(str(folder / "poses.jsonl"),),
            camera=later[0].camera_names[:1], follow=True, swap=SwapSettings(SHADOW_S),
        )  # fmt: skip
        self.thread = threading.Thread(target=lift, args=(settings, self.stopping.is_set, self.live))
        self.thread.start()

    def end(self, started: float) -> dict[str, Any]:
        """Wait for the swap; say how long after the command's start it came."""
        while not self.live.counts.swaps and time.perf_counter() - started < 180:
            time.sleep(0.005)
        swapped = time.perf_counter() - started
        self.stopping.set()
        self.thread.join()
        counts = self.live.counts
        return {"swapped_s": round(swapped, 2), "shadow_s": SHADOW_S, "swaps": counts.swaps, "lifted": counts.lifted}


def on_and_on(takes: list[Session]) -> Session:
    """One session of several takes, one after the other, three times over."""
    keypoints = np.concatenate([take.keypoints for take in takes] * 3, 1)
    times = np.arange(keypoints.shape[1]) / RECORDED_HZ
    return replace(takes[0], keypoints=keypoints, timestamps=times, poses=None)


def _seconds(session: Session) -> float:
    return float(session.timestamps[-1] - session.timestamps[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--people", default=",".join(PEOPLE))
    parser.add_argument("--budget", default="52s")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for person in options.people.split(","):
        folder = Path(tempfile.mkdtemp(prefix="refresh-"))
        try:
            rows.append(person_row(person, options, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        told = rows[-1]
        measures = (told["refresh"]["gate"] or {"measures": {}})["measures"]
        print(person, {k: told[k] for k in ("published", "ratio", "interval", "command_s", "before", "after")},
              told.get("swapped_s"), told["refresh"]["seconds"], told["refresh"]["adaptation"],
              {k: [round(m["ratio"], 3), *(round(x, 3) for x in m["interval"])] for k, m in measures.items()},
              told["refresh"]["reasons"], flush=True)  # fmt: skip
    mean = round(float(np.mean([row["ratio"] for row in rows])), 3)
    options.output.mkdir(parents=True, exist_ok=True)
    device = "cpu" if options.device == "cpu" else torch.cuda.get_device_name().replace(" ", "-").lower()
    path = options.output / f"refresh_gain_{device}_{date.today()}.json"
    path.write_text(json.dumps({"mean_ratio": mean, "rows": rows}) + "\n")
    print(f"mean after / before {mean} -> {path}")


if __name__ == "__main__":
    main()
