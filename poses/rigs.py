"""Rig files: the anipose TOML family and JSON collections of rigs; which folder belongs to which camera."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

METRES_PER_UNIT = {"m": 1.0, "mm": 1e-3}
PLAUSIBLE_DISTANCE_M = (0.3, 30.0)  # between the cameras of one rig; the usual mistake is a factor of 1000
NOT_CAMERAS = ("metadata", "capture_volume", "charuco", "checkerboard")  # sections that Pose2Sim skips too


def rotvec_to_matrix(rotvec: ArrayLike) -> Float64:
    """(3,) Rodrigues vector in radians to the (3, 3) rotation matrix; exact at and near zero."""
    x, y, z = vector = np.asarray(rotvec, np.float64)
    angle = np.linalg.norm(vector)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    # sin(a) / a and (1 - cos(a)) / a^2 as sincs: no division by a small angle
    half = np.sinc(angle / (2 * np.pi))
    return np.asarray(np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * half * half * (cross @ cross))


def matrix_to_rotvec(matrix: ArrayLike) -> Float64:
    """(3, 3) rotation matrix to its (3,) Rodrigues vector, angle in [0, pi] radians; stable near 0 and pi.

    Goes over the quaternion, from its largest component (Shepperd 1978).
    """
    R = np.asarray(matrix, np.float64)
    trace = np.trace(R)
    # outer product of the quaternion w, x, y, z with itself, times 4: its fullest row is the least cancelled
    products = np.empty((4, 4))
    products[0, 0] = 1 + trace
    products[0, 1:] = products[1:, 0] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    products[1:, 1:] = R + R.T + (1 - trace) * np.eye(3)
    quaternion = products[np.argmax(np.diag(products))]
    quaternion = quaternion / np.linalg.norm(quaternion) * (-1 if quaternion[0] < 0 else 1)
    sine = np.linalg.norm(quaternion[1:])
    scale = 2.0 if sine < 1e-12 else 2 * np.arctan2(sine, quaternion[0]) / sine
    return np.asarray(scale * quaternion[1:], np.float64)


def read_rig(source: str, units: str | None) -> tuple[Camera, ...]:
    """Read the cameras of `FILE.toml` or of `FILE.json:NAME`, in file order, translations in metres.

    units: "m" or "mm", what the file's translations are in. A TOML file does not say, so it must be given there; JSON
    rigs are metres by definition. EdgeliftError where the distances between the cameras contradict the unit.
    """
    if units is not None and units not in METRES_PER_UNIT:
        raise EdgeliftError("--units", repr(units), "m or mm", "Give the unit of the rig's translations.")
    path, _, name = source.rpartition(":")
    if path.lower().endswith(".json"):
        cameras = _read_json(Path(path), name, units)
    elif source.lower().endswith(".toml"):
        cameras = _read_toml(Path(source), units)
    else:
        raise EdgeliftError("rig", repr(source), "FILE.toml or FILE.json:NAME", "Name a file of one of these kinds.")
    _check_names(source, cameras)
    _check_distances(source, cameras, units or "m")
    return cameras


def _read_toml(path: Path, units: str | None) -> tuple[Camera, ...]:
    if units is None:
        raise EdgeliftError(
            str(path), "no unit of length (the format has none)", "metres or millimetres, stated",
            "Give --units m (Pose2Sim, caliscope) or --units mm (FreeMoCap, mostly anipose).",
        )  # fmt: skip
    try:
        sections = tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise EdgeliftError(str(path), f"invalid TOML ({error})", "a camera file", "Export it again.") from error
    scale = METRES_PER_UNIT[units]
    tables = {key: table for key, table in sections.items() if key not in NOT_CAMERAS}
    return tuple(_toml_camera(f"{path} [{key}]", key, table, scale) for key, table in tables.items())


def _toml_camera(where: str, key: str, table: Any, scale: float) -> Camera:
    required = ("size", "matrix", "distortions", "rotation", "translation")
    lacking = [k for k in required if not isinstance(table, dict) or k not in table]
    if lacking:
        raise EdgeliftError(
            where, f"no {', '.join(lacking)}", f"a camera with {', '.join(required)}", "Export it again."
        )
    if table.get("fisheye", False):
        raise EdgeliftError(
            where, "fisheye = true", "a pinhole camera with up to 5 distortion coefficients",
            "Undistort the videos of this camera first, or calibrate it without the fisheye model.",
        )  # fmt: skip
    return _camera(
        where,
        name=str(table.get("name", key)),
        K=table["matrix"],
        dist=table["distortions"],
        R=rotvec_to_matrix(_numbers(where, "rotation", table["rotation"], (3,))),
        t=_numbers(where, "translation", table["translation"], (3,)) * scale,
        size=table["size"],
    )


def _read_json(path: Path, name: str, units: str | None) -> tuple[Camera, ...]:
    if units == "mm":
        raise EdgeliftError(f"{path}: --units", "mm", "m: rigs in JSON are metres by definition", "Leave --units out.")
    try:
        rigs = json.loads(_read_text(path))["rigs"]
        known = list(rigs)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise EdgeliftError(str(path), f"no rigs ({error})", 'an object {"rigs": {...}}', "Check the file.") from error
    if name not in known:
        raise EdgeliftError(f"{path}: rig", repr(name), f"one of {', '.join(known)}", "Name one as FILE.json:NAME.")
    cameras = []
    for i, item in enumerate(rigs[name]):
        where = f"{path} rig {name} camera {i}"
        lacking = [k for k in ("id", "K", "dist", "R", "t", "size") if k not in item]
        if lacking:
            raise EdgeliftError(where, f"no {', '.join(lacking)}", "id, K, dist, R, t and size", "Complete it.")
        cameras.append(_camera(where, str(item["id"]), item["K"], item["dist"], item["R"], item["t"], item["size"]))
    return tuple(cameras)


def _camera(where: str, name: str, K: Any, dist: Any, R: Any, t: Any, size: Any) -> Camera:
    if not isinstance(dist, list) or len(dist) not in (4, 5):
        raise EdgeliftError(
            f"{where}: distortion", f"{dist}", "4 or 5 coefficients k1 k2 p1 p2 (k3)",
            "Calibrate with OpenCV's standard model.",
        )  # fmt: skip
    coefficients = _numbers(where, "distortion", [*dist, 0.0][:5], (5,))
    width, height = (round(float(v)) for v in _numbers(where, "size", size, (2,)))
    rotation, translation = _numbers(where, "R", R, (3, 3)), _numbers(where, "t", t, (3,))
    return Camera(name, _numbers(where, "K", K, (3, 3)), coefficients, rotation, translation, (width, height))


def _numbers(where: str, field: str, value: Any, shape: tuple[int, ...]) -> Float64:
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise EdgeliftError(f"{where}: {field}", f"{value}", f"finite numbers of shape {shape}", "Correct the file.")
    return array


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeliftError(str(path), f"unreadable ({error})", "a rig file", "Check the path.") from error


def _check_names(source: str, cameras: Sequence[Camera]) -> None:
    names = [camera.name for camera in cameras]
    if not names or len(set(names)) < len(names):
        raise EdgeliftError(source, f"cameras {names}", "at least one, no name twice", "Give each camera its own name.")


def _check_distances(source: str, cameras: Sequence[Camera], units: str) -> None:
    apart = [float(np.linalg.norm(a.centre - b.centre)) for a, b in combinations(cameras, 2)]
    low, high = PLAUSIBLE_DISTANCE_M
    # a lone camera may well be the origin itself
    distance = float(np.median(apart)) if apart else max(low, float(np.linalg.norm(cameras[0].centre)))
    if low <= distance <= high:
        return
    other = "m" if units == "mm" else "mm"
    in_other = distance * METRES_PER_UNIT[other] / METRES_PER_UNIT[units]
    fits = low <= in_other <= high and not source.rpartition(":")[0].lower().endswith(".json")
    what = "cameras are apart (median)" if apart else "camera is from the origin"
    raise EdgeliftError(
        source, f"{distance:.4g} m as the distance the {what}, read in {units}", f"{low} to {high} m",
        f"Give --units {other}: the distance is {in_other:.4g} m then." if fits
        else "Scale the calibration to metres: its unit is neither (a board square of length 1?).",
    )  # fmt: skip


def write_rig(cameras: Sequence[Camera], path: Path) -> None:
    """Write a Pose2Sim-style TOML: metres, Rodrigues vectors, 5 distortion coefficients; replaced as a whole."""
    sections = "\n".join(_section(camera) for camera in cameras)
    with replaced(path) as temporary:
        temporary.write_text(f"{sections}\n[metadata]\nadjusted = false\nerror = 0.0\n", encoding="utf-8")


def _section(camera: Camera) -> str:
    quoted = json.dumps(camera.name, ensure_ascii=False)
    key = camera.name if re.fullmatch(r"[A-Za-z0-9_-]+", camera.name) else quoted
    fields = {
        "size": [float(v) for v in camera.size],
        "matrix": camera.K.tolist(),
        "distortions": camera.dist.tolist(),
        "rotation": matrix_to_rotvec(camera.R).tolist(),
        "translation": camera.t.tolist(),
    }
    lines = [f"{name} = {value}" for name, value in fields.items()]
    return "\n".join([f"[{key}]", f"name = {quoted}", *lines, "fisheye = false", ""])


def match_views(
    view_names: Sequence[str],
    camera_names: Sequence[str],
    given: Mapping[str, str],
    select: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return the camera of each view, in the order of the views.

    Names are equal without regard to case, `_`, `-` and a final `_json`; `given` (view to camera) wins over names.
    select: the cameras to use; views of the others are then left out. Without it every camera needs a view.
    """
    _check_known("--view", given, view_names, "a view")
    _check_known("--view", given.values(), camera_names, "a camera")
    _check_known("cameras selected", select or (), camera_names, "a camera")
    matched = {view: given.get(view) or _same_name(view, camera_names, given) for view in view_names}
    wanted = list(camera_names if select is None else select)
    chosen = {view: camera for view, camera in matched.items() if camera is not None and camera in wanted}
    unmatched = [view for view, camera in matched.items() if camera is None]
    twice = sorted({c for c in chosen.values() if list(chosen.values()).count(c) > 1})
    unseen = [camera for camera in wanted if camera not in chosen.values()]
    problems = {"views without a camera": unmatched, "cameras of two views": twice, "cameras without a view": unseen}
    if any(problems.values()):
        facts = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise EdgeliftError(
            f"views {', '.join(view_names)} and cameras {', '.join(camera_names)}", facts, "one camera for each view",
            "Pair them with --view FOLDER=CAMERA, or choose the cameras that have a view with --select.",
        )  # fmt: skip
    return chosen


def _same_name(view: str, camera_names: Sequence[str], given: Mapping[str, str]) -> str | None:
    free = [name for name in camera_names if name not in given.values()]
    same = [name for name in free if plain_name(name) == plain_name(view)]
    return same[0] if len(same) == 1 else None


def plain_name(name: str) -> str:
    """Return a name without what does not tell views apart: case, `_`, `-` and a final `_json`."""
    return name.casefold().removesuffix("_json").replace("_", "").replace("-", "")


def _check_known(subject: str, names: Any, known: Sequence[str], kind: str) -> None:
    strangers = [name for name in names if name not in known]
    if strangers:
        remedy = "Write --view FOLDER=CAMERA with names from these lists."
        raise EdgeliftError(subject, ", ".join(strangers), f"{kind} among {', '.join(known)}", remedy)


def pick_cameras(cameras: Sequence[Camera], chosen: str) -> tuple[Camera, ...]:
    """Return the cameras of a comma-separated list of names or of positions in the file (from 0), in that order."""
    names = {camera.name: camera for camera in cameras}
    positions = {str(i): camera for i, camera in enumerate(cameras)}
    words = [word.strip() for word in chosen.split(",")]
    twofold = {word for word in names.keys() & positions.keys() if names[word] is not positions[word]}
    ambiguous = [word for word in words if word in twofold]
    if ambiguous:
        raise EdgeliftError(
            "--cameras", f"{', '.join(ambiguous)}: the name of one camera and the position of another",
            "words with one meaning", "Rename the cameras in the rig file.",
        )  # fmt: skip
    names = positions | names
    unknown = [word for word in words if word not in names]
    if unknown:
        raise EdgeliftError(
            "--cameras", ", ".join(unknown), f"0 to {len(cameras) - 1}, or of {', '.join(c.name for c in cameras)}",
            "Name cameras of this rig.",
        )  # fmt: skip
    return tuple(names[word] for word in words)
