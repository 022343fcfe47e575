"""How far the reconstruction of all views is from the truth, beside plain triangulation of the same keypoints.

python benchmarks/accuracy/teacher.py --data ../shared/data -o benchmarks/results

Real motion (cmu17, training subjects, `mix` left out) through Human3.6M's S9 rig, cameras 0-2, 20 fps, 6 s windows;
means over the joints that triangulation knows (two views or more).
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np

from edgelift.poses.motion import load_motion
from edgelift.poses.reconstruction import reconstruct
from edgelift.poses.rigs import pick_cameras, read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film

NOISE = {
    "exact": StudioSettings(),
    "5 px independent": StudioSettings(noise_px=5.0),
    "5 px like a detector's, 5 % missing": StudioSettings(noise_px=5.0, noise_model="detector", missing=0.05),
}


def errors_mm(session: Session) -> dict[str, float]:
    assert session.poses is not None
    plain, made = session.triangulate()[0], reconstruct(session)
    known = np.isfinite(plain).all(-1)
    plain_mm, made_mm = (1000 * np.linalg.norm(p - session.poses, axis=-1)[known] for p in (plain, made.poses))
    scaled = (made_mm / 1000) ** 2 / 3 / made.sigma[known] ** 2
    return {
        "triangulation_mm": float(plain_mm.mean()),
        "reconstruction_mm": float(made_mm.mean()),
        "squared_error_over_sigma_squared_p50": float(np.median(scaled)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=10, help="take every n-th session")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    cameras = pick_cameras(read_rig(f"{options.data / 'rigs.json'}:h36m_S9", None), "0,1,2")
    clips = load_motion(options.data / "mocap" / "cmu17.npz", "train", ("mix",))
    result = {}
    for name, settings in NOISE.items():
        rows = [errors_mm(s) for s in list(film(clips, cameras, settings))[:: options.every]]
        result[name] = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}
        print(name, len(rows), "sessions", result[name], flush=True)
    path = options.output / f"teacher_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
