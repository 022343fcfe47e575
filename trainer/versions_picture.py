"""Two versions of a lifter in one picture: their errors joint by joint, and on a standing figure where they changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.files import replaced
from edgelift.poses.skeletons import Skeleton

COLOURS = ("#9aa5b1", "#1f6feb")
TITLES = {"reference": "reference set: other people", "sessions": "the sessions given"}


def draw_difference(told: dict[str, Any], skeleton: Skeleton, figure: NDArray[np.floating], path: Path) -> None:
    """Write a PNG of what `runtime.versions.difference` found; figure (joints, 3): a standing person, camera frame."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = [name for name in TITLES if told[name] is not None]
    picture, axes = pyplot.subplots(
        len(parts), 2, figsize=(11, 4.6 * len(parts)), squeeze=False, width_ratios=(2.2, 1), layout="constrained"
    )
    for (bars, body), name in zip(axes, parts, strict=True):
        before, after = (np.array([np.nan if v is None else v for v in row]) for row in told[name]["joints_mm"])
        _bars(bars, told, name, (before, after))
        picture.colorbar(_body(body, skeleton, figure, after - before), ax=body, label="change, mm")
    with replaced(path) as temporary:
        picture.savefig(temporary, dpi=120, format="png")
    pyplot.close(picture)


def _bars(axis: Any, told: dict[str, Any], name: str, errors: Sequence[NDArray[np.float64]]) -> None:
    place, (before, after) = np.arange(len(told["joints"])), told[name]["mean_mm"]
    for shift, values, version, colour in zip((-0.2, 0.2), errors, told["versions"], COLOURS, strict=True):
        axis.barh(place + shift, values, 0.4, label=version, color=colour)
    axis.set_yticks(place, [joint.replace("_", " ") for joint in told["joints"]])
    axis.invert_yaxis()
    axis.set_xlabel("mm; root absolute, others relative to it")
    axis.set_title(f"{TITLES[name]}: {before} mm -> {after} mm", loc="left")
    axis.legend()


def _body(axis: Any, skeleton: Skeleton, figure: NDArray[np.floating], change: NDArray[np.float64]) -> Any:
    """Joints blue where they became better, red where worse."""
    for parent, child in skeleton.bones:
        axis.plot(*zip(figure[parent, :2], figure[child, :2], strict=True), color="#c0c7ce", linewidth=3, zorder=1)
    most = float(np.nanmax(np.abs(change), initial=1.0))
    how = {"cmap": "RdBu_r", "vmin": -most, "vmax": most, "s": 140, "zorder": 2, "edgecolor": "#555555"}
    dots = axis.scatter(*figure[:, :2].T, c=change, **how)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.set_axis_off()
    return dots


def standing(poses: NDArray[np.float32], skeleton: Skeleton) -> NDArray[np.floating]:
    """Choose the pose (joints, 3) of the reference set (n, joints, 3) in which a person stands tallest, facing us."""
    known = np.isfinite(poses).all((1, 2))
    names = skeleton.joints
    tall = np.ptp(poses[..., 1], axis=1)
    wide = poses[:, names.index("left_shoulder"), 0] - poses[:, names.index("right_shoulder"), 0]
    score = np.where(known, tall + wide, -np.inf)
    return np.zeros((len(names), 3)) if not known.any() else poses[int(score.argmax())]
