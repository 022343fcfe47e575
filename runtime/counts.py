"""What the live loop counts and says: totals, latencies in constant memory, complaints once a second."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("edgelift.live")

MOST_KINDS = 32  # of complaints told at once


@dataclass
class Counts:
    """Totals since the start.

    frames: came in whole. lifted: went out. dropped: overtaken by a newer frame of their stream before they were
    lifted. malformed, oversized, flooded: messages refused for what they held, for their size, for their rate. stale:
    frames that came twice or too late. unplaced: of a stream whose camera is not known. missing: gaps in the sequence
    numbers of what came. clock_resets: a stream's clock jumped back. swapped: people whose left and right were
    exchanged back. reconnects: of sources. swaps: lifters taken up from a registry. rollbacks: returns to the lifter
    before. sink_lost: frames that some sink could not take. failed: frames whose lifting failed.
    """

    frames: int = 0
    lifted: int = 0
    dropped: int = 0
    malformed: int = 0
    oversized: int = 0
    flooded: int = 0
    stale: int = 0
    unplaced: int = 0
    missing: int = 0
    clock_resets: int = 0
    swapped: int = 0
    reconnects: int = 0
    swaps: int = 0
    rollbacks: int = 0
    sink_lost: int = 0
    failed: int = 0

    def to_dict(self) -> dict[str, int]:
        """Name: total."""
        return asdict(self)


class Histogram:
    """Durations in buckets 2 % wide: percentiles of a stream of any length in a few kilobytes.

    A percentile is exact to half of a bucket, 1 %; the largest is kept as it was.
    """

    LOWEST_MS, GROWTH, BUCKETS = 1e-3, 1.02, 1100  # from 1 us; the last bucket is beyond 45 minutes

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(self.BUCKETS, np.int64)
        self.total_ms = 0.0
        self.max_ms = 0.0

    def add(self, ms: float) -> None:
        """Count one duration."""
        place = 0 if ms <= self.LOWEST_MS else int(math.log(ms / self.LOWEST_MS) / _LOG_GROWTH) + 1
        self.counts[min(place, self.BUCKETS - 1)] += 1
        self.total_ms += ms
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, level: float) -> float | None:
        """Duration in ms below which `level` % of them lie; None where there is none."""
        seen = int(self.counts.sum())
        if not seen:
            return None
        place = int(np.searchsorted(self.counts.cumsum(), max(1, math.ceil(level / 100 * seen))))
        middle = self.LOWEST_MS * self.GROWTH ** (place - 0.5)
        return round(float(min(middle, self.max_ms)), 4)

    def to_dict(self) -> dict[str, float | None]:
        """p50, p90, p99, p99_9 and max in ms, never clipped; None for no value."""
        levels = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
        told = {name: self.percentile(level) for name, level in levels.items()}
        return told | {"max": round(self.max_ms, 4) if self.counts.any() else None}


_LOG_GROWTH = math.log(Histogram.GROWTH)


@dataclass
class Complaints:
    """What went wrong, told once a second however often it happens; safe to call from any thread."""

    interval_s: float = 1.0
    _told_at: float = field(default_factory=lambda: -math.inf)
    _waiting: dict[str, tuple[int, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, what: Any) -> None:
        """Note one event of a kind; `what` is told with the next report, if it is the last of its kind."""
        with self._lock:
            if kind not in self._waiting and len(self._waiting) >= MOST_KINDS:  # a kind may hold a name sent to us
                kind = "of other kinds"
            self._waiting[kind] = (self._waiting.get(kind, (0, ""))[0] + 1, str(what)[:400])

    def report(self, now: bool = False) -> None:
        """Log what is waiting if the last report is a second old, or at once."""
        if not self._waiting or (not now and time.monotonic() - self._told_at < self.interval_s):
            return
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._told_at = time.monotonic()
        for kind, (count, last) in waiting.items():
            log.warning("%s: %s%s", kind, last, f" ({count} times)" if count > 1 else "", extra={"count": count})


@dataclass
class Live:
    """What all parts of a running loop share."""

    counts: Counts = field(default_factory=Counts)
    complaints: Complaints = field(default_factory=Complaints)
    latency: Histogram = field(default_factory=Histogram)
    backend: Histogram = field(default_factory=Histogram)
    dropped_by_stream: dict[str, int] = field(default_factory=dict)

    def drop(self, stream: str) -> None:
        """Count a frame that a newer one of its stream overtook."""
        self.counts.dropped += 1
        self.dropped_by_stream[stream] = self.dropped_by_stream.get(stream, 0) + 1
