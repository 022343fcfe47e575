"""A live loop for half an hour at its pace, then a million frames as fast as they go: nothing lost, nothing grown.

python benchmarks/live/soak.py --bundle BUNDLE --data ../shared/data -o benchmarks/results   # 30 minutes and a million

Paced: four cameras at 120 Hz each, one person, UDP in and UDP out, one `edgelift lift --every`. Fast: the same over
TCP, as fast as the loop reads. Every frame that was sent has to come out once, in its stream's order. Memory is that of
the loop's process, every five seconds; its slope is fitted after the first minute (of a short run: after the first
quarter), with its standard error. Latency: message sent to message received, both stamped here. Progress once a minute.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detected import Stamped, filmed, message, rig_of
from loops import HOST, SOON_S, Loop, free_port, machine, percentiles, table, udp_receiver, until_answered, write
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera
from edgelift.poses.rigs import read_rig

HERTZ, FILMED = 120.0, 1200
SAMPLE_S, TELL_S, WARM_UP_S = 5.0, 60.0, 60.0
MOST_MIB_PER_HOUR = 4.0  # of memory: more is a leak
MIDDLE = 30_000  # a frame whose number is known


@dataclass
class Seen:
    """What came out. last: number of each stream's latest frame; took_us: by the minute in which it was sent."""

    frames: int = 0
    twice_or_late: int = 0
    skipped: int = 0
    last: dict[str, int] = field(default_factory=dict)
    minutes: dict[int, list[float]] = field(default_factory=dict)

    def note(self, told: dict[str, Any], now_ns: int, begun_ns: int) -> None:
        """Count one pose."""
        stream, seq, last = told["stream"], told["seq"], self.last.get(told["stream"], -1)
        self.frames += 1
        if seq <= last:
            self.twice_or_late += 1
            return
        self.skipped += seq - last - 1
        self.last[stream] = seq
        self.minutes.setdefault((told["t_ns"] - begun_ns) // 60_000_000_000, []).append((now_ns - told["t_ns"]) / 1000)


@dataclass(eq=False)
class Memory(threading.Thread):
    """Samples a process's memory until it is stopped."""

    loop: Loop
    samples: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()

    def run(self) -> None:
        begun = time.monotonic()
        while self.loop.alive:
            self.samples.append((time.monotonic() - begun, self.loop.rss_mib()))
            if self.stopping.wait(SAMPLE_S):
                return

    def figures(self) -> dict[str, Any]:
        """MiB at the end, and the slope of a straight line in MiB/hour with its standard error."""
        seconds, mib = np.array(self.samples).T
        rest = seconds >= min(WARM_UP_S, seconds[-1] / 4)
        slope, error = line(seconds[rest] / 3600, mib[rest])
        told = {"first_mib": mib[0], "last_mib": mib[-1], "largest_mib": mib.max()}
        told |= {"slope_mib_per_hour": slope, "standard_error": error}
        known = {k: round(float(v), 2) if np.isfinite(v) else None for k, v in told.items()}
        return known | {"samples": len(self.samples)}


def grows(memory: dict[str, Any]) -> bool:
    """Whether a process surely gains more than MOST_MIB_PER_HOUR."""
    slope, error = memory["slope_mib_per_hour"], memory["standard_error"]
    return slope is not None and slope - 2 * error > MOST_MIB_PER_HOUR


def line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of the line through points by least squares, and its standard error; NaN for fewer than three."""
    if len(x) < 3:
        return float("nan"), float("nan")
    (slope, height), apart = np.polyfit(x, y, 1), x - x.mean()
    residual = y - slope * x - height
    return float(slope), float(np.sqrt((residual**2).sum() / (len(x) - 2) / (apart**2).sum()))


def stamped(data: Path, rig: tuple[Camera, ...]) -> list[list[Stamped]]:
    """For each camera FILMED messages whose numbers are still to be put in."""
    people = filmed(data, rig, 1, FILMED, HERTZ)
    return [
        [Stamped.of(message(camera.name, MIDDLE, 0, frame, camera.size)) for frame in view]
        for camera, view in zip(rig, people, strict=True)
    ]


def numbered(one: Stamped, seq: int, t_ns: int) -> bytes:
    """A message with its number and its time."""
    return one.before.replace(b'"seq":30000', b'"seq":%d' % seq, 1) + str(t_ns).encode() + one.after


def lines_of(peer: socket.socket) -> Iterator[bytes]:
    """Lines that come in on a connection, until it ends or is silent for long."""
    held = b""
    while data := peer.recv(1 << 16):
        *whole, held = (held + data).split(b"\n")
        yield from whole


def paced(bundle: Path, data: Path, minutes: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Four cameras at HERTZ each over UDP."""
    rig, port = tuple(read_rig(rig_of(data), None)), free_port(socket.SOCK_DGRAM)
    views, count = stamped(data, rig), round(minutes * 60 * HERTZ)
    receiver, back = udp_receiver(1 << 24)
    seen, ended = Seen(), threading.Event()
    source, sink = f"udp://{HOST}:{port}", f"udp://{HOST}:{back}"
    arguments = ("--source", source, "--cameras", rig_of(data), "--sink", sink, "--every")
    with receiver, socket.socket(type=socket.SOCK_DGRAM) as sender, Loop(bundle, *arguments) as loop:
        wake(sender, receiver, views, port)
        begun = time.perf_counter_ns()
        reading = threading.Thread(target=read_datagrams, args=(receiver, seen, begun, ended))
        memory = Memory(loop)
        reading.start()
        memory.start()
        latest_ns = 0
        for seq in range(count):
            for k, view in enumerate(views):
                due = begun + round((seq + k / len(views)) * 1e9 / HERTZ)
                time.sleep(max(0, due - time.perf_counter_ns()) / 1e9)
                latest_ns = max(latest_ns, time.perf_counter_ns() - due)
                sender.sendto(numbered(view[seq % FILMED], seq, time.perf_counter_ns()), (HOST, port))
            if seq % round(TELL_S * HERTZ) == 0 and seq:
                minute = seq / HERTZ / 60
                tell(f"{minute:.0f} min: {seen.frames} out, {seen.skipped} skipped, {memory.samples[-1][1]:.1f} MiB")
        took_s = (time.perf_counter_ns() - begun) / 1e9
        time.sleep(1.0)
        ended.set()
        reading.join()
        memory.stopping.set()
        memory.join()
        loop.end()
    first, last = min(seen.minutes), max(seen.minutes)
    latencies = {f"minute {m + 1}, us": percentiles(seen.minutes[m]) for m in (first, last)}
    everything = percentiles(np.concatenate([np.array(part) for part in seen.minutes.values()]))
    told = {
        "hertz": HERTZ,
        "cameras": len(rig),
        "minutes": minutes,
        "frames_sent_per_second": round(count * len(rig) / took_s, 2),
        "latest_sent_ms": round(latest_ns / 1e6, 1),
        "all, us": everything,
        **latencies,
    }
    return told | balance(count * len(rig), seen, loop, memory)


def wake(sender: socket.socket, receiver: socket.socket, views: list[list[Stamped]], port: int) -> None:
    """Wait until the loop is up; its count begins anew then, because the clock of these frames lies far behind."""

    def receive(seconds: float) -> bytes | None:
        receiver.settimeout(seconds)
        try:
            return receiver.recv(1 << 16)
        except TimeoutError:
            return None

    for number, view in enumerate(views):
        first = numbered(view[0], 0, number + 1)
        until_answered(partial(sender.sendto, first, (HOST, port)), receive)
    while receive(0.5) is not None:
        pass


def read_datagrams(receiver: socket.socket, seen: Seen, begun_ns: int, ended: threading.Event) -> None:
    receiver.settimeout(0.2)
    while not ended.is_set():
        try:
            came = receiver.recv(1 << 16)
        except TimeoutError:
            continue
        now = time.perf_counter_ns()
        seen.note(json.loads(came), now, begun_ns)


def balance(sent: int, seen: Seen, loop: Loop, memory: Memory) -> dict[str, Any]:
    """What went in and what came out, and the loop's own last words."""
    lost = sent - (seen.frames - seen.twice_or_late)
    told = {
        "sent": sent,
        "out": seen.frames,
        "lost": lost,
        "twice_or_late": seen.twice_or_late,
        "skipped": seen.skipped,
    }
    return told | {"memory": memory.figures(), "exit_code": loop.code, "last_words": loop.told}


def fast(bundle: Path, data: Path, frames: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """As many frames as asked for over TCP, as fast as the loop takes them."""
    rig, port, back = tuple(read_rig(rig_of(data), None)), free_port(), free_port()
    views, seen = stamped(data, rig), Seen()
    source, sink = f"tcp-listen://{HOST}:{port}", f"tcp://{HOST}:{back}"
    arguments = ("--source", source, "--cameras", rig_of(data), "--sink", sink, "--every", "--max-rate", "0")
    with socket.create_server((HOST, back)) as server, Loop(bundle, *arguments) as loop:
        with closing(called(port)) as sender:
            reader = introduced(sender, server, views)
            begun = time.perf_counter_ns()
            memory = Memory(loop)
            reading = threading.Thread(target=read_lines, args=(reader, seen, frames, begun, tell, memory))
            memory.start()
            reading.start()
            for number in range(frames):
                seq, k = divmod(number, len(views))
                sender.sendall(numbered(views[k][seq % FILMED], seq, time.perf_counter_ns()) + b"\n")
            reading.join()
            seconds = (time.perf_counter_ns() - begun) / 1e9
        memory.stopping.set()
        memory.join()
        loop.end()
        reader.close()
    told = {"seconds": round(seconds, 1), "frames_per_second": round(seen.frames / seconds, 1)}
    return told | balance(frames, seen, loop, memory)


def called(port: int) -> socket.socket:
    """Connect to the loop as soon as it listens."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            return socket.create_connection((HOST, port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def introduced(sender: socket.socket, server: socket.socket, views: list[list[Stamped]]) -> socket.socket:
    """Return the loop's connection to the sink, once poses come over it: the loop calls when it has one to send."""
    reader: socket.socket | None = None
    server.settimeout(0.05)
    for t_ns in range(1, 1000):
        sender.sendall(numbered(views[0][0], t_ns, t_ns) + b"\n")
        try:
            if reader is None:
                reader, _ = server.accept()
                reader.settimeout(0.05)
            elif reader.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue
    if reader is None:
        raise TimeoutError("the loop does not call")
    sender.sendall(numbered(views[0][0], MIDDLE, 1000) + b"\n")
    reader.settimeout(SOON_S)
    next(told for told in map(json.loads, lines_of(reader)) if told["seq"] == MIDDLE)
    return reader


def read_lines(
    reader: socket.socket, seen: Seen, frames: int, begun_ns: int, tell: Callable[[str], None], memory: Memory
) -> None:
    told_s = time.monotonic()
    try:
        for came in lines_of(reader):
            seen.note(json.loads(came), time.perf_counter_ns(), begun_ns)
            if seen.frames == frames:
                return
            if time.monotonic() - told_s > TELL_S:
                told_s = time.monotonic()
                tell(f"{seen.frames} of {frames} out, {seen.skipped} skipped, {memory.samples[-1][1]:.1f} MiB")
    except TimeoutError:
        return


def show(part: str, row: dict[str, Any]) -> None:
    print(f"\n{part}", flush=True)
    table(("", ""), [(name, value) for name, value in row.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()

    def tell(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    result: dict[str, Any] = {"machine": machine(), "bundle": options.bundle.name}
    for part, run, size in (("paced", paced, options.minutes), ("fast", fast, options.frames)):
        if size:
            result[part] = run(options.bundle, options.data, size, tell)
            show(part, result[part])
    write(result, "soak", options.output)
    parts = [result[part] for part in ("paced", "fast") if part in result]
    bad = [part["lost"] or part["twice_or_late"] or part["exit_code"] or grows(part["memory"]) for part in parts]
    raise SystemExit(any(bad))


if __name__ == "__main__":
    main()
