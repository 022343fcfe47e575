"""edgelift's own collections of rigs: a JSON object {"rigs": {NAME: [camera, ...]}}, metres."""

from __future__ import annotations

from typing import Any

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import CameraFile, camera, chosen, fields, image_size, limited


def is_rig_json(content: Any) -> bool:
    """Whether parsed JSON is a collection of rigs."""
    return isinstance(content, dict) and isinstance(content.get("rigs"), dict)


def read_rig_json(file: CameraFile) -> list[Camera]:
    """Read the rig NAME of `FILE.json:NAME`: objects id, K, dist, R, t, size in the convention of `poses.cameras`."""
    items = chosen(file, "rig", file.content["rigs"])
    where = f"{file.path} rig {file.member}"
    if not isinstance(items, list):
        raise EdgeliftError(where, f"a {type(items).__name__}", "a list of cameras", "Correct the file.")
    return [_read(f"{where} camera {i}", item, file) for i, item in enumerate(limited(where, items))]


def _read(where: str, item: Any, file: CameraFile) -> Camera:
    fields(where, item, "id", "K", "dist", "R", "t", "size")
    size = image_size(where, item["size"], file.size)
    return camera(where, item["id"], item["K"], item["dist"], item["R"], item["t"], size)
