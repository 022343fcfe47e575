"""What the readers of camera files share: bounds, numbers that are numbers, units of length, and the camera itself."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.rotations import rotvec_to_matrix

Size = tuple[int, int]  # width, height in pixels

METRES_PER_UNIT = {"m": 1.0, "mm": 1e-3}
PLAUSIBLE_DISTANCE_M = (0.3, 30.0)  # between the cameras of one rig; the usual mistake is a factor of 1000
LARGEST_FILE = 2**24  # bytes; a hundred cameras are 50 KB, and Human3.6M's metadata.xml is 300 KB
MOST_CAMERAS = 1000  # distances are compared pair by pair
LARGEST_NUMBER = 1e9  # no focal length, place or angle is larger, and squares of such numbers do not overflow
LARGEST_SIDE_PX = 20_000  # images are tabulated by `poses.cameras.PixelTable`
SHORTEST_FOCAL = 0.1  # of the image's longer side, 157 degrees wide: what is shorter was divided by the image's size
LONGEST_NAME = 200


@dataclass(frozen=True)
class CameraFile:
    """A camera file that was recognised, as its reader gets it.

    member: NAME of `FILE:NAME`, or "". content: what the file holds, parsed. size: of all images in pixels, as the
    user states it, or None. scale: metres per unit of the file.
    """

    path: Path
    member: str
    content: Any
    size: Size | None
    scale: float


def check_file(path: Path) -> None:
    """EdgeliftError where there is no such file, or one that is too large to describe cameras."""
    if not path.is_file():
        raise EdgeliftError(str(path), "unreadable (no such file)", "a camera file", "Check the path.")
    if path.stat().st_size > LARGEST_FILE:
        raise EdgeliftError(
            str(path), f"{path.stat().st_size / 2**20:.0f} MiB",
            f"a camera file of {LARGEST_FILE / 2**20:.0f} MiB at most", "Name the file that holds the calibration.",
        )  # fmt: skip


def limited(where: str, items: Collection[Any]) -> list[Any]:
    """Return the items as a list; EdgeliftError where they are more than the cameras of any rig."""
    if len(items) > MOST_CAMERAS:
        raise EdgeliftError(where, f"{len(items)} entries", f"{MOST_CAMERAS} cameras at most", "Check the file.")
    return list(items)


def named(where: str, table: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the items of a table of cameras by name, limited as they are and none with an endless name."""
    long = [key for key in table if len(str(key)) > LONGEST_NAME]
    if long:
        raise EdgeliftError(where, reprlib.repr(long[0]), f"names of {LONGEST_NAME} characters at most", "Shorten it.")
    return limited(where, table.items())


def fields(where: str, value: Any, *required: str) -> dict[str, Any]:
    """Return the value, a table that has the required keys; EdgeliftError names those that it lacks."""
    lacking = [key for key in required if not isinstance(value, dict) or key not in value]
    if lacking or not isinstance(value, dict):
        what = f"no {', '.join(lacking)}" if lacking else shown(value)
        raise EdgeliftError(where, what, f"a table with {', '.join(required)}", "Complete it, or export it again.")
    return value


def chosen(file: CameraFile, what: str, known: dict[str, Any]) -> Any:
    """Return what a file holds under the name that the user gave as `FILE:NAME`."""
    if file.member not in known:
        names = ", ".join(str(name)[:40] for name in list(known)[:50]) or "none that it has"
        received = repr(file.member) if file.member else "no name"
        raise EdgeliftError(f"{file.path}: {what}", received, f"one of {names}", f"Name one as {file.path.name}:NAME.")
    return known[file.member]


def numbers(where: str, field: str, value: Any, shape: tuple[int, ...]) -> Float64:
    """Return lists of numbers, or an array of numbers, as float64 of this shape; text and flags are no numbers."""
    if _fits(value, shape):
        try:
            array = np.array(value, np.float64)
        except OverflowError:  # an integer beyond all floats
            array = np.array(np.inf)
        if (np.abs(array) <= LARGEST_NUMBER).all():  # NaN is not
            return array
    raise EdgeliftError(f"{where}: {field}", shown(value), f"finite numbers of shape {shape}", "Correct the file.")


def _fits(value: Any, shape: tuple[int, ...]) -> bool:
    if isinstance(value, np.ndarray):
        return value.shape == shape and value.dtype.kind in "iuf"
    if not shape:
        return type(value) in (int, float) or isinstance(value, np.floating | np.integer)
    return isinstance(value, list | tuple) and len(value) == shape[0] and all(_fits(v, shape[1:]) for v in value)


def shown(value: Any) -> str:
    """Return a value as text, shortened: arrays by shape, because they may hold objects that hold each other twice."""
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else reprlib.repr(value)


def vector(where: str, field: str, value: Any, count: int) -> Float64:
    """Return a row, a column or a plain vector of so many numbers as (count,)."""
    shape = np.shape(value) if isinstance(value, np.ndarray) or _fits(value, (count,)) else (count, 1)
    flat = shape if shape in ((1, count), (count, 1)) else (count,)
    return numbers(where, field, value, flat).reshape(count)


def rotation(where: str, value: Any) -> Float64:
    """Return a (3, 3) matrix or a Rodrigues vector (3 numbers in radians) as the (3, 3) matrix: the shape tells."""
    if _fits(value, (3, 3)):
        return numbers(where, "rotation", value, (3, 3))
    return rotvec_to_matrix(vector(where, "rotation", value, 3))


def image_size(where: str, held: Sequence[Any] | None, stated: Size | None) -> Size:
    """Return width and height in pixels as the file holds them or, where it does not, as the user states them."""
    if held is None and stated is None:
        raise EdgeliftError(
            where, "no size of the images (the file does not hold it)", "width and height in pixels",
            "State the size of the images: WIDTHxHEIGHT.",
        )  # fmt: skip
    width, height = (round(float(v)) for v in numbers(where, "size", held if held is not None else stated, (2,)))
    if not (0 < width <= LARGEST_SIDE_PX and 0 < height <= LARGEST_SIDE_PX):
        raise EdgeliftError(
            f"{where}: size", f"{width} x {height}", f"1 to {LARGEST_SIDE_PX} pixels a side", "Correct the file."
        )
    if stated is not None and stated != (width, height):
        raise EdgeliftError(
            f"{where}: size", f"{stated[0]} x {stated[1]} as stated", f"{width} x {height}, which the file holds",
            "Leave the size out; a calibration is for one size of the images.",
        )  # fmt: skip
    return width, height


def camera(where: str, name: Any, K: Any, dist: Any, R: Any, t: Any, size: Size) -> Camera:
    """Return the camera, checked: K (3, 3) pixels, 4 or 5 OpenCV coefficients, R and t (metres) world to camera.

    Zeros beyond five coefficients are dropped: OpenCV's longer models with zeros are the five-coefficient one.
    """
    if type(name) not in (str, int) or not str(name).isprintable() or not 0 < len(str(name)) <= LONGEST_NAME:
        raise EdgeliftError(
            f"{where}: name", shown(name), f"1 to {LONGEST_NAME} printable characters", "Rename the camera."
        )
    matrix = numbers(where, "K", K, (3, 3))
    if matrix[1, 0] or matrix[2].tolist() != [0, 0, 1] or matrix[0, 0] < SHORTEST_FOCAL * max(size):
        raise EdgeliftError(
            f"{where}: K", f"{matrix.tolist()} for images of {size[0]} x {size[1]}",
            "[[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels", "Transpose it, or scale it to pixels.",
        )  # fmt: skip
    rotation, translation = numbers(where, "R", R, (3, 3)), numbers(where, "t", t, (3,))
    try:
        return Camera(str(name), matrix, _coefficients(where, dist), rotation, translation, size)
    except EdgeliftError as error:
        raise EdgeliftError(f"{where}: {error.subject}", error.received, error.expected, error.remedy) from error


def _coefficients(where: str, dist: Any) -> Float64:
    listed = dist.tolist() if isinstance(dist, np.ndarray) and dist.ndim == 1 else dist
    if isinstance(listed, list) and len(listed) > 5 and all(type(v) in (int, float) and v == 0 for v in listed[5:]):
        listed = listed[:5]
    if not isinstance(listed, list) or len(listed) not in (4, 5):
        raise EdgeliftError(
            f"{where}: distortion", shown(dist), "4 or 5 coefficients k1 k2 p1 p2 (k3)",
            "Calibrate with OpenCV's standard model.",
        )  # fmt: skip
    return numbers(where, "distortion", [*listed, 0.0][:5], (5,))


def check_names(source: str, cameras: Sequence[Camera]) -> None:
    """EdgeliftError where there is no camera, or two of one name."""
    names = [camera.name for camera in cameras]
    if not names or len(set(names)) < len(names):
        received = f"cameras {reprlib.repr(names)}"
        raise EdgeliftError(source, received, "at least one, no name twice", "Give each camera its own name.")


def typical_distance(cameras: Sequence[Camera]) -> float:
    """Return the median distance between two cameras or, of a lone one, from the origin, in the unit of their places.

    A lone camera may well be the origin itself: it is at least as far from it as is plausible.
    """
    centres = [camera.centre for camera in cameras]
    apart = [float(np.linalg.norm(a - b)) for a, b in combinations(centres, 2)]
    return float(np.median(apart)) if apart else max(PLAUSIBLE_DISTANCE_M[0], float(np.linalg.norm(centres[0])))


def check_distances(source: str, cameras: Sequence[Camera], units: str, fixed: bool) -> None:
    """EdgeliftError where the cameras are implausibly near or far; units: what was read; fixed: by the format."""
    low, high = PLAUSIBLE_DISTANCE_M
    distance = typical_distance(cameras)
    if low <= distance <= high:
        return
    other = "m" if units == "mm" else "mm"
    in_other = distance * METRES_PER_UNIT[other] / METRES_PER_UNIT[units]
    fits = low <= in_other <= high and not fixed
    what = "cameras are apart (median)" if len(cameras) > 1 else "camera is from the origin"
    raise EdgeliftError(
        source, f"{distance:.4g} m as the distance the {what}, read in {units}", f"{low} to {high} m",
        f"Give --units {other}: the distance is {in_other:.4g} m then." if fits
        else "Scale the calibration to metres: its unit is neither (a board square of length 1?).",
    )  # fmt: skip
