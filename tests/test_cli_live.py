"""`edgelift lift` as users start it: a process, real pipes, sockets and signals."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import write_rig
from edgelift.poses.sessions import Session, save_session
from edgelift.poses.studio import studio_rig
from edgelift.runtime.bundle import load_bundle
from edgelift.runtime.counts import Live
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.live import Cameras, EachCamera
from edgelift.runtime.start import LiftSettings, _follower

from .conftest import make_sessions
from .test_readme import write_openpose
from .test_sources import free_port

WORDS = {"frames", "lifted", "dropped", "swapped", "malformed", "provider", "lifter", "latency_ms", "backend_ms"}


def edgelift(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgelift.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **settings)


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edgelift.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def message(session: Session, seq: int, **changed: Any) -> str:
    kpts = [row if row[2] > 0 else None for row in session.keypoints[0, seq % 60].astype(float).tolist()]
    told = {"v": 1, "type": "pose2d", "stream": "cam_01", "seq": seq, "t_ns": seq * 50_000_000, "clock": "unix"}
    told |= {"size": [1000, 1000], "skeleton": session.skeleton.name, "persons": [{"id": 0, "kpts": kpts}]}
    return json.dumps(told | changed)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_session(make_sessions(1)[0], tmp_path / "take.npz")
    write_rig(studio_rig(), tmp_path / "rig.toml")
    return tmp_path


@pytest.fixture
def rig(place: Path) -> tuple[str, ...]:
    return ("--cameras", str(place / "rig.toml"), "--units", "m")


def test_lines_in_lines_out(bundle: Path, sessions: list[Session], rig: tuple[str, ...]) -> None:
    with running("lift", bundle, "--source", "-", *rig, "--every") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for seq in range(5):
            process.stdin.write(message(sessions[0], seq) + "\n")
            assert json.loads(process.stdout.readline())["seq"] == seq  # at once, not when a buffer is full
        process.stdin.write("nonsense\n")
        process.stdin.close()
        assert process.wait(60) == 0
        told = process.stderr.read()
    assert "malformed message" in told
    assert "5 frames in, 5 lifted by CPUExecutionProvider" in told
    assert "also: 1 malformed" in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_last_words_at_a_signal(
    bundle: Path, sessions: list[Session], rig: tuple[str, ...], place: Path, number: signal.Signals
) -> None:
    port, poses = free_port(socket.SOCK_DGRAM), place / "poses.jsonl"
    arguments = ("--source", f"udp://:{port}", *rig, "--sink", poses, "--sink", "tcp-listen://:0", "--json")
    with running("lift", bundle, *arguments) as process, closing(socket.socket(type=socket.SOCK_DGRAM)) as sender:
        part, deadline, seq = place / ".poses.jsonl.part", time.monotonic() + 60, 0
        while not (part.exists() and part.stat().st_size > 10_000):
            assert time.monotonic() < deadline
            sender.sendto(message(sessions[0], seq).encode(), ("127.0.0.1", port))
            seq += 1
            time.sleep(0.005)
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    words = json.loads(out)
    assert words.keys() >= WORDS
    assert set(words["latency_ms"]) == {"p50", "p90", "p99", "p99_9", "max"}
    lines = [json.loads(line) for line in poses.read_text().splitlines()]
    assert len(lines) == words["lifted"] > 5
    seqs = [line["seq"] for line in lines]
    assert seqs == sorted(set(seqs))


def test_an_openpose_folder_of_people_nobody_named(bundle: Path, place: Path, rig: tuple[str, ...]) -> None:
    write_openpose(place / "take", 12)
    folder = (place / "take", "--skeleton", "body25b", "--fps", 20)
    done = edgelift("lift", bundle, "--source", *folder, *rig, "--fast", "--sink", place / "p.jsonl")
    assert done.returncode == 0, done.stderr
    sent = [json.loads(line) for line in (place / "p.jsonl").read_text().splitlines()]
    assert len(sent) == 36
    assert {m["stream"] for m in sent} == {"cam_01_json", "cam_02_json", "cam_03_json"}
    assert all([p["id"] for p in m["persons"]] == [0] for m in sent)
    again = edgelift("lift", bundle, "--source", place / "take", *rig, "--fast")
    assert again.returncode == 2
    assert "--skeleton and --fps" in again.stderr


def test_fused_views_are_one_stream_in_the_world(bundle: Path, place: Path) -> None:
    fuse = ("--fuse", place / "rig.toml", "--units", "m", "--fast")
    done = edgelift("lift", bundle, "--source", place / "take.npz", *fuse)
    assert done.returncode == 0, done.stderr
    sent = [json.loads(line) for line in done.stdout.splitlines()]
    truth = make_sessions(1)[0]
    assert truth.poses is not None
    assert [m["seq"] for m in sent] == list(range(60))
    assert {(m["stream"], m["frame"]) for m in sent} == {("fused", "world")}
    assert [v["stream"] for v in sent[0]["views"]] == list(truth.camera_names)
    hips = np.array([m["persons"][0]["xyz"][1] for m in sent])
    np.testing.assert_allclose(hips, truth.poses[:, 1], atol=2e-3)


def test_names_that_look_like_markup_are_told_as_they_are(
    bundle: Path, sessions: list[Session], rig: tuple[str, ...]
) -> None:
    told = json.loads(message(sessions[0], 0)) | {"stream": "x\\[/y] [red]z[/]"}
    for how in ("text", "json"):
        done = edgelift("lift", bundle, "--source", "-", *rig, "--log", how, input=json.dumps(told))
        assert done.returncode == 0, done.stderr
        assert "x\\" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_lifter_of_another_skeleton_is_refused_and_the_old_one_goes_on(bundle: Path, tmp_path: Path) -> None:
    live, registry = Live(), tmp_path / "registry"
    shutil.copytree(bundle, registry / "v0001")
    (registry / "current").write_text("v0001")
    with Lifter(registry) as lifter:
        other = replace(load_bundle(registry / "v0001"), manifest=lifter.bundle.manifest | {"skeleton": "h36m17"})
        pipeline = EachCamera(lifter, Cameras({}), StreamSettings(), live, every=True)
        follower = _follower(LiftSettings(registry, ("-",), follow=True), pipeline, live, lambda fits: None)
        assert follower is not None
        with pytest.raises(EdgeliftError, match="common14, as before"):
            follower.open_lifter(other)
        follower.close()


def test_only_a_registry_can_be_followed(bundle: Path, place: Path) -> None:
    done = edgelift("lift", bundle, "--source", place / "take.npz", "--follow", "--sink", place / "p.jsonl")
    assert done.returncode == 2
    assert "no registry" in done.stderr


def test_events_as_json_lines(bundle: Path, sessions: list[Session], rig: tuple[str, ...]) -> None:
    lines = "\n".join(["nonsense", message(sessions[0], 0)])
    done = edgelift("lift", bundle, "--source", "-", *rig, "--log", "json", input=lines)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(e["event"], e["level"], e["count"]) for e in events] == [("standard input", "warning", 1)]
    assert events[0]["message"].startswith("malformed message")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--source", "udp://:0"), "--cameras"),
        (("--source", "take.npz", "--sink", "poses.xyz"), "--sink"),
        (("--source", "take.npz", "--json"), "--sink a file"),
        (("--source", "take.npz", "--rate", "-1"), "--rate"),
        (("--source", "take.npz", "--rate", "0"), "--rate"),
        (("--source", "take.npz", "--fast", "--rate", "2"), "Leave one out"),
        (("--source", "take.npz", "--smooth", "1"), "MIN_CUTOFF,BETA"),
        (("--source", "take.npz", "--fuse", "rig.toml", "--units", "m", "--camera", "cam_01"), "--camera"),
        (("--source", "take.npz", "--metrics", "x"), "--metrics"),
        (("--source", "take.npz", "--skeleton", "coco17"), "--skeleton"),
        (("--source", "missing.npz"), "no such file"),
        (("--source", "-", "--cameras", "rig.toml", "--units", "m", "--camera", "cam_09"), "cam_09"),
    ],
    ids=range(12),
)
def test_mistakes_are_one_message(bundle: Path, place: Path, arguments: tuple[str, ...], part: str) -> None:
    done = edgelift("lift", bundle, *arguments, cwd=place)
    assert done.returncode == 2, done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in place.iterdir()) == ["rig.toml", "take.npz"]
