"""Fit the embedded person: python benchmarks/fit_person.py --motion cmu17.npz -o poses/person.json

walk and jog are fitted to training clips of the CMU motion capture data (mocap.cs.cmu.edu; its database was created
with funding from NSF EIA-0196217): bone directions in a heading-aligned frame, Fourier series of order 4, with the
stride period that leaves the least residual. The training clips hold no boxing, waving or sitting down: box, sit and
wave are composed by hand, as Fourier series too, around the mean posture of the fitted walk with straightened legs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.motion import Clip, load_motion, resample
from edgelift.poses.person import SKELETON

ORDER = 4
SAMPLES = 64
Float64 = NDArray[np.float64]
J = {name: i for i, name in enumerate(SKELETON.joints)}


def bone_directions(clip: Clip) -> Float64:
    """(frames, 17, 3) unit directions; x right, y forward (mean heading of the hips over the clip), z up."""
    poses = clip.poses.astype(np.float64)
    right = (poses[:, J["right_hip"]] - poses[:, J["left_hip"]]).mean(0) * [1, 1, 0]
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross([0, 0, 1], right), [0, 0, 1]])
    bones = np.zeros_like(poses)
    for parent, child in SKELETON.bones:
        bones[:, child] = poses[:, child] - poses[:, parent]
    bones[:, 0] = (0, 0, 1)
    unit: Float64 = bones / np.linalg.norm(bones, axis=-1, keepdims=True) @ frame.T
    return unit


def basis(phase: Float64) -> Float64:
    waves = [f(k * phase) for k in range(1, ORDER + 1) for f in (np.cos, np.sin)]
    return np.stack([np.ones_like(phase), *waves], -1)


def fit(directions: Float64, fps: float, period_s: float) -> tuple[Float64, float]:
    """Curves (17, 9, 3) by least squares, and the residual's RMS."""
    matrix = basis(2 * np.pi * np.arange(len(directions), dtype=np.float64) / fps / period_s)
    flat = directions.reshape(len(directions), -1)
    curves = np.asarray(np.linalg.lstsq(matrix, flat)[0], np.float64)
    residual = float(np.sqrt(np.mean((matrix @ curves - flat) ** 2)))
    return curves.reshape(-1, 17, 3).transpose(1, 0, 2), residual


def best_fit(clips: list[Clip], periods: tuple[float, float], speeds: tuple[float, float]) -> dict[str, object]:
    """The clip, and the period, that a Fourier series describes best among those that travel at such a speed."""
    found = []
    for clip in (resample(c, 30.0) for c in clips):
        travelled = np.linalg.norm((clip.poses[-1, 0] - clip.poses[0, 0])[:2])
        speed = float(travelled / (len(clip.poses) - 1) * clip.fps)
        if not speeds[0] < speed < speeds[1] or len(clip.poses) / clip.fps < 1.15 * periods[0]:
            continue
        for period in np.arange(*periods, 0.02).tolist():
            if len(clip.poses) / clip.fps >= 1.1 * period:
                curves, residual = fit(bone_directions(clip), clip.fps, period)
                found.append((residual, clip.name, period, speed, curves))
    residual, name, period, speed, curves = min(found, key=lambda row: row[0])
    print(f"{name}: period {period:.2f} s, {speed:.2f} m/s, residual {residual:.3f} of a bone length")
    return action(curves, period, speed, f"fitted to cmu clip {name}")


def action(curves: Float64, period_s: float, speed_m_s: float, source: str) -> dict[str, object]:
    return {
        "source": source, "period_s": round(float(period_s), 3), "speed_m_s": round(speed_m_s, 3),
        "curves": np.round(curves, 3).tolist(),
    }  # fmt: skip


def compose(rest: Float64, change: Callable[[Float64, Float64], None], period_s: float) -> dict[str, object]:
    """Sample a hand-made cycle around the rest directions (17, 3) and keep its Fourier series."""
    phase = 2 * np.pi * np.arange(SAMPLES) / SAMPLES
    directions = np.repeat(rest[None], SAMPLES, 0)
    change(directions, phase)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return action(fit(directions, SAMPLES / period_s, period_s)[0], period_s, 0.0, "composed by hand")


def blend(directions: Float64, joint: str, share: Float64, start: list[float], end: list[float]) -> None:
    directions[:, J[joint]] = (1 - share)[:, None] * np.array(start) + share[:, None] * np.array(end)


def box(directions: Float64, phase: Float64) -> None:
    for side, sign, shift in (("right", 1.0, 0.0), ("left", -1.0, np.pi)):
        punch = ((1 + np.cos(phase + shift)) / 2) ** 2
        blend(directions, f"{side}_elbow", punch, [0.35 * sign, 0.25, -0.9], [-0.15 * sign, 1.0, 0.0])
        blend(directions, f"{side}_wrist", punch, [-0.25 * sign, 0.45, 0.85], [-0.15 * sign, 1.0, 0.05])
        directions[:, J[f"{side}_knee"]] += [0.12 * sign, 0.15 * sign, 0.0]
    sway = 0.25 * np.cos(phase)
    for joint, sign in (("right_shoulder", 1.0), ("left_shoulder", -1.0)):
        directions[:, J[joint]] += np.stack([np.zeros_like(sway), sign * sway, np.zeros_like(sway)], -1)


def sit(directions: Float64, phase: Float64) -> None:
    down = (1 - np.cos(phase)) / 2
    lean = np.sin(phase) ** 2
    for side, sign in (("right", 1.0), ("left", -1.0)):
        blend(directions, f"{side}_knee", down, [0.03 * sign, 0.02, -1.0], [0.12 * sign, 1.0, -0.08])
        blend(directions, f"{side}_ankle", down, [0.0, -0.06, -1.0], [0.0, -0.12, -1.0])
        blend(directions, f"{side}_elbow", down, [0.12 * sign, 0.0, -1.0], [0.1 * sign, 0.35, -0.9])
        blend(directions, f"{side}_wrist", down, [0.05 * sign, 0.15, -1.0], [-0.05 * sign, 0.95, -0.1])
    for joint in ("spine", "thorax", "neck_nose", "head"):
        blend(directions, joint, lean, [0.0, 0.03, 1.0], [0.0, 0.7, 0.9])


def wave(directions: Float64, phase: Float64) -> None:
    swing = np.cos(2 * phase)
    blend(directions, "right_elbow", (1 + np.cos(phase)) / 2, [0.75, 0.25, 0.1], [0.7, 0.2, 0.55])
    directions[:, J["right_wrist"]] = np.stack([0.55 * swing, 0.25 + 0 * swing, 0.85 + 0 * swing], -1)
    directions[:, J["left_knee"]] += np.stack([0.06 * np.cos(phase), 0 * phase, 0 * phase], -1)
    directions[:, J["right_knee"]] += np.stack([0.06 * np.cos(phase), 0 * phase, 0 * phase], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    clips = load_motion(options.motion, "train", ("mix",))
    walk = best_fit([c for c in clips if c.action == "walk" and c.subject == "35"], (0.9, 1.4), (0.8, 1.8))
    jog = best_fit([c for c in clips if c.action == "run"], (0.6, 0.95), (1.8, 4.5))
    rest = np.array(walk["curves"])[:, 0]
    rest = (rest + rest[list(SKELETON.mirror)] * [-1, 1, 1]) / 2
    for side, sign in (("right", 1.0), ("left", -1.0)):  # a walker's mean leg is bent: nobody stands like that
        rest[J[f"{side}_knee"]], rest[J[f"{side}_ankle"]] = (0.03 * sign, 0.02, -1.0), (0.0, -0.06, -1.0)
    rest /= np.linalg.norm(rest, axis=-1, keepdims=True)
    actions = {
        "walk": walk, "jog": jog, "box": compose(rest, box, 1.0), "sit": compose(rest, sit, 5.0),
        "wave": compose(rest, wave, 2.0),
    }  # fmt: skip
    options.output.write_text(json.dumps({"about": __doc__, "actions": actions}, indent=1) + "\n")
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
