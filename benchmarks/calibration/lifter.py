"""A lifter trained on a rig that was found from people, against one trained on the true rig.

python benchmarks/calibration/lifter.py --data ../shared/data -o benchmarks/results

Real motion (cmu17, training subjects) through Human3.6M's S9 rig, cameras 0-2, 5 px noise like a detector's, 5 %
missing; the rig is found from some of the training sessions (their cameras' poses are not read), its size from the true
distances between the cameras. Both lifters are scored on test subjects with the true rig, and no label is used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from problems import distances, rig

from edgelift.calibration.cameras import Cues, calibrate_cameras
from edgelift.calibration.comparison import compare
from edgelift.poses.cameras import Camera
from edgelift.poses.motion import load_motion
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.fit import train
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.validation import module_lift

STUDIO = StudioSettings(noise_px=5.0, noise_model="detector", missing=0.05)


def score(cameras: tuple[Camera, ...], training: list[Session], tests: list[Session], settings: TrainSettings) -> Any:
    given = [replace(s, cameras=cameras, poses=None) for s in training]
    with tempfile.TemporaryDirectory() as folder:
        train(given, Path(folder), settings)
        return evaluate(module_lift(load_checkpoint(Path(folder)).model()), tests, settings.input)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--every", type=int, default=4, help="take every n-th session")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    true = rig(options.data, "h36m_S9")[:3]
    motion = options.data / "mocap" / "cmu17.npz"
    training = list(film(load_motion(motion, "train", ("mix",)), true, STUDIO))[:: options.every]
    tests = list(film(load_motion(motion, "test"), true, STUDIO))[::2]
    found = calibrate_cameras(training[:: max(1, len(training) // 20)], Cues(distances=distances(true)))
    told = compare(found.cameras, true)
    settings = TrainSettings(width=options.width, epochs=options.epochs)
    result: dict[str, Any] = {"rig": told, "sessions": len(training), "settings": settings.to_dict()}
    for name, cameras in (("true", true), ("found", found.cameras)):
        result[name] = score(cameras, training, tests, settings)
        print(name, result[name], flush=True)
    result["mpjpe_ratio"] = round(result["found"]["mpjpe_mm"] / result["true"]["mpjpe_mm"], 4)
    path = options.output / f"calibration_lifter_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"worst centre {np.max(told['metric_centre_error_mm'])} mm, ratio {result['mpjpe_ratio']}; wrote {path}")


if __name__ == "__main__":
    main()
