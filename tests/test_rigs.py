import json
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import match_views, matrix_to_rotvec, pick_cameras, read_rig, rotvec_to_matrix, write_rig

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the project")

CAMERA = """[{key}]
name = "{key}"
size = [1920.0, 1080.0]
matrix = [[1400.0, 0.0, 960.0], [0.0, 1400.0, 540.0], [0.0, 0.0, 1.0]]
distortions = [0.1, 0.2, 0.003, 0.004]
rotation = [{rotation}]
translation = {translation}
"""


def _toml(path: Path, scale: float = 1.0, extra: str = "") -> str:
    places = {"cam_10": [0.0, 0.0, 3.0 * scale], "cam_2": [2.0 * scale, 0.0, 3.0 * scale]}
    blocks = [CAMERA.format(key=k, rotation="0.0, 0.0, 0.0", translation=t) for k, t in places.items()]
    path.write_text("\n".join(blocks) + extra + "\n[metadata]\nerror = 0.0\n")
    return str(path)


@pytest.mark.parametrize("angle", [0.0, 1e-13, 1e-9, 1e-4, 0.7, 3.0, np.pi - 1e-9, np.pi])
def test_rotvec_and_matrix_are_inverse(angle: float) -> None:
    rng = np.random.default_rng(3)
    for axis in (*rng.normal(size=(20, 3)), *np.eye(3)):
        rotvec = angle * axis / np.linalg.norm(axis)
        R = rotvec_to_matrix(rotvec)
        assert np.abs(R @ R.T - np.eye(3)).max() < 1e-12
        assert np.linalg.det(R) == pytest.approx(1)
        back = matrix_to_rotvec(R)
        # at pi both signs of the axis are the same rotation
        error = min(np.abs(back - rotvec).max(), np.abs(back + rotvec).max() if angle > 3.1 else np.inf)
        assert error < 1e-8
        assert np.abs(rotvec_to_matrix(back) - R).max() < 1e-12


def test_rotvec_to_matrix_turns_x_into_y() -> None:
    assert np.allclose(rotvec_to_matrix([0, 0, np.pi / 2]) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def test_toml_keeps_file_order_pads_distortion_and_scales(tmp_path: Path) -> None:
    metres = read_rig(_toml(tmp_path / "m.toml"), "m")
    millimetres = read_rig(_toml(tmp_path / "mm.toml", 1000.0), "mm")
    assert [c.name for c in metres] == ["cam_10", "cam_2"]
    assert metres[0].dist.tolist() == [0.1, 0.2, 0.003, 0.004, 0.0]
    assert metres[0].size == (1920, 1080)
    for a, b in zip(metres, millimetres, strict=True):
        assert np.allclose(a.t, b.t, atol=1e-12)


def test_unit_is_asked_for_and_checked(tmp_path: Path) -> None:
    with pytest.raises(EdgeliftError, match="--units m"):
        read_rig(_toml(tmp_path / "a.toml"), None)
    with pytest.raises(EdgeliftError, match=r"2000 m .*--units mm"):
        read_rig(_toml(tmp_path / "b.toml", 1000.0), "m")
    with pytest.raises(EdgeliftError, match=r"0.002 m .*--units m:"):
        read_rig(_toml(tmp_path / "c.toml"), "mm")
    with pytest.raises(EdgeliftError, match="cm"):
        read_rig(_toml(tmp_path / "d.toml"), "cm")


def test_bad_cameras_are_refused(tmp_path: Path) -> None:
    extra = CAMERA.format(key="fish", rotation="0.0, 0.0, 0.0", translation="[0.0, 1.0, 3.0]")
    with pytest.raises(EdgeliftError, match="fisheye"):
        read_rig(_toml(tmp_path / "a.toml", extra=extra + "fisheye = true\n"), "m")
    with pytest.raises(EdgeliftError, match=r"\[odd\].*no size"):
        read_rig(_toml(tmp_path / "b.toml", extra="[odd]\nname = 'x'\n"), "m")
    with pytest.raises(EdgeliftError, match="4 or 5"):
        read_rig(_toml(tmp_path / "c.toml", extra=extra.replace("0.003, 0.004", "0.003")), "m")
    with pytest.raises(EdgeliftError, match="rotation"):
        read_rig(_toml(tmp_path / "d.toml", extra=extra.replace("rotation = [0.0, ", "rotation = [")), "m")
    with pytest.raises(EdgeliftError, match=r"FILE\.toml or FILE\.json:NAME"):
        read_rig(str(tmp_path / "a.csv"), "m")
    with pytest.raises(EdgeliftError, match="unreadable"):
        read_rig(str(tmp_path / "none.toml"), "m")


def test_sections_of_matrices_are_no_cameras_but_unfinished_ones_are_told(tmp_path: Path) -> None:
    world = f"[world]\nmatrix = {np.eye(4).tolist()}\nrotation = [0.0, 0.0, 0.0]\ntranslation = [0.0, 0.0, 0.0]\n"
    cameras = read_rig(_toml(tmp_path / "a.toml", extra=world), "m")
    assert [c.name for c in cameras] == ["cam_10", "cam_2"]
    for unfinished in ("[cam_3]\n", "[left]\n", "[cam_3]\nmatrix = [[1.0]]\n", "[left]\nsize = [1920, 1080]\n"):
        with pytest.raises(EdgeliftError, match=r"\[(cam_3|left)\].*no .*translation"):
            read_rig(_toml(tmp_path / "a.toml", extra=unfinished), "m")


def test_json_rig_is_metres_by_definition(tmp_path: Path) -> None:
    item = {
        "id": "A",
        "K": np.eye(3).tolist(),
        "dist": [0] * 5,
        "R": np.eye(3).tolist(),
        "t": [0, 0, 4],
        "size": [9, 8],
    }
    path = tmp_path / "rigs.json"
    path.write_text(json.dumps({"rigs": {"one": [item]}}))
    (camera,) = read_rig(f"{path}:one", None)
    assert (camera.name, camera.size, camera.t.tolist()) == ("A", (9, 8), [0, 0, 4])
    with pytest.raises(EdgeliftError, match="metres by definition"):
        read_rig(f"{path}:one", "mm")
    with pytest.raises(EdgeliftError, match="one of one"):
        read_rig(f"{path}:two", None)


@needs_shared
@pytest.mark.parametrize("name", ["h36m_S1", "humaneva_S1"])
def test_write_rig_round_trips(name: str, tmp_path: Path) -> None:
    cameras = read_rig(f"{SHARED / 'rigs.json'}:{name}", None)
    write_rig(cameras, tmp_path / "out" / "rig.toml")
    again = read_rig(str(tmp_path / "out" / "rig.toml"), "m")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["rig.toml"]
    for a, b in zip(cameras, again, strict=True):
        assert (a.name, a.size) == (b.name, b.size)
        assert a.K.tolist() == b.K.tolist()
        assert a.dist.tolist() == b.dist.tolist()
        assert np.abs(a.R - b.R).max() < 1e-6  # the source matrices are rounded to 9 digits
        assert a.t.tolist() == b.t.tolist()


def test_match_views_by_name_and_by_hand() -> None:
    cameras = ["cam_01", "cam_02", "side"]
    assert match_views(["cam02_json", "CAM-01"], cameras[:2], {}) == {"cam02_json": "cam_02", "CAM-01": "cam_01"}
    assert match_views(["cam01", "x", "cam02"], cameras, {"x": "side"})["x"] == "side"
    # a given pair beats the name
    swapped = match_views(["cam01", "cam02"], cameras[:2], {"cam01": "cam_02", "cam02": "cam_01"})
    assert swapped == {"cam01": "cam_02", "cam02": "cam_01"}
    # leading zeros count
    with pytest.raises(EdgeliftError, match="views without a camera: cam_1;"):
        match_views(["cam_1", "cam_02"], cameras[:2], {})


def test_match_views_names_what_is_left_over() -> None:
    with pytest.raises(EdgeliftError, match=r"cameras of two views: a.*--view FOLDER=CAMERA"):
        match_views(["A", "a_json"], ["a"], {})
    with pytest.raises(EdgeliftError, match="cameras without a view: b"):
        match_views(["a"], ["a", "b"], {})
    assert match_views(["a", "b"], ["a", "b", "c"], {}, select=["b"]) == {"b": "b"}
    with pytest.raises(EdgeliftError, match="a view among a"):
        match_views(["a"], ["a"], {"z": "a"})
    with pytest.raises(EdgeliftError, match="a camera among a"):
        match_views(["a"], ["a"], {}, select=["q"])


def test_cameras_are_picked_by_name_or_position_and_never_by_guess() -> None:
    def camera(name: str) -> Camera:
        return Camera(name, np.diag([1000.0, 1000, 1]), np.zeros(5), np.eye(3), np.zeros(3), (640, 480))

    rig = [camera(name) for name in ("left", "right", "9")]
    assert [c.name for c in pick_cameras(rig, "9, 0,right")] == ["9", "left", "right"]
    with pytest.raises(EdgeliftError, match="nope"):
        pick_cameras(rig, "nope")
    with pytest.raises(EdgeliftError, match="1: the name of one camera and the position of another"):
        pick_cameras([camera(name) for name in ("1", "2", "3")], "1")
    assert pick_cameras([camera(name) for name in ("0", "1")], "1")[0].name == "1"


def test_one_camera_may_be_the_origin(tmp_path: Path) -> None:
    text = CAMERA.format(key="only", rotation="0.0, 0.0, 0.0", translation="[0.0, 0.0, 0.0]")
    (tmp_path / "one.toml").write_text(text)
    assert read_rig(str(tmp_path / "one.toml"), "m")[0].centre.tolist() == [0, 0, 0]
