"""The WebSocket sink and its server: who gets what, who is refused, and what a slow reader costs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.frames import Sink
from edgelift.runtime.sinks.websocket import WebSocketSink
from edgelift.runtime.view.server import MOST_UNSENT, PageServer

from .live import lifted, lifted_frames

websockets = pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402 - after the skip
from websockets.sync.client import ClientConnection, connect  # noqa: E402

ANY = "ws://127.0.0.1:0"


def address(server: PageServer) -> str:
    return server.url.replace("http://", "ws://")


@contextmanager
def watch(server: PageServer, url: str | None = None, **options: Any) -> Iterator[ClientConnection]:
    """Connect and wait until the server counts the client among those who watch."""
    before = server.watchers
    with connect(url or address(server), proxy=None, max_size=None, **options) as client:
        while server.watchers == before:  # the thread needs a moment after the handshake
            assert client.ping().wait(5)
        yield client


def get(server: PageServer, path: str, **headers: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()  # the connection is the answer's to close


def refused(server: PageServer, url: str | None = None, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as error:  # noqa: SIM117 - entering is what raises
        with connect(url or address(server), proxy=None, **options):
            pass
    status: int = error.value.response.status_code
    return status


def test_everybody_gets_every_message_as_it_is() -> None:
    frames = lifted_frames(20, ids=(0, 3), echo=True)
    with ExitStack() as stack:
        opened = stack.enter_context(WebSocketSink(ANY))
        sink: Sink = opened
        clients = [stack.enter_context(watch(opened)) for _ in range(3)]
        for frame in frames:
            sink.write(frame)
        for client in clients:
            assert [str(client.recv(5)) + "\n" for _ in frames] == [frame.json.decode() for frame in frames]
        assert sink.lost == 0


def test_frames_are_not_even_encoded_while_nobody_watches() -> None:
    frame = lifted()
    with WebSocketSink(ANY) as sink:
        sink.write(frame)
    assert "json" not in vars(frame)


def test_what_clients_send_is_taken_and_ignored_up_to_a_limit() -> None:
    with WebSocketSink(ANY) as sink, watch(sink) as client, watch(sink) as flood:
        for _ in range(2000):  # more than the library's queue and the kernel hold: pings still get through
            client.send('{"type": "stop"}' + " " * 1000)
        assert client.ping().wait(5)
        sink.write(lifted(7))
        assert json.loads(client.recv(5))["seq"] == 7
        flood.send("x" * 5000)
        flood.recv(5)  # the frame
        with pytest.raises(ConnectionClosed) as error:
            flood.recv(5)
        assert error.value.rcvd is not None
        assert error.value.rcvd.code == 1009


def test_a_slow_reader_misses_messages_and_nobody_waits_for_it() -> None:
    line = b'"' + b"x" * 100_000 + b'"\n'
    with PageServer("127.0.0.1", 0, None, "page") as server, watch(server) as fast:
        slow = socket.create_connection(("127.0.0.1", server.port))  # shakes hands and never reads again
        slow.sendall(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while server.watchers < 2:
            assert fast.ping().wait(5)
        for _ in range(300):  # 30 MB: more than kernels keep for a connection, and the limit
            server.publish(line)
            assert fast.recv(5) == line.decode().rstrip("\n")
        waiting = [client.transport.get_write_buffer_size() for client in server._clients]
        assert max(waiting) <= MOST_UNSENT + len(line) + 100
        assert 0 < server.lost < 300
        slow.close()


def test_the_token_is_asked_of_who_watches() -> None:
    with WebSocketSink(f"{ANY}?token=open%20sesame") as sink:
        bare = address(sink).partition("?")[0]
        assert sink.url.endswith("?token=open%20sesame")
        assert "sesame" not in sink.name
        for url in (bare, f"{bare}?token=", f"{bare}?token=wrong", f"{bare}?other=open%20sesame"):
            with connect(url, proxy=None) as client, pytest.raises(ConnectionClosed) as error:
                client.recv(5)
            assert error.value.rcvd is not None
            assert (error.value.rcvd.code, error.value.rcvd.reason) == (1008, "the token is missing or wrong")
        bearer = {"additional_headers": {"Authorization": "Bearer open sesame"}}
        with watch(sink) as by_query, watch(sink, bare, **bearer) as by_header:
            sink.write(lifted(5))
            assert json.loads(by_query.recv(5))["seq"] == json.loads(by_header.recv(5))["seq"] == 5
        assert get(sink, "/").status == 200, "the page holds no data"


def test_a_page_that_holds_data_asks_for_the_token_too() -> None:
    with PageServer("127.0.0.1", 0, "secret", "poses", guarded=True) as server:
        assert get(server, "/").status == 401
        assert get(server, "/?token=no").status == 401
        assert get(server, "/?token=secret").read() == b"poses"


def test_no_foreign_page_can_watch() -> None:
    with WebSocketSink(ANY) as sink:
        for origin in ("http://evil.example", "http://127.0.0.1:1", "null", f"http://localhost:{sink.port}"):
            assert refused(sink, origin=origin) == 403
        with watch(sink, origin=f"http://127.0.0.1:{sink.port}") as client:
            sink.write(lifted(1))
            assert json.loads(client.recv(5))["seq"] == 1


def test_no_foreign_name_can_be_pointed_at_the_server() -> None:
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    with WebSocketSink(ANY) as sink:
        assert get(sink, "/", Host="evil.example").status == 403
        assert get(sink, "/", Host=f"evil.example:{sink.port}").status == 403
        assert get(sink, "/", **rebound, Upgrade="websocket").status == 403
        assert get(sink, "/", Host=f"localhost:{sink.port}").status == 200
        assert get(sink, "/", Host="[::1]:80").status == 200
    with WebSocketSink(f"{ANY}?token=x") as sink:
        assert get(sink, "/", Host="poses.example").status == 200, "a proxy's name, and nothing without the token"


def test_the_page_is_served_beside_the_stream() -> None:
    with WebSocketSink(ANY) as sink:
        answer = get(sink, "/")
        assert answer.status == 200
        assert answer.headers.get_all("Content-Type") == ["text/html; charset=utf-8"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert b"<title>edgelift" in answer.read()
        assert get(sink, "/alive").read() == b"edgelift\n"
        assert get(sink, "/etc/passwd").status == 404


def test_closing_tells_watchers_and_frees_the_port() -> None:
    with ExitStack() as clients:
        with WebSocketSink(ANY) as sink:
            client = clients.enter_context(watch(sink))
            idle = socket.create_connection(("127.0.0.1", sink.port))  # as browsers open them, in advance
            sink.write(lifted(3))
        assert json.loads(client.recv(5))["seq"] == 3, "what was written before the end is sent"
        with pytest.raises(ConnectionClosed) as error:
            client.recv(5)
    assert error.value.rcvd is not None
    assert error.value.rcvd.code == 1001
    idle.close()
    with WebSocketSink(f"ws://127.0.0.1:{sink.port}") as again, watch(again):
        assert again.port == sink.port


@pytest.mark.parametrize(
    "target",
    ["ws://127.0.0.1", "http://127.0.0.1:80", "ws://127.0.0.1:80/path", "ws://:80?token=", "ws://:80?key=1"],
)
def test_what_is_no_target(target: str) -> None:
    with pytest.raises(EdgeliftError):
        WebSocketSink(target)


def test_a_port_in_use_is_said() -> None:
    with (
        WebSocketSink(ANY) as sink,
        pytest.raises(EdgeliftError, match=f"127.0.0.1:{sink.port}.*in use.*another port"),
        WebSocketSink(f"ws://127.0.0.1:{sink.port}"),
    ):
        pass


def test_a_host_of_another_machine_is_said() -> None:
    with pytest.raises(EdgeliftError, match="address of this machine"), WebSocketSink("ws://192.0.2.7:8765"):
        pass


def test_addresses_that_others_reach() -> None:
    with WebSocketSink("ws://0.0.0.0:0") as sink:
        assert urlsplit(sink.url).hostname not in (None, "0.0.0.0")
        with watch(sink, f"ws://127.0.0.1:{sink.port}") as client:
            sink.write(lifted())
            assert client.recv(5)


def test_the_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['websockets'] = None\n"
        "from edgelift.poses.errors import EdgeliftError\n"
        "from edgelift.runtime.sinks.websocket import WebSocketSink\n"
        "try:\n    WebSocketSink('ws://127.0.0.1:0').__enter__()\n"
        "except EdgeliftError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "edgelift[stream]" in done.stdout
