"""A registry in a store that `fsspec` knows by a URL, as S3: no locks, no renames; who is first is known by one put.

A store can put an object that is not there yet and refuse one that is (create-only). All that must happen once goes
through such puts:

    claims/v0007             a number is nobody else's; a publisher that died leaves a gap
    v0007/...                a version's files, `manifest.json` last: without it there is no such version
    history/000012.json      what happened, numbered without gaps; it decides which version is current
    current                  the same version for whoever follows, by one put: one small object to ask for
    refused/0003/...         what was not published, with its report

Of two publishers who began with one version, one appends to the history, and the other sees that it came second. One
that dies before it has appended changed nothing; one that dies after that leaves `current` behind, and whoever changes
the registry next puts it right first.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.bundle import MANIFEST, digest, parsed_manifest
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
from edgelift.runtime.registries.staging import locked, staged

CLAIMS, HISTORY = "claims", "history"
CACHED = 5  # versions on this machine, those used last
ABANDONED_S = 86400.0  # after so long a version that was never completed is swept away
# buckets are not made by writing into them, and folders there are not made at all
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}


class RemoteRegistry(Registry):
    """A registry at a URL. Versions are fetched into a cache on this machine. See Registry."""

    look_every_s = 10.0  # a look is a request, which is paid for

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.place = url.rstrip("/")
        self.store = Store(self.place)
        self.cache = self.work = cache or cache_home() / "registries" / digest(self.place.encode())[:16]

    def exists(self) -> bool:
        """See Registry."""
        return self.store.read(CURRENT) is not None

    def is_at(self, place: str | Path) -> bool:
        """See Registry."""
        return str(place).rstrip("/") == self.place

    def current(self) -> str:
        """See Registry."""
        return checked_name(self.place, (self.store.read(CURRENT) or b"").decode(errors="replace"))

    def versions(self) -> list[str]:
        """See Registry; complete ones only."""
        whole = [PurePosixPath(name).parent for name in self.store.names() if name.endswith(f"/{MANIFEST}")]
        return by_number([str(folder) for folder in whole])

    def fetch(self, name: str) -> Path:
        """See Registry; what is on this machine already is not fetched again."""
        manifest, home = self.store.read(f"{name}/{MANIFEST}"), self.cache / name
        if manifest is None:
            raise EdgeliftError(
                f"{self}/{name}", f"no {MANIFEST}", "a complete version", "See `edgelift registry list`."
            )
        if not (home / MANIFEST).is_file() or (home / MANIFEST).read_bytes() != manifest:
            with staged(self.cache) as folder:
                for key in self.store.names(name):
                    self.store.download(key, _inside(folder, key))
                with locked(self.cache):
                    shutil.rmtree(home, ignore_errors=True)
                    os.rename(folder / name, home)
        os.utime(home)
        self._trim()
        return home

    def manifest(self, name: str) -> dict[str, Any]:
        """See Registry."""
        return parsed_manifest(self.store.read(f"{name}/{MANIFEST}") or b"", f"{self}/{name}/{MANIFEST}")

    def history(self) -> list[Event]:
        """See Registry."""
        return [Event.of_line(self.store.read(name) or b"") for name in sorted(self.store.names(HISTORY))]

    def staging(self) -> AbstractContextManager[Path]:
        """See Registry; in the cache."""
        return staged(self.cache)

    def keep_refused(self, candidate: Path) -> str:
        """See Registry."""
        earlier = sorted({int(PurePosixPath(name).parts[1]) for name in self.store.names(REFUSED)})
        number, report = max(earlier, default=0) + 1, (candidate / "report.json").read_bytes()
        while not self.store.create(f"{REFUSED}/{number:04d}/report.json", report):
            number += 1
        if (candidate / "bundle").is_dir():
            self.store.upload(candidate / "bundle", f"{REFUSED}/{number:04d}/bundle")
        for old in earlier[: 1 - REFUSED_BUNDLES]:
            self.store.remove(f"{REFUSED}/{old:04d}/bundle")
        return f"{self}/{REFUSED}/{number:04d}"

    def refusals(self) -> list[dict[str, Any]]:
        """See Registry."""
        reports = [name for name in self.store.names(REFUSED) if name.endswith("/report.json")]
        return [json.loads(self.store.read(name) or b"{}") for name in reports]

    def prune(self, keep: int) -> list[str]:
        """See Registry; versions that were begun and never completed go, too."""
        gone = super().prune(keep)
        whole = self.versions()
        for claim in self.store.names(CLAIMS):
            name = PurePosixPath(claim).name
            told = json.loads(self.store.read(claim) or b"{}")
            if name not in whole and time.time() - told.get("at_s", 0) > ABANDONED_S:
                self.store.remove(name)  # the claim stays: a number is never used twice
        return gone

    @contextmanager
    def _changing(self) -> Iterator[None]:
        events = self.history()
        if events and _head(events) != self._named():
            self._point(_head(events))
        yield

    def _check_free(self) -> None:
        own = {CURRENT, CLAIMS, HISTORY, REFUSED}
        foreign = [
            n for n in self.store.names() if (top := n.partition("/")[0]) not in own and not VERSION.fullmatch(top)
        ]
        if foreign:
            raise EdgeliftError(self.place, f"{foreign[0]} there already", "a new place", "Choose another -o.")

    def _add(self, bundle: Path) -> str:
        claimed = [PurePosixPath(name).name for name in self.store.names(CLAIMS)]
        number = max((number_of(name) or 0 for name in claimed), default=0) + 1
        told = json.dumps({"at_s": time.time(), "host": os.uname().nodename, "pid": os.getpid()}).encode()
        while not self.store.create(f"{CLAIMS}/v{number:04d}", told):
            number += 1
        self.store.upload(bundle, f"v{number:04d}")
        return f"v{number:04d}"

    def _make_current(self, event: Event) -> None:
        def fits(events: list[Event]) -> None:
            if _head(events) != event.previous:
                raise self._overtaken(_head(events), event.previous)
            if any(e.what == "pruned" and e.version == event.version for e in events):
                raise EdgeliftError(
                    f"{event.version} of {self}", "a version just pruned", "one that stays", "Name another."
                )

        self._append(event, fits)
        self._point(event.version)

    def _remove(self, name: str, now: str) -> None:
        def fits(events: list[Event]) -> None:
            if _head(events) == name:
                raise EdgeliftError(f"{name} of {self}", "current again by now", "an old version", "Run it again.")

        self._append(Event("pruned", name, now, time.time()), fits)  # first: nobody goes back to it from here on
        self.store.remove(name)

    def _append(self, event: Event, fits: Callable[[list[Event]], None]) -> None:
        """Append to the history that `fits` has looked at; where another came first, it looks at that, too."""
        while True:
            events = self.history()
            fits(events)
            if self.store.create(f"{HISTORY}/{len(events) + 1:06d}.json", event.line().encode()):
                return

    def _point(self, name: str | None) -> None:
        """Let `current` name what the history says, also where another's put came between."""
        while name is not None:
            self.store.put(CURRENT, f"{name}\n".encode())
            head = _head(self.history())
            name = head if head != name else None

    def _trim(self) -> None:
        held = sorted((p for p in self.cache.iterdir() if VERSION.fullmatch(p.name)), key=lambda p: p.stat().st_mtime)
        for old in held[:-CACHED]:
            shutil.rmtree(old, ignore_errors=True)


class Store:
    """Objects below a URL, by name. Whatever a store raises becomes one EdgeliftError."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise missing_extra("fsspec", "remote") from error
        self.url = url
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:  # it names the package that the protocol needs
            raise EdgeliftError(url, str(error), "a protocol that is installed", "Install it with pip.") from error
        except Exception as error:
            raise self._error(error) from error

    def names(self, below: str = "") -> list[str]:
        """Names of all objects, or of those below one name."""
        with self._asking():
            try:
                found = self.fs.find(self._path(below))
            except FileNotFoundError:  # object stores find nothing, folders are missed
                found = []
            return sorted(path.removeprefix(self.root).lstrip("/") for path in found)

    def read(self, name: str) -> bytes | None:
        """Contents of an object, None where there is none."""
        with self._asking():
            try:
                return bytes(self.fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whether it is there or not."""
        with self._asking():
            self._make_folder(name)
            self.fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object; False, and nothing done, where it is there."""
        with self._asking():
            self._make_folder(name)
            try:
                self.fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            return True

    def upload(self, folder: Path, name: str) -> None:
        """Write a directory's files below a name, a bundle's manifest last."""
        files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.name == MANIFEST, p))
        with self._asking():
            for path in files:
                key = f"{name}/{path.relative_to(folder).as_posix()}"
                self._make_folder(key)
                self.fs.put_file(str(path), self._path(key))

    def download(self, name: str, path: Path) -> None:
        """Read an object into a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._asking():
            self.fs.get_file(self._path(name), str(path))

    def download_all(self, suffix: str, folder: Path) -> None:
        """Read what this URL names, or what lies directly below it and ends so, into a directory of files."""
        names = [name for name in self.names() if "/" not in name and (not name or name.endswith(suffix))]
        if not names:
            raise EdgeliftError(self.url, f"nothing that ends with {suffix}", "sessions", "Check the URL.")
        for name in names:
            self.download(name, folder / (name or PurePosixPath(self.root).name))

    def remove(self, name: str) -> None:
        """Remove what is below a name; a bundle's manifest first, so that no half of it counts as a version."""
        with self._asking():
            for key in (f"{name}/{MANIFEST}", name):
                with suppress(FileNotFoundError):
                    self.fs.rm(self._path(key), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    def _make_folder(self, name: str) -> None:
        protocol = self.fs.protocol
        if OBJECT_STORES.isdisjoint((protocol,) if isinstance(protocol, str) else protocol):
            self.fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every store raises errors of its own
            raise self._error(error) from error

    def _error(self, error: Exception) -> EdgeliftError:
        said = str(error).strip().splitlines()
        return EdgeliftError(
            self.url, f"{type(error).__name__}: {said[0][:300] if said else ''}", "a store that answers",
            "Check address, network and rights; S3 takes AWS_PROFILE or AWS_ACCESS_KEY_ID, and AWS_ENDPOINT_URL.",
        )  # fmt: skip


def cache_home() -> Path:
    """Where this machine keeps what it fetched: $XDG_CACHE_HOME/edgelift, or ~/.cache/edgelift."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgelift"


def _head(events: list[Event]) -> str | None:
    """Name of the current version by the history, None before there was one."""
    return next((event.version for event in reversed(events) if event.what != "pruned"), None)


def _inside(folder: Path, key: str) -> Path:
    """Where an object's file goes; EdgeliftError for a name that would lead out."""
    if ".." in PurePosixPath(key).parts:
        raise EdgeliftError(key, "a name that leads out of its version", "a file of a bundle", "Remove it.")
    return folder / key
