"""Qualisys camera calibrations, exported as `.qca.txt`: XML, millimetres, focal lengths in 1/64 pixel.

`transform` holds the place of the camera in the world and, by columns, its axes; those look backwards and up (x right,
y up, z towards the viewer), so half a turn about x makes them OpenCV's. Found by comparing the two files of Pose2Sim's
demo, where rotation, place and K agree to rounding. Its TOML has the distortion divided by 64 as well; here it is read
as it stands: normalised image points have no pixels in them, and edges in the demo's videos are straightest so.
"""

from __future__ import annotations

import reprlib
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import CameraFile, camera, image_size, limited, numbers

PIXELS_PER_UNIT = 1 / 64
SAME_SIZE = 0.02  # relative: the sensor by its edges in 1/64 pixel, its rows, and `1080p` of an image with 1088 rows
HALF_TURN_ABOUT_X = np.array([[1.0], [-1.0], [-1.0]])


def is_qualisys(content: Any) -> bool:
    """Whether a parsed XML file is a Qualisys calibration."""
    return isinstance(content, Element) and content.tag == "calibration"


def read_qualisys(file: CameraFile) -> list[Camera]:
    """Read the cameras that were used (`active`), in the file's order, named by their serial numbers.

    Marker cameras are among them if the file has any. EdgeliftError for what would need another K than the file's:
    turned views, videos smaller than the sensor, skew, and files of this shape whose unit is not 1/64 pixel.
    """
    found = [element for element in file.content.findall("cameras/camera") if element.get("active") != "0"]
    return [_read(f"{file.path} camera {i} (serial {reprlib.repr(c.get('serial'))})", c, file)
            for i, c in enumerate(limited(str(file.path), found))]  # fmt: skip


def _read(where: str, element: Element, file: CameraFile) -> Camera:
    _check(where, "calibrated", element.get("calibrated", "true"), "true", "Calibrate this camera.")
    _check(
        where, "viewrotation", element.get("viewrotation", "0"), "0",
        "The calibration is of the images as the sensor gives them: set it to 0 if the videos are, or turn them back.",
    )  # fmt: skip
    left, top, right, bottom = _values(where, element, "fov_video", "left", "top", "right", "bottom")
    fx, fy, cx, cy, skew = PIXELS_PER_UNIT * _values(
        where, element, "intrinsic", "focalLengthU", "focalLengthV", "centerPointU", "centerPointV", "skew"
    )
    _check(where, "skew", f"{abs(skew):g}", "0", "Calibrate without skew.")
    _check_sensor(where, element)
    # the video may show a part of the sensor
    K = [[fx, 0.0, cx - left], [0.0, fy, cy - top], [0.0, 0.0, 1.0]]
    radial, tangential = "radialDistortion", "tangentalDistortion"  # the file's spelling
    named = (f"{radial}1", f"{radial}2", f"{tangential}1", f"{tangential}2", f"{radial}3")
    dist = _values(where, element, "intrinsic", *named)
    R = HALF_TURN_ABOUT_X * _values(where, element, "transform", *(f"r{i}{j}" for i in "123" for j in "123")).reshape(
        3, 3
    )
    t = -R @ _values(where, element, "transform", "x", "y", "z") * file.scale
    size = image_size(where, [right - left + 1, bottom - top + 1], file.size)
    return camera(where, element.get("serial"), K, dist, R, t, size)


def _check_sensor(where: str, element: Element) -> None:
    """Compare what the file tells about the sensor three times: edges, rows and columns, and the kind of video."""
    left, top, right, bottom = _values(where, element, "fov_video_max", "left", "top", "right", "bottom")
    sensor = np.array([right - left + 1, bottom - top + 1])
    low_u, high_u, low_v, high_v = PIXELS_PER_UNIT * _values(
        where, element, "intrinsic", "sensorMinU", "sensorMaxU", "sensorMinV", "sensorMaxV"
    )
    if (np.abs(np.array([high_u - low_u, high_v - low_v]) - sensor) > SAME_SIZE * sensor).any():
        raise EdgeliftError(
            where, f"a sensor of {high_u - low_u:g} x {high_v - low_v:g} pixels of 64 units, and of "
            f"{sensor[0]:g} x {sensor[1]:g}", "one size in 1/64 pixel, as Qualisys writes it",
            "Export it from QTM again; files of other programs that look like it are not read.",
        )  # fmt: skip
    rows = element.get("video_resolution", "").removesuffix("p")
    if rows.isdecimal() and abs(float(rows[:9]) - sensor.min()) > SAME_SIZE * sensor.min():
        raise EdgeliftError(
            where, f"video_resolution {rows}p of a sensor with {sensor.min():g} rows", "videos as large as the sensor",
            "Film at the sensor's full resolution: how the smaller images are made of it, the file does not say.",
        )  # fmt: skip


def _values(where: str, element: Element, tag: str, *names: str) -> Float64:
    """(names,) numbers from the attributes of the child `tag`."""
    child = element.find(tag)
    texts = [None if child is None else child.get(name) for name in names]
    try:
        values = [float(text) if text is not None else np.nan for text in texts]
    except ValueError:
        values = [np.nan]
    if len(values) != len(names) or not np.isfinite(values).all():
        raise EdgeliftError(
            f"{where}: {tag}", reprlib.repr(dict(zip(names, texts, strict=True))), "finite numbers",
            "Export the calibration from QTM again.",
        )  # fmt: skip
    return numbers(where, tag, values, (len(names),))


def _check(where: str, name: str, received: str, expected: str, remedy: str) -> None:
    if received != expected:
        raise EdgeliftError(f"{where}: {name}", reprlib.repr(received), expected, remedy)
