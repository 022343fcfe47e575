"""What the words of a command mean: which source is a camera, what its stream is called, where its lines go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.address import parse_address
from edgelift.runtime.detectors.outputs import SCHEMES
from edgelift.runtime.detectors.process import Job

DEVICE = re.compile(r"(?:/dev/video)?(\d+)")
NETWORK = ("rtsp://", "rtsps://")


def plan(
    detector: str, sources: Sequence[str], output: str, name: str | None, at_rate: bool, mirrored: bool
) -> list[tuple[Job, str]]:
    """Return a job for each source, with the output of each; EdgeliftError where the words do not fit together."""
    if not sources:
        raise EdgeliftError("sources", "none", "a video or a camera", "Name one: a file, or 0 for the first camera.")
    folder = output if output.endswith("/") or Path(output).is_dir() else None
    if len(sources) > 1 and (folder is None or name is not None):
        raise EdgeliftError(
            f"{len(sources)} sources", f"-o {output}" if folder is None else f"--name {name}",
            "a folder, where each has a file of its own name", "Give -o FOLDER/ and no --name, or one source.",
        )  # fmt: skip
    jobs = [_job(detector, source, name, at_rate, mirrored) for source in sources]
    if len(jobs) > 1 and any(job.live for job in jobs):
        raise EdgeliftError("sources", "a camera among several", "several videos", "Start one command a camera.")
    targets = [output if folder is None else str(Path(folder) / f"{job.stream}.jsonl") for job in jobs]
    if len(set(targets)) < len(targets):
        raise EdgeliftError("sources", "videos of one name", "names that differ", "Give them one by one, with --name.")
    for target in targets:
        _check_target(target)
    return list(zip(jobs, targets, strict=True))


def _job(detector: str, source: str, name: str | None, at_rate: bool, mirrored: bool) -> Job:
    device = DEVICE.fullmatch(source)
    live = device is not None or source.startswith(NETWORK)
    if not live and not Path(source).is_file():
        raise EdgeliftError(source, "no such file", "a video, or a camera (0, /dev/video0, rtsp://...)", "Check it.")
    if live and at_rate:
        raise EdgeliftError("--rate", "a camera", "a video", "Leave it out.")
    if device is not None:
        source, own = device[1], f"camera{device[1]}"
    else:
        own = _host(source) if live else Path(source).stem
    stream = own if name is None else name
    if not stream.isprintable() or not stream or "/" in stream:
        raise EdgeliftError("stream name", repr(stream), "printable characters without /", "Give another with --name.")
    return Job(detector, source, live, stream, at_rate, mirrored)


def _host(source: str) -> str:
    try:
        return urlsplit(source).hostname or "camera0"
    except ValueError as error:
        raise EdgeliftError("camera", f"{source!r} ({error})", "rtsp://HOST/PATH", "Correct the address.") from error


def _check_target(target: str) -> None:
    if "://" in target:
        parse_address(target, SCHEMES)
    elif target != "-" and not target.endswith(".jsonl"):
        raise EdgeliftError("-o", target, "a name that ends in .jsonl", f"Write -o {Path(target).stem}.jsonl.")
