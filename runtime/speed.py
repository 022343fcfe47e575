"""Whether a reduced lifter is faster than the FP32 one, in the same process, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import Backend, open_backend
from edgelift.runtime.bundle import Bundle

ROUNDS, CALLS = 6, 200  # turns each, and calls a turn: what else the machine does falls on both alike
Lift = Callable[[NDArray[np.float32], NDArray[np.float32]], object]


def in_turns(lifts: Sequence[Lift], keypoints: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> list[list[int]]:
    """Nanoseconds of calls with one window, of each lifter, turn by turn; the windows are gone through in order."""
    spent: list[list[int]] = [[] for _ in lifts]
    for _ in range(ROUNDS):
        for lift, times in zip(lifts, spent, strict=True):
            times += _turn(lift, keypoints, intrinsics)
    return spent


def _turn(lift: Lift, keypoints: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> list[int]:
    times = []
    for number in range(CALLS + CALLS // 4):
        row = slice(number % len(keypoints), number % len(keypoints) + 1)
        window, camera = keypoints[row], intrinsics[row]
        started = time.perf_counter_ns()
        lift(window, camera)
        times.append(time.perf_counter_ns() - started)
    return times[CALLS // 4 :]  # the first ones fetch the weights anew


def faster_than_fp32(bundle: Bundle, reduced: Backend, force: bool) -> dict[str, Any]:
    """Time a reduced lifter against FP32 on its backend; EdgeliftError where it is no faster, unless force keeps it."""
    if reduced.precision == "fp32":
        return {"speed": "the measure of others"}
    try:
        plain = open_backend(bundle, reduced.name)
    except EdgeliftError as error:
        return {"speed": f"not measured: {error}"}
    arrays = bundle.reference()
    with plain:
        spent = in_turns([plain, reduced], arrays["keypoints"], arrays["intrinsics"])
    before, after = (round(float(np.median(times)) / 1000, 2) for times in spent)
    if after >= before and not force:
        raise EdgeliftError(
            f"{reduced.precision} on {reduced.name}", f"{after} us a window", f"less than the {before} us of fp32",
            "Use fp32, or keep it all the same with --force.",
        )  # fmt: skip
    return {"speed": {"p50_us": after, "fp32_p50_us": before}}
