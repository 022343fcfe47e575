"""Offsets between views' clocks, up to half a second, found from people at 60 Hz.

python benchmarks/calibration/sync.py --data ../shared/data -o benchmarks/results

Real motion (cmu17, test subjects) through Human3.6M's S9 rig, 3 px noise, 10 % of the joints missing; each view's clock
is off by up to 500 ms, drawn evenly, so offsets are no whole frames. Extrinsics are not read.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from problems import rig

from edgelift.calibration.synchronise import find_offsets
from edgelift.poses.cameras import project
from edgelift.poses.motion import Clip, load_motion
from edgelift.poses.sessions import Session, clean_keypoints
from edgelift.poses.studio import rig_middle

FPS, NOISE_PX, MISSING, FARTHEST_S = 60.0, 3.0, 0.1, 0.5
LONGEST_S, SHORTEST_S = 10.0, 4.0


def late(data: Path, clip: Clip, offsets: NDArray[np.float64], seed: int) -> Session:
    """What cameras see whose time t is the world's t + offset."""
    cameras, rng = rig(data, "h36m_S9"), np.random.default_rng(seed)
    world = clip.poses - clip.poses[:, clip.skeleton.root].mean(0) * [1, 1, 0] + rig_middle(cameras) * [1, 1, 0]
    seconds = min(LONGEST_S, (len(world) - 1) / clip.fps - 2 * FARTHEST_S)
    times = np.arange(int(seconds * FPS)) / FPS
    views = []
    for camera, offset in zip(cameras, offsets, strict=True):
        at = (FARTHEST_S + times + offset) * clip.fps
        before = np.clip(at.astype(int), 0, len(world) - 2)
        poses = world[before] + (at - before)[:, None, None] * (world[before + 1] - world[before])
        pixels = project(poses, camera) + NOISE_PX * rng.standard_normal((*poses.shape[:2], 2))
        shown = rng.random(poses.shape[:2]) >= MISSING
        views.append(np.concatenate([pixels, shown[..., None]], -1))
    return Session(
        clean_keypoints(np.stack(views)), times, tuple(c.name for c in cameras), cameras, clip.skeleton,
        np.zeros(len(cameras)), name=clip.name,
    )  # fmt: skip


def row(data: Path, clip: Clip, seed: int) -> dict[str, Any]:
    offsets = np.random.default_rng(seed).uniform(-FARTHEST_S, FARTHEST_S, 4)
    session = late(data, clip, offsets, seed)
    started = time.perf_counter()
    found = find_offsets(session, 2.2 * FARTHEST_S)
    errors = 1000 * (found.offset_s - (offsets - offsets[0]))
    speed = np.nanmedian(np.linalg.norm(np.diff(clip.poses, axis=0), axis=-1)) * clip.fps
    return {
        "clip": clip.name, "action": clip.action, "seconds_long": round(float(session.timestamps[-1]), 1),
        "median_joint_speed_m_s": round(float(speed), 3), "worst_error_ms": round(float(np.abs(errors).max()), 3),
        "sd_ms": (1000 * found.sd_s).round(3).tolist(), "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    clips = [
        c for c in load_motion(options.data / "mocap" / "cmu17.npz", "test")
        if len(c.poses) / c.fps > SHORTEST_S + 2 * FARTHEST_S
    ]  # fmt: skip
    rows = []
    for seed, clip in enumerate(clips[:: max(1, len(clips) // options.clips)]):
        rows.append(row(options.data, clip, seed))
        print(json.dumps(rows[-1]), flush=True)
    within = [r["worst_error_ms"] <= 2 for r in rows]
    result = {"within_2_ms": f"{sum(within)} of {len(within)}", "clips": rows}
    path = options.output / f"calibration_sync_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['within_2_ms']} within 2 ms; wrote {path}")


if __name__ == "__main__":
    main()
