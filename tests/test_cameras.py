import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.cameras import (
    Camera,
    PixelTable,
    camera_to_world,
    denormalise,
    distort,
    normalise,
    project,
    rays,
    screen_intrinsics,
    triangulate,
    undistort,
    undistort_pixels,
    world_to_camera,
)
from edgelift.poses.errors import EdgeliftError

Float64 = NDArray[np.float64]
RIGS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "rigs.json"
# strong and mild barrels and pincushions with tangential parts, as published for motion-capture rigs
LENSES = {
    "none": (500, (0, 0, 0, 0, 0)),
    "h36m-like": (1145, (-0.21, 0.25, -0.0014, -0.001, -0.003)),
    "humaneva-like": (770, (-0.3, 0.1, 0.0002, -0.007, 0)),
    "humaneva-like, strong k2": (770, (-0.33, 1.28, -0.0065, -0.0054, 0)),
    "pincushion": (770, (0.15, 0.02, 0.003, 0.002, 0.01)),
}


def corners(size: tuple[int, int]) -> Float64:
    """Return a grid over the image whose rim is the image's own, (..., 2) pixels."""
    x, y = np.meshgrid(np.linspace(0, size[0], 9), np.linspace(0, size[1], 9))
    return np.stack([x, y], -1)


def look_at(name: str, angle: float, lens: str = "humaneva-like", distance: float = 4.0) -> Camera:
    """Return a camera on a circle round the origin, 1.5 m high, its z axis through (0, 0, 1)."""
    focal, dist = LENSES[lens]
    centre = np.array([distance * math.cos(angle), distance * math.sin(angle), 1.5])
    forward = (np.array([0, 0, 1.0]) - centre) / np.linalg.norm(np.array([0, 0, 1.0]) - centre)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[focal, 0, 325], [0, focal * 1.01, 238], [0, 0, 1]])
    return Camera(name, K, np.array(dist, np.float64), R, -R @ centre, (640, 480))


def rig(views: int) -> list[Camera]:
    lenses = list(LENSES)
    return [look_at(f"cam{i}", 0.3 + 1.4 * i, lenses[i % len(lenses)]) for i in range(views)]


def body(frames: int = 6, joints: int = 5) -> Float64:
    return np.random.default_rng(0).uniform([-0.4, -0.4, 0.6], [0.4, 0.4, 1.6], size=(frames, joints, 3))


def seen(points: Float64, cameras: list[Camera], confidence: float = 1.0) -> Float64:
    """Return exact keypoints (views, ..., 3) of world points."""
    pixels = np.stack([project(points, camera) for camera in cameras])
    return np.concatenate([pixels, np.full((*pixels.shape[:-1], 1), confidence)], -1)


def scalar_project(point: Float64, camera: Camera) -> tuple[float, float]:
    """One point through OpenCV's formula, written out number by number."""
    x, y, z = (sum(camera.R[i, j] * point[j] for j in range(3)) + camera.t[i] for i in range(3))
    k1, k2, p1, p2, k3 = camera.dist
    x, y = x / z, y / z
    r = math.hypot(x, y)
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    u = x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2)
    v = y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y
    return camera.K[0, 0] * u + camera.K[0, 1] * v + camera.K[0, 2], camera.K[1, 1] * v + camera.K[1, 2]


@pytest.mark.parametrize("lens", LENSES)
def test_undistort_inverts_distort_up_to_the_corners(lens: str) -> None:
    camera = look_at("cam", 0.0, lens)
    distorted = normalise(corners(camera.size), camera.K)
    ideal = undistort(distorted, camera.dist)
    np.testing.assert_allclose(distort(ideal, camera.dist), distorted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(undistort(distort(ideal, camera.dist), camera.dist), ideal, rtol=0, atol=1e-6)


def test_undistort_inverts_distort_at_every_published_rig() -> None:
    if not RIGS.is_file():
        pytest.skip("the rigs of HumanEva and Human3.6M are not here (shared/data/rigs.json)")
    rigs: dict[str, list[dict[str, Any]]] = json.loads(RIGS.read_text())["rigs"]
    assert {name.split("_")[0] for name in rigs} >= {"h36m", "humaneva"}
    for views in rigs.values():
        for view in views:
            K, dist = np.array(view["K"]), np.array(view["dist"])
            distorted = normalise(corners(view["size"]), K)
            again = distort(undistort(distorted, dist), dist)
            np.testing.assert_allclose(again, distorted, rtol=0, atol=1e-6, err_msg=str(view["id"]))


@pytest.mark.parametrize("lens", LENSES)
def test_project_is_the_scalar_formula(lens: str) -> None:
    camera = look_at("cam", 0.7, lens)
    camera.K[0, 1] = 3.5  # skew
    points = body()
    slow = [[scalar_project(point, camera) for point in frame] for frame in points]
    np.testing.assert_allclose(project(points, camera), slow, rtol=0, atol=1e-9)


def test_the_optical_axis_and_the_directions_of_the_image() -> None:
    camera = look_at("cam", 0.0)
    np.testing.assert_allclose(project(np.array([0, 0, 1.0]), camera), [325, 238], atol=1e-9)
    np.testing.assert_allclose(camera.centre, [4, 0, 1.5], atol=1e-12)
    above, to_the_right = project(np.array([[0, 0, 1.2], [0, 0.2, 1]]), camera)
    assert above[1] < 238  # pixels count downwards
    assert to_the_right[0] > 325  # the camera looks along -x: its right is +y


def test_world_and_camera_frames_round_trip() -> None:
    camera, points = look_at("cam", 2.0), body()
    local = world_to_camera(points, camera)
    np.testing.assert_allclose(camera_to_world(local, camera), points, rtol=0, atol=1e-12)
    np.testing.assert_allclose(world_to_camera(camera.centre, camera), 0, atol=1e-12)
    distance = np.linalg.norm(points - camera.centre, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(local, axis=-1), distance, rtol=1e-12)


@pytest.mark.parametrize("lens", LENSES)
def test_rays_and_undistorted_pixels_are_those_of_an_ideal_camera(lens: str) -> None:
    camera, points = look_at("cam", 1.0, lens), body()
    local = world_to_camera(points, camera)
    pixels = project(points, camera)
    np.testing.assert_allclose(rays(pixels, camera), local[..., :2] / local[..., 2:], rtol=0, atol=1e-6)
    ideal = Camera("ideal", camera.K, np.zeros(5), camera.R, camera.t, camera.size)
    np.testing.assert_allclose(undistort_pixels(pixels, camera), project(points, ideal), rtol=0, atol=1e-3)


@pytest.mark.parametrize("lens", [lens for lens in LENSES if lens != "none"])
def test_looked_up_pixels_are_those_that_are_calculated(lens: str) -> None:
    camera = look_at("cam", 0.3, lens)
    width, height = camera.size
    table = PixelTable(camera)
    points = np.random.default_rng(0).uniform((-0.2 * width, -0.2 * height), (1.2 * width, 1.2 * height), (5000, 1, 2))
    points = np.concatenate([points.reshape(-1, 2), corners(camera.size).reshape(-1, 2), [[np.nan, 3], [5, np.nan]]])
    exact = undistort_pixels(points, camera)
    np.testing.assert_allclose(table(points), exact, atol=5e-3)  # pixels; NaN where that is NaN
    outside = ((points < 0) | (points > camera.size)).any(-1)
    np.testing.assert_array_equal(table(points)[outside], exact[outside])
    assert table(points[7]).shape == (2,)


def test_a_camera_makes_one_table_and_none_without_distortion() -> None:
    camera, ideal = look_at("cam", 0.3, next(lens for lens in LENSES if lens != "none")), look_at("cam", 0.3, "none")
    assert camera.pixel_table is camera.pixel_table is not None
    assert ideal.pixel_table is None


def test_normalise_inverts_denormalise_with_skew() -> None:
    K = np.array([[900.0, 4, 310], [0, 910, 250], [0, 0, 1]])
    pixels = corners((640, 480))
    np.testing.assert_allclose(denormalise(normalise(pixels, K), K), pixels, rtol=0, atol=1e-9)


def test_screen_intrinsics_put_the_width_in_minus_one_to_one() -> None:
    fx, fy, cx, cy = screen_intrinsics((640, 480))
    assert (0 - cx) / fx == -1
    assert (640 - cx) / fx == 1
    assert (480 - cy) / fy == 0.75


def test_nan_passes_through_and_behind_the_camera_is_nan() -> None:
    camera = look_at("cam", 0.0)
    points = np.array([[0, 0, 1.0], [9.0, 0, 1.0], [np.nan, 0, 1]])
    pixels = project(points, camera)
    assert np.isfinite(pixels[0]).all()
    assert np.isnan(pixels[1:]).all()
    assert np.isnan(rays(pixels, camera)[1:]).all()


@pytest.mark.parametrize("views", [2, 3, 4])
def test_triangulation_of_exact_projections_is_the_truth(views: int) -> None:
    cameras, points = rig(views), body()
    found, residuals = triangulate(seen(points, cameras), cameras)
    np.testing.assert_allclose(found, points, rtol=0, atol=1e-6)
    assert residuals.shape == (views, *points.shape[:-1])
    np.testing.assert_allclose(residuals, 0, atol=1e-3)


def test_triangulation_goes_on_with_the_views_that_see_a_joint() -> None:
    cameras, points = rig(4), body()
    keypoints = seen(points, cameras)
    keypoints[0, :, 1] = (np.nan, np.nan, 0)
    keypoints[[0, 2], :, 3] = (np.nan, np.nan, 0)
    found, residuals = triangulate(keypoints, cameras)
    np.testing.assert_allclose(found, points, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(residuals), np.isnan(keypoints[..., 0]))


@pytest.mark.parametrize("seeing", [0, 1])
def test_a_joint_seen_by_fewer_than_two_views_is_nan(seeing: int) -> None:
    cameras, points = rig(3), body()
    keypoints = seen(points, cameras)
    keypoints[seeing:, 2, 1] = (np.nan, np.nan, 0)
    found, residuals = triangulate(keypoints, cameras)
    assert np.isnan(found[2, 1]).all()
    assert np.isnan(residuals[:, 2, 1]).all()
    assert np.isfinite(found).sum() == found.size - 3


def test_confidence_weighs_an_outlier() -> None:
    cameras, points = rig(4), body()
    keypoints = seen(points, cameras)
    keypoints[1, ..., 0] += 60
    errors = []
    for confidence in (0.0, 0.05, 0.3, 1.0):
        keypoints[1, ..., 2] = confidence
        errors.append(float(np.linalg.norm(triangulate(keypoints, cameras)[0] - points, axis=-1).max()))
    assert errors[0] < 1e-6  # no confidence: no influence
    assert errors == sorted(errors)
    assert errors[1] < 0.05 * errors[-1]


def test_residuals_are_distances_in_raw_pixels() -> None:
    cameras, points = rig(3), body()
    keypoints = seen(points, cameras)
    keypoints[2, ..., :2] += [3, 4]
    keypoints[2, ..., 2] = 1e-6  # too little to move the point
    _, residuals = triangulate(keypoints, cameras)
    np.testing.assert_allclose(residuals[2], 5, atol=1e-3)
    np.testing.assert_allclose(residuals[:2], 0, atol=1e-3)


def test_triangulation_does_not_depend_on_the_order_of_views_nor_on_the_scale_of_confidence() -> None:
    cameras, points = rig(4), body()
    rng = np.random.default_rng(3)
    keypoints = seen(points, cameras)
    keypoints[..., :2] += rng.normal(size=keypoints[..., :2].shape)
    keypoints[..., 2] = rng.uniform(0.2, 1, size=keypoints.shape[:-1])
    found, _ = triangulate(keypoints, cameras)
    reversed_, _ = triangulate(keypoints[::-1] * [1, 1, 0.5], cameras[::-1])
    np.testing.assert_allclose(reversed_, found, rtol=0, atol=1e-9)


def test_triangulation_wants_a_camera_a_view() -> None:
    cameras = rig(3)
    with pytest.raises(EdgeliftError, match="2 views and 3 cameras"):
        triangulate(seen(body(), cameras[:2]), cameras)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("K", np.diag([np.nan, 700, 1])),
        ("K", np.diag([-700, 700, 1])),
        ("K", np.eye(4)),
        ("dist", np.array([0, np.inf, 0, 0, 0])),
        ("dist", np.zeros(4)),
        ("R", np.diag([1.0, 1, -1])),
        ("R", np.eye(3) * 1.01),
        ("R", np.eye(3) + 0.01),
        ("R", np.zeros(3)),
        ("R", np.full((3, 3), np.nan)),
        ("t", np.array([0, np.nan, 0])),
        ("t", np.zeros((3, 1))),
        ("size", (0, 480)),
    ],
)
def test_a_camera_that_is_none_is_refused(field: str, value: Any) -> None:
    good: dict[str, Any] = {"K": np.diag([700, 700, 1]), "dist": np.zeros(5), "R": np.eye(3), "t": np.zeros(3)}
    good["size"] = (640, 480)
    assert Camera("left", **good).K.dtype == np.float64
    with pytest.raises(EdgeliftError, match="camera left"):
        Camera("left", **(good | {field: value}))
