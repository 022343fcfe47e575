"""Values between frames: interpolated linearly in time, by the one code that trainer, runtime and sessions share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_GAP_S = 0.25  # two frames farther apart are not interpolated: half a stride of a walk lies between them
SNAP_S = 1e-4  # a moment this close to a frame is that frame, so that a regular stream passes through untouched


@dataclass(frozen=True)
class Plan:
    """Which two frames each slot of a window lies between: lower, upper (windows, frames) indices, and how far along.

    Indices are into a session's frames (`+ offset` where sessions stand in one table); empty slots are missing.
    """

    lower: Any
    upper: Any
    along: Any
    empty: Any


def between(timestamps: NDArray[np.float64], wanted: NDArray[np.float64], max_gap_s: float = MAX_GAP_S) -> Plan:
    """Plan the moments `wanted` (windows, frames) among frames at timestamps (n,), rising; all in seconds.

    A moment before the first frame, after the last one or inside a gap over max_gap_s is empty.
    """
    upper = np.searchsorted(timestamps, wanted - SNAP_S).clip(max=len(timestamps) - 1)
    lower = (upper - 1).clip(min=0)
    lower = np.where(np.abs(timestamps[upper] - wanted) <= SNAP_S, upper, lower)
    span = timestamps[upper] - timestamps[lower]
    along = np.where(span > 0, (wanted - timestamps[lower]) / np.where(span > 0, span, 1), 0)
    outside = (wanted < timestamps[0] - SNAP_S) | (wanted > timestamps[-1] + SNAP_S)
    return Plan(lower, upper, along.astype(np.float32), outside | (span > max_gap_s))


def sample(table: Any, where: Plan, xp: Any = np) -> Any:
    """Interpolate table (rows, ..., k + 1), k coordinates and a confidence, at a plan: (windows, frames, ..., k + 1).

    A slot next to a missing value is missing; its coordinates are then NaN. xp: the module of the arrays, numpy or
    torch, so that trainer and runtime share these lines.
    """
    low, high = table[where.lower], table[where.upper]
    wide = (..., *[None] * (low.ndim - 2))
    along = where.along[wide]
    confidence = xp.minimum(low[..., -1:], high[..., -1:]) * ~where.empty[wide]
    values = xp.where(confidence > 0, low[..., :-1] * (1 - along) + high[..., :-1] * along, xp.nan)
    return xp.concatenate([values, confidence], -1)
