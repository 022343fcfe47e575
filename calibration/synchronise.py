"""When each camera really saw what it shows: time offsets of views, from the keypoints themselves.

First coarsely: joints rise and fall in all views at once, so their vertical speeds correlate at the right lag; where
several lags do (people walk in steps), epipolar geometry decides. Then finely: a joint that moves is seen where it was
when the shutter opened, so clocks are unknowns of the bundle adjustment like cameras are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from edgelift.calibration.bundle import CLOCK, PARAMETERS, Bools, Bundle, Cameras, Float64, Sightings, adjust
from edgelift.calibration.cameras import SEED, Estimate, check_agreement, free_parameters, intrinsics_of, started_rig
from edgelift.calibration.essential import relative_pose
from edgelift.calibration.structure import LEAST_SHARED, crossed_points
from edgelift.calibration.uncertainty import uncertainty
from edgelift.poses.cameras import rays
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session

Tell = Callable[[str], None]

PEAKS = 3  # lags of a pair of views that geometry decides among
TRIED = 600  # joints that it is asked about
TRACK_S, LEAST_TRACK = 0.1, 0.6  # to either side of a moment; share of the frames there that must show the joint
SPEED_S = 0.25  # to either side: the speeds of slow joints are noise in a shorter time
LEAST_OVERLAP = 20  # frames in which two views must both show the person
REFINED, SETTLED_S = 8, 1e-4  # adjustments with clocks, each on keypoints that are resampled by the last
REFINED_ON = 6000  # joints at moments
DRIFT_PARTS_S = 20.0  # a recording that is shorter tells no drift


@dataclass(frozen=True, eq=False)
class Offsets:
    """What to add to each view's clock, (views,) seconds, the first one's zero; sd_s of each; drift in ms a minute.

    drift is None where the recording is too short. residual_px: median before and after.
    """

    offset_s: Float64
    sd_s: Float64
    drift_ms_per_min: Float64 | None
    residual_px: tuple[float, float]

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, by camera."""
        drift = None if self.drift_ms_per_min is None else self.drift_ms_per_min.round(3).tolist()
        return {
            "cameras": list(names), "offset_ms": (1000 * self.offset_s).round(3).tolist(),
            "sd_ms": (1000 * self.sd_s).round(3).tolist(), "drift_ms_per_min": drift,
            "reprojection_px": [round(r, 3) for r in self.residual_px],
        }  # fmt: skip


def find_offsets(
    session: Session, farthest_s: float = 1.0, estimate: Estimate = "none", tell: Tell = lambda _: None
) -> Offsets:
    """Find the offsets of a session's views; those that it states are not read, and neither are its cameras' poses.

    farthest_s: the largest offset between two views. estimate: what of the lenses is to be found on the way, as in
    calibrate_cameras. EdgeliftError where views never show the person together.
    """
    session = replace(session, time_offset_s=np.zeros(len(session.camera_names)))
    cameras = intrinsics_of([session], estimate)
    if len(session.timestamps) < 2 * LEAST_OVERLAP:
        raise EdgeliftError(
            f"session {session.name}", f"{len(session.timestamps)} frames", f"{2 * LEAST_OVERLAP} at least",
            "Record some seconds of movement.",
        )  # fmt: skip
    tell("lags of pairs of views")
    coarse = _coarse(session, cameras, farthest_s)
    tell("bundle adjustment with clocks")
    rig = started_rig(_tracked(session, coarse), cameras, estimate, np.random.default_rng(SEED))
    free = free_parameters(estimate)
    before = _adjust(_tracked(session, np.zeros(len(cameras))), rig, free, cameras)
    offsets, bundle = _refined(session, rig, coarse, _with_clocks(free), cameras)
    check_agreement(bundle)
    return Offsets(
        offset_s=offsets, sd_s=uncertainty(bundle, _step(session)).clock,
        drift_ms_per_min=_drift(session, bundle.cameras, offsets),
        residual_px=(_median_px(before), _median_px(bundle)),
    )  # fmt: skip


def _tracked(session: Session, offsets: Float64) -> Sightings:
    """Where joints were and how fast they moved in each image at common moments, REFINED_ON of them in all.

    A parabola through the keypoints within TRACK_S of a moment, least squares: unlike interpolation it scatters the
    same whatever the offset is, so that no offset is preferred for averaging the noise away. Speeds come from
    parabolas within SPEED_S, zero where too little is seen: noisy ones would move the clocks too little, and smooth
    ones tell them as truly.
    """
    views, frames, joints = session.keypoints.shape[:3]
    every = max(1, round(frames * joints / REFINED_ON))
    rows = np.arange(0, frames, every)
    moments = [(k, session.timestamps, session.timestamps[rows] - o)
               for k, o in zip(session.keypoints.astype(np.float64), offsets, strict=True)]  # fmt: skip
    place = np.stack([_parabolas(*m, TRACK_S)[0] for m in moments]).reshape(views, -1, 2)
    speed = np.stack([_parabolas(*m, SPEED_S)[1] for m in moments]).reshape(views, -1, 2)
    seen = np.asarray(np.isfinite(place).all(-1))
    several = np.flatnonzero(seen.sum(0) >= 2)
    return Sightings(
        place[:, several], seen[:, several], np.repeat(rows, joints)[several],
        np.tile(np.arange(joints), len(rows))[several], np.nan_to_num(speed[:, several]),
    )  # fmt: skip


def _parabolas(keypoints: Float64, times: Float64, wanted: Float64, reach_s: float) -> tuple[Float64, Float64]:
    """Place (moments, joints, 2) and speed of one view's joints at moments; NaN where too little is seen around."""
    reach = max(2, round(reach_s / float(np.median(np.diff(times)))))
    nearest = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
    rows = nearest[:, None] + np.arange(-reach, reach + 1)
    inside = (rows >= 0) & (rows < len(times))
    rows = np.clip(rows, 0, len(times) - 1)
    away = (times[rows] - wanted[:, None]) / reach_s
    near = inside & (np.abs(away) < 1)
    window = keypoints[rows]
    shown = near[..., None] & (window[..., 2] > 0)
    # frames come and go at the ends of the window without a jump
    weight = np.where(shown, ((1 - away**2) ** 2)[..., None], 0.0)
    powers = np.stack([np.ones_like(away), away, away**2], -1)
    normal = np.einsum("tkj,tka,tkb->tjab", weight, powers, powers)
    right = np.einsum("tkj,tka,tkjc->tjac", weight, powers, np.nan_to_num(window[..., :2]))
    # both sides of the moment have to be seen, or the parabola is a guess
    sound = (shown.sum(1) >= LEAST_TRACK * 2 * reach) & _both_sides(shown, away)
    fitted = np.linalg.solve(np.where(sound[..., None, None], normal, np.eye(3)), right)
    fitted[~sound] = np.nan
    return fitted[..., 0, :], fitted[..., 1, :] / reach_s


def _both_sides(shown: Bools, away: Float64) -> Bools:
    after = (shown & (away >= 0)[..., None]).any(1)
    before = (shown & (away <= 0)[..., None]).any(1)
    return np.asarray(after & before)


def _step(session: Session) -> float:
    return float(np.median(np.diff(session.timestamps)))


def _median_px(bundle: Bundle) -> float:
    return float(np.nanmedian(np.linalg.norm(bundle.residuals(), axis=-1)))


def _coarse(session: Session, cameras: Cameras, farthest_s: float) -> Float64:
    """(views,) seconds: the offsets that agree best with the lags of all pairs."""
    step, views = _step(session), len(session.camera_names)
    most = min(round(farthest_s / step), len(session.timestamps) - LEAST_OVERLAP)
    rows, lags, weights = [], [], []
    for a, b in combinations(range(views), 2):
        found = _lag(session, cameras, (a, b), max(most, 1))
        if found is not None:
            rows.append(np.eye(views)[b] - np.eye(views)[a])
            lags.append(found[0] * step)
            weights.append(found[1])
    A = np.array(rows).reshape(-1, views)
    if np.linalg.matrix_rank(A) < views - 1:
        raise EdgeliftError(
            f"session {session.name}", "views that never move together within the time that was looked at",
            f"the person in several views at once, within {farthest_s:g} s",
            "Look further (--farthest 5s), or record a movement that all cameras see.",
        )  # fmt: skip
    return _agreed(A, np.array(lags), np.array(weights))


def _agreed(A: Float64, lags: Float64, weights: Float64) -> Float64:
    """Offsets (views,), the first zero, from lags of pairs; pairs that contradict the others lose their weight."""
    w = weights.copy()
    offsets = np.zeros(A.shape[1])
    for _ in range(20):
        offsets[1:] = np.linalg.lstsq(A[:, 1:] * w[:, None], lags * w, rcond=None)[0]
        w = weights / (1 + (np.abs(A @ offsets - lags) / 0.02) ** 2) ** 0.5
    return offsets


def _lag(session: Session, cameras: Cameras, pair: tuple[int, int], most: int) -> tuple[float, float] | None:
    """Steps to add to the second view's clock, and how sure; None where the views share nothing."""
    a, b = pair
    correlation = _correlations(_rises(session, a), _rises(session, b), most)
    if not np.isfinite(correlation).any():
        return None
    filled = np.where(np.isfinite(correlation), correlation, -1)
    inner = np.flatnonzero((filled[1:-1] >= filled[:-2]) & (filled[1:-1] >= filled[2:])) + 1
    peaks = sorted(inner.tolist() or [int(filled.argmax())], key=lambda i: -filled[i])[:PEAKS]
    fits = [_misfit(session, cameras, pair, i - most) for i in peaks]
    best = int(np.argmin(fits)) if np.isfinite(fits).any() else 0
    # between two lags that fit about as well the correlation decides
    close = [k for k, fit in enumerate(fits) if fit <= 1.1 * fits[best]] or [best]
    return float(peaks[close[0]] - most), max(float(filled[peaks[close[0]]]), 0.05)


def _rises(session: Session, view: int) -> Float64:
    """(frames, joints) vertical speeds in the image, cut off at three times the usual; NaN where unknown."""
    times = session.timestamps
    speed = _parabolas(session.keypoints[view].astype(np.float64), times, times, TRACK_S)[1][..., 1]
    usual = np.ones(speed.shape[1])
    known = np.isfinite(speed).any(0)
    usual[known] = np.nanmedian(np.abs(speed[:, known]), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(speed / usual, -3, 3))


def _correlations(first: Float64, second: Float64, most: int) -> Float64:
    """Correlation of all joints' speeds at each lag from -most to most: second moved later by that many steps."""
    out = np.full(2 * most + 1, np.nan)
    frames = len(first)
    for lag in range(-most, most + 1):
        a, b = first[max(0, lag) : frames + min(0, lag)], second[max(0, -lag) : frames - max(0, lag)]
        both = np.isfinite(a) & np.isfinite(b)
        if both.any(1).sum() >= LEAST_OVERLAP:
            x, y = a[both], b[both]
            out[lag + most] = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum() + 1e-12)
    return out


def _misfit(session: Session, cameras: Cameras, pair: tuple[int, int], lag: int) -> float:
    """How uncertain the best essential matrix of two views is, if the second's clock is moved by some steps."""
    a, b = pair
    offsets = np.zeros(len(session.camera_names))
    offsets[b] = lag * _step(session)
    moved = replace(session, time_offset_s=offsets).only([a, b]).synchronised().keypoints.reshape(2, -1, 3)
    both = np.flatnonzero((moved[..., 2] > 0).all(0))
    if len(both) < LEAST_SHARED:
        return np.inf
    rng = np.random.default_rng(SEED)
    some = rng.permutation(both)[:TRIED]
    seen = [rays(moved[k, some, :2], cameras[v]) for k, v in enumerate(pair)]
    inside = np.isfinite(seen[0]).all(-1) & np.isfinite(seen[1]).all(-1)
    pose = relative_pose(seen[0][inside], seen[1][inside], rng)
    return np.inf if pose is None else pose.misfit


def _refined(session: Session, rig: Cameras, offsets: Float64, free: Bools, given: Cameras) -> tuple[Float64, Bundle]:
    """Adjust cameras and clocks on some of the joints, resampled by the clocks found last, until those stay."""
    for _ in range(REFINED):
        bundle = _adjust(_tracked(session, offsets), rig, free, given)
        change = bundle.clocks_s - bundle.clocks_s[0]
        offsets, rig = offsets + change, bundle.cameras
        if np.abs(change).max() < SETTLED_S:
            break
    return offsets, bundle


def _with_clocks(free: Bools) -> Bools:
    out = free.copy()
    out[CLOCK] = True
    return out


def _adjust(sightings: Sightings, rig: Cameras, free: Bools, given: Cameras) -> Bundle:
    points, agreed = crossed_points(sightings, rig)
    use = np.flatnonzero(agreed.any(0))
    return adjust(sightings.take(use), rig, points[use], agreed[:, use], free, given=given)


def _drift(session: Session, rig: Cameras, offsets: Float64) -> Float64 | None:
    """(views,) ms a minute by which the clocks run apart, from the two halves of the recording."""
    seconds = float(session.timestamps[-1] - session.timestamps[0])
    if seconds < 2 * DRIFT_PARTS_S:
        return None
    half = len(session.timestamps) // 2
    clocks_alone = _with_clocks(np.zeros(PARAMETERS, bool))
    found = []
    for part in (slice(0, half), slice(half, None)):
        clocks = _adjust(_tracked(session.during(part), offsets), rig, clocks_alone, rig).clocks_s
        found.append(clocks - clocks[0])
    return np.asarray(1000 * (found[1] - found[0]) / (seconds / 2 / 60))
