"""Files that appear whole or not at all, names that are free, and writing without a buffer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """Return the path, or one with a number before its suffix that nothing stands at yet: `a.2.npy`."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return free


def write_whole(write: Callable[[memoryview], int], data: bytes) -> None:
    """Write all of data by an unbuffered write; OSError where there is room for a part only, which is written then."""
    left = memoryview(data)
    while left:
        left = left[write(left) :]
