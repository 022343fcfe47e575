"""A rig's size and its upright: what cameras cannot tell of themselves, from people, tape measures and gravity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.check_facts import OF_HEIGHT
from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import Skeleton

TAPE_SD_M = 0.01  # how well a distance between two lenses is measured
# how far one person's bones are from the shares of their height: their own build, and where a detector sees joints
BUILD_SD = 0.03
LEAST_BONES = 30  # of a bone, at different moments
LEVEL_SD_DEG = 2.0  # how upright a spine is on average
FLOOR_SPREAD = 0.3  # of a person's height: feet that cover less floor, in either direction, tell no plane
FLOOR_TURN_DEG = 8.0  # the floor is taken for level if it is within this of the spine
LOWEST = 0.3  # of a person's height: a foot that is higher than the lowest nearby is in the air


@dataclass(frozen=True)
class Scale:
    """Metres a unit of the rig; sd: its standard deviation, relative; how: in words."""

    metres: float
    sd: float
    how: str


@dataclass(frozen=True, eq=False)
class Upright:
    """Unit vector up in the rig's frame, its standard deviation in degrees, the floor's height along it, and how."""

    up: Float64
    sd_deg: float
    floor: float
    how: str


def scale_by_distance(cameras: Sequence[Camera], pairs: Mapping[tuple[str, str], float]) -> Scale:
    """Scale by measured distances in metres between the lenses of cameras, named in pairs."""
    by_name = {camera.name: camera for camera in cameras}
    strangers = sorted({name for pair in pairs for name in pair} - set(by_name))
    if strangers:
        raise EdgeliftError(
            "--distance", f"camera {', '.join(strangers)}", f"cameras among {', '.join(by_name)}", "Correct the names."
        )
    measured = np.array(list(pairs.values()))
    found = np.array([float(np.linalg.norm(by_name[a].centre - by_name[b].centre)) for a, b in pairs])
    metres = float((measured * found).sum() / (found**2).sum())
    spread = float(np.abs(found * metres / measured - 1).max())
    sd = max(TAPE_SD_M / float(np.sqrt((measured**2).sum())), spread if len(pairs) > 1 else 0.0)
    return Scale(metres, sd, f"{len(pairs)} measured distance{'s' * (len(pairs) > 1)} between cameras")


def scale_by_height(poses: Float64, noise: Float64, skeleton: Skeleton, height_m: float) -> Scale:
    """Scale by a person's height: their long bones are known shares of it (Drillis & Contini 1966).

    poses (frames, joints, 3) in units of the rig and noise (frames, joints), the sum of the variances of a joint's
    coordinates, of a skeleton that has these bones (common14).
    """
    lengths = {}
    for joint, share in OF_HEIGHT.items():
        for parent, child in skeleton.bones:
            if skeleton.joints[child].removeprefix("left_").removeprefix("right_") == joint:
                lengths[parent, child] = share * height_m
    return _by_bones(poses, noise, lengths, BUILD_SD, f"a height of {height_m:g} m, by the long bones")


def scale_by_bones(
    poses: Float64, noise: Float64, skeleton: Skeleton, measured: Mapping[tuple[str, str], float]
) -> Scale:
    """Scale by measured bones: metres between two joints; otherwise as `scale_by_height`."""
    strangers = sorted({joint for bone in measured for joint in bone} - set(skeleton.joints))
    if strangers:
        raise EdgeliftError(
            "--bone", ", ".join(strangers), f"joints among {', '.join(skeleton.joints)}", "Name two of these joints."
        )
    lengths = {(skeleton.joints.index(a), skeleton.joints.index(b)): length for (a, b), length in measured.items()}
    return _by_bones(poses, noise, lengths, BUILD_SD / 2, f"{len(lengths)} measured bones")


def _by_bones(poses: Float64, noise: Float64, lengths: Mapping[tuple[int, int], float], sd: float, how: str) -> Scale:
    ratios = []
    for (a, b), metres in lengths.items():
        found = length_without_noise(poses[:, a] - poses[:, b], noise[:, a] + noise[:, b])
        if np.isfinite(found):
            ratios.append(metres / found)
    if not ratios:
        raise EdgeliftError(
            "scale", f"no long bone seen at {LEAST_BONES} moments", "a person whose arms or legs are seen",
            "Record more, or measure the distance between two cameras (--distance).",
        )  # fmt: skip
    spread = float(np.std(ratios) / np.mean(ratios) / np.sqrt(len(ratios)))
    return Scale(float(np.median(ratios)), float(np.hypot(sd, spread)), how)


def length_without_noise(bone: Float64, noise: Float64) -> float:
    """Length of a bone from noisy vectors (moments, 3); noise (moments,): the sum of their coordinates' variances.

    |d + n| is longer than |d| on average, the shorter the bone the more; |d + n|^2 is so by exactly the variance. That
    is true of its mean, so outliers are cut off and the median, which is lower, is not taken.
    """
    squared = (bone**2).sum(-1) - noise
    known = np.isfinite(squared)
    if known.sum() < LEAST_BONES:
        return np.nan
    middle = np.median(squared[known])
    usual = 1.4826 * np.median(np.abs(squared[known] - middle))
    length = float(squared[known][np.abs(squared[known] - middle) <= 4 * usual].mean())
    return float(np.sqrt(length)) if length > 0 else np.nan


def upright_by_people(poses: Float64, skeleton: Skeleton, feet: NDArray[np.intp]) -> Upright:
    """Up from spines and feet: people stand and walk upright on average, and feet tread on a level floor.

    poses (frames, joints, 3) of common14; feet: joints that tread. The floor counts where the feet cover it in both
    directions; otherwise the line from the ankles to the shoulders does.
    """
    left, right = (poses[:, skeleton.joints.index(f"{side}_ankle")] for side in ("left", "right"))
    ankles = np.where(np.isfinite(left), np.where(np.isfinite(right), (left + right) / 2, left), right)
    trunk = poses[:, skeleton.joints.index("mid_shoulder")] - ankles
    tall = np.linalg.norm(trunk, axis=-1)
    standing = np.isfinite(tall) & (tall > 0.8 * np.nanmedian(tall))
    if standing.sum() < LEAST_BONES:
        raise EdgeliftError(
            "gravity", "hardly a moment in which somebody stands and feet and shoulders are seen", "upright people",
            "Give the axis: --up CAMERA=0,-1,0 for a camera that stands level.",
        )  # fmt: skip
    spine = _unit(np.median(trunk[standing] / tall[standing, None], axis=0))
    size = float(np.median(tall[standing]))
    tread = poses[:, feet].reshape(-1, 3)
    tread = tread[np.isfinite(tread).all(-1)]
    plane = _floor(tread, spine, size)
    if plane is not None:
        return Upright(plane, 0.5, float(np.percentile(tread @ plane, 5)), "the floor that feet tread on")
    return Upright(spine, LEVEL_SD_DEG, float(np.percentile(tread @ spine, 5)), "upright spines (feet cover no floor)")


def _floor(tread: Float64, spine: Float64, size: float) -> Float64 | None:
    """Normal of the plane under the feet, or None: too little of it, or not level by the spine."""
    up = spine
    for _ in range(5):
        across = np.linalg.svd(up[None])[2][1:]
        place, height = tread @ across.T, tread @ up
        low = _lowest_nearby(place, height, size)
        if low.sum() < LEAST_BONES:
            return None
        spread = np.sqrt(np.linalg.eigvalsh(np.cov(place[low].T)))
        if spread[0] < FLOOR_SPREAD * size:
            return None
        slope = np.linalg.lstsq(np.c_[place[low], np.ones(low.sum())], height[low], rcond=None)[0]
        up = _unit(up - slope[:2] @ across)
    turn = np.degrees(np.arccos(np.clip(up @ spine, -1, 1)))
    return up if turn < FLOOR_TURN_DEG else None


def _lowest_nearby(place: Float64, height: Float64, size: float) -> NDArray[np.bool_]:
    """Feet on the ground: among the lowest fifth of those within half a body's length."""
    cell = np.floor(place / (0.5 * size)).astype(int)
    _, index = np.unique(cell, axis=0, return_inverse=True)
    index = index.ravel()
    low = np.zeros(len(height), bool)
    for number in range(index.max() + 1):
        own = np.flatnonzero(index == number)
        low[own] = height[own] <= np.percentile(height[own], 20)
    return low & (height < np.percentile(height, 20) + LOWEST * size)


def upright_by_axis(cameras: Sequence[Camera], name: str, axis: Sequence[float], feet: Float64) -> Upright:
    """Up as a direction in one camera's frame: 0, -1, 0 for a camera that stands level (its y axis points down)."""
    by_name = {camera.name: camera for camera in cameras}
    if name not in by_name or len(axis) != 3 or not np.isfinite(axis).all() or not np.any(axis):
        raise EdgeliftError(
            "--up", f"{name}={','.join(map(str, axis))}", f"CAMERA=x,y,z with one of {', '.join(by_name)}",
            "Write, say, --up cam_01=0,-1,0 for a camera that stands level.",
        )  # fmt: skip
    up = _unit(by_name[name].R.T @ np.asarray(axis, np.float64))
    known = feet[np.isfinite(feet).all(-1)]
    floor = float(np.percentile(known @ up, 5)) if len(known) else 0.0
    return Upright(up, LEVEL_SD_DEG, floor, f"the given axis of camera {name}")


def _unit(vector: Float64) -> Float64:
    return np.asarray(vector / np.linalg.norm(vector))


def in_the_world(cameras: Sequence[Camera], scale: Scale, upright: Upright, middle: Float64) -> tuple[Camera, ...]:
    """Return the cameras in metres, Z up, the floor at zero below `middle` (3,), the first camera looking along +Y."""
    forward = cameras[0].R[2] - (cameras[0].R[2] @ upright.up) * upright.up
    if np.linalg.norm(forward) < 1e-3:  # it looks straight down
        forward = -(cameras[0].R[1] - (cameras[0].R[1] @ upright.up) * upright.up)
    y = _unit(forward)
    turn = np.stack([np.cross(y, upright.up), y, upright.up])  # rig to world
    origin = middle + (upright.floor - middle @ upright.up) * upright.up
    placed = []
    for camera in cameras:
        R = camera.R @ turn.T
        centre = scale.metres * (turn @ (camera.centre - origin))
        placed.append(Camera(camera.name, camera.K, camera.dist, R, -R @ centre, camera.size))
    return tuple(placed)
