"""The command line: the whole chain on small real input, the --json keys, and what bad input ends in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.cli.output import EXTRAS
from edgelift.poses.rigs import read_rig, write_rig
from edgelift.poses.sessions import Session, load_session, save_session
from edgelift.poses.studio import studio_rig

from .conftest import FORBID_TRAINING, make_sessions, wobbling_person
from .other_files import dlc, sleap

LATENCY = {"p50", "p90", "p99", "p99_9", "max"}
EVALUATE_KEYS = {
    "mpjpe_mm", "root_relative_mpjpe_mm", "p_mpjpe_mm", "n_mpjpe_mm", "root_error_mm", "pck150", "velocity_error_mm",
    "flexion_error_deg", "frames", "against", "per_joint_mm", "per_action",
}  # fmt: skip


def edgelift(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgelift.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def as_json(*words: object) -> Any:
    return json.loads(edgelift(*words, "--json").stdout)


def refused(*words: object) -> str:
    """Run a command that must fail as a user's mistake does: exit code 2, one message, no traceback."""
    done = edgelift(*words, code=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "received" in done.stderr
    assert "expected" in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions, a run and a bundle, made by the commands."""
    home = tmp_path_factory.mktemp("cli")
    for session in make_sessions(4, noise_px=2.0):
        save_session(session, home / "sessions" / f"{session.name}.npz")
    train = ("train", home / "sessions", "--width", 32, "--epochs", 2, "--batch", 32, "-o", home / "run")
    result = as_json(*train, "--validate", home / "sessions")
    assert {"epochs", "frames", "seconds", "frames_per_second", "checkpoint"} <= set(result)
    assert result["frames"] == 2 * 4 * 60
    assert (home / "run" / "metrics.png").stat().st_size > 1000
    exported = as_json("export", home / "run", "-o", home / "bundle")
    assert {"bundle", "parity_mm", "opset"} <= set(exported)
    return home


@pytest.fixture
def one(home: Path) -> Path:
    return home / "sessions" / "clip0_00.npz"


def test_lift_echoes_every_frame(home: Path, one: Path, tmp_path: Path) -> None:
    sink = tmp_path / "poses.jsonl"
    result = as_json("lift", home / "bundle", "--source", one, "--camera", "cam_01", "--sink", sink, "--fast")
    assert {"frames", "lifted", "dropped", "provider", "latency_ms"} <= set(result)
    assert set(result["latency_ms"]) == LATENCY
    assert (result["frames"], result["lifted"], result["provider"]) == (60, 60, "CPUExecutionProvider")
    messages = [json.loads(line) for line in sink.read_text().splitlines()]
    assert [m["seq"] for m in messages] == list(range(60))
    assert messages[3]["t_ns"] == 150_000_000
    assert messages[3]["units"] == "m"
    assert messages[3]["provider"] == "CPUExecutionProvider"
    assert np.shape(messages[3]["persons"][0]["xyz"]) == (14, 3)


def test_lift_to_standard_output_writes_lines_and_nothing_else(home: Path, one: Path) -> None:
    lines = edgelift("lift", home / "bundle", "--source", one, "--camera", "cam_02", "--fast").stdout.splitlines()
    assert len(lines) == 60
    assert all(json.loads(line)["type"] == "pose3d" for line in lines)


def test_a_device_lifts_and_evaluates_without_torch(home: Path, one: Path, tmp_path: Path) -> None:
    def on_device(*words: object) -> subprocess.CompletedProcess[str]:
        code = f"{FORBID_TRAINING}\nfrom edgelift.cli import main\nmain()"
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    lift = (
        "lift",
        home / "bundle",
        "--source",
        one,
        "--camera",
        "cam_01",
        "--sink",
        tmp_path / "p.jsonl",
        "--fast",
        "--json",
    )
    assert json.loads(on_device(*lift).stdout)["lifted"] == 60
    assert json.loads(on_device("evaluate", home / "bundle", one, "--json").stdout)["frames"] == 180
    refused = on_device("train", one, "-o", tmp_path / "run")
    assert refused.returncode == 2
    assert "pip install 'edgelift[train]'" in refused.stderr


def test_evaluate_without_truth_says_that_it_triangulated(home: Path, one: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    save_session(replace(load_session(one), poses=None), tmp_path / "real.npz")
    assert as_json("evaluate", home / "bundle", tmp_path / "real.npz")["against"] == "triangulation"
    assert "triangulation" in edgelift("evaluate", home / "bundle", tmp_path / "real.npz").stdout


def test_triangulate_writes_trc_and_npz(home: Path, one: Path, tmp_path: Path) -> None:
    from edgelift.poses.formats.trc import read_trc

    edgelift("triangulate", one, "-o", tmp_path / "x.trc")
    edgelift("triangulate", one, "-o", tmp_path / "x.npz")
    poses = load_session(tmp_path / "x.npz").poses
    assert poses is not None
    np.testing.assert_allclose(read_trc(tmp_path / "x.trc")[0], poses, atol=1e-5)


VERBS = (
    "simulate", "convert", "triangulate", "train", "export", "calibrate ranges", "build", "inspect", "refit", "bench",
    "doctor", "detect", "lift", "view", "evaluate", "demo", "adapt", "watch", "registry list", "registry show",
    "registry diff", "registry rollback", "registry prune", "check", "calibrate cameras", "calibrate sync",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    assert f"Example: edgelift {verb}" in " ".join(edgelift(*verb.split(), "--help").stdout.split())


def test_the_json_keys_are_documented() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "commands.md").read_text()
    keys = (
        EVALUATE_KEYS
        | LATENCY
        | {"lifted", "dropped", "provider", "frames_per_second", "checkpoint", "parity_mm", "opset"}
    )
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_bad_sessions(home: Path, one: Path, tmp_path: Path) -> None:
    whole = one.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz" in refused("train", tmp_path / "cut.npz", "-o", tmp_path / "run")
    assert "no such file" in refused("train", tmp_path / "absent.npz", "-o", tmp_path / "run")
    lonely(load_session(one), tmp_path / "lonely.npz")
    assert "--supervision views" in refused("train", tmp_path / "lonely.npz", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def lonely(s: Session, path: Path) -> None:
    from dataclasses import replace

    save_session(
        replace(s, keypoints=s.keypoints[:1], cameras=s.rig[:1], camera_names=("cam_01",), time_offset_s=np.zeros(1)),
        path,
    )


def test_nan_cameras(one: Path, tmp_path: Path) -> None:
    with np.load(one) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["camera_K"][1, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    assert "camera cam_02: K" in refused("train", tmp_path / "nan.npz", "-o", tmp_path / "run")


def test_bad_lifting(home: Path, one: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    sink = tmp_path / "poses.jsonl"
    save_session(replace(load_session(one), cameras=None), tmp_path / "blind.npz")
    told = refused("lift", home / "bundle", "--source", tmp_path / "blind.npz", "--camera", "cam_01", "--sink", sink)
    assert "a rays lifter: received a camera without intrinsics" in told
    assert "cam_01" in refused("lift", home / "bundle", "--source", one, "--camera", "nope", "--sink", sink)
    shutil.copytree(home / "bundle", tmp_path / "bundle")
    with (tmp_path / "bundle" / "lifter.onnx").open("ab") as file:
        file.write(b"x")
    assert "tampered" in refused("lift", tmp_path / "bundle", "--source", one, "--camera", "cam_01", "--sink", sink)
    assert not sink.exists()
    assert list(tmp_path.glob(".*")) == []


def test_an_unknown_skeleton_lists_the_known_ones(home: Path, tmp_path: Path) -> None:
    told = refused("train", home / "sessions", "--skeleton", "coco18", "-o", tmp_path / "run")
    assert "coco17" in told
    assert "common14" in told


@pytest.fixture
def recording(shared: Path) -> Path:
    return shared / "pose2sim"


def converting(recording: Path, output: Path, **changes: object) -> tuple[object, ...]:
    options = {"cameras": recording / "Calib.toml", "units": "m", "skeleton": "body25b", "fps": 60} | changes
    flags = [word for key, value in options.items() for word in (f"--{key}", value)]
    return ("convert", recording / "BalancingTrial", "--format", "openpose", *flags, "-o", output)


def test_convert_lift_evaluate(recording: Path, home: Path, tmp_path: Path) -> None:
    told = edgelift(*converting(recording, tmp_path / "b.npz")).stderr
    assert "101 detections discarded" in told
    session = load_session(tmp_path / "b.npz")
    assert session.keypoints.shape == (4, 100, 25, 3)
    sink = tmp_path / "p.jsonl"
    words = (
        "lift",
        home / "bundle",
        "--source",
        tmp_path / "b.npz",
        "--camera",
        "cam_01",
        "--sink",
        sink,
        "--fast",
    )
    assert as_json(*words)["lifted"] == 100
    assert as_json("evaluate", home / "bundle", tmp_path / "b.npz")["against"] == "triangulation"


def test_wrong_units_skeleton_and_cameras(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.npz"
    assert "--units m" in refused(*converting(recording, out, units="mm"))
    assert "body25b" in refused(*converting(recording, out, skeleton="coco17"))
    lines = (recording / "Calib.toml").read_text()
    (tmp_path / "three.toml").write_text(lines[: lines.index("[cam_04]")])
    assert "cam04" in refused(*converting(recording, out, cameras=tmp_path / "three.toml"))
    assert not out.exists()


def test_malformed_json_in_frame_37_is_named(recording: Path, tmp_path: Path) -> None:
    copy = tmp_path / "trial"
    shutil.copytree(recording / "BalancingTrial", copy)
    frame = sorted((copy / "pose" / "cam02_json").glob("*.json"))[37]
    frame.chmod(0o644)
    frame.write_text(frame.read_text()[:-20])
    command = list(converting(recording, tmp_path / "b.npz"))
    command[1] = copy
    assert frame.name in refused(*command)
    assert not (tmp_path / "b.npz").exists()


def test_videopose3d_files_become_sessions_with_the_rig_of_each_subject(tmp_path: Path) -> None:
    made = make_sessions(2)
    views, truth, rigs = {}, {}, {}
    for subject, session in zip(("S1", "S9"), made, strict=True):
        views[subject] = {"Walking 1": [view[..., :2] for view in session.keypoints]}
        truth[subject] = {"Walking 1": session.poses}
        rigs[f"lab_{subject}"] = [
            {"id": c.name, "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(),
             "size": c.size} for c in session.rig
        ]  # fmt: skip
    (tmp_path / "rigs.json").write_text(json.dumps({"rigs": rigs}))
    np.savez(tmp_path / "2d.npz", positions_2d=views)  # type: ignore[arg-type]
    np.savez(tmp_path / "3d.npz", positions_3d=truth)  # type: ignore[arg-type]
    words = (
        "convert", tmp_path / "2d.npz", "--format", "videopose3d", "--poses", tmp_path / "3d.npz", "--fps", 20,
        "--skeleton", "h36m17", "--cameras", f"{tmp_path}/rigs.json:lab_{{subject}}", "-o", tmp_path / "out",
    )  # fmt: skip
    assert as_json(*words) == {"output": str(tmp_path / "out"), "sessions": 2, "frames": 120}
    for subject, session in zip(("S1", "S9"), made, strict=True):
        converted = load_session(tmp_path / "out" / f"{subject}_Walking_1.npz")
        np.testing.assert_array_equal(converted.keypoints[..., :2], session.keypoints[..., :2])
        np.testing.assert_array_equal(converted.rig[2].K, session.rig[2].K)
        assert converted.poses is not None


def test_simulate_films_the_motion_it_is_given(tmp_path: Path) -> None:
    poses = np.concatenate([wobbling_person(130, seed) for seed in range(3)])
    names = np.array(["a 1", "b", "c"])
    np.savez(
        tmp_path / "motion.npz", poses=poses, clip_start=np.array([0, 130, 260]), clip_name=names,
        clip_subject=np.array(["s1", "mix", "s2"]), clip_action=np.array(["walk", "run", "walk"]),
        clip_fps=np.full(3, 20.0), clip_split=np.array(["test", "test", "train"]), units="metres, Z up",
    )  # fmt: skip
    write_rig(studio_rig(4), tmp_path / "rig.toml")
    simulate = ("simulate", "--motion", tmp_path / "motion.npz", "--rig", tmp_path / "rig.toml", "--units", "m")
    out = tmp_path / "out"
    words = ("--split", "test", "--exclude-subjects", "mix", "--cameras", "0,cam_03", "--window", 3, "-o", out)
    result = as_json(*simulate, *words)
    assert result == {"sessions": 2, "frames": 120, "cameras": ["cam_01", "cam_03"], "output": str(out)}
    assert sorted(p.name for p in out.iterdir()) == ["a_1_00.npz", "a_1_01.npz"]
    session = load_session(out / "a_1_00.npz")
    assert (session.subject, session.action, session.keypoints.shape) == ("s1", "walk", (2, 60, 17, 3))
    assert "s1, s2" in refused(*simulate, "--exclude-subjects", "mixx", "-o", tmp_path / "none")
    assert "train" in refused(*simulate, "--split", "val", "-o", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def stopped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """Like `refused`, in this process."""
    from edgelift.cli import main

    monkeypatch.setattr(sys, "argv", ["edgelift", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert (end.value.code, told.out) == (2, "")
    assert told.err.count("error: ") == 1
    return told.err


def test_flags_out_of_range_or_without_effect_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: object) -> str:
        return stopped(capsys, monkeypatch, *words)

    run, out = tmp_path / "run", tmp_path / "out"
    for flag, value in (("--seed", -1), ("--fps", "inf"), ("--fps", 0), ("--window", 1), ("--missing", 1)):
        assert f"{flag}: received" in told("simulate", f"{flag}={value}", "-o", out)
    for flag, value in (
        ("--seed", -1), ("--learning-rate", "nan"), ("--learning-rate", -1), ("--epochs", 0), ("--width", 3),
    ):  # fmt: skip
        assert f"{flag}: received" in told("train", home / "sessions", f"{flag}={value}", "-o", run)
    assert "no --motion" in told("simulate", "--split", "test", "-o", out)
    assert "no --motion" in told("simulate", "--exclude-subjects", "mix", "-o", out)
    assert "sessions there already" in told("simulate", "-o", home / "sessions")
    convert = ("convert", tmp_path, "--skeleton", "coco17", "--fps", 30, "-o", out, "--cameras", "x.toml")
    assert "--poses: received --format openpose" in told(*convert, "--format", "openpose", "--poses", "nonsense.npz")
    assert "--joints: received --format coco" in told(*convert, "--format", "coco", "--joints", "x.toml")
    assert "--to: received --format mmpose" in told(*convert, "--format", "mmpose", "--to", "trc")
    assert "--skeleton, --fps, --cameras: received" in told(*convert, "--format", "session", "--to", "trc")
    assert "--view: received" in told(*convert, "--format", "videopose3d", "--view", "a=b")
    assert not run.exists()
    assert not out.exists()


def test_paths_that_cannot_be_written_are_refused(
    home: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: object) -> str:
        return stopped(capsys, monkeypatch, *words)

    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    lift = ("lift", home / "bundle", "--source", one, "--camera", "cam_01", "--fast", "--sink")
    assert str(tmp_path / "file") in told("simulate", "--subjects", 1, "-o", tmp_path / "file")
    assert str(tmp_path / "file") in told("train", one, "--width", 16, "--epochs", 1, "-o", tmp_path / "file")
    assert "file" in told(*lift, tmp_path / "file" / "poses.jsonl")
    assert "folder" in told(*lift, tmp_path / "folder")
    assert "file" in told("demo", "-o", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_the_demo_never_clears_a_folder_that_is_not_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.npz").write_text("precious")
    assert "no demo made" in stopped(capsys, monkeypatch, "demo", "-o", tmp_path)
    assert (tmp_path / "train" / "mine.npz").read_text() == "precious"


def test_triangulated_poses_stay_triangulated(
    home: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edgelift("triangulate", one, "-o", tmp_path / "x.npz")
    assert as_json("evaluate", home / "bundle", tmp_path / "x.npz")["against"] == "triangulation"
    before = one.read_bytes()
    assert "another name" in stopped(capsys, monkeypatch, "triangulate", one, "-o", one)
    assert one.read_bytes() == before


def test_a_screen_lifter_goes_from_calibrated_training_to_an_uncalibrated_camera(home: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    train = ("train", home / "sessions", "--camera-input", "screen", "--width", 32, "--epochs", 2, "--batch", 32)
    edgelift(*train, "-o", tmp_path / "run")
    edgelift("export", tmp_path / "run", "-o", tmp_path / "bundle")
    calibrated = load_session(home / "sessions" / "clip1_00.npz")
    sizes = tuple(camera.size for camera in calibrated.rig)
    save_session(replace(calibrated, cameras=None, image_sizes=sizes), tmp_path / "bare.npz")
    save_session(replace(calibrated, cameras=None), tmp_path / "unknown.npz")
    lifted = []
    for source in (home / "sessions" / "clip1_00.npz", tmp_path / "bare.npz"):
        words = ("lift", tmp_path / "bundle", "--source", source, "--camera", "cam_02", "--fast")
        lines = edgelift(*words).stdout.splitlines()
        lifted.append([json.loads(line)["persons"][0]["xyz"] for line in lines])
    assert lifted[0] == lifted[1]  # it is fed raw pixels and half the width, whether the camera is known or not
    words = ("lift", tmp_path / "bundle", "--source", tmp_path / "unknown.npz", "--camera", "cam_02", "--fast")
    assert "a screen lifter: received a camera without image size" in refused(*words)


def test_a_recording_without_a_rig_or_with_more_cameras_than_views_converts(recording: Path, tmp_path: Path) -> None:
    source = ("convert", recording / "BalancingTrial", "--format", "openpose", "--skeleton", "body25b", "--fps", 60)
    edgelift(*source, "--size", "1088x1920", "-o", tmp_path / "bare.npz")
    bare = load_session(tmp_path / "bare.npz")
    assert (bare.cameras, bare.size(0), bare.keypoints.shape) == (None, (1088, 1920), (4, 100, 25, 3))
    assert "--size" in refused(*source, "--size", "1088", "-o", tmp_path / "no.npz")
    assert "--select as well" in refused(*source, "--size", "1088x1920", "--select", "a", "-o", tmp_path / "no.npz")
    assert "--cameras" in refused(*source, "-o", tmp_path / "no.npz")
    rig = ("--cameras", recording / "Calib.toml", "--units", "m", "--select", "cam_02,cam_04")
    edgelift(*source, *rig, "-o", tmp_path / "two.npz")
    assert load_session(tmp_path / "two.npz").camera_names == ("cam_02", "cam_04")


def test_what_is_not_stated_is_asked_for_with_what_the_files_tell(recording: Path, tmp_path: Path) -> None:
    bare = ("convert", recording / "BalancingTrial", "--format", "openpose", "-o", tmp_path / "no.npz")
    asked = refused(*bare)
    assert "25 joints (body25 or body25b)" in asked
    assert "cam01_json 100 frames numbered 0 to 99" in asked
    stated = ("--skeleton", "body25b", "--fps", 60, "--cameras", recording / "Calib.toml")
    unit = refused(*bare, *stated)
    assert "5.626 m" in unit
    assert "0.005626 m" in unit
    assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize("form", ["deeplabcut", "sleap"])
def test_trackers_joint_names_are_told_where_the_skeleton_is_not_stated(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    people, parts = np.full((6, 1, 3, 3), 0.5), ["snout", "L hip", "tail"]
    if form == "deeplabcut":
        source = dlc(tmp_path / "cam1.csv", people, parts)
    else:
        source = sleap(tmp_path / "cam1.h5", people, parts, ("frame", "track", "node", "xy"), True)
    told = stopped(capsys, monkeypatch, "convert", source, "--format", form, "-o", tmp_path / "no.npz")
    assert "--skeleton, --fps: received nothing" in told
    assert "3 joints (none that is known); named snout, L hip, tail; cam1 6 frames numbered 0 to 5" in told
    assert not (tmp_path / "no.npz").exists()


def test_people_of_an_earlier_run_are_not_mixed_with_new_ones(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "t[1]_7.npz"
    for kept in ("t[1].npz", "t[1]_x.npz", "t1_1.npz", "t[1]_1_1.npz"):
        (tmp_path / kept).touch()  # of other names
    words = (*converting(recording, tmp_path / "t[1].npz"), "--people", "all")
    taken.write_bytes(b"of another run")
    told = stopped(capsys, monkeypatch, *words)
    assert "received 1 sessions of such names that are there already (t[1]_7.npz)" in told
    assert taken.read_bytes() == b"of another run"
    assert len(list(tmp_path.iterdir())) == 5
    taken.unlink()
    sessions = [Path(person["session"]).name for person in as_json(*words)["people"]]
    assert sessions == ["t[1]_1.npz", "t[1]_2.npz"]  # somebody passes by


def test_the_documented_table_of_formats_is_what_the_commands_do() -> None:
    pytest.importorskip("c3d")
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "calibration" / "formats.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    wrong = [row for row in result["table"] if not row["ok"]]
    assert (done.returncode, result["known_otherwise"], wrong) == (0, {}, [])
    assert sum(row["largest"] is not None for row in result["table"]) == 9


def test_a_missing_package_is_named_with_the_extra_that_has_it() -> None:
    project = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    for module, extra in EXTRAS.items():
        (listed,) = re.findall(rf"(?m)^{extra} = (\[.*\])", extras)
        assert re.search(rf'"(py)?{module}[>=]', listed), module


def test_a_camera_file_becomes_another(recording: Path, tmp_path: Path) -> None:
    words = ("convert", recording / "Calib.toml", "--format", "cameras", "--units", "m", "-o", tmp_path / "rig.toml")
    assert as_json(*words)["cameras"] == ["cam_01", "cam_02", "cam_03", "cam_04"]
    ours, theirs = (read_rig(str(path), "m") for path in (tmp_path / "rig.toml", recording / "Calib.toml"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.R, other.R, atol=1e-9)
        np.testing.assert_allclose(one.t, other.t, atol=1e-9)


def test_a_reader_that_leaves_is_one_message(home: Path, one: Path) -> None:
    words = [sys.executable, "-m", "edgelift.cli", "lift", home / "bundle", "--source", one, "--camera", "cam_01"]
    with subprocess.Popen([str(w) for w in (*words, "--fast")], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as lift:
        assert lift.stdout is not None
        assert lift.stderr is not None
        lift.stdout.close()
        told = lift.stderr.read().decode()
    assert lift.returncode == 2
    assert told.startswith("error: standard output: received a reader that left")
    assert told.count("\n") == 1
