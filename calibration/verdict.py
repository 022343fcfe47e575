"""Is a rig from people good enough: by camera, why, and what to record more of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgelift.calibration.cameras import Calibration
from edgelift.calibration.structure import LEAST_SHARED

Verdict = Literal["good", "usable", "too weak"]

# two standard deviations of a camera's place, of its distance from the people: one percent is what a careful
# checkerboard leaves at 4 m, and three percent turn a lifted pose by two degrees
GOOD, USABLE = 0.01, 0.03
MOST_NOISE_MRAD = 12.0  # the scale of the errors: real detectors are at 5 to 8
LITTLE_OF_IMAGE = 0.15  # of the image that the person's joints cover, in boxes of a tenth of its sides
FEW_JOINTS = 20 * LEAST_SHARED
NARROW_DEG = 15.0  # to the nearest other camera, or to the one opposite: rays that hardly cross place nothing
SHORT_S = 10.0  # errors that last as long as a posture do not average out, and nothing shows them


@dataclass(frozen=True)
class CameraVerdict:
    """One camera's judgement; doubt: two standard deviations of its place, of its distance from the people.

    causes: what makes it uncertain, each with what to record against it.
    """

    name: str
    verdict: Verdict
    doubt: float
    causes: tuple[tuple[str, str], ...]


def judge(found: Calibration) -> tuple[Verdict, list[CameraVerdict]]:
    """Return the rig's verdict, that of its worst camera, and each camera's."""
    each = [_judge(found, view) for view in range(len(found.cameras))]
    order: tuple[Verdict, ...] = ("good", "usable", "too weak")
    return max((one.verdict for one in each), key=order.index), each


def _judge(found: Calibration, view: int) -> CameraVerdict:
    sd = float(np.sqrt(np.trace(found.uncertainty.centre[view])))
    doubt = 2 * sd / float(found.distance_m[view])
    enough = found.seen_s >= SHORT_S
    verdict: Verdict = "good" if doubt <= GOOD and enough else "usable" if doubt <= USABLE else "too weak"
    told = [] if verdict == "good" else list(_causes(found, view))
    if verdict != "good" and not told:
        told = [(f"{int(found.bundle.counted[view].sum())} joints are all there is", "record longer, and move about")]
    return CameraVerdict(found.cameras[view].name, verdict, doubt, tuple(told))


def _causes(found: Calibration, view: int) -> Iterator[tuple[str, str]]:
    """Yield what makes a camera uncertain, and what to record against it."""
    camera, bundle = found.cameras[view], found.bundle
    counted = int(bundle.counted[view].sum())
    if counted < FEW_JOINTS:
        yield f"only {counted} joints were seen with another camera", f"record longer where {camera.name} sees"
    covered = _covered(found, view)
    if covered < LITTLE_OF_IMAGE:
        yield f"the person covers {covered:.0%} of its image", f"walk through all of {camera.name}'s image"
    noise = 1000 * bundle.noise.scale_px / camera.K[0, 0]
    if noise > MOST_NOISE_MRAD:
        yield f"keypoints scatter by {noise:.0f} mrad", "use a better detector, or more light and a larger person"
    angle = _widest_crossing_deg(found, view)
    if angle < NARROW_DEG:
        yield f"its rays cross others at {angle:.0f} degrees at most", "place a camera further to the side"
    if found.seen_s < SHORT_S:
        yield f"{found.seen_s:.1f} s show few postures", "record a minute of walking, turning and reaching"


def _covered(found: Calibration, view: int) -> float:
    camera, s = found.cameras[view], found.bundle.sightings
    seen = s.keypoints[view, found.bundle.counted[view]]
    boxes = np.floor(10 * seen / np.array(camera.size)).astype(int)
    inside = boxes[((boxes >= 0) & (boxes < 10)).all(1)]
    return len(np.unique(inside, axis=0)) / 100


def _widest_crossing_deg(found: Calibration, view: int) -> float:
    middle = np.nanmedian(found.poses.reshape(-1, 3), axis=0)
    towards = np.stack([(middle - c.centre) / np.linalg.norm(middle - c.centre) for c in found.cameras])
    sines = np.linalg.norm(np.cross(towards[view], np.delete(towards, view, 0)), axis=-1)
    return float(np.degrees(np.arcsin(np.clip(sines.max(), 0, 1))))
