"""caliscope's own `camera_array.toml`: nested sections [cameras.N], metres, a missing key for what is not known yet."""

from __future__ import annotations

from typing import Any

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.anipose import check_pinhole
from edgelift.poses.formats.cameras.checks import CameraFile, camera, fields, image_size, named, numbers, rotation


def is_caliscope(content: Any) -> bool:
    """Whether parsed TOML is caliscope's: all its cameras in one table."""
    return isinstance(content, dict) and isinstance(content.get("cameras"), dict)


def read_caliscope(file: CameraFile) -> list[Camera]:
    """Read the cameras in the file's order, named `cam_N` as caliscope names its videos; x_cam = R x_world + t.

    `ignore = true` leaves a camera out, as in caliscope. One without intrinsics or pose is refused by name.
    """
    tables = named(str(file.path), file.content["cameras"])
    used = [(key, table) for key, table in tables if not (isinstance(table, dict) and table.get("ignore") is True)]
    return [_read(f"{file.path} [cameras.{key}]", key, table, file) for key, table in used]


def _read(where: str, key: str, table: Any, file: CameraFile) -> Camera:
    fields(where, table, "size")
    for what, keys in {"intrinsics": ("matrix", "distortions"), "pose": ("rotation", "translation")}.items():
        if any(k not in table for k in keys):
            raise EdgeliftError(
                where, f"a camera without {what}", f"{' and '.join(keys)}", "Calibrate this camera, or take it out."
            )
    turned = table.get("rotation_count", 0)
    if type(turned) is not int or turned != 0:
        raise EdgeliftError(
            where, f"rotation_count = {turned}: caliscope shows the images of this camera turned, and calibrates them "
            "as they were filmed", "rotation_count = 0",
            "If the keypoints are of images as they were filmed, set it to 0; if not, turn the videos and calibrate.",
        )  # fmt: skip
    check_pinhole(where, table)
    t = numbers(where, "translation", table["translation"], (3,)) * file.scale
    size = image_size(where, table["size"], file.size)
    return camera(
        where, f"cam_{key}", table["matrix"], table["distortions"], rotation(where, table["rotation"]), t, size
    )
