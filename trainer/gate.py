"""The gate: whether a candidate may replace the lifter that it was adapted from. No label is read.

Two questions. Is it better where it is to work: on stretches of the sessions that it was not trained on, each view
lifted alone, do its poses meet what the other views saw, agree better with triangulation, keep their bones? And has it
forgotten nothing: on the base's reference set, does it err as little? A mean answers neither: frames of a second are
alike, so whole blocks are drawn with replacement (Efron & Tibshirani 1993, moving blocks), and the answer is the
interval of the ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, camera_to_world, project, triangulate, world_to_camera
from edgelift.poses.metrics import mixed_errors
from edgelift.poses.sessions import Session
from edgelift.poses.windows import LifterInput
from edgelift.runtime.evaluate import Lift

Float64 = NDArray[np.float64]
MM_PER_M = 1000.0
BLOCK_S = 1.0  # of the held-out stretches
BLOCK_WINDOWS = 8  # of the reference set, whose neighbours are of one session
LEAST_BLOCKS = 5
DRAWS = 2000
LEVEL = 0.95
THREE_VIEWS = 3
# what is farther off says only that something is wrong there, as far as both lifters are concerned
FARTHEST_PX_OF_FOCAL, FARTHEST_M = 0.2, 0.5
FORGETTING = (1.01, 1.02)  # of the error on the reference set: as it seems, and as it is with near certainty
LOOSER_BONES = (1.1, 1.5)  # and what bones may lose in constancy: one property of poses among many


@dataclass(frozen=True)
class Measure:
    """One measure of both lifters. ratio: candidate over base; interval: LEVEL of it, drawn from so many blocks.

    most: what the ratio may be, and what the upper end of the interval may be.
    """

    base: float
    candidate: float
    ratio: float
    interval: tuple[float, float]
    most: tuple[float, float]
    blocks: int

    @property
    def holds(self) -> bool:
        """Whether the candidate does what it must."""
        return self.ratio <= self.most[0] and self.interval[1] <= self.most[1]


@dataclass(frozen=True)
class Verdict:
    """What the gate found. reasons: why not, none where the candidate may be published."""

    measures: dict[str, Measure]
    reasons: tuple[str, ...]

    @property
    def publish(self) -> bool:
        """Whether the candidate may be published."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """For reports and manifests."""
        return {"measures": {n: asdict(m) for n, m in self.measures.items()}, "reasons": list(self.reasons)}


TITLES = {
    "reprojection_px": "reprojection into the other views",
    "triangulation_mm": "distance from triangulation",
    "bones_mm": "change of bone lengths",
    "reference_mm": "error on the reference set",
}
MOST = {
    "reprojection_px": (1.0, 1.0),
    "triangulation_mm": (1.0, 1.0),
    "bones_mm": LOOSER_BONES,
    "reference_mm": FORGETTING,
}


def judge(
    base: Lift, candidate: Lift, held_out: Sequence[Session], reference: Mapping[str, NDArray[np.float32]],
    fed: LifterInput,
) -> Verdict:  # fmt: skip
    """Compare a candidate with its base on held-out stretches and on the base's reference set.

    What cannot be measured (triangulation from two views, a reference without poses) is left out, except that what the
    other views saw is always needed.
    """
    tables = [_weigh(lift, held_out, fed) for lift in (base, candidate)]
    for table, lift in zip(tables, (base, candidate), strict=True):
        table["reference_mm"] = _reference(lift, reference, fed.skeleton.root)
    if any(not np.array_equal(tables[0][name][:, 1], tables[1][name][:, 1]) for name in tables[0]):
        return Verdict({}, ("poses that are not finite, on windows that the base lifts",))
    rows = {name: (tables[0][name], tables[1][name]) for name in tables[0]}
    measures = {name: _measure(*pair, MOST[name]) for name, pair in rows.items() if pair[0][:, 1].any()}
    if "bones_mm" in measures:  # who always gives the same pose has constant bones: so much may be lost as poses win
        won = 1 / min(1.0, max(measures["reprojection_px"].ratio, 0.01))
        loosest, at_the_end = LOOSER_BONES
        measures["bones_mm"] = replace(measures["bones_mm"], most=(loosest * won, at_the_end * won))
    return Verdict(measures, tuple(_reasons(measures)))


def _reasons(measures: Mapping[str, Measure]) -> list[str]:
    if "reprojection_px" not in measures or measures["reprojection_px"].blocks < LEAST_BLOCKS:
        seconds = measures["reprojection_px"].blocks * BLOCK_S if "reprojection_px" in measures else 0
        return [f"{seconds:.0f} s are held out to judge by, at least {LEAST_BLOCKS * BLOCK_S:.0f} s are needed"]
    return [
        f"{TITLES[name]}: {m.candidate:.1f} for {m.base:.1f} {name.rpartition('_')[2]}, "
        f"x {m.ratio:.3f}, {m.interval[0]:.3f} to {m.interval[1]:.3f}; allowed: x {m.most[0]:g}, up to {m.most[1]:g}"
        for name, m in measures.items()
        if not m.holds
    ]


def _measure(base: Float64, candidate: Float64, most: tuple[float, float]) -> Measure:
    """Ratio of two tables (blocks, 2) of sums and counts, and its interval over draws of blocks."""
    seen = base[:, 1] > 0
    sums = np.stack([base[seen], candidate[seen]])
    draws = np.random.default_rng(0).integers(seen.sum(), size=(DRAWS, seen.sum()))
    drawn = sums[:, draws, 0].sum(-1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[1] / np.maximum(drawn[0], 1e-12), (tail, 1 - tail))
    (b, n), (c, _) = sums.sum(1)
    ratio, interval = float(c / max(b, 1e-12)), (float(low), float(high))
    return Measure(float(b / n), float(c / n), ratio, interval, most, int(seen.sum()))


def _reference(lift: Lift, reference: Mapping[str, NDArray[np.float32]], root: int) -> Float64:
    """(blocks, 2): distance from the known poses in mm, the root absolute and all others relative to it; and joints."""
    poses = lift(reference["keypoints"], reference["intrinsics"]).astype(np.float64)
    distance = mixed_errors(poses, reference["poses"].astype(np.float64), root)
    return _sums(np.minimum(distance, MM_PER_M * FARTHEST_M), np.arange(len(distance)) // BLOCK_WINDOWS)


def _weigh(lift: Lift, sessions: Sequence[Session], fed: LifterInput) -> dict[str, Float64]:
    """Sums and counts (blocks, 2) by measure, over the blocks of all sessions."""
    parts: dict[str, list[Float64]] = {name: [] for name in TITLES if name != "reference_mm"}
    for session in sessions:
        own = session.to_skeleton(fed.skeleton)
        block = ((own.timestamps - own.timestamps[0]) / BLOCK_S).astype(int)
        for name, values in _errors(lift, own, fed).items():
            parts[name].append(_sums(values, block))
    return {name: np.concatenate([np.zeros((0, 2)), *tables]) for name, tables in parts.items()}


def _errors(lift: Lift, session: Session, fed: LifterInput) -> dict[str, Float64]:
    """(frames, ...) errors by measure, NaN where nothing is known."""
    world = np.stack([_lifted(lift, session, view, fed) for view in range(len(session.rig))])
    points = np.where(
        ((session.keypoints[..., 2] > 0).sum(0) >= THREE_VIEWS)[..., None],
        triangulate(session.keypoints, session.rig)[0], np.nan,
    )  # fmt: skip
    return {
        "reprojection_px": np.moveaxis(_reprojection(world, session), 2, 0),
        "triangulation_mm": np.moveaxis(
            MM_PER_M * np.minimum(np.linalg.norm(world - points, axis=-1), FARTHEST_M), 1, 0
        ),
        "bones_mm": np.moveaxis(_bone_changes(world, fed), 1, 0),
    }


def _lifted(lift: Lift, session: Session, view: int, fed: LifterInput) -> Float64:
    """(frames, joints, 3) world metres of one view lifted alone; NaN where it sees nobody."""
    camera = session.rig[view]
    windows = fed.windows(session, view)
    poses = lift(windows, np.tile(fed.intrinsics(camera, camera.size), (len(windows), 1))).astype(np.float64)
    poses[~(windows[:, -1, :, 2] > 0).any(-1)] = np.nan
    return camera_to_world(poses, camera)


def _reprojection(world: Float64, session: Session) -> Float64:
    """(views lifted, views seen, frames, joints) pixels between what is lifted from one view and what another saw."""
    out = np.full((len(world), len(world), *world.shape[1:3]), np.nan)
    for into, camera in enumerate(session.rig):
        seen = np.where(session.keypoints[into, ..., 2:] > 0, session.keypoints[into, ..., :2], np.nan)
        for view in range(len(world)):
            if view != into:
                out[view, into] = _distance_px(world[view], seen, camera)
    return out


def _distance_px(world: Float64, seen: Float64, camera: Camera) -> Float64:
    """(frames, joints) pixels, at most FARTHEST; so is what lies behind the camera."""
    farthest = FARTHEST_PX_OF_FOCAL * camera.K[0, 0]
    behind = world_to_camera(world, camera)[..., 2] <= 0
    distance = np.linalg.norm(project(world, camera) - seen, axis=-1)
    known: Float64 = np.minimum(np.where(behind & np.isfinite(seen[..., 0]), farthest, distance), farthest)
    return known


def _bone_changes(world: Float64, fed: LifterInput) -> Float64:
    """(views, frames, bones) mm: how far each bone's length is from its median in that view."""
    bones = np.stack([world[..., child, :] - world[..., parent, :] for parent, child in fed.skeleton.bones], -2)
    length = np.linalg.norm(bones, axis=-1)
    somebody = np.isfinite(length).any(1, keepdims=True)
    middle: Float64 = np.nanmedian(np.where(somebody, length, 0.0), axis=1, keepdims=True)
    changes: Float64 = MM_PER_M * np.abs(length - middle)
    return changes


def _sums(values: Float64, block: NDArray[np.int_]) -> Float64:
    """(blocks, 2): sum and number of the known values (frames, ...) of each block."""
    known = np.isfinite(values)
    axes = tuple(range(1, values.ndim))
    pair = np.stack([np.where(known, values, 0.0).sum(axes), known.sum(axes)], -1)
    out = np.zeros((int(block[-1]) + 1, 2))
    np.add.at(out, block, pair)
    return out
