"""What the live loop adds to the lifter: message in to message out, beside the bare backend on the same windows.

python benchmarks/live/overhead.py --bundle BUNDLE --data ../shared/data -o benchmarks/results

`edgelift lift` is a process of its own. Every 1/60 s one message goes to it over loopback, stamped just before it is
sent, and is stamped again when the pose is here (one clock serves all processes of a machine). In between, in the same
rhythm, the backend alone lifts the window of the same frame in this process, and a message goes to a process that
sends it back as it came: what the transport costs. A core that has idled for 16 ms is slower, and on a shared machine
its caches are somebody else's by then (`cache`: how many times as long it takes to read 200 KB again after 16 ms as at
once), so the backend is timed in the same rhythm. `back to back` is both without a pause.

Microseconds. `in the loop`: what the messages say, arrival to message. overhead: end to end minus backend, both p50.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq
from detected import COCO17, Packing, Stamped, filmed, message, rig_of
from loops import HOST, Loop, free_port, machine, percentiles, table, udp_receiver, until_answered, write
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import clean_keypoints
from edgelift.runtime.lifter import Lifter

Float32 = NDArray[np.float32]
Fed = tuple[Float32, Float32]  # windows and intrinsics
HERTZ, WARM_UP = 60.0, 120
TARGET_US = 150.0
ECHO = str(Path(__file__).with_name("echo.py"))


@dataclass(frozen=True)
class Line:
    """A way to another process and back."""

    packing: Packing
    send: Callable[[bytes], object]
    receive: Callable[[float], bytes | None]
    """Waits at most so many seconds."""


@contextmanager
def udp_line() -> Iterator[tuple[Line, str, str]]:
    """A line over UDP, and the source and the sink of the other side."""
    port = free_port(socket.SOCK_DGRAM)
    receiver, back = udp_receiver()
    with receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:

        def receive(seconds: float) -> bytes | None:
            receiver.settimeout(seconds)
            try:
                return receiver.recv(1 << 16)
            except TimeoutError:
                return None

        def send(data: bytes) -> None:
            sender.sendto(data, (HOST, port))

        yield Line("json", send, receive), f"udp://{HOST}:{port}", f"udp://{HOST}:{back}"


@contextmanager
def zmq_line() -> Iterator[tuple[Line, str, str]]:
    """A line over ZeroMQ, in MessagePack; this side binds."""
    sender: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    receiver: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    with sender, receiver:
        port, back = sender.bind_to_random_port(f"tcp://{HOST}"), receiver.bind_to_random_port(f"tcp://{HOST}")
        receiver.subscribe(b"")

        def receive(seconds: float) -> bytes | None:
            return receiver.recv_multipart()[-1] if receiver.poll(round(seconds * 1000)) else None

        yield Line("msgpack", sender.send, receive), f"zmq://{HOST}:{port}", f"zmq-connect://{HOST}:{back}"


LINES = {"udp": udp_line, "zmq": zmq_line}


@contextmanager
def echo(transport: str) -> Iterator[Line]:
    """A process that sends back what it is sent."""
    with LINES[transport]() as (line, source, sink):
        process = subprocess.Popen([sys.executable, ECHO, source, sink])
        try:
            yield line
        finally:
            process.terminate()
            process.wait()


@dataclass
class Case:
    """What was measured of one transport and number of people, in ns and (of the messages) in ms."""

    sent_ns: list[int] = field(default_factory=list)
    end_to_end: list[int] = field(default_factory=list)
    echo: list[int] = field(default_factory=list)
    paced: list[int] = field(default_factory=list)
    hot: list[int] = field(default_factory=list)
    hot_end_to_end: list[int] = field(default_factory=list)
    messages: list[dict[str, float]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Everything in microseconds."""
        spent = {
            "end to end": self.end_to_end, "echo": self.echo, "backend": self.paced,
            "back to back: end to end": self.hot_end_to_end, "back to back: backend": self.hot,
        }  # fmt: skip
        told: dict[str, Any] = {name: percentiles(np.array(ns) / 1000) for name, ns in spent.items()}
        for part in ("total", "wait", "prepare", "backend"):
            told[f"in the loop: {part}"] = percentiles([1000 * m[part] for m in self.messages])
        whole, bare = told["end to end"]["p50"], told["backend"]["p50"]
        hot_whole, hot_bare = told["back to back: end to end"]["p50"], told["back to back: backend"]["p50"]
        inside = told["in the loop: total"]["p50"] - told["in the loop: backend"]["p50"]
        return told | {
            "frames": len(self.end_to_end), "overhead": round(whole - bare, 1), "ratio": round(whole / bare, 2),
            "overhead without transport": round(whole - bare - told["echo"]["p50"], 1),
            "overhead in the loop": round(inside, 1),
            "overhead back to back": round(hot_whole - hot_bare, 1),
        }  # fmt: skip


def windows_of(lifter: Lifter, camera: Camera, frames: NDArray[np.float64], ids: bool) -> list[Fed]:
    """What the backend is fed, frame by frame: windows and intrinsics."""
    stream = lifter.stream(camera)
    fed = []
    for seq, people in enumerate(frames):
        numbers = tuple(range(len(people))) if ids else None
        prepared = stream.prepare(seq / HERTZ, clean_keypoints(people.astype(np.float32)), COCO17, numbers)
        fed.append((prepared.windows, np.repeat(stream.intrinsics, len(prepared.ids), axis=0)))
    return fed


def wake(line: Line, stamped: Stamped) -> None:
    """One frame again and again until it comes back; then let come whatever else there is."""
    until_answered(lambda: line.send(stamped.at(time.perf_counter_ns())), line.receive)
    while line.receive(0.3) is not None:
        pass


def call(lifter: Lifter, fed: Fed) -> int:
    started = time.perf_counter_ns()
    lifter.backend(*fed)
    return time.perf_counter_ns() - started


def there_and_back(line: Line, stamped: Stamped) -> tuple[int, bytes]:
    """How long a message takes, and what came back."""
    started = time.perf_counter_ns()
    line.send(stamped.at(started))
    came = line.receive(5.0)
    spent = time.perf_counter_ns() - started
    if came is None:
        raise TimeoutError("a message was lost on the way")
    return spent, came


def parsed(came: bytes, packing: Packing) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(came) if packing == "json" else msgpack.unpackb(came)
    return told


def sleep_until(due_ns: int) -> None:
    time.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)


def measured(line: Line, mirror: Line, lifter: Lifter, sent: list[Stamped], fed: list[Fed]) -> Case:
    """One message a period, the echo and the bare backend a third of a period later each; then all without a pause.

    The first WARM_UP do not count; as many as follow the paced ones are sent without a pause.
    """
    case, period = Case(), int(1e9 / HERTZ)
    paced = len(sent) - (len(sent) - WARM_UP) // 2
    begun = time.perf_counter_ns() + period
    for seq, stamped in enumerate(sent[:paced]):
        due = begun + seq * period
        sleep_until(due)
        spent, told = checked(line, stamped, seq, len(fed[seq][0]))
        sleep_until(due + period // 3)
        mirrored, _ = there_and_back(mirror, stamped)
        sleep_until(due + 2 * period // 3)
        bare = call(lifter, fed[seq])
        if seq >= WARM_UP:
            case.end_to_end.append(spent)
            case.echo.append(mirrored)
            case.paced.append(bare)
            case.messages.append(told["latency_ms"])
    for seq in range(paced, len(sent)):
        case.hot_end_to_end.append(checked(line, sent[seq], seq, len(fed[seq][0]))[0])
    case.hot = [call(lifter, window) for window in fed[paced:]]
    return case


def checked(line: Line, stamped: Stamped, seq: int, people: int) -> tuple[int, dict[str, Any]]:
    """How long a frame took, and its pose, which has to be that of this frame and of so many people."""
    spent, came = there_and_back(line, stamped)
    told = parsed(came, line.packing)
    if told["seq"] != seq + 1 or len(told["persons"]) != people:
        raise AssertionError(f"frame {seq + 1} came back as {told['seq']}, {len(told['persons'])} people")
    return spent, told


def run(bundle: Path, data: Path, transport: str, people: int, frames: int, ids: bool) -> dict[str, Any]:
    """One case: its figures."""
    rig = read_rig(rig_of(data), None)
    camera, seen = rig[0], filmed(data, rig, people, 1 + WARM_UP + 2 * frames)[0]
    with ExitStack() as stack:
        line, source, sink = stack.enter_context(LINES[transport]())
        mirror = stack.enter_context(echo(transport))
        lifter = stack.enter_context(Lifter(bundle))
        told = [message(camera.name, seq, 0, p, camera.size, ids) for seq, p in enumerate(seen)]
        sent = [Stamped.of(one, line.packing) for one in told]
        fed = windows_of(lifter, camera, seen, ids)
        loop = stack.enter_context(Loop(bundle, "--source", source, "--cameras", rig_of(data), "--sink", sink))
        for side in (line, mirror):
            wake(side, sent[0])
        case = measured(line, mirror, lifter, sent[1:], fed[1:])
        loop.end()
    lost = {name: loop.told[name] for name in ("dropped", "malformed", "failed", "swapped", "clock_resets")}
    facts = {"bundle": bundle.name, "transport": transport, "people": people, "ids": ids}
    return facts | case.figures() | {"counted": lost}


def cold_cache(rounds: int = 100) -> float:
    """How many times as long 200 KB take to be read again after a period as at once."""
    numbers, spent = np.zeros(25_000), {True: [0] * 0, False: [0] * 0}
    for pause in [True] * rounds + [False] * rounds:
        if pause:
            time.sleep(1 / HERTZ)
        started = time.perf_counter_ns()
        numbers.sum()
        spent[pause].append(time.perf_counter_ns() - started)
    return round(float(np.median(spent[True]) / np.median(spent[False])), 1)


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("p50", "p99", "p99_9", "max")
    for row in rows:
        who = f"{row['people']} {'person' if row['people'] == 1 else 'people'}{', with ids' if row['ids'] else ''}"
        print(f"\n{row['bundle']}, {row['transport']}, {who}, {row['frames']} frames; us")
        table(
            ("", *columns),
            [(k, *(v[c] for c in columns)) for k, v in row.items() if isinstance(v, dict) and "p50" in v],
        )
        print(
            f"overhead {row['overhead']} ({row['ratio']} times the backend), without transport "
            f"{row['overhead without transport']}, in the loop {row['overhead in the loop']}, "
            f"back to back {row['overhead back to back']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, action="append", help="repeatable")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--transport", choices=LINES, action="append", help="repeatable; both by default")
    parser.add_argument("--people", type=int, action="append", help="repeatable; 1 and 10 by default")
    parser.add_argument("--frames", type=int, default=3600, help="of a case; 60 a second")
    parser.add_argument("--ids", action="store_true", help="the detector tracks people; else the loop does")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for bundle in options.bundle:
        for people in options.people or (1, 10):
            for transport in options.transport or LINES:
                rows.append(run(bundle, options.data, transport, people, options.frames, options.ids))
                show(rows[-1:])
    single = [row for row in rows if row["people"] == 1]
    for row in single:
        verdict = f"target {TARGET_US} {'reached' if row['overhead'] <= TARGET_US else 'missed'}"
        print(f"{row['bundle']}, {row['transport']}, one person: overhead {row['overhead']} us, {verdict}")
    cache = cold_cache()
    print(f"cache: {cache} times as long after {1000 / HERTZ:.0f} ms")
    told = {"machine": machine(), "hertz": HERTZ, "target_us": TARGET_US, "cache": cache, "cases": rows}
    write(told, "overhead", options.output)


if __name__ == "__main__":
    main()
