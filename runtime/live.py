"""The live loop: frames of one camera or many in, poses out; for hours."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import plain_name
from edgelift.poses.windows import MOST_HZ
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame, LiftedFrame, Seen
from edgelift.runtime.lifter import Lifter, People, PoseStream, Size, StreamSettings
from edgelift.runtime.sinks import Sinks
from edgelift.runtime.sources import Inbox
from edgelift.runtime.swap import Swapper

CODEC_BLOCK = 16  # pixels: images are padded to whole blocks
LATE_S = 1.0  # a frame older than the newest by less is late; by more, the stream's clock jumped back
MOST_STREAMS = 64  # remembered at once; beyond, the one heard of longest ago is forgotten
MOST_NAMES = 1000  # of streams lifted in all: files and readers keep each of them


class Pipeline(Protocol):
    """What turns frames into lifted frames. look_again_s: how soon it wants to be asked though nothing came."""

    look_again_s: float
    lifter: Lifter

    def feed(self, frames: Sequence[Frame]) -> Iterator[LiftedFrame]:
        """Take what has come; yield what is lifted."""

    def rest(self) -> Iterator[LiftedFrame]:
        """Yield what still waits for other frames, of which none will come."""

    def take_up(self, lifter: Lifter) -> None:
        """Go on with another lifter from the next frame on."""


def run(
    inbox: Inbox,
    pipeline: Pipeline,
    sinks: Sinks,
    live: Live,
    stopped: Callable[[], bool],
    swapper: Swapper | None = None,
) -> None:
    """Lift what comes until the sources end or it is stopped.

    One thread does it all: what waits, waits in the kernel, so nothing grows and nothing is handed over.
    """
    ended = False
    while not ended:
        frames = inbox.wait(pipeline.look_again_s)
        if swapper is not None:
            swapper.before_frames()
        ended = stopped() or inbox.ended
        for lifted in chain(pipeline.feed(frames), pipeline.rest() if ended else ()):
            sinks.write(lifted)
            live.counts.lifted += 1
            live.latency.add(lifted.latency_ms["total"])
            live.backend.add(lifted.latency_ms["backend"])
        if swapper is not None:
            swapper.after_frames()
        live.complaints.report()


@dataclass(frozen=True)
class Cameras:
    """Which camera took a stream: of a rig by name, always the same one, or what a recording says by itself.

    known: by plain stream name, (camera, image size). only: the camera of every stream, whatever it is called.
    """

    known: dict[str, tuple[Camera | None, Size | None]]
    only: Camera | None = None

    @classmethod
    def of_rig(cls, rig: Sequence[Camera]) -> Cameras:
        """Streams are called as the rig's cameras are, give or take case, `_`, `-` and a final `_json`."""
        return cls({plain_name(camera.name): (camera, camera.size) for camera in rig})

    def of(self, frame: Frame) -> tuple[Camera | None, Size | None]:
        """Return the camera and the image size of a frame, None each where nobody knows.

        EdgeliftError where the frame's image has another size than the camera's: its pixels are others, too.
        """
        camera, size = self.of_name(frame.stream)
        check_size(frame, size)
        return camera, size or frame.size

    def of_name(self, stream: str) -> tuple[Camera | None, Size | None]:
        """Return the camera and the image size of a stream, as far as the rig or the recording tells."""
        if self.only is not None:
            return self.only, self.only.size
        return self.known.get(plain_name(stream), (None, None))


def check_size(frame: Frame, size: Size | None) -> None:
    """EdgeliftError unless a frame's image has the size that its camera was calibrated with, where both are known.

    Give or take what codecs pad to whole blocks: 1080 rows are 1088 to some decoders, and it is the same image.
    """
    if size is None or frame.size is None or frame.size == size:
        return
    if any(abs(own - calibrated) >= CODEC_BLOCK for own, calibrated in zip(frame.size, size, strict=True)):
        raise EdgeliftError(
            f"stream {frame.stream}", "images of {} x {}".format(*frame.size), "{} x {}, the camera's".format(*size),
            "Detect in images as they were calibrated, or scale the intrinsics.",
        )  # fmt: skip


@dataclass(eq=False)
class _Heard:
    """A stream as it was heard of last; of its clock, how many frames came since a time on it."""

    seq: int
    t_ns: int
    size: Size | None
    at_s: float
    frames: int = 0
    since_ns: int = 0


class Order:
    """Whether a frame comes in its stream's order. Counts gaps, frames that are late or come twice, and clocks."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.heard: dict[str, _Heard] = {}

    def check(self, frame: Frame, name: str | None = None) -> str:
        """Return `goes_on`, `new` (first heard of, or begun anew) or `stale` (late, or a second time).

        name: of the stream, where it is known by another than it has in the frame.
        """
        name = name or frame.stream
        last = self.heard.get(name)
        said = "new" if last is None or last.size != frame.size else self._compare(last, frame)
        if last is None or said == "new":
            self.heard[name] = _Heard(frame.seq, frame.t_ns, frame.size, time.monotonic(), 0, frame.t_ns)
        elif said == "goes_on":
            last.seq, last.t_ns, last.at_s = frame.seq, frame.t_ns, time.monotonic()
            self._check_rate(last, frame.stream)
        return said

    def _compare(self, last: _Heard, frame: Frame) -> str:
        ahead = frame.t_ns - last.t_ns
        if ahead > 0:
            self.live.counts.missing += max(0, frame.seq - last.seq - 1)
            return "goes_on"
        if ahead == 0 and frame.seq > last.seq:
            self.live.complaints.add(f"stream {frame.stream}: clock", "stands still; a moment is lifted once")
        if ahead == 0 or (frame.seq <= last.seq and -ahead < LATE_S * 1e9):
            self.live.counts.stale += 1
            return "stale"
        self.live.counts.clock_resets += 1
        self.live.complaints.add(
            f"stream {frame.stream}: clock", f"back by {-ahead / 1e9:.3f} s; its past is forgotten"
        )
        return "new"

    def heard_at(self, stream: str) -> float:
        """When a stream was heard of last, on time.monotonic; before all others if it is not known any more."""
        heard = self.heard.get(stream)
        return -math.inf if heard is None else heard.at_s

    def _check_rate(self, heard: _Heard, stream: str) -> None:
        heard.frames += 1
        if heard.frames == MOST_HZ:
            if heard.t_ns - heard.since_ns < 1e9:
                told = f"{MOST_HZ} frames in {heard.t_ns - heard.since_ns} of t_ns, which counts nanoseconds"
                self.live.complaints.add(f"stream {stream}: clock", told)
            heard.frames, heard.since_ns = 0, heard.t_ns


class EachCamera:
    """Every stream is lifted by itself. Unless `every`, a frame is left out if a newer one of its stream is there."""

    look_again_s = 0.25

    def __init__(
        self, lifter: Lifter, cameras: Cameras, settings: StreamSettings, live: Live, every: bool, echo: bool = False
    ) -> None:
        self.lifter, self.cameras, self.settings, self.live = lifter, cameras, settings, live
        self.every, self.echo = every, echo
        self.order = Order(live)
        self.streams: dict[str, PoseStream] = {}
        self.names: set[str] = set()

    def feed(self, frames: Sequence[Frame]) -> Iterator[LiftedFrame]:
        """Lift frames in their order."""
        checked = ((frame, said) for frame in frames if (said := self.order.check(frame)) != "stale")
        for frame, said in checked if self.every else self._newest(checked):
            started_ns = time.perf_counter_ns()
            try:
                stream = self._stream(frame, said)
                if stream is not None:
                    yield self._lift(frame, stream, started_ns)
            except EdgeliftError as error:
                self.live.counts.failed += 1
                self.live.complaints.add(f"stream {frame.stream}: not lifted", f"frame {frame.seq}: {error}")

    def rest(self) -> Iterator[LiftedFrame]:
        """Nothing waits."""
        yield from ()

    def take_up(self, lifter: Lifter) -> None:
        """Streams keep their past where the new lifter is fed as the old one was."""
        if lifter.input == self.lifter.input:
            for stream in self.streams.values():
                stream.lifter = lifter
        else:
            self.streams.clear()
        self.lifter = lifter

    def _newest(self, checked: Iterable[tuple[Frame, str]]) -> Iterable[tuple[Frame, str]]:
        newest: dict[str, tuple[Frame, str]] = {}
        for frame, said in checked:
            if frame.stream in newest:
                self.live.drop(frame.stream)
                said = "new" if newest[frame.stream][1] == "new" else said
            newest[frame.stream] = frame, said
        return newest.values()

    def _stream(self, frame: Frame, said: str) -> PoseStream | None:
        """Return the state of a frame's stream; None where nobody knows its camera."""
        if said == "new" or frame.stream not in self.streams:
            try:
                camera, size = self.cameras.of(frame)
                begun = self.lifter.stream(camera, size, self.settings)
                self._check_name(frame.stream)
            except EdgeliftError as error:
                self._forget(frame.stream)  # nothing is kept of names that anybody may send
                self.live.counts.unplaced += 1
                self.live.complaints.add("streams without a camera", f"{frame.stream}: {error}")
                return None
            if frame.stream not in self.streams and len(self.streams) == MOST_STREAMS:
                self._forget(min(self.streams, key=self.order.heard_at))
            self.streams[frame.stream] = begun
        return self.streams[frame.stream]

    def _check_name(self, stream: str) -> None:
        if len(self.names) == MOST_NAMES and stream not in self.names:
            raise EdgeliftError("streams", "one more name", f"{MOST_NAMES} in all", "Keep a camera's name as it is.")
        self.names.add(stream)

    def _forget(self, stream: str) -> None:
        for known in (self.streams, self.order.heard, self.live.dropped_by_stream):
            known.pop(stream, None)

    def _lift(self, frame: Frame, stream: PoseStream, started_ns: int) -> LiftedFrame:
        prepared = stream.prepare(frame.t_ns / 1e9, frame.keypoints, frame.skeleton, frame.ids)
        ready_ns = time.perf_counter_ns()
        xyz = stream.lift(prepared)
        done_ns = time.perf_counter_ns()
        people = stream.finish(prepared, xyz)
        self.live.counts.swapped += sum("swapped" in flags for flags in people.flags)
        return lifted_frame(self, frame, people, (started_ns, ready_ns, done_ns))


def lifted_frame(pipeline: EachCamera, frame: Frame, people: People, ns: tuple[int, int, int]) -> LiftedFrame:
    """Put together what goes out; ns: when work on the frame began, when it was ready to lift, when it was lifted."""
    began, ready, done = ns
    lifter = pipeline.lifter
    views: tuple[Seen, ...] = ()
    if pipeline.echo:
        views = (Seen(frame.stream, frame.seq, frame.t_ns, frame.size, people.ids, people.keypoints),)
    return LiftedFrame(
        stream=frame.stream, seq=frame.seq, t_ns=frame.t_ns, clock=frame.clock, skeleton=lifter.skeleton,
        frame=pipeline.settings.frame, provider=lifter.backend.provider, lifter=lifter.name, ids=people.ids,
        xyz=people.xyz, conf=people.conf, flags=people.flags,
        latency_ms={
            "wait": (began - frame.arrived_ns) / 1e6, "prepare": (ready - began) / 1e6, "backend": (done - ready) / 1e6,
            "total": (time.perf_counter_ns() - frame.arrived_ns) / 1e6,
        },
        dropped=pipeline.live.dropped_by_stream.get(frame.stream, 0), views=views, echo=pipeline.echo,
    )  # fmt: skip
