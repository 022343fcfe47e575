"""`edgelift view`: recordings and live streams to the page."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.frames import LiftedFrame
from edgelift.runtime.view import feeds
from edgelift.runtime.view.feeds import is_pose3d, read_recording
from edgelift.runtime.view.page import recording_page
from edgelift.runtime.view.server import PageServer

from .live import lifted, lifted_frames

pytest.importorskip("websockets")


def test_what_is_a_message() -> None:
    assert is_pose3d(lifted().json)
    message = json.loads(lifted().json)
    for change in ({"v": 2}, {"type": "pose2d"}, {"persons": None}):
        assert not is_pose3d(json.dumps(message | change).encode())
    for line in (b"", b"{", b"\xff", b"[" * 100_000, json.dumps(message | {"root": float("nan")}).encode()):
        assert not is_pose3d(line)
    assert not is_pose3d(json.dumps(message).encode("utf-16"))


def test_what_is_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "poses.jsonl"
    with pytest.raises(EdgeliftError, match="no such file"):
        read_recording(path)
    path.write_bytes(b"{}\n\n")
    with pytest.raises(EdgeliftError, match="1 lines, none of them"):
        read_recording(path)
    frames = lifted_frames(3)
    path.write_bytes(b"".join(frame.json for frame in frames)[:-20])  # cut while it was written
    lines, malformed = read_recording(path)
    assert [line + "\n" for line in lines] == [frame.json.decode() for frame in frames[:2]]
    assert malformed == 1


COMMAND = [sys.executable, "-c", "from edgelift.cli import view; from edgelift.cli.output import main; main()", "view"]


@contextmanager
def viewing(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `edgelift view` until it has told its address; yield the process and the address."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*COMMAND, *arguments, "--port", "0", "--json"], **pipes) as process:
        try:
            assert process.stderr is not None
            told = re.search(r"open (http\S+)", process.stderr.readline().decode())
            assert told is not None
            yield process, told[1]
        finally:
            process.kill()


def ended(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], str]:
    out, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    facts: dict[str, Any] = json.loads(out)
    return facts, said.decode()


def relayed(address: str, send: Callable[[bytes], Any], frame: LiftedFrame) -> None:
    """Send a frame to `edgelift view` until whoever watches gets it."""
    from websockets.sync.client import connect

    with connect(address.replace("http:", "ws:"), proxy=None) as client:
        for _ in range(100):  # the first may come before the client is counted among those who watch
            send(frame.json)
            try:
                assert client.recv(0.2) == frame.json.decode().strip()
                return
            except TimeoutError:
                continue
    pytest.fail("nothing came")


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_view_relays_datagrams_until_it_is_interrupted() -> None:
    port = free_port(socket.SOCK_DGRAM)
    with viewing(f"udp://:{port}") as (process, address), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        sender.send(b"not a pose")
        relayed(address, sender.send, lifted(3))
        process.send_signal(signal.SIGINT)
        facts, said = ended(process)
    assert facts["messages"] >= 1
    assert facts["malformed"] == 1
    assert f"{facts['messages']} messages shown, 1 malformed" in said


def test_view_relays_a_connection_to_its_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        source = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        with viewing(source, "--token", "x y") as (process, address):
            assert address.endswith("?token=x%20y")
            peer, _ = listening.accept()
            relayed(address, peer.sendall, lifted(3))
            peer.close()
            facts, _ = ended(process)
    assert facts["messages"] >= 1
    assert facts["source"] == source


def test_view_relays_standard_input_to_its_end() -> None:
    with viewing("-") as (process, address):
        assert process.stdin is not None

        def send(data: bytes) -> None:
            assert process.stdin is not None
            process.stdin.write(data)
            process.stdin.flush()

        relayed(address, send, lifted(3))
        facts, _ = ended(process)
    assert facts["messages"] >= 1


def test_view_serves_a_recording_to_those_who_know_the_token(tmp_path: Path) -> None:
    path = tmp_path / "poses.jsonl"
    path.write_bytes(b"".join(frame.json for frame in lifted_frames(5, (0, 1))))
    with viewing(str(path), "--token", "secret") as (process, address):
        for query, status, page in (("", 401, ""), ("?token=secret", 200, recording_page(read_recording(path)[0]))):
            connection = HTTPConnection("127.0.0.1", urlsplit(address).port or 0, timeout=20)
            connection.request("GET", f"/{query}")
            answer = connection.getresponse()
            assert answer.status == status
            assert answer.read().decode().startswith("edgelift: add ?token" if status == 401 else page)
        process.send_signal(signal.SIGINT)
        facts, said = ended(process)
    assert facts["messages"] == 5
    assert "5 messages shown" in said


def test_view_says_that_a_network_can_watch() -> None:
    with viewing("udp://:0", "--bind", "0.0.0.0") as (process, _):
        assert process.stderr is not None
        assert b"anyone who reaches this port can watch" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        ended(process)


def test_lines_come_whole_however_they_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_BYTES", 50)
    sent = [b"one", b"", b"x" * 40, b"y" * 200, b"two", b"a last line without an end"]
    reader, writer = socket.socketpair()
    got = feeds._received(reader)
    with writer:
        for start in range(0, len(data := b"\n".join(sent)), 7):
            writer.sendall(data[start : start + 7])
    lines = list(got)
    assert b"".join(lines) == b"".join(sent)
    assert [line for line in lines if b"y" not in line and line] == [line for line in sent if b"y" not in line and line]
    assert reader.fileno() == -1


def test_view_writes_one_page(tmp_path: Path) -> None:
    recording, output = tmp_path / "poses.jsonl", tmp_path / "new" / "page.html"
    recording.write_bytes(b"".join(frame.json for frame in lifted_frames(5)) + b"half a li")
    done = subprocess.run([*COMMAND, str(recording), "-o", str(output), "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout) == {
        "source": str(recording), "messages": 5, "malformed": 1, "output": str(output)
    }  # fmt: skip
    assert output.read_text() == recording_page(frame.json.decode().strip() for frame in lifted_frames(5))
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["udp://127.0.0.1:1", "-o", "x.html"], "-o: received udp://127.0.0.1:1, which is live"),
        (["none.jsonl"], "no such file"),
        (["zmq://127.0.0.1:1"], "one of udp"),
        ([f"tcp://127.0.0.1:{free_port(socket.SOCK_STREAM)}"], "Connection refused"),
    ],
)
def test_view_says_what_is_wrong(arguments: list[str], expected: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert expected in done.stderr


def test_view_says_that_its_port_is_taken() -> None:
    with PageServer("127.0.0.1", 0, None, "") as server:
        arguments = ["udp://127.0.0.1:0", "--port", str(server.port)]
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "in use" in done.stderr
