"""What a recording is like, measured: who was seen where and how well, in time, in every view and by all together.

Long recordings are thinned for what needs statistics alone, so that a check takes seconds. Lengths are those of
common14, which every skeleton gives; joints are the session's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.calibration.check_geometry import Moved, Timing, find_swaps, look_at_parts
from edgelift.calibration.soundness import LEAST_FRAMES, POINTS, find_exchanged, residual_rad, spread
from edgelift.poses.cameras import triangulate
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import SKELETONS
from edgelift.poses.timeline import MAX_GAP_S

Float64 = NDArray[np.float64]
Flags = NDArray[np.bool_]

BODY = SKELETONS["common14"]
MOST_FRAMES = 6000  # with a joint that two views know: of ten minutes at 60 Hz every sixth; no share moves by a percent
PARTED_S = 0.1  # exchanged frames so near each other are one span: a frame between them is unclear, not well
HEAT_CELLS = 16  # along the longer side of an image
SECTORS = 8  # of the compass, 45 degrees each, in which somebody can face
IRREGULAR = 0.25  # of the usual step: a step that is off by more is no jitter
OUTSIDE = 0.05  # of the image, on every side: detectors guess a little beyond the edge
# of a person's height (Drillis & Contini 1966), by the joint that the bone leads to
OF_HEIGHT = {"knee": 0.245, "ankle": 0.246, "mid_shoulder": 0.288, "elbow": 0.186, "wrist": 0.146}
# a knee that is bent: by more than this of the leg off the line from hip to ankle, in so many legs and frames
STRAIGHT, LEAST_BENT = 0.05, 60


@dataclass(frozen=True, eq=False)
class ViewFacts:
    """One view. Shares are of 1; NaN and None where it cannot be known.

    size: (width, height) pixels. shown: share of frames with a joint; absent_s: longest time without. confidence: 10th
    and 50th percentile of joints that are seen. heat (rows, columns): share of joints by place in the image. outside:
    share of joints beyond the image; farthest_px and reach: how far they go, in pixels and in image sizes (99th
    percentile). frozen: share of frames that repeat the one before to the last bit, frozen_s: longest time.
    residual_px: p50 and p90 to all views' triangulation, by_joint_px (joints, 2) the same. swapped: share of the
    looked-at frames whose left and right are exchanged, swapped_frames: first and last frame of each span. facing
    (SECTORS,): share of frames in which the person faces the camera, then in steps of 45 degrees the right of the
    image, away from the camera, and its left. lag_s and drift_s: by how much it is later than the others, and how much
    that grows; moved: if the camera stands elsewhere.
    """

    name: str
    size: tuple[int, int] | None
    shown: float
    absent_s: float
    confidence: tuple[float, float]
    heat: Float64
    outside: float
    farthest_px: float
    reach: float
    frozen: float
    frozen_s: float
    residual_px: tuple[float, float] = (np.nan, np.nan)
    residual_mrad: float = np.nan
    by_joint_px: Float64 | None = None
    swapped: float = 0.0
    swapped_frames: tuple[tuple[int, int], ...] = ()
    facing: Float64 | None = None
    lag_s: float | None = None
    drift_s: float | None = None
    moved: Moved | None = None


@dataclass(frozen=True)
class BoneFacts:
    """One bone of common14, called after the joint that it leads to: median metres, MAD in percent of it.

    asymmetry_percent: left less right over their mean, for the left one of a pair; None for others.
    """

    name: str
    metres: float
    spread_percent: float
    asymmetry_percent: float | None


@dataclass(frozen=True, eq=False)
class Facts:
    """One session. presence (views, bins): share of joints seen, evenly over the time of the recording.

    together_s: seconds in which two views know a joint. together (joints,): share of frames in which two views know it.
    step_s: usual time between frames. gaps: steps longer than a lifter's windows bridge, longest_gap_s the longest.
    irregular: share of steps that are off. height_m: of the person, from their bones. knees: share of frames in which
    they bend forwards, as sides and trunk say what is forwards. exchanged: views whose names are.
    """

    session: str
    skeleton: str
    joints: tuple[str, ...]
    frames: int
    seconds: float
    step_s: float
    gaps: int
    longest_gap_s: float
    irregular: float
    missing: float
    together_s: float
    together: Float64
    presence: Float64
    views: tuple[ViewFacts, ...]
    time_offset_s: tuple[float, ...]
    rig: bool
    frames_together: int = 0
    bones: tuple[BoneFacts, ...] = ()
    height_m: float = np.nan
    knees: float = np.nan
    exchanged: tuple[str, str] | None = None
    unchecked: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values that are valid JSON: None where a number is not known."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return value


def gather(session: Session, bins: int = 200) -> Facts:
    """Measure a session; what needs a rig, or views that are not shifted in time, is left out where there is none."""
    seen = session.keypoints[..., 2] > 0
    steps = np.diff(session.timestamps)
    step = float(np.median(steps)) if len(steps) else 0.0
    both, known = seen.sum(0) >= 2, _known(session)
    facts: dict[str, Any] = {
        "session": session.name, "skeleton": session.skeleton.name, "joints": session.skeleton.joints,
        "frames": seen.shape[1], "seconds": float(np.ptp(session.timestamps)), "step_s": step,
        "gaps": int((steps > max(MAX_GAP_S, 1.5 * step)).sum()), "longest_gap_s": float(steps.max(initial=0.0)),
        "irregular": float((np.abs(steps - step) > IRREGULAR * step).mean()) if len(steps) else 0.0,
        "missing": float(1 - seen[:, seen.any((0, 2))].mean()) if seen.any() else 1.0,
        "frames_together": known.size, "together_s": known.size * step,
        "together": both.mean(0), "presence": _presence(seen, session.timestamps, bins),
        "time_offset_s": tuple(session.time_offset_s.tolist()), "rig": session.cameras is not None,
    }  # fmt: skip
    views = [_view(session, view, step) for view in range(len(seen))]
    unchecked = _unchecked(session)
    if session.cameras is not None and len(views) > 1 and not session.time_offset_s.any() and known.size:
        rows = known[np.linspace(0, len(known) - 1, min(MOST_FRAMES, len(known))).astype(int)]
        together = _together(session, rows)
        facts |= together.pop("session")
        views = [view | {key: values[v] for key, values in together.items()} for v, view in enumerate(views)]
    return Facts(**facts, views=tuple(ViewFacts(**view) for view in views), unchecked=unchecked)


def _known(session: Session) -> NDArray[np.intp]:
    """Frames with a joint that two views know."""
    return np.flatnonzero(((session.keypoints[..., 2] > 0).sum(0) >= 2).any(-1))


def _unchecked(session: Session) -> tuple[str, ...]:
    alone = "residuals, exchanged sides, lags, bone lengths, height and directions need"
    views = len(session.camera_names)
    if views < 2:
        return (f"{alone} two views",)
    if session.cameras is None:
        return (f"{alone} a rig",)
    if session.time_offset_s.any():
        return (f"{alone} views on one clock",)
    late = "which view lags and which camera moved need"
    if views < 3:
        return (f"{late} three views",)
    enough = _known(session.to_skeleton(BODY)).size >= LEAST_FRAMES
    return () if enough else (f"{late} {LEAST_FRAMES} frames that two views know",)


def _presence(seen: Flags, times: Float64, bins: int) -> Float64:
    """(views, bins) share of joints seen by time; NaN where the recording has no frame."""
    bins = min(bins, len(times))
    place = ((times - times[0]) / max(float(np.ptp(times)), 1e-9) * (bins - 1e-9)).astype(int)
    count = np.bincount(place, minlength=bins)
    total = np.stack([np.bincount(place, weights=view, minlength=bins) for view in seen.mean(-1)])
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _view(session: Session, view: int, step_s: float) -> dict[str, Any]:
    """Facts that a view alone gives."""
    keypoints, size = session.keypoints[view], session.size(view)
    seen = keypoints[..., 2] > 0
    shown = seen.any(-1)
    same = (keypoints[1:] == keypoints[:-1]) | np.isnan(keypoints[1:]) & np.isnan(keypoints[:-1])
    frozen = np.concatenate([[False], same.all((1, 2)) & shown[1:]])
    places, confidence = keypoints[seen][:, :2].astype(np.float64), keypoints[seen][:, 2]
    return {
        "name": session.camera_names[view], "size": size, "shown": float(shown.mean()),
        "absent_s": _longest(~shown) * step_s, "frozen": float(frozen.mean()), "frozen_s": _longest(frozen) * step_s,
        "confidence": tuple(np.percentile(confidence, (10, 50)).tolist()) if confidence.size else (np.nan, np.nan),
        **_in_image(places, size),
    }  # fmt: skip


def _in_image(places: Float64, size: tuple[int, int] | None) -> dict[str, Any]:
    """Heat map, and what lies outside, of places (n, 2) in pixels; without a size the map is as large as they reach."""
    reach = np.percentile(places, 99, axis=0) if len(places) else np.ones(2)
    area = np.maximum(np.array(size if size is not None else reach, np.float64), 1.0)
    columns, rows = np.maximum(np.round(HEAT_CELLS * area / area.max()), 1).astype(int)
    heat = np.histogram2d(places[:, 1], places[:, 0], (rows, columns), ((0, area[1]), (0, area[0])))[0]
    beyond = ((places < -OUTSIDE * area) | (places > (1 + OUTSIDE) * area)).any(-1)
    told = size is not None and len(places) > 0
    return {
        "heat": heat / max(len(places), 1), "outside": float(beyond.mean()) if told else np.nan,
        "farthest_px": float(reach.max()) if len(places) else np.nan,
        "reach": float((reach / area).max()) if told else np.nan,
    }  # fmt: skip


def spans(flags: Flags) -> list[tuple[int, int]]:
    """First and last index of every stretch of True in flags (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]


def _in_frames(found: Sequence[tuple[int, int]], rows: NDArray[np.intp], times: Float64) -> tuple[tuple[int, int], ...]:
    """Spans of looked-at frames as spans of frames; those that hardly anything parts are one."""
    merged: list[tuple[int, int]] = []
    for first, last in ((int(rows[a]), int(rows[b])) for a, b in found):
        if merged and times[first] - times[merged[-1][1]] <= PARTED_S:
            first = merged.pop()[0]
        merged.append((first, last))
    return tuple(merged)


def _longest(flags: Flags) -> int:
    return max((last - first + 1 for first, last in spans(flags)), default=0)


def _together(session: Session, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Facts that the views give together at these frames: lists by view, and those of the session."""
    keypoints = spread(session.keypoints, POINTS).astype(np.float64)
    pair = find_exchanged(keypoints, session.rig, residual_rad(keypoints, session.rig))
    residual = triangulate(session.keypoints[:, rows], session.rig)[1]
    body = session.to_skeleton(BODY)
    swaps = find_swaps(_at(body, rows))
    poses = triangulate(_mended(body, rows, swaps), session.rig)[0]
    enough = len(session.rig) > 2 and pair is None and _known(body).size >= LEAST_FRAMES
    timing, moved = look_at_parts(body) if enough else (None, {})
    bones = _bones(poses)
    return {
        "session": {
            "bones": bones, "height_m": _height(bones), "knees": _knees(poses),
            "exchanged": None if pair is None else tuple(session.camera_names[view] for view in pair),
        },
        **_residuals(session, residual),
        "swapped": swaps.mean(1).tolist(),
        "swapped_frames": [_in_frames(spans(view), rows, session.timestamps) for view in swaps],
        "facing": _facing(poses, session),
        **_timed(timing, len(session.rig)),
        "moved": [moved.get(name) for name in session.camera_names],
    }  # fmt: skip


def _at(session: Session, rows: NDArray[np.intp]) -> Session:
    return Session(
        session.keypoints[:, rows], session.timestamps[rows], session.camera_names, session.cameras, session.skeleton,
        session.time_offset_s, name=session.name,
    )  # fmt: skip


def _mended(body: Session, rows: NDArray[np.intp], swaps: Flags) -> NDArray[np.float32]:
    """Keypoints with sides that were found exchanged put back, so that bones are not judged by them too."""
    keypoints = body.keypoints[:, rows]
    return np.where(swaps[..., None, None], keypoints[:, :, list(BODY.mirror)], keypoints)


def _timed(timing: Timing | None, views: int) -> dict[str, list[float | None]]:
    if timing is None:
        return {"lag_s": [None] * views, "drift_s": [None] * views}
    drift = [value if np.isfinite(value) else None for value in timing.drift_s.tolist()]
    return {"lag_s": timing.lag_s.tolist(), "drift_s": drift}


def _residuals(session: Session, residual: Float64) -> dict[str, Any]:
    """p50 and p90 of residuals (views, frames, joints) in pixels by view, and by view and joint."""
    percent = [_percentiles(view.ravel()[:, None])[0] for view in residual]
    focal = [camera.K[0, 0] for camera in session.rig]
    return {
        "residual_px": [tuple(row.tolist()) for row in percent],
        "residual_mrad": [1000 * float(row[0]) / f for row, f in zip(percent, focal, strict=True)],
        "by_joint_px": [_percentiles(view) for view in residual],
    }


def _percentiles(values: Float64) -> Float64:
    """(columns, 2) p50 and p90 of each column without NaN; NaN where nothing is left."""
    kept = [column[np.isfinite(column)] for column in values.T]
    return np.array([np.percentile(k, (50, 90)) if k.size else (np.nan, np.nan) for k in kept])


def _bones(poses: Float64) -> tuple[BoneFacts, ...]:
    names = [BODY.joints[child] for _, child in BODY.bones]
    lengths = np.stack([np.linalg.norm(poses[:, c] - poses[:, p], axis=-1) for p, c in BODY.bones], -1)
    middle = _percentiles(lengths)[:, 0]
    spread_ = _percentiles(np.abs(lengths - middle))[:, 0]
    known = dict(zip(names, middle.tolist(), strict=True))
    return tuple(
        BoneFacts(name, known[name], float(100 * mad / known[name]), _asymmetry(name, known))
        for name, mad in zip(names, spread_, strict=True)
    )


def _asymmetry(name: str, metres: dict[str, float]) -> float | None:
    other = metres.get("right_" + name.removeprefix("left_")) if name.startswith("left_") else None
    return None if other is None else 200 * (metres[name] - other) / (metres[name] + other)


def _height(bones: Sequence[BoneFacts]) -> float:
    """Metres, the median over all bones of which a person's height is known to be a multiple; NaN for none."""
    heights = [b.metres / f for b in bones for end, f in OF_HEIGHT.items() if b.name.endswith(end)]
    return float(_percentiles(np.array(heights)[:, None])[0, 0])


def _axes(poses: Float64) -> tuple[Float64, Float64, Float64]:
    """Of poses (frames, joints, 3): trunk upwards, right to left, and forwards (frames, 3), none of unit length."""
    joint = {name: poses[:, index] for index, name in enumerate(BODY.joints)}
    up = joint["mid_shoulder"] - joint["mid_hip"]
    left = joint["left_shoulder"] - joint["right_shoulder"] + joint["left_hip"] - joint["right_hip"]
    return up, left, np.cross(left, up)


def _knees(poses: Float64) -> float:
    """Share of frames in which knees lie before the line from hip to ankle; NaN where legs are straight or unknown."""
    ahead = _axes(poses)[2]
    ahead = ahead / np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-9)
    joint = {name: poses[:, index] for index, name in enumerate(BODY.joints)}
    bent = []
    for side in ("left", "right"):
        hip, knee, ankle = (joint[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        leg = ankle - hip
        along = ((knee - hip) * leg).sum(-1, keepdims=True) / np.maximum((leg**2).sum(-1, keepdims=True), 1e-9)
        off = ((knee - hip - along * leg) * ahead).sum(-1) / np.maximum(np.linalg.norm(leg, axis=-1), 1e-9)
        bent.append(off[np.isfinite(off)])
    told = np.concatenate(bent)
    told = told[np.abs(told) > STRAIGHT]
    return float((told > 0).mean()) if len(told) >= LEAST_BENT else np.nan


def _facing(poses: Float64, session: Session) -> list[Float64 | None]:
    """By view (SECTORS,) shares of frames: towards the camera, then by 45 degrees its right, away, its left."""
    ahead = _axes(poses)[2]
    ahead = ahead[np.isfinite(ahead).all(-1)]
    found: list[Float64 | None] = []
    for camera in session.rig if len(ahead) else ():
        x, _, z = (ahead @ camera.R.T).T
        sector = np.round(np.arctan2(x, -z) / (2 * np.pi / SECTORS)).astype(int) % SECTORS
        found.append(np.bincount(sector, minlength=SECTORS) / len(sector))
    return found or [None] * len(session.rig)
