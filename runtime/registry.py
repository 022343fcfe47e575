"""Registry: a directory of bundles `v0001/ v0002/ ...` and a file `current` that names one; followed as it changes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.bundle import MANIFEST, Bundle, load_bundle

CURRENT = "current"
VERSION = re.compile(r"v(\d{4,})")
LOOK_EVERY_S = 0.5

Opened = TypeVar("Opened")


def is_registry(path: Path) -> bool:
    """Whether the directory is a registry rather than a bundle."""
    return (path / CURRENT).is_file() and not (path / MANIFEST).exists()


def bundle_path(path: Path) -> Path:
    """Return the bundle that a path means: itself, or the current one of a registry."""
    return path / current(path) if is_registry(path) else path


def current(registry: Path) -> str:
    """Return the name of a registry's current bundle."""
    name = (registry / CURRENT).read_text(encoding="utf-8").strip()
    if not name or Path(name).name != name or name.startswith("."):
        raise EdgeliftError(
            f"{registry / CURRENT}", repr(name[:80]), "the name of a bundle in this registry", "Publish it again."
        )
    return name


def number_of(name: str) -> int | None:
    """Number of a version, None for a name that is none: `v0012` is 12."""
    match = VERSION.fullmatch(name)
    return None if match is None else int(match[1])


class Follower(Generic[Opened]):
    """Watches a registry on a thread of its own and opens each new current bundle there, so that no frame waits.

    open_lifter: makes a lifter of a verified bundle, and runs it once; whatever it raises is told and the old one
    stays. release: lets go of one that nobody took.
    Nothing is changed behind the loop's back: it takes the new one between two frames, by `taken`, and says by `lifts`
    which it uses then. named: what the registry names now.
    """

    def __init__(
        self,
        registry: Path,
        running: str,
        open_lifter: Callable[[Bundle], Opened],
        release: Callable[[Opened], None],
        tell: Callable[[str, object], None],
    ) -> None:
        if not is_registry(registry):
            raise EdgeliftError(
                str(registry), "no registry", f"a directory with {CURRENT} and bundles", "Leave --follow out."
            )
        self.registry, self.open_lifter, self.tell, self.release = registry, open_lifter, tell, release
        self.named = self.lifting = running
        self.kept = self.offered = self.refused = ""
        self.ready: Opened | None = None
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="registry", daemon=True)
        self.thread.start()

    def taken(self) -> Opened | None:
        """Return the new lifter if one is ready; it is the caller's then."""
        if self.ready is None:  # without the lock: this is asked before every frame
            return None
        with self.lock:
            ready, self.ready = self.ready, None
        return ready

    def lifts(self, name: str, kept: str = "") -> None:
        """Say which lifter the caller uses, and which it keeps open beside it: neither is opened again."""
        with self.lock:
            self.lifting, self.kept, self.offered = name, kept, ""

    def refuse(self, name: str) -> None:
        """Say that a lifter did not prove itself: it is not opened again until the registry has named another."""
        with self.lock:
            self.refused, self.offered = name, ""

    def close(self) -> None:
        """Stop watching."""
        self.stopping.set()
        self.thread.join(timeout=60)
        if (untaken := self.taken()) is not None:
            self.release(untaken)

    def _watch(self) -> None:
        while not self.stopping.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Look once."""
        try:
            name = current(self.registry)
        except (OSError, EdgeliftError, UnicodeDecodeError) as error:
            self.tell("registry", error)
            return
        if self._is_known(name):
            return
        try:
            opened = self.open_lifter(load_bundle(self.registry / name))
        except Exception as error:  # whatever is wrong with a new bundle, the running one goes on
            self.refuse(name)
            self.tell(f"bundle {name} refused, {self.lifting} goes on", error)
            return
        with self.lock:
            untaken, self.ready, self.offered, self.refused = self.ready, opened, name, ""
        if untaken is not None:  # another one came before the loop took it up
            self.release(untaken)

    def _is_known(self, name: str) -> bool:
        """Note what the registry names; whether there is nothing to open. What it no longer names is withdrawn."""
        with self.lock:
            self.named = name
            untaken = None
            if name in (self.lifting, self.kept):
                untaken, self.ready, self.offered = self.ready, None, ""
                self.refused = ""  # it may be published again, mended
            known = name in (self.lifting, self.kept, self.offered, self.refused)
        if untaken is not None:
            self.release(untaken)
        return known
