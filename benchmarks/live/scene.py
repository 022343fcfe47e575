"""A loop that is to be harmed, and the good frames that go on meanwhile, each of which has to come out."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detected import Stamped, filmed, message, rig_of
from loops import HOST, SOON_S, Loop, free_port, until_answered

from edgelift.poses.cameras import Camera
from edgelift.poses.rigs import read_rig

FRAMES = 600
DATAGRAM = 1 << 16
MOST_MIB = 30.0  # memory gained: more is a leak


@dataclass(eq=False)
class Good:
    """Good frames of one camera over UDP, one at a time. counted: how often each one sent came out."""

    camera: Camera
    frames: list[Stamped]
    port: int = field(default_factory=lambda: free_port(socket.SOCK_DGRAM))
    sent: int = 0
    back: int = 0
    twice: int = 0
    took_ms: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sender = socket.socket(type=socket.SOCK_DGRAM)
        self.receiver = socket.socket(type=socket.SOCK_DGRAM)
        self.receiver.bind((HOST, 0))

    @classmethod
    def of(cls, camera: Camera, people: Any) -> Good:
        """Of filmed people (frames, n, 17, 3)."""
        return cls(camera, [Stamped.of(message(camera.name, 0, 0, frame, camera.size)) for frame in people])

    @property
    def slower(self) -> float:
        """How many times as long the last tenth of the frames took as the first: medians."""
        part = max(1, len(self.took_ms) // 10)
        return float(np.median(self.took_ms[-part:]) / np.median(self.took_ms[:part])) if self.took_ms else 0.0

    @property
    def source(self) -> str:
        """Where the loop gets them."""
        return f"udp://{HOST}:{self.port}"

    @property
    def sink(self) -> str:
        """Where the loop sends poses."""
        return f"udp://{HOST}:{self.receiver.getsockname()[1]}"

    def data(self, seq: int, t_ns: int) -> bytes:
        """A good frame with any number and time."""
        stamped = self.frames[seq % len(self.frames)]
        before = stamped.before.replace(b'"seq":0', b'"seq":%d' % seq, 1)
        return before + str(t_ns).encode() + stamped.after

    def send(self, seq: int, t_ns: int) -> None:
        """Send one without waiting for it."""
        self.sender.sendto(self.data(seq, t_ns), (HOST, self.port))

    def receive(self, seconds: float) -> bytes | None:
        """What the loop says next, within so many seconds."""
        self.receiver.settimeout(seconds)
        try:
            return self.receiver.recv(DATAGRAM)
        except TimeoutError:
            return None

    def wake(self) -> None:
        """Wait until the loop is up; what it was sent meanwhile does not count."""
        until_answered(lambda: self.send(0, time.perf_counter_ns()), self.receive)
        while self.receive(0.3) is not None:
            pass

    def one(self, t_ns: int | None = None) -> None:
        """Send the next frame and wait for its pose; poses of other streams are passed over."""
        self.sent += 1
        started = time.perf_counter_ns()
        self.send(self.sent, started if t_ns is None else t_ns)
        while (came := self.receive(SOON_S)) is not None:
            told = json.loads(came)
            number = self.number_of(told)
            if number is None:
                continue
            if number == self.sent:
                self.back += 1
                self.last = told
                self.took_ms.append((time.perf_counter_ns() - started) / 1e6)
                return
            self.twice += 1  # of an earlier frame, which had come out already

    def number_of(self, told: dict[str, Any]) -> int | None:
        """Which of the frames that were sent a pose is of; None for another camera's."""
        return int(told["seq"]) if told["stream"] == self.camera.name else None

    def close(self) -> None:
        """Count what still comes, and close."""
        while (came := self.receive(0.3)) is not None:
            self.twice += self.number_of(json.loads(came)) is not None
        self.sender.close()
        self.receiver.close()


@dataclass(eq=False)
class Moments(Good):
    """Good frames of two cameras of one moment, which has to come out fused. partner: the second one; None: absent."""

    partner: Good | None = None
    numbers: dict[int, int] = field(default_factory=dict)

    def send(self, seq: int, t_ns: int) -> None:
        """Send one of each camera."""
        self.numbers[t_ns] = seq
        super().send(seq, t_ns)
        if self.partner is not None:
            self.sender.sendto(self.partner.data(seq, t_ns), (HOST, self.port))

    def number_of(self, told: dict[str, Any]) -> int | None:
        """Fused frames have a count of their own, and the time of a moment."""
        return self.numbers.get(told["t_ns"])


@dataclass(eq=False)
class Scene:
    """What an injection may use: the loop, its second source, another camera's frames, a folder.

    port: of the second source, or of a sink that is to be harmed.
    """

    good: Good
    other: Good
    port: int
    folder: Path
    loop: Loop = field(init=False)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """A way to harm a loop.

    inject: harms it once each time it is resumed. arguments: of the loop, `{port}` and `{folder}` put in. counted: what
    the loop must have counted after so many times. share: of the times asked for, where one takes long. more: how often
    it happens each time. own: the injection sends the good frames itself. fuse: two good cameras become one stream, the
    other is a third one of their rig. slower: times as long as at first that good
    frames may take in the end. before: done in the loop's process.
    """

    name: str
    inject: Callable[[Scene], Iterator[None]]
    counted: Callable[[dict[str, int], int], bool]
    arguments: tuple[str, ...] = ()
    share: float = 1.0
    more: int = 1
    own: bool = False
    fuse: bool = False
    slower: float = 3.0
    prepare: Callable[[Path, Path], str] | None = None
    """Of a bundle and a folder: makes a registry there and returns its path."""
    before: Callable[[], None] | None = None


@contextmanager
def scene_of(fault: Fault, bundle: Path, data: Path) -> Iterator[Scene]:
    """A loop that runs, with its good frames; it is ended with the block."""
    rig = read_rig(rig_of(data), None)
    cameras = [Good.of(camera, people) for camera, people in zip(rig, filmed(data, rig, 1, FRAMES), strict=True)]
    good = cameras[0]
    if fault.fuse:
        good = Moments(good.camera, good.frames, partner=cameras[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = Scene(good, cameras[2 if fault.fuse else 1], free_port(), folder)
        where = [word.format(port=scene.port, folder=folder, host=HOST) for word in fault.arguments]
        lifter = bundle if fault.prepare is None else fault.prepare(bundle, folder)
        rig_flag = "--fuse" if fault.fuse else "--cameras"
        common = ("--source", scene.good.source, "--sink", scene.good.sink, rig_flag, rig_of(data), "--every")
        rate = () if "--max-rate" in where else ("--max-rate", "0")
        with Loop(Path(lifter), *common, *rate, *where, prepared=fault.before) as scene.loop:
            scene.good.wake()
            yield scene
            for camera in {scene.good, *cameras}:
                camera.close()


def harmed(fault: Fault, times: int, bundle: Path, data: Path) -> dict[str, Any]:
    """Inject a fault again and again, a good frame after each; what happened, as a row."""
    count = max(1, round(times * fault.share))
    with scene_of(fault, bundle, data) as scene:
        injection = fault.inject(scene)
        for number in range(count):
            if number == count // 10:  # two lifters may be there at once, buffers have their size
                before_mib = scene.loop.rss_mib()
            for _ in range(fault.more):
                next(injection)
            if not fault.own:
                scene.good.one()
        alive = scene.loop.alive
        grown_mib = scene.loop.rss_mib() - before_mib if alive else float("nan")
        injection.close()  # type: ignore[attr-defined] # they are generators
    return row_of(fault, count * fault.more, scene, alive, grown_mib)


def row_of(fault: Fault, count: int, scene: Scene, alive: bool, grown_mib: float) -> dict[str, Any]:
    told = scene.loop.told
    totals = {name: value for name, value in told.items() if isinstance(value, int)}
    out = sum(totals.get(name, 0) for name in ("lifted", "dropped", "stale", "unplaced", "failed"))
    good = scene.good
    checks = {
        "lived": alive and scene.loop.code == 0, "all good frames out, once": good.back == good.sent and not good.twice,
        "counted": bool(totals) and fault.counted(totals, count),
        "frames accounted for": fault.fuse or totals.get("frames") == out,  # a moment is a frame of several cameras
        "memory": grown_mib < MOST_MIB, "pace": good.slower < fault.slower, **scene.facts.pop("checks", {}),
    }  # fmt: skip
    return {
        "fault": fault.name, "times": count, "good_sent": good.sent, "good_out": good.back, "twice": good.twice,
        "longest_ms": round(max(good.took_ms, default=0), 1), "slower": round(good.slower, 2),
        "grown_mib": round(grown_mib, 1),
        "counts": {k: v for k, v in totals.items() if v}, "checks": checks, "ok": all(checks.values()), **scene.facts,
        "last_words": scene.loop.said.splitlines()[-1:] if all(checks.values()) else scene.loop.said.splitlines()[-12:],
    }  # fmt: skip
