"""Is a recording fit to train on? What was measured, judged: each finding says what, by which figures, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgelift.calibration.check_facts import SECTORS, Facts, ViewFacts, gather
from edgelift.calibration.check_geometry import Moved
from edgelift.calibration.soundness import LEAST_FRAMES, LEAST_SHIFT_S, MOST_MISSING
from edgelift.poses.recordings import RESIDUAL_LIMIT_MRAD
from edgelift.poses.sessions import Session

Level = Literal["wrong", "weak", "note"]
Judgement = Literal["fit", "usable", "unfit"]

LEAST_SHOWN = 0.5  # of the frames: a view that sees the person less often than not is hardly one
LEAST_TOGETHER = 0.5  # of the frames: a joint that two views know less often is taught by chance
LEAST_CONFIDENCE = 0.3  # median: usual detectors are at 0.6 and more, and cut off at 0.3
MOST_RESIDUAL_MRAD = 15.0  # median: the best detectors are at 7, at 15 a joint is 6 cm off at 4 m
MOST_SPREAD_M = 0.04  # of a bone's length, median: real detectors' 12 px at 4 m make 2 or 3 cm
LONG_BONES = ("knee", "ankle", "elbow", "wrist", "mid_shoulder")  # half a hip's width varies by a fifth with noise
MOST_ASYMMETRY_PERCENT = 10.0  # people differ by 1 or 2, real detectors by up to 6
FEW_SWAPS, MOST_SWAPS = 0.01, 0.5  # of the frames: fewer are smoothed over; beyond half, it is how the view was made
MOST_FROZEN, MOST_FROZEN_S = 0.05, 0.5  # of the frames, and at once
FORWARD_KNEES = 0.3  # of the frames: sound sides give 0.8 and more, exchanged ones 0.2 and less
PLAUSIBLE_M = (0.8, 2.2)  # a person's height, from a child of two years on
UNITS = {"millimetres": 1000.0, "centimetres": 100.0, "decimetres": 10.0, "inches": 39.37, "feet": 3.281}
MOST_OUTSIDE = 0.05  # of the joints
FARTHEST_REACH = 1.25  # image sizes: no detector guesses so far, it is another image size
NORMALISED_PX = 3.0  # no person is that small: coordinates are parts of the image
MOST_IRREGULAR = 0.1  # of the steps in time
LEAST_DRIFT_S = 0.05  # from begin to end: shifts are found in steps of 0.02 s
SURE_S = 2.0  # less time holds nothing against cameras or clocks (as trainer/learn_cameras.py)
ENOUGH_S = 60.0  # a lifter is adapted to a person by a minute and more
TURNS = 6  # of the SECTORS that all views together should have seen the person in
MOST_NAMED = 6  # joints or spans in one finding
SEEN_SECTOR = 0.01  # share of frames that counts as seen


@dataclass(frozen=True)
class Finding:
    """One thing found. level: wrong (unfit), weak (usable), note (changes no verdict); evidence: figures; remedy."""

    level: Level
    what: str
    evidence: str
    remedy: str


@dataclass(frozen=True, eq=False)
class Checked:
    """A session's facts, findings (the worst first) and verdict."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Judgement:
        """`unfit` where something is wrong, `usable` where something is weak, else `fit`."""
        levels = {finding.level for finding in self.findings}
        return "unfit" if "wrong" in levels else "usable" if "weak" in levels else "fit"

    def to_dict(self) -> dict[str, Any]:
        """The keys of one session in `edgelift check --json`."""
        found = [asdict(finding) for finding in self.findings]
        return {"verdict": self.verdict, "findings": found, **self.facts.to_dict()}


def check(session: Session) -> Checked:
    """Measure and judge one session. Nothing of it is changed, and no label is read."""
    facts = gather(session)
    order = ("wrong", "weak", "note")
    return Checked(facts, tuple(sorted(judge(facts), key=lambda finding: order.index(finding.level))))


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield all findings of what was measured."""
    yield from _rig(facts)
    yield from _coverage(facts)
    yield from _time(facts)
    for view in facts.views:
        yield from _pixels(view)
        yield from _frozen(view, facts)
    if facts.exchanged is not None:  # and all else that compares views follows from it
        a, b = facts.exchanged
        yield Finding(
            "wrong", f"cameras {a} and {b} look exchanged", "views fit only when these two names are swapped",
            f"convert again with the names the other way round (--view {a}={b} --view {b}={a})",
        )  # fmt: skip
        return
    yield from _clocks(facts)
    yield from _cameras(facts)
    for view in facts.views:
        yield from _sides(view, facts)
    yield from _fit(facts)
    if not any(view.residual_mrad > RESIDUAL_LIMIT_MRAD for view in facts.views):  # of several people there is no body
        yield from _body(facts)
    yield from _variety(facts)


def _rig(facts: Facts) -> Iterator[Finding]:
    if len(facts.views) < 2:
        yield Finding(
            "wrong", "there is one view alone", f"{facts.views[0].name}", "record with two cameras or more, better four"
        )
    elif not facts.rig:
        yield Finding(
            "wrong", "no cameras are known", f"{len(facts.views)} views without a rig; only images were looked at",
            "convert with --cameras, or find the cameras with `edgelift calibrate cameras`",
        )  # fmt: skip
    elif any(facts.time_offset_s):
        offsets = ", ".join(f"{v.name} {o:+.3f} s" for v, o in zip(facts.views, facts.time_offset_s, strict=True) if o)
        yield Finding(
            "wrong", "views are on different clocks", f"time_offset_s says {offsets}; views were not compared",
            "bring them to one clock with `edgelift calibrate sync`",
        )  # fmt: skip


def _coverage(facts: Facts) -> Iterator[Finding]:
    if facts.missing > MOST_MISSING:
        yield Finding(
            "wrong", "hardly anything is seen", f"{_share(facts.missing)} of all joints are missing in the views",
            "check detector and lighting; cut the recording to where somebody is there",
        )  # fmt: skip
    if len(facts.views) > 1 and facts.frames_together < LEAST_FRAMES:
        yield Finding(
            "wrong", "too little is seen by two views",
            f"{facts.frames_together} frames ({facts.together_s:.1f} s); at least {LEAST_FRAMES} are needed",
            "record longer, where the views overlap",
        )  # fmt: skip
        return
    for view in facts.views:
        if view.shown < LEAST_SHOWN:
            yield Finding(
                "weak", f"{view.name} seldom sees the person",
                f"in {_share(view.shown)} of the frames; longest without {view.absent_s:.1f} s",
                f"turn {view.name} to where people are, or check that it is the camera that it is called after",
            )  # fmt: skip
        if view.confidence[1] < LEAST_CONFIDENCE:
            yield Finding(
                "weak", f"the detector doubts what it sees in {view.name}",
                f"median confidence {view.confidence[1]:.2f}",
                "check light, focus and distance of this camera, or take a better detector",
            )  # fmt: skip
    yield from _joints(facts)


def _joints(facts: Facts) -> Iterator[Finding]:
    shares = dict(zip(facts.joints, facts.together.tolist(), strict=True))
    rare = {joint: share for joint, share in shares.items() if share < LEAST_TOGETHER}
    if len(facts.views) > 1 and rare:
        worst_first = sorted(rare.items(), key=lambda item: item[1])[:MOST_NAMED]
        told = ", ".join(f"{joint} {_share(share)}" for joint, share in worst_first)
        yield Finding(
            "weak", f"{len(rare)} joints are seldom seen by two views", f"share of frames: {told}",
            "record more from where they show: a camera on the other side, or higher",
        )  # fmt: skip


def _time(facts: Facts) -> Iterator[Finding]:
    if facts.gaps:
        yield Finding(
            "weak", "the recording has gaps", f"{facts.gaps} gaps, the longest of {facts.longest_gap_s:.2f} s",
            "nothing, if it was paused; otherwise look for dropped frames, or convert each take by itself",
        )  # fmt: skip
    if facts.irregular > MOST_IRREGULAR:
        yield Finding(
            "weak", "frames come irregularly",
            f"{_share(facts.irregular)} of the steps are a quarter or more off the usual {1000 * facts.step_s:.0f} ms",
            "check that the times are those of capture, not of arrival",
        )  # fmt: skip


def _pixels(view: ViewFacts) -> Iterator[Finding]:
    width, height = view.size or (0, 0)
    if view.farthest_px < NORMALISED_PX:
        yield Finding(
            "wrong", f"the keypoints of {view.name} are no pixels", f"none lies beyond {view.farthest_px:.2f}",
            "convert from pixels, not from coordinates between 0 and 1",
        )  # fmt: skip
    elif view.reach > FARTHEST_REACH:
        yield Finding(
            "wrong", f"{view.name} is of another image size",
            f"keypoints reach to {view.reach:.2f} times the {width}x{height} that the camera has",
            "detect on images as large as those that were calibrated, or give the camera of the recorded size",
        )  # fmt: skip
    elif view.outside > MOST_OUTSIDE:
        yield Finding(
            "weak", f"the person leaves the image of {view.name}", f"{_share(view.outside)} of the joints lie outside",
            f"move {view.name} back, or take a wider lens",
        )  # fmt: skip


def _frozen(view: ViewFacts, facts: Facts) -> Iterator[Finding]:
    if view.frozen > MOST_FROZEN or view.frozen_s > MOST_FROZEN_S:
        rate = f"; {view.name} may record at {(1 - view.frozen) / facts.step_s:.0f} Hz" if facts.step_s else ""
        yield Finding(
            "weak", f"frames of {view.name} repeat",
            f"{_share(view.frozen)} are the same as the one before, up to {view.frozen_s:.2f} s at once{rate}",
            "look for dropped or doubled frames; record all views at one rate",
        )  # fmt: skip


def _doubtful(facts: Facts) -> tuple[Level, str]:
    """How much weight a lag or a moved camera has: in a moment a detector's errors can look like either."""
    if facts.together_s >= SURE_S:
        return "wrong", ""
    return "weak", f"; it is {facts.together_s:.1f} s of recording only, more would make sure"


def _clocks(facts: Facts) -> Iterator[Finding]:
    level, doubt = _doubtful(facts)
    for view in facts.views:
        lag, drift = view.lag_s or 0.0, view.drift_s or 0.0
        if abs(drift) >= LEAST_DRIFT_S:
            yield Finding(
                "wrong", f"the clock of {view.name} drifts",
                f"it moves by {1000 * drift:+.0f} ms against the others over {facts.seconds:.0f} s",
                "check its frame rate; bring the views to one clock with `edgelift calibrate sync`",
            )  # fmt: skip
        elif abs(lag) >= LEAST_SHIFT_S:
            yield Finding(
                level, f"{view.name} is not synchronised",
                f"it shows things {abs(1000 * lag):.0f} ms {'later' if lag > 0 else 'earlier'} than the others{doubt}",
                "bring the views to one clock with `edgelift calibrate sync`",
            )  # fmt: skip


def _cameras(facts: Facts) -> Iterator[Finding]:
    level, doubt = _doubtful(facts)
    for view in facts.views:
        if view.moved is not None:
            yield Finding(
                level, f"{view.name} stands otherwise than its calibration says{_when(view.moved)}",
                f"keypoints are {view.moved.offset_px:.0f} px off; turned {view.moved.degrees:.1f} degrees and moved "
                f"{100 * view.moved.metres:.0f} cm, it leaves {_share(view.moved.left)} of the residual{doubt}",
                f"calibrate {view.name} again (`edgelift calibrate cameras`), or train with --learn-cameras all",
            )  # fmt: skip


def _when(moved: Moved) -> str:
    return "" if moved.during_s is None else f" from {moved.during_s[0]:.0f} s to {moved.during_s[1]:.0f} s"


def _sides(view: ViewFacts, facts: Facts) -> Iterator[Finding]:
    if view.swapped < FEW_SWAPS:
        return
    told = ", ".join(f"{first}-{last}" for first, last in view.swapped_frames[:MOST_NAMED])
    left = len(view.swapped_frames) - MOST_NAMED
    more = f" and {left} more spans" if left > 0 else ""
    either = " (or in the other view: of two, nobody can say which)" if len(facts.views) == 2 else ""
    always = view.swapped > MOST_SWAPS
    yield Finding(
        "wrong" if always else "weak", f"left and right are exchanged in {view.name}{either}",
        f"in {_share(view.swapped)} of the frames: {told}{more}",
        "its images are mirrored, or its joints were named wrongly: convert it again" if always
        else "take a better detector, or one that tracks; cut these frames out if they are few",
    )  # fmt: skip


def _explained(facts: Facts) -> bool:
    """Whether something was found that makes residuals large; it spoils those of sound views, too."""
    return any(
        view.moved is not None or abs(view.lag_s or 0.0) >= LEAST_SHIFT_S or abs(view.drift_s or 0.0) >= LEAST_DRIFT_S
        or view.swapped > MOST_SWAPS for view in facts.views
    )  # fmt: skip


def _fit(facts: Facts) -> Iterator[Finding]:
    for view in facts.views if not _explained(facts) else ():
        if view.residual_mrad <= MOST_RESIDUAL_MRAD or np.isnan(view.residual_mrad):
            continue
        stranger = view.residual_mrad > RESIDUAL_LIMIT_MRAD
        yield Finding(
            "wrong" if stranger else "weak", f"{view.name} does not fit the other views",
            f"keypoints lie {view.residual_px[0]:.0f} px (p90 {view.residual_px[1]:.0f}) from where all views put them",
            "check which folder is which camera, and that all views show the same person; else calibrate again",
        )  # fmt: skip


def _body(facts: Facts) -> Iterator[Finding]:
    yield from _scale(facts)
    if facts.knees < FORWARD_KNEES:
        yield Finding(
            "wrong", "left and right are exchanged in all views",
            f"knees bend backwards in {_share(1 - facts.knees)} of the frames",
            "convert again with the skeleton that the detector wrote, or images that are not mirrored",
        )  # fmt: skip
    loose = [
        b for b in facts.bones if b.name.endswith(LONG_BONES) and b.metres * b.spread_percent / 100 > MOST_SPREAD_M
    ]
    if loose:
        yield Finding(
            "weak", "bones change their length",
            ", ".join(f"to {b.name} {b.metres:.2f} m by {b.spread_percent:.0f} %" for b in loose),
            "see what else was found; if nothing, these joints are badly detected: more light, or another detector",
        )  # fmt: skip
    uneven = [
        b
        for b in facts.bones
        if b.name.endswith(LONG_BONES) and abs(b.asymmetry_percent or 0.0) > MOST_ASYMMETRY_PERCENT
    ]
    if uneven:
        yield Finding(
            "weak", "left and right bones differ",
            ", ".join(f"to {b.name} {b.asymmetry_percent or 0:+.0f} %" for b in uneven),
            "record the person from the other side as well: the farther side is guessed",
        )  # fmt: skip


def _scale(facts: Facts) -> Iterator[Finding]:
    least, most = PLAUSIBLE_M
    if np.isnan(facts.height_m) or least <= facts.height_m <= most:
        return
    fits = [u for u, per_metre in UNITS.items() if least <= facts.height_m / per_metre <= most]
    inverse = [u for u, per_metre in UNITS.items() if least <= facts.height_m * per_metre <= most]
    guess = f"the camera file looks like {fits[0]}, read as metres" if fits else "check the unit of the camera file"
    guess = f"the camera file was divided by {UNITS[inverse[0]]:g} once too often" if inverse else guess
    yield Finding(
        "wrong", "the person is of no human size", f"{facts.height_m:.4g} m tall, as bones and cameras say",
        f"{guess}: convert with the right --units, or scale it to the length that it was calibrated with",
    )  # fmt: skip


def _variety(facts: Facts) -> Iterator[Finding]:
    if 0 < facts.together_s < ENOUGH_S:
        yield Finding(
            "note", "it is short", f"{facts.together_s:.1f} s in which two views see the person",
            f"record more of what the lifter is for: {ENOUGH_S:.0f} s and more, in one take or several",
        )  # fmt: skip
    facing = [view.facing for view in facts.views if view.facing is not None]
    turned = int((np.sum(facing, axis=0) > SEEN_SECTOR).sum()) if facing else SECTORS
    if turned < TURNS:
        yield Finding(
            "note", "the person is seen from few sides", f"from {turned} of {SECTORS} directions, all views together",
            "record the person turned to other sides, too",
        )  # fmt: skip


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 or 0.9 < share < 1 else f"{100 * share:.0f} %"


def worst(checked: Sequence[Checked]) -> Judgement:
    """Return the worst verdict of several sessions; `fit` of none."""
    order: tuple[Judgement, ...] = ("unfit", "usable", "fit")
    return min((one.verdict for one in checked), key=order.index, default="fit")
