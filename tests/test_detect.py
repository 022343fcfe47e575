"""`edgelift detect`: what is asked for, how the detector's process is handled, and real detectors where they are."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.detectors import environments, process, worker
from edgelift.runtime.detectors.environments import FINISHED, environment_folder, find_python, set_up
from edgelift.runtime.detectors.jobs import plan
from edgelift.runtime.detectors.process import WORKER, Detected, Job, detect

VIDEO = Job("mediapipe", "take.mp4", live=False, stream="take")
CAMERA = Job("mediapipe", "0", live=True, stream="camera0")


def message(seq: int, people: int = 1, **changed: Any) -> dict[str, Any]:
    persons = [{"kpts": [[10.0 * seq + j, 5.0, 0.5] for j in range(33)]} for _ in range(people)]
    told = {"v": 1, "type": "pose2d", "stream": "take", "seq": seq, "t_ns": seq * 40_000_000, "clock": "recording"}
    return told | {"size": [160, 120], "skeleton": "mediapipe33", "persons": persons} | changed


def line(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\n"


def quiet(done: int, total: int | None, note: str) -> None:
    pass


# -- what is asked for ------------------------------------------------------------------------------------------------


def asked(*sources: str, output: str = "-", name: str | None = None, rate: bool = False) -> list[tuple[Job, str]]:
    return plan("mediapipe", sources, output, name, rate, False)


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files that are called like videos, and the folder that they are in as the current one."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "opened", "live", "stream"),
    [
        ("a.mp4", "a.mp4", False, "a"),
        ("0", "0", True, "camera0"),
        ("/dev/video3", "3", True, "camera3"),
        ("rtsp://me:secret@10.0.0.7:554/x", "rtsp://me:secret@10.0.0.7:554/x", True, "10.0.0.7"),
    ],
)
@pytest.mark.usefixtures("videos")
def test_sources_and_their_names(source: str, opened: str, live: bool, stream: str) -> None:
    ((job, target),) = asked(source)
    assert (job.source, job.live, job.stream, target) == (opened, live, stream, "-")
    assert "secret" not in job.shown
    assert asked(source, name="left")[0][0].stream == "left"


def test_a_folder_gets_a_file_a_video(videos: Path) -> None:
    assert [target for _, target in asked("a.mp4", "b.mp4", output="out/")] == ["out/a.jsonl", "out/b.jsonl"]
    (videos / "there").mkdir()
    assert asked("a.mp4", output="there")[0][1] == "there/a.jsonl"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"sources": []}, "sources: received none"),
        ({"sources": ["c.mp4"]}, r"c\.mp4: received no such file"),
        ({"sources": ["http://10.0.0.7/x"]}, "no such file"),
        ({"sources": ["a.mp4", "b.mp4"]}, "2 sources: received -o -"),
        ({"sources": ["a.mp4", "b.mp4"], "output": "x.jsonl"}, r"received -o x\.jsonl"),
        ({"sources": ["a.mp4", "b.mp4"], "output": "out/", "name": "x"}, "received --name x"),
        ({"sources": ["a.mp4", "./a.mp4"], "output": "out/"}, "videos of one name"),
        ({"sources": ["a.mp4", "0"], "output": "out/"}, "a camera among several"),
        ({"sources": ["0"], "rate": True}, "--rate: received a camera"),
        ({"sources": ["a.mp4"], "name": "a\nb"}, "stream name"),
        ({"sources": ["a.mp4"], "name": "../b", "output": "out/"}, "stream name"),
        ({"sources": ["a.mp4"], "output": "b.mp4"}, r"-o: received b\.mp4; expected a name that ends in \.jsonl"),
        ({"sources": ["a.mp4"], "output": "ftp://x:1"}, "address: received 'ftp://x:1'"),
        ({"sources": ["a.mp4"], "output": "udp://x"}, "address"),
    ],
)
@pytest.mark.usefixtures("videos")
def test_words_that_do_not_fit_are_refused(words: dict[str, Any], match: str) -> None:
    with pytest.raises(EdgeliftError, match=match):
        asked(*words.pop("sources"), **words)


# -- the detector's environment ---------------------------------------------------------------------------------------


def test_where_the_environment_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGELIFT_DETECTORS", raising=False)
    assert environment_folder("rtmlib", None) == tmp_path / "cache" / "edgelift" / "detectors" / "rtmlib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert environment_folder("rtmlib", None) == Path.home() / ".cache" / "edgelift" / "detectors" / "rtmlib"
    monkeypatch.setenv("EDGELIFT_DETECTORS", str(tmp_path / "own"))
    assert environment_folder("rtmlib", None) == tmp_path / "own" / "rtmlib"
    assert environment_folder("rtmlib", tmp_path / "given") == tmp_path / "given"


def test_a_missing_environment_tells_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELIFT_DETECTORS", str(tmp_path))
    with pytest.raises(
        EdgeliftError, match=r"no environment in .*Set it up: edgelift detect --setup --detector rtmlib$"
    ):
        find_python("rtmlib", None)
    with pytest.raises(EdgeliftError, match=r"--detector rtmlib --env "):
        find_python("rtmlib", tmp_path / "given")


def test_what_setup_did_not_make_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(EdgeliftError, match="something that --setup has not finished"):
        set_up("mediapipe", tmp_path, quiet)
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_a_finished_environment_is_kept(tmp_path: Path) -> None:
    shutil.copyfile(WORKER.with_name("mediapipe.txt"), tmp_path / FINISHED)
    made = set_up("mediapipe", tmp_path, quiet)
    assert made.existed
    assert os.listdir(tmp_path) == [FINISHED]


def test_a_failed_setup_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_CONFIG_FILE", os.devnull), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    place = tmp_path / "place"
    place.mkdir()
    (place / FINISHED).write_text("mediapipe==0.0.1\n")
    with pytest.raises(EdgeliftError, match=r"pip: received ERROR: No matching distribution"):
        set_up("mediapipe", place, quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["place"]
    assert (place / FINISHED).read_text() == "mediapipe==0.0.1\n"


def test_an_older_python_is_looked_for_where_this_one_is_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    monkeypatch.setattr(shutil, "which", {"python3.11": sys.executable}.get)
    assert environments._base_python("mediapipe") == sys.executable
    monkeypatch.setattr(shutil, "which", {"python3.13": sys.executable}.get)
    with pytest.raises(EdgeliftError, match=r"received Python 3\.99 alone; expected Python 3\.10 to 3\.12"):
        environments._base_python("mediapipe")


def test_requirements_pin_every_package_once_a_machine() -> None:
    for name in environments.NEWEST_PYTHON:
        lines = WORKER.with_name(f"{name}.txt").read_text().splitlines()
        told = [entry for entry in lines if entry and not entry.startswith("#")]
        assert all("==" in entry for entry in told)
        assert len({entry.partition("==")[0] + entry.partition(";")[2] for entry in told}) == len(told)
        assert any(entry.startswith(f"{name}==") for entry in told)


# -- the process, with a small script in the detector's place ---------------------------------------------------------

PREAMBLE = "import json, os, signal, sys, time\nout = sys.stdout.buffer\n"


class StandIn:
    """Runs `detect` with a script in the place of the worker."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "worker.py"
        self.written: list[bytes] = []

    def run(self, code: str, job: Job = VIDEO, write: Callable[[bytes], object] | None = None) -> Detected:
        self.script.write_text(PREAMBLE + code)
        return detect(Path(sys.executable), job, write or self.written.append, quiet, self.script)


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


def emit(*told: dict[str, Any]) -> str:
    return f"out.write({b''.join(map(line, told))!r}); out.flush()\n"


def test_messages_pass_unchanged_and_are_counted(stand_in: StandIn) -> None:
    told = [message(0), message(1, 0), message(4, 3)]
    found = stand_in.run(emit({"type": "about", "frames": 5}, *told))
    assert stand_in.written == [line(m) for m in told]
    facts = found.to_dict()
    assert facts.pop("frames_per_second") > 0
    assert facts == {
        "frames": 3, "frames_announced": 5, "frames_skipped": 2, "frames_with_people": 2, "people": 4,
    }  # fmt: skip


def test_frames_that_were_skipped_at_the_end_count(stand_in: StandIn) -> None:
    skipped = [{"type": "skipped", "seq": seq} for seq in (1, 3, 4)]
    facts = stand_in.run(emit(message(0), skipped[0], message(2), *skipped[1:])).to_dict()
    assert (facts["frames"], facts["frames_skipped"]) == (2, 3)
    assert len(stand_in.written) == 2


def test_a_video_that_announces_nothing_and_shows_nobody(stand_in: StandIn) -> None:
    facts = stand_in.run(emit({"type": "about", "frames": -192153584101141}, message(0, 0))).to_dict()
    assert facts["frames_announced"] is None
    assert facts["frames_per_second"] is None
    assert facts["people"] == 0


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (emit(message(0), {"type": "error", "parts": ["a.mp4", "x", "y", "Do z."]}), r"a\.mp4: received x; expected y"),
        ("raise RuntimeError('the model is gone')", r"on take\.mp4: received RuntimeError: the model is gone \(exit"),
        (
            "sys.stderr.write('what\\nW0000 00:00 x.cc:1] y\\nINFO: z\\n[ WARN:0@0.1] q\\n  \\n'); sys.exit(3)",
            r"received what \(exit code 3\)",
        ),
        ("sys.exit(4)", r"received no message \(exit code 4\)"),
        (emit(message(0)) + "os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("out.write(b'hello\\n')", "received b'hello.*a defect of edgelift"),
        (emit(message(0, size=[-1, 5])), "pose2d message: size"),
    ],
)
def test_a_process_that_fails_is_one_error(stand_in: StandIn, code: str, match: str) -> None:
    with pytest.raises(EdgeliftError, match=match):
        stand_in.run(code)


def test_half_a_line_of_a_process_that_died_is_no_message(stand_in: StandIn) -> None:
    with pytest.raises(EdgeliftError, match="exit code 1"):
        stand_in.run(emit(message(0)) + "out.write(b'{\"v\":1'); out.flush(); sys.exit(1)")
    assert stand_in.written == [line(message(0))]


ENDLESS = (
    f"told = json.loads({json.dumps(message(0))!r})\n"
    "told['t_ns'] = os.getpid()\n"
    "out.write(json.dumps(told).encode() + b'\\n'); out.flush()\n"
    "while True: time.sleep(60)\n"
)


def _interrupted(pids: list[int]) -> Callable[[bytes], object]:
    def write(text: bytes) -> None:
        pids.append(json.loads(text)["t_ns"])
        raise KeyboardInterrupt

    return write


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_ends_a_camera_and_its_process(stand_in: StandIn) -> None:
    pids: list[int] = []
    stand_in.run(ENDLESS, CAMERA, _interrupted(pids))
    assert not _is_running(pids[0])


def test_ctrl_c_of_a_video_goes_on_to_the_command(stand_in: StandIn) -> None:
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        stand_in.run(ENDLESS, VIDEO, _interrupted(pids))
    assert not _is_running(pids[0])


def test_a_process_that_does_not_listen_is_killed(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 0.1)
    pids: list[int] = []
    stand_in.run("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ENDLESS, CAMERA, _interrupted(pids))
    assert not _is_running(pids[0])


def test_the_process_is_isolated_from_this_environment(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    with pytest.raises(
        EdgeliftError, match=r"received isolated 1, False, --live --mirrored --stream=-x -- mediapipe 0 "
    ):
        stand_in.run(
            "sys.exit(f\"isolated {sys.flags.isolated}, {'/nowhere' in sys.path}, {' '.join(sys.argv[1:])}\")",
            Job("mediapipe", "0", live=True, stream="-x", mirrored=True),
        )


# -- the command, with a small script in the detector's place ---------------------------------------------------------

COMMAND = [sys.executable, "-c", "from edgelift.cli import detect, main; main()", "detect", "--detector", "mediapipe"]


def standing_in(folder: Path, code: str) -> Path:
    """Make an environment whose python runs the code, whatever it is told to run."""
    python = folder / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "code.py").write_text(PREAMBLE + code)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "code.py"}" "$@"\n')
    python.chmod(0o755)
    return folder / "env"


def command(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.usefixtures("videos")
def test_the_command_writes_files_and_says_what_it_found(tmp_path: Path) -> None:
    env = standing_in(tmp_path, emit({"type": "about", "frames": 3}, message(0), message(1)))
    done = command("a.mp4", "b.mp4", "-o", "out/", "--env", env, "--json")
    streams = json.loads(done.stdout)["streams"]
    assert [s["output"] for s in streams] == ["out/a.jsonl", "out/b.jsonl"]
    assert "a: 2 frames of 3 announced, people in 2 (2 detections), " in done.stderr
    assert (tmp_path / "out" / "b.jsonl").read_bytes() == line(message(0)) + line(message(1))
    assert command("a.mp4", "--env", env).stdout.encode() == line(message(0)) + line(message(1))


@pytest.mark.usefixtures("videos")
def test_the_commands_mistakes(tmp_path: Path) -> None:
    env = standing_in(tmp_path, emit(message(0)) + "raise MemoryError('all of it')")
    assert "MemoryError: all of it" in command("a.mp4", "-o", "x.jsonl", "--env", env, code=2).stderr
    assert not list(tmp_path.glob("*.jsonl*"))
    assert "--json: received -o -" in command("a.mp4", "--env", env, "--json", code=2).stderr
    assert "--setup: received something to detect" in command("a.mp4", "--setup", "--env", env, code=2).stderr
    assert "no environment in" in command("a.mp4", "--env", tmp_path / "none", code=2).stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_camera_ends_by_ctrl_c_and_by_a_service_manager(tmp_path: Path, sent: signal.Signals) -> None:
    env = standing_in(tmp_path, ENDLESS)
    words = [*COMMAND, "0", "--env", str(env)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        pid = json.loads(running.stdout.readline())["t_ns"]
        running.send_signal(sent)
        assert running.wait() == 0
        assert re.search("camera0: [01] frames", running.stderr.read())  # the signal may overtake the counting
    assert not _is_running(pid)


def test_a_reader_that_leaves_ends_it(tmp_path: Path) -> None:
    env = standing_in(tmp_path, "while True:\n    " + emit(message(0)))
    words = [*COMMAND, "0", "--env", str(env)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait() == 2
        assert "standard output: received a reader that left" in running.stderr.read()


# -- parts of the worker that need no detector ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("joint", "told"),
    [
        ((1.234567, -2.0, 0.98765), [1.23, -2.0, 0.9877]),
        ((1.0, 2.0, 1.07), [1.0, 2.0, 1.0]),
        ((1.0, 2.0, 0.0), None),
        ((1.0, 2.0, float("nan")), None),
        ((float("inf"), 2.0, 0.5), None),
    ],
)
def test_joints_as_messages_hold_them(joint: tuple[float, float, float], told: list[float] | None) -> None:
    assert worker._joint(*joint) == told


def test_a_video_is_held_to_its_rate_and_late_frames_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=10**12, slept=[])

    def sleep(seconds: float) -> None:
        clock.slept.append(round(seconds, 3))
        clock.now += round(seconds * 1e9)

    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic_ns=lambda: clock.now, sleep=sleep))
    pace = worker.Pace()
    shown = []
    for seq, work_ms in enumerate([10, 10, 130, 0, 0, 0, 0]):  # the third frame takes three frames' time
        if pace.wait(500_000_000 + seq * 40_000_000):
            shown.append(seq)
            clock.now += work_ms * 1_000_000
    assert shown == [0, 1, 2, 5, 6]
    assert clock.slept == [0, 0.03, 0.03, 0, 0.03]


class FakeCapture:
    """A camera of `frames` images that hands out each when it is told to."""

    def __init__(self, frames: int) -> None:
        self.numbers = iter(range(frames))
        self.number = -1
        self.allowed: queue.Queue[None] = queue.Queue()

    def grab(self) -> bool:
        self.allowed.get()
        self.number = next(self.numbers, -1)
        return self.number >= 0

    def retrieve(self) -> tuple[bool, int]:
        return True, self.number


def test_of_a_camera_the_newest_frame_is_taken_and_none_twice() -> None:
    capture = FakeCapture(5)
    shots = worker._camera(capture, "0")
    capture.allowed.put(None)
    assert next(shots).image == 0
    for _ in range(5):  # four frames while nobody asks, and the end
        capture.allowed.put(None)
    rest: list[worker.Shot] = []
    with pytest.raises(worker.WorkerError, match="no more images"):
        rest.extend(iter(lambda: next(shots), None))
    numbers = [shot.seq for shot in rest]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 4


def test_a_camera_that_raises_is_no_camera_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda told: None)

    class Broken(FakeCapture):
        def retrieve(self) -> tuple[bool, int]:
            raise MemoryError

    capture = Broken(5)
    capture.allowed.put(None)
    with pytest.raises(worker.WorkerError, match="no more images"):
        next(worker._camera(capture, "0"))


def test_a_process_that_complains_for_ever_fills_nothing(stand_in: StandIn) -> None:
    noise = "for _ in range(100_000):\n    sys.stderr.write('decode error\\n')\n"
    with pytest.raises(EdgeliftError, match=r"the end \(exit code 3\)"):
        stand_in.run(f"import sys\n{noise}sys.stderr.write('the end\\n'); sys.exit(3)\n")
