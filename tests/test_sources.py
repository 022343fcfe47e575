"""Sources over real sockets and pipes of this machine."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import msgpack
import pytest
import zmq
import zmq.auth
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime import connections
from edgelift.runtime.address import parse_address
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame
from edgelift.runtime.sources import Inbox, Limits, is_live, open_source
from edgelift.runtime.sources.messages import Decoder, Lines
from edgelift.runtime.sources.sockets import StdinSource

SCHEMA = json.loads((Path(connections.__file__).parent / "schemas" / "pose2d.schema.json").read_text())
SOON_S = 10.0


def message(seq: int = 0, people: int = 1, stream: str = "cam_01") -> dict[str, Any]:
    kpts = [[500 + j, 400 + seq, 0.9] for j in range(17)]
    persons = [{"id": k, "kpts": kpts} for k in range(people)]
    told = {"v": 1, "type": "pose2d", "stream": stream, "seq": seq, "t_ns": seq * 10**7, "clock": "unix"}
    return told | {"size": [1000, 1000], "skeleton": "coco17", "persons": persons}


def line(seq: int = 0, **changed: Any) -> bytes:
    return json.dumps(message(seq) | changed).encode() + b"\n"


def publisher_socket() -> zmq.Socket[bytes]:
    opened: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    return opened


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with closing(socket.socket(socket.AF_INET, kind)) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def opened(text: str, live: Live, limits: Limits | None = None) -> Iterator[Inbox]:
    with Inbox([open_source(text, live, limits or Limits())]) as inbox:
        yield inbox


def until(inbox: Inbox, enough: Callable[[list[Frame]], bool], act: Callable[[], object] = lambda: None) -> list[Frame]:
    """What comes until it is enough; `act` is done before each look."""
    frames: list[Frame] = []
    deadline = time.monotonic() + SOON_S
    while not enough(frames):
        assert time.monotonic() < deadline, f"{len(frames)} frames"
        act()
        frames += inbox.wait(0.05)
    return frames


def test_messages_fit_their_schema() -> None:
    jsonschema.validate(message(), SCHEMA)


# one source after the other


def test_datagrams_become_frames() -> None:
    port, live = free_port(socket.SOCK_DGRAM), Live()
    with opened(f"udp://:{port}", live) as inbox, closing(socket.socket(type=socket.SOCK_DGRAM)) as sender:
        for seq in range(20):
            sender.sendto(line(seq), ("127.0.0.1", port))
        frames = until(inbox, lambda f: len(f) == 20)
    assert [f.seq for f in frames] == list(range(20))
    assert frames[3].t_ns == 3 * 10**7
    assert frames[3].keypoints[0, 2].tolist() == pytest.approx([502, 403, 0.9])
    assert (frames[0].ids, frames[0].size, frames[0].skeleton.name) == ((0,), (1000, 1000), "coco17")
    assert all(f.arrived_ns <= time.perf_counter_ns() for f in frames)


def test_lines_come_in_any_pieces_from_several_peers() -> None:
    port, live = free_port(), Live()
    with opened(f"tcp-listen://127.0.0.1:{port}", live) as inbox:
        peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        text = b"".join(line(seq) for seq in range(5))
        pieces = [text[i : i + 700] for i in range(0, len(text), 700)]
        rest = [(peer, piece) for piece in pieces for peer in peers]

        def send_one() -> None:
            if rest:
                peer, piece = rest.pop(0)
                peer.sendall(piece)

        frames = until(inbox, lambda f: len(f) == 10, send_one)
        for peer in peers:
            peer.close()
    assert sorted(f.seq for f in frames) == sorted([*range(5), *range(5)])


def test_a_vanished_peer_is_called_again() -> None:
    port, live = free_port(), Live()
    with opened(f"tcp://127.0.0.1:{port}", live) as inbox:
        inbox.wait(0.05)  # nobody listens yet
        for round_ in range(2):
            with closing(socket.create_server(("127.0.0.1", port))) as server:
                server.setblocking(False)
                peers: list[socket.socket] = []

                def serve(server: socket.socket = server, peers: list[socket.socket] = peers, r: int = round_) -> None:
                    if not peers:
                        try:
                            peers.append(server.accept()[0])
                        except BlockingIOError:
                            return
                        peers[0].sendall(line(r) + b'{"half a line')

                frames = until(inbox, lambda f: len(f) == 1, serve)
                assert frames[0].seq == round_
                peer = inbox.sources[0].caller.connected  # type: ignore[attr-defined]
                assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                peers[0].close()
    assert live.counts.reconnects >= 2
    assert live.counts.malformed == 0  # half a line is nobody's


def test_standard_input_ends_with_its_pipe() -> None:
    reading, writing = os.pipe()
    live = Live()
    with Inbox([StdinSource(live, Limits(), reading)]) as inbox:
        os.write(writing, line(0) + line(1)[:-1])
        os.close(writing)
        frames = until(inbox, lambda f: inbox.ended)
    os.close(reading)
    assert [f.seq for f in frames] == [0, 1]


@pytest.mark.parametrize("pack", [msgpack.packb, lambda m: json.dumps(m).encode()], ids=["msgpack", "json"])
@pytest.mark.parametrize("binds", [False, True])
def test_zeromq_messages_of_either_kind(pack: Callable[[Any], bytes], binds: bool) -> None:
    port, live, seq = free_port(), Live(), iter(range(10**6))
    with closing(publisher_socket()) as publisher:
        if not binds:
            publisher.bind(f"tcp://127.0.0.1:{port}")
        with opened(f"zmq{'-bind' if binds else ''}://127.0.0.1:{port}", live) as inbox:
            if binds:
                publisher.connect(f"tcp://127.0.0.1:{port}")
            # a subscription takes a moment; what was published before is gone
            act = lambda: publisher.send_multipart([b"cam_01", pack(message(next(seq)))])  # noqa: E731
            frames = until(inbox, lambda f: len(f) >= 5, act)
    got = [f.seq for f in frames]
    assert got == list(range(got[0], got[0] + len(got)))


def test_zeromq_is_drained_even_where_nothing_new_comes() -> None:
    """The descriptor tells of changes, not of what is there: 1,000 messages at once must not get stuck."""
    port, live = free_port(), Live()
    with closing(publisher_socket()) as publisher:
        publisher.bind(f"tcp://127.0.0.1:{port}")
        with opened(f"zmq://127.0.0.1:{port}", live, Limits(rate=0)) as inbox:
            until(inbox, lambda f: len(f) > 0, lambda: publisher.send(json.dumps(message(0)).encode()))
            before = live.counts.frames
            for seq in range(1, 901):
                publisher.send(json.dumps(message(seq)).encode())
            frames = until(inbox, lambda f: bool(f) and f[-1].seq == 900)
    assert live.counts.frames - before >= 900
    assert [f.seq for f in frames if f.seq] == list(range(1, 901))


def test_zeromq_with_curve_lets_nobody_else_in(tmp_path: Path) -> None:
    public, secret = {}, {}
    for name in ("camera", "lifter", "stranger"):
        public[name], secret[name] = zmq.auth.create_certificates(tmp_path, name)
    port, live, strange = free_port(), Live(), Live()
    with closing(publisher_socket()) as publisher:
        publisher.curve_publickey, publisher.curve_secretkey = zmq.auth.load_certificate(secret["camera"])
        publisher.curve_server = True
        publisher.bind(f"tcp://127.0.0.1:{port}")
        good = f"zmq://127.0.0.1:{port}?key={secret['lifter']}&peer_key={public['camera']}"
        bad = f"zmq://127.0.0.1:{port}?key={secret['lifter']}&peer_key={public['stranger']}"
        with opened(good, live) as inbox, opened(bad, strange) as other, opened(f"zmq://:{port}", strange) as plain:
            send = lambda: publisher.send(line(1)[:-1])  # noqa: E731
            until(inbox, lambda f: len(f) >= 3, send)
            other.wait(0.05)
            plain.wait(0.05)
    assert strange.counts.frames == 0
    with pytest.raises(EdgeliftError, match="without its secret"):
        open_source(f"zmq://:{port}?key={public['lifter']}&peer_key={public['camera']}", live, Limits())


def test_websocket_messages_and_a_server_that_comes_back() -> None:
    from websockets.sync.server import ServerConnection, serve

    port, live = free_port(), Live()
    with opened(f"ws://127.0.0.1:{port}?token=abc", live) as inbox:
        for round_ in range(2):
            asked: list[str] = []

            def handle(connection: ServerConnection, asked: list[str] = asked, round_: int = round_) -> None:
                assert connection.request is not None
                asked.append(connection.request.path)
                connection.send(line(10 * round_).decode())
                connection.send(msgpack.packb(message(10 * round_ + 1)))

            server = serve(handle, "127.0.0.1", port)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            frames = until(inbox, lambda f: len(f) >= 2)
            server.shutdown()
            thread.join()
            assert [f.seq for f in frames[:2]] == [10 * round_, 10 * round_ + 1]
            assert asked[0] == "/?token=abc"
        assert "abc" not in inbox.sources[0].name
    assert live.counts.reconnects >= 1


def test_a_websocket_address_without_a_host_is_this_machine() -> None:
    from websockets.sync.server import ServerConnection, serve

    def handle(connection: ServerConnection) -> None:
        connection.send(line(0).decode())

    port, live = free_port(), Live()
    with serve(handle, "127.0.0.1", port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with opened(f"ws://:{port}", live) as inbox:
            assert until(inbox, lambda f: len(f) >= 1)[0].seq == 0
        server.shutdown()
        thread.join()


# addresses


@pytest.mark.parametrize(
    "text",
    ["udp://127.0.0.1", "ftp://h:1", "udp://h:99999", "udp://:5/path", "zmq://:5?curve=1", "ws://:5?key=1", "x://"],
)
def test_addresses_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(EdgeliftError, match="address"):
        open_source(text, Live(), Limits())


def test_addresses_are_loopback_unless_told_otherwise() -> None:
    assert parse_address("udp://:5005", ("udp",)).host == "127.0.0.1"
    assert parse_address("udp://0.0.0.0:5005", ("udp",)).loopback is False
    assert parse_address("udp://[::1]:5005", ("udp",)).loopback is True


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("tcp://no-such-host.invalid:5", "a host that is known"),
        ("zmq-bind://:5?key=own.key&peer_key=other.key", "peer_key where the address connects"),
    ],
)
def test_addresses_that_cannot_work_are_refused_at_the_start(text: str, match: str) -> None:
    with pytest.raises(EdgeliftError, match=match):
        open_source(text, Live(), Limits())


def test_a_taken_port_is_told() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        for text in (f"tcp-listen://:{port}", f"zmq-bind://:{port}"):
            with pytest.raises(EdgeliftError, match=rf":{port}"):
                open_source(text, Live(), Limits())


def test_files_are_no_streams() -> None:
    assert not is_live("take.npz")
    assert is_live("-")
    assert is_live("udp://:5")


# what may come


@pytest.mark.parametrize(
    ("bad", "count"),
    [
        (b"\x00\xff", "malformed"),
        (b"{}", "malformed"),
        (b'{"v":1', "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"a":' * 20_000, "malformed"),
        (line(0, persons=[]).replace(b"[]", b"[1]"), "malformed"),
        (json.dumps(message(0, people=33)).encode(), "malformed"),
        (json.dumps(message(0, people=10_000)).encode(), "oversized"),
        (b" " * (1 << 20) + b"{}", "oversized"),
        (msgpack.packb({"v": 1}), "malformed"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "malformed"),
        (b"\x81\x90\xc0", "malformed"),  # maps whose key is a list, and a map
        (b"\x81\x80\xc0", "malformed"),
        (json.dumps(message(0, stream="x" * 201)).encode(), "malformed"),
    ],
    ids=range(14),
)
def test_what_is_no_message_is_counted_and_nothing_else(bad: bytes, count: str) -> None:
    live = Live()
    assert Decoder("test", Limits(), live).frame(bad, 0) is None
    assert {name: n for name, n in live.counts.to_dict().items() if n} == {count: 1}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_at_all_do_harm(data: bytes) -> None:
    live = Live()
    assert Decoder("test", Limits(), live).frame(data, 0) is None
    assert live.counts.malformed == 1


def test_a_long_line_is_left_out_without_being_kept() -> None:
    live = Live()
    lines = Lines(Decoder("test", Limits(message_bytes=1000), live))
    for _ in range(5_000):
        assert lines.feed(b"x" * 20_000) == []  # 100 MB
        assert len(lines.held) <= 1000
    assert live.counts.oversized == 1
    assert lines.feed(b"tail\nnext\nha") == [b"next"]
    assert lines.feed(b"lf\n") == [b"half"]


@given(st.lists(st.integers(1, 40), max_size=30))
def test_lines_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    text = b"\n".join(b"line %d" % i for i in range(50)) + b"\n\n"
    lines, found, at = Lines(Decoder("test", Limits(), Live())), [], 0
    for cut in [*cuts, len(text)]:
        found += lines.feed(text[at : at + cut])
        at += cut
    assert found == text.split()[0:0] + [b"line %d" % i for i in range(50)]


def test_a_flood_is_held_to_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("edgelift.runtime.sources.messages.time.monotonic", lambda: now)
    live = Live()
    decoder = Decoder("test", Limits(rate=100), live)
    for i in range(1000):  # 1,000 a second
        now = i / 1000
        decoder.frame(line(i), 0)
    assert live.counts.frames == pytest.approx(200, abs=2)  # a burst of 100, then 100 a second
    assert live.counts.frames + live.counts.flooded == 1000


def test_kinds_of_complaints_that_others_name_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    live = Live()
    for i in range(1000):
        live.complaints.add(f"stream {i}: clock", "back")
    live.complaints.report(now=True)
    assert len(caplog.records) == 33
    assert caplog.records[-1].getMessage() == "of other kinds: back (968 times)"


def test_complaints_are_told_once_a_second(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("edgelift.runtime.counts.time.monotonic", lambda: now)
    live = Live()
    for i in range(2500):
        now = i / 1000
        live.complaints.add("test: malformed message", f"number {i}")
        live.complaints.report()
    assert [r.getMessage() for r in caplog.records] == [
        "test: malformed message: number 0",
        "test: malformed message: number 1000 (1000 times)",
        "test: malformed message: number 2000 (1000 times)",
    ]
