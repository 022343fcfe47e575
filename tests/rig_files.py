"""Rigs as other tools write them: an encoder a form writes them into a folder and returns source and unit."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import matrix_to_rotvec, read_rig


def orthonormal(R: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(R)
    return np.asarray(u @ v)


def studio() -> tuple[Camera, ...]:
    """Four unlike cameras around the origin, for what needs no recording beside the project."""
    rng = np.random.default_rng(5)
    cameras = []
    for i, name in enumerate(("54138969", "55011271", "58860488", "60457274")):
        K = np.array([[1145.0 + i, 0, 512.5 + i], [0, 1143.25 + i, 515.5 - i], [0, 0, 1]])
        R = orthonormal(rng.normal(size=(3, 3)))
        R *= np.sign(np.linalg.det(R))
        size = (1000, 1002) if i in (0, 3) else (1000, 1000)
        dist = np.array([-0.2, 0.24, -0.0014, -0.00097, -0.003])
        cameras.append(Camera(name, K, dist, R, np.array([0.3 * i, -0.2, 4.0 + i]), size))
    return tuple(cameras)


def true_rig(shared: Path, subject: str) -> tuple[Camera, ...]:
    """The published cameras; their matrices are rounded to nine digits, and forms without matrices need exact ones."""
    rig = read_rig(f"{shared / 'rigs.json'}:h36m_{subject}", None)
    return tuple(replace(camera, R=orthonormal(camera.R)) for camera in rig)


def _toml_rows(camera: Camera) -> str:
    return (
        f"size = {list(camera.size)}\nmatrix = {camera.K.tolist()}\ndistortions = {camera.dist.tolist()}\n"
        f"translation = {camera.t.tolist()}\n"
    )


def encode_freemocap(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    sections = [
        f'[cam_{i}]\nname = "{c.name}"\n{_toml_rows(replace(c, t=c.t * 1000))}'
        f"rotation = {matrix_to_rotvec(c.R).tolist()}\nworld_position = {c.centre.tolist()}\n"
        f"world_orientation = {c.R.T.tolist()}\n"
        for i, c in enumerate(cameras)
    ]
    extra = "[metadata]\nadjusted = false\nerror = 0.3\ncharuco_square_size = 126.0\ngroundplane_calibration = true\n"
    world = f"[groundplane]\nmatrix = {np.eye(4).tolist()}\nrotation = [0.0, 0.0, 0.0]\n"
    (folder / "take_camera_calibration.toml").write_text(world + "".join(sections) + extra)
    return str(folder / "take_camera_calibration.toml"), "mm"


def encode_caliscope(cameras: Sequence[Camera], folder: Path, legacy: bool = False) -> tuple[str, str | None]:
    text = ""
    for i, c in enumerate(cameras):
        rotation = c.R.tolist() if legacy else matrix_to_rotvec(c.R).tolist()
        text += f"[cameras.{i}]\ncam_id = {i}\nrotation_count = 0\nerror = 0.2\nexposure = -5\ngrid_count = 20\n"
        text += f"{_toml_rows(c)}rotation = {rotation}\nfisheye = false\n\n"
    (folder / "camera_array.toml").write_text(text)
    return str(folder / "camera_array.toml"), None


def encode_caliscope_legacy(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    return encode_caliscope(cameras, folder, legacy=True)


def encode_rig_json(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    items = [
        {"id": c.name, "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(), "size": c.size}
        for c in cameras
    ]
    (folder / "rigs.json").write_text(json.dumps({"rigs": {"S9": items}}))
    return f"{folder / 'rigs.json'}:S9", None


def opencv_matrix(key: str, values: Any, shape: tuple[int, int]) -> str:
    data = ", ".join(repr(float(v)) for v in np.ravel(values))
    return f"{key}: !!opencv-matrix\n   rows: {shape[0]}\n   cols: {shape[1]}\n   dt: d\n   data: [ {data} ]\n"


def encode_opencv(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    """Both headers, several names of the keys, the rotation in both forms."""
    (folder / "cams").mkdir()
    for i, c in enumerate(cameras):
        odd = bool(i % 2)
        text = "%YAML 1.2\n---\n" if odd else "%YAML:1.0\n---\n"
        text += f"image_width: {c.size[0]}\nimage_height: {c.size[1]}\n"
        text += opencv_matrix("K" if odd else "camera_matrix", c.K, (3, 3))
        text += opencv_matrix("distCoeffs" if odd else "distortion_coefficients", c.dist, (1, 5) if odd else (5, 1))
        text += opencv_matrix("rvec", matrix_to_rotvec(c.R), (3, 1)) if odd else opencv_matrix("R", c.R, (3, 3))
        text += opencv_matrix("tvec" if odd else "T", c.t * 1000, (3, 1))
        (folder / "cams" / f"{c.name}.{'yaml' if odd else 'yml'}").write_text(text)
    return str(folder / "cams"), "mm"


def encode_easymocap(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    names = "%YAML:1.0\r\n---\r\nnames:\r\n" + "".join(f'  - "{c.name}"\r\n' for c in cameras)
    intri = extri = names
    for c in cameras:
        intri += opencv_matrix(f"K_{c.name}", c.K, (3, 3)) + opencv_matrix(f"dist_{c.name}", c.dist, (1, 5))
        intri += f"H_{c.name}: {c.size[1]}\nW_{c.name}: {c.size[0]}\n"
        extri += opencv_matrix(f"R_{c.name}", matrix_to_rotvec(c.R), (3, 1)) + opencv_matrix(
            f"Rot_{c.name}", c.R, (3, 3)
        )
        extri += opencv_matrix(f"T_{c.name}", c.t, (3, 1))
    (folder / "intri.yml").write_text(intri, newline="")
    (folder / "extri.yml").write_text(extri, newline="")
    return str(folder), "m"


def encode_qualisys(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    text = "<?xml version='1.0' encoding='ASCII'?>\n<calibration type=\"regular\">\n<cameras>\n"
    for c in cameras:
        axes = np.diag([1.0, -1.0, -1.0]) @ c.R
        turns = " ".join(f'r{i + 1}{j + 1}="{axes[i, j]!r}"' for i in range(3) for j in range(3)).replace(
            "np.float64", ""
        )
        turns = turns.replace("(", "").replace(")", "")
        x, y, z = (c.centre * 1000).tolist()
        fx, fy, cx, cy = (c.intrinsics * 64).tolist()
        k1, k2, p1, p2, k3 = c.dist.tolist()
        fov = f'left="0" top="0" right="{c.size[0] - 1}" bottom="{c.size[1] - 1}"'
        text += (
            f'<camera active="1" serial="{c.name}" viewrotation="0" model="Miqus Video" video_resolution="1000p">'
            f'<fov_video {fov}/><fov_video_max {fov}/><transform x="{x}" y="{y}" z="{z}" {turns}/>'
            f'<intrinsic focalLengthU="{fx}" focalLengthV="{fy}" centerPointU="{cx}" centerPointV="{cy}" skew="0.0" '
            f'radialDistortion1="{k1}" radialDistortion2="{k2}" radialDistortion3="{k3}" tangentalDistortion1="{p1}" '
            f'tangentalDistortion2="{p2}" sensorMinU="0.0" sensorMaxU="{c.size[0] * 64 - 1}" sensorMinV="0.0" '
            f'sensorMaxV="{c.size[1] * 64 - 1}"/></camera>\n'
        )
    (folder / "lab.qca.txt").write_text(text + "</cameras></calibration>\n")
    return str(folder / "lab.qca.txt"), None


def encode_karfly(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    content = {
        "intrinsics": {c.name: {"calibration_matrix": c.K.tolist(), "distortion": c.dist.tolist()} for c in cameras},
        "extrinsics": {"S9": {c.name: {"R": c.R.tolist(), "t": (c.t * 1000)[:, None].tolist()} for c in cameras}},
    }
    (folder / "camera-parameters.json").write_text(json.dumps(content))
    return f"{folder / 'camera-parameters.json'}:S9", "mm"


def _quaternion(R: np.ndarray) -> list[float]:
    rotvec = matrix_to_rotvec(R)
    angle = float(np.linalg.norm(rotvec))
    return [math.cos(angle / 2), *(math.sin(angle / 2) * rotvec / angle).tolist()]


def encode_videopose3d(cameras: Sequence[Camera], folder: Path, scale: float = 1000.0) -> tuple[str, str | None]:
    views = [
        {
            "id": c.name, "center": c.intrinsics[2:].tolist(), "focal_length": c.intrinsics[:2].tolist(),
            "radial_distortion": c.dist[[0, 1, 4]].tolist(), "tangential_distortion": c.dist[[3, 2]].tolist(),
            "res_w": c.size[0], "res_h": c.size[1], "azimuth": 70, "orientation": _quaternion(c.R.T),
            "translation": (c.centre * scale).tolist(),
        }
        for c in cameras
    ]  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps({"S9": views, "S2": []}))
    return f"{folder / 'cameras.json'}:S9", "mm"


def encode_videopose3d_metres(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    return encode_videopose3d(cameras, folder, 1.0)[0], "m"


def encode_cameras_h5(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    h5py = pytest.importorskip("h5py", reason="needs the extra `files`")
    with h5py.File(folder / "cameras.h5", "w") as archive:
        for i, c in enumerate(cameras):
            group = archive.create_group(f"subject9/camera{i + 1}")
            fx, fy, cx, cy = c.intrinsics
            columns = {"T": c.centre * 1000, "f": [fx, fy], "c": [cx, cy], "k": c.dist[[0, 1, 4]], "p": c.dist[2:4]}
            for key, values in columns.items():
                group[key] = np.asarray(values, np.float64).reshape(-1, 1)
            group["R"] = c.R.T
            group["Name"] = np.array([[ord(char)] for char in c.name], np.uint16)
    return f"{folder / 'cameras.h5'}:S9", None


def encode_metadata(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    extrinsics = np.zeros((4, 11, 6))
    for view, c in enumerate(cameras):
        R = c.R
        angles = [math.atan2(-R[1, 2], R[2, 2]), math.asin(R[0, 2]), math.atan2(-R[0, 1], R[0, 0])]
        extrinsics[view, 8] = [*angles, *(c.centre * 1000)]
    intrinsics = [[*c.intrinsics, *c.dist[[0, 1, 4, 2, 3]]] for c in cameras]
    w0 = " ".join(repr(float(v)) for v in (*extrinsics.ravel(), *np.ravel(intrinsics)))
    ids = "".join(f"<td>{c.name}</td>" for c in cameras)
    (folder / "metadata.xml").write_text(
        f"<db><mapping><tr><td/></tr></mapping><dbcameras><index2id>{ids}</index2id></dbcameras><w0>[{w0}]</w0></db>"
    )
    return f"{folder / 'metadata.xml'}:S9", "mm"


def encode_mmpose(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    content = {
        ("S9", c.name): {
            "R": c.R.T, "T": c.centre[:, None], "f": c.intrinsics[:2, None], "c": c.intrinsics[2:, None],
            "k": c.dist[[0, 1, 4], None], "p": c.dist[2:4, None], "w": c.size[0], "h": c.size[1],
            "name": f"camera{i + 1}", "id": c.name,
        }
        for i, c in enumerate(cameras)
    }  # fmt: skip
    (folder / "cameras.pkl").write_bytes(pickle.dumps(content))
    return f"{folder / 'cameras.pkl'}:S9", "m"


Encoder = Callable[[Sequence[Camera], Path], tuple[str, str | None]]
TEXTS: dict[str, Encoder] = {
    "freemocap": encode_freemocap, "caliscope": encode_caliscope, "caliscope legacy": encode_caliscope_legacy,
    "json": encode_rig_json, "opencv": encode_opencv, "easymocap": encode_easymocap, "qualisys": encode_qualisys,
    "karfly": encode_karfly, "videopose3d": encode_videopose3d, "videopose3d metres": encode_videopose3d_metres,
    "metadata": encode_metadata,
}  # fmt: skip
FORMS: dict[str, Encoder] = {**TEXTS, "cameras.h5": encode_cameras_h5, "mmpose": encode_mmpose}
each_form = pytest.mark.parametrize("encode", FORMS.values(), ids=FORMS.keys())


def rig_refused(match: str, source: Any, units: str | None = "m", size: tuple[int, int] | None = None) -> None:
    with pytest.raises(EdgeliftError, match=match):
        read_rig(str(source), units, size)
