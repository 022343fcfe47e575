"""Swapping a loop's lifter: in the shadow of the old one first, then between two frames, and back if it must.

The old lifter stays open as the spare. Where the new one fails on a frame, the spare lifts that very frame and takes
over again; nobody misses it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.counts import Live, log
from edgelift.runtime.frames import Float32
from edgelift.runtime.lifter import Lifter
from edgelift.runtime.registry import Follower

LEAST_COMPARED = 20  # lifted frames, however long the shadow period
SLOWER, LEAST_DEADLINE_MS = 4.0, 5.0  # without a deadline: so many times the old one's median, and never less than that
JUDGED = 20  # the last so many frames after a swap: more than half of them late is too late
PROBATION_S = 10.0
FARTHEST_M = 0.5  # median distance of the two lifters' joints, roots aligned: no refresh moves people so far


class Swapped(Protocol):
    """What a pipeline shows of itself to whoever swaps its lifter."""

    lifter: Lifter

    def take_up(self, lifter: Lifter) -> None:
        """Go on with another lifter from the next frame on."""


@dataclass(frozen=True)
class SwapSettings:
    """shadow_s: how long a new lifter runs beside the old one, on real frames, before it takes over; 0: not at all.

    deadline_ms: for the lifting of a frame; None: SLOWER times as long as the old one takes.
    """

    shadow_s: float = 5.0
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.shadow_s < 3600:
            raise EdgeliftError("--shadow", f"{self.shadow_s} s", "from 0 s up to an hour", "Give, say, --shadow 5s.")
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise EdgeliftError("--deadline", f"{self.deadline_ms} ms", "a positive time", "Give, say, --deadline 8ms.")


@dataclass(eq=False)
class _Shadow:
    """A new lifter beside the running one: what both took, and how far apart they are."""

    lifter: Lifter
    began_s: float
    heard: list[tuple[Float32, Float32, Float32]] = field(default_factory=list)
    old_ms: list[float] = field(default_factory=list)
    new_ms: list[float] = field(default_factory=list)
    apart_m: list[float] = field(default_factory=list)


class Swapper:
    """Swaps the lifter of a pipeline as a follower finds new ones; all of it on the loop's own thread."""

    def __init__(self, pipeline: Swapped, follower: Follower[Lifter], settings: SwapSettings, live: Live) -> None:
        self.pipeline, self.follower, self.settings, self.live = pipeline, follower, settings, live
        self.spare: Lifter | None = None
        self.shadow: _Shadow | None = None
        self.swapped_s = 0.0
        self.deadline_ms = np.inf
        self.late: list[bool] = []

    def before_frames(self) -> None:
        """Take up what is ready; called between two frames."""
        if self.spare is not None and self.follower.wants(self.spare.name):
            self._back("the registry was rolled back", refuse=False)
        if (lifter := self.follower.taken()) is not None:
            self._drop_shadow()
            if self.settings.shadow_s and lifter.input == self.pipeline.lifter.input:
                self.shadow = _Shadow(lifter, time.monotonic())
                self.pipeline.lifter.on_lift = self._heard
                log.info("lifter %s runs in the shadow of %s", lifter.name, self.pipeline.lifter.name)
            else:  # one that is fed otherwise cannot be compared on the same windows
                self._switch(lifter)

    def after_frames(self) -> None:
        """Let the shadow lift what the old one lifted, when that has gone out already; judge it when it is time."""
        if self.shadow is not None:
            try:
                self._compare(self.shadow)
            except Exception as error:  # whatever a new lifter does, the old one goes on
                self._reject(f"it failed in the shadow: {error}")
        elif len(self.late) >= JUDGED and 2 * sum(self.late[-JUDGED:]) > JUDGED:
            self._back(f"more than half of {JUDGED} frames took longer than {self.deadline_ms:.1f} ms", refuse=True)

    def close(self) -> None:
        """Release all but the lifter in use."""
        self._drop_shadow()
        self._drop_spare()

    # --- the shadow period ---

    def _heard(self, windows: Float32, intrinsics: Float32, poses: Float32, spent_ms: float) -> None:
        if self.shadow is not None and len(windows):
            self.shadow.heard.append((windows, intrinsics, poses.copy()))
            self.shadow.old_ms.append(spent_ms)

    def _compare(self, shadow: _Shadow) -> None:
        for windows, intrinsics, poses in shadow.heard:
            began = time.perf_counter()
            own = shadow.lifter.lift(windows, intrinsics)
            shadow.new_ms.append((time.perf_counter() - began) * 1e3)
            if not np.isfinite(own).all():
                raise EdgeliftError(
                    f"lifter {shadow.lifter.name}", "a pose that is not finite", "metres", "Refresh it."
                )
            shadow.apart_m.append(_apart(own, poses, shadow.lifter.skeleton.root))
        shadow.heard.clear()
        if time.monotonic() - shadow.began_s >= self.settings.shadow_s and len(shadow.new_ms) >= LEAST_COMPARED:
            self._judge(shadow)

    def _judge(self, shadow: _Shadow) -> None:
        old, new, apart = (float(np.median(x)) for x in (shadow.old_ms, shadow.new_ms, shadow.apart_m))
        deadline = self.settings.deadline_ms or max(SLOWER * old, LEAST_DEADLINE_MS)
        told = f"{new:.2f} ms a frame for {old:.2f} ms, joints {1e3 * apart:.0f} mm apart, {len(shadow.new_ms)} frames"
        if new > deadline or apart > FARTHEST_M:
            self._reject(f"{told}; at most {deadline:.1f} ms and {1e3 * FARTHEST_M:.0f} mm are allowed")
            return
        log.info("shadow of %s: %s", shadow.lifter.name, told)
        self.shadow = None
        self.deadline_ms = deadline
        self._switch(shadow.lifter)

    def _reject(self, why: str) -> None:
        assert self.shadow is not None
        name = self.shadow.lifter.name
        self._drop_shadow()
        self.follower.refuse(name, self.pipeline.lifter.name)
        self.live.complaints.add(f"lifter {name} refused, {self.pipeline.lifter.name} goes on", why)

    # --- the swap ---

    def _switch(self, lifter: Lifter) -> None:
        self._drop_spare()
        self.spare = self.pipeline.lifter
        self.spare.on_lift = None
        self.pipeline.take_up(lifter)
        self.late, self.swapped_s = [], time.monotonic()
        lifter.on_failure = self._rescue
        lifter.on_lift = self._timed
        self.follower.keep(self.spare.name)
        self.live.counts.swaps += 1
        log.info("lifter %s follows %s", lifter.name, self.spare.name)

    def _timed(self, windows: Float32, intrinsics: Float32, poses: Float32, spent_ms: float) -> None:
        if time.monotonic() - self.swapped_s < PROBATION_S:
            self.late.append(spent_ms > self.deadline_ms)
        else:  # from now on a busy machine is more likely than a slow lifter
            self.pipeline.lifter.on_lift = None
            self.late = []

    def _rescue(self, error: Exception, windows: Float32, intrinsics: Float32) -> Float32:
        """Let the spare lift what the new lifter failed on, and all that follows."""
        if self.spare is None or self.spare.input != self.pipeline.lifter.input:
            raise error
        self._back(f"it failed: {error}", refuse=True)
        return self.pipeline.lifter.lift(windows, intrinsics)

    def _back(self, why: str, refuse: bool) -> None:
        """Return to the spare; the other one is refused, or becomes the spare itself."""
        assert self.spare is not None
        spare, failed = self.spare, self.pipeline.lifter
        failed.on_lift = failed.on_failure = None
        self._drop_shadow()
        self.pipeline.take_up(spare)
        self.spare, self.late = failed, []
        self.live.counts.rollbacks += 1
        self.live.complaints.add(f"back from lifter {failed.name} to {spare.name}", why)
        if refuse:
            self._drop_spare()
            self.follower.refuse(failed.name, spare.name)
        else:
            self.follower.keep(failed.name, running=spare.name)

    def _drop_shadow(self) -> None:
        self.pipeline.lifter.on_lift = None
        if self.shadow is not None:
            self.shadow.lifter.close()
            self.shadow = None

    def _drop_spare(self) -> None:
        if self.spare is not None:
            self.spare.close()
            self.spare = None


def _apart(a: NDArray[np.floating], b: NDArray[np.floating], root: int) -> float:
    """Median distance of joints in metres, roots aligned."""
    return float(np.median(np.linalg.norm((a - a[:, root, None]) - (b - b[:, root, None]), axis=-1)))
