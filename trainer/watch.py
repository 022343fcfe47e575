"""The watcher: sessions that appear in a folder become the next version of a registry, or are refused; one by one.

All it knows lies in the registry's `watch.json`, replaced whole after every step; sessions are known by their contents.
So it may be killed at any time: what was not finished is begun again, and the adaptation itself goes on where it was.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced_durably
from edgelift.poses.sessions import load_session
from edgelift.runtime.bundle import sha256
from edgelift.runtime.registries import LocalRegistry
from edgelift.trainer.watch_page import write_page

STATE, LOCK, PAGE = "watch.json", ".watch.lock", "watch.html"
FIRST_RETRY_S, LONGEST_RETRY_S, MOST_ATTEMPTS = 30.0, 3600.0, 6
KINDNESS = 10  # of `nice`: what is live on this machine comes first
MOST_RUNS = 500  # that the page remembers
MOST_TOGETHER = 8  # sessions of one adaptation
PUBLISHED, REFUSED = 0, 3  # exit codes of `edgelift adapt`; all others may be passing
PR_SET_PDEATHSIG = 1  # prctl: a signal for the child when its parent dies
Say = Callable[[str], None]


@dataclass(frozen=True)
class WatchSettings:
    """settle_s: how long a file must not have changed; every_s: how often the folder is looked at."""

    settle_s: float = 5.0
    every_s: float = 5.0
    once: bool = False
    adapt: tuple[str, ...] = ()
    """Further arguments of `edgelift adapt`."""


@dataclass
class Seen:
    """A session by its contents. state: published, refused, failed (to be tried again), given_up."""

    file: str
    state: str
    why: str = ""
    attempts: int = 0
    retry_at_s: float = 0.0
    alone: bool = False
    """To be tried by itself: together with others it came to nothing."""


@dataclass
class State:
    """sessions: by sha256. runs: what was done, the newest last."""

    sessions: dict[str, Seen] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    known: dict[tuple[str, int, int], str] = field(default_factory=dict)
    """sha256 by name, size and time of change: recordings are read once. Not kept on disk."""


def watch(folder: Path, registry: Path, settings: WatchSettings, stopped: Callable[[], bool], say: Say) -> State:
    """Adapt to what appears in a folder until `stopped`; once: to what lies there now."""
    LocalRegistry(registry).check()
    if not folder.is_dir():
        raise EdgeliftError(str(folder), "no directory", "where finished sessions appear", "Check the path.")
    with only_one(registry):
        state = load_state(registry)
        show(registry, folder, state)
        while not stopped():
            due = ready(folder, state, settings)
            if due:
                step(batch(due, state), registry, state, settings, stopped, say)
                show(registry, folder, state)
            elif settings.once:
                break
            else:
                wait(settings.every_s, stopped)
    return state


@contextmanager
def only_one(registry: Path) -> Iterator[None]:
    """EdgeliftError where another watcher runs for this registry; its lock dies with it."""
    with (registry / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EdgeliftError(
                f"registry {registry}", "a watcher that runs already", "one at a time", "Stop the other one."
            ) from None
        yield


def ready(folder: Path, state: State, settings: WatchSettings) -> dict[str, Path]:
    """Sessions that are finished and due, by sha256: new ones, and those whose time to be tried again has come."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        if path.name.startswith(".") or not settled(path, settings):
            continue
        try:
            stat = path.stat()
            known = (path.name, stat.st_size, stat.st_mtime_ns)
            key = state.known.get(known) or sha256(path)
        except OSError:  # taken away again meanwhile
            continue
        state.known[known] = key
        if key not in state.sessions or is_due(state.sessions[key]):
            found[key] = path
    return found


def batch(due: dict[str, Path], state: State) -> dict[str, Path]:
    """What is adapted to next: one that is to be tried alone, else a few together."""
    alone = [key for key in due if key in state.sessions and state.sessions[key].alone]
    return {key: due[key] for key in (alone[:1] or list(due)[:MOST_TOGETHER])}


def settled(path: Path, settings: WatchSettings) -> bool:
    """Whether a file has not changed for a while; one from the future counts as old: clocks are set back."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    return settings.once or age >= settings.settle_s or age < 0


def is_due(seen: Seen) -> bool:
    """Whether a failed session is to be tried again now."""
    wait_s = seen.retry_at_s - time.time()
    return seen.state == "failed" and not 0 < wait_s <= LONGEST_RETRY_S  # farther off than ever set: the clock moved


def step(
    due: dict[str, Path], registry: Path, state: State, settings: WatchSettings, stopped: Callable[[], bool], say: Say
) -> None:
    """Look at what is due, adapt to what can be read, and note what came of it."""
    readable = {}
    for key, path in due.items():
        try:
            load_session(path)
            readable[key] = path
        except Exception as error:  # perhaps it is still being copied
            failed(state, key, path, str(error))
            say(f"{path.name}: {error}")
    if readable:
        say(f"adapting to {', '.join(p.name for p in readable.values())}")
        code, told, said = adapt(list(readable.values()), registry, settings, stopped)
        if stopped() and code not in (PUBLISHED, REFUSED):
            return  # it goes on from there next time
        outcome(readable, code, told, said, state)
        say(summary(state.runs[-1]))
    save_state(registry, state)


def adapt(
    paths: Sequence[Path], registry: Path, settings: WatchSettings, stopped: Callable[[], bool]
) -> tuple[int, dict[str, Any], str]:
    """Run `edgelift adapt` in a process of its own, so that whatever befalls it leaves the watcher whole."""
    command = [sys.executable, "-m", "edgelift.cli", "adapt", str(registry), *map(str, paths), "-o", str(registry)]
    process = subprocess.Popen(
        [*command, "--json", *settings.adapt], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=polite(), preexec_fn=_subordinate,
    )  # fmt: skip
    while True:
        try:
            out, said = process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stopped():
                process.terminate()
            continue
        try:
            told = json.loads(out)
        except ValueError:  # it died before it could tell
            told = {}
        return process.returncode, told, said.strip().splitlines()[-1] if said.strip() else ""


def _subordinate() -> None:
    """In the child: less urgent than what is live, and not outliving the watcher: two would work on one adaptation."""
    os.nice(KINDNESS)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def polite() -> dict[str, str]:
    """The environment of a process that leaves a core to what is live.

    Threads of one product wait for each other: with one of them behind a busy core at a higher priority, all are.
    """
    threads = str(max(1, (os.cpu_count() or 2) - 1))
    return {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"} | os.environ


def outcome(paths: dict[str, Path], code: int, told: dict[str, Any], said: str, state: State) -> None:
    """Note what a run came to, for each of its sessions."""
    bad = {f["session"] for f in told.get("findings", ()) if f["refused"]}
    for key, path in paths.items():
        if code == PUBLISHED:
            state.sessions[key] = Seen(path.name, "published", told["version"])
        elif code == REFUSED and bad:
            if path.stem in bad:  # the others are adapted to without it
                why = "; ".join(f["what"] for f in told["findings"] if f["session"] == path.stem and f["refused"])
                state.sessions[key] = Seen(path.name, "refused", why)
        elif code == REFUSED and len(paths) == 1:
            state.sessions[key] = Seen(path.name, "refused", "; ".join(told.get("reasons", ())) or said)
        elif len(paths) > 1:  # one of them may be to blame for all
            state.sessions[key] = Seen(path.name, "failed", "together with others: " + said, alone=True)
        else:
            failed(state, key, path, said or f"exit code {code}")
    how = {PUBLISHED: "published", REFUSED: "refused"}.get(code, "failed")
    run = {"at_s": time.time(), "sessions": [p.name for p in paths.values()], "how": how, "said": said, "told": told}
    state.runs = [*state.runs[1 - MOST_RUNS :], run]


def failed(state: State, key: str, path: Path, why: str) -> None:
    """Note a failure; the next attempt waits twice as long as the one before."""
    for other in [k for k, seen in state.sessions.items() if seen.file == path.name and k != key]:
        if state.sessions[other].state in ("failed", "given_up"):
            del state.sessions[other]  # the same file, when less of it was there
    attempts = state.sessions[key].attempts + 1 if key in state.sessions else 1
    wait_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (attempts - 1))
    how = "failed" if attempts < MOST_ATTEMPTS else "given_up"
    state.sessions[key] = Seen(path.name, how, why, attempts, time.time() + wait_s, alone=True)


def summary(run: dict[str, Any]) -> str:
    """One line about a run."""
    told = run["told"]
    what = told.get("version") or "; ".join(told.get("reasons", ())) or run["said"]
    return f"{run['how']}: {', '.join(run['sessions'])}: {what}"


def wait(seconds: float, stopped: Callable[[], bool]) -> None:
    """Wait, but not beyond a signal."""
    until = time.monotonic() + seconds
    while not stopped() and time.monotonic() < until:
        time.sleep(0.1)


def load_state(registry: Path) -> State:
    """Read what is known; EdgeliftError for a file that was edited by hand and is none any more."""
    path = registry / STATE
    if not path.is_file():
        return State()
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return State({key: Seen(**seen) for key, seen in told["sessions"].items()}, told["runs"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EdgeliftError(
            str(path), f"an unreadable state ({error})", "what a watcher wrote", "Delete it: all sessions count as new."
        ) from error


def save_state(registry: Path, state: State) -> None:
    """Replace what is known."""
    with replaced_durably(registry / STATE) as temporary:
        told = {"sessions": {key: asdict(seen) for key, seen in state.sessions.items()}, "runs": state.runs}
        temporary.write_text(json.dumps(told), encoding="utf-8")


def show(registry: Path, folder: Path, state: State) -> None:
    """Write the page."""
    write_page(registry / PAGE, registry, folder, state.runs, [asdict(seen) for seen in state.sessions.values()])
