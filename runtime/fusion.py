"""One person from several views: triangulated where views agree, completed by the lifter where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, triangulate
from edgelift.poses.skeletons import Skeleton

Float64 = NDArray[np.float64]

OUTLIER_RAD = 0.03  # 12 cm at 4 m; real detectors' residuals have their 99th percentile at 0.027
LEAST_ACROSS = 0.034  # 1 - cos(15 degrees): rays that cross at less place a joint no better than a lifter does
GUESS_M, SIGHT_RAD = 0.06, 0.008  # standard deviations: of a lifted joint beside its neighbour, of a keypoint
UNSEEN_WEIGHT = 0.1  # of a view's guess of a joint that it does not see, beside one that sees it with confidence 1


@dataclass(frozen=True, eq=False)
class Fused:
    """xyz (people, joints, 3) world metres, NaN where no two views agree; seen_by (people, joints): how many made it.

    residual (views, people, joints) radians of every sight, NaN where there is none or no point.
    """

    xyz: Float64
    seen_by: NDArray[np.int64]
    residual: Float64


def ideal(camera: Camera) -> Camera:
    """Return the camera without lens and pixels, in which image points are rays (x/z, y/z) and distances angles."""
    return Camera(camera.name, np.eye(3), np.zeros(5), camera.R, camera.t, camera.size)


def triangulate_robustly(sights: Float64, cameras: Sequence[Camera]) -> Fused:
    """Triangulate sights (views, people, joints, 3): rays x/z, y/z and confidence, 0 or NaN where missing.

    cameras are `ideal` ones. Where three or more views see a joint and the worst is an outlier, it is left out, again
    and again; two views that disagree make no point, nor do rays that hardly cross.
    """
    used = np.where(np.isfinite(sights).all(-1, keepdims=True), sights, [np.nan, np.nan, 0.0])
    xyz, residual = triangulate(used, cameras)
    for _ in range(len(cameras) - 2):
        misfit = _misfit(residual, used)
        worst = misfit.argmax(0)
        person, joint = np.nonzero((misfit.max(0) > OUTLIER_RAD) & ((used[..., 2] > 0).sum(0) > 2))
        if not len(person):
            break
        used[worst[person, joint], person, joint] = (np.nan, np.nan, 0)
        again, its_residual = triangulate(used[:, person, joint][:, :, None], cameras)
        xyz[person, joint], residual[:, person, joint] = again[:, 0], its_residual[..., 0]
    seen_by = (used[..., 2] > 0).sum(0)
    agreed = (seen_by >= 2) & (_misfit(residual, used).max(0) <= OUTLIER_RAD) & (_across(used, cameras) > LEAST_ACROSS)
    return Fused(np.where(agreed[..., None], xyz, np.nan), np.where(agreed, seen_by, 0), residual)


def _misfit(residual: Float64, used: Float64) -> Float64:
    """Residuals of what was used, infinite where the point lies behind the camera; -1 of what was not used."""
    return np.where(used[..., 2] > 0, np.where(np.isnan(residual), np.inf, residual), -1.0)


def _projectors(sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """(views, ..., 3, 3) what leaves of a world vector the part across each view's ray; 0 where nothing is seen."""
    ahead = np.where(np.isfinite(sights[..., :2]), sights[..., :2], 0.0)
    ahead = np.concatenate([ahead, np.ones_like(ahead[..., :1])], -1)
    rotations = np.stack([camera.R for camera in cameras])
    along = np.einsum("v...x,vxy->v...y", ahead, rotations)
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    across = np.eye(3) - along[..., :, None] * along[..., None, :]
    return np.asarray(np.where((sights[..., 2] > 0)[..., None, None], across, 0.0))


def _across(sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """(people, joints) how well the rays cross: 1 - cos of the angle between two, more for several; 0 for parallels."""
    return np.asarray(np.linalg.eigvalsh(_projectors(sights, cameras).sum(0))[..., 0])


@cache
def _nearest(skeleton: Skeleton) -> NDArray[np.int64]:
    """(joints, joints) for each joint all joints, nearest along the body first."""
    count = len(skeleton.joints)
    hops = np.full((count, count), count)
    np.fill_diagonal(hops, 0)
    for a, b in skeleton.bones:
        hops[a, b] = hops[b, a] = 1
    for middle in range(count):
        hops = np.minimum(hops, hops[:, middle : middle + 1] + hops[middle])
    return np.argsort(hops, axis=1, kind="stable")


def complete(xyz: Float64, lifted: Float64, sights: Float64, cameras: Sequence[Camera], skeleton: Skeleton) -> Float64:
    """Complete one person's joints (joints, 3), world metres, NaN where not triangulated, by what was lifted.

    lifted (views, joints, 3) world metres, sights (views, joints, 3) rays and confidence and cameras are of the views
    that see the person. A joint stands to its nearest triangulated neighbour as lifted, on the mean over the views,
    those that see it counting most, then drawn to the rays of the views that see it. With no triangulated joint at
    all the lifted poses themselves are averaged.
    """
    missing: NDArray[np.bool_] = np.asarray(~np.isfinite(xyz).all(axis=-1))
    seen: Float64 = np.where(np.isfinite(sights).all(axis=-1), sights[..., 2], 0.0)
    weight = np.maximum(seen, UNSEEN_WEIGHT)[..., None]
    if missing.all():
        return np.asarray((weight * lifted).sum(0) / weight.sum(0))
    order = _nearest(skeleton)
    anchor = order[np.arange(len(xyz)), np.argmin(missing[order], axis=1)]
    offset = (weight * (lifted - lifted[:, anchor])).sum(0) / weight.sum(0)
    completed = np.where(missing[:, None], xyz[anchor] + offset, xyz)
    sighted = np.flatnonzero(missing & (seen > 0).any(0))
    completed[sighted] = _pulled_to_rays(completed[sighted], sights[:, sighted], cameras)
    return np.asarray(completed)


def _pulled_to_rays(points: Float64, sights: Float64, cameras: Sequence[Camera]) -> Float64:
    """Most likely place of points (joints, 3), known to GUESS_M as they are, given views' rays (views, joints, 3).

    Least squares: (x - point) / GUESS_M, and the distance from each ray over what SIGHT_RAD is at the point's depth.
    """
    centres = np.stack([camera.centre for camera in cameras])[:, None]
    depth = np.linalg.norm(points - centres, axis=-1)
    weight = (GUESS_M / (SIGHT_RAD * np.maximum(depth, 0.1))) ** 2
    information = _projectors(sights, cameras) * weight[..., None, None]
    pull = np.einsum("vjxy,vjy->jx", information, centres - points)
    step = np.linalg.solve(np.eye(3) + information.sum(0), pull[..., None])[..., 0]
    return np.asarray(points + step)
