"""Cameras from the people of a real recording against its calibration, beside caliscope and aniposelib.

python benchmarks/calibration/recording.py --data ../shared/data --caliscope PYTHON --aniposelib PYTHON \
    -o benchmarks/results

Pose2Sim's balancing trial: 4 cameras, 100 frames of OpenPose detections, given intrinsics. aniposelib cannot start by
itself: it starts from the rig that ours begins its adjustment with. Residuals of all rigs are measured alike: joints
placed by the robust adjustment with the cameras held; median of all observations, outliers too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rivals import ask

from edgelift.calibration.bundle import ALONE, adjust
from edgelift.calibration.cameras import SEED, Cues, calibrate_cameras, intrinsics_of, sightings_of
from edgelift.calibration.comparison import compare
from edgelift.calibration.structure import crossed_points, first_rig
from edgelift.poses.cameras import Camera
from edgelift.poses.conversion import Conversion, convert
from edgelift.poses.sessions import Session, load_session

HEIGHT_M = 1.72  # of the participant, as Pose2Sim's demo states it
LEAST_CONFIDENCE = 0.3  # that caliscope and aniposelib are given; what caliscope does best with among 0.1 to 0.5


def recording(data: Path) -> Session:
    with tempfile.TemporaryDirectory() as folder:
        source, rig = data / "pose2sim" / "BalancingTrial", data / "pose2sim" / "Calib.toml"
        path = Path(folder) / "balancing.npz"
        convert(Conversion(source, path, "openpose", skeleton="body25b", fps=60.0, cameras=str(rig), units="m"))
        return load_session(path)


def residual_px(session: Session, rig: Sequence[Camera]) -> float:
    sightings = sightings_of([session])
    points, agreed = crossed_points(sightings, rig)
    use = np.flatnonzero(agreed.any(0))
    placed = adjust(sightings.take(use), rig, points[use], agreed[:, use], np.zeros_like(ALONE))
    return round(float(np.nanmedian(np.linalg.norm(placed.residuals(placed.sightings.seen), axis=-1))), 3)


def row(session: Session, rig: Sequence[Camera], seconds: float | None) -> dict[str, Any]:
    told = compare(rig, session.rig)
    return {
        "worst_centre_mm": max(told["camera_centre_error_mm"]), "worst_rotation_deg": max(told["rotation_error_deg"]),
        "reprojection_px": residual_px(session, rig), "seconds": seconds, **told,
    }  # fmt: skip


def ours(session: Session, cues: Cues) -> dict[str, Any]:
    started = time.perf_counter()
    found = calibrate_cameras([session], cues)
    return row(session, found.cameras, round(time.perf_counter() - started, 2)) | {"scale": found.scale.how}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--caliscope", type=Path, help="Python of an environment with caliscope 0.11.8")
    parser.add_argument("--aniposelib", type=Path, help="Python of an environment with aniposelib 0.8.0")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    session = recording(options.data)
    a, b = session.rig[:2]
    distance = {(a.name, b.name): float(np.linalg.norm(a.centre - b.centre))}
    result = {
        "ours, one camera distance": ours(session, Cues(distances=distance)),
        f"ours, height {HEIGHT_M} m": ours(session, Cues(height_m=HEIGHT_M)),
        "the given calibration": row(session, session.rig, None),
    }
    start = first_rig(sightings_of([session]), intrinsics_of([session], "none"), np.random.default_rng(SEED))
    for tool, python in (("caliscope", options.caliscope), ("aniposelib", options.aniposelib)):
        if python:
            rig, seconds = ask(python, tool, [session], start, 600, LEAST_CONFIDENCE)
            result[tool] = {"failed": True} if rig is None else row(session, rig, seconds)
    for name, told in result.items():
        print(name, {k: v for k, v in told.items() if not isinstance(v, list)}, flush=True)
    path = options.output / f"calibration_recording_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
