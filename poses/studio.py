"""The studio: sessions from motion filmed by a rig, with stated noise, missing joints and left/right swaps."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, project
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.motion import Clip, resample
from edgelift.poses.sessions import Session, clean_keypoints
from edgelift.poses.skeletons import Skeleton

NoiseModel = Literal["independent", "detector"]
SHORTEST_S = 2.0  # clips and remainders below this are dropped
CORRELATION_S = 0.2  # how long a real detector's error lasts
TAIL_DEGREES = 4  # of Student's t: real residuals have p99/p50 near 3.6, Gaussian ones 2.6 (radial)
SWAP_S = 0.5  # how long a whole-body swap lasts


@dataclass(frozen=True)
class StudioSettings:
    """How the studio films: frames a second, window seconds, and what goes wrong with the keypoints."""

    fps: float = 20.0
    window_s: float = 6.0
    noise_px: float = 0.0
    """Standard deviation of each coordinate, pixels."""
    noise_model: NoiseModel = "independent"
    missing: float = 0.0
    """Fraction of joints missing."""
    swaps: float = 0.0
    """Fraction of frames in which a view swaps left and right of the whole body."""
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, value, ok in (
            ("--fps", self.fps, 0 < self.fps < math.inf),
            ("--window", self.window_s, SHORTEST_S <= self.window_s < math.inf),
            ("--noise-px", self.noise_px, 0 <= self.noise_px < math.inf),
            ("--missing", self.missing, 0 <= self.missing < 1),
            ("--swaps", self.swaps, 0 <= self.swaps < 1),
            ("--seed", self.seed, self.seed >= 0),
        ):
            if not ok:
                expected = f"at least {SHORTEST_S} s" if flag == "--window" else "a sensible number"
                raise EdgeliftError(flag, str(value), expected, "See `edgelift simulate --help`.")


def studio_rig(views: int = 3, distance_m: float = 4.5, height_m: float = 1.6) -> tuple[Camera, ...]:
    """Return an embedded rig: cameras on a circle around the origin, looking at hip height, 1000 x 1000 pixels."""
    cameras = []
    for i in range(views):
        angle = 2 * np.pi * (i + 0.25) / max(views, 3)
        centre = np.array([distance_m * np.cos(angle), distance_m * np.sin(angle), height_m])
        R = _look_at(centre, np.array([0.0, 0.0, 0.95]))
        K = np.array([[1150.0, 0, 500], [0, 1150.0, 500], [0, 0, 1]])
        dist = np.array([-0.2, 0.2, 0.0, 0.0, 0.0])
        cameras.append(Camera(f"cam_{i + 1:02d}", K, dist, R, -R @ centre, (1000, 1000)))
    return tuple(cameras)


def _look_at(centre: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def rig_middle(cameras: Sequence[Camera]) -> NDArray[np.float64]:
    """(3,) world metres: the point nearest all optical axes in the least-squares sense."""
    axes = np.stack([c.R[2] for c in cameras])
    off_axis = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    centres = np.stack([c.centre for c in cameras])
    middle: NDArray[np.float64] = np.linalg.lstsq(off_axis.sum(0), (off_axis @ centres[..., None]).sum(0)[:, 0])[0]
    return middle


def film(clips: Sequence[Clip], cameras: Sequence[Camera], settings: StudioSettings) -> Iterator[Session]:
    """Film every clip: one session a window, recentred in the rig, named after the clip; yields as it goes.

    Each session draws from a generator of its own (seed and the clip's name), so leaving clips out changes no other.
    """
    check_z_up(cameras)
    for clip in clips:
        for part, poses in enumerate(_windows(resample(clip, settings.fps), settings)):
            rng = np.random.default_rng([settings.seed, zlib.crc32(clip.name.encode()), part])
            moved = _recentre(poses, cameras, clip.skeleton)
            yield _shoot(clip, part, moved, cameras, settings, rng)


def check_z_up(cameras: Sequence[Camera]) -> None:
    """EdgeliftError where the cameras agree on an upward direction (their images') that is not the world's Z.

    Calibrations often use the first camera as the world; a person filmed there would lie or hang upside down.
    """
    looking_down = [camera.R[2, 2] < -0.7 for camera in cameras]  # such images have no upward direction
    ups = [-camera.R[1] for camera, down in zip(cameras, looking_down, strict=True) if not down]
    up = np.mean(ups or [[0.0, 0.0, 1.0]], axis=0)
    length = float(np.linalg.norm(up))
    if length > 0.7 and up[2] < 0.5 * length:  # cameras that lie on their sides do not agree
        raise EdgeliftError(
            "rig", f"images whose upward direction is {np.round(up / length, 2).tolist()} of the world",
            "Z up: about [0, 0, 1]", "Turn the calibration so that Z points up and the floor is z = 0.",
        )  # fmt: skip


def _windows(clip: Clip, settings: StudioSettings) -> list[NDArray[np.float32]]:
    length = round(settings.window_s * settings.fps)
    shortest = round(SHORTEST_S * settings.fps)
    parts = [clip.poses[i : i + length] for i in range(0, len(clip.poses), length)]
    return [part for part in parts if len(part) >= shortest]


def _recentre(poses: NDArray[np.float32], cameras: Sequence[Camera], skeleton: Skeleton) -> NDArray[np.float64]:
    """Shift on the floor so that the root's mean lies in the rig's middle; height stays."""
    shift = rig_middle(cameras) - poses[:, skeleton.root].mean(0)
    moved: NDArray[np.float64] = poses + np.array([shift[0], shift[1], 0.0])
    return moved


def _shoot(
    clip: Clip,
    part: int,
    poses: NDArray[np.floating],
    cameras: Sequence[Camera],
    settings: StudioSettings,
    rng: np.random.Generator,
) -> Session:
    pixels = np.stack([project(poses, camera) for camera in cameras])
    noise, spread = _noise(pixels.shape, settings, rng)
    pixels = pixels + noise
    confidence = np.where(_visible(pixels, cameras) & (rng.random(pixels.shape[:-1]) >= settings.missing), spread, 0)
    keypoints = np.concatenate([pixels, confidence[..., None]], -1)
    keypoints = _swap(keypoints, clip.skeleton, settings, rng)
    return Session(
        keypoints=clean_keypoints(keypoints),
        timestamps=np.arange(len(poses)) / settings.fps,
        camera_names=tuple(c.name for c in cameras),
        cameras=tuple(cameras),
        skeleton=clip.skeleton,
        time_offset_s=np.zeros(len(cameras)),
        subject=clip.subject,
        action=clip.action,
        poses=poses.astype(np.float32),
        name=f"{clip.name}_{part:02d}".replace("/", "_").replace(" ", "_"),
    )


def _visible(pixels: NDArray[np.float64], cameras: Sequence[Camera]) -> NDArray[np.bool_]:
    size = np.array([c.size for c in cameras], np.float64)[:, None, None]
    inside: NDArray[np.bool_] = np.all((pixels >= 0) & (pixels < size), axis=-1)
    return inside


def _noise(
    shape: tuple[int, ...], settings: StudioSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise (views, frames, joints, 2) pixels and confidence (views, frames, joints).

    `independent`: Gaussian, confidence 1. `detector`: Student's t in time-correlated form (a Gaussian AR(1) over the
    root mean square of TAIL_DEGREES others), so that errors last CORRELATION_S and have heavy tails; confidence falls
    where the local spread is large, as a detector's does.
    """
    if settings.noise_model == "independent":
        return settings.noise_px * rng.standard_normal(shape), np.ones(shape[:-1])
    if settings.noise_model != "detector":
        raise EdgeliftError("--noise-model", repr(settings.noise_model), "independent or detector", "Name one of them.")
    rho = np.exp(-1 / (settings.fps * CORRELATION_S))
    direction = _ar1(rng.standard_normal(shape), rho)
    chi = _ar1(rng.standard_normal((TAIL_DEGREES, *shape[:-1])), rho, axis=2)
    spread = 1 / np.sqrt(np.maximum((chi**2).mean(0), 1e-3))
    scale = settings.noise_px * np.sqrt((TAIL_DEGREES - 2) / TAIL_DEGREES)
    return scale * direction * spread[..., None], 1 / (1 + 0.25 * spread)


def _ar1(white: NDArray[np.float64], rho: float, axis: int = 1) -> NDArray[np.float64]:
    """Unit-variance white noise to unit-variance AR(1) along an axis."""
    series = np.moveaxis(white, axis, 0).copy()
    innovation = np.sqrt(1 - rho * rho)
    for i in range(1, len(series)):
        series[i] = rho * series[i - 1] + innovation * series[i]
    return np.moveaxis(series, 0, axis)


def _swap(
    keypoints: NDArray[np.float64], skeleton: Skeleton, settings: StudioSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Swap left and right of the whole body in stretches of about SWAP_S, each view on its own."""
    if settings.swaps == 0:
        return keypoints
    views, frames = keypoints.shape[:2]
    length = max(1, round(SWAP_S * settings.fps))
    blocks = rng.random((views, frames // length + 2)) < settings.swaps
    start = int(rng.integers(length))
    swapped = np.repeat(blocks, length, axis=1)[:, start : start + frames]
    return np.where(swapped[..., None, None], keypoints[:, :, list(skeleton.mirror)], keypoints)
