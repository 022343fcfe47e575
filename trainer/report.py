"""The demo's page: one self-contained HTML file, data embedded, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.files import replaced
from edgelift.poses.skeletons import Skeleton

PLACE = "/*DATA*/null"


@dataclass(frozen=True, eq=False)
class ClipView:
    """One stream to show: keypoints (frames, joints, 3) raw pixels and confidence; lifted and truth world metres."""

    title: str
    keypoints: NDArray[np.floating]
    size: tuple[int, int]
    lifted: NDArray[np.floating]
    truth: NDArray[np.floating] | None
    fps: float


@dataclass(frozen=True, eq=False)
class ReportData:
    """All the page shows. scores: what `evaluate --json` gives; validation: (epoch, MPJPE in mm)."""

    title: str
    skeleton: Skeleton
    clips: tuple[ClipView, ...]
    scores: Mapping[str, Any]
    validation: Sequence[tuple[int, float]]
    training: Mapping[str, Any]
    latency_ms: Sequence[float]
    provider: str
    facts: Mapping[str, str]


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, complete or not at all. Pixels are rounded to 0.1, metres to 1 mm."""
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    # "<" never appears inside the script: no title can close it
    embedded = json.dumps(page_data(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    with replaced(path) as temporary:
        temporary.write_text(template.replace(PLACE, embedded), encoding="utf-8")


def page_data(data: ReportData) -> dict[str, Any]:
    """Return the page's data as plain values, None for NaN."""
    return {
        "title": data.title,
        "bones": data.skeleton.bones,
        "joints": data.skeleton.joints,
        "root": data.skeleton.root,
        "clips": [_clip(clip) for clip in data.clips],
        "scores": dict(data.scores),
        "validation": [list(row) for row in data.validation],
        "training": dict(data.training),
        "latency_ms": [round(ms, 4) for ms in data.latency_ms],
        "provider": data.provider,
        "facts": dict(data.facts),
    }


def _clip(clip: ClipView) -> dict[str, Any]:
    return {
        "title": clip.title,
        "size": list(clip.size),
        "fps": clip.fps,
        "keypoints": _rounded(clip.keypoints, 1),
        "confidence": _rounded(clip.keypoints[..., 2], 2),
        "lifted": _rounded(clip.lifted, 3),
        "truth": None if clip.truth is None else _rounded(clip.truth, 3),
    }


def _rounded(array: NDArray[np.floating], digits: int) -> Any:
    """Nested lists of rounded numbers, None for NaN."""
    rounded = np.round(array.astype(np.float64), digits)
    values = rounded.astype(object)
    values[~np.isfinite(rounded)] = None
    return values.tolist()
