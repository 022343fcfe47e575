"""The embedded person: procedurally generated clips, so that a machine with nothing but the package can run everything.

`person.json` holds, for each action, low-order Fourier curves of bone directions over one cycle
(benchmarks/fit_person.py makes it and says where each comes from). Bone lengths are free, so every subject has a body
of its own: lengths, cadence, amplitude, posture, path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.motion import Clip
from edgelift.poses.skeletons import SKELETONS

Float64 = NDArray[np.float64]

SKELETON = SKELETONS["h36m17"]
FEET = [SKELETON.joints.index("left_ankle"), SKELETON.joints.index("right_ankle")]
ANKLE_HEIGHT_M = 0.08
PATH_RADIUS_M = 1.3  # walkers go in circles of about this radius and stay in view
# lengths of the bones to each joint for a 1.75 m adult, in the skeleton's order (the root has none)
BONE_LENGTHS_M = (
    0, 0.11, 0.44, 0.43, 0.11, 0.44, 0.43, 0.24, 0.25, 0.12, 0.17, 0.17, 0.29, 0.25, 0.17, 0.29, 0.25
)  # fmt: skip


@dataclass(frozen=True)
class Action:
    """curves (bones, 1 + 2 * order, 3): mean, then cosine/sine pairs, of bone directions; x right, y forward, z up."""

    name: str
    period_s: float
    speed_m_s: float
    curves: Float64


@cache
def actions() -> tuple[Action, ...]:
    """Read the embedded actions."""
    stored: dict[str, Any] = json.loads(Path(__file__).with_name("person.json").read_text())["actions"]
    return tuple(Action(k, v["period_s"], v["speed_m_s"], np.array(v["curves"])) for k, v in stored.items())


def clips(seconds_per_clip: float = 6.0, fps: float = 60.0, subjects: int = 4, seed: int = 0) -> list[Clip]:
    """Generate one clip for every subject and action, named like `person1_walk`: world metres, Z up, feet on z = 0.

    Bone lengths are constant within a clip and equal left and right; the same seed gives the same clips.
    """
    people = np.random.SeedSequence(seed).spawn(subjects)
    return [
        clip
        for number, person in enumerate(people, start=1)
        for clip in _clips_of(f"person{number}", person, seconds_per_clip, fps)
    ]


def _clips_of(subject: str, seeds: np.random.SeedSequence, seconds: float, fps: float) -> list[Clip]:
    of_body, *of_clips = (np.random.default_rng(child) for child in seeds.spawn(1 + len(actions())))
    lengths = _bone_lengths(of_body)
    return [_clip(action, subject, lengths, seconds, fps, rng) for action, rng in zip(actions(), of_clips, strict=True)]


def _clip(action: Action, subject: str, lengths: Float64, seconds: float, fps: float, rng: np.random.Generator) -> Clip:
    time = np.arange(round(seconds * fps)) / fps
    cadence, amplitude = rng.uniform(0.85, 1.15, 2)
    phase = 2 * np.pi * (rng.random() + time * cadence / action.period_s)
    body = _pose(_directions(action, phase, amplitude, rng), lengths)
    if action.speed_m_s == 0:  # who stands keeps the feet where they are: the hips move, not the floor
        body[..., :2] -= body[:, FEET, :2].mean(1, keepdims=True)
    body[..., 2] += ANKLE_HEIGHT_M - _soft_minimum(body[..., 2])[:, None]
    world = _travel(body, time, action.speed_m_s * cadence * amplitude, rng)
    return Clip(f"{subject}_{action.name}", subject, action.name, fps, world.astype(np.float32), SKELETON)


def _bone_lengths(rng: np.random.Generator) -> Float64:
    """(17,) metres: a body of its own height and proportions, symmetric."""
    lengths = np.array(BONE_LENGTHS_M) * rng.uniform(0.9, 1.1) * rng.normal(1, 0.03, len(BONE_LENGTHS_M))
    return (lengths + lengths[list(SKELETON.mirror)]) / 2


def _directions(action: Action, phase: Float64, amplitude: float, rng: np.random.Generator) -> Float64:
    """(frames, 17, 3) unit bone directions; amplitude scales the movement, a small fixed offset is the posture."""
    order = np.arange(1, (action.curves.shape[1] - 1) // 2 + 1)
    waves = np.stack([np.cos(phase[:, None] * order), np.sin(phase[:, None] * order)], -1).reshape(len(phase), -1)
    mean = action.curves[:, 0] + rng.normal(0, 0.04, action.curves[:, 0].shape)
    bones = mean + amplitude * np.einsum("fk,bkx->fbx", waves, action.curves[:, 1:])
    unit: Float64 = bones / np.linalg.norm(bones, axis=-1, keepdims=True)
    return unit


def _pose(directions: Float64, lengths: Float64) -> Float64:
    """(frames, 17, 3): joints from the root outward."""
    joints = np.zeros_like(directions)
    for parent, child in SKELETON.bones:  # parents come before their children in this skeleton
        joints[:, child] = joints[:, parent] + lengths[child] * directions[:, child]
    return joints


def _soft_minimum(height: Float64) -> Float64:
    """(frames,) lowest joint, smoothed where support changes from one foot to the other."""
    sharpness = 60.0  # 1/m: within a centimetre or so of the true minimum
    lowest = height.min(1)
    soft: Float64 = lowest - np.log(np.exp(-sharpness * (height - lowest[:, None])).sum(1)) / sharpness
    return soft


def _travel(body: Float64, time: Float64, speed_m_s: float, rng: np.random.Generator) -> Float64:
    """Turn the body along a circle at its own speed (or let it stand, slowly turning), near the origin."""
    side = rng.choice([-1.0, 1.0])  # of the body where the circle's centre lies: 1 is left
    walks = speed_m_s > 0
    turn_rate = side * speed_m_s / PATH_RADIUS_M if walks else rng.uniform(-0.15, 0.15)
    heading = rng.uniform(0, 2 * np.pi) + turn_rate * time
    cos, sin, nought, one = np.cos(heading), np.sin(heading), np.zeros_like(time), np.ones_like(time)
    turn = np.stack([cos, -sin, nought, sin, cos, nought, nought, nought, one], -1).reshape(-1, 3, 3)
    # forward is y in the body, on the circle it is the tangent
    path = side * PATH_RADIUS_M * np.stack([cos, sin, nought], -1) * walks
    world: Float64 = np.einsum("fxy,fjy->fjx", turn, body) + path[:, None] + _start(rng)
    return world


def _start(rng: np.random.Generator) -> Float64:
    return np.array([*rng.uniform(-0.4, 0.4, 2), 0.0])
