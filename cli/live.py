"""Commands of the live loop."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from edgelift.cli.output import Json, Units, app, finish, say, seconds_of
from edgelift.poses.errors import EdgeliftError


@app.command(
    epilog="Example: edgelift lift bundles/first --source take1.npz --camera cam_01 --sink poses.jsonl "
    "or edgelift lift bundles/first --source udp://:5005 --cameras Calib.toml --units m --sink ws://:8765"
)
def lift(
    bundle: Annotated[str, typer.Argument(help="A bundle directory, or a registry of them by path or URL.")],
    source: Annotated[
        list[str],
        typer.Option(
            help="A session, pose2d .jsonl or OpenPose folder to replay; - for JSON lines; udp://[HOST]:PORT, "
            "tcp://HOST:PORT, tcp-listen://[HOST]:PORT, zmq://HOST:PORT, zmq-bind://[HOST]:PORT, ws://HOST:PORT. "
            "Repeatable."
        ),
    ],
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="- (the default), x.jsonl, .csv, .npz, .trc, .c3d, .bvh, .rrd, udp://HOST:PORT, tcp://HOST:PORT, "
            "tcp-listen://[HOST]:PORT, zmq://[HOST]:PORT, zmq-connect://HOST:PORT, ws://[HOST]:PORT (with a page), "
            "rerun://[HOST]:PORT. Repeatable."
        ),
    ] = None,
    cameras: Annotated[
        str | None, typer.Option(help="Rig: a camera file or folder, or FILE:NAME; streams are called as its cameras.")
    ] = None,
    units: Units = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="View to replay (repeatable), or the one camera of all live streams.")
    ] = None,
    fuse: Annotated[str | None, typer.Option(help="Rig (as --cameras) whose streams become one pose a person.")] = None,
    frame: Annotated[
        Literal["camera", "world"] | None, typer.Option(help="Of the poses; camera unless views are fused.")
    ] = None,
    skeleton: Annotated[str | None, typer.Option(help="Of an OpenPose folder.")] = None,
    fps: Annotated[float | None, typer.Option(help="Of an OpenPose folder.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Replay at this multiple of the recorded rate; 1 by default.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Replay every frame, as fast as it goes.")] = False,
    every: Annotated[bool, typer.Option("--every", help="Lift late frames too: it may lag.")] = False,
    swaps: Annotated[
        Literal["mend", "flag", "ignore"], typer.Option(help="Left and right exchanged over the whole body.")
    ] = "mend",
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Joints below it are missing.")] = 0.0,
    smooth: Annotated[
        str | None, typer.Option(help="One-Euro filter: MIN_CUTOFF,BETA in Hz and Hz/(m/s), say 1,3; it adds delay.")
    ] = None,
    backend: Annotated[
        Literal["cpu", "cuda", "tensorrt", "rtx"], typer.Option(help="What lifts; that one or an error.")
    ] = "cpu",
    precision: Annotated[
        Literal["fp32", "fp16", "int8", "fp8"], typer.Option(help="Which of the bundle's graphs or engines.")
    ] = "fp32",
    follow: Annotated[bool, typer.Option("--follow", help="Take up each new version of the registry.")] = False,
    shadow: Annotated[
        str, typer.Option(help="How long a new version runs beside the old one before it takes over; 0 for not at all.")
    ] = "5s",
    deadline: Annotated[
        str | None, typer.Option(help="For a frame's lifting, say 8ms: a new version that misses it is not kept.")
    ] = None,
    keypoints: Annotated[bool, typer.Option("--keypoints", help="Messages hold the 2D input too.")] = False,
    metrics: Annotated[str | None, typer.Option(help="Serve Prometheus metrics at PORT or HOST:PORT.")] = None,
    max_bytes: Annotated[int, typer.Option(min=64, help="Of one message.")] = 1 << 20,
    max_people: Annotated[int, typer.Option(min=1, help="In one message.")] = 32,
    max_rate: Annotated[float, typer.Option(min=0, help="Messages a second of one source; 0: any.")] = 2000.0,
    log: Annotated[Literal["text", "json"], typer.Option(help="How events are told on standard error.")] = "text",
    as_json: Json = False,
) -> None:
    """Lift streams of keypoints to 3D poses, live, until they end or Ctrl-C."""
    from edgelift.runtime.lifter import StreamSettings
    from edgelift.runtime.sources import Limits
    from edgelift.runtime.start import LiftSettings
    from edgelift.runtime.start import lift as run

    sinks = tuple(sink or ("-",))
    if as_json and "-" in sinks:
        raise EdgeliftError("--json", "--sink - as well", "one of them on standard output", "Give --sink a file.")
    if fast and rate is not None:
        raise EdgeliftError("--rate", "--fast as well", "one of them", "Leave one out.")
    streams = StreamSettings(swaps, min_confidence, _smoothing(smooth), frame or ("world" if fuse else "camera"))
    settings = LiftSettings(
        bundle=bundle, sources=tuple(source), sinks=sinks, backend=backend, precision=precision, cameras=cameras,
        units=units, camera=tuple(camera or ()), fuse=fuse, skeleton=skeleton, fps=fps,
        rate=None if fast else 1.0 if rate is None else rate,
        every=every, stream=streams, follow=follow, metrics=metrics, swap=_swap(shadow, deadline),
        echo=keypoints or any(s.startswith(("ws:", "rerun:")) or s.endswith(".rrd") for s in sinks),
        limits=Limits(max_bytes, max_people, max_rate),
    )  # fmt: skip
    with told(log), until_signal() as stopped:
        summary = run(settings, stopped)
    facts = summary.to_dict()
    finish(facts, as_json, *summary.notes, *last_words(facts, ", ".join(sinks)))


def _swap(shadow: str, deadline: str | None) -> Any:
    from edgelift.runtime.swap import SwapSettings

    return SwapSettings(
        seconds_of("--shadow", shadow), None if deadline is None else 1e3 * seconds_of("--deadline", deadline)
    )


def _smoothing(text: str | None) -> Any:
    from edgelift.runtime.smoothing import OneEuroSettings

    if text is None:
        return None
    try:
        min_cutoff, beta = (float(word) for word in text.split(","))
    except ValueError as error:
        raise EdgeliftError("--smooth", repr(text), "MIN_CUTOFF,BETA", "Give, say, --smooth 1,3.") from error
    settings = OneEuroSettings(min_cutoff, beta)
    lag = f"{settings.delay_s() * 1e3:.0f} ms standing still, {settings.delay_s(1) * 1e3:.0f} ms at 1 m/s"
    say.print(f"smoothing: poses lag by {lag}")
    return settings


def last_words(facts: dict[str, Any], where: str) -> list[str]:
    """Return the end lines: frames in, lifted, dropped, swapped; what went wrong; latencies."""
    t = facts["latency_ms"]
    lines = [
        f"{facts['frames']} frames in, {facts['lifted']} lifted by {facts['provider']}, {facts['dropped']} dropped, "
        f"{facts['swapped']} left/right swaps, {facts['swaps']} lifters taken up, {facts['rollbacks']} left again; "
        f"latency ms p50 {t['p50']} p99 {t['p99']} p99.9 {t['p99_9']} max {t['max']} -> {where}"
    ]
    odd = (
        "malformed",
        "oversized",
        "flooded",
        "stale",
        "unplaced",
        "missing",
        "clock_resets",
        "reconnects",
        "failed",
        "sink_lost",
    )
    found = [f"{facts[name]} {name.replace('_', ' ')}" for name in odd if facts[name]]
    return [*lines, *(["also: " + ", ".join(found)] if found else [])]


@contextmanager
def until_signal() -> Iterator[Any]:
    """Yield a function that says whether SIGINT or SIGTERM has come; a second one ends at once."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Text(logging.Handler):
    """A log line for people."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        say.print(record.getMessage())


class _Structured(logging.Handler):
    """A log line for machines: t_ns, level, event, message, count."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it as JSON on standard error."""
        kind, _, message = record.getMessage().partition(": ")
        told = {"t_ns": time.time_ns(), "level": record.levelname.lower(), "event": kind, "message": message}
        sys.stderr.write(json.dumps(told | {"count": getattr(record, "count", 1)}) + "\n")


@contextmanager
def told(how: str) -> Iterator[None]:
    """Show what the live loop logs, on standard error, as text or as JSON lines."""
    from edgelift.runtime.counts import log

    handler = _Text() if how == "text" else _Structured()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
