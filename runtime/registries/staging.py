"""Directories that are being filled. A lock says whether the owner lives: the kernel lets go of it when he dies."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelift.poses.errors import EdgeliftError

LOCK = ".lock"
STAGING = ".staging-"
WAIT_S = 30.0  # for another process, which holds the lock for as long as renames and removals take


@contextmanager
def staged(home: Path) -> Iterator[Path]:
    """Yield an empty directory inside `home`, gone when the block ends; those of dead processes are swept away."""
    import fcntl  # here and below: Windows, where bundles are lifted too, has none

    home.mkdir(parents=True, exist_ok=True)
    with locked(home):
        sweep(home)
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=home))
        owner = (folder / LOCK).open("w")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def sweep(home: Path) -> None:
    """Remove the directories of dead processes; the caller holds the lock."""
    import fcntl

    for folder in home.glob(f"{STAGING}*"):
        try:
            with (folder / LOCK).open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # its owner died before it could lock it, or while it removed it
            pass
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold a directory's lock; EdgeliftError where somebody else holds it for longer than any publication takes."""
    import fcntl

    with (home / LOCK).open("a") as file:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EdgeliftError(
                        f"registry {home}", f"a lock that somebody has held for {WAIT_S:.0f} s", "a free one",
                        "See what else publishes here, and run it again.",
                    ) from None  # fmt: skip
                time.sleep(0.02)
        yield
