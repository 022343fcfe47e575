"""A registry in a store that `fsspec` knows by a URL, as S3: no locks, no renames; who is first is known by one put.

A store can put an object that is not there yet and refuse one that is (create-only). All that must happen once goes
through such puts:

    claims/v0007             a number is nobody else's; a publisher that died leaves a gap
    v0007/...                a version's files, `manifest.json` last: without it there is no such version
    history/000012.json      what happened, numbered without gaps; it decides what is current and what is pruned
    current                  the same version for whoever follows, by one put: one small object to ask for
    refused/0003/...         what was not published, with its report

Of two publishers who began with one version, one appends to the history, and the other sees that it came second. One
that dies before it has appended changed nothing; one that dies after that leaves `current` behind, and whoever changes
the registry next puts it right first.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.files import make_durable
from edgelift.runtime.bundle import MANIFEST, digest, load_bundle, parsed_manifest
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
from edgelift.runtime.registries.places import is_url, plain_url
from edgelift.runtime.registries.staging import locked, staged

CLAIMS, HISTORY = "claims", "history"
CACHED = 5  # versions on this machine, those used last
ABANDONED_S = 86400.0  # after so long a version that was never completed is swept away
# Others take mode="create" for a look and a put, or pass it over (fsspec's own `pipe_file`, its caches).
ATOMIC = {"s3", "s3a", "gs", "gcs", "memory"}
PRECONDITION_FAILED, CONFLICT = 412, 409
REPEATS, REPEAT_S = 5, 0.2  # of a put that came into another's way

Made = TypeVar("Made")


class RemoteRegistry(Registry):
    """A registry at a URL. Versions are fetched into a cache on this machine. See Registry."""

    look_every_s = 10.0  # a look is a request, which is paid for

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.place = plain_url(url)
        self.store = Store(self.place)
        if ATOMIC.isdisjoint(self.store.protocols):
            raise EdgeliftError(
                url, f"a store ({', '.join(self.store.protocols)}) that may put one object twice",
                f"one of {sorted(ATOMIC)}, or a path", "Keep the registry there.",
            )  # fmt: skip
        self.cache = self.work = cache or cache_home() / "registries" / digest(self.place.encode())[:16]
        self.events: dict[str, Event] = {}  # by name; they never change

    def exists(self) -> bool:
        """See Registry; also one whose first publisher died before it was named."""
        return self.store.read(CURRENT) is not None or bool(self.store.names(HISTORY))

    def is_at(self, place: str | Path) -> bool:
        """See Registry."""
        return is_url(place) and plain_url(str(place)) == self.place

    def current(self) -> str:
        """See Registry."""
        return checked_name(self.place, (self.store.read(CURRENT) or b"").decode(errors="replace"))

    def versions(self) -> list[str]:
        """See Registry; complete ones only."""
        whole = [PurePosixPath(name).parent for name in self.store.names() if name.endswith(f"/{MANIFEST}")]
        return by_number([str(folder) for folder in whole])

    def fetch(self, name: str) -> Path:
        """See Registry; what is whole on this machine already is not fetched again."""
        manifest, home = self.store.read(f"{name}/{MANIFEST}"), self.cache / name
        if manifest is None:
            raise EdgeliftError(
                f"{self}/{name}", f"no {MANIFEST}", "a complete version", "See `edgelift registry list`."
            )
        if not _is_copy(home, manifest):
            with staged(self.cache) as folder:
                for key in self.store.names(name):
                    self.store.download(key, _inside(folder, key))
                make_durable(folder / name)
                with locked(self.cache):
                    if not _is_copy(home, manifest):  # nobody fetched it meanwhile
                        if home.exists():
                            os.rename(home, folder / "old")
                        os.rename(folder / name, home)
                    self._trim(home)
        os.utime(home)
        return home

    def manifest(self, name: str) -> dict[str, Any]:
        """See Registry."""
        return parsed_manifest(self.store.read(f"{name}/{MANIFEST}") or b"", f"{self}/{name}/{MANIFEST}")

    def history(self) -> list[Event]:
        """See Registry."""
        names = sorted(self.store.names(HISTORY))
        for name in names:
            if name not in self.events:
                self.events[name] = self.store.parsed(name, Event.of_dict)
        return [self.events[name] for name in names]

    def staging(self) -> AbstractContextManager[Path]:
        """See Registry; in the cache."""
        return staged(self.cache)

    def keep_refused(self, candidate: Path) -> str:
        """See Registry."""
        folders = {PurePosixPath(name).parts[1] for name in self.store.names(REFUSED)}
        earlier = sorted(int(folder) for folder in folders if folder.isdecimal())
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
        return [self.store.parsed(name, dict) for name in reports]

    def prune(self, keep: int) -> list[str]:
        """See Registry; versions that were begun and never completed go, too."""
        gone = super().prune(keep)
        now, whole, there = self.current(), self.versions(), self.store.names()
        for name in {n.partition("/")[0] for n in there if VERSION.fullmatch(n.partition("/")[0])} - set(whole):
            claimed = self.store.parsed(f"{CLAIMS}/{name}", dict).get("at_s", 0.0)
            if time.time() - claimed > ABANDONED_S:  # by clocks that may be wrong: its publisher is told, if it lives
                self._remove(name, now)
        return gone

    @contextmanager
    def _changing(self) -> Iterator[None]:
        events = self.history()
        if events and _head(events) != self._named():
            self._point()
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
        while not self.store.create(f"{CLAIMS}/v{number:04d}", _signed({"at_s": time.time()})):
            number += 1
        self.store.upload(bundle, f"v{number:04d}")
        return f"v{number:04d}"

    def _make_current(self, event: Event) -> None:
        def fits(events: list[Event]) -> None:
            if _head(events) != event.previous:
                raise self._overtaken(_head(events), event.previous)
            if any(e.what == "pruned" and e.version == event.version for e in events):
                raise EdgeliftError(
                    f"{event.version} of {self}", "a version just pruned", "one that stays", "Run it again."
                )

        self._append(event, fits)
        self._point()

    def _take_back(self, name: str) -> None:
        self.store.remove(name)

    def _remove(self, name: str, now: str) -> None:
        def fits(events: list[Event]) -> None:
            if _head(events) == name:
                raise EdgeliftError(f"{name} of {self}", "current again by now", "an old version", "Run it again.")

        self._append(Event("pruned", name, now, time.time()), fits)  # first: nobody goes back to it from here on
        self.store.remove(name)

    def _append(self, event: Event, fits: Callable[[list[Event]], None]) -> None:
        """Append to the history that `fits` has looked at; where another came first, it looks at that, too."""
        entry = _signed(asdict(event))
        while True:
            events = self.history()
            fits(events)
            if self.store.create(f"{HISTORY}/{len(events) + 1:06d}.json", entry):
                return

    def _point(self) -> None:
        """Let `current` name what the history says, also where another's put came between."""
        head = _head(self.history())
        while head is not None:
            self.store.put(CURRENT, f"{head}\n".encode())
            before, head = head, _head(self.history())
            if head == before:
                return

    def _trim(self, spared: Path) -> None:
        """Remove what was used longest ago; the caller holds the cache's lock."""
        held = [p for p in self.cache.iterdir() if VERSION.fullmatch(p.name) and p != spared]
        for old in sorted(held, key=lambda p: p.stat().st_mtime)[: 1 - CACHED]:
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
        protocol = self.fs.protocol
        self.protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def names(self, below: str = "") -> list[str]:
        """Names of all objects, or of those below one name."""
        with self._asking():
            try:
                found = self.fs.find(self._path(below))
            except FileNotFoundError:  # object stores find nothing, folders are missed
                found = []
            names = (path.removeprefix(self.root).lstrip("/") for path in found)
            return sorted(name for name in names if name and not name.endswith("/"))  # consoles mark folders so

    def read(self, name: str) -> bytes | None:
        """Contents of an object, None where there is none."""
        with self._asking():
            try:
                return bytes(self.fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def parsed(self, name: str, make: Callable[[dict[str, Any]], Made]) -> Made:
        """Read a JSON object; EdgeliftError where it is none, or `make` cannot use it."""
        contents = self.read(name)
        try:
            return make(json.loads(contents or b""))
        except (ValueError, TypeError, KeyError) as error:
            raise EdgeliftError(
                f"{self.url}/{name}", f"{(contents or b'')[:80]!r}", "what edgelift wrote", "Restore or remove it."
            ) from error

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whether it is there or not."""
        with self._asking():
            self.fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object; False, and nothing done, where another is there."""
        with self._asking():
            for _ in range(REPEATS):
                try:
                    self.fs.pipe_file(self._path(name), data, mode="create")
                    return True
                except Exception as error:
                    status = _status(error)
                    if isinstance(error, FileExistsError) or status == PRECONDITION_FAILED:
                        return self.read(name) == data  # ours, where the answer to a first try was lost
                    if status != CONFLICT:
                        raise
                time.sleep(REPEAT_S)
            raise OSError(f"{name} is in somebody else's way all the time")

    def upload(self, folder: Path, name: str) -> None:
        """Write a directory's files below a name, a bundle's manifest last."""
        files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.name == MANIFEST, p))
        with self._asking():
            for path in files:
                self.fs.put_file(str(path), self._path(f"{name}/{path.relative_to(folder).as_posix()}"))

    def download(self, name: str, path: Path) -> None:
        """Read an object into a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._asking():
            self.fs.get_file(self._path(name), str(path))

    def download_all(self, suffix: str, folder: Path) -> None:
        """Read what this URL names, or what lies directly below it and ends so, into a directory of files."""
        names = [name for name in self.names() if "/" not in name and name.endswith(suffix)]
        if not names and self.root.endswith(suffix):
            names = [""]
        if not names:
            raise EdgeliftError(self.url, f"nothing that ends with {suffix}", "sessions", "Check the URL.")
        for name in names:
            self.download(name, folder / (name or PurePosixPath(self.root).name))

    def remove(self, name: str) -> None:
        """Remove what is below a name; a bundle's manifest first, so that no half of it counts as a version."""
        for key in sorted(self.names(name), key=lambda key: not key.endswith(f"/{MANIFEST}")):
            with self._asking(), suppress(FileNotFoundError):
                self.fs.rm_file(self._path(key))  # one by one: in bulk errors are passed over, and names are patterns

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except EdgeliftError:
            raise
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


def _signed(told: dict[str, Any]) -> bytes:
    """An object that nobody else writes alike: where the answer to a put is lost, one's own is known again."""
    return json.dumps(told | {"by": f"{platform.node()} {os.getpid()} {uuid.uuid4()}"}).encode()


def _status(error: Exception) -> int | None:
    """HTTP status of what S3 answered, where that is behind an error."""
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def _is_copy(home: Path, manifest: bytes) -> bool:
    """Whether a directory is a whole version of this manifest: caches are cleared, disks are full."""
    try:
        return (home / MANIFEST).read_bytes() == manifest and bool(load_bundle(home))
    except (OSError, EdgeliftError):
        return False


def _head(events: list[Event]) -> str | None:
    """Name of the current version by the history, None before there was one."""
    return next((event.version for event in reversed(events) if event.what != "pruned"), None)


def _inside(folder: Path, key: str) -> Path:
    """Where an object's file goes; EdgeliftError for a name that would lead out."""
    if ".." in PurePosixPath(key).parts:
        raise EdgeliftError(key, "a name that leads out of its version", "a file of a bundle", "Remove it.")
    return folder / key
