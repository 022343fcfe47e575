"""How long a backend takes: back to back, at a camera's pace with idle gaps between, and from cold.

Paced calls are what a live lifter makes, and they are often slower than back-to-back ones: clocks fall and caches are
taken while it waits. Every measured call counts; no tail is clipped.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.files import replaced
from edgelift.runtime.backends import BACKENDS, Backend, open_backend
from edgelift.runtime.backends.contract import Float32
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.telemetry import Telemetry, sampled

NS = 1_000_000_000
COLD = "cold_start"
BACK_TO_BACK = "back_to_back"
PACED_HZ = {"paced_30": 30, "paced_60": 60, "paced_120": 120}
MODES = (COLD, BACK_TO_BACK, *PACED_HZ)
LEVELS = {"p50_us": 50, "p90_us": 90, "p95_us": 95, "p99_us": 99, "max_us": 100}
LOADED = ("numpy", "onnxruntime", "tensorrt", "tensorrt_rtx")

Row = dict[str, Any]
Inputs = Mapping[str, Float32]
Call = Callable[[], object]
Open = Callable[[Bundle, str, str], Backend]


class Clock:
    """Where the harness takes its time from; tests replace it."""

    def now_ns(self) -> int:
        """Nanoseconds that never run backwards."""
        return time.perf_counter_ns()

    def sleep(self, seconds: float) -> None:
        """Give the core away for about `seconds`."""
        time.sleep(seconds)


@runtime_checkable
class Timed(Protocol):
    """A backend that can tell what a call spent on the device."""

    def timed(self, inputs: Inputs) -> Mapping[str, float]:
        """Run once and return copy_in_us, run_us and copy_out_us, by the device's own clock."""


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured. Where a time and a count are given, both are reached."""

    modes: tuple[str, ...] = MODES
    warmup_s: float = 0.2
    """Before every mode but the cold start, in the mode's own rhythm: calls that are not counted."""
    warmup_calls: int = 50
    measure_s: float = 3.0
    """Back to back."""
    measure_calls: int = 1000
    paced_s: float = 5.0
    """For each pace."""
    paced_calls: int = 100
    cold_starts: int = 3
    """How often the backend is opened for the cold start."""
    telemetry_interval_s: float = 1.0

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            raise EdgeliftError("bench modes", ", ".join(unknown) or "none", ", ".join(MODES), "Choose among them.")
        for name, value in asdict(self).items():
            least = 1 if name in ("measure_calls", "paced_calls", "cold_starts") else 0
            if name != "modes" and value < least:
                raise EdgeliftError(f"bench setting {name}", str(value), f"{least} or more", "Give more.")


QUICK = BenchSettings(measure_s=0.5, measure_calls=200, paced_s=1.0, paced_calls=30, cold_starts=1)


@dataclass(frozen=True, eq=False)
class Report:
    """All a benchmark gave.

    rows: see `bench`. skipped: {backend, precision, batch, reason}, what cannot run here; batch None: none can.
    machine: what it ran on, None for what the system does not tell. telemetry: over the whole benchmark.
    """

    rows: list[Row]
    skipped: list[dict[str, Any]]
    machine: dict[str, Any]
    telemetry: dict[str, Any]
    settings: BenchSettings

    def to_dict(self) -> dict[str, Any]:
        """The keys of `edgelift bench --json`."""
        return asdict(self)


def bench(
    bundle: Bundle,
    backends: Sequence[str],
    precisions: Sequence[str] = ("fp32",),
    batches: Sequence[int] = (1,),
    settings: BenchSettings = BenchSettings(),
    *,
    opener: Open = open_backend,
    clock: Clock = Clock(),  # noqa: B008 - without state
    progress: Callable[[int, int | None, str], None] = lambda done, total, note: None,
) -> Report:
    """Measure every backend, precision, batch size and mode on the bundle's held-out windows.

    A row: backend, provider, precision, batch, mode, calls; p50_us ... max_us of a call, from arrays in host memory to
    arrays in host memory; throughput_per_s, in windows lifted, over all the time from the first call to the last;
    device, {copy_in, run, copy_out: {p50_us, ...}}, or None where the backend does not tell; telemetry while it ran.
    A paced row adds deadline_misses, skipped and wake_max_us (see `paced`). A cold start's is of the smallest batch and
    adds cold_start_ms, first_call_ms and reopen_ms (see `Harness`).
    """
    _check(backends, precisions, batches)
    rows: list[Row] = []
    skipped: list[dict[str, Any]] = []
    pairs = list(itertools.product(backends, precisions))
    warm = [mode for mode in settings.modes if mode != COLD]
    each = (COLD in settings.modes) + len(batches) * len(warm)
    with sampled(settings.telemetry_interval_s) as telemetry:
        harness = Harness(bundle, settings, opener, clock, telemetry)
        for index, (name, precision) in enumerate(pairs):
            progress(index * each, len(pairs) * each, f"{name} {precision}")
            for done, (batch, result) in enumerate(harness.measure(name, precision, batches), start=1):
                if isinstance(result, EdgeliftError):
                    skipped.append({"backend": name, "precision": precision, "batch": batch, "reason": str(result)})
                else:
                    rows.append(result)
                progress(index * each + done, len(pairs) * each, f"{name} {precision}")
    return Report(rows, skipped, machine_facts(telemetry), telemetry.to_dict(), settings)


def _check(backends: Sequence[str], precisions: Sequence[str], batches: Sequence[int]) -> None:
    for subject, given, expected, fits in (
        ("bench backends", backends, "some of " + ", ".join(BACKENDS), all(name in BACKENDS for name in backends)),
        ("bench precisions", precisions, "at least one", True),
        ("bench batches", batches, "1 or more each", all(batch >= 1 for batch in batches)),
    ):
        if not given or not fits:
            raise EdgeliftError(subject, ", ".join(map(str, given)) or "none", expected, "Choose others.")


@dataclass(frozen=True, eq=False)
class Harness:
    """What measures one bundle.

    A cold start opens the backend anew `cold_starts` times, lifts one batch and closes it; its percentiles are of these
    first calls. cold_start_ms: from opening to the first pose, of the first opening, which may also load the backend's
    libraries; first_call_ms: of that, the call. reopen_ms: the median of the later openings, None where there is none.
    """

    bundle: Bundle
    settings: BenchSettings
    opener: Open
    clock: Clock
    telemetry: Telemetry

    def measure(
        self, name: str, precision: str, batches: Sequence[int]
    ) -> Iterator[tuple[int | None, Row | EdgeliftError]]:
        """Yield (batch, its row or why there is none), mode by mode; (None, why) where the backend does not open."""
        head: Row = {"backend": name, "provider": None, "precision": precision, "batch": min(batches)}
        try:
            if COLD in self.settings.modes:
                yield head["batch"], self._watched(self._cold_row, head)
            backend = self.opener(self.bundle, name, precision)
        except EdgeliftError as error:
            yield None, error
            return
        with backend:
            for batch in batches:
                yield from self._modes(backend, head | {"provider": backend.provider, "batch": batch})

    def _modes(self, backend: Backend, head: Row) -> Iterator[tuple[int, Row | EdgeliftError]]:
        for mode in (mode for mode in self.settings.modes if mode != COLD):
            try:
                yield head["batch"], self._watched(self._row, backend, head, mode)
            except EdgeliftError as error:  # a batch larger than the engine takes
                yield head["batch"], error
                return

    def _watched(self, measure: Callable[..., Row], *what: object) -> Row:
        since = len(self.telemetry.samples)
        return measure(*what) | {"telemetry": self.telemetry.summary(since)}

    def _row(self, backend: Backend, head: Row, mode: str) -> Row:
        windows = feed(self.bundle, head["batch"])
        timings = self._in_rhythm(lambda: backend.run(next(windows)), mode)
        row = head | {"mode": mode} | timings.to_row(head["batch"])
        return row | {"device": self._device(backend, windows, mode) if isinstance(backend, Timed) else None}

    def _device(self, backend: Timed, windows: Iterator[Inputs], mode: str) -> Row:
        """Time the device in calls of their own, in the same rhythm: its events cost the host time."""
        splits: list[Mapping[str, float]] = []
        timings = self._in_rhythm(lambda: splits.append(backend.timed(next(windows))), mode)
        counted = splits[-len(timings.latency_ns) :]
        return {part: percentiles([s[f"{part}_us"] for s in counted]) for part in ("copy_in", "run", "copy_out")}

    def _in_rhythm(self, call: Call, mode: str) -> Timings:
        """Warm up and measure, both in the mode's rhythm: clocks that back-to-back calls raised stay up for seconds."""
        s = self.settings
        if mode == BACK_TO_BACK:
            back_to_back(call, self.clock, s.warmup_s, s.warmup_calls)
            return back_to_back(call, self.clock, s.measure_s, s.measure_calls)
        paced(call, self.clock, PACED_HZ[mode], s.warmup_s, s.warmup_calls)
        return paced(call, self.clock, PACED_HZ[mode], s.paced_s, s.paced_calls)

    def _cold_row(self, head: Row) -> Row:
        windows, provider = feed(self.bundle, head["batch"]), None
        calls: list[int] = []
        totals: list[int] = []
        for _ in range(self.settings.cold_starts):
            opened = self.clock.now_ns()
            with self.opener(self.bundle, head["backend"], head["precision"]) as backend:
                inputs, started = next(windows), self.clock.now_ns()
                backend.run(inputs)
                ended = self.clock.now_ns()
                provider = backend.provider
            calls.append(ended - started)
            totals.append(ended - opened)
        row = head | {"provider": provider, "mode": COLD} | Timings(calls, sum(totals)).to_row(head["batch"])
        reopen_ms = float(np.median(totals[1:])) / 1e6 if totals[1:] else None
        return row | {
            "device": None,
            "cold_start_ms": totals[0] / 1e6,
            "first_call_ms": calls[0] / 1e6,
            "reopen_ms": reopen_ms,
        }


def feed(bundle: Bundle, batch: int) -> Iterator[Inputs]:
    """Yield the held-out windows in batches, round and round; made beforehand, so that no call waits for one."""
    reference = bundle.reference()
    windows = len(reference["keypoints"])
    names = [wanted["name"] for wanted in bundle.manifest["inputs"]]
    picks = [np.arange(start, start + batch) % windows for start in range(0, windows, batch)]
    return itertools.cycle([{name: reference[name][pick] for name in names} for pick in picks])


# Rhythms


@dataclass(frozen=True, eq=False)
class Timings:
    """What was measured; `added` is what the rhythm adds to a row."""

    latency_ns: list[int]
    elapsed_ns: int
    added: Row = field(default_factory=dict)

    def to_row(self, batch: int) -> Row:
        """Return the keys of a row; all the elapsed time counts for the throughput, gaps too."""
        calls = len(self.latency_ns)
        row: Row = {"calls": calls} | percentiles([ns / 1000 for ns in self.latency_ns])
        row["throughput_per_s"] = calls * batch * NS / self.elapsed_ns
        return row | self.added


def percentiles(values_us: Sequence[float]) -> dict[str, float]:
    """p50_us, p90_us, p95_us, p99_us (linear between neighbours) and max_us of all values."""
    return dict(zip(LEVELS, map(float, np.percentile(values_us, list(LEVELS.values()))), strict=True))


def back_to_back(call: Call, clock: Clock, seconds: float, calls: int) -> Timings:
    """Call without a pause, for at least `seconds` and at least `calls` times."""
    latency_ns: list[int] = []
    first = ended = clock.now_ns()
    while ended - first < seconds * NS or len(latency_ns) < calls:
        started = clock.now_ns()
        call()
        ended = clock.now_ns()
        latency_ns.append(ended - started)
    return Timings(latency_ns, ended - first)


def paced(call: Call, clock: Clock, hz: int, seconds: float, calls: int) -> Timings:
    """Call at due times 1 / hz apart, idle in between, for at least `seconds` and at least `calls` times.

    A call misses its deadline if it is not finished when the next is due, or started late because the one before
    overran. After an overrun the newest due time is served at once and those before it are skipped, as the live loop
    drops frames: a backend that is too slow falls behind by one call and never by more.

    Adds deadline_misses and skipped, counts, and wake_max_us: how late the system began a call that could have begun.
    """
    period = NS // hz
    latency_ns: list[int] = []
    misses = skipped = index = wake_ns = 0
    ended = clock.now_ns()
    first = ended + period  # the first call, too, comes after a gap
    while index < seconds * hz or len(latency_ns) < calls:
        due = first + index * period
        late, ready = ended > due, max(ended, due)
        sleep_until(clock, due)
        started = clock.now_ns()
        wake_ns = max(wake_ns, started - ready)
        call()
        ended = clock.now_ns()
        latency_ns.append(ended - started)
        misses += late or ended > due + period
        following = max(index + 1, (ended - first) // period)
        skipped += following - index - 1
        index = following
    elapsed_ns = max(ended, first + index * period) - first  # to the end of the last gap
    added = {"deadline_misses": misses, "skipped": skipped, "wake_max_us": wake_ns / 1000}
    return Timings(latency_ns, elapsed_ns, added)


def sleep_until(clock: Clock, due_ns: int) -> None:
    """Sleep until a time, or not at all where it is past.

    The last part is slept too: spinning would start on time, but on a core, and a clock, that the spinning has woken.
    The system wakes a sleeper some 50 us late, as it wakes a live lifter that waits for its camera. That counts for the
    deadline and not for the latency. The loop is for systems that wake sleepers early.
    """
    while (left := due_ns - clock.now_ns()) > 0:
        clock.sleep(left / NS)


# What it ran on


def machine_facts(telemetry: Telemetry) -> dict[str, Any]:
    """CPU, usable cores, governor, system, GPUs, driver, and versions of what this process has loaded, None if not."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    facts = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "governor": governor.read_text().strip() if governor.is_file() else None,
        "system": platform.platform(),
        "gpu": ", ".join(telemetry.gpus) or None,
        "driver": telemetry.driver,
        "python": platform.python_version(),
    }
    return facts | {name: getattr(sys.modules.get(name), "__version__", None) for name in LOADED}


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the CPU's name; where the kernel does not tell it (ARM), that of the architecture."""
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.M) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine() or None


# Picture

MARKS = {"p50_us": "o", "p90_us": "_", "p99_us": "^", "max_us": "x"}
TITLES = {COLD: "cold start\n(first call)"}


def plot(report: Report, path: Path) -> None:
    """Draw, a panel for each backend, p50, p90, p99 and max of a call by mode; EdgeliftError without matplotlib.

    The kind of picture is that of the path's suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_extra("matplotlib", "train") from error
    names = list(dict.fromkeys(row["backend"] for row in report.rows))
    if not names:
        raise EdgeliftError(
            str(path), "a benchmark without a row", "one that measured something", "See what it skipped."
        )
    figure = Figure(figsize=(1.5 + 4.5 * len(names), 4.2), layout="constrained")
    kind = path.suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise EdgeliftError(str(path), f"suffix {path.suffix or 'none'}", ".png, .svg or .pdf", "Rename it.")
    series = list(dict.fromkeys((row["precision"], row["batch"]) for row in report.rows))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        _panel(panel, [row for row in report.rows if row["backend"] == name], series)
    panels[0].set_ylabel("host to host, µs a call")
    # outside the panels: inside, it would sooner or later cover a maximum
    handles = [*_keys_of_series(panels[0], series), *_keys_of_marks(panels[0])]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    with replaced(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=120)


def _panel(axes: Any, rows: list[Row], series: list[tuple[str, int]]) -> None:
    """Draw one backend's rows; series are precisions and batch sizes, side by side within a mode."""
    modes = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    for row in rows:
        rank = series.index((row["precision"], row["batch"]))
        x, colour = modes.index(row["mode"]) + (rank - (len(series) - 1) / 2) * 0.6 / len(series), f"C{rank % 10}"
        axes.plot([x, x], [row["p50_us"], row["max_us"]], color=colour, linewidth=1, alpha=0.5)
        for level, mark in MARKS.items():
            axes.plot(x, row[level], mark, color=colour, markersize=6)
    axes.set_title(f"{rows[0]['backend']} ({rows[0]['provider']})", fontsize=10)
    axes.set_xticks(range(len(modes)), [TITLES.get(mode, mode.replace("_", " ")) for mode in modes], fontsize=8)
    axes.set_xlim(-0.5, len(modes) - 0.5)
    axes.set_yscale("log")
    axes.grid(axis="y", which="both", alpha=0.25)


def _keys_of_series(axes: Any, series: list[tuple[str, int]]) -> list[Any]:
    return [
        axes.plot([], [], color=f"C{rank % 10}", linewidth=3, label=f"{precision}, batch {batch}")[0]
        for rank, (precision, batch) in enumerate(series)
    ]


def _keys_of_marks(axes: Any) -> list[Any]:
    return [axes.plot([], [], mark, color="0.3", label=level.removesuffix("_us"))[0] for level, mark in MARKS.items()]
