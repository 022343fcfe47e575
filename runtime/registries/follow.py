"""Following a registry: each new current version is opened beside the running one, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.registries.contract import Registry

Opened = TypeVar("Opened")


class Follower(Generic[Opened]):
    """Watches a registry on a thread of its own and opens each new current bundle there, so that no frame waits.

    open_lifter: makes a lifter of a verified bundle, and runs it once; whatever it raises is told and the old one
    stays. release: lets go of one that nobody took.
    Nothing is changed behind the loop's back: it takes the new one between two frames, by `taken`, and says by `lifts`
    which it uses then. named: what the registry names now.
    """

    def __init__(
        self,
        registry: Registry,
        running: str,
        open_lifter: Callable[[Bundle], Opened],
        release: Callable[[Opened], None],
        tell: Callable[[str, object], None],
    ) -> None:
        if not registry.exists():
            raise EdgeliftError(str(registry), "no registry", "a place with versions", "Leave --follow out.")
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

    def forget_kept(self) -> None:
        """Say that what was kept open is no more: it is opened again when the registry names it."""
        with self.lock:
            self.kept = ""

    def close(self) -> None:
        """Stop watching."""
        self.stopping.set()
        self.thread.join(timeout=60)
        if (untaken := self.taken()) is not None:
            self.release(untaken)

    def _watch(self) -> None:
        while not self.stopping.wait(self.registry.look_every_s):
            self.look()

    def look(self) -> None:
        """Look once."""
        try:
            name = self.registry.current()
        except (OSError, EdgeliftError, UnicodeDecodeError) as error:
            self.tell("registry", error)
            return
        if self._is_known(name):
            return
        try:
            path = self.registry.fetch(name)
        except (OSError, EdgeliftError) as error:  # a network's fault perhaps: it is tried again
            self.tell("registry", error)
            return
        try:
            opened = self.open_lifter(load_bundle(path))
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
