"""Ways to harm a live loop over loopback: each is a generator that harms it once each time it is resumed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq
from loops import HOST, SOON_S
from scene import Good, Moments, Scene

FILE_LIMIT = 20_000  # bytes: the loop's disk is full then


def connect(port: int) -> socket.socket:
    """Connect to the loop, which may be about to listen."""
    return socket.create_connection((HOST, port), timeout=SOON_S)


def reset(peer: socket.socket) -> None:
    """Close so that the other side sees a reset, not an end."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@contextmanager
def datagrams(scene: Scene) -> Iterator[Callable[[bytes], object]]:
    """Sends to the loop's second source."""
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        yield lambda data: sender.sendto(data, (HOST, scene.port))


# messages


def random_bytes(scene: Scene) -> Iterator[None]:
    with datagrams(scene) as send:
        while True:
            send(scene.rng.bytes(int(scene.rng.integers(0, 1400))))
            yield


def cut_short(scene: Scene) -> Iterator[None]:
    whole = scene.other.data(1, 1)
    with datagrams(scene) as send:
        while True:
            send(whole[: scene.rng.integers(1, len(whole) - 1)])
            yield


def wrong_types(scene: Scene) -> Iterator[None]:
    told = json.loads(scene.other.data(1, 1))
    wrong = list(_wrong(told))
    with datagrams(scene) as send:
        while True:
            for text in wrong:
                send(text)
                yield


def _wrong(told: dict[str, Any]) -> Iterator[bytes]:
    """One message for each thing that may be wrong with it."""
    values: dict[str, Sequence[Any]] = {
        "v": (2, "1", None, True), "type": ("pose3d", 1, None), "stream": (3, "", None, ["a"], "a\nb"),
        "seq": (-1, 1.5, "1", None, True, 2**64), "t_ns": (1.5, "1", None, 2**64, -(2**63) - 1),
        "clock": ("sundial", 1, None), "size": ("big", [1], [0, 0], [1.5, 2], [-1, 4], 7),
        "skeleton": ("octopus", 17, None), "persons": ({}, None, "none", 3, [1], [{}], [None], [{"kpts": 3}]),
    }  # fmt: skip
    for key, wrong in values.items():
        yield from (json.dumps(told | {key: value}).encode() for value in wrong)
    kpts = told["persons"][0]["kpts"]
    rows: list[Any] = [[1, 2], [1, 2, 3, 4], "joint", {}, [1, 2, "sure"], [True, 1, 1], [1, 2, 7], [1, [2], 1]]
    for row in (*rows, [10**400, 1, 1]):
        yield json.dumps(told | {"persons": [{"kpts": [row, *kpts[1:]]}]}).encode()
    for people in ([{"kpts": kpts[1:]}], [{"id": 1, "kpts": kpts}] * 2, [{"id": "a", "kpts": kpts}]):
        yield json.dumps(told | {"persons": people}).encode()
    yield b'{"persons":' + b"[" * 5000
    yield b"[]"
    yield b"null"


def odd_numbers(scene: Scene) -> Iterator[None]:
    """NaN, infinities and huge numbers where coordinates are; what is lifted of it has to be finite."""
    odd = (float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e300, 1e20, -1e9, 1e-300, 0)
    told = json.loads(scene.other.data(1, 1))
    with datagrams(scene) as send:
        for seq in range(1, 1 << 40):
            kpts = [list(row) for row in told["persons"][0]["kpts"]]
            for joint in scene.rng.choice(17, int(scene.rng.integers(1, 18)), replace=False):
                kpts[joint][int(scene.rng.integers(2))] = odd[scene.rng.integers(len(odd))]
            send(json.dumps(told | {"seq": seq, "t_ns": time.perf_counter_ns(), "persons": [{"kpts": kpts}]}).encode())
            yield


def crowd(scene: Scene) -> Iterator[None]:
    """10,000 people in a line of JSON."""
    told = json.loads(scene.other.data(1, 1))
    told["persons"] = [{"kpts": [[1, 2, 1]] * 17}] * 10_000
    line = json.dumps(told, separators=(",", ":")).encode() + b"\n"
    scene.facts["message_mb"] = round(len(line) / 1e6, 1)
    with connect(scene.port) as peer:
        while True:
            peer.sendall(line)
            yield


def giant(scene: Scene) -> Iterator[None]:
    """A line of 100 MB."""
    line = b"[" + b"1," * 50_000_000 + b"1]\n"
    with connect(scene.port) as peer:
        while True:
            peer.sendall(line)
            yield


def strangers(scene: Scene) -> Iterator[None]:
    """Stream names that nobody knows, each a new one."""
    whole = scene.other.data(1, 1)
    name = f'"{scene.other.camera.name}"'.encode()
    with datagrams(scene) as send:
        for number in range(1 << 40):
            send(whole.replace(name, b'"nobody_%d"' % number, 1))
            if number % 50 == 49:
                scene.good.one()  # or datagrams would be lost on the way
            yield


def wrong_clock(scene: Scene) -> Iterator[None]:
    """Times in milliseconds where nanoseconds are expected: a window that is never over."""
    with datagrams(scene) as send:
        for seq in range(1, 1 << 40):
            send(scene.other.data(seq, seq * 17))
            yield


def other_people(scene: Scene) -> Iterator[None]:
    """32 people in every frame, none of whom was there before."""
    told = json.loads(scene.other.data(1, 1))
    with datagrams(scene) as send:
        for seq in range(1, 1 << 40):
            places = scene.rng.uniform(0, 1000, (32, 17, 3)).round(1)
            places[..., 2] = 0.9
            people = [{"kpts": person} for person in places.tolist()]
            send(json.dumps(told | {"seq": seq, "t_ns": time.perf_counter_ns(), "persons": people}).encode())
            yield


# time and order


def clock_back(scene: Scene) -> Iterator[None]:
    """The good camera's clock jumps back by 2 to 1,000 s; its frames go on from there."""
    t_ns = 10**18
    while True:
        for _ in range(2):
            t_ns += 16_666_667
            scene.good.one(t_ns)
        t_ns -= int(scene.rng.uniform(2, 1000) * 1e9)
        scene.good.one(t_ns)
        yield


def twice_and_late(scene: Scene) -> Iterator[None]:
    """The good camera's last two frames come again, the older one last."""
    scene.good.one(t_ns=10**9)
    while True:
        number = scene.good.sent + 1
        scene.good.one(t_ns=10**9 + number * 16_666_667)
        for seq in (number, number - 1):
            scene.good.send(seq, 10**9 + seq * 16_666_667)
        yield


def partner_comes_and_goes(scene: Scene) -> Iterator[None]:
    """The second camera is absent from every other moment."""
    assert isinstance(scene.good, Moments)
    partner = scene.good.partner
    while True:
        scene.good.partner = None if scene.good.partner else partner
        yield


def clock_astray(scene: Scene) -> Iterator[None]:
    """A third camera whose clock is up to an hour off, every time another."""
    with datagrams(scene) as send:
        for seq in range(1, 1 << 40):
            send(scene.other.data(seq, time.perf_counter_ns() + int(scene.rng.uniform(-3600, 3600) * 1e9)))
            yield


def flood(scene: Scene) -> Iterator[None]:
    """Frames at ten times the rate that is allowed (100/s)."""
    began = time.perf_counter()
    with datagrams(scene) as send:
        for seq in range(1, 1 << 40):
            send(scene.other.data(seq, time.perf_counter_ns()))
            if seq % 20 == 0:  # within the rate: each source has its own
                scene.good.one()
            time.sleep(max(0.0, began + seq / 1000 - time.perf_counter()))
            yield


# peers


def caller_vanishes(scene: Scene) -> Iterator[None]:
    """Whoever connected to the loop is gone in the middle of a line: with an end, then with a reset."""
    number = 0
    while True:
        peer = connect(scene.port)
        peer.sendall(b'{"half": ')
        number += 1
        reset(peer) if number % 2 else peer.close()
        yield


def server_vanishes(scene: Scene) -> Iterator[None]:
    """Whom the loop calls takes the call, sends a frame, and is gone in the middle of the next."""
    with socket.create_server((HOST, scene.port)) as server:
        server.settimeout(SOON_S)
        for seq in range(1, 1 << 40):
            peer, _ = server.accept()
            peer.sendall(scene.other.data(seq, time.perf_counter_ns()) + b'\n{"half": ')
            scene.good.one()
            reset(peer) if seq % 2 else peer.close()
            yield


def publisher_vanishes(scene: Scene) -> Iterator[None]:
    """A ZeroMQ publisher that is closed and opened anew; it comes back when frames of it come out again."""
    came = 0
    for round_ in range(1 << 40):
        publisher: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        with publisher:
            _bind(publisher, scene.port)
            deadline = time.monotonic() + SOON_S
            while time.monotonic() < deadline and not came > round_:
                publisher.send(scene.other.data(round_, time.perf_counter_ns()))
                came += _heard(scene.good, scene.other.camera.name, 0.02, round_)
            publisher.close(linger=0)
        scene.facts["came_back"] = came
        yield


def _bind(publisher: zmq.Socket[bytes], port: int) -> None:
    """Bind to a port that the publisher before may not have left yet: ZeroMQ closes on a thread of its own."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            publisher.bind(f"tcp://{HOST}:{port}")
            return
        except zmq.ZMQError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _heard(good: Good, stream: str, seconds: float, seq: int) -> bool:
    """Whether a pose of a stream's frame came."""
    came = good.receive(seconds)
    told = json.loads(came) if came else {}
    return told.get("stream") == stream and told["seq"] == seq


def websocket_server_vanishes(scene: Scene) -> Iterator[None]:
    """A WebSocket server that sends a frame and is gone."""
    from websockets.sync.server import ServerConnection, serve

    came = 0
    for seq in range(1, 1 << 40):

        def handle(client: ServerConnection, seq: int = seq) -> None:
            client.send(scene.other.data(seq, time.perf_counter_ns()))
            with suppress(Exception):
                client.recv()

        with serve(handle, HOST, scene.port) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            deadline = time.monotonic() + SOON_S
            while time.monotonic() < deadline and came != seq:
                came += _heard(scene.good, scene.other.camera.name, 0.1, seq)
            server.shutdown()
            thread.join()
        scene.facts["came_back"] = came
        yield


# sinks


def full_disk() -> None:
    """Let the process write FILE_LIMIT bytes to a file, no more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


def nothing(scene: Scene) -> Iterator[None]:
    """The fault lies in the loop's surroundings; good frames alone are sent."""
    while True:
        yield


def written_until_full(scene: Scene) -> Iterator[None]:
    """The disk is full; what was written is whole lines, and is there at the end."""
    try:
        while True:
            yield
    finally:
        scene.loop.end()
        lines = (scene.folder / "poses.jsonl").read_bytes().split(b"\n")
        whole = [json.loads(line) for line in lines[:-1]]
        scene.facts["lines_written"] = len(whole)
        lost = scene.loop.told["sink_lost"]
        scene.facts["checks"] = {"file is whole": lines[-1] == b"" and len(whole) + lost == scene.loop.told["lifted"]}


def reader_of_tcp(scene: Scene) -> Iterator[None]:
    """A reader that connects and does not read."""
    with connect(scene.port) as peer:
        yield from _until_lost(scene)
        peer.close()


def reader_of_websocket(scene: Scene) -> Iterator[None]:
    """A page that connects and does not read."""
    with connect(scene.port) as peer:
        peer.sendall(
            f"GET / HTTP/1.1\r\nHost: {HOST}:{scene.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        peer.recv(4096)
        yield from _until_lost(scene)


def _until_lost(scene: Scene) -> Iterator[None]:
    """Fill what the kernel and the loop hold for a reader (10 MB at most) first: from then on each frame is lost."""
    while scene.good.sent * scene.facts.setdefault("bytes_a_frame", _size(scene)) < 10_000_000:
        scene.good.one()
    while True:
        yield


def _size(scene: Scene) -> int:
    scene.good.one()
    return len(json.dumps(scene.good.last, separators=(",", ":")))


def sink_peer_vanishes(scene: Scene) -> Iterator[None]:
    """Whoever reads the loop's poses over TCP, called by the loop, is gone again and again."""
    with socket.create_server((HOST, scene.port)) as server:
        server.settimeout(0.005)
        while True:
            peer = None
            while peer is None:
                scene.good.one()  # it is called again when there is something to send
                with suppress(TimeoutError):
                    peer, _ = server.accept()
            peer.settimeout(0.005)
            came = b""
            while not came:
                scene.good.one()
                with suppress(TimeoutError):
                    came = peer.recv(1)
            reset(peer)
            yield


# registry


def registry(bundle: Path, folder: Path) -> str:
    """A registry of two good bundles, and several that are not."""
    home = folder / "registry"
    for name in ("v0001", "v0002", "no_graph", "cut_graph", "no_manifest", "mad_manifest"):
        shutil.copytree(bundle, home / name, ignore=shutil.ignore_patterns("engines", "graphs"))
    (home / "no_graph" / "lifter.onnx").unlink()
    whole = (home / "cut_graph" / "lifter.onnx").read_bytes()
    (home / "cut_graph" / "lifter.onnx").write_bytes(whole[: len(whole) // 2])
    (home / "no_manifest" / "manifest.json").unlink()
    (home / "mad_manifest" / "manifest.json").write_text('{"schema_version": [')
    publish(home, "v0001")
    return str(home)


def publish(home: Path, name: str) -> None:
    """Name the current bundle, at one blow."""
    (home / ".current").write_text(f"{name}\n")
    os.replace(home / ".current", home / "current")


def good_swaps(scene: Scene) -> Iterator[None]:
    """Frames at 60 Hz go on while one good bundle follows the other; every message tells which one lifted."""
    home, names = scene.folder / "registry", ("v0002", "v0001")
    for number in range(1 << 40):
        publish(home, names[number % 2])
        deadline = time.monotonic() + SOON_S
        while scene.good.last.get("lifter") != names[number % 2] and time.monotonic() < deadline:
            _one_at_60_hertz(scene)
        yield


def bad_swaps(scene: Scene) -> Iterator[None]:
    """`current` names what is broken, what is not there, or nothing; each time until it was looked at."""
    home = scene.folder / "registry"
    bad = ("no_graph", "cut_graph", "no_manifest", "mad_manifest", "not_there", "", "../v0002", "v0002/.", "\x00")
    for number in range(1 << 40):
        publish(home, bad[number % len(bad)])
        until = time.monotonic() + 0.6  # the registry is looked at every 0.5 s
        while time.monotonic() < until:
            _one_at_60_hertz(scene)
        scene.facts["lifters"] = sorted({*scene.facts.get("lifters", ()), scene.good.last["lifter"]})
        yield


def _one_at_60_hertz(scene: Scene) -> None:
    due = time.perf_counter() + 1 / 60
    scene.good.one()
    time.sleep(max(0.0, due - time.perf_counter()))
