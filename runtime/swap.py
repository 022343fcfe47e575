"""Swapping a loop's lifter: in the shadow of the old one first, then between two frames, and back if it must.

The old lifter stays open as the spare. Where the new one fails on a frame, the spare lifts that very frame and takes
over again; nobody misses it. Once the new one has held out for a while, the spare may be handed over: its engine takes
the weights of the version after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.counts import Live, log
from edgelift.runtime.frames import Float32
from edgelift.runtime.lifter import Lifter
from edgelift.runtime.registries import number_of
from edgelift.runtime.registries.follow import Follower

LEAST_COMPARED = 20  # lifted frames, however long the shadow period
SLOWER, LEAST_DEADLINE_MS = 4.0, 5.0  # without a deadline: so many times the old one's median, and never less than that
JUDGED = 20  # the last so many frames after a swap: more than half of them late is too late
FAR_TOO_SLOW = 10.0  # deadlines: so slow a lifter is not tried for long
PROBATION_S = 10.0
FARTHEST_ROOT_M = 3.0
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
    heard: tuple[Float32, Float32, Float32] | None = None
    old_ms: list[float] = field(default_factory=list)
    new_ms: list[float] = field(default_factory=list)
    apart_m: list[tuple[float, float]] = field(default_factory=list)


class Swapper:
    """Swaps the lifter of a pipeline as a follower finds new ones; on the loop's own thread, but for `give_spare`."""

    def __init__(self, pipeline: Swapped, follower: Follower[Lifter], settings: SwapSettings, live: Live) -> None:
        self.pipeline, self.follower, self.settings, self.live = pipeline, follower, settings, live
        self.spare: Lifter | None = None  # set by the loop's thread alone, taken by either
        self.taking = threading.Lock()
        self.shadow: _Shadow | None = None
        self.swapped_s = -np.inf
        self.deadline_ms = np.inf
        self.late: list[bool] = []

    def before_frames(self) -> None:
        """Take up what is ready; called between two frames."""
        if self.shadow is not None and self.follower.named != self.shadow.lifter.name:
            self._drop_shadow()  # the registry names another one by now
        if (spare := self._take_spare(lambda lifter: self.follower.named == lifter.name)) is not None:
            self._back(spare, "the registry was rolled back", refuse=False)
        lifter = self.follower.taken()
        if lifter is not None and lifter.name != self.follower.named:
            self._release(lifter)
        elif lifter is not None:
            self._drop_shadow()
            if self._on_trial(lifter):
                self.shadow = _Shadow(lifter, time.monotonic())
                self.pipeline.lifter.on_lift = self._heard
                log.info("lifter %s runs in the shadow of %s", lifter.name, self.pipeline.lifter.name)
            else:
                self._switch(lifter, self.settings.deadline_ms)

    def after_frames(self) -> None:
        """Let the shadow lift what the old one lifted, when that has gone out already; judge it when it is time."""
        if self.shadow is not None:
            try:
                self._compare(self.shadow)
            except Exception as error:  # whatever a new lifter does, the old one goes on
                self._reject(f"it failed in the shadow: {error}")
                return
            self._judge(self.shadow)
        elif len(self.late) >= JUDGED and 2 * sum(self.late[-JUDGED:]) > JUDGED:
            why = f"more than half of {JUDGED} frames took longer than {self.deadline_ms:.1f} ms"
            if (spare := self._take_spare()) is not None:
                self._back(spare, why, refuse=True)

    def give_spare(self, fits: Callable[[Lifter], bool]) -> Lifter | None:
        """Hand over the spare if it fits and the live lifter has proved itself; any thread may ask."""
        with self.taking:
            spare = self.spare
            if spare is None or self._on_probation() or not fits(spare):
                return None
            self.spare = None
            self.follower.forget_kept()
        return spare

    def close(self) -> None:
        """Release all but the lifter in use."""
        self._drop_shadow()
        self._drop_spare()

    def _on_trial(self, lifter: Lifter) -> bool:
        """Whether it has to prove itself: not where it cannot, and not where people go back to an older version."""
        now, new = number_of(self.pipeline.lifter.name), number_of(lifter.name)
        older = now is not None and new is not None and new < now
        # one that is fed otherwise cannot be compared on the same windows
        return self.settings.shadow_s > 0 and lifter.input == self.pipeline.lifter.input and not older

    # --- the shadow period ---

    def _heard(self, windows: Float32, intrinsics: Float32, poses: Float32, spent_ms: float) -> None:
        if self.shadow is not None and len(windows) and np.isfinite(poses).all():
            self.shadow.heard = windows, intrinsics, poses.copy()  # one a round: the next frames are not to wait long
            self.shadow.old_ms.append(spent_ms)

    def _compare(self, shadow: _Shadow) -> None:
        if shadow.heard is None:
            return
        windows, intrinsics, poses = shadow.heard
        shadow.heard = None
        began = time.perf_counter()
        own = shadow.lifter.lift(windows, intrinsics)
        shadow.new_ms.append((time.perf_counter() - began) * 1e3)
        if not np.isfinite(own).all():
            raise EdgeliftError(f"lifter {shadow.lifter.name}", "a pose not finite", "metres", "Refresh it.")
        shadow.apart_m.append(_apart(own, poses, shadow.lifter.skeleton.root))

    def _judge(self, shadow: _Shadow) -> None:
        """Refuse a lifter as soon as it is known to be no good; take it up when its time is over."""
        if not shadow.new_ms:
            return
        old, new = float(np.median(shadow.old_ms)), float(np.median(shadow.new_ms))
        apart, root = (float(x) for x in np.median(shadow.apart_m, axis=0))
        deadline = self.settings.deadline_ms or max(SLOWER * old, LEAST_DEADLINE_MS)
        enough = len(shadow.new_ms) >= LEAST_COMPARED
        told = f"{new:.2f} ms a frame for {old:.2f} ms, joints {1e3 * apart:.0f} mm apart, {len(shadow.new_ms)} frames"
        if new > (deadline if enough else FAR_TOO_SLOW * deadline) or (enough and not _near(apart, root)):
            self._reject(f"{told}; at most {deadline:.1f} ms and {1e3 * FARTHEST_M:.0f} mm are allowed")
        elif enough and time.monotonic() - shadow.began_s >= self.settings.shadow_s:
            log.info("shadow of %s: %s", shadow.lifter.name, told)
            self.shadow = None
            self._switch(shadow.lifter, deadline)

    def _reject(self, why: str) -> None:
        if self.shadow is None:
            return
        name = self.shadow.lifter.name
        self._drop_shadow()
        self.follower.refuse(name)
        self.live.complaints.add(f"lifter {name} refused, {self.pipeline.lifter.name} goes on", why)

    # --- the swap ---

    def _switch(self, lifter: Lifter, deadline_ms: float | None) -> None:
        self._drop_spare()
        old = self.pipeline.lifter
        old.on_lift = old.on_failure = None
        self.pipeline.take_up(lifter)
        self.late, self.swapped_s, self.deadline_ms = [], time.monotonic(), deadline_ms or np.inf
        lifter.on_failure = self._rescue
        lifter.on_lift = self._timed
        self.follower.lifts(lifter.name, old.name)
        self.live.counts.swaps += 1
        log.info("lifter %s follows %s", lifter.name, old.name)
        self.spare = old  # last: from here on it may be given away

    def _timed(self, windows: Float32, intrinsics: Float32, poses: Float32, spent_ms: float) -> None:
        if not self._on_probation():  # from now on a busy machine is more likely than a slow lifter
            self.pipeline.lifter.on_lift = None
            self.late = []
        elif len(windows):
            self.late.append(spent_ms > self.deadline_ms)

    def _on_probation(self) -> bool:
        return time.monotonic() - self.swapped_s < PROBATION_S

    def _rescue(self, error: Exception, windows: Float32, intrinsics: Float32) -> Float32:
        """Let the spare lift what the new lifter failed on, and all that follows."""
        spare = self._take_spare()
        if spare is None:
            return self._taken_over_by_the_shadow(error, windows, intrinsics)
        name, alike = self.pipeline.lifter.name, spare.input == self.pipeline.lifter.input
        poses = _lifted(spare, windows, intrinsics) if alike else None
        if alike and poses is None:
            self.spare = spare
            raise _failed(name, error) from error  # both fail on it: it is the frame's fault
        self._back(spare, f"it failed: {error}", refuse=True)
        if poses is None:  # it is fed otherwise: this one frame is lost
            raise _failed(name, error) from error
        return poses

    def _taken_over_by_the_shadow(self, error: Exception, windows: Float32, intrinsics: Float32) -> Float32:
        """The spare was given away for a version that has still to prove itself; if it lifts this frame, it has."""
        shadow = self.shadow
        poses = None if shadow is None else _lifted(shadow.lifter, windows, intrinsics)
        if shadow is None or poses is None:
            raise _failed(self.pipeline.lifter.name, error) from error
        self.live.complaints.add(f"lifter {self.pipeline.lifter.name} failed, {shadow.lifter.name} takes over", error)
        self.shadow = None
        self._switch(shadow.lifter, self.settings.deadline_ms)
        return poses

    def _back(self, spare: Lifter, why: str, refuse: bool) -> None:
        """Return to the lifter that was the spare; the other one is refused, or becomes the spare itself."""
        failed = self.pipeline.lifter
        self._drop_shadow()
        failed.on_lift = failed.on_failure = None
        self.pipeline.take_up(spare)
        self.late, self.swapped_s = [], -np.inf
        self.live.counts.rollbacks += 1
        self.live.complaints.add(f"back from lifter {failed.name} to {spare.name}", why)
        if refuse:
            self._release(failed)
            self.follower.refuse(failed.name)  # first: it is still what the registry names
            self.follower.lifts(spare.name)
        else:
            self.follower.lifts(spare.name, failed.name)
            self.spare = failed  # last: from here on it may be given away

    def _drop_shadow(self) -> None:
        self.pipeline.lifter.on_lift = self._timed if self._on_probation() else None
        shadow, self.shadow = self.shadow, None
        if shadow is not None:
            self._release(shadow.lifter)

    def _drop_spare(self) -> None:
        if (spare := self._take_spare()) is not None:
            self._release(spare)

    def _take_spare(self, fits: Callable[[Lifter], bool] = lambda lifter: True) -> Lifter | None:
        """Take the spare away if it fits, so that nobody else does."""
        spare = self.spare
        if spare is None or not fits(spare):  # without the lock: this is asked before every frame
            return None
        with self.taking:
            if self.spare is not spare:
                return None
            self.spare = None
        return spare

    def _release(self, lifter: Lifter) -> None:
        try:
            lifter.close()
        except Exception as error:  # one that failed may fail at this, too: the loop goes on
            self.live.complaints.add(f"lifter {lifter.name} could not be released", error)


def _failed(name: str, error: Exception) -> EdgeliftError:
    """One lost frame: the loop goes on whatever a lifter raised."""
    return EdgeliftError(f"lifter {name}", str(error), "a pose", "See what was published: edgelift registry show.")


def _lifted(lifter: Lifter, windows: Float32, intrinsics: Float32) -> Float32 | None:
    """What a lifter gives, None where it fails too."""
    try:
        poses = lifter.lift(windows, intrinsics)
    except Exception:
        return None
    return poses if np.isfinite(poses).all() else None


def _apart(a: NDArray[np.floating], b: NDArray[np.floating], root: int) -> tuple[float, float]:
    """Median distance of joints in metres with the roots aligned, and that of the roots."""
    joints = np.linalg.norm((a - a[:, root, None]) - (b - b[:, root, None]), axis=-1)
    return float(np.median(joints)), float(np.median(np.linalg.norm(a[:, root] - b[:, root], axis=-1)))


def _near(apart: float, root: float) -> bool:
    return apart <= FARTHEST_M and root <= FARTHEST_ROOT_M
