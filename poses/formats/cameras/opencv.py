"""OpenCV calibrations with a pose, one camera a FileStorage file: one file, or a folder of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import (
    MOST_CAMERAS,
    CameraFile,
    camera,
    check_file,
    image_size,
    limited,
    rotation,
    vector,
)
from edgelift.poses.formats.cameras.filestorage import Storage, matrix, number, read_storage

SUFFIXES = (".yml", ".yaml")
# names are the author's: those seen, without case and `_`. R1, R2, P1, P2 are rectifications, no poses
KEYS = {
    "a camera matrix": ("cameramatrix", "k", "m", "m1", "m2", "mtx", "intrinsicmatrix"),
    "distortion coefficients": ("distortioncoefficients", "distcoeffs", "distcoeff", "dist", "d", "d1", "d2"),
    "a rotation R": ("r", "rmat", "rotation", "rotationmatrix", "rvec", "rotationvector"),
    "a translation T": ("t", "tvec", "translation", "translationvector"),
}
WIDTH, HEIGHT = ("imagewidth", "width"), ("imageheight", "height")


def opencv_files(folder: Path) -> list[Path]:
    """Return the YAML files of a folder by name; at most one more than a rig may have."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(islice(found, MOST_CAMERAS + 1))


def read_opencv(file: CameraFile) -> list[Camera]:
    """Read one camera, named after its file; x_cam = R x_world + T, R a matrix or a Rodrigues vector by its shape."""
    return [_read(file.path, file.content, file)]


def read_opencv_folder(file: CameraFile) -> list[Camera]:
    """Read the camera of each YAML file of a folder, in the order of the files' names; see `read_opencv`."""
    paths = limited(str(file.path), opencv_files(file.path))
    for path in paths:
        check_file(path)
    return [_read(path, read_storage(path), file) for path in paths]


def _read(path: Path, storage: Storage, file: CameraFile) -> Camera:
    where = str(path)
    K, dist, R, t = (_only(where, storage, what, keys) for what, keys in KEYS.items())
    if any("fisheye" in _plain(key) and storage[key].strip() not in ("0", "false") for key in storage):
        raise EdgeliftError(where, "a fisheye model", "OpenCV's standard model", "Calibrate it without fisheye.")
    size = image_size(where, _held_size(where, storage), file.size)
    coefficients = matrix(where, storage, dist)
    translation = vector(where, t, matrix(where, storage, t), 3) * file.scale
    pose = rotation(where, matrix(where, storage, R))
    return camera(where, path.stem, matrix(where, storage, K), coefficients.ravel().tolist(), pose, translation, size)


def _plain(key: str) -> str:
    return key.lower().replace("_", "")


def _only(where: str, storage: Storage, what: str, keys: tuple[str, ...]) -> str:
    found = [key for key in storage if _plain(key) in keys]
    if len(found) != 1:
        held = ", ".join(list(storage)[:20]) or "nothing"
        raise EdgeliftError(
            where, f"{', '.join(found) or 'none'} as {what}, of {held}", f"one key of {', '.join(keys)}",
            "Write one camera to a file; EasyMocap's intri.yml and extri.yml are given as their folder.",
        )  # fmt: skip
    return found[0]


def _held_size(where: str, storage: Storage) -> list[float] | None:
    sides = [[key for key in storage if _plain(key) in names] for names in (WIDTH, HEIGHT)]
    return [number(where, storage, side[0]) for side in sides] if all(sides) else None
