from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.sessions import save_session
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.bundle import load_bundle
from edgelift.runtime.lift import lift_stream
from edgelift.runtime.sinks.jsonl import JsonLines
from edgelift.runtime.sources import replay
from edgelift.runtime.sources.replay import Replay

from .conftest import make_sessions

FRAME_NS = 50_000_000


class Clock:
    """Stands in for the `time` module: sleeping is instant, and the test says how long work takes."""

    def __init__(self) -> None:
        self.now = 7_000_000_000

    def perf_counter_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replay, "time", clock)
    return clock


@pytest.fixture
def source(tmp_path: Path) -> Path:
    session = make_sessions(1, noise_px=2.0)[0]
    session.keypoints[0, 20:23] = (np.nan, np.nan, 0)  # the person steps out of the first view
    save_session(replace(session, timestamps=session.timestamps + 3.0), tmp_path / "take.npz")
    return tmp_path / "take.npz"


def test_frames_come_at_the_recordings_rate(source: Path, clock: Clock) -> None:
    started = clock.now
    arrived = [(frame.seq, clock.now - started, frame.due_ns - started) for frame in Replay(source, "cam_01", False)]
    assert arrived == [(i, i * FRAME_NS, i * FRAME_NS) for i in range(60)]


def test_a_slow_consumer_gets_the_newest_frame_and_the_others_are_counted(source: Path, clock: Clock) -> None:
    started, stream, seen = clock.now, Replay(source, "cam_01", False), []
    for frame in stream:
        waited = clock.now - started - frame.seq * FRAME_NS
        assert 0 <= waited < FRAME_NS or frame.seq == 59  # never one that the next has overtaken
        seen.append(frame.seq)
        clock.now += int(2.5 * FRAME_NS)
    assert len(seen) + stream.dropped == 60
    assert seen[:4] == [0, 2, 5, 7]


def test_fast_lifts_every_frame(source: Path, clock: Clock) -> None:
    stream = Replay(source, "cam_01", True)
    for frame in stream:
        assert frame.due_ns == clock.now
        clock.now += 10 * FRAME_NS
    assert stream.dropped == 0


def messages(bundle: Path, source: Path) -> list[dict[str, Any]]:
    loaded = load_bundle(bundle)
    sent: list[dict[str, Any]] = []
    with OnnxRuntimeCpu(loaded) as backend:
        lift_stream(loaded, backend, Replay(source, "cam_01", True), sent.append)
    return sent


def test_a_frame_without_the_person_says_so(bundle: Path, source: Path) -> None:
    sent = messages(bundle, source)
    empty = [m["seq"] for m in sent if not m["persons"]]
    assert empty == [20, 21, 22]
    assert all((m["root"] is None) == (m["seq"] in empty) for m in sent)


def test_messages_carry_the_sources_clock(bundle: Path, source: Path) -> None:
    sent = messages(bundle, source)
    assert [m["t_ns"] for m in sent[:3]] == [3_000_000_000, 3_050_000_000, 3_100_000_000]
    assert sent[0]["persons"][0]["xyz"][0] == sent[0]["root"]
    assert {len(m["persons"][0]["conf"]) for m in sent if m["persons"]} == {14}


def test_ctrl_c_ends_a_stream_well(bundle: Path, source: Path, tmp_path: Path, clock: Clock) -> None:
    def interrupt(seconds: float) -> None:
        clock.now += round(seconds * 1e9)
        if clock.now > 8_000_000_000:  # after a second
            raise KeyboardInterrupt

    clock.sleep = interrupt  # type: ignore[method-assign]
    loaded, path = load_bundle(bundle), tmp_path / "poses.jsonl"
    with OnnxRuntimeCpu(loaded) as backend, JsonLines(str(path)) as sink:
        summary = lift_stream(loaded, backend, Replay(source, "cam_01", False), sink.write).to_dict()
    assert summary["lifted"] == len(path.read_text().splitlines()) == 21
    assert list(tmp_path.glob(".*")) == []
