"""The One-Euro filter for many joints at once: still joints are held, fast ones are let through.

Casiez, Roussel & Vogel, "1 Euro Filter", CHI 2012. A low-pass filter whose cutoff rises with speed: min_cutoff + beta *
speed. It lags by 1 / (2 pi cutoff): 0.16 s for a joint that stands still at 1 Hz, 40 ms at 1 m/s with beta 3. Speed is
taken from positions as they came: from the last filtered one, as in the paper, it opens too far at high rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError

Float64 = NDArray[np.float64]

GAP_S = 0.25  # who was away for longer starts anew, where they are


@dataclass(frozen=True)
class OneEuroSettings:
    """min_cutoff Hz: of a joint that stands still. beta Hz/(m/s): how fast it opens. speed_cutoff Hz: of the speed."""

    min_cutoff: float = 1.0
    beta: float = 3.0
    speed_cutoff: float = 1.0

    def __post_init__(self) -> None:
        for flag, value in (("min_cutoff", self.min_cutoff), ("speed_cutoff", self.speed_cutoff)):
            if not (np.isfinite(value) and value > 0):
                raise EdgeliftError(f"--smooth: {flag}", f"{value}", "a positive number of Hz", "Give, say, 1,3.")
        if not (np.isfinite(self.beta) and self.beta >= 0):
            raise EdgeliftError("--smooth: beta", f"{self.beta}", "0 or more", "Give, say, 1,3.")

    def delay_s(self, speed_m_s: float = 0.0) -> float:
        """How far the filtered joint lags behind one of constant speed."""
        return float(1 / (2 * np.pi * (self.min_cutoff + self.beta * speed_m_s)))


class OneEuro:
    """Filters one person's joints; each keeps its own time, so a joint may be missing for a while."""

    def __init__(self, settings: OneEuroSettings, joints: int) -> None:
        self.settings = settings
        self.at_s = np.full(joints, -np.inf)
        self.raw = np.zeros((joints, 3))
        self.position = np.zeros((joints, 3))
        self.velocity = np.zeros((joints, 3))

    def __call__(self, at_s: float, position: NDArray[np.floating]) -> Float64:
        """Filter positions (joints, 3) in metres at a time; NaN where a joint is missing, and in what comes out then.

        A joint's first position, and one after GAP_S without any, passes as it is. Time must rise.
        """
        known = np.isfinite(position).all(-1)
        since = np.where(known, at_s - self.at_s, np.inf)
        goes_on = (since > 0) & (since <= GAP_S)
        step = np.where(goes_on, since, 1.0)[:, None]
        moved = np.where(goes_on[:, None], position - self.raw, 0.0)
        velocity = self.velocity + _share(self.settings.speed_cutoff, step) * (moved / step - self.velocity)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
        share = _share(self.settings.min_cutoff + self.settings.beta * speed, step)
        filtered = np.where(goes_on[:, None], self.position + share * (position - self.position), position)
        self.velocity = np.where(goes_on[:, None], velocity, np.where(known[:, None], 0.0, self.velocity))
        self.position = np.where(known[:, None], filtered, self.position)
        self.raw = np.where(known[:, None], position, self.raw)
        self.at_s = np.where(known, at_s, self.at_s)
        return np.asarray(filtered, np.float64)


def _share(cutoff: float | Float64, step: Float64) -> Float64:
    """How much of a step a first-order low-pass filter of that cutoff (Hz) takes: 1 / (1 + tau / step)."""
    return np.asarray(1 / (1 + 1 / (2 * np.pi * cutoff * step)))
