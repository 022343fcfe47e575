"""Whether a reduced lifter is faster than the FP32 one, in the same process, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import open_backend
from edgelift.runtime.backends.contract import Backend
from edgelift.runtime.bundle import Bundle

ROUNDS, CALLS = 6, 200  # turns each, and calls a turn: what else the machine does falls on both alike


def median_us(backends: list[Backend], keypoints: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> list[float]:
    """Median microseconds of a call with one window, for each backend; the windows are gone through in turn."""
    spent: list[list[int]] = [[] for _ in backends]
    for _ in range(ROUNDS):
        for backend, times in zip(backends, spent, strict=True):
            times += _turn(backend, keypoints, intrinsics)
    return [round(float(np.median(times)) / 1000, 2) for times in spent]


def _turn(lift: Callable[..., object], keypoints: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> list[int]:
    times = []
    for number in range(CALLS + CALLS // 4):
        row = slice(number % len(keypoints), number % len(keypoints) + 1)
        window, camera = keypoints[row], intrinsics[row]
        started = time.perf_counter_ns()
        lift(window, camera)
        times.append(time.perf_counter_ns() - started)
    return times[CALLS // 4 :]  # the first ones fetch the weights anew


def faster_than_fp32(bundle: Bundle, backend: str, precision: str, force: bool) -> dict[str, Any]:
    """Time a reduced lifter against FP32 on one backend; EdgeliftError where it is no faster, unless force keeps it."""
    if precision == "fp32":
        return {"speed": "the measure of others"}
    try:
        plain = open_backend(bundle, backend)
    except EdgeliftError as error:
        return {"speed": f"not measured: {error}"}
    arrays = bundle.reference()
    with plain, open_backend(bundle, backend, precision) as reduced:
        before, after = median_us([plain, reduced], arrays["keypoints"], arrays["intrinsics"])
    if after >= before and not force:
        raise EdgeliftError(
            f"{precision} on {backend}", f"{after} us a window", f"less than the {before} us of fp32",
            "Use fp32, or keep it all the same with --force.",
        )  # fmt: skip
    return {"speed": {"p50_us": after, "fp32_p50_us": before}}
