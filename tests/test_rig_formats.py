"""Camera files of other tools: the true cameras, encoded into every form, are read back; what is wrong is one error."""

from __future__ import annotations

import json
import math
import pickle
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.cameras import Camera, project
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import matrix_to_rotvec, read_rig, write_rig_as

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
EXACT = 1e-9


def _orthonormal(R: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(R)
    return np.asarray(u @ v)


def _studio() -> tuple[Camera, ...]:
    """Four unlike cameras around the origin, for what needs no recording beside the project."""
    rng = np.random.default_rng(5)
    cameras = []
    for i, name in enumerate(("54138969", "55011271", "58860488", "60457274")):
        K = np.array([[1145.0 + i, 0, 512.5 + i], [0, 1143.25 + i, 515.5 - i], [0, 0, 1]])
        R = _orthonormal(rng.normal(size=(3, 3)))
        R *= np.sign(np.linalg.det(R))
        size = (1000, 1002) if i in (0, 3) else (1000, 1000)
        dist = np.array([-0.2, 0.24, -0.0014, -0.00097, -0.003])
        cameras.append(Camera(name, K, dist, R, np.array([0.3 * i, -0.2, 4.0 + i]), size))
    return tuple(cameras)


def _true(shared: Path, subject: str) -> tuple[Camera, ...]:
    """The published cameras; their matrices are rounded to nine digits, and forms without matrices need exact ones."""
    rig = read_rig(f"{shared / 'rigs.json'}:h36m_{subject}", None)
    return tuple(replace(camera, R=_orthonormal(camera.R)) for camera in rig)


# one encoder a form: writes the cameras into a folder and returns the source, and the unit to give


def _toml_rows(camera: Camera) -> str:
    return (
        f"size = {list(camera.size)}\nmatrix = {camera.K.tolist()}\ndistortions = {camera.dist.tolist()}\n"
        f"translation = {camera.t.tolist()}\n"
    )


def _freemocap(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
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


def _caliscope(cameras: Sequence[Camera], folder: Path, legacy: bool = False) -> tuple[str, str | None]:
    text = ""
    for i, c in enumerate(cameras):
        rotation = c.R.tolist() if legacy else matrix_to_rotvec(c.R).tolist()
        text += f"[cameras.{i}]\ncam_id = {i}\nrotation_count = 0\nerror = 0.2\nexposure = -5\ngrid_count = 20\n"
        text += f"{_toml_rows(c)}rotation = {rotation}\nfisheye = false\n\n"
    (folder / "camera_array.toml").write_text(text)
    return str(folder / "camera_array.toml"), None


def _caliscope_legacy(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    return _caliscope(cameras, folder, legacy=True)


def _rig_json(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    items = [
        {"id": c.name, "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(), "size": c.size}
        for c in cameras
    ]
    (folder / "rigs.json").write_text(json.dumps({"rigs": {"S9": items}}))
    return f"{folder / 'rigs.json'}:S9", None


def _mat(key: str, values: Any, shape: tuple[int, int]) -> str:
    data = ", ".join(repr(float(v)) for v in np.ravel(values))
    return f"{key}: !!opencv-matrix\n   rows: {shape[0]}\n   cols: {shape[1]}\n   dt: d\n   data: [ {data} ]\n"


def _opencv(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    """Both headers, several names of the keys, the rotation in both forms."""
    (folder / "cams").mkdir()
    for i, c in enumerate(cameras):
        odd = bool(i % 2)
        text = "%YAML 1.2\n---\n" if odd else "%YAML:1.0\n---\n"
        text += f"image_width: {c.size[0]}\nimage_height: {c.size[1]}\n"
        text += _mat("K" if odd else "camera_matrix", c.K, (3, 3))
        text += _mat("distCoeffs" if odd else "distortion_coefficients", c.dist, (1, 5) if odd else (5, 1))
        text += _mat("rvec", matrix_to_rotvec(c.R), (3, 1)) if odd else _mat("R", c.R, (3, 3))
        text += _mat("tvec" if odd else "T", c.t * 1000, (3, 1))
        (folder / "cams" / f"{c.name}.{'yaml' if odd else 'yml'}").write_text(text)
    return str(folder / "cams"), "mm"


def _easymocap(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    names = "%YAML:1.0\r\n---\r\nnames:\r\n" + "".join(f'  - "{c.name}"\r\n' for c in cameras)
    intri = extri = names
    for c in cameras:
        intri += _mat(f"K_{c.name}", c.K, (3, 3)) + _mat(f"dist_{c.name}", c.dist, (1, 5))
        intri += f"H_{c.name}: {c.size[1]}\nW_{c.name}: {c.size[0]}\n"
        extri += _mat(f"R_{c.name}", matrix_to_rotvec(c.R), (3, 1)) + _mat(f"Rot_{c.name}", c.R, (3, 3))
        extri += _mat(f"T_{c.name}", c.t, (3, 1))
    (folder / "intri.yml").write_text(intri, newline="")
    (folder / "extri.yml").write_text(extri, newline="")
    return str(folder), "m"


def _qualisys(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
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


def _karfly(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
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


def _videopose3d(cameras: Sequence[Camera], folder: Path, scale: float = 1000.0) -> tuple[str, str | None]:
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


def _videopose3d_metres(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
    return _videopose3d(cameras, folder, 1.0)[0], "m"


def _cameras_h5(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
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


def _metadata(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
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


def _mmpose(cameras: Sequence[Camera], folder: Path) -> tuple[str, str | None]:
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
    "freemocap": _freemocap, "caliscope": _caliscope, "caliscope legacy": _caliscope_legacy, "json": _rig_json,
    "opencv": _opencv, "easymocap": _easymocap, "qualisys": _qualisys, "karfly": _karfly, "videopose3d": _videopose3d,
    "videopose3d metres": _videopose3d_metres, "metadata": _metadata,
}  # fmt: skip
FORMS: dict[str, Encoder] = {**TEXTS, "cameras.h5": _cameras_h5, "mmpose": _mmpose}
each_form = pytest.mark.parametrize("encode", FORMS.values(), ids=FORMS.keys())


def _assert_same(read: Sequence[Camera], true: Sequence[Camera], tolerance: float = EXACT, names: bool = True) -> None:
    assert len(read) == len(true)
    for a, b in zip(read, true, strict=True):
        assert not names or a.name == b.name
        assert a.size == b.size
        for field in ("K", "dist", "R", "t"):
            assert np.abs(getattr(a, field) - getattr(b, field)).max() <= tolerance, (b.name, field)


@each_form
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_28_cameras_of_human36m_in_every_form(encode: Encoder, subject: str, shared: Path, tmp_path: Path) -> None:
    true = _true(shared, subject)
    source, units = encode(true, tmp_path)
    read = read_rig(source, units)
    _assert_same(read, true, names="caliscope" not in encode.__name__)
    assert "caliscope" not in encode.__name__ or [c.name for c in read] == ["cam_0", "cam_1", "cam_2", "cam_3"]


@each_form
def test_a_made_up_rig_in_every_form(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(_studio(), tmp_path)
    _assert_same(read_rig(source, units), _studio(), names="caliscope" not in encode.__name__)


def test_published_figures_of_one_camera_in_two_encodings(shared: Path, tmp_path: Path) -> None:
    """The quaternion and centre that VideoPose3D prints, against R and t that camera-parameters.json prints."""
    items = json.loads((shared / "rigs.json").read_text())["rigs"]["h36m_S1"]
    true = read_rig(f"{shared / 'rigs.json'}:h36m_S1", None)
    source, _ = _videopose3d(true, tmp_path)
    content = json.loads((tmp_path / "cameras.json").read_text())
    for view, item in zip(content["S9"], items, strict=True):
        view |= {"orientation": item["quaternion_cam_to_world_wxyz"], "translation": [1000 * v for v in item["centre"]]}
    content["S9"][0]["translation"] = [1841.1070556640625, 4955.28466796875, 1563.4454345703125]
    content["S9"][0]["tangential_distortion"] = [-0.0009756988729350269, -0.00142447161488235]
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    read = read_rig(source, "mm")
    assert np.abs(read[0].t - [-0.34605, 0.54698, 5.47448]).max() < 1e-5
    assert read[0].dist.tolist() == pytest.approx([-0.207099, 0.247775, -0.001424, -0.000976, -0.003075], abs=1e-6)
    for a, b in zip(read, true, strict=True):
        assert np.abs(a.R - b.R).max() < 1e-7
        assert np.abs(a.t - b.t).max() < 2e-6  # micrometres: centres in the file are rounded to them


def _grid(camera: Camera) -> np.ndarray:
    """World points on the rays of pixels all over the image, 4 m away."""
    x, y = np.meshgrid(np.linspace(0, camera.size[0], 21), np.linspace(0, camera.size[1], 21))
    local = np.stack(
        [(x - camera.K[0, 2]) / camera.K[0, 0], (y - camera.K[1, 2]) / camera.K[1, 1], np.ones_like(x)], -1
    )
    return np.asarray((4 * local - camera.t) @ camera.R)


def test_qualisys_and_pose2sim_files_of_one_rig_agree_but_for_distortion(shared: Path) -> None:
    qualisys = read_rig(str(shared / "pose2sim" / "Calib.qca.txt"), None)
    toml = read_rig(str(shared / "pose2sim" / "Calib.toml"), "m")
    for a, b in zip(qualisys, toml, strict=True):
        assert (a.name, a.size) == (b.name, b.size)
        assert np.abs(a.R - b.R).max() < 1e-12
        assert np.abs(a.t - b.t).max() < 1e-12
        assert np.abs(a.K - b.K).max() < 1e-9
        # Pose2Sim divides what has no unit by 64: that is all that differs, and what it comes to in the image
        assert np.abs(a.dist / 64 - b.dist).max() < 1e-12
        apart = np.linalg.norm(project(_grid(a), a) - project(_grid(b), b), axis=-1)
        assert 1.0 < np.median(apart) < 3.0
        assert 5.0 < apart.max() < 20.0


OPENCV_HEAD = {"cv2 4": "%YAML:1.0\n---\n", "cv2 5": "%YAML 1.2\n---\n"}
OPENCV_FILE = """# made by a calibration
calibration_time: "Thu 01 Jan 2026 10:00:00"
image_width: 1000
image_height: 1002
fisheye_model: 0
flags: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 1145.0494384765625, 0., 512.54150390625, 0.,
       1143.7811279296875, 515.45147705078125, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -0.20000000000000001, 0.25, -0.0014, -0.00097000000000000005,
       -0.0030000000000000001 ]
R: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 0.18688974643708178, -0.63869065678244163,
       -0.74642244581436357, 0.33535418913202653, 0.75564562328161,
       -0.56261644114525122, 0.92336871861043912, -0.14516865003905061,
       0.35541000624286789 ]
T: !!opencv-matrix
   rows: 3
   cols: 1
   dt: d
   data: [ -0.346051, 0.54698100000000005, 5.4744809999999999 ]
avg_reprojection_error: 0.25
img_pts: !!opencv-matrix
   rows: 2
   cols: 3
   dt: "2f"
   data: [ 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0. ]
names:
   - "01"
   - cam b
board:
   rows: 6
   M: !!opencv-matrix
      rows: 1
      cols: 1
      dt: d
      data: [ 1. ]
"""
# cv2.projectPoints of [[0.5, -0.2, 1.0], [-1, 2, 3], [0, 0, 0]] with these numbers
OPENCV_PIXELS = [
    [355.21982286352727, 515.5856117835403], [-331.4028592095981, 521.8207757754542],
    [440.3557029418263, 629.3777420716696],
]  # fmt: skip


@pytest.mark.parametrize("head", OPENCV_HEAD.values(), ids=OPENCV_HEAD.keys())
def test_a_file_that_cv2_wrote_projects_as_cv2_does(head: str, tmp_path: Path) -> None:
    (tmp_path / "left.yml").write_text(head + OPENCV_FILE)
    (camera,) = read_rig(str(tmp_path / "left.yml"), "m")
    assert (camera.name, camera.size) == ("left", (1000, 1002))
    assert camera.dist.tolist() == [-0.2, 0.25, -0.0014, -0.00097, -0.003]
    pixels = project([[0.5, -0.2, 1.0], [-1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], camera)
    assert np.abs(pixels - OPENCV_PIXELS).max() < 1e-9


def _refused(match: str, source: Any, units: str | None = "m", size: tuple[int, int] | None = None) -> None:
    with pytest.raises(EdgeliftError, match=match):
        read_rig(str(source), units, size)


def test_opencv_files_that_are_not_one_camera_with_a_pose_are_refused(tmp_path: Path) -> None:
    text, path = OPENCV_HEAD["cv2 4"] + OPENCV_FILE, tmp_path / "a.yml"

    def refused(match: str, old: str, new: str) -> None:
        assert old in text
        path.write_text(text.replace(old, new))
        _refused(match, path)

    refused("as its first line", "%YAML:1.0", "camera:")
    refused("none as a rotation R", "\nR: ", "\nR1: ")
    refused("K, camera_matrix|camera_matrix, K", "\nflags: 0", "\n" + _mat("K", np.eye(3), (3, 3)))
    refused("fisheye", "fisheye_model: 0", "fisheye_model: 1")
    refused("no size", "image_width", "images")
    refused("T: received", "cols: 1\n   dt: d\n   data: [ -0.346051", "cols: 2\n   dt: d\n   data: [ -0.346051")
    refused("as many numbers", "-0.346051", ".Nan")
    refused("as many numbers", "dt: d\n   data: [ -0.3", 'dt: "2d"\n   data: [ -0.3')
    refused("no key twice", "flags", "image_width")
    path.write_text(text.replace("image_width", "images"))
    assert read_rig(str(path), "m", (1000, 1002))[0].size == (1000, 1002)
    path.write_text(text)
    _refused("900 x 1002 as stated", path, size=(900, 1002))
    _refused(r"a distance of 5\.513 m if it is metres, 0\.005513 m if millimetres", path, None)


def test_zeros_of_opencvs_longer_models_are_dropped(tmp_path: Path) -> None:
    whole = _mat("D", [0.1, 0.2, 0.003, 0.004, 0.5, 0, 0, 0], (1, 8))
    text = re.sub(r"(?s)distortion_coefficients.*?\]\n", whole, OPENCV_HEAD["cv2 5"] + OPENCV_FILE)
    (tmp_path / "a.yml").write_text(text)
    assert read_rig(str(tmp_path / "a.yml"), "m")[0].dist.tolist() == [0.1, 0.2, 0.003, 0.004, 0.5]
    (tmp_path / "a.yml").write_text(text.replace("0.5, 0.0, 0.0, 0.0", "0.5, 0.0, 0.0, 0.1"))
    _refused("4 or 5", tmp_path / "a.yml")


def test_easymocap_traps(tmp_path: Path) -> None:
    names = ("01", "2", "03", "cam b")
    rig = tuple(replace(c, name=name, size=(1000, 1000)) for c, name in zip(_studio(), names, strict=True))
    _easymocap(rig, tmp_path)
    intri, extri = ((tmp_path / name).read_text() for name in ("intri.yml", "extri.yml"))
    # names keep their zeros, quoted or not
    (tmp_path / "intri.yml").write_text(intri.replace('- "01"', "- 01"))
    assert [c.name for c in read_rig(str(tmp_path), "m")] == list(names)
    # without H_ and W_ the size is stated, never guessed
    (tmp_path / "intri.yml").write_text(re.sub(r"[HW]_.*\n", "", intri))
    _refused("camera 01: received no size", tmp_path)
    _assert_same(read_rig(str(tmp_path), "m", (1000, 1000)), rig)
    # old files write D_; a missing dist_ is no zero
    (tmp_path / "intri.yml").write_text(intri.replace("dist_", "D_"))
    _assert_same(read_rig(str(tmp_path), "m"), rig)
    (tmp_path / "intri.yml").write_text(intri.replace("dist_2:", "other:"))
    _refused("no dist_2 or D_2", tmp_path)
    (tmp_path / "intri.yml").write_text(intri)
    # either rotation will do, but not two that differ
    (tmp_path / "extri.yml").write_text(re.sub(r"(?m)^Rot_", "Other_", extri))
    _assert_same(read_rig(str(tmp_path), "m"), rig)
    (tmp_path / "extri.yml").write_text(re.sub(r"(?m)^R_", "Other_", extri))
    _assert_same(read_rig(str(tmp_path), "m"), rig)
    (tmp_path / "extri.yml").write_text(extri.replace("\nR_2:", "\nR_x:").replace("\nR_01:", "\nR_2:"))
    _refused("camera 2: received a matrix Rot_ and a Rodrigues vector R_ that differ", tmp_path)
    (tmp_path / "extri.yml").unlink()
    _refused("a folder with intri.yml", tmp_path)


def test_caliscope_cameras_without_a_pose_or_turned_are_refused_by_name(tmp_path: Path) -> None:
    source, _ = _caliscope(_studio(), tmp_path)
    text = Path(source).read_text()
    second = text.index("[cameras.1]")

    def refused(match: str, old: str, new: str) -> None:
        Path(source).write_text(text[:second] + text[second:].replace(old, new, 1))
        _refused(r"\[cameras\.1\].*" + match, source, None)

    refused("without pose", "rotation =", "other =")
    refused("without intrinsics", "matrix =", "other =")
    refused("rotation_count = -1: caliscope shows", "rotation_count = 0", "rotation_count = -1")
    refused("fisheye = true", "fisheye = false", "fisheye = true")
    Path(source).write_text(text[:second] + text[second:].replace("exposure = -5", "ignore = true", 1))
    assert [c.name for c in read_rig(source, "m")] == ["cam_0", "cam_2", "cam_3"]
    _refused("metres by definition", source, "mm")


@each_form
def test_a_unit_that_the_format_fixes_is_not_overruled(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(_studio(), tmp_path)
    fixed = {
        "caliscope": "m",
        "rig": "m",
        "mmpose": "m",
        "qualisys": "mm",
        "karfly": "mm",
        "cameras": "mm",
        "metadata": "mm",
    }
    unit = fixed.get(encode.__name__.split("_")[1])
    if unit is None:
        _refused(r"m if it is metres, .* if millimetres.*--units", source, None)
        _refused("--units", source, "mm" if units == "m" else "m")  # the distances say so
    else:
        _assert_same(read_rig(source, None), read_rig(source, unit), 0)
        _refused("by definition", source, "m" if unit == "mm" else "mm")


@pytest.mark.parametrize("form", ["json", "karfly", "videopose3d", "metadata", "cameras.h5", "mmpose"])
def test_a_subject_that_is_not_there_is_answered_with_those_that_are(form: str, tmp_path: Path) -> None:
    source, units = FORMS[form](_studio(), tmp_path)
    _refused("one of .*S9.*NAME", source.removesuffix("S9") + "S77", units)
    _refused("no name.*one of .*S9", source.removesuffix(":S9"), units)


def test_cameras_of_other_data_sets_in_human36m_forms_need_a_size(tmp_path: Path) -> None:
    rig = tuple(replace(c, name=f"cam{i}", size=(1000, 1000)) for i, c in enumerate(_studio()))
    for encode in (_karfly, _metadata, _cameras_h5):
        source, _ = encode(rig, tmp_path)
        _refused("no size", source, "mm")
        _assert_same(read_rig(source, "mm", (1000, 1000)), rig)


def test_videopose3d_cameras_that_it_normalised_are_refused(tmp_path: Path) -> None:
    source, _ = _videopose3d_metres(_studio(), tmp_path)
    content = json.loads((tmp_path / "cameras.json").read_text())
    for view in content["S9"]:
        view["focal_length"] = [2.29, 2.287]
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    _refused("in pixels.*scale it to pixels", source)


def test_qualisys_files_that_need_another_matrix_are_refused(tmp_path: Path) -> None:
    source, _ = _qualisys(_studio(), tmp_path)
    text = Path(source).read_text()

    def read(old: str, new: str) -> tuple[Camera, ...]:
        assert old in text
        Path(source).write_text(text.replace(old, new, 1))
        return read_rig(source, None)

    def refused(match: str, old: str, new: str) -> None:
        with pytest.raises(EdgeliftError, match=match):
            read(old, new)

    refused("viewrotation.*'90'", 'viewrotation="0"', 'viewrotation="90"')
    refused("video_resolution 540p", "1000p", "540p")
    refused("skew", 'skew="0.0"', 'skew="1.5"')
    refused("calibrated", 'viewrotation="0"', 'viewrotation="0" calibrated="false"')
    refused("of 64 units", f'sensorMaxU="{1000 * 64 - 1}"', 'sensorMaxU="999"')
    refused("transform", 'r11="', 'r99="')
    assert len(read('active="1"', 'active="0"')) == 3
    # a part of the sensor: the principal point moves with the corner
    cut = read('<fov_video left="0" top="0"', '<fov_video left="100" top="50"')[0]
    assert cut.size == (900, 952)
    assert cut.K[:2, 2].tolist() == pytest.approx([412.5, 465.5], abs=1e-9)


def test_other_toml_json_and_xml_are_no_rigs(tmp_path: Path) -> None:
    for name, text in {
        "a.toml": "[metadata]\nerror = 1.0\n",
        "b.json": '{"a": 1}',
        "c.json": "[1]",
        "d.xml": "<a/>",
    }.items():
        (tmp_path / name).write_text(text)
        _refused("at least one|Name a file", tmp_path / name)
    (tmp_path / "empty").mkdir()
    _refused("a folder with nothing", tmp_path / "empty")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1, 2]))
    _refused("received 'list'", tmp_path / "x.pkl")


def test_the_toml_of_anipose_round_trips_in_both_units(tmp_path: Path) -> None:
    rig = (*_studio()[:3], replace(_studio()[3], name="left [2] é"))
    for units in ("m", "mm"):
        path = tmp_path / units / "calibration.toml"
        write_rig_as(rig, path, "anipose", units)
        _assert_same(read_rig(str(path), units), rig, 1e-12)
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"(?m)^\[(.*)\]$", text) == ["cam_0", "cam_1", "cam_2", "cam_3", "metadata"]
        assert len(re.findall(r"(?m)^size = \[1000, 100[02]\]$", text)) == 4
        assert [p.name for p in path.parent.iterdir()] == ["calibration.toml"]
    write_rig_as(rig, tmp_path / "a.toml", "pose2sim")
    _assert_same(read_rig(str(tmp_path / "a.toml"), "m"), rig, 1e-12)
    for kind, units in (("pose2sim", "mm"), ("opencv", "m"), ("anipose", "cm")):
        with pytest.raises(EdgeliftError, match=r"--units|kind of rig"):
            write_rig_as(rig, tmp_path / "b.toml", kind, units)
    with pytest.raises(EdgeliftError, match="no name twice"):
        write_rig_as((rig[0], rig[0]), tmp_path / "b.toml", "anipose")
    assert not (tmp_path / "b.toml").exists()


def _survives(source: str, units: str | None) -> None:
    """The file is read, or refused by the one error: never anything else, and cameras that are read are cameras."""
    try:
        rig = read_rig(source, units)
    except EdgeliftError as error:
        assert len(str(error)) < 3000  # noqa: PT017
    else:
        assert all(isinstance(camera, Camera) for camera in rig)


def _files(source: str) -> list[Path]:
    path = Path(source.removesuffix(":S9"))
    return sorted(path.iterdir()) if path.is_dir() else [path]


@each_form
def test_files_cut_short_anywhere(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(_studio(), tmp_path)
    for path in _files(source):
        whole = path.read_bytes()
        step = max(1, len(whole) // CUTS)
        for length in (*range(0, len(whole), step), *range(len(whole) - 5, len(whole))):
            path.write_bytes(whole[:length])
            _survives(source, units)
        for length in (0, 1, len(whole) // 2):  # these cannot be whole cameras
            path.write_bytes(whole[:length])
            with pytest.raises(EdgeliftError):
                read_rig(source, units)
        path.write_bytes(whole)


MUTATED, CUTS = 20, 60  # of the values of a file, and places; more were tried once
TOKEN = re.compile(r'-?\d[\d.eE+-]*|"[^"]*"|\[|\]|true|false')
ODD = (
    "",
    '"x"',
    "[]",
    "{}",
    "true",
    "null",
    "1e308",
    "-1",
    "nan",
    "inf",
    "9" * 5000,
    "[[[1]]]",
    '"\\ud800"',
    '"\x07"',
    "é",
)


@pytest.mark.parametrize("encode", TEXTS.values(), ids=TEXTS.keys())
def test_values_of_other_types_anywhere(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(_studio()[:2] if encode is not _metadata else _studio(), tmp_path)
    chance = random.Random(7)
    for path in _files(source):
        whole = path.read_text()
        tokens = list(TOKEN.finditer(whole))
        for token in chance.sample(tokens, min(len(tokens), MUTATED)):
            for odd in ODD:
                path.write_text(whole[: token.start()] + odd + whole[token.end() :])
                _survives(source, units)
        path.write_text(whole)


def test_pickled_and_hdf5_values_of_other_types(tmp_path: Path) -> None:
    source, _ = _mmpose(_studio(), tmp_path)
    path = tmp_path / "cameras.pkl"
    whole = pickle.loads(path.read_bytes())
    key = ("S9", "54138969")
    odd: tuple[Any, ...] = (
        None,
        "x",
        [],
        {},
        True,
        1e308,
        10**400,
        np.nan,
        np.zeros((3, 3)),
        np.array(["a"]),
        np.zeros(0),
        b"1",
        1j,
    )
    for field in whole[key]:
        for value in odd:
            path.write_bytes(pickle.dumps({**whole, key: {**whole[key], field: value}}))
            _survives(source, "m")
    path.write_bytes(pickle.dumps({**whole, key: print}))
    _refused("calls builtins.print", source)
    h5py = pytest.importorskip("h5py", reason="needs the extra `files`")
    source, _ = _cameras_h5(_studio(), tmp_path)
    for field in ("R", "T", "f", "c", "k", "p", "Name"):
        for value in (np.zeros((3, 3)), np.zeros(0), np.array([np.nan]), b"text", 7, np.array([2**40])):
            with h5py.File(tmp_path / "cameras.h5", "r+") as archive:
                kept = archive[f"subject9/camera2/{field}"][()]
                del archive[f"subject9/camera2/{field}"]
                archive[f"subject9/camera2/{field}"] = value
            _survives(source, "mm")
            with h5py.File(tmp_path / "cameras.h5", "r+") as archive:
                del archive[f"subject9/camera2/{field}"]
                archive[f"subject9/camera2/{field}"] = kept
    with h5py.File(tmp_path / "cameras.h5", "r+") as archive:
        del archive["subject9/camera1/R"]
        archive.create_dataset(
            "subject9/camera1/R", (10**6, 10**6), "f8", chunks=(1000, 1000)
        )  # 8 TB that nobody wrote
    _refused("elements of type", source, "mm")


def test_files_that_are_made_to_exhaust(tmp_path: Path) -> None:
    deep = 200_000
    matrix = "%YAML:1.0\n---\nK: !!opencv-matrix\n   rows: 9999\n   cols: 9999\n   dt: d\n   data: [ 1. ]\n"
    entities = '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><calibration>&d;</calibration>'
    many = "".join(f'[cam_{i}]\nname = "{i}"\n' for i in range(2000))
    files = {
        "deep.json": "[" * deep, "deep2.json": '{"rigs":' * deep, "deep.toml": "a = " + "[" * deep,
        "deep.xml": "<a>" * deep, "entities.xml": entities, "entities.txt": entities, "big.yml": matrix,
        "many.toml": many, "spaces.yml": "%YAML:1.0\n---\nK: !!opencv-matrix" + " " * deep,
        "commas.yml": matrix.replace("1. ]", "1.," * deep + " ]"), "line.yml": "%YAML:1.0\n" + "a" * deep,
        "digits.json": '{"rigs": {"S9": [{"size": ' + "9" * deep + "}]}}", "lines.txt": "<calibration " * deep,
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(EdgeliftError) as caught:
            read_rig(f"{tmp_path / name}{':S9' if name.endswith(('json', 'xml')) else ''}", "m")
        assert len(str(caught.value)) < 3000
    for suffix in ("toml", "json", "yml", "txt", "xml"):
        path = tmp_path / f"latin.{suffix}"
        path.write_bytes(b"%YAML:1.0\n\xff\xfe")
        _refused("unreadable", path)
        with path.open("wb") as file:
            file.truncate(2**40)
        _refused("MiB at most", path)


def test_sizes_numbers_and_matrices_that_cannot_be(tmp_path: Path) -> None:
    item = {
        "id": "A", "K": [[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]], "dist": [0] * 5, "R": np.eye(3).tolist(),
        "t": [0, 0, 4], "size": [1000, 900],
    }  # fmt: skip
    path = tmp_path / "rigs.json"

    def refused(match: str, **changes: Any) -> None:
        path.write_text(json.dumps({"rigs": {"S9": [{**item, **changes}]}}))
        _refused(match, f"{path}:S9", None)

    refused("size: received", size=[10**400, 900])
    refused("size: received", size=[1e30, 900])
    refused("1 to 20000 pixels", size=[30_000, 900])
    refused("1 to 20000 pixels", size=[0, 900])
    refused("size: received", size=["1000", 900])
    refused("size: received", size=[True, 900])
    refused("name: received", id=["A"])
    refused("name: received", id="A\n")
    refused("name: received", id="\ud800")
    refused("K: received", K=[[1000.0, 0, 0], [0, 1000, 0], [500, 500, 1]])  # as MATLAB has it
    refused("K: received", K=[[2.3, 0, 0.1], [0, 2.3, 0.1], [0, 0, 1]])  # divided by the image's size
    refused("t: received", t=[0, 0, 1e200])
    refused("orthonormal", R=[[1, 0, 0], [0, 1, 0], [0, 0, 2]])
    path.write_text('{"rigs": {"S9": {"a": 1}}}')
    _refused("a dict.*a list of cameras", f"{path}:S9", None)
