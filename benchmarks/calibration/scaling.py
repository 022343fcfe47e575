"""Time and memory of finding 2, 4, 8 and 16 cameras, and the solver beside scipy's.

python benchmarks/calibration/scaling.py --data ../shared/data -o benchmarks/results

Cameras on a circle, real motion, 3 px noise, 2 % outliers, 10 % missing; each size in a process of its own. The solver:
the same adjustment of 4 cameras (same start, all observations that count, no robust weights) by ours and by
scipy.optimize.least_squares (trf, sparse Jacobian's pattern given, exact Jacobian by finite differences).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from problems import distances, problem

from edgelift.calibration.bundle import ALONE, Bundle, adjust, linearise
from edgelift.calibration.cameras import Cues, calibrate_cameras, intrinsics_of, sightings_of
from edgelift.calibration.structure import crossed_points, first_rig
from edgelift.poses.studio import studio_rig

SIZES = [(2, 400), (4, 400), (8, 400), (16, 400), (4, 200), (4, 800), (4, 1600)]


def one(data: Path, cameras: int, frames: int) -> dict[str, Any]:
    rig = studio_rig(cameras)
    sessions = problem(data, rig, frames, 3.0, 0.02, 0.1, 0)
    before = _resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # what filming took at most is forgotten
    started = time.perf_counter()
    found = calibrate_cameras(sessions, Cues(distances=distances(rig), up=("cam_01", (0.0, -1.0, 0.0))))
    seconds = time.perf_counter() - started
    more = _resident_kib("VmHWM") - before
    size = cameras * frames
    return {
        "cameras": cameras, "frames": frames, "seconds": round(seconds, 2), "more_memory_mib": round(more / 1024, 1),
        "ms_per_camera_frame": round(1000 * seconds / size, 3), "kib_per_camera_frame": round(more / size, 2),
        "observations": int(found.bundle.counted.sum()),
    }  # fmt: skip


def _resident_kib(field: str) -> int:
    """VmRSS, memory now, or VmHWM, at most so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def solvers(data: Path) -> dict[str, Any]:
    rig = studio_rig(4)
    sessions = problem(data, rig, 200, 3.0, 0.0, 0.1, 0)
    sightings = sightings_of(sessions)
    start = first_rig(sightings, intrinsics_of(sessions, "none"), np.random.default_rng(0))
    points, agreed = crossed_points(sightings, start)
    use = np.flatnonzero(agreed.any(0))
    problem_of = (sightings.take(use), start, points[use], agreed[:, use])
    started = time.perf_counter()
    ours = adjust(*problem_of, ALONE)
    own_s = time.perf_counter() - started
    started = time.perf_counter()
    cost, evaluations = _scipy(ours, start, points[use])
    return {
        "ours_seconds": round(own_s, 2), "scipy_seconds": round(time.perf_counter() - started, 2),
        "ours_sum_of_squares": round(float(np.nansum(ours.residuals() ** 2)), 3),
        "scipy_sum_of_squares": round(cost, 3),
        "scipy_evaluations": evaluations, "points": len(use),
    }  # fmt: skip


def _scipy(ours: Bundle, start: Any, points: Any) -> tuple[float, int]:
    """Sum of squares that scipy reaches from the same start on the same observations."""
    from scipy.optimize import least_squares
    from scipy.sparse import lil_matrix

    from edgelift.calibration.bundle import moved_camera

    s, counted, count = ours.sightings, ours.counted, len(start)
    index = [np.flatnonzero(counted[v]) for v in range(count)]

    def residuals(x: Any) -> Any:
        X = points + x[6 * count :].reshape(-1, 3)
        out = []
        for v, camera in enumerate(start):
            step = np.zeros(12)
            step[:6] = x[6 * v : 6 * v + 6]
            pixels = linearise(moved_camera(camera, step), X[index[v]])[0]
            out.append((pixels - s.keypoints[v, index[v]]).ravel())
        return np.concatenate(out)

    pattern = lil_matrix((2 * int(counted.sum()), 6 * count + 3 * len(points)), dtype=int)
    row = 0
    for v in range(count):
        for point in index[v]:
            pattern[row : row + 2, 6 * v : 6 * v + 6] = 1
            pattern[row : row + 2, 6 * count + 3 * point : 6 * count + 3 * point + 3] = 1
            row += 2
    x0 = np.zeros(pattern.shape[1])
    solved = least_squares(residuals, x0, jac_sparsity=pattern, x_scale="jac", ftol=1e-8, method="trf", max_nfev=100)
    return 2 * float(solved.cost), int(solved.nfev)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--one", type=int, nargs=2, metavar=("CAMERAS", "FRAMES"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.data, *options.one)))
        return
    rows = []
    for cameras, frames in SIZES:
        words = [sys.executable, __file__, "--data", str(options.data), "-o", str(options.output), "--one"]
        done = subprocess.run([*words, str(cameras), str(frames)], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
        print(done.stdout.strip(), flush=True)
    result = {"sizes": rows, "solver": solvers(options.data)}
    print(result["solver"])
    path = options.output / f"calibration_scaling_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
