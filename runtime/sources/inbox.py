"""The inbox: one thread waits for every source at once, and takes what has come.

No queue lies between a socket and the loop, so a frame waits nowhere but in the kernel, and nothing grows.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Protocol

from edgelift.runtime.frames import Frame

LONGEST_WAIT_S = 0.25  # a signal to stop is noticed after that at the latest
MOST_AT_ONCE = 256  # messages taken from one source before another one has its turn


class Source(Protocol):
    """Where frames come from. `ended`: nothing will come any more."""

    name: str
    ended: bool

    def filenos(self) -> Sequence[int]:
        """File descriptors that become readable when something comes."""

    def wake_ns(self) -> int | None:
        """When it wants its turn though nothing is readable, on time.perf_counter_ns; None: not by itself."""

    def take(self) -> list[Frame]:
        """Everything that has come, oldest first, at most MOST_AT_ONCE messages; never waits."""

    def close(self) -> None:
        """Let go of what is held."""


class Inbox:
    """Waits for several sources; a context manager that closes them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)

    @property
    def ended(self) -> bool:
        """Nothing will come any more."""
        return all(source.ended for source in self.sources)

    def wait(self, longest_s: float = LONGEST_WAIT_S) -> list[Frame]:
        """Wait until something comes, or until the time is over; return what has come, in the order of the sources."""
        live = [source for source in self.sources if not source.ended]
        wakes = {source: source.wake_ns() for source in live}
        now = time.perf_counter_ns()
        soonest = min((wake for wake in wakes.values() if wake is not None), default=now + int(longest_s * 1e9))
        timeout_s = min(max(0, soonest - now) / 1e9, longest_s)
        watched = {number: source for source in live for number in source.filenos()}
        if watched or timeout_s > 0:
            readable, _, _ = select.select(list(watched), (), (), timeout_s)  # to the microsecond, unlike poll
        else:
            readable = []
        now = time.perf_counter_ns()
        ready = {watched[number] for number in readable}
        frames: list[Frame] = []
        for source in live:
            wake = wakes[source]
            if source in ready or (wake is not None and wake <= now):
                frames += source.take()
        return frames

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *exception: object) -> None:
        for source in self.sources:
            source.close()
