"""pose2d messages: what is refused, what is cleaned, and files of them as recordings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelift.poses.conversion import Conversion, convert
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.pose2d import FAR_PX, Pose2d, parse_message, read_pose2d
from edgelift.poses.recordings import Recording, View
from edgelift.poses.rigs import write_rig
from edgelift.poses.sessions import Session, load_session
from edgelift.poses.skeletons import SKELETONS, skeleton

from .conftest import make_sessions

COCO = skeleton("coco17")
MISSING = [np.nan, np.nan, 0.0]


def person(x: float = 100, confidence: float = 0.5) -> list[Any]:
    return [[x + j, 2 * x + j, confidence] for j in range(17)]


def message(*people: Any, ids: tuple[int, ...] = (), **changed: Any) -> dict[str, Any]:
    persons = [{"kpts": kpts} for kpts in people]
    for entry, number in zip(persons, ids, strict=False):
        entry["id"] = number
    told = {"v": 1, "type": "pose2d", "stream": "cam_01", "seq": 7, "t_ns": 70, "clock": "recording"}
    told |= {"size": [1088, 1920], "skeleton": "coco17", "persons": persons}
    return told | changed


def test_everything_of_a_message_is_kept() -> None:
    parsed = parse_message(message(person(100), person(300), ids=(3, 5)))
    assert (parsed.stream, parsed.seq, parsed.t_ns, parsed.clock) == ("cam_01", 7, 70, "recording")
    assert (parsed.skeleton, parsed.size, parsed.ids) == (COCO, (1088, 1920), (3, 5))
    assert parsed.keypoints.dtype == np.float32
    assert np.array_equal(parsed.keypoints, np.array([person(100), person(300)], np.float32))


def test_what_may_be_left_out_is_none() -> None:
    parsed = parse_message(message(person(), size=None))
    assert parsed.size is None
    assert parsed.ids is None
    told = message()
    del told["size"]
    nobody = parse_message(told)
    assert nobody.size is None
    assert nobody.ids is None
    assert nobody.keypoints.shape == (0, 17, 3)


@pytest.mark.parametrize(
    "joint",
    [None, [1, 2, 0], [1, 2, -0.5], [1, 2, float("nan")], [float("nan"), 2, 1], [1, float("-inf"), 1], [1e300, 2, 1]],
)
def test_a_joint_that_says_nothing_is_missing(joint: Any) -> None:
    kpts = person()
    kpts[4] = joint
    expected = np.array(person(), np.float32)
    expected[4] = MISSING
    assert np.array_equal(parse_message(message(kpts)).keypoints[0], expected, equal_nan=True)


def test_people_of_nothing_are_left_out_and_ids_stay_with_theirs() -> None:
    parsed = parse_message(message([None] * 17, person(300), person(100, 0.0), ids=(8, 9, 2)))
    assert parsed.ids == (9,)
    assert parsed.keypoints[:, 0, 0].tolist() == [300]
    nobody = parse_message(message([None] * 17, ids=(8,)))
    assert nobody.ids == ()
    assert nobody.keypoints.shape == (0, 17, 3)


def _with_joint(joint: Any) -> list[Any]:
    return [*person()[:16], joint]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ([], "type: received"),
        ({"type": "pose3d"}, "'pose3d'; expected an object of type pose2d"),
        (message(v=True), "v: received True"),
        (message(v=2), "v: received 2"),
        (message(stream=""), "stream: received ''"),
        (message(stream="a\nb"), "stream"),
        (message(stream=3), "stream: received 3"),
        (message(clock="wall"), "clock: received 'wall'; expected one of recording, unix, mono, ptp"),
        (message(clock=[]), "clock"),
        (message(skeleton="coco"), "skeleton: received 'coco'; expected one of coco17"),
        (message(skeleton={}), "skeleton"),
        (message(seq=-1), "seq: received -1; expected a whole number from 0"),
        (message(seq=True), "seq: received True"),
        (message(seq=1.0), r"seq: received 1\.0"),
        (message(t_ns=2**63), "t_ns"),
        (message(t_ns="5"), "t_ns: received '5'"),
        (message(size=[0, 5]), r"size: received \[0, 5\]"),
        (message(size=[5, -1]), "size"),
        (message(size=[5, float("inf")]), "size"),
        (message(size=[5]), "size"),
        (message(size=[True, True]), "size"),
        (message(persons={}), "persons: received {}; expected a list"),
        (message(persons=None), "persons"),
        (message(persons=[7]), r"persons\[0\]: received 7"),
        (message(persons=[{"id": 1}]), "expected an object with a list kpts"),
        (message(person()[:14]), r"persons\[0\].kpts: received 14 joints; expected the 17.*common14 has 14 joints"),
        (message(person(), _with_joint([1, 2])), r"persons\[1\].kpts\[16\]: received \[1, 2\]"),
        (message(_with_joint([1, 2, 0.5, 0.5])), r"kpts\[16\]"),
        (message(_with_joint([1, 2, True])), r"kpts\[16\]: received \[1, 2, True\]"),
        (message(_with_joint([1, "2", 0.5])), r"kpts\[16\]"),
        (message(_with_joint([1, None, 0.5])), r"kpts\[16\]"),
        (message(_with_joint([[1], 2, 0.5])), r"kpts\[16\]"),
        (message(_with_joint({})), r"kpts\[16\]: received {}"),
        (message(_with_joint([10**400, 2, 0.5])), "an integer beyond all floats"),
        (message(_with_joint([1, 2, 2])), "confidence 2; expected .0, 1..*visibility flags"),
        (message(_with_joint([None, 2, 2])), r"kpts\[16\]"),
        (message(_with_joint([float("nan"), 2, 99])), "confidence 99"),
        (message(person(), person(), ids=(3,)), r"persons: id: received \[3, None\]"),
        (message(person(), person(), ids=(3, 3)), r"received \[3, 3\]; expected ids that differ"),
        (message(persons=[{"id": True, "kpts": person()}]), r"received \[True\]"),
        (message(persons=[{"id": 1.5, "kpts": person()}]), "persons: id"),
        (message(persons=[{"id": 2**63, "kpts": person()}]), "persons: id"),
    ],
)
def test_mistakes_are_named(wrong: Any, match: str) -> None:
    with pytest.raises(EdgeliftError, match=match) as raised:
        parse_message(wrong)
    assert len(str(raised.value)) < 500


def test_more_people_than_allowed_are_refused() -> None:
    assert len(parse_message(message(person(), person()), 2).keypoints) == 2
    with pytest.raises(EdgeliftError, match="persons: received 2; expected 1 at most"):
        parse_message(message(person(), person()), 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
NUMBER = st.floats(-2, 1) | st.integers(-10, 10**40) | st.just(float("nan")) | JSON
JOINT = st.lists(NUMBER, min_size=3, max_size=3) | st.none() | JSON
KPTS = st.lists(JOINT, min_size=14, max_size=14) | JSON
PERSON = st.fixed_dictionaries({"kpts": KPTS}, optional={"id": JSON | st.integers()}) | JSON
LIKE_A_MESSAGE = st.fixed_dictionaries(
    {
        "v": st.just(1) | JSON,
        "type": st.just("pose2d"),
        "stream": st.just("cam_01") | JSON,
        "seq": st.integers() | JSON,
    },
    optional={"t_ns": st.integers() | JSON, "clock": st.just("unix") | JSON, "size": JSON},
).flatmap(
    lambda told: st.tuples(st.lists(PERSON, max_size=3) | JSON, st.just("common14") | JSON).map(
        lambda rest: {"t_ns": 0, "clock": "mono"} | told | {"persons": rest[0], "skeleton": rest[1]}
    )
)


def _check_promises(parsed: Pose2d) -> None:
    kpts = parsed.keypoints
    assert kpts.shape[1:] == (len(parsed.skeleton.joints), 3)
    known = kpts[..., 2] > 0
    assert known.any(-1).all()
    assert np.isfinite(kpts[known]).all()
    assert (kpts[..., 2] <= 1).all()
    assert np.array_equal(kpts[~known], np.broadcast_to(MISSING, kpts[~known].shape), equal_nan=True)
    assert parsed.ids is None or len(set(parsed.ids)) == len(kpts)


@settings(max_examples=300, deadline=None)
@given(JSON | LIKE_A_MESSAGE)
def test_any_json_is_a_message_or_an_error(anything: Any) -> None:
    try:
        parsed = parse_message(anything)
    except EdgeliftError:
        return
    _check_promises(parsed)


GOOD_NUMBER = st.floats(-FAR_PX, FAR_PX, width=32) | st.sampled_from([np.nan, np.inf]) | st.integers(-5000, 5000)
GOOD_JOINT = st.none() | st.tuples(GOOD_NUMBER, GOOD_NUMBER, st.floats(max_value=1, width=32)).map(list)
GOOD_PEOPLE = st.lists(st.lists(GOOD_JOINT, min_size=14, max_size=14), max_size=3)


@settings(deadline=None)
@given(GOOD_PEOPLE)
def test_both_ways_through_the_parser_agree_with_the_plain_loop(people: list[Any]) -> None:
    parsed = parse_message(message(*people, ids=tuple(range(len(people))), skeleton="common14"))
    expected = []
    for number, kpts in enumerate(people):
        joints = [joint if joint and np.isfinite(joint).all() and joint[2] > 0 else MISSING for joint in kpts]
        if any(joint[2] > 0 for joint in joints):
            expected.append((number, joints))
    assert list(parsed.ids or ()) == [number for number, _ in expected]
    plain = np.array([joints for _, joints in expected], np.float32).reshape(-1, 14, 3)
    assert np.array_equal(parsed.keypoints, plain, equal_nan=True)
    _check_promises(parsed)


@pytest.mark.parametrize("far", [1.1e6, -3e38, 10**30])
def test_pixels_beyond_any_image_are_refused(far: float) -> None:
    with pytest.raises(EdgeliftError, match="pixels within"):
        parse_message(message([[far, 5, 0.9]] + [[1, 2, 0.5]] * 13, skeleton="common14"))


@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_has_a_message(name: str) -> None:
    joints = len(skeleton(name).joints)
    parsed = parse_message(message([[1, 2, 0.5]] * joints, skeleton=name))
    assert parsed.keypoints.shape == (1, joints, 3)


def write(path: Path, *messages: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(m) + "\n" for m in messages))
    return path


def lines_of(recording: Recording, view: View) -> list[dict[str, Any]]:
    """The messages of one view, written the plain way."""
    told = []
    for seq, (time, people) in enumerate(zip(view.timestamps, view.people, strict=True)):
        kpts = [[[float(v) for v in joint] if joint[2] > 0 else None for joint in one] for one in people]
        t_ns = round(time * 1e9)
        told.append(message(*kpts, stream=view.name, seq=seq, t_ns=t_ns, skeleton=recording.skeleton.name))
    return told


def random_recording(seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    views = []
    for name, frames in (("left", 6), ("right", 9)):
        people = [rng.uniform(0.1, 1, (rng.integers(0, 4), 17, 3)).astype(np.float32) for _ in range(frames)]
        for one in people:
            one[:, 3] = MISSING
        views.append(View(name, np.cumsum(rng.integers(1, 10**8, frames)) / 1e9, people))
    return Recording(tuple(views), COCO, "take")


def assert_same(found: Recording, expected: Recording) -> None:
    assert [view.name for view in found.views] == [view.name for view in expected.views]
    assert found.skeleton == expected.skeleton
    for a, b in zip(found.views, expected.views, strict=True):
        assert np.array_equal(a.timestamps, b.timestamps)
        assert len(a.people) == len(b.people)
        assert all(np.array_equal(p, q, equal_nan=True) for p, q in zip(a.people, b.people, strict=True))


def test_a_recording_comes_back_from_one_file_and_from_a_folder(tmp_path: Path) -> None:
    recording = random_recording()
    left, right = (lines_of(recording, view) for view in recording.views)
    mixed = [m for pair in zip(left, right, strict=False) for m in pair] + right[len(left) :]
    one = read_pose2d(write(tmp_path / "take.jsonl", *mixed))
    assert_same(one, recording)
    assert one.name == "take"
    for name, told in (("a", left), ("b", right)):
        write(tmp_path / "folder" / f"{name}.jsonl", *told)
    assert_same(read_pose2d(tmp_path / "folder"), replace(recording, name="folder"))


def test_streams_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    for stem in ("cam_02", "cam_01"):
        write(tmp_path / f"{stem}.jsonl", message(person(), stream="camera0"))
    assert [view.name for view in read_pose2d(tmp_path).views] == ["cam_01", "cam_02"]
    write(tmp_path / "cam_01.jsonl", message(person(), stream="camera0"), message(person(), stream="camera1"))
    with pytest.raises(EdgeliftError, match="several files with a stream camera0"):
        read_pose2d(tmp_path)


def test_times_of_a_running_clock_count_from_the_first_frame_of_all(tmp_path: Path) -> None:
    start = 1_764_000_000_123_456_789
    for k, name in enumerate("ba"):
        told = [message(person(), stream=name, seq=i, t_ns=start + 10 * k + i, clock="unix") for i in range(3)]
        write(tmp_path / f"{name}.jsonl", *told)
    times = {view.name: view.timestamps.tolist() for view in read_pose2d(tmp_path).views}
    assert times == {"b": [0, 1e-9, 2e-9], "a": [1e-8, 1.1e-8, 1.2e-8]}


def test_mistakes_in_files_name_file_and_line(tmp_path: Path) -> None:
    def error(match: str, *messages: Any) -> None:
        with pytest.raises(EdgeliftError, match=match):
            read_pose2d(write(tmp_path / "x.jsonl", *messages))

    first = message(person())
    error("x.jsonl, line 2: pose2d message: seq", first, message(seq=-1))
    error("x.jsonl, line 2, stream cam_01: received seq 7, t_ns 71 after seq 7", first, message(t_ns=71))
    error("line 3, stream cam_01: received seq 8, t_ns 70 after", first, message(stream="b"), message(seq=8))
    error("received clocks mono, recording", first, message(stream="b", clock="mono"))
    error("received skeletons coco17, common14", first, message(seq=8, t_ns=71, skeleton="common14"))
    error("x.jsonl: received no line")
    (tmp_path / "x.jsonl").write_text(json.dumps(first) + '\n\n{"v":1,')
    with pytest.raises(EdgeliftError, match=r"x\.jsonl, line 3: received malformed JSON"):
        read_pose2d(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("[" * 100_000)
    with pytest.raises(EdgeliftError, match=r"x\.jsonl, line 1: received malformed JSON"):
        read_pose2d(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EdgeliftError, match=r"x\.jsonl, line 1"):
        read_pose2d(tmp_path / "x.jsonl")
    with pytest.raises(EdgeliftError, match="no such file or folder"):
        read_pose2d(tmp_path / "y.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgeliftError, match=r"no \.jsonl file in it"):
        read_pose2d(tmp_path / "empty")


def _film(folder: Path, session: Session) -> None:
    """Write a session's views as pose2d files, with a bystander who makes up half of the people."""
    for name, view in zip(session.camera_names, session.keypoints, strict=True):
        told = []
        for seq, (time, kpts) in enumerate(zip(session.timestamps, view, strict=True)):
            people = np.stack([kpts + np.array([300, 5, 0]), kpts])[:: (-1) ** seq]
            joints = [[[float(v) for v in j] if j[2] > 0 else None for j in one] for one in people]
            fields = {"stream": name, "seq": seq, "t_ns": round(time * 1e9), "skeleton": session.skeleton.name}
            told.append(message(*joints, **fields))
        write(folder / f"{name}.jsonl", *told)


def edgelift(*words: object, code: int = 0) -> str:
    """Run the command and return what it said; a user's mistake is one message and exit code 2."""
    command = [sys.executable, "-m", "edgelift.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def filmed(tmp_path: Path) -> tuple[Session, Path]:
    session = make_sessions(1, missing=0.05)[0]
    _film(tmp_path / "takes", session)
    write_rig(session.rig, tmp_path / "rig.toml")
    return session, tmp_path


def test_files_of_detections_become_the_session_of_the_person_all_views_see(filmed: tuple[Session, Path]) -> None:
    session, home = filmed
    rig = str(home / "rig.toml")
    facts, _ = convert(Conversion(home / "takes", home / "take.npz", "pose2d", cameras=rig, units="m"))
    assert (facts["views"], facts["frames"]) == session.keypoints.shape[:2]
    converted = load_session(home / "take.npz")
    assert np.array_equal(converted.keypoints, session.keypoints, equal_nan=True)
    np.testing.assert_allclose(converted.timestamps, session.timestamps, atol=1e-9)  # whole nanoseconds
    assert converted.skeleton == session.skeleton
    assert converted.cameras is not None


def test_the_convert_command_needs_no_skeleton_and_no_rate(filmed: tuple[Session, Path]) -> None:
    _, home = filmed
    words = ("convert", home / "takes", "--format", "pose2d", "-o", home / "take.npz")
    rig = ("--cameras", home / "rig.toml", "--units", "m")
    told = edgelift(*words, *rig, "--skeleton", "h36m17", "--fps", 20, code=2)
    assert "--skeleton, --fps: received --format pose2d" in told
    assert "--poses" in edgelift(*words, *rig, "--poses", "x.npz", code=2)
    lacking = edgelift(*words[:3], "openpose", *words[4:], *rig, "--fps", 20, code=2)
    assert "--skeleton: received nothing; expected what the openpose files were made with" in lacking
    assert not (home / "take.npz").exists()
    edgelift(*words, *rig)
    assert (home / "take.npz").exists()


def test_without_a_rig_the_size_is_asked_for(filmed: tuple[Session, Path]) -> None:
    session, home = filmed
    one = home / "takes" / f"{session.camera_names[0]}.jsonl"
    with pytest.raises(EdgeliftError, match="--cameras"):
        convert(Conversion(one, home / "take.npz", "pose2d"))
    convert(Conversion(one, home / "take.npz", "pose2d", size="1088x1920"))
    converted = load_session(home / "take.npz")
    assert converted.cameras is None
    assert converted.size(0) == (1088, 1920)
