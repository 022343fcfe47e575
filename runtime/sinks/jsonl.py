"""JSON lines: one pose3d message a line, to a file or to standard output (`-`)."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import unused, write_whole
from edgelift.runtime.frames import LiftedFrame


class JsonLines:
    """One message a line. A file appears under its name when the stream ends, however it ends, with whole lines alone.

    Every line is written at once, without a buffer in between: what was lifted outlives a crash (in `.NAME.part`). A
    full disk costs the lines that find no room, and nothing that is written already. Standard output may be slower
    than the loop: then the loop waits for whoever reads it.
    """

    def __init__(self, target: str) -> None:
        self.name = target
        self.lost = 0
        self.path = None if target == "-" else Path(target)
        self.part = None if self.path is None else self.path.with_name(f".{self.path.name}.part")
        self.descriptor = sys.stdout.fileno() if self.path is None else -1
        self.length = 0
        self.notes: list[str] = []

    def __enter__(self) -> JsonLines:
        if self.part is not None and self.path is not None:
            if self.path.is_dir():
                raise EdgeliftError(self.name, "a folder", "a file's name", "Choose another --sink.")
            self.part.parent.mkdir(parents=True, exist_ok=True)
            if self.part.is_file() and self.part.stat().st_size:
                kept = unused(self.path.with_name(f"{self.path.stem}.killed.jsonl"))
                os.replace(self.part, kept)
                self.notes.append(f"{kept}: what a process that was killed left")
            self.descriptor = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        return self

    def write(self, lifted: LiftedFrame) -> None:
        """Write one line; OSError where there is no room for it, and nothing of it stays then."""
        line = lifted.json
        try:
            write_whole(partial(os.write, self.descriptor), line)
        except BrokenPipeError as error:
            raise EdgeliftError(
                "standard output", "a reader that left", "one that reads to the end", "Give --sink a file."
            ) from error
        except OSError:
            self.lost += 1
            if self.path is not None:
                os.ftruncate(self.descriptor, self.length)
                os.lseek(self.descriptor, self.length, os.SEEK_SET)
            raise
        self.length += len(line)

    def __exit__(self, *exception: object) -> None:
        if self.part is None or self.path is None:
            return
        os.close(self.descriptor)
        os.replace(self.part, self.path)
