"""Lifters timed against each other in one process: batch 1, one thread, turn by turn, in a new order every round.

What else the machine does falls on all alike: read ratios. A ratio is the median of the rounds' own ratios, so that a
slow minute counts on both sides of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.runtime.bench import cpu_name

Float32 = NDArray[np.float32]
Lift = Callable[[Float32, Float32], Float32]
CALLS, FIRST = 200, 50  # of a turn: measured ones, and those before, which fetch the weights anew
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUARTILES = (25, 50, 75)


@dataclass(eq=False)
class Contestant:
    """A lifter of single windows (1, frames, joints, 3), (1, 4) to (1, joints, 3) metres, and its calls in ns."""

    name: str
    lift: Lift
    facts: dict[str, Any] = field(default_factory=dict)
    rounds_ns: list[list[int]] = field(default_factory=list)

    def p50s_us(self) -> NDArray[np.float64]:
        """Median of every round (rounds,)."""
        return np.asarray(np.median(self.rounds_ns, axis=1) / 1000)

    def figures(self) -> dict[str, float]:
        """Median and 99th percentile over all rounds, nothing left out."""
        p50, p99 = np.percentile(self.rounds_ns, (50, 99)) / 1000
        return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def with_one_thread() -> None:
    """Start the script again where a BLAS would use more threads: it reads that as it is loaded."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)


def take_turns(contestants: Sequence[Contestant], keypoints: Float32, intrinsics: Float32, rounds: int) -> None:
    """Time all contestants on the same windows (n, frames, joints, 3), (n, 4), one after the other."""
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for number in rng.permutation(len(contestants)):
            contestants[number].rounds_ns.append(_turn(contestants[number].lift, keypoints, intrinsics))


def take_calls(pair: tuple[Contestant, Contestant], keypoints: Float32, intrinsics: Float32, rounds: int) -> None:
    """Time two that share their weights call by call: the same windows, and first now the one, now the other."""
    for _ in range(rounds):
        times: tuple[list[int], list[int]] = ([], [])
        for number in range(FIRST + CALLS):
            row = slice(number % len(keypoints), number % len(keypoints) + 1)
            for side in (number % 2, 1 - number % 2):
                times[side].append(_call(pair[side].lift, keypoints[row], intrinsics[row]))
        for one, spent in zip(pair, times, strict=True):
            one.rounds_ns.append(spent[FIRST:])


def _call(lift: Lift, window: Float32, camera: Float32) -> int:
    started = time.perf_counter_ns()
    lift(window, camera)
    return time.perf_counter_ns() - started


def _turn(lift: Lift, keypoints: Float32, intrinsics: Float32) -> list[int]:
    times = []
    for number in range(FIRST + CALLS):
        row = slice(number % len(keypoints), number % len(keypoints) + 1)
        times.append(_call(lift, keypoints[row], intrinsics[row]))
    return times[FIRST:]


def times_as_long(one: Contestant, other: Contestant) -> dict[str, Any]:
    """How many times as long as `other` takes `one`: median and quartiles of the rounds' ratios of p50."""
    low, middle, high = np.percentile(one.p50s_us() / other.p50s_us(), QUARTILES)
    return {"ratio": round(float(middle), 3), "quartiles": [round(float(low), 3), round(float(high), 3)]}


def one_by_one(lift: Lift, keypoints: Float32, intrinsics: Float32) -> Float32:
    """Poses (n, joints, 3) of windows lifted each by itself, as they are timed."""
    return np.concatenate([lift(keypoints[i : i + 1], intrinsics[i : i + 1]) for i in range(len(keypoints))])


def machine() -> dict[str, Any]:
    """What it ran on; `load` is the mean number of running processes in the last 1, 5 and 15 minutes."""
    modules = ("numpy", "onnxruntime", "torch", "openvino")
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in modules}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "load": [round(n, 2) for n in os.getloadavg()], **versions}
