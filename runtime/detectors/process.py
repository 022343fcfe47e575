"""A detector's process as the command sees it: started, its lines checked and passed on, stopped."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.pose2d import parse_message
from edgelift.runtime.detectors.environments import Tell
from edgelift.runtime.detectors.outputs import Write

WORKER = Path(__file__).with_name("worker.py")
CHATTER = re.compile(r"\s*$|[IW]\d{4} |INFO|WARNING|\[ ?(INFO|WARN)")  # log lines that say nothing about a failure
KEPT_LINES = 50  # of what a process says on standard error
PATIENCE_S = 5.0  # for a process that was told to end


@dataclass(frozen=True)
class Job:
    """What one process does.

    source: a video's path, a camera's number or an rtsp:// URL; live: it is a camera. stream: the name in the messages.
    at_rate: no faster than the video. mirrored: the images are, and are turned back first.
    """

    detector: str
    source: str
    live: bool
    stream: str
    at_rate: bool = False
    mirrored: bool = False

    @property
    def shown(self) -> str:
        """The source without the user and password of an address."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.source)

    def command(self, python: Path, worker: Path) -> list[str]:
        """Return the command line; -I keeps this environment's variables and folders out of the other one."""
        flags = {"--live": self.live, "--rate": self.at_rate, "--mirrored": self.mirrored}
        told = [flag for flag, given in flags.items() if given]
        return [str(python), "-I", str(worker), *told, f"--stream={self.stream}", "--", self.detector, self.source]


@dataclass
class Detected:
    """What came out.

    frames: messages. announced: frames that the video says it has, None where it says nothing. skipped: frames that
    came too late, at a video's rate or from a camera. peopled: frames with somebody. people: detections in all of them.
    seconds: from the first message, at `started` on time.monotonic, to the last.
    """

    frames: int = 0
    announced: int | None = None
    skipped: int = 0
    peopled: int = 0
    people: int = 0
    seconds: float = 0.0
    started: float = 0.0

    def see(self, seq: int) -> None:
        """Note how far the source has come: what is not a message by then was skipped."""
        self.skipped = seq + 1 - self.frames

    def count(self, seq: int, people: int) -> None:
        """Count a message just written."""
        now = time.monotonic()
        self.started = self.started if self.frames else now
        self.seconds = now - self.started
        self.frames += 1
        self.see(seq)
        self.peopled += people > 0
        self.people += people

    def to_dict(self) -> dict[str, Any]:
        """Name: figure; frames a second is None for a single frame."""
        rate = round((self.frames - 1) / self.seconds, 1) if self.frames > 1 and self.seconds > 0 else None
        return {
            "frames": self.frames, "frames_announced": self.announced, "frames_skipped": self.skipped,
            "frames_with_people": self.peopled, "people": self.people, "frames_per_second": rate,
        }  # fmt: skip


def detect(python: Path, job: Job, write: Write, tell: Tell, worker: Path = WORKER) -> Detected:
    """Run a detector in its environment until its source ends, writing its messages; Ctrl-C is a camera's end.

    tell: (frames, announced, note). EdgeliftError where it fails; KeyboardInterrupt passes through for videos.
    """
    found = Detected()
    tell(0, None, f"starting {job.detector}")
    try:
        with _started(job.command(python, worker)) as (process, complaints):
            for line in _whole_lines(process):
                _take(line, found, job, write)
                tell(found.frames, found.announced, job.stream)
            if process.wait():
                raise _died(job, process.returncode, complaints.last_word())
    except KeyboardInterrupt:
        if not job.live:
            raise
    return found


@contextmanager
def _started(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], _Complaints]]:
    """Start the process and end it with the block, however that ends; yield it and what it complains of.

    Its session is its own, so that Ctrl-C in a terminal reaches edgelift alone, which decides what it means.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        complaints = _Complaints(process.stderr)
        try:
            yield process, complaints
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            complaints.thread.join(PATIENCE_S)


class _Complaints:
    """The newest lines of a process's standard error: a camera's decoder may complain for weeks."""

    def __init__(self, errors: IO[bytes] | None) -> None:
        assert errors is not None
        self.errors, self.lines = errors, deque[bytes](maxlen=KEPT_LINES)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while line := self.errors.readline(4096):
            self.lines.append(line)

    def last_word(self) -> str:
        """Return the newest line that says something."""
        self.thread.join(PATIENCE_S)
        told = (line.decode(errors="replace").strip() for line in reversed(self.lines))
        return next((line for line in told if not CHATTER.match(line)), "no message")


def _whole_lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith(b"\n"):  # what a process that died left half written is no message
            yield line


def _take(line: bytes, found: Detected, job: Job, write: Write) -> None:
    """Write a message and count it, or heed what the process says about itself."""
    try:
        told = json.loads(line)
    except ValueError as error:
        remedy = "This is a defect of edgelift: please report it."
        raise EdgeliftError(f"detector {job.detector}", f"{line[:60]!r}", "JSON lines", remedy) from error
    if told.get("type") == "about":
        found.announced = told["frames"] if told["frames"] > 0 else None
    elif told.get("type") == "skipped":
        found.see(told["seq"])
    elif told.get("type") == "error":
        raise EdgeliftError(*told["parts"])
    else:
        message = parse_message(told)
        write(line)
        found.count(message.seq, len(message.keypoints))


def _died(job: Job, code: int, said: str) -> EdgeliftError:
    """Return the error of a process that failed without saying why in so many words."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return EdgeliftError(
        f"detector {job.detector} on {job.shown}", f"{said} ({how})", "a process that runs to the end",
        f"Try another source; if that fails too, set it up again: edgelift detect --setup --detector {job.detector}",
    )  # fmt: skip
