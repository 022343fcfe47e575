"""Registry: a directory of bundles `v0001/ v0002/ ...` and a file `current` that names one; followed as it changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.bundle import MANIFEST, Bundle, load_bundle

CURRENT = "current"
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


class Follower(Generic[Opened]):
    """Watches a registry on a thread of its own and opens each new current bundle there, so that no frame waits.

    open_lifter: makes a lifter of a verified bundle, and runs it once; whatever it raises is told and the old one
    stays. release: lets go of one that nobody took.
    Nothing is changed behind the loop's back: it takes the new one between two frames, by `taken`.
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
        self.registry, self.running, self.open_lifter, self.tell = registry, running, open_lifter, tell
        self.release = release
        self.refused = self.kept = self.wanted = ""
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

    def keep(self, spare: str, running: str | None = None) -> None:
        """Say which lifter the caller keeps open beside the one that runs: a return to it needs no opening."""
        with self.lock:
            self.kept, self.running = spare, running or self.running

    def wants(self, name: str) -> bool:
        """Whether the registry has gone back to the lifter of that name, which the caller keeps."""
        return self.wanted == name

    def refuse(self, name: str, running: str) -> None:
        """Say that a lifter did not prove itself: it is not opened again until the registry has named another."""
        with self.lock:
            self.refused, self.running, self.kept, self.wanted = name, running, "", ""

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
        if name == self.running:
            self.refused = ""  # it may be published again, mended
        self.wanted = name if name == self.kept and name != self.running else ""
        if name in (self.running, self.refused, self.kept):
            return
        try:
            opened = self.open_lifter(load_bundle(self.registry / name))
        except Exception as error:  # whatever is wrong with a new bundle, the running one goes on
            self.refused = name
            self.tell(f"bundle {name} refused, {self.running} goes on", error)
            return
        untaken = self.taken()
        if untaken is not None:  # another one came before the loop took it up
            self.release(untaken)
        with self.lock:
            self.ready, self.running, self.refused = opened, name, ""
