"""A picture of a rig with the people who made it: from above and from the side, to be looked at before it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelift.calibration.cameras import Calibration
from edgelift.poses.cameras import Camera, Float64, camera_to_world
from edgelift.poses.errors import missing_extra
from edgelift.poses.files import replaced
from edgelift.poses.skeletons import skeleton

SHOWN_POSES = 12  # of all: enough to see where somebody walked
FRUSTUM_M = 0.5  # how far the edges of an image are drawn before its camera
PANELS = ((0, 1, "from above", "x", "y"), (0, 2, "from the front", "x", "z"))


def draw_rig(found: Calibration, path: Path) -> None:
    """Write a PNG or SVG, by its name: cameras with their images' edges and 95 % ellipses, people, axes in metres."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Ellipse
    except ModuleNotFoundError as error:
        raise missing_extra("matplotlib", "calibrate") from error
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for place, (i, j, title, x, y) in enumerate(PANELS):
        axes = figure.add_subplot(1, 2, place + 1)
        for pose in _some(found.poses):
            for a, b in skeleton("common14").bones:
                axes.plot(pose[[a, b], i], pose[[a, b], j], color="0.45", lw=0.8)
        for number, camera in enumerate(found.cameras):
            colour = f"C{number % 10}"
            for corner in _corners(camera):
                axes.plot([camera.centre[i], corner[i]], [camera.centre[j], corner[j]], color=colour, lw=0.8)
            edge = _corners(camera)[[0, 1, 2, 3, 0]]
            axes.plot(edge[:, i], edge[:, j], color=colour, lw=1.2)
            width, height, angle = _ellipse(found, number, (i, j))
            axes.add_patch(Ellipse(tuple(camera.centre[[i, j]]), width, height, angle=angle, color=colour, alpha=0.4))
            axes.annotate(
                camera.name,
                (camera.centre[i], camera.centre[j]),
                textcoords="offset points",
                xytext=(6, 6),
                color=colour,
            )
        axes.set_aspect("equal")
        axes.set(title=title, xlabel=f"{x} (m)", ylabel=f"{y} (m)")
        axes.grid(color="0.9", lw=0.6)
    with replaced(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=110)


def _some(poses: Float64) -> Float64:
    whole = np.flatnonzero(np.isfinite(poses).all((1, 2)))
    return np.asarray(poses[whole[np.linspace(0, len(whole) - 1, min(SHOWN_POSES, len(whole))).astype(int)]])


def _corners(camera: Camera) -> Float64:
    """(4, 3) world: the image's corners, FRUSTUM_M before the camera."""
    width, height = camera.size
    fx, fy, cx, cy = camera.intrinsics
    corners = [((u - cx) / fx, (v - cy) / fy, 1.0) for u, v in ((0, 0), (width, 0), (width, height), (0, height))]
    return camera_to_world(FRUSTUM_M * np.array(corners), camera)


def _ellipse(found: Calibration, view: int, axes: tuple[int, int]) -> tuple[float, float, float]:
    """Width, height and angle in degrees of where a camera is with 95 %."""
    own = found.uncertainty.centre[view][np.ix_(axes, axes)]
    values, vectors = np.linalg.eigh(own)
    width, height = 2 * np.sqrt(5.99 * np.maximum(values, 0))
    return float(width), float(height), float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
