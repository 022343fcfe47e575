"""The command that turns videos and cameras into keypoints, with a detector in a process of its own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgelift.cli.output import Json, app, finish, progress
from edgelift.poses.errors import EdgeliftError


@app.command(epilog="Example: edgelift detect cam01.mp4 cam02.mp4 --detector mediapipe -o keypoints/")
def detect(
    detector: Annotated[
        Literal["mediapipe", "rtmlib"],
        typer.Option(help="mediapipe: one person, 33 joints, fast on a CPU. rtmlib: any number of people, coco17."),
    ],
    sources: Annotated[
        list[str] | None, typer.Argument(help="Videos; or one camera: its number, /dev/videoN or an rtsp:// address.")
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="FILE.jsonl, FOLDER/, udp://HOST:PORT, tcp://HOST:PORT, - (stdout).")
    ] = "-",
    name: Annotated[str | None, typer.Option(help="Of the stream; else the video's name, or camera0.")] = None,
    rate: Annotated[bool, typer.Option("--rate", help="Play a video at its own rate, skipping late frames.")] = False,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="The images are mirrored, as some webcams deliver them: turn them back.")
    ] = False,
    env: Annotated[Path | None, typer.Option(help="Folder of the detector's environment.")] = None,
    setup: Annotated[bool, typer.Option("--setup", help="Make that environment, with pip, and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Find people in a video or in front of a camera; writes pose2d JSON lines.

    Pixels are those of the image as it is decoded. A video that says it is rotated (a phone held upright) is turned
    first, so calibrate with turned images as well. Ctrl-C ends a camera; of a video it leaves nothing behind.
    """
    from edgelift.runtime.detectors.environments import find_python
    from edgelift.runtime.detectors.jobs import plan
    from edgelift.runtime.detectors.outputs import open_output
    from edgelift.runtime.detectors.process import detect as run

    if setup:
        _set_up(detector, env, bool(sources) or output != "-" or name is not None or rate or mirrored, as_json)
        return
    if as_json and output == "-":
        raise EdgeliftError("--json", "-o - as well", "one of them on standard output", "Give -o a file.")
    jobs = plan(detector, sources or [], output, name, rate, mirrored)
    python = find_python(detector, env)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped as a service, it ends as by Ctrl-C
    streams: list[dict[str, Any]] = []
    for job, target in jobs:
        with progress(job.detector) as tell, open_output(target, keep=job.live) as write:
            found = run(python, job, write, tell)
        streams.append({"stream": job.stream, "source": job.shown, "output": target} | found.to_dict())
    finish({"detector": detector, "streams": streams}, as_json, *map(_describe, streams))


def _set_up(detector: str, env: Path | None, foreign: bool, as_json: bool) -> None:
    from edgelift.runtime.detectors.environments import set_up

    if foreign:
        raise EdgeliftError("--setup", "something to detect as well", "--detector and --env alone", "Do one at a time.")
    with progress(f"setting up {detector}") as tell:
        made = set_up(detector, env, tell)
    facts = {"detector": detector, "environment": str(made.folder), "mib": made.mib, "existed": made.existed}
    how = "already there" if made.existed else "set up"
    finish(facts, as_json, f"{detector}: {how}, {made.mib} MiB -> {made.folder}")


def _describe(stream: dict[str, Any]) -> str:
    frames, announced = stream["frames"], stream["frames_announced"]
    told = f"{stream['stream']}: {frames} frames"
    told += f" of {announced} announced" if announced not in (None, frames + stream["frames_skipped"]) else ""
    told += f", {stream['frames_skipped']} skipped" if stream["frames_skipped"] else ""
    rate = stream["frames_per_second"]
    people = f", people in {stream['frames_with_people']} ({stream['people']} detections)"
    return f"{told}{people}{'' if rate is None else f', {rate} frames/s'} -> {stream['output']}"
