"""A live loop from what a user asks for: what `edgelift lift` does, for any program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import plain_name, read_rig
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.counts import Live
from edgelift.runtime.fuse import Fuse
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.live import Cameras, EachCamera, Pipeline, run
from edgelift.runtime.metrics import served
from edgelift.runtime.registries import open_registry
from edgelift.runtime.registries.follow import Follower
from edgelift.runtime.sinks import Sinks, open_sink
from edgelift.runtime.sources import Inbox, Limits, Source, is_live, open_source
from edgelift.runtime.sources.replay import Replay, Track, read_tracks
from edgelift.runtime.swap import Swapper, SwapSettings

if TYPE_CHECKING:
    from edgelift.runtime.slots import Spare


@dataclass(frozen=True)
class LiftSettings:
    """What to lift, with what, and where to.

    bundle: a bundle or a registry, by path or URL. sources: `-`, addresses, or paths of what is replayed; sinks: see
    open_sink.
    cameras: a rig as `read_rig` takes it, with its units, m or mm; fuse: the same, and its views are made one.
    camera: of replayed files, the views to lift; of live sources, the one camera that all streams come from.
    skeleton, fps: of a folder of OpenPose files. rate: of replayed files, 1 as recorded, None at once, which lifts
    every frame. every: no frame is left out. follow: take up what the registry publishes, as `swap` says.
    metrics: PORT or HOST:PORT. echo: messages hold the 2D input too.
    """

    bundle: str | Path
    sources: tuple[str, ...]
    sinks: tuple[str, ...] = ("-",)
    backend: str = "cpu"
    precision: str = "fp32"
    cameras: str | None = None
    units: str | None = None
    camera: tuple[str, ...] = ()
    fuse: str | None = None
    skeleton: str | None = None
    fps: float | None = None
    rate: float | None = 1.0
    every: bool = False
    stream: StreamSettings = field(default_factory=StreamSettings)
    follow: bool = False
    swap: SwapSettings = field(default_factory=SwapSettings)
    metrics: str | None = None
    echo: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.sources:
            raise EdgeliftError(
                "--source", "none", "at least one", "Name a session, an address, or - for standard input."
            )
        if self.fuse is not None and self.cameras is not None:
            raise EdgeliftError("--cameras", "--fuse as well", "one rig", "Leave --cameras out: --fuse names the rig.")
        if self.fuse is not None and self.camera:
            raise EdgeliftError("--camera", "--fuse as well", "all views of the rig", "Leave --camera out.")


@dataclass
class LiftSummary:
    """The last words of a loop. notes: what a user should know of the files that were written."""

    live: Live
    provider: str
    lifter: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The keys of `edgelift lift --json`."""
        told = self.live.counts.to_dict() | {"provider": self.provider, "lifter": self.lifter}
        return told | {"latency_ms": self.live.latency.to_dict(), "backend_ms": self.live.backend.to_dict()}


def lift(settings: LiftSettings, stopped: Callable[[], bool], live: Live | None = None) -> LiftSummary:
    """Lift until the sources end or `stopped` says so; live: counts to watch meanwhile."""
    live = live or Live()
    tracks = [
        read_tracks(Path(s), settings.camera, settings.skeleton, settings.fps)
        for s in settings.sources
        if not is_live(s)
    ]
    sinks = Sinks([open_sink(target, live) for target in settings.sinks], live)
    with ExitStack() as stack:
        pipeline = _pipeline(settings, [track for group in tracks for track in group], live)
        stack.callback(lambda: pipeline.lifter.close())  # whichever it is then
        swapper: Swapper | None = None
        follower = _follower(settings, pipeline, live, lambda fits: swapper.give_spare(fits) if swapper else None)
        if follower is not None:
            swapper = Swapper(pipeline, follower, settings.swap, live)
            stack.callback(swapper.close)
            stack.callback(follower.close)
        inbox = stack.enter_context(Inbox(_sources(settings, tracks, live)))
        stack.enter_context(served(live, settings.metrics))
        stack.enter_context(sinks)
        run(inbox, pipeline, sinks, live, stopped, swapper)
    live.complaints.report(now=True)
    lifter = pipeline.lifter
    return LiftSummary(live, lifter.backend.provider, lifter.name, sinks.notes)


def _pipeline(settings: LiftSettings, tracks: Sequence[Track], live: Live) -> Pipeline:
    lifter = Lifter(settings.bundle, settings.backend, settings.precision)
    every = settings.every or settings.rate is None
    try:
        if settings.fuse is not None:
            rig = read_rig(settings.fuse, settings.units)
            recorded = settings.rate is None and not any(map(is_live, settings.sources))
            return Fuse(lifter, rig, settings.stream, live, every, settings.echo, recorded)
        cameras = _cameras(settings, tracks)
        _check_cameras(lifter, cameras, settings, tracks)
        return EachCamera(lifter, cameras, settings.stream, live, every, settings.echo)
    except BaseException:
        lifter.close()
        raise


def _cameras(settings: LiftSettings, tracks: Sequence[Track]) -> Cameras:
    known = Cameras({plain_name(track.stream): (track.camera, track.size) for track in tracks})
    if settings.cameras is None:
        return known
    rig = read_rig(settings.cameras, settings.units)
    if tracks or not settings.camera:
        return Cameras.of_rig(rig)
    return Cameras({}, _one_of(rig, settings.camera))


def _one_of(rig: Sequence[Camera], names: tuple[str, ...]) -> Camera:
    found = [camera for camera in rig if camera.name in names]
    if len(names) > 1 or not found:
        known = ", ".join(camera.name for camera in rig)
        raise EdgeliftError("--camera", ", ".join(names), f"one of {known}", "Name the camera that is live.")
    return found[0]


def _check_cameras(lifter: Lifter, cameras: Cameras, settings: LiftSettings, tracks: Sequence[Track]) -> None:
    """Tell at the start, not with the first frame, that a stream can have no camera."""
    for track in tracks:
        camera, size = cameras.of_name(track.stream)
        lifter.stream(camera, size or track.size, settings.stream)
    if not tracks:  # what a stream of each camera needs is made now, not while its first frames wait
        for camera, size in cameras.known.values():
            lifter.stream(camera, size, settings.stream)
    if not tracks and not cameras.known and cameras.only is None and lifter.input.camera_input == "rays":
        raise EdgeliftError(
            "a rays lifter",
            "live sources and no --cameras",
            "the rig that films",
            "Add --cameras Calib.toml --units m.",
        )


def _sources(settings: LiftSettings, tracks: list[list[Track]], live: Live) -> list[Source]:
    waiting = iter(tracks)
    files = [text for text in settings.sources if not is_live(text)]
    opened: list[Source] = []
    try:
        for text in settings.sources:
            if is_live(text):
                opened.append(open_source(text, live, settings.limits))
            elif settings.fuse is None:
                opened.append(Replay(text, next(waiting), live, settings.rate))
        if settings.fuse is not None and files:  # on one timeline, wherever each of them begins
            together = [track for group in tracks for track in group]
            opened.append(Replay(", ".join(files), together, live, settings.rate))
    except BaseException:
        for source in opened:
            source.close()
        raise
    return opened


def _follower(settings: LiftSettings, pipeline: Pipeline, live: Live, spare: Spare) -> Follower[Lifter] | None:
    if not settings.follow:
        return None
    lifter = pipeline.lifter

    def open_lifter(bundle: Bundle) -> Lifter:
        if bundle.skeleton != lifter.skeleton:  # whoever reads the stream has begun with the other one
            raise EdgeliftError(
                f"lifter {bundle.path.name}", f"poses of {bundle.skeleton.name}", f"{lifter.skeleton.name}, as before",
                "Start the loop again with it.",
            )  # fmt: skip
        if bundle.input.camera_input != lifter.input.camera_input:  # these streams may have no such cameras
            raise EdgeliftError(
                f"lifter {bundle.path.name}", f"camera input {bundle.input.camera_input}",
                f"{lifter.input.camera_input}, as before", "Start the loop again with it.",
            )  # fmt: skip
        opened = _opened(bundle, settings, pipeline.lifter, spare)
        try:
            warm_up(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    return Follower(open_registry(settings.bundle), lifter.name, open_lifter, Lifter.close, live.complaints.add)


def _opened(bundle: Bundle, settings: LiftSettings, live: Lifter, spare: Spare) -> Lifter:
    """Open a new version; with TensorRT beside the live engine, in the slot that stands by."""
    if settings.backend in ("tensorrt", "rtx"):
        from edgelift.runtime.slots import open_beside

        return open_beside(bundle, live, spare)
    return Lifter(bundle, settings.backend, settings.precision)


def warm_up(lifter: Lifter) -> None:
    """Run a lifter once, so that no frame pays for the first run."""
    fed = lifter.input
    nobody = np.full((1, fed.frames, len(fed.skeleton.joints), 3), np.nan, np.float32)
    nobody[..., 2] = 0
    lifter.lift(nobody, np.array([[1000, 1000, 500, 500]], np.float32))
