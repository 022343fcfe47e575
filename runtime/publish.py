"""Publishing into a registry: versions that are complete or not there, and `current`, replaced in one step.

A candidate is made in a staging directory inside the registry, so that it can be renamed. Whoever publishes, rolls back
or prunes holds the registry's lock meanwhile; the kernel lets go of it when a process dies. Files reach the disk
(fsync) before the name that makes them count does, so that what is there after a power cut is whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import make_durable, replaced_durably, sync
from edgelift.runtime.bundle import Bundle, load_bundle, read_manifest
from edgelift.runtime.registry import CURRENT, VERSION, current, is_registry, number_of

LOCK, HISTORY, REFUSED = ".lock", "history.jsonl", "refused"
STAGING = ".staging-"
WAIT_S = 30.0  # for another publisher, who holds the lock for as long as renames and removals take


@dataclass(frozen=True)
class Event:
    """A line of a registry's history. what: published, forced, rolled_back, pruned; at_s: unix time."""

    what: str
    version: str
    previous: str | None
    at_s: float


def versions(registry: Path) -> list[str]:
    """Names of a registry's versions, oldest first, whether complete or damaged since."""
    found = [p.name for p in registry.iterdir() if p.is_dir() and VERSION.fullmatch(p.name)]
    return sorted(found, key=_number)


def create(registry: Path, bundle: Bundle) -> str:
    """Make a registry whose first version is a copy of a bundle; returns its name."""
    if is_registry(registry) or (
        registry.exists() and (registry.is_file() or any(map(_is_foreign, registry.iterdir())))
    ):
        raise EdgeliftError(str(registry), "something there already", "a new path", "Choose another -o.")
    with staging(registry) as folder:
        copy = folder / "bundle"
        shutil.copytree(bundle.path, copy)
        return publish(registry, copy, None)


@contextmanager
def staging(registry: Path) -> Iterator[Path]:
    """Yield an empty directory inside a registry, gone when the block ends; those of dead processes are swept away.

    A lock on a file in it says that its owner lives.
    """
    registry.mkdir(parents=True, exist_ok=True)
    with locked(registry):
        sweep(registry)
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=registry))
        owner = (folder / LOCK).open("w")
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def sweep(registry: Path) -> None:
    """Remove what dead processes left: staging directories, half-written `current`s; the caller holds the lock."""
    for half in registry.glob(f".{CURRENT}.*"):
        half.unlink()
    for folder in registry.glob(f"{STAGING}*"):
        try:
            with (folder / LOCK).open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # its owner died before it could lock it, or while it removed it
            pass
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)


def publish(registry: Path, bundle: Path, parent: str | None, what: str = "published") -> str:
    """Make a bundle, which lies in this registry's staging, its next version and the current one; returns its name.

    parent: the version that the bundle was made from, None for the first one. EdgeliftError where that is not the
    current one any more: somebody else published, and what was proved against the parent says nothing of theirs.
    """
    for path in (bundle, *bundle.rglob("*")):  # whatever it was copied from: others read it, and it can be renamed
        path.chmod(0o755 if path.is_dir() else 0o644)
    load_bundle(bundle)  # what is published was verified, and as it lies there
    make_durable(bundle)
    with locked(registry):
        now = current(registry) if is_registry(registry) else None
        if now != parent:
            raise EdgeliftError(
                f"registry {registry}", f"{now or 'no version'} as the current one", f"{parent or 'none'}, as it was",
                "Somebody published meanwhile. Run it again: it begins with their version.",
            )  # fmt: skip
        name = f"v{max(map(_number, versions(registry)), default=0) + 1:04d}"
        os.rename(bundle, registry / name)
        sync(registry)
        _make_current(registry, name, what)
    return name


def rollback(registry: Path, to: str | None = None) -> tuple[str, str]:
    """Make an older version the current one: `to`, or the parent of the current one. Returns (from, to)."""
    check_registry(registry)
    with locked(registry):
        now = _named(registry) if to else current(registry)  # whoever says where to go may leave what is damaged
        name = to or parent_of(registry, now)
        if name == now:
            raise EdgeliftError(f"--to {name}", "the current version", "another one", "See `edgelift registry list`.")
        load_version(registry, name)
        _make_current(registry, name, "rolled_back")
    return now, name


def prune(registry: Path, keep: int) -> list[str]:
    """Remove all but the newest `keep` versions, the current one and its parent; returns what was removed."""
    check_registry(registry)
    if keep < 1:
        raise EdgeliftError("--keep", str(keep), "1 or more", "The current version always stays.")
    with locked(registry):
        now = current(registry)
        sweep(registry)
        spared = {now, _parent(read_manifest(registry / now))}
        gone = [name for name in versions(registry)[:-keep] if name not in spared]
        for name in gone:
            os.rename(registry / name, registry / f"{STAGING}{name}")  # in one step: no version is ever half there
            _note(registry, Event("pruned", name, now, time.time()))
        sweep(registry)
    return gone


def load_version(registry: Path, name: str) -> Bundle:
    """Open one version; EdgeliftError names those that are there."""
    if name not in versions(registry):
        raise EdgeliftError(
            f"version {name!r} of {registry}", "no such version", ", ".join(versions(registry)), "Name one of them."
        )
    return load_bundle(registry / name)


def parent_of(registry: Path, name: str) -> str:
    """Name of the version that one was adapted from; EdgeliftError where there is none, or it was pruned."""
    parent = _parent(read_manifest(registry / name))
    if parent not in versions(registry):
        raise EdgeliftError(
            f"parent of {name}", f"{parent or 'none'}", "a version that is still there", "Name another with --to."
        )
    return str(parent)


def history(registry: Path) -> list[Event]:
    """What happened to a registry, oldest first."""
    path = registry / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Event(**json.loads(line)) for line in lines if line.endswith("}")]  # one may be cut short by a full disk


def check_registry(path: Path) -> None:
    """EdgeliftError unless the path is a registry."""
    if not is_registry(path):
        raise EdgeliftError(
            str(path),
            "no registry",
            f"a directory with {CURRENT} and versions",
            "Make one: edgelift adapt BUNDLE ... -o",
        )


@contextmanager
def locked(registry: Path) -> Iterator[None]:
    """Hold a registry's lock; EdgeliftError where somebody else holds it for longer than any publication takes."""
    with (registry / LOCK).open("a") as file:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EdgeliftError(
                        f"registry {registry}", f"a lock that somebody has held for {WAIT_S:.0f} s", "a free one",
                        "See what else publishes here, and run it again.",
                    ) from None  # fmt: skip
                time.sleep(0.02)
        yield


def _make_current(registry: Path, name: str, what: str) -> None:
    previous = (_named(registry) or None) if is_registry(registry) else None
    with replaced_durably(registry / CURRENT) as temporary:
        temporary.write_text(name + "\n", encoding="utf-8")
    _note(registry, Event(what, name, previous, time.time()))


def _note(registry: Path, event: Event) -> None:
    """Append to the history: a record for people, which nothing depends on, so it may fail on a full disk."""
    with suppress(OSError), (registry / HISTORY).open("a", encoding="utf-8") as file:
        file.write("\n" * _cut_short(registry / HISTORY) + json.dumps(asdict(event)) + "\n")


def _cut_short(path: Path) -> bool:
    """Whether the last line of a file lacks its end."""
    return path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")


def _named(registry: Path) -> str:
    try:
        return current(registry)
    except EdgeliftError:
        return ""


def _parent(manifest: dict[str, Any]) -> str | None:
    parent = manifest.get("parent")
    return None if parent is None else str(parent["version"])


def _number(name: str) -> int:
    return number_of(name) or 0


def _is_foreign(path: Path) -> bool:
    """Whether it is none of what an interrupted `create` leaves."""
    return not (path.name.startswith(".") or path.name == HISTORY or VERSION.fullmatch(path.name))
