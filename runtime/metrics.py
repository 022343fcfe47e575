"""What the loop counts, for Prometheus: a text endpoint at http://HOST:PORT/metrics. Needs the extra `stream`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.address import LOOPBACK
from edgelift.runtime.counts import Histogram, Live

BOUNDS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the buckets that are exported


class Collector:
    """Reads the loop's counts when somebody asks for them; the loop itself does nothing for it."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def collect(self) -> Iterator[Any]:
        """Yield every metric."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        for name, total in self.live.counts.to_dict().items():
            yield CounterMetricFamily(f"edgelift_{name}", f"{name}, since the start", value=total)
        dropped = CounterMetricFamily("edgelift_stream_dropped", "frames left out, by stream", labels=["stream"])
        for stream, total in list(self.live.dropped_by_stream.items()):
            dropped.add_metric([stream], total)
        yield dropped
        for name, histogram in (("latency", self.live.latency), ("backend", self.live.backend)):
            family = HistogramMetricFamily(f"edgelift_{name}_seconds", f"{name} of a lifted frame")
            family.add_metric([], _buckets(histogram), histogram.total_ms / 1e3)
            yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    places = [int(np.ceil(np.log(ms / Histogram.LOWEST_MS) / np.log(Histogram.GROWTH))) + 1 for ms in BOUNDS_MS]
    totals = histogram.counts.cumsum()
    told = [(f"{ms / 1e3:g}", float(totals[place - 1])) for ms, place in zip(BOUNDS_MS, places, strict=True)]
    return [*told, ("+Inf", float(totals[-1]))]


@contextmanager
def served(live: Live, where: str | None) -> Iterator[None]:
    """Serve the counts at `PORT` or `HOST:PORT` until the block ends, loopback without a host; None: not at all."""
    if where is None:
        yield
        return
    host, _, port = where.rpartition(":")
    if not (port.isdecimal() and 0 <= int(port) < 65536):
        raise EdgeliftError("--metrics", repr(where), "PORT or HOST:PORT", "Give, say, --metrics 9090.")
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise missing_extra("prometheus_client", "stream") from error
    registry = CollectorRegistry()
    registry.register(Collector(live))
    try:
        server, thread = start_http_server(int(port), host or LOOPBACK, registry)
    except OSError as error:
        raise EdgeliftError(
            f"--metrics {where}", f"{error.strerror or error}", "a free port of this machine", "Choose another one."
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
