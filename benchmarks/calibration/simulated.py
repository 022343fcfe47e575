"""Cameras from simulated people with noise, outliers and gaps: errors, coverage of the covariance, beside caliscope.

python benchmarks/calibration/simulated.py --data ../shared/data --caliscope PYTHON -o benchmarks/results

Real motion (cmu17) through two rigs, sessions of 5 s at 20 Hz, 10 % of the joints missing, draws anew for each level:
the shape of three cameras can be wrong in two ways only, so that a coverage needs many. Worst centre error after the
similarity, mean over draws; caliscope gets the same files, as long as --limit says, and only --rival-draws of them
where there are outliers, most of which it does not solve. Unknown focal: both get focal lengths that are 10 % too
long, all alike or each 5 % more or less by chance; ours is told to estimate them, caliscope refines by itself what it
takes for unsure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from problems import distances, problem, rig
from rivals import ask

from edgelift.calibration.cameras import Cues, Estimate, calibrate_cameras
from edgelift.calibration.comparison import aligned_errors_mm, compare
from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session

RIGS = ("h36m_S9", "humaneva_S1")
MISSING = 0.1
MEANS = ("centre_mm", "rotation_deg", "reprojection_px", "seconds")
NOISES_PX, TOO_LONG = (1.0, 3.0, 6.0), 1.1
LEVELS: list[tuple[int, float, float, float | None]] = [
    *product((200, 2000), NOISES_PX, (0.0, 0.02, 0.05), (None,)), *product((200,), NOISES_PX, (0.0,), (0.0, 0.05))
]  # fmt: skip


def ours(sessions: list[Session], true: tuple[Camera, ...], estimate: Estimate) -> dict[str, Any]:
    found = calibrate_cameras(sessions, Cues(distances=distances(true), up=(true[0].name, (0.0, -1.0, 0.0))), estimate)
    told = compare(found.cameras, true)
    # sizes are compared after alignment, so the covariance is scaled as the rig is
    scale = 1 + told["scale_error_percent"] / 100
    sd_mm = 1000 * np.sqrt(np.diagonal(found.uncertainty.centre, axis1=1, axis2=2)) / scale
    errors = aligned_errors_mm(found.cameras, true)
    return {
        "centre_mm": max(told["camera_centre_error_mm"]), "rotation_deg": max(told["rotation_error_deg"]),
        "reprojection_px": float(found.residual_px.mean()), "seconds": found.seconds,
        "inside": (np.abs(errors) <= 1.96 * sd_mm).ravel().tolist(),
    }  # fmt: skip


def level(
    options: argparse.Namespace,
    name: str,
    number: int,
    frames: int,
    noise: float,
    outliers: float,
    spread: float | None,
) -> dict[str, Any]:
    true = rig(options.data, name)
    draws = options.draws if frames == 200 and spread is None else max(1, options.draws // 4)
    rivals = min(draws, options.rival_draws) if outliers else draws
    rivals = rivals if options.caliscope else 0
    own: dict[int, dict[str, Any]] = {}
    others: dict[int, tuple[float, float | None]] = {}
    for draw in range(draws):
        seed = 1000 * number + draw
        sessions = problem(options.data, true, frames, noise, outliers, MISSING, seed)
        if spread is not None:
            guessed = _with_other_focal(true, spread, seed)
            sessions = [replace(s, cameras=guessed) for s in sessions]
        with suppress(EdgeliftError):
            own[draw] = ours(sessions, true, "none" if spread is None else "focal")
        if draw < rivals:
            cameras, seconds = ask(options.caliscope, "caliscope", sessions, sessions[0].rig, options.limit)
            if cameras is not None:
                others[draw] = max(compare(cameras, true)["camera_centre_error_mm"]), seconds
    solved = [(own[draw]["centre_mm"], *others[draw]) for draw in sorted(own.keys() & others.keys())]
    return {
        "rig": name, "frames": frames, "noise_px": noise, "outliers": outliers, "unknown_focal": spread is not None,
        "focal_spread": spread, "draws": draws, "solved": len(own),
        **{key: round(float(np.mean([o[key] for o in own.values()])), 3) for key in MEANS},
        "inside_95": round(float(np.mean([o["inside"] for o in own.values()])), 3),
        "caliscope_draws": rivals, "caliscope_solved": len(others),
        "ours_on_those_mm": round(float(np.mean([s[0] for s in solved])), 3) if solved else None,
        "caliscope_mm": round(float(np.mean([s[1] for s in solved])), 3) if solved else None,
        "caliscope_seconds": round(float(np.mean([s[2] for s in solved])), 2) if solved else None,
    }  # fmt: skip


def _with_other_focal(cameras: tuple[Camera, ...], spread: float, seed: int) -> tuple[Camera, ...]:
    factors = TOO_LONG * np.exp(spread * np.random.default_rng(seed).standard_normal(len(cameras)))
    return tuple(replace(c, K=c.K * [[f, 1, 1], [1, f, 1], [1, 1, 1]]) for c, f in zip(cameras, factors, strict=True))


def levels(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in options.rigs.split(","):
        for number, one in enumerate(LEVELS):
            if one[0] in options.frames:
                yield level(options, name, number, *one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--caliscope", type=Path, help="Python of an environment with caliscope 0.11.8")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that caliscope may take for one problem")
    parser.add_argument(
        "--draws", type=int, default=8, help="of each level; a quarter for 2,000 frames or unknown lenses"
    )
    parser.add_argument("--rival-draws", type=int, default=2)
    parser.add_argument("--rigs", default=",".join(RIGS))
    parser.add_argument("--frames", type=int, nargs="*", default=[200, 2000])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    rows = []
    for told in levels(options):
        rows.append(told)
        print(json.dumps(told), flush=True)
    known = [r for r in rows if not r["unknown_focal"]]
    inside = round(float(np.average([r["inside_95"] for r in known], weights=[r["draws"] for r in known])), 4)
    what = "_".join([*options.rigs.split(","), *map(str, options.frames)])
    name = f"calibration_simulated_{what}_draws{options.draws}_limit{options.limit:g}_cpu_{date.today()}.json"
    path = options.output / name
    path.write_text(json.dumps({"inside_95": inside, "limit_s": options.limit, "levels": rows}, indent=1) + "\n")
    print(f"inside the 95 % interval: {inside}; wrote {path}")


if __name__ == "__main__":
    main()
