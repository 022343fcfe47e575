"""The anipose TOML family: a section a camera, as Pose2Sim, anipose, FreeMoCap and caliscope's export write it.

All give x_cam = R x_world + t with Rodrigues vectors and OpenCV's model; the unit of t is in none of them. Pose2Sim and
caliscope write metres, FreeMoCap millimetres, anipose the unit of the board (aniposelib `CameraGroup.get_dicts`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import CameraFile, camera, fields, image_size, named, numbers, rotation
from edgelift.poses.formats.cameras.rotations import matrix_to_rotvec

NOT_CAMERAS = ("metadata", "capture_volume", "charuco", "checkerboard")  # sections that Pose2Sim skips too
OF_CAMERAS = {"name", "size", "distortions", "fisheye"}  # FreeMoCap adds sections of matrices that have none of these


def is_anipose(content: Any) -> bool:
    """Whether parsed TOML is of this family: of all TOML, what is not caliscope's own."""
    return isinstance(content, dict) and "cameras" not in content


def read_anipose(file: CameraFile) -> list[Camera]:
    """Read the cameras in the file's order (anipose itself sorts them, cam_10 before cam_2: match them by name)."""
    tables = named(str(file.path), {key: table for key, table in file.content.items() if _is_camera(key, table)})
    return [_read(f"{file.path} [{key}]", key, table, file) for key, table in tables]


def _is_camera(key: str, table: Any) -> bool:
    """A section that holds nothing may be a camera of a file that was cut short, which has to be told."""
    if key in NOT_CAMERAS or not isinstance(table, dict):
        return False
    return not table or bool(OF_CAMERAS & table.keys()) or re.fullmatch(r"cam_\d+", key) is not None


def _read(where: str, key: str, table: Any, file: CameraFile) -> Camera:
    fields(where, table, "size", "matrix", "distortions", "rotation", "translation")
    check_pinhole(where, table)
    R, t = rotation(where, table["rotation"]), numbers(where, "translation", table["translation"], (3,))
    size = image_size(where, table["size"], file.size)
    return camera(where, table.get("name", key), table["matrix"], table["distortions"], R, t * file.scale, size)


def check_pinhole(where: str, table: dict[str, Any]) -> None:
    """EdgeliftError where a camera is marked as a fisheye: its four coefficients mean something else."""
    if table.get("fisheye", False) is not False:
        raise EdgeliftError(
            where, f"fisheye = {table['fisheye']}".lower(), "a pinhole camera with up to 5 distortion coefficients",
            "Undistort the videos of this camera first, or calibrate it without the fisheye model.",
        )  # fmt: skip


def pose2sim_text(cameras: Sequence[Camera]) -> str:
    """Return the TOML text that Pose2Sim reads: sections named like the cameras, metres, sizes as floats."""
    sections = [_section(_toml_key(c.name), c, [float(v) for v in c.size], 1.0) + "fisheye = false\n" for c in cameras]
    return "\n".join([*sections, METADATA])


def anipose_text(cameras: Sequence[Camera], metres_per_unit: float) -> str:
    """Return the TOML text that aniposelib reads: sections cam_0, cam_1, ... in the unit of 1 / metres_per_unit."""
    sections = [_section(f"cam_{i}", c, list(c.size), metres_per_unit) for i, c in enumerate(cameras)]
    return "\n".join([*sections, METADATA])


METADATA = "[metadata]\nadjusted = false\nerror = 0.0\n"


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _section(key: str, camera: Camera, size: Sequence[float], metres_per_unit: float) -> str:
    values = {
        "size": list(size),
        "matrix": camera.K.tolist(),
        "distortions": camera.dist.tolist(),
        "rotation": matrix_to_rotvec(camera.R).tolist(),
        "translation": (camera.t / metres_per_unit).tolist(),
    }
    lines = [f"{name} = {value}" for name, value in values.items()]
    return "\n".join([f"[{key}]", f"name = {json.dumps(camera.name, ensure_ascii=False)}", *lines, ""])
