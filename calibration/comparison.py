"""How far one rig is from another: camera by camera, after a similarity and as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError


def compare(found: Sequence[Camera], reference: Sequence[Camera]) -> dict[str, Any]:
    """Return errors by camera, in the order of `found`, matched by name; None where there is nothing to compare.

    camera_centre_error_mm and rotation_error_deg after the similarity that takes the found centres to the true ones
    (least squares; Umeyama 1991); metric_centre_error_mm and metric_rotation_error_deg after the same without scaling;
    scale_error_percent: by how much the found rig is too large. Two centres leave a turn open, which the cameras'
    orientations then decide.
    """
    known = {camera.name: camera for camera in reference}
    lacking = [camera.name for camera in found if camera.name not in known]
    if lacking:
        raise EdgeliftError(
            "--reference", f"cameras {', '.join(known)}, no {', '.join(lacking)}",
            f"all of {', '.join(c.name for c in found)}", "Give a rig with the same names.",
        )  # fmt: skip
    true = [known[camera.name] for camera in found]
    scale, turn = _alignment(found, true)
    return {
        "camera_centre_error_mm": _centre_errors(found, true, scale, turn),
        "rotation_error_deg": _turn_errors(found, true, turn),
        "metric_centre_error_mm": _centre_errors(found, true, 1.0, turn),
        "metric_rotation_error_deg": _turn_errors(found, true, turn),
        "scale_error_percent": round(100 * (1 / scale - 1), 4),
    }


def aligned_errors_mm(found: Sequence[Camera], reference: Sequence[Camera]) -> Float64:
    """(views, 3) millimetres, along the axes of the found world: its centres after alignment minus the true ones."""
    known = {camera.name: camera for camera in reference}
    true = [known[camera.name] for camera in found]
    scale, turn = _alignment(found, true)
    return np.asarray(1000 * (scale * _about_mean(found) - _about_mean(true) @ turn))


def _alignment(found: Sequence[Camera], true: Sequence[Camera]) -> tuple[float, Float64]:
    """Scale and turn (3, 3) that take the found world to the true one."""
    a, b = _about_mean(found), _about_mean(true)
    covariance = b.T @ a
    if len(found) < 3:  # orientations tell the turn about the connecting line
        covariance = covariance + 1e-3 * np.trace(a.T @ a) * sum(t.R.T @ f.R for f, t in zip(found, true, strict=True))
    U, _, Vt = np.linalg.svd(covariance)
    turn = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    return float((b * (a @ turn.T)).sum() / (a**2).sum()), turn


def _about_mean(cameras: Sequence[Camera]) -> Float64:
    centres = np.stack([camera.centre for camera in cameras])
    return np.asarray(centres - centres.mean(0))


def _centre_errors(found: Sequence[Camera], true: Sequence[Camera], scale: float, turn: Float64) -> list[float]:
    off = scale * _about_mean(found) @ turn.T - _about_mean(true)
    return [round(1000 * float(e), 3) for e in np.linalg.norm(off, axis=-1)]


def _turn_errors(found: Sequence[Camera], true: Sequence[Camera], turn: Float64) -> list[float]:
    cosines = [(np.trace(t.R @ turn @ f.R.T) - 1) / 2 for f, t in zip(found, true, strict=True)]
    return [round(float(np.degrees(np.arccos(np.clip(c, -1, 1)))), 4) for c in cosines]
