"""Detectors that are installed (`edgelift detect --setup`), on small videos: what they see, in what form, and when."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.pose2d import Pose2d, parse_message, read_pose2d
from edgelift.runtime.detectors.environments import find_python
from edgelift.runtime.detectors.process import Detected, Job, detect


def quiet(done: int, total: int | None, note: str) -> None:
    pass


def environment(detector: str) -> Path:
    try:
        return find_python(detector, None)
    except EdgeliftError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def mediapipe() -> Path:
    return environment("mediapipe")


MAKE_VIDEOS = """
import sys
import cv2, numpy as np
frames, source, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def images():
    capture = source and cv2.VideoCapture(source)
    for i in range(frames):
        yield capture.read()[1] if source else np.full((120, 160, 3), 60 + 10 * i, np.uint8)
for name, code, turn in (("plain.avi", "FFV1", False), ("flipped.avi", "FFV1", True), ("h.mp4", "mp4v", False)):
    writer = None
    for image in images():
        size = image.shape[1::-1]
        writer = writer or cv2.VideoWriter(f"{folder}/{name}", cv2.VideoWriter_fourcc(*code), 25, size)
        writer.write(cv2.flip(image, 1) if turn else image)
    writer.release()
with open(f"{folder}/timeless.mjpeg", "wb") as file:
    for image in images():
        file.write(cv2.imencode(".jpg", image)[1].tobytes())
"""


def make_videos(python: Path, folder: Path, frames: int, source: str = "") -> Path:
    """Write `frames` at 25 a second, grey or of a video: lossless plain.avi and flipped.avi, h.mp4, timeless.mjpeg."""
    subprocess.run([python, "-I", "-c", MAKE_VIDEOS, str(frames), source, str(folder)], check=True)
    return folder


def run_detector(
    python: Path, video: Path, detector: str = "mediapipe", **options: Any
) -> tuple[list[Pose2d], Detected]:
    lines: list[bytes] = []
    found = detect(python, Job(detector, str(video), False, "take", **options), lines.append, quiet)
    return [parse_message(json.loads(text)) for text in lines], found


@pytest.mark.parametrize("name", ["h.mp4", "timeless.mjpeg"])
def test_every_frame_of_a_video_is_a_message(mediapipe: Path, tmp_path: Path, name: str) -> None:
    told, found = run_detector(mediapipe, make_videos(mediapipe, tmp_path, 12) / name)
    assert [m.seq for m in told] == list(range(12))
    assert [m.t_ns for m in told] == [seq * 40_000_000 for seq in range(12)]
    assert {(m.stream, m.clock, m.skeleton.name, m.size) for m in told} == {
        ("take", "recording", "mediapipe33", (160, 120))
    }
    assert all(len(m.keypoints) == 0 for m in told)
    assert found.announced == (12 if name == "h.mp4" else None)


def test_at_its_rate_a_video_gives_the_same_frames_or_skips_some(mediapipe: Path, tmp_path: Path) -> None:
    told, found = run_detector(mediapipe, make_videos(mediapipe, tmp_path, 12) / "h.mp4", at_rate=True)
    assert told[0].seq == 0
    assert all(m.t_ns == m.seq * 40_000_000 for m in told)
    assert found.frames + found.skipped == told[-1].seq + 1


def test_a_camera_tells_the_time_of_day_and_its_end_is_an_error(mediapipe: Path, tmp_path: Path) -> None:
    video = make_videos(mediapipe, tmp_path, 12) / "h.mp4"  # OpenCV opens it as it opens a camera's address
    lines: list[bytes] = []
    before = time.time_ns()
    with pytest.raises(EdgeliftError, match="the camera: received no more images"):
        detect(mediapipe, Job("mediapipe", str(video), True, "camera0"), lines.append, quiet)
    told = [parse_message(json.loads(text)) for text in lines]
    assert {m.clock for m in told} == {"unix"}
    assert before < told[0].t_ns
    assert all(a.t_ns < b.t_ns and a.seq < b.seq for a, b in pairwise(told))
    assert told[-1].seq == 11
    assert told[-1].t_ns < time.time_ns()


def test_what_is_no_video_and_no_camera_is_named(mediapipe: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video at all")
    with pytest.raises(EdgeliftError, match=r"x\.mp4: received a file that OpenCV cannot open"):
        run_detector(mediapipe, tmp_path / "x.mp4")
    with pytest.raises(EdgeliftError, match="camera 99: received none that opens"):
        detect(mediapipe, Job("mediapipe", "99", True, "x"), print, quiet)


def test_a_detector_without_its_packages_says_how_to_get_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    with pytest.raises(EdgeliftError, match=r"no module cv2; .*edgelift detect --setup --detector mediapipe"):
        detect(tmp_path / "env" / "bin" / "python", Job("mediapipe", "x.mp4", False, "x"), print, quiet)


def test_a_real_person_is_where_another_run_of_mediapipe_saw_them(mediapipe: Path, shared: Path) -> None:
    told, _ = run_detector(mediapipe, shared / "pose2sim" / "videos" / "cam03.mp4")
    with np.load(shared / "pose2sim" / "pose2sim_balancing_mediapipe.npz") as reference:
        expected = reference["keypoints_2d"][2]
    found = np.stack([m.keypoints[0] for m in told])
    # on one processor they differ by the messages' rounding, 0.01 px; another may round otherwise within the network
    np.testing.assert_allclose(found[..., :2], expected[..., :2], atol=0.5)
    np.testing.assert_allclose(found[..., 2], expected[..., 2], atol=0.01)
    assert {m.size for m in told} == {(1088, 1920)}
    assert [m.t_ns for m in told[:4]] == [0, 16_666_667, 33_333_333, 50_000_000]


def test_a_mirrored_video_gives_what_the_true_one_gives(mediapipe: Path, shared: Path, tmp_path: Path) -> None:
    make_videos(mediapipe, tmp_path, 5, str(shared / "pose2sim" / "videos" / "cam03.mp4"))
    plain, _ = run_detector(mediapipe, tmp_path / "plain.avi")
    mended, _ = run_detector(mediapipe, tmp_path / "flipped.avi", mirrored=True)
    wrong, _ = run_detector(mediapipe, tmp_path / "flipped.avi")
    for true, same, other in zip(plain, mended, wrong, strict=True):
        np.testing.assert_array_equal(true.keypoints, same.keypoints)
        assert np.abs(true.keypoints[0, :, 0] - other.keypoints[0, :, 0]).max() > 20


def test_the_command_in_front_of_a_real_detector(mediapipe: Path, tmp_path: Path) -> None:
    video = make_videos(mediapipe, tmp_path, 3) / "h.mp4"
    words = [
        "detect",
        "--detector",
        "mediapipe",
        str(video),
        "-o",
        str(tmp_path / "keypoints.jsonl"),
        "--name",
        "cam_01",
    ]
    subprocess.run([sys.executable, "-c", "from edgelift.cli import detect, main; main()", *words], check=True)
    (view,) = read_pose2d(tmp_path / "keypoints.jsonl").views
    assert view.name == "cam_01"
    np.testing.assert_allclose(view.timestamps, [0, 0.04, 0.08])


# rtmlib's own code with networks that answer the same to every image: two people in boxes of 3:4, and every joint at
# one place in them
WEIGHTS = {
    "yolox_m_8xb8-300e_humanart-c2c7a14a": "detector",
    "rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504": "pose",
}


def constant_network(path: Path, height: int, width: int, **outputs: np.ndarray) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(v.astype(np.float32)))
        for name, v in outputs.items()
    ]
    kinds = [helper.make_tensor_value_info(name, 1, v.shape) for name, v in outputs.items()]
    image = helper.make_tensor_value_info("image", 1, [1, 3, height, width])
    graph = helper.make_graph(nodes, "constant", [image], kinds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def install_networks(folder: Path, boxes: list[list[float]]) -> None:
    places = folder / "hub" / "checkpoints"
    simcc_x, simcc_y = np.zeros((1, 17, 384)), np.zeros((1, 17, 512))
    for joint in range(17):
        simcc_x[0, joint, 192 + joint] = 0.8  # bins of half a pixel of the 192 x 256 crop
        simcc_y[0, joint, 256] = 1.4 if joint == 5 else 0.6
    simcc_x[0, 5] *= 2
    simcc_x[0, 6] = simcc_y[0, 6] = 0
    detector, pose = WEIGHTS
    constant_network(places / f"{detector}.onnx", 640, 640, dets=np.array([boxes]).reshape(1, -1, 5))
    constant_network(places / f"{pose}.onnx", 256, 192, simcc_x=simcc_x, simcc_y=simcc_y)


def test_rtmlibs_people_scores_and_missing_joints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment("rtmlib")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # in pixels of the 640 x 640 that a 160 x 120 image is enlarged to, four times
    install_networks(tmp_path, [[40, 40, 160, 200, 0.9], [320, 160, 440, 320, 0.8], [0, 0, 80, 80, 0.1]])
    told, _ = run_detector(python, make_videos(python, tmp_path, 2) / "h.mp4", "rtmlib")
    assert [m.skeleton.name for m in told] == ["coco17"] * 2
    for found in told:
        assert found.keypoints.shape == (2, 17, 3)  # the third box is below the detector's threshold
        for person, (x, y) in zip(found.keypoints, ((25, 30), (95, 60)), strict=True):
            pixel = 1.25 * 30 / 192  # of the crop, which is the box and a quarter
            expected = np.array([[x + j / 2 * pixel, y, 0.7] for j in range(17)])  # the mean of both axes
            expected[5, 2] = 1.0  # a score beyond 1 is certainty
            expected[6] = (np.nan, np.nan, 0)  # no score, no joint
            np.testing.assert_allclose(person, expected, atol=0.006)  # messages round to 0.01 px


def test_rtmlib_sees_nobody_where_nobody_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment("rtmlib")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    install_networks(tmp_path, [[0, 0, 80, 80, 0.1]])
    told, _ = run_detector(python, make_videos(python, tmp_path, 2) / "h.mp4", "rtmlib")
    assert [m.keypoints.shape for m in told] == [(0, 17, 3)] * 2


def test_weights_that_cannot_be_downloaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment("rtmlib")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens: no network, wherever this runs
    with pytest.raises(
        EdgeliftError, match=r"detector rtmlib: received URLError.*expected its weights.*with a network"
    ):
        run_detector(python, make_videos(python, tmp_path, 2) / "h.mp4", "rtmlib")
