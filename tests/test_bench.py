"""The harness against a clock that only known amounts move: every figure can be said beforehand."""

from __future__ import annotations

import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import Backend
from edgelift.runtime.backends.contract import Float32
from edgelift.runtime.bench import (
    MODES,
    QUICK,
    BenchSettings,
    Clock,
    Report,
    back_to_back,
    bench,
    cpu_name,
    feed,
    paced,
    percentiles,
    plot,
)
from edgelift.runtime.bundle import Bundle, load_bundle, write_bundle

MS = 1_000_000
WINDOWS = 7
KEYS = {
    "backend", "provider", "precision", "batch", "mode", "calls", "p50_us", "p90_us", "p95_us", "p99_us", "max_us",
    "throughput_per_s", "device", "telemetry",
}  # fmt: skip
PACED_KEYS = KEYS | {"deadline_misses", "skipped", "wake_max_us"}
COLD_KEYS = KEYS | {"cold_start_ms", "first_call_ms", "reopen_ms"}
ONE_MODE = BenchSettings(modes=("back_to_back",), warmup_s=0, warmup_calls=0, measure_s=0, measure_calls=10)


class VirtualClock(Clock):
    """Moves when told to; keeps what it slept."""

    def __init__(self, wakes_late_ns: int = 0) -> None:
        self.now = 5_000_000_017
        self.wakes_late_ns = wakes_late_ns
        self.slept_ns: list[int] = []

    def now_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept_ns.append(round(seconds * 1e9))
        self.now += self.slept_ns[-1] + self.wakes_late_ns


class Known(Backend):
    """Takes as long as it is told and keeps what it was given."""

    name, provider, precision = "cpu", "KnownProvider", "fp32"

    def __init__(self, bundle: Bundle, clock: VirtualClock, latencies_ns: Iterable[int]) -> None:
        super().__init__(bundle)
        self.clock = clock
        self.latencies_ns = iter(latencies_ns)
        self.started_ns: list[int] = []
        self.given: list[Float32] = []
        self.closed = 0

    def _execute(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        self.started_ns.append(self.clock.now)
        self.given.append(inputs["keypoints"])
        self.clock.now += next(self.latencies_ns)
        return {"poses": np.zeros((len(inputs["keypoints"]), 14, 3), np.float32)}

    def close(self) -> None:
        self.closed += 1


class KnownDevice(Known):
    """Also tells what the device did."""

    copies_ns = iter(range(0))

    def timed(self, inputs: Mapping[str, Float32]) -> Mapping[str, float]:
        self.run(inputs)
        return {"copy_in_us": float(next(self.copies_ns)), "run_us": 20.0, "copy_out_us": 5.0}


@pytest.fixture(scope="module")
def known_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with held-out windows and no graph to run: window i holds i everywhere."""

    def fill(folder: Path) -> None:
        keypoints = np.ones((WINDOWS, 1, 14, 3), np.float32) * np.arange(WINDOWS, dtype=np.float32)[:, None, None, None]
        intrinsics = np.full((WINDOWS, 4), 1000, np.float32)
        poses = np.zeros((WINDOWS, 14, 3), np.float32)
        np.savez(folder / "reference.npz", keypoints=keypoints, intrinsics=intrinsics, poses=poses)

    inputs = [
        {"name": "keypoints", "dtype": "float32", "shape": ["n", 1, 14, 3]},
        {"name": "intrinsics", "dtype": "float32", "shape": ["n", 4]},
    ]
    return write_bundle(tmp_path_factory.mktemp("known") / "bundle", {"inputs": inputs}, fill)


def calls_of(clock: VirtualClock, latencies_ns: Iterable[int], starts_ns: list[int]) -> Callable[[], None]:
    given = iter(latencies_ns)

    def call() -> None:
        starts_ns.append(clock.now)
        clock.now += next(given)

    return call


def run_known(
    bundle: Bundle, latencies_ns: Iterable[int], settings: BenchSettings, batch: int = 1
) -> tuple[Any, Known]:
    """The one row of a backend that is opened once."""
    clock = VirtualClock()
    backend = Known(bundle, clock, latencies_ns)
    report = bench(bundle, ["cpu"], batches=[batch], settings=settings, opener=lambda *_: backend, clock=clock)
    (row,) = report.rows
    return row, backend


# Figures


def test_percentiles_and_throughput_are_exact(known_bundle: Bundle) -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 1001)) * 1000
    row, _ = run_known(known_bundle, map(int, shuffled), replace(ONE_MODE, measure_calls=1000), batch=4)
    told = {key: row[key] for key in ("p50_us", "p90_us", "p95_us", "p99_us", "max_us")}
    assert told == pytest.approx({"p50_us": 500.5, "p90_us": 900.1, "p95_us": 950.05, "p99_us": 990.01, "max_us": 1000})
    assert row["throughput_per_s"] == pytest.approx(1000 * 4 / 0.5005)
    assert row["calls"] == 1000


def test_an_outlier_survives(known_bundle: Bundle) -> None:
    latencies = [10_000] * 60 + [5 * MS] + [10_000] * 39
    row, _ = run_known(known_bundle, latencies, replace(ONE_MODE, measure_calls=100))
    assert (row["p50_us"], row["max_us"]) == (10, 5000)
    assert row["p99_us"] == pytest.approx(10 + 0.01 * 4990)  # between the 99th value and the 100th
    assert row["throughput_per_s"] == pytest.approx(100 / (99 * 10e-6 + 5e-3))


def test_a_row_has_the_keys_it_should(known_bundle: Bundle) -> None:
    settings = replace(QUICK, warmup_s=0, warmup_calls=1)
    clock = VirtualClock()

    def opener(bundle: Bundle, name: str, precision: str) -> Backend:
        return Known(bundle, clock, itertools.repeat(MS))

    steps: list[tuple[int, int | None]] = []
    report = bench(
        known_bundle, ["cpu", "rtx"], ["fp32", "fp16"], [4, 1], settings, opener=opener, clock=clock,
        progress=lambda done, total, note: steps.append((done, total)),
    )  # fmt: skip
    expected = {"back_to_back": KEYS, "cold_start": COLD_KEYS}
    assert all(set(row) == expected.get(row["mode"], PACED_KEYS) for row in report.rows)
    told = [(row["backend"], row["precision"], row["batch"], row["mode"]) for row in report.rows]
    warm = [(batch, mode) for batch in (4, 1) for mode in ("back_to_back", "paced_30", "paced_60", "paced_120")]
    assert told == [
        (backend, precision, batch, mode)
        for backend in ("cpu", "rtx")
        for precision in ("fp32", "fp16")
        for batch, mode in [(1, "cold_start"), *warm]
    ]
    assert steps[-1] == (len(told), len(told))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"] == report.rows


# Warm-up, and how much is measured


@pytest.mark.parametrize(("latency_ns", "expected"), [(MS, 200), (9 * MS, 50), (4 * MS, 50)])
def test_warm_up_reaches_its_time_and_its_count_and_is_not_counted(
    known_bundle: Bundle, latency_ns: int, expected: int
) -> None:
    settings = replace(ONE_MODE, warmup_s=0.2, warmup_calls=50)
    latencies = [latency_ns] * expected + [1000] * 10
    row, backend = run_known(known_bundle, latencies, settings)
    assert (row["max_us"], row["calls"]) == (1, 10)
    assert len(backend.started_ns) == expected + 10


@pytest.mark.parametrize(("latency_ns", "expected"), [(MS, 3000), (2 * MS, 1500), (7 * MS, 1000)])
def test_measuring_reaches_its_time_and_its_count(latency_ns: int, expected: int) -> None:
    clock = VirtualClock()
    timings = back_to_back(calls_of(clock, itertools.repeat(latency_ns), []), clock, 3.0, 1000)
    assert len(timings.latency_ns) == expected
    assert timings.elapsed_ns == expected * latency_ns
    assert clock.slept_ns == []


# Pacing


def test_a_paced_call_is_idle_for_exactly_the_rest_of_its_period() -> None:
    clock, starts = VirtualClock(), list[int]()
    begun = clock.now
    timings = paced(calls_of(clock, itertools.repeat(3 * MS), starts), clock, 100, 0.1, 1)
    assert clock.slept_ns == [10 * MS] + [7 * MS] * 9
    assert starts == [begun + (k + 1) * 10 * MS for k in range(10)]
    assert timings.latency_ns == [3 * MS] * 10
    assert timings.added == {"deadline_misses": 0, "skipped": 0, "wake_max_us": 0}
    assert timings.to_row(batch=2)["throughput_per_s"] == pytest.approx(200)


@pytest.mark.parametrize(("mode", "hz"), [("paced_30", 30), ("paced_60", 60), ("paced_120", 120)])
def test_modes_run_at_their_rate_and_warm_up_in_it(known_bundle: Bundle, mode: str, hz: int) -> None:
    settings = BenchSettings(modes=(mode,), warmup_s=0.2, warmup_calls=50, paced_s=5, paced_calls=100)
    row, backend = run_known(known_bundle, itertools.repeat(MS), settings)
    assert row["calls"] == 5 * hz
    assert row["throughput_per_s"] == pytest.approx(hz, rel=1e-7)
    period = 1_000_000_000 // hz
    gaps = set(np.diff(backend.started_ns))
    assert gaps == {period, period + MS}  # one gap is the first of the measurement, counted from the warm-up's end
    assert len(backend.started_ns) == 50 + 5 * hz


def test_a_backend_slower_than_the_period_misses_all_and_skips_to_the_newest() -> None:
    clock, starts = VirtualClock(), list[int]()
    first = clock.now + 10 * MS
    timings = paced(calls_of(clock, itertools.repeat(25 * MS), starts), clock, 100, 0, 4)
    # due 0, then 20 (late by 5), 50 (just on time), 70 (late by 5); never further behind than a call
    assert [start - first for start in starts] == [0, 25 * MS, 50 * MS, 75 * MS]
    assert clock.slept_ns == [10 * MS]
    assert timings.added == {"deadline_misses": 4, "skipped": 1 + 2 + 1 + 2, "wake_max_us": 0}
    assert timings.to_row(batch=1)["throughput_per_s"] == pytest.approx(40)


def test_skipped_due_times_count_for_the_time_that_is_measured() -> None:
    clock = VirtualClock()
    timings = paced(calls_of(clock, itertools.repeat(25 * MS), []), clock, 100, 1.0, 1)
    assert timings.elapsed_ns == 1_000 * MS
    assert timings.added["deadline_misses"] == len(timings.latency_ns) == 40
    assert timings.added["skipped"] == 60


@pytest.mark.parametrize(("slow_ms", "misses", "skipped"), [(10, 0, 0), (11, 2, 0), (25, 2, 1), (20, 1, 1)])
def test_one_slow_call_makes_itself_and_the_one_it_delays_late(slow_ms: int, misses: int, skipped: int) -> None:
    clock = VirtualClock()
    latencies = [3 * MS, 3 * MS, slow_ms * MS] + [3 * MS] * 17
    timings = paced(calls_of(clock, latencies, []), clock, 100, 0.2, 1)
    assert (timings.added["deadline_misses"], timings.added["skipped"]) == (misses, skipped)
    assert len(timings.latency_ns) == 20 - skipped
    assert max(timings.latency_ns) == slow_ms * MS


def test_a_late_wake_counts_for_the_deadline_alone_and_does_not_add_up() -> None:
    clock, starts = VirtualClock(wakes_late_ns=2 * MS), list[int]()
    first = clock.now + 10 * MS
    timings = paced(calls_of(clock, itertools.repeat(3 * MS), starts), clock, 100, 0.05, 1)
    assert [start - first for start in starts] == [(10 * k + 2) * MS for k in range(5)]
    assert timings.latency_ns == [3 * MS] * 5
    assert timings.added == {"deadline_misses": 0, "skipped": 0, "wake_max_us": 2000}
    clock = VirtualClock(wakes_late_ns=2 * MS)
    timings = paced(calls_of(clock, itertools.repeat(9 * MS), []), clock, 100, 0, 1)
    assert timings.added["deadline_misses"] == 1


def test_who_is_woken_early_sleeps_on() -> None:
    class WakesEarly(VirtualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds if seconds < 0.001 else seconds / 2)

    clock, starts = WakesEarly(), list[int]()
    first = clock.now + 10 * MS
    paced(calls_of(clock, itertools.repeat(3 * MS), starts), clock, 100, 0.03, 1)
    assert [start - first for start in starts] == [0, 10 * MS, 20 * MS]


# From cold


def test_a_cold_start_is_from_opening_to_the_first_pose(known_bundle: Bundle) -> None:
    clock = VirtualClock()
    opening_ms, opened = iter([400, 20, 30, 40, 0]), list[Known]()

    def opener(bundle: Bundle, name: str, precision: str) -> Backend:
        clock.now += next(opening_ms) * MS
        opened.append(Known(bundle, clock, [(5 - len(opened)) * MS, 1000 * MS]))
        return opened[-1]

    settings = replace(QUICK, modes=("cold_start",), cold_starts=4)
    (row,) = bench(known_bundle, ["cpu"], batches=[2, 1], settings=settings, opener=opener, clock=clock).rows
    assert (row["batch"], row["provider"], row["calls"]) == (1, "KnownProvider", 4)
    assert (row["cold_start_ms"], row["first_call_ms"]) == (405, 5)
    assert row["reopen_ms"] == 33  # of 24, 33 and 42
    assert (row["p50_us"], row["max_us"]) == (3500, 5000)
    assert [len(backend.started_ns) for backend in opened] == [1, 1, 1, 1, 0]
    assert [backend.closed for backend in opened] == [1, 1, 1, 1, 1]


def test_one_cold_start_has_no_reopening(known_bundle: Bundle) -> None:
    row, _ = run_known(known_bundle, [MS], replace(QUICK, modes=("cold_start",), cold_starts=1))
    assert row["reopen_ms"] is None


# What cannot run here


def test_what_cannot_run_is_listed_apart_with_its_reason(known_bundle: Bundle) -> None:
    clock = VirtualClock()
    backend = Known(known_bundle, clock, itertools.repeat(MS))
    backend.max_batch = 2

    def opener(bundle: Bundle, name: str, precision: str) -> Backend:
        if name == "cuda":
            raise EdgeliftError("backend cuda", "no GPU", "one", "Buy one.")
        return backend

    settings = replace(ONE_MODE, modes=("cold_start", "back_to_back"))
    report = bench(known_bundle, ["cuda", "rtx"], batches=[4, 2], settings=settings, opener=opener, clock=clock)
    assert [(row["backend"], row["batch"], row["mode"]) for row in report.rows] == [
        ("rtx", 2, "cold_start"),
        ("rtx", 2, "back_to_back"),
    ]
    no_gpu, too_large = report.skipped
    assert no_gpu == {
        "backend": "cuda", "precision": "fp32", "batch": None,
        "reason": "backend cuda: received no GPU; expected one. Buy one.",
    }  # fmt: skip
    assert (too_large["backend"], too_large["batch"]) == ("rtx", 4)
    assert "at most 2" in too_large["reason"]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"backends": ["cpu", "tpu"]}, "tpu"),
        ({"backends": []}, "none"),
        ({"backends": ["cpu"], "batches": [1, 0]}, "1 or more"),
        ({"backends": ["cpu"], "precisions": []}, "precisions"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_opened(
    known_bundle: Bundle, given: dict[str, Any], match: str
) -> None:
    def opener(bundle: Bundle, name: str, precision: str) -> Backend:
        raise AssertionError

    with pytest.raises(EdgeliftError, match=match):
        bench(known_bundle, **given, opener=opener)


@pytest.mark.parametrize("wrong", [{"modes": ("paced_31",)}, {"modes": ()}, {"cold_starts": 0}, {"warmup_s": -1.0}])
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EdgeliftError, match=next(iter(wrong))):
        BenchSettings(**wrong)


# The device's own time


def test_the_device_is_timed_in_calls_of_its_own(known_bundle: Bundle) -> None:
    clock = VirtualClock()
    backend = KnownDevice(known_bundle, clock, itertools.repeat(MS))
    backend.copies_ns = iter([999, 999, 999, *range(1, 11)])  # three of warm-up
    settings = replace(ONE_MODE, warmup_calls=3)
    (row,) = bench(known_bundle, ["rtx"], settings=settings, opener=lambda *_: backend, clock=clock).rows
    assert row["calls"] == 10
    assert row["device"]["copy_in"] == percentiles(range(1, 11))
    assert row["device"]["copy_in"]["max_us"] == 10
    assert row["device"]["run"]["p50_us"] == 20
    assert row["device"]["copy_out"]["p99_us"] == 5
    assert len(backend.started_ns) == 2 * (3 + 10)


def test_a_backend_that_does_not_tell_has_no_device_time(known_bundle: Bundle) -> None:
    row, _ = run_known(known_bundle, itertools.repeat(MS), ONE_MODE)
    assert row["device"] is None


# Input


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (1, [[0], [1], [2], [3], [4], [5], [6], [0]]),
        (3, [[0, 1, 2], [3, 4, 5], [6, 0, 1], [0, 1, 2]]),
        (9, [[0, 1, 2, 3, 4, 5, 6, 0, 1], [0, 1, 2, 3, 4, 5, 6, 0, 1]]),
    ],
)
def test_the_held_out_windows_go_round(known_bundle: Bundle, batch: int, expected: list[list[int]]) -> None:
    windows = feed(known_bundle, batch)
    for picked in expected:
        inputs = next(windows)
        assert inputs["keypoints"].shape == (batch, 1, 14, 3)
        assert inputs["keypoints"][:, 0, 0, 0].tolist() == picked
        assert inputs["intrinsics"].shape == (batch, 4)


def test_the_backend_is_given_the_windows(known_bundle: Bundle) -> None:
    _, backend = run_known(known_bundle, itertools.repeat(MS), replace(ONE_MODE, measure_calls=9))
    assert [int(keypoints[0, 0, 0, 0]) for keypoints in backend.given] == [0, 1, 2, 3, 4, 5, 6, 0, 1]


# What it ran on, and the picture


def test_the_report_says_what_it_ran_on(known_bundle: Bundle) -> None:
    clock = VirtualClock()
    backend = Known(known_bundle, clock, itertools.repeat(MS))
    report = bench(known_bundle, ["cpu"], settings=ONE_MODE, opener=lambda *_: backend, clock=clock)
    assert report.machine["python"] == platform.python_version()
    assert report.machine["numpy"] == np.__version__
    assert report.machine["cores"] >= 1
    assert report.machine["onnxruntime"] == getattr(sys.modules.get("onnxruntime"), "__version__", None)
    assert report.telemetry["samples"] >= 2
    assert (report.telemetry["source"] is None) == (report.telemetry["reason"] is not None)


def test_the_cpu_is_named_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: Some other\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Some CPU @ 3 GHz"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU part\t: 0xd42\n")
    assert cpu_name(tmp_path / "cpuinfo") in (platform.processor(), platform.machine())


@pytest.fixture
def report(known_bundle: Bundle) -> Report:
    clock = VirtualClock()

    def opener(bundle: Bundle, name: str, precision: str) -> Backend:
        return Known(bundle, clock, itertools.cycle([MS] * 28 + [40 * MS]))

    settings = replace(QUICK, warmup_s=0, warmup_calls=0)
    return bench(known_bundle, ["cpu", "rtx"], ["fp32", "fp16"], [1, 8], settings, opener=opener, clock=clock)


def test_the_picture_shows_every_figure(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    save = figures.Figure.savefig

    def keep(figure: Any, *where: Any, **how: Any) -> None:
        drawn.append(figure)
        save(figure, *where, **how)

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    plot(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["cpu (KnownProvider)", "rtx (KnownProvider)"]
    for panel, name in zip(panels, ("cpu", "rtx"), strict=True):
        assert panel.get_yscale() == "log"
        shown = {y for line in panel.lines for y in line.get_ydata()}
        rows = [row for row in report.rows if row["backend"] == name]
        assert {row[level] for row in rows for level in ("p50_us", "p90_us", "p99_us", "max_us")} == shown
        low, high = panel.get_ylim()
        assert low < min(shown) <= max(shown) < high


def test_a_picture_that_cannot_be_drawn_is_refused(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(EdgeliftError, match=r"\.png"):
        plot(report, tmp_path / "picture.xlsx")
    with pytest.raises(EdgeliftError, match="without a row"):
        plot(replace(report, rows=[]), tmp_path / "picture.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EdgeliftError, match=r"edgelift\[train\]"):
        plot(report, tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


# For real


def test_a_real_lifter_on_the_cpu(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("torch")
    bundle = load_bundle(request.getfixturevalue("bundle"))
    few = replace(QUICK, warmup_calls=2, measure_calls=20, paced_calls=3, cold_starts=2)
    settings = replace(few, warmup_s=0, measure_s=0, paced_s=0)
    report = bench(bundle, ["cpu"], ["fp32", "int8"], [1, 5], settings)
    assert [row["mode"] for row in report.rows] == [*MODES, *MODES[1:]]
    for row in report.rows:
        assert row["provider"] == "CPUExecutionProvider"
        assert 0 < row["p50_us"] <= row["p90_us"] <= row["p95_us"] <= row["p99_us"] <= row["max_us"]
    cold, steady, *_ = report.rows
    assert cold["cold_start_ms"] > cold["first_call_ms"] > 0
    assert steady["calls"] == 20
    assert steady["throughput_per_s"] <= 2e6 / steady["p50_us"]  # half of the calls took p50 or longer
    (skipped,) = report.skipped
    assert (skipped["precision"], skipped["batch"]) == ("int8", None)
    assert "edgelift export" in skipped["reason"]
    assert report.machine["onnxruntime"]
    json.dumps(report.to_dict(), allow_nan=False)
