"""EasyMocap's cameras: a folder with `intri.yml` (K_, dist_, H_, W_) and `extri.yml` (Rot_, R_, T_), keys by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelift.poses.cameras import Camera, Float64
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.cameras.checks import CameraFile, camera, check_file, image_size, limited, rotation, vector
from edgelift.poses.formats.cameras.filestorage import Storage, matrix, number, read_storage, texts

FILES = ("intri.yml", "extri.yml")
SAME_ROTATION = 1e-3  # of the elements of Rot_ and of R_ as a matrix; EasyMocap writes six decimals of both


def read_easymocap(file: CameraFile) -> list[Camera]:
    """Read the cameras that intri.yml names, in its order; x_cam = Rot x_world + T, R_ is Rot_'s Rodrigues vector.

    The size of images whose H_ and W_ are missing, as in most files, has to be stated.
    """
    paths = [file.path / name for name in FILES]
    for path in paths:
        check_file(path)
    intri, extri = map(read_storage, paths)
    _key(paths[0], intri, "names")
    names = limited(str(paths[0]), texts(str(paths[0]), intri, "names"))
    return [_read(paths, intri, extri, name, file) for name in names]


def _key(path: Path, storage: Storage, *keys: str) -> str:
    for key in keys:
        if key in storage:
            return key
    raise EdgeliftError(str(path), f"no {' or '.join(keys)}", "EasyMocap's camera files", "Write both files again.")


def _read(paths: list[Path], intri: Storage, extri: Storage, name: str, file: CameraFile) -> Camera:
    where, where_to = map(str, paths)
    K = matrix(where, intri, _key(paths[0], intri, f"K_{name}"))
    dist = matrix(where, intri, _key(paths[0], intri, f"dist_{name}", f"D_{name}"))
    sides = [f"W_{name}", f"H_{name}"]
    held = [number(where, intri, side) for side in sides] if all(side in intri for side in sides) else None
    size = image_size(f"{where} camera {name}", held, file.size)
    t = vector(where_to, f"T_{name}", matrix(where_to, extri, _key(paths[1], extri, f"T_{name}")), 3)
    R = _rotation(paths[1], extri, name)
    return camera(f"{where} camera {name}", name, K, dist.ravel().tolist(), R, t * file.scale, size)


def _rotation(path: Path, extri: Storage, name: str) -> Float64:
    keys = [key for key in (f"Rot_{name}", f"R_{name}") if key in extri] or [_key(path, extri, f"Rot_{name}")]
    matrices = [rotation(f"{path}: {key}", matrix(str(path), extri, key)) for key in keys]
    if np.abs(matrices[0] - matrices[-1]).max() > SAME_ROTATION:
        raise EdgeliftError(
            f"{path} camera {name}", "a matrix Rot_ and a Rodrigues vector R_ that differ", "one rotation",
            "Write both from one pose.",
        )  # fmt: skip
    return matrices[0]
