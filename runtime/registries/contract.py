"""What every registry is: the versions of a lifter, of which one is current, wherever they lie."""

from __future__ import annotations

import re
import shutil
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.bundle import Bundle, load_bundle

CURRENT, REFUSED = "current", "refused"
VERSION = re.compile(r"v(\d{4,})")
REFUSED_BUNDLES = 5  # candidates that are kept, the newest; reports stay


@dataclass(frozen=True)
class Event:
    """A line of a registry's history. what: published, forced, rolled_back, pruned; at_s: unix time."""

    what: str
    version: str
    previous: str | None
    at_s: float

    @classmethod
    def of_dict(cls, told: dict[str, Any]) -> Event:
        """As it was written; keys of a later edgelift are passed over."""
        return cls(*(told[f.name] for f in fields(cls)))


class OvertakenError(EdgeliftError):
    """Somebody else changed a registry first; nothing came of this change."""


class Registry(ABC):
    """Versions `v0001`, `v0002`, ... that are complete or not there, and the name of the current one.

    str() is the place as a user named it. work: a directory of this machine for what an adaptation saves as it goes;
    look_every_s: how often whoever follows asks for the current version, which may cost money.
    """

    place: str
    work: Path
    look_every_s: float

    def __str__(self) -> str:
        return self.place

    # --- what differs by where it lies ---

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a registry at this place."""

    @abstractmethod
    def is_at(self, place: str | Path) -> bool:
        """Whether a path or a URL means this registry."""

    @abstractmethod
    def current(self) -> str:
        """Return the name of the current version; EdgeliftError where there is no valid one."""

    @abstractmethod
    def versions(self) -> list[str]:
        """Names of all versions, oldest first, whether complete or damaged since."""

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """Return a version as a directory of this machine, not verified."""

    @abstractmethod
    def history(self) -> list[Event]:
        """What happened, oldest first."""

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Yield an empty directory of this machine in which the next version is made, gone when the block ends."""

    @abstractmethod
    def keep_refused(self, candidate: Path) -> str:
        """Keep a directory from staging, `report.json` and perhaps `bundle/`, under `refused/`; returns where."""

    @abstractmethod
    def refusals(self) -> list[dict[str, Any]]:
        """Return the reports of what was refused, oldest first."""

    @abstractmethod
    def _changing(self) -> AbstractContextManager[None]:
        """Everything that changes the registry happens inside; what dead processes left is finished or removed."""

    @abstractmethod
    def _check_free(self) -> None:
        """EdgeliftError where something stands that is none of a registry's."""

    def _settle(self, bundle: Path) -> None:  # noqa: B027 - only what is renamed into place has to
        """Bring a verified bundle in staging to the disk."""

    @abstractmethod
    def _add(self, bundle: Path) -> str:
        """Make a verified bundle from staging the next version, not current yet; returns its name."""

    @abstractmethod
    def _make_current(self, event: Event) -> None:
        """Make event.version the current one; EdgeliftError where event.previous is that no more."""

    def _take_back(self, name: str) -> None:  # noqa: B027 - where a lock is held nobody comes between
        """Remove what was added when somebody came first."""

    @abstractmethod
    def _remove(self, name: str, now: str) -> None:
        """Remove a version."""

    # --- what does not ---

    def create(self, bundle: Bundle) -> str:
        """Begin a registry with a copy of a bundle as its first version; returns its name."""
        if self.exists():
            raise EdgeliftError(self.place, "something there already", "a new path", "Choose another -o.")
        self._check_free()
        with self.staging() as folder:
            return self.publish(Path(shutil.copytree(bundle.path, folder / "bundle")), None)

    def load(self, name: str | None = None) -> Bundle:
        """Open a version, the current one if none is named; EdgeliftError names those that are there."""
        if name is not None and name not in self.versions():
            raise EdgeliftError(
                f"version {name!r} of {self}", "no such version", ", ".join(self.versions()), "Name one of them."
            )
        return load_bundle(self.fetch(name or self.current()))

    def publish(self, bundle: Path, parent: str | None, what: str = "published") -> str:
        """Make a bundle from staging the next version and the current one; returns its name.

        parent: the version that the bundle was made from, None for the first one. EdgeliftError where that is not the
        current one any more: somebody else published, and what was proved against the parent says nothing of theirs.
        """
        for path in (bundle, *bundle.rglob("*")):  # whatever it was copied from: others read it, and it can be renamed
            path.chmod(0o755 if path.is_dir() else 0o644)
        load_bundle(bundle)  # what is published was verified, and as it lies there
        self._settle(bundle)
        with self._changing():
            now = self.current() if self.exists() else None
            if now != parent:
                raise self._overtaken(now, parent)
            name = self._add(bundle)
            try:
                self._make_current(Event(what, name, now, time.time()))
            except OvertakenError:
                self._take_back(name)
                raise
        return name

    def rollback(self, to: str | None = None) -> tuple[str, str]:
        """Make an older version the current one: `to`, or the parent of the current one. Returns (from, to)."""
        self.check()
        with self._changing():
            now = self._named() if to else self.current()  # whoever says where to go may leave what is damaged
            name = to or self._parent_there(now)
            if name == now:
                raise EdgeliftError(f"--to {name}", "the current version", "another", "See `edgelift registry list`.")
            self.load(name)
            self._make_current(Event("rolled_back", name, now or None, time.time()))
        return now, name

    def prune(self, keep: int) -> list[str]:
        """Remove all but the newest `keep` versions, the current one and its parent; returns what was removed."""
        self.check()
        if keep < 1:
            raise EdgeliftError("--keep", str(keep), "1 or more", "The current version always stays.")
        with self._changing():
            now = self.current()
            spared = {now, self.parent(now)}
            gone = [name for name in self.versions()[:-keep] if name not in spared]
            for name in gone:
                self._remove(name, now)
        return gone

    def recover(self) -> None:
        """Finish or remove what dead processes left, where there is a registry."""
        if self.exists():
            with self._changing():
                pass

    def parent(self, name: str) -> str | None:
        """Name of the version of this registry that one was adapted from; None where it began, or that is gone."""
        parent = self.manifest(name).get("parent")
        if parent is None or parent["version"] not in self.versions():
            return None
        same = self.manifest(parent["version"])["seal"] == parent["seal"]  # a base's parent lies in another registry
        return str(parent["version"]) if same else None

    @abstractmethod
    def manifest(self, name: str) -> dict[str, Any]:
        """Read a version's manifest, its seal verified, its files not."""

    def check(self) -> None:
        """EdgeliftError unless there is a registry."""
        if not self.exists():
            raise EdgeliftError(
                self.place, "no registry", f"a place with {CURRENT} and versions",
                "Make one: edgelift adapt BUNDLE ... -o",
            )  # fmt: skip

    def _parent_there(self, name: str) -> str:
        parent = self.parent(name)
        if parent is None:
            raise EdgeliftError(f"parent of {name}", "none", "a version that is still there", "Name another with --to.")
        return parent

    def _named(self) -> str:
        try:
            return self.current()
        except EdgeliftError:
            return ""

    def _overtaken(self, now: str | None, parent: str | None) -> OvertakenError:
        return OvertakenError(
            f"registry {self}", f"{now or 'no version'} as the current one", f"{parent or 'none'}, as it was",
            "Somebody published meanwhile. Run it again: it begins with their version.",
        )  # fmt: skip


def checked_name(place: str, text: str) -> str:
    """Return what `current` holds; EdgeliftError unless it can be the name of a bundle."""
    name = text.strip()
    if not name or Path(name).name != name or name.startswith("."):
        raise EdgeliftError(
            f"{place}/{CURRENT}", repr(name[:80]), "the name of a bundle in this registry", "Publish it again."
        )
    return name


def number_of(name: str) -> int | None:
    """Number of a version, None for a name that is none: `v0012` is 12."""
    match = VERSION.fullmatch(name)
    return None if match is None else int(match[1])


def by_number(names: list[str]) -> list[str]:
    """Those that are names of versions, oldest first."""
    return sorted((name for name in names if VERSION.fullmatch(name)), key=lambda name: number_of(name) or 0)
