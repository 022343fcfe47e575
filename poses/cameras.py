"""Cameras: projection, distortion, rays, world and camera frames, triangulation.

Convention (OpenCV): x_cam = R @ x_world + t in metres, x right, y down, z forward; pixels = K @ (x/z, y/z, 1) after
distortion with k1, k2, p1, p2, k3 (OpenCV, "Camera Calibration and 3D Reconstruction").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgelift.poses.errors import EdgeliftError

Float64 = NDArray[np.float64]
Complex = NDArray[np.complex128]

UNDISTORT_ITERATIONS = 60  # fixed point; HumanEva's k1 = -0.3 reaches 1e-9 at the image corner within half of these
UNDISTORT_STEP = 1e-9  # a smaller step ends it early: 1e-6 pixels; weak lenses need five iterations, live frames count
UNDISTORT_TOLERANCE = 1e-5  # a last step above this, 0.01 pixels, is no convergence


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated camera; raises EdgeliftError on non-finite numbers or a rotation that is none.

    K (3, 3) pixels; dist (5,) k1 k2 p1 p2 k3; R (3, 3) and t (3,) metres, world to camera; size (width, height) pixels.
    """

    name: str
    K: Float64
    dist: Float64
    R: Float64
    t: Float64
    size: tuple[int, int]

    def __post_init__(self) -> None:
        for field, shape in (("K", (3, 3)), ("dist", (5,)), ("R", (3, 3)), ("t", (3,))):
            value = np.asarray(getattr(self, field), np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise EdgeliftError(
                    f"camera {self.name}: {field}", str(value.tolist()), f"{shape} finite numbers",
                    "Correct or recalibrate this camera.",
                )  # fmt: skip
            object.__setattr__(self, field, value)
        if np.abs(self.R @ self.R.T - np.eye(3)).max() > 1e-4 or np.linalg.det(self.R) < 0:
            raise EdgeliftError(
                f"camera {self.name}: R", f"determinant {np.linalg.det(self.R):.4f}", "an orthonormal rotation",
                "Check that R is a matrix (not a Rodrigues vector) and belongs to x_cam = R x_world + t.",
            )  # fmt: skip
        if self.K[0, 0] <= 0 or self.K[1, 1] <= 0 or min(self.size) <= 0:
            raise EdgeliftError(
                f"camera {self.name}", f"focal lengths {self.K[0, 0]}, {self.K[1, 1]}, size {self.size}",
                "positive numbers", "Correct the intrinsics.",
            )  # fmt: skip

    @cached_property
    def pixel_table(self) -> PixelTable | None:
        """For frames that are waited for; None without distortion. Made when first asked for, 10 to 20 ms."""
        return PixelTable(self) if self.dist.any() else None

    @property
    def centre(self) -> Float64:
        """Optical centre in the world, (3,) metres."""
        centre: Float64 = -self.R.T @ self.t
        return centre

    @property
    def intrinsics(self) -> Float64:
        """(4,) fx, fy, cx, cy in pixels: what a rays lifter takes."""
        return np.array([self.K[0, 0], self.K[1, 1], self.K[0, 2], self.K[1, 2]])


def screen_intrinsics(size: tuple[int, int]) -> Float64:
    """(4,) f = width / 2 and c = size / 2: the `screen` normalisation, for cameras of unknown intrinsics."""
    width, height = size
    return np.array([width / 2, width / 2, width / 2, height / 2])


def world_to_camera(points: ArrayLike, camera: Camera) -> Float64:
    """(..., 3) world metres to camera metres."""
    local: Float64 = np.asarray(points, np.float64) @ camera.R.T + camera.t
    return local


def camera_to_world(points: ArrayLike, camera: Camera) -> Float64:
    """(..., 3) camera metres to world metres."""
    world: Float64 = (np.asarray(points, np.float64) - camera.t) @ camera.R
    return world


def distort(rays: ArrayLike, dist: Float64) -> Float64:
    """(..., 2) ideal normalised image points x/z, y/z to distorted ones (OpenCV's five-coefficient model)."""
    return _parts(_distort(_whole(rays), dist.tolist()))


def _distort(z: Complex, dist: list[float]) -> Complex:
    """`distort` of points as complex numbers x + iy: half the array operations, and live frames are all overhead."""
    k1, k2, p1, p2, k3 = dist
    q = complex(p2, p1)
    r2 = z.real * z.real + z.imag * z.imag
    # OpenCV's dx = 2 p1 x y + p2 (r2 + 2 x x) and dy = p1 (r2 + 2 y y) + 2 p2 x y, gathered around their common factor
    factor = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if q:
        factor = factor + 2 * (z * q.conjugate()).real
    distorted: Complex = z * factor + r2 * q if q else z * factor
    return distorted


def undistort(points: ArrayLike, dist: Float64) -> Float64:
    """(..., 2) distorted normalised image points to ideal ones: the inverse of `distort`, by fixed-point iteration.

    NaN where that does not converge: far off the axis a strong lens model folds, and no ray belongs to the point.
    """
    if not np.any(dist):
        return np.array(points, np.float64)
    distorted, coefficients = _whole(points), dist.tolist()
    ideal = distorted
    with np.errstate(over="ignore", invalid="ignore"):  # where it diverges
        for _ in range(UNDISTORT_ITERATIONS):
            step = distorted - _distort(ideal, coefficients)
            ideal = ideal + step
            if not (np.abs(step) > UNDISTORT_STEP).any():  # NaN (missing) compares false
                return _parts(ideal)
        return _parts(np.where(np.abs(step) <= UNDISTORT_TOLERANCE, ideal, complex(np.nan, np.nan)))


def _whole(points: ArrayLike) -> Complex:
    """(..., 2) to (...,) complex x + iy."""
    whole: Complex = np.asarray(points, np.float64, order="C").view(np.complex128)[..., 0]
    return whole


def _parts(z: Complex) -> Float64:
    """(...,) complex x + iy to (..., 2)."""
    parts: Float64 = np.asarray(z, order="C")[..., None].view(np.float64)
    return parts


def normalise(pixels: ArrayLike, K: Float64) -> Float64:
    """(..., 2) pixels to normalised image points, K with skew allowed."""
    xy = np.asarray(pixels, np.float64)
    y = (xy[..., 1] - K[1, 2]) / K[1, 1]
    x = (xy[..., 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return np.stack([x, y], -1)


def denormalise(points: ArrayLike, K: Float64) -> Float64:
    """(..., 2) normalised image points to pixels."""
    xy = np.asarray(points, np.float64)
    return np.stack(
        [K[0, 0] * xy[..., 0] + K[0, 1] * xy[..., 1] + K[0, 2], K[1, 1] * xy[..., 1] + K[1, 2]],
        -1,
    )


def project(points: ArrayLike, camera: Camera) -> Float64:
    """(..., 3) world metres to (..., 2) raw (distorted) pixels; NaN behind the camera."""
    local = world_to_camera(points, camera)
    z = np.where(local[..., 2:] > 0, local[..., 2:], np.nan)
    return denormalise(distort(local[..., :2] / z, camera.dist), camera.K)


def rays(pixels: ArrayLike, camera: Camera) -> Float64:
    """(..., 2) raw pixels to (..., 2) ideal normalised points x/z, y/z; NaN passes through."""
    return undistort(normalise(pixels, camera.K), camera.dist)


def undistort_pixels(pixels: ArrayLike, camera: Camera) -> Float64:
    """(..., 2) raw pixels to the pixels a camera without distortion (and skew) would see: the lifter's input."""
    ideal = rays(pixels, camera)
    fx, fy, cx, cy = camera.intrinsics
    pixels_ideal: Float64 = ideal * np.array([fx, fy]) + np.array([cx, cy])
    return pixels_ideal


class PixelTable:
    """`undistort_pixels` of one camera, looked up: a live frame waits for it, and iterating takes four times as long.

    The exact values on a grid of STEP pixels, interpolated bilinearly in between: 0.002 pixels off at most for lenses
    like Human3.6M's. Beyond the image, and where the lens model folds, it is calculated as ever.
    """

    STEP = 4

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.last = np.array(camera.size) // self.STEP  # of the columns, of the rows; one more than the image has
        columns, rows = (np.arange(last + 2) * float(self.STEP) for last in self.last)
        self.width = len(columns)
        exact = _whole(undistort_pixels(np.stack(np.meshgrid(columns, rows), -1), camera)).ravel()
        self.table = np.stack([exact[:-1], exact[1:]], -1)  # with the right neighbour: half as many look-ups

    def __call__(self, pixels: NDArray[np.floating]) -> Float64:
        """(..., 2) raw pixels to undistorted ones; NaN passes through."""
        place = np.asarray(pixels, np.float64) / self.STEP
        inside = np.logical_and.reduce((place >= 0) & (place <= self.last), -1)  # NaN is not
        if not inside.all():
            place = np.where(inside[..., None], place, 0.0)
        whole = place.astype(np.intp)
        along = place - whole
        corner = whole[..., 1] * self.width + whole[..., 0]
        upper, lower = self.table[corner], self.table[corner + self.width]  # each (..., 2): the left one, the right one
        between = upper + (lower - upper) * along[..., 1:]
        out = between[..., 0] + (between[..., 1] - between[..., 0]) * along[..., 0]
        if not (inside.all() and np.isfinite(out).all()):
            pixels = np.asarray(pixels)
            missing = np.isnan(pixels).any(-1)
            out[missing] = complex(np.nan, np.nan)
            odd = ~(inside & np.isfinite(out) | missing)
            if odd.any():
                out[odd] = _whole(undistort_pixels(pixels[odd], self.camera))
        return _parts(out)


def triangulate(keypoints: ArrayLike, cameras: Sequence[Camera]) -> tuple[Float64, Float64]:
    """Triangulate by confidence-weighted DLT (Hartley & Zisserman 2004, 12.2), all points at once.

    keypoints (views, ..., 3): raw pixels and confidence; not > 0 is missing, and so is a point that no lens can have
    imaged. Returns points (..., 3) in world metres, NaN where fewer than two views see a point, and residuals
    (views, ...) in raw pixels, NaN where a view is missing.
    """
    keypoints = np.asarray(keypoints, np.float64)
    if len(keypoints) != len(cameras):
        raise EdgeliftError(
            "triangulation", f"{len(keypoints)} views and {len(cameras)} cameras", "as many views as cameras",
            "Give one camera a view, in the same order.",
        )  # fmt: skip
    seen_rays = np.stack([rays(view[..., :2], camera) for view, camera in zip(keypoints, cameras, strict=True)])
    weight = np.where((keypoints[..., 2] > 0) & np.isfinite(seen_rays).all(-1), keypoints[..., 2], 0.0)
    normal = np.zeros((*keypoints.shape[1:-1], 4, 4))
    for ray, w, camera in zip(np.where(weight[..., None] > 0, seen_rays, 0.0), weight, cameras, strict=True):
        P = np.hstack([camera.R, camera.t[:, None]])
        rows = (ray[..., None] * P[2] - P[:2]) * w[..., None, None]
        normal += np.swapaxes(rows, -1, -2) @ rows
    seen = (weight > 0).sum(0) >= 2
    solution = np.linalg.eigh(normal)[1][..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        points = np.where(seen[..., None], solution[..., :3] / solution[..., 3:], np.nan)
        projected = np.stack([project(points, camera) for camera in cameras])
        residuals = np.linalg.norm(projected - keypoints[..., :2], axis=-1)
    return points, np.where(weight > 0, residuals, np.nan)
