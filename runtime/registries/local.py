"""A registry in a directory of this machine: versions and `current` are renamed into place, one publisher at a time.

A candidate is made in a staging directory inside the registry, so that it can be renamed. Whoever publishes, rolls back
or prunes holds the registry's lock meanwhile. Files reach the disk (fsync) before the name that makes them count does,
so that what is there after a power cut is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import make_durable, replaced_durably, sync
from edgelift.runtime.bundle import MANIFEST, read_manifest
from edgelift.runtime.registries.contract import (
    CURRENT,
    REFUSED,
    REFUSED_BUNDLES,
    VERSION,
    Event,
    Registry,
    by_number,
    checked_name,
    number_of,
)
from edgelift.runtime.registries.places import is_url, path_of
from edgelift.runtime.registries.staging import STAGING, locked, staged, sweep

HISTORY = "history.jsonl"


class LocalRegistry(Registry):
    """A directory with `v0001/ v0002/ ...`, `current`, `history.jsonl` and `refused/`. See Registry."""

    look_every_s = 0.5

    def __init__(self, path: Path) -> None:
        self.path = self.work = path
        self.place = str(path)

    def exists(self) -> bool:
        """See Registry."""
        return (self.path / CURRENT).is_file() and not (self.path / MANIFEST).exists()

    def is_at(self, place: str | Path) -> bool:
        """See Registry."""
        return not is_url(place) and path_of(place).resolve() == self.path.resolve()

    def current(self) -> str:
        """See Registry."""
        return checked_name(self.place, (self.path / CURRENT).read_text(encoding="utf-8"))

    def versions(self) -> list[str]:
        """See Registry."""
        return by_number([p.name for p in self.path.iterdir() if p.is_dir()])

    def fetch(self, name: str) -> Path:
        """See Registry."""
        return self.path / name

    def manifest(self, name: str) -> dict[str, Any]:
        """See Registry."""
        return read_manifest(self.path / name)

    def history(self) -> list[Event]:
        """See Registry."""
        path = self.path / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [
            Event.of_dict(json.loads(line)) for line in lines if line.endswith("}")
        ]  # one may be cut short by a full disk

    def staging(self) -> AbstractContextManager[Path]:
        """See Registry; it lies in the registry, so that what is made there can be renamed."""
        return staged(self.path)

    def keep_refused(self, candidate: Path) -> str:
        """See Registry."""
        home = self.path / REFUSED
        home.mkdir(exist_ok=True)
        make_durable(candidate)
        with locked(self.path):
            earlier = sorted(int(p.name) for p in home.iterdir() if p.name.isdecimal())
            kept = home / f"{max(earlier, default=0) + 1:04d}"
            os.rename(candidate, kept)
            for number in earlier[: 1 - REFUSED_BUNDLES]:
                shutil.rmtree(home / f"{number:04d}" / "bundle", ignore_errors=True)
        return str(kept)

    def refusals(self) -> list[dict[str, Any]]:
        """See Registry."""
        return [json.loads(path.read_bytes()) for path in sorted((self.path / REFUSED).glob("*/report.json"))]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with locked(self.path):
            for half in self.path.glob(f".{CURRENT}.*"):
                half.unlink()
            sweep(self.path)
            yield

    def _check_free(self) -> None:
        if self.path.exists() and (self.path.is_file() or any(map(_is_foreign, self.path.iterdir()))):
            raise EdgeliftError(self.place, "something there already", "a new path", "Choose another -o.")

    def _settle(self, bundle: Path) -> None:
        make_durable(bundle)

    def _add(self, bundle: Path) -> str:
        name = f"v{max((number_of(known) or 0 for known in self.versions()), default=0) + 1:04d}"
        os.rename(bundle, self.path / name)
        sync(self.path)
        return name

    def _make_current(self, event: Event) -> None:
        with replaced_durably(self.path / CURRENT) as temporary:
            temporary.write_text(event.version + "\n", encoding="utf-8")
        self._note(event)

    def _remove(self, name: str, now: str) -> None:
        os.rename(self.path / name, self.path / f"{STAGING}{name}")  # in one step: no version is ever half there
        self._note(Event("pruned", name, now, time.time()))
        sweep(self.path)

    def _note(self, event: Event) -> None:
        """Append to the history: a record for people, which nothing depends on, so it may fail on a full disk."""
        path = self.path / HISTORY
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write("\n" * _cut_short(path) + json.dumps(asdict(event)) + "\n")


def _cut_short(path: Path) -> bool:
    """Whether the last line of a file lacks its end."""
    return path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")


def _is_foreign(path: Path) -> bool:
    """Whether it is none of what an interrupted `create` leaves."""
    return not (path.name.startswith(".") or path.name == HISTORY or VERSION.fullmatch(path.name))
