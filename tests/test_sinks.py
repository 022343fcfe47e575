"""Sinks over real sockets and files."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.counts import Counts, Histogram, Live
from edgelift.runtime.frames import LiftedFrame
from edgelift.runtime.sinks import FILES, SCHEMES, Sinks, open_sink

from .live import lifted, lifted_frames
from .test_sources import free_port


def plain(frames: list[LiftedFrame]) -> list[dict[str, Any]]:
    return [json.loads(frame.json) for frame in frames]


def test_a_file_appears_when_the_stream_ends_and_holds_every_line(tmp_path: Path) -> None:
    path, frames = tmp_path / "deep" / "poses.jsonl", lifted_frames(20, (0, 3), echo=True)
    with open_sink(str(path), Live()) as sink:
        for frame in frames:
            sink.write(frame)
        assert not path.exists()
    assert [json.loads(line) for line in path.read_text().splitlines()] == plain(frames)
    assert list(path.parent.iterdir()) == [path]


def test_what_was_lifted_is_kept_however_the_stream_ends(tmp_path: Path) -> None:
    path = tmp_path / "poses.jsonl"

    def stream() -> None:
        with Sinks([open_sink(str(path), Live())], Live()) as sinks:
            sinks.write(lifted(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stream()
    assert len(path.read_text().splitlines()) == 1


FULL_DISK = """
import resource, signal, sys
from edgelift.runtime.counts import Live
from edgelift.runtime.sinks import Sinks, open_sink
from tests.live import lifted_frames
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a file at its limit is an OSError, as a full disk is
frames, live = lifted_frames(40), Live()
with Sinks([open_sink(sys.argv[1], live)], live) as sinks:
    for i, frame in enumerate(frames):
        limit = 20_000 if 10 <= i < 30 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sinks.write(frame)
print(live.counts.sink_lost)
"""


def test_a_full_disk_costs_the_lines_that_find_no_room_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "poses.jsonl"
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    kept = [json.loads(line)["seq"] for line in path.read_text().splitlines()]
    lost = int(done.stdout)
    assert 0 < lost == 40 - len(kept)
    assert kept == [*range(30 - lost), *range(30, 40)]


def test_udp_and_tcp_readers_get_every_message() -> None:
    frames, live = lifted_frames(10), Live()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    server = socket.create_server(("127.0.0.1", 0))
    port = free_port()
    with closing(datagrams), closing(server):
        datagrams.bind(("127.0.0.1", 0))
        targets = (
            f"udp://127.0.0.1:{datagrams.getsockname()[1]}",
            f"tcp://127.0.0.1:{server.getsockname()[1]}",
            f"tcp-listen://:{port}",
        )
        with Sinks([open_sink(target, live) for target in targets], live) as sinks:
            caller = socket.create_connection(("127.0.0.1", port))
            called = connected(sinks, server)
            for frame in frames:
                sinks.write(frame)
        texts = [read_all(called), read_all(caller)]
        received = [json.loads(datagrams.recv(65535)) for _ in range(10 + 1)]
    for text in texts:
        assert [json.loads(line) for line in text.splitlines()][-10:] == plain(frames)
    assert received[-10:] == plain(frames)


def connected(sinks: Sinks, server: socket.socket) -> socket.socket:
    """Write until the sink that calls is connected; what was lost meanwhile is counted."""
    server.settimeout(10)
    deadline = time.monotonic() + 10
    sinks.write(lifted(0))
    called, _ = server.accept()
    while sinks.sinks[1].caller.connect() is None:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
    return called


def read_all(peer: socket.socket) -> bytes:
    with closing(peer):
        text = b""
        while data := peer.recv(1 << 16):
            text += data
    return text


def test_a_reader_that_does_not_read_costs_its_own_messages_and_whole_ones_alone() -> None:
    port, live = free_port(), Live()
    frames = lifted_frames(2, tuple(range(20)))
    with Sinks([open_sink(f"tcp-listen://:{port}", live)], live) as sinks:
        slow = socket.create_connection(("127.0.0.1", port))
        sent = 0
        while live.counts.sink_lost < 100:
            sinks.write(frames[sent % 2])
            sent += 1
            assert sent < 100_000
        held = sinks.sinks[0].outlets[0].held  # type: ignore[attr-defined]
        assert len(held) <= 1 << 20
        slow.settimeout(10)
        text = b""
        while len(text) < 2 * len(held):  # what the kernel holds, and some of what the sink does
            text += slow.recv(1 << 20)
            sinks.write(frames[0])
        slow.close()
    for line in text.splitlines()[:-1]:
        assert json.loads(line)["type"] == "pose3d"


def test_nobody_listening_is_no_mistake() -> None:
    live = Live()
    targets = (
        f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}",
        f"tcp://127.0.0.1:{free_port()}",
        f"zmq://:{free_port()}",
    )
    with Sinks([open_sink(target, live) for target in targets], live) as sinks:
        for frame in lifted_frames(30):
            sinks.write(frame)
    udp, tcp, pub = sinks.sinks
    assert tcp.lost == 30
    assert udp.lost >= 1  # those that came back refused
    assert pub.lost == 0


@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_zeromq_publishes_the_stream_name_and_the_message(form: str) -> None:
    port, live = free_port(), Live()
    subscriber: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    with closing(subscriber):
        subscriber.subscribe(b"cam_")
        subscriber.rcvtimeo = 10_000
        with Sinks([open_sink(f"zmq://:{port}?format={form}", live)], live) as sinks:
            subscriber.connect(f"tcp://127.0.0.1:{port}")
            while not subscriber.poll(20):  # a subscription takes a moment
                sinks.write(lifted(0))
            topic, payload = subscriber.recv_multipart()
    unpack = msgpack.unpackb if form == "msgpack" else json.loads
    assert topic == b"cam_01"
    assert unpack(payload) == json.loads(lifted(0).json)


def test_unknown_sinks_are_told_with_all_known_ones() -> None:
    for target, all_known in (("poses.xyz", FILES), ("poses", FILES + SCHEMES), ("ftp://h:5", SCHEMES)):
        with pytest.raises(EdgeliftError) as told:
            open_sink(target, Live())
        assert [known for known in all_known if known not in told.value.expected] == []


def test_what_cannot_be_opened_is_told_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for target, match in (
        (str(tmp_path / "folder.jsonl"), "a folder"), ("udp://no-such-host.invalid:5", "can be reached"),
        ("tcp://no-such-host.invalid:5", "is known"), ("zmq://:5?format=JSON", "json or msgpack"),
    ):  # fmt: skip
        with pytest.raises(EdgeliftError, match=match), Sinks([open_sink(target, Live())], Live()):
            pass


def test_what_a_killed_process_left_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "POSES.JSONL"
    for _ in range(2):
        (tmp_path / ".POSES.JSONL.part").write_bytes(lifted(5).json)
        with Sinks([open_sink(str(target), Live())], Live()) as sinks:
            sinks.write(lifted(0))
        assert "killed" in sinks.notes[0]
    kept = sorted(tmp_path.glob("POSES.killed*"))
    assert len(kept) == 2
    assert {json.loads(path.read_bytes())["seq"] for path in kept} == {5}
    assert json.loads(target.read_bytes())["seq"] == 0


# what is counted


def test_percentiles_are_exact_to_a_hundredth() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 1.5, 100_000)
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    told = histogram.to_dict()
    for name, level in (("p50", 50), ("p90", 90), ("p99", 99), ("p99_9", 99.9)):
        assert told[name] == pytest.approx(np.percentile(values, level), rel=0.0101)
    assert told["max"] == pytest.approx(values.max(), abs=1e-4)
    assert histogram.total_ms == pytest.approx(values.sum())


def test_no_duration_is_clipped() -> None:
    histogram = Histogram()
    for ms in (0.0, 1e-9, 3.6e6):
        histogram.add(ms)
    assert histogram.to_dict()["max"] == 3.6e6
    assert Histogram().to_dict() == dict.fromkeys(("p50", "p90", "p99", "p99_9", "max"))


def test_metrics_are_what_is_counted() -> None:
    from urllib.request import urlopen

    from edgelift.runtime.metrics import BOUNDS_MS, served

    port, live = free_port(), Live(Counts(frames=7, lifted=5, dropped=2))
    live.dropped_by_stream["cam_01"] = 2
    for ms in (0.15, 0.3, 3.0, 3.0, 5000.0):
        live.latency.add(ms)
    with served(live, f"127.0.0.1:{port}"), urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(found["edgelift_frames_total"]) == 7
    assert float(found['edgelift_stream_dropped_total{stream="cam_01"}']) == 2
    assert float(found['edgelift_latency_seconds_bucket{le="0.0002"}']) == 1
    assert float(found['edgelift_latency_seconds_bucket{le="0.005"}']) == 4
    assert float(found['edgelift_latency_seconds_bucket{le="+Inf"}']) == 5
    assert float(found["edgelift_latency_seconds_sum"]) == pytest.approx(5.00645)
    assert len([name for name in found if name.startswith("edgelift_latency_seconds_bucket")]) == len(BOUNDS_MS) + 1
    with pytest.raises(EdgeliftError, match="--metrics"), served(live, "no port"):
        pass
