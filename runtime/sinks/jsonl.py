"""JSON lines: one pose3d message a frame, to a file (complete or not at all) or to standard output (`-`)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from edgelift.poses.errors import EdgeliftError


class JsonLines:
    """Context manager; `write` takes one message. A file appears under its name only when the stream ended well."""

    def __init__(self, target: str) -> None:
        self.path = None if target == "-" else Path(target)
        self.part = None if self.path is None else self.path.with_name(f".{self.path.name}.part")
        self.stream: TextIO = sys.stdout

    def __enter__(self) -> JsonLines:
        if self.part is not None:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self.stream = self.part.open("w", encoding="utf-8")
        return self

    def write(self, message: dict[str, Any]) -> None:
        """Write one line."""
        # not json.dump: writing to a stream it encodes in Python, ten times slower
        line = json.dumps(message, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            self.stream.write(line)
            if self.path is None:
                self.stream.flush()  # whoever reads the pipe waits for this frame, not for a full buffer
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # or Python complains once more at exit
            raise EdgeliftError(
                "standard output", "a reader that left", "one that reads to the end", "Give --sink a file."
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.part is None or self.path is None:
            return
        self.stream.close()
        try:
            if kind is None:
                os.replace(self.part, self.path)
        finally:
            self.part.unlink(missing_ok=True)
