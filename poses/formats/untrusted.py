"""Files of others: read in bounded time and memory, whatever they hold; what is wrong is one EdgeliftError."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError

LARGEST_TEXT = 2**30  # bytes of one file that is read whole: an hour of 25 joints at 60 Hz is half of it
LARGEST_ARCHIVE = 2**32  # bytes that all members of an archive may unpack to
LARGEST_RATIO = 1100  # deflate packs nothing more tightly than 1 : 1032


def read_text(path: Path, expected: str) -> str:
    """Return a UTF-8 file's text (a byte order mark is dropped); expected: what the file should be, for the error."""
    try:
        size = path.stat().st_size
        if size > LARGEST_TEXT:
            raise EdgeliftError(
                str(path), f"{size / 2**20:.0f} MiB", f"{expected} of {LARGEST_TEXT / 2**20:.0f} MiB at most",
                "Split the recording.",
            )  # fmt: skip
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeliftError(str(path), f"unreadable ({error})", expected, "Check the path and the file.") from error


def load_json(path: Path, expected: str) -> Any:
    """Return what a JSON file holds; malformed, too deeply nested or no text: EdgeliftError."""
    text = read_text(path, expected)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        received = f"malformed JSON ({type(error).__name__}: {error})"
        raise EdgeliftError(str(path), received, expected, "Write the file again; it may be cut short.") from error


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """EdgeliftError where the members of a zip archive claim to unpack to more than a recording can be."""
    total = sum(member.file_size for member in archive.infolist())
    packed = max(1, path.stat().st_size)
    if total > LARGEST_ARCHIVE or total > LARGEST_RATIO * packed:
        raise EdgeliftError(
            str(path), f"an archive of {packed} bytes that unpacks to {total}", "the size of a recording",
            "Do not open it: it is made to fill the memory.",
        )  # fmt: skip
