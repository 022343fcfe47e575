"""Camera files of other tools: the true cameras, encoded into every form, are read back; what is wrong is one error."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.cameras import Camera, project
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import read_rig, write_rig_as

from .rig_files import (
    FORMS,
    Encoder,
    each_form,
    encode_caliscope,
    encode_cameras_h5,
    encode_easymocap,
    encode_karfly,
    encode_metadata,
    encode_qualisys,
    encode_videopose3d,
    encode_videopose3d_metres,
    opencv_matrix,
    rig_refused,
    studio,
    true_rig,
)

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
EXACT = 1e-9


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
    true = true_rig(shared, subject)
    source, units = encode(true, tmp_path)
    read = read_rig(source, units)
    _assert_same(read, true, names="caliscope" not in encode.__name__)
    assert "caliscope" not in encode.__name__ or [c.name for c in read] == ["cam_0", "cam_1", "cam_2", "cam_3"]


@each_form
def test_a_made_up_rig_in_every_form(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(studio(), tmp_path)
    _assert_same(read_rig(source, units), studio(), names="caliscope" not in encode.__name__)


def test_published_figures_of_one_camera_in_two_encodings(shared: Path, tmp_path: Path) -> None:
    """The quaternion and centre that VideoPose3D prints, against R and t that camera-parameters.json prints."""
    items = json.loads((shared / "rigs.json").read_text())["rigs"]["h36m_S1"]
    true = read_rig(f"{shared / 'rigs.json'}:h36m_S1", None)
    source, _ = encode_videopose3d(true, tmp_path)
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


def test_opencv_files_that_are_not_one_camera_with_a_pose_are_refused(tmp_path: Path) -> None:
    text, path = OPENCV_HEAD["cv2 4"] + OPENCV_FILE, tmp_path / "a.yml"

    def refused(match: str, old: str, new: str) -> None:
        assert old in text
        path.write_text(text.replace(old, new))
        rig_refused(match, path)

    refused("as its first line", "%YAML:1.0", "camera:")
    refused("none as a rotation R", "\nR: ", "\nR1: ")
    refused("K, camera_matrix|camera_matrix, K", "\nflags: 0", "\n" + opencv_matrix("K", np.eye(3), (3, 3)))
    refused("fisheye", "fisheye_model: 0", "fisheye_model: 1")
    refused("no size", "image_width", "images")
    refused("T: received", "cols: 1\n   dt: d\n   data: [ -0.346051", "cols: 2\n   dt: d\n   data: [ -0.346051")
    refused("as many numbers", "-0.346051", ".Nan")
    refused("as many numbers", "dt: d\n   data: [ -0.3", 'dt: "2d"\n   data: [ -0.3')
    refused("no key twice", "flags", "image_width")
    path.write_text(text.replace("image_width", "images"))
    assert read_rig(str(path), "m", (1000, 1002))[0].size == (1000, 1002)
    path.write_text(text)
    rig_refused("900 x 1002 as stated", path, size=(900, 1002))
    rig_refused(r"a distance of 5\.513 m if it is metres, 0\.005513 m if millimetres", path, None)


def test_zeros_of_opencvs_longer_models_are_dropped(tmp_path: Path) -> None:
    whole = opencv_matrix("D", [0.1, 0.2, 0.003, 0.004, 0.5, 0, 0, 0], (1, 8))
    text = re.sub(r"(?s)distortion_coefficients.*?\]\n", whole, OPENCV_HEAD["cv2 5"] + OPENCV_FILE)
    (tmp_path / "a.yml").write_text(text)
    assert read_rig(str(tmp_path / "a.yml"), "m")[0].dist.tolist() == [0.1, 0.2, 0.003, 0.004, 0.5]
    (tmp_path / "a.yml").write_text(text.replace("0.5, 0.0, 0.0, 0.0", "0.5, 0.0, 0.0, 0.1"))
    rig_refused("4 or 5", tmp_path / "a.yml")


def test_easymocap_traps(tmp_path: Path) -> None:
    names = ("01", "2", "03", "cam b")
    rig = tuple(replace(c, name=name, size=(1000, 1000)) for c, name in zip(studio(), names, strict=True))
    encode_easymocap(rig, tmp_path)
    intri, extri = ((tmp_path / name).read_text() for name in ("intri.yml", "extri.yml"))
    # names keep their zeros, quoted or not
    (tmp_path / "intri.yml").write_text(intri.replace('- "01"', "- 01"))
    assert [c.name for c in read_rig(str(tmp_path), "m")] == list(names)
    # without H_ and W_ the size is stated, never guessed
    (tmp_path / "intri.yml").write_text(re.sub(r"[HW]_.*\n", "", intri))
    rig_refused("camera 01: received no size", tmp_path)
    _assert_same(read_rig(str(tmp_path), "m", (1000, 1000)), rig)
    # old files write D_; a missing dist_ is no zero
    (tmp_path / "intri.yml").write_text(intri.replace("dist_", "D_"))
    _assert_same(read_rig(str(tmp_path), "m"), rig)
    (tmp_path / "intri.yml").write_text(intri.replace("dist_2:", "other:"))
    rig_refused("no dist_2 or D_2", tmp_path)
    (tmp_path / "intri.yml").write_text(intri)
    # either rotation will do, but not two that differ
    (tmp_path / "extri.yml").write_text(re.sub(r"(?m)^Rot_", "Other_", extri))
    _assert_same(read_rig(str(tmp_path), "m"), rig)
    (tmp_path / "extri.yml").write_text(re.sub(r"(?m)^R_", "Other_", extri))
    _assert_same(read_rig(str(tmp_path), "m"), rig)
    (tmp_path / "extri.yml").write_text(extri.replace("\nR_2:", "\nR_x:").replace("\nR_01:", "\nR_2:"))
    rig_refused("camera 2: received a matrix Rot_ and a Rodrigues vector R_ that differ", tmp_path)
    (tmp_path / "extri.yml").unlink()
    rig_refused("a folder with intri.yml", tmp_path)


def test_caliscope_cameras_without_a_pose_or_turned_are_refused_by_name(tmp_path: Path) -> None:
    source, _ = encode_caliscope(studio(), tmp_path)
    text = Path(source).read_text()
    second = text.index("[cameras.1]")

    def refused(match: str, old: str, new: str) -> None:
        Path(source).write_text(text[:second] + text[second:].replace(old, new, 1))
        rig_refused(r"\[cameras\.1\].*" + match, source, None)

    refused("without pose", "rotation =", "other =")
    refused("without intrinsics", "matrix =", "other =")
    refused("rotation_count = -1: caliscope shows", "rotation_count = 0", "rotation_count = -1")
    refused("fisheye = true", "fisheye = false", "fisheye = true")
    Path(source).write_text(text[:second] + text[second:].replace("exposure = -5", "ignore = true", 1))
    assert [c.name for c in read_rig(source, "m")] == ["cam_0", "cam_2", "cam_3"]
    rig_refused("metres by definition", source, "mm")


@each_form
def test_a_unit_that_the_format_fixes_is_not_overruled(encode: Encoder, tmp_path: Path) -> None:
    source, units = encode(studio(), tmp_path)
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
        rig_refused(r"m if it is metres, .* if millimetres.*--units", source, None)
        rig_refused("--units", source, "mm" if units == "m" else "m")  # the distances say so
    else:
        _assert_same(read_rig(source, None), read_rig(source, unit), 0)
        rig_refused("by definition", source, "m" if unit == "mm" else "mm")


@pytest.mark.parametrize("form", ["json", "karfly", "videopose3d", "metadata", "cameras.h5", "mmpose"])
def test_a_subject_that_is_not_there_is_answered_with_those_that_are(form: str, tmp_path: Path) -> None:
    source, units = FORMS[form](studio(), tmp_path)
    rig_refused("one of .*S9.*NAME", source.removesuffix("S9") + "S77", units)
    rig_refused("no name.*one of .*S9", source.removesuffix(":S9"), units)


def test_cameras_of_other_data_sets_in_human36m_forms_need_a_size(tmp_path: Path) -> None:
    rig = tuple(replace(c, name=f"cam{i}", size=(1000, 1000)) for i, c in enumerate(studio()))
    for encode in (encode_karfly, encode_metadata, encode_cameras_h5):
        source, _ = encode(rig, tmp_path)
        rig_refused("no size", source, "mm")
        _assert_same(read_rig(source, "mm", (1000, 1000)), rig)


def test_videopose3d_cameras_that_it_normalised_are_refused(tmp_path: Path) -> None:
    source, _ = encode_videopose3d_metres(studio(), tmp_path)
    content = json.loads((tmp_path / "cameras.json").read_text())
    for view in content["S9"]:
        view["focal_length"] = [2.29, 2.287]
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    rig_refused("in pixels.*scale it to pixels", source)


def test_qualisys_files_that_need_another_matrix_are_refused(tmp_path: Path) -> None:
    source, _ = encode_qualisys(studio(), tmp_path)
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
        rig_refused("at least one|Name a file", tmp_path / name)
    (tmp_path / "empty").mkdir()
    rig_refused("a folder with nothing", tmp_path / "empty")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1, 2]))
    rig_refused("received 'list'", tmp_path / "x.pkl")


def test_the_toml_of_anipose_round_trips_in_both_units(tmp_path: Path) -> None:
    rig = (*studio()[:3], replace(studio()[3], name="left [2] é"))
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
