"""Human3.6M's cameras as they are passed around: five encodings of the same numbers (S1 ... S11, four cameras each).

All give f, c, three radial and two tangential coefficients. The data set's own projection adds half of OpenCV's product
terms of the tangential ones, so a projection through OpenCV's model is up to 0.44 pixel off there; everybody uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import (
    LONGEST_NAME,
    CameraFile,
    Size,
    camera,
    chosen,
    fields,
    image_size,
    limited,
    named,
    numbers,
    vector,
)
from edgelift.poses.formats.cameras.rotations import euler_xyz_to_matrix, quaternion_to_matrix
from edgelift.poses.formats.hdf5 import read_hdf5

SIZES = {"54138969": (1000, 1002), "55011271": (1000, 1000), "58860488": (1000, 1000), "60457274": (1000, 1002)}
SUBJECTS, VIEWS, EXTRINSICS, INTRINSICS = 11, 4, 6, 9  # of metadata.xml's w0: how many, and numbers of each
DATASETS = ("R", "T", "f", "c", "k", "p", "Name")  # of a camera in cameras.h5
UNIT_LENGTH = 1e-3  # of a quaternion; published ones are unit to 1e-7


def _size(where: str, name: Any, file: CameraFile) -> Size:
    """Of the data set's own four cameras the size is known; that of others has to be stated."""
    return image_size(where, SIZES.get(str(name)), file.size)


def _camera(where: str, name: Any, R: Float64, centre_m: Float64, lens: dict[str, Float64], size: Size) -> Camera:
    """Build one from R, world to camera, its centre in the world, and f (2,), c (2,), k (3,), p (2,) of the lens."""
    K = [[lens["f"][0], 0.0, lens["c"][0]], [0.0, lens["f"][1], lens["c"][1]], [0.0, 0.0, 1.0]]
    dist = np.concatenate([lens["k"][:2], lens["p"], lens["k"][2:]])
    return camera(where, name, K, dist, R, -R @ centre_m, size)


def _lens(where: str, held: dict[str, Any]) -> dict[str, Float64]:
    return {key: vector(where, key, held[key], count) for key, count in {"f": 2, "c": 2, "k": 3, "p": 2}.items()}


def is_karfly(content: Any) -> bool:
    """Whether parsed JSON is `camera-parameters.json` (github.com/karfly/human36m-camera-parameters)."""
    return isinstance(content, dict) and all(isinstance(content.get(k), dict) for k in ("intrinsics", "extrinsics"))


def read_karfly(file: CameraFile) -> list[Camera]:
    """Read subject S9 of `FILE.json:S9`: 3x3 R and t in millimetres, world to camera, OpenCV's coefficients."""
    poses = chosen(file, "subject", file.content["extrinsics"])
    where = f"{file.path} {file.member}"
    fields(where, poses)
    cameras = []
    for name, pose in named(where, poses):
        place = f"{where} camera {name}"
        lens = fields(place, file.content["intrinsics"].get(name), "calibration_matrix", "distortion")
        fields(place, pose, "R", "t")
        R, t = numbers(place, "R", pose["R"], (3, 3)), vector(place, "t", pose["t"], 3) * file.scale
        size = _size(place, name, file)
        cameras.append(camera(place, name, lens["calibration_matrix"], lens["distortion"], R, t, size))
    return cameras


def is_videopose3d(content: Any) -> bool:
    """Whether parsed JSON is VideoPose3D's cameras: lists of them by subject."""
    return isinstance(content, dict) and bool(content) and all(isinstance(views, list) for views in content.values())


def read_videopose3d_cameras(file: CameraFile) -> list[Camera]:
    """Read subject S9 of a JSON object {subject: [camera, ...]} with the keys of VideoPose3D's camera dictionaries.

    `orientation` is a quaternion w, x, y, z from camera to world, `translation` the centre in the world;
    `tangential_distortion` is p2, p1 in OpenCV's names. Lengths are in mm in its source, in m after it loaded them.
    """
    views = chosen(file, "subject", file.content)
    where = f"{file.path} {file.member}"
    return [_videopose3d(f"{where} camera {i}", view, file) for i, view in enumerate(limited(where, views))]


def _videopose3d(where: str, view: Any, file: CameraFile) -> Camera:
    keys = {"f": "focal_length", "c": "center", "k": "radial_distortion", "p": "tangential_distortion"}
    fields(where, view, "id", "orientation", "translation", "res_w", "res_h", *keys.values())
    quaternion = numbers(where, "orientation", view["orientation"], (4,))
    if abs(np.linalg.norm(quaternion) - 1) > UNIT_LENGTH:
        raise EdgeliftError(
            f"{where}: orientation", f"{quaternion.tolist()}", "a unit quaternion w, x, y, z", "Correct the file."
        )
    lens = _lens(where, {short: view[key] for short, key in keys.items()})
    lens["p"] = lens["p"][::-1]
    size = image_size(where, [view["res_w"], view["res_h"]], file.size)
    centre = numbers(where, "translation", view["translation"], (3,)) * file.scale
    return _camera(where, view["id"], quaternion_to_matrix(quaternion).T, centre, lens, size)


def read_cameras_h5(file: CameraFile) -> list[Camera]:
    """Read subject S9 of `cameras.h5` (github.com/una-dinosauria/3d-pose-baseline); needs h5py.

    Groups `subject9/camera1` to `camera4`: R stored transposed, as MATLAB does, x_cam = R (x_world - T), T in mm.
    """
    wanted = {
        f"S{subject}": {f"camera{view}": f"subject{subject}/camera{view}" for view in range(1, VIEWS + 1)}
        for subject in range(1, SUBJECTS + 1)
    }
    names = [f"{place}/{key}" for places in wanted.values() for place in places.values() for key in DATASETS]
    held = read_hdf5(file.path, names, "Human3.6M's cameras.h5")
    views: dict[str, dict[str, dict[str, NDArray[Any]]]] = {}
    for subject, places in wanted.items():
        for name, place in places.items():
            if view := {key: held[f"{place}/{key}"] for key in DATASETS if f"{place}/{key}" in held}:
                views.setdefault(subject, {})[name] = view
    return [
        _martinez(f"{file.path} {file.member} {name}", view, file)
        for name, view in chosen(file, "subject", views).items()
    ]


def _martinez(where: str, view: dict[str, Any], file: CameraFile) -> Camera:
    fields(where, view, *DATASETS)
    codes = view["Name"].ravel()[: LONGEST_NAME + 1].tolist()
    name = "".join(chr(code) if type(code) is int and 32 <= code < 127 else "\x00" for code in codes)
    R = numbers(where, "R", view["R"], (3, 3)).T
    centre = vector(where, "T", view["T"], 3) * file.scale
    return _camera(where, name, R, centre, _lens(where, view), _size(where, name, file))


def is_metadata(content: Any) -> bool:
    """Whether a parsed XML file is the data set's own metadata.xml."""
    return isinstance(content, Element) and content.find("w0") is not None


def read_metadata(file: CameraFile) -> list[Camera]:
    """Read subject S9 of the data set's `metadata.xml`: in `w0` Euler angles x, y, z and T in mm, as in cameras.h5."""
    text = (file.content.findtext("w0") or "").strip().removeprefix("[").removesuffix("]")
    where = f"{file.path} w0"
    count = VIEWS * (SUBJECTS * EXTRINSICS + INTRINSICS)
    try:
        w0 = [float(word) for word in text.split()]
    except ValueError as error:
        remedy = "Take the file from the data set again."
        raise EdgeliftError(where, f"{error!s:.80}", f"{count} numbers", remedy) from error
    values = numbers(where, "w0", w0, (count,))
    extrinsics = values[: VIEWS * SUBJECTS * EXTRINSICS].reshape(VIEWS, SUBJECTS, EXTRINSICS)
    intrinsics = values[VIEWS * SUBJECTS * EXTRINSICS :].reshape(VIEWS, INTRINSICS)
    subject = chosen(file, "subject", {f"S{i + 1}": i for i in range(SUBJECTS)})
    names = _camera_names(file)
    cameras = []
    for name, pose, (fx, fy, cx, cy, k1, k2, k3, p1, p2) in zip(names, extrinsics[:, subject], intrinsics, strict=True):
        place = f"{file.path} {file.member} camera {name}"
        lens = {"f": np.array([fx, fy]), "c": np.array([cx, cy]), "k": np.array([k1, k2, k3]), "p": np.array([p1, p2])}
        R, centre = euler_xyz_to_matrix(pose[:3]), pose[3:] * file.scale
        cameras.append(_camera(place, name, R, centre, lens, _size(place, name, file)))
    return cameras


def _camera_names(file: CameraFile) -> Sequence[str]:
    names = [element.text or "" for element in file.content.findall("dbcameras/index2id/*")]
    if len(names) != VIEWS:
        raise EdgeliftError(
            f"{file.path}: dbcameras/index2id", f"{len(names)} cameras", f"{VIEWS}", "Take the file from the data set."
        )
    named(str(file.path), dict.fromkeys(names))
    return names


def is_mmpose(content: Any) -> bool:
    """Whether a pickle holds MMPose's `cameras.pkl`: dictionaries by (subject, camera)."""
    return isinstance(content, dict) and all(
        isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, (str, int)) for part in key)
        for key in content
    )


def read_mmpose_cameras(file: CameraFile) -> list[Camera]:
    """Read subject S9 of MMPose's `cameras.pkl`: R (3, 3) from camera to world, T the centre in the world, metres."""
    by_subject: dict[str, dict[Any, Any]] = {}
    for (subject, name), view in file.content.items():
        by_subject.setdefault(str(subject), {})[name] = view
    views = chosen(file, "subject", by_subject)
    return [_mmpose(f"{file.path} {file.member} camera {name}", view, file)
            for name, view in named(str(file.path), views)]  # fmt: skip


def _mmpose(where: str, view: Any, file: CameraFile) -> Camera:
    fields(where, view, "R", "T", "f", "c", "k", "p", "w", "h", "id")
    R, centre = numbers(where, "R", view["R"], (3, 3)).T, vector(where, "T", view["T"], 3) * file.scale
    return _camera(
        where, view["id"], R, centre, _lens(where, view), image_size(where, [view["w"], view["h"]], file.size)
    )
