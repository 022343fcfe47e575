"""Other tools that find cameras from points, on one of our problems: `PYTHON rivals.py caliscope|aniposelib IN OUT`.

Runs with the Python of an environment that has that tool (they pin other versions than we do), so it imports nothing
of ours there. IN (.npz): keypoints (views, frames, joints, 3), K, dist, size (views, ...), confidence (above which
something counts as seen), and for aniposelib, which cannot start by itself, R and t to start from. OUT: K, dist, R, t
and seconds, of the call alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgelift.poses.cameras import Camera
    from edgelift.poses.sessions import Session

Arrays = dict[str, NDArray[Any]]


def caliscope(given: Arrays) -> Arrays:
    """Its defaults: essential matrices, resection, two passes of adjustment with an outlier filter between."""
    import pandas as pd
    from caliscope.api import CameraArray, CameraData, ImagePoints, calibrate_extrinsics

    views, frames, joints = np.nonzero(given["keypoints"][..., 2] > given["confidence"])
    xy = given["keypoints"][views, frames, joints, :2]
    table = pd.DataFrame({
        "sync_index": frames, "cam_id": views, "object_id": 0, "keypoint_id": joints,
        "img_loc_x": xy[:, 0].astype(float), "img_loc_y": xy[:, 1].astype(float),
    })  # fmt: skip
    rows = zip(given["size"], given["K"], given["dist"], strict=True)
    cameras = {
        i: CameraData(cam_id=i, size=(int(s[0]), int(s[1])), matrix=K, distortions=dist)
        for i, (s, K, dist) in enumerate(rows)
    }
    points, array = ImagePoints(table), CameraArray(cameras)
    started = time.perf_counter()
    run = calibrate_extrinsics(points, array, None)
    seconds = time.perf_counter() - started
    found = [run.capture_volume.camera_array.cameras[i] for i in cameras]
    return {
        "K": np.stack([c.matrix for c in found]), "dist": np.stack([np.ravel(c.distortions)[:5] for c in found]),
        "R": np.stack([c.rotation for c in found]), "t": np.stack([np.ravel(c.translation) for c in found]),
        "seconds": np.array(seconds),
    }  # fmt: skip


def aniposelib(given: Arrays) -> Arrays:
    """Its bundle_adjust_iter on extrinsics, from R and t, with the sample sizes that AIST++ used on keypoints."""
    import cv2
    from aniposelib.cameras import Camera, CameraGroup

    rows = zip(*(given[key] for key in ("K", "dist", "size", "R", "t")), strict=True)
    cameras = [
        Camera(K, dist, tuple(int(v) for v in size), cv2.Rodrigues(R)[0].ravel(), t, name=str(i))
        for i, (K, dist, size, R, t) in enumerate(rows)
    ]
    keypoints = given["keypoints"].astype(float)
    keypoints[~(keypoints[..., 2] > given["confidence"])] = np.nan
    flat = keypoints[..., :2].reshape(len(cameras), -1, 2)
    flat = flat[:, np.isfinite(flat[..., 0]).sum(0) >= 2]
    group = CameraGroup(cameras)
    started = time.perf_counter()
    group.bundle_adjust_iter(flat, n_iters=20, n_samp_iter=500, n_samp_full=5000, only_extrinsics=True)
    seconds = time.perf_counter() - started
    turns = [cv2.Rodrigues(c.get_rotation())[0] for c in group.cameras]
    places = [c.get_translation() for c in group.cameras]
    return {"K": given["K"], "dist": given["dist"], "R": np.stack(turns), "t": np.stack(places),
            "seconds": np.array(seconds)}  # fmt: skip


def ask(
    python: Path, tool: str, sessions: Sequence[Session], start: Sequence[Camera], limit_s: float, least: float = 0.0
) -> tuple[tuple[Camera, ...] | None, float | None]:
    """Cameras that another tool finds, and its seconds; None where it fails or takes longer than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        arrays = {
            key: np.stack([np.asarray(getattr(c, key)) for c in start]) for key in ("K", "dist", "size", "R", "t")
        }
        keypoints = np.concatenate([s.keypoints for s in sessions], 1)
        np.savez(source, allow_pickle=False, keypoints=keypoints, confidence=np.array(least), **arrays)
        command = [str(python), __file__, tool, str(source), str(target)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=limit_s)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return None, None
        found = dict(np.load(target))
    dist = [np.resize(np.append(d, 0.0), 5) if len(d) == 4 else d for d in found["dist"]]
    rows = zip(start, found["K"], dist, found["R"], found["t"], strict=True)
    return tuple(replace(c, K=K, dist=d, R=R, t=t) for c, K, d, R, t in rows), float(found["seconds"])


if __name__ == "__main__":
    tool, source, target = sys.argv[1:]
    np.random.seed(0)  # aniposelib samples with the global generator
    np.savez(
        target, allow_pickle=False, **{"caliscope": caliscope, "aniposelib": aniposelib}[tool](dict(np.load(source)))
    )
