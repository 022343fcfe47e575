"""Simulated recordings for finding cameras: real motion through real rigs, with noise, outliers and gaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgelift.poses.cameras import Camera
from edgelift.poses.motion import load_motion
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film

FPS, WINDOW_S = 20.0, 5.0
WINDOW_FRAMES = round(FPS * WINDOW_S)


def rig(data: Path, name: str) -> tuple[Camera, ...]:
    return read_rig(f"{data / 'rigs.json'}:{name}", None)


def problem(
    data: Path, cameras: tuple[Camera, ...], frames: int, noise_px: float, outliers: float, missing: float, seed: int
) -> list[Session]:
    """Sessions of 5 s, `frames` in all, of clips drawn by chance; outliers are anywhere in the image."""
    rng = np.random.default_rng(seed)
    clips = load_motion(data / "mocap" / "cmu17.npz")
    settings = StudioSettings(FPS, WINDOW_S, noise_px, "independent", missing, 0.0, seed)
    sessions: list[Session] = []
    for i in rng.permutation(len(clips)):
        windows = [s for s in film([clips[i]], cameras, settings) if s.keypoints.shape[1] == WINDOW_FRAMES]
        if windows:
            sessions.append(_with_outliers(windows[int(rng.integers(len(windows)))], outliers, rng))
        if len(sessions) * WINDOW_FRAMES >= frames:
            break
    return sessions


def _with_outliers(session: Session, share: float, rng: np.random.Generator) -> Session:
    keypoints = session.keypoints.copy()
    chosen = (rng.random(keypoints.shape[:-1]) < share) & (keypoints[..., 2] > 0)
    sizes = np.array([c.size for c in session.rig], np.float32)[:, None, None]
    anywhere = rng.random((*keypoints.shape[:-1], 2)).astype(np.float32) * sizes
    keypoints[..., :2] = np.where(chosen[..., None], anywhere, keypoints[..., :2])
    return replace(session, keypoints=keypoints)


def distances(cameras: tuple[Camera, ...]) -> dict[tuple[str, str], float]:
    """The distances between the first camera and the others, as a tape measure would give them."""
    first = cameras[0]
    return {(first.name, c.name): float(np.linalg.norm(first.centre - c.centre)) for c in cameras[1:]}
