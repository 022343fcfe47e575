"""Motion: clips of 3D poses, and the `.npz` that many of them lie in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.untrusted import to_real
from edgelift.poses.sessions import load_arrays
from edgelift.poses.skeletons import SKELETONS, Skeleton, check_joints


@dataclass(frozen=True, eq=False)
class Clip:
    """One person moving: poses float32 (frames, joints, 3) world metres, Z up, at `fps` frames a second."""

    name: str
    subject: str
    action: str
    fps: float
    poses: NDArray[np.float32]
    skeleton: Skeleton


def resample(clip: Clip, fps: float) -> Clip:
    """Return the clip at another frame rate, linearly interpolated in time."""
    frames = int((len(clip.poses) - 1) / clip.fps * fps + 1e-9) + 1
    at = np.arange(frames) * clip.fps / fps
    low = np.minimum(at.astype(int), max(len(clip.poses) - 2, 0))
    high = np.minimum(low + 1, len(clip.poses) - 1)
    weight = (at - low)[:, None, None].astype(np.float32)
    return replace(clip, fps=fps, poses=clip.poses[low] * (1 - weight) + clip.poses[high] * weight)


def load_motion(path: Path, split: str | None = None, exclude_subjects: Sequence[str] = ()) -> list[Clip]:
    """Read a motion file: `poses` (N, 17, 3) world metres in Human3.6M's order, cut by `clip_start`, with clip_name,
    clip_subject, clip_action, clip_fps and clip_split. EdgeliftError for another unit, skeleton or an unknown split.
    """
    a = load_arrays(path)
    keys = ("poses", "units", *(f"clip_{k}" for k in ("start", "name", "subject", "action", "fps", "split")))
    lacking = [key for key in keys if key not in a]
    if lacking:
        raise EdgeliftError(str(path), f"no {', '.join(lacking)}", "a motion file", "See docs/formats.md.")
    if not str(a["units"]).startswith("metres"):
        raise EdgeliftError(str(path), f"units {a['units']!s:.80}", "metres", "Convert the poses to metres first.")
    poses = to_real(f"{path}: poses", a["poses"], np.float32)
    check_joints(poses, SKELETONS["h36m17"])
    _check_clips(path, a, len(poses))
    splits = a["clip_split"].astype(str)
    if split is not None and split not in splits:
        raise EdgeliftError(f"--split of {path}", repr(split), f"one of {', '.join(np.unique(splits))}", "Name one.")
    strangers = set(exclude_subjects) - set(a["clip_subject"].astype(str).tolist())
    if strangers:
        known = ", ".join(np.unique(a["clip_subject"].astype(str)))
        raise EdgeliftError(
            f"--exclude-subjects of {path}", ", ".join(sorted(strangers)), f"some of {known}", "Name them."
        )
    ends = np.append(a["clip_start"][1:].astype(int), len(poses))
    rows = zip(*(a[f"clip_{k}"] for k in ("start", "name", "subject", "action", "fps")), strict=False)
    return [
        Clip(str(name), str(subject), str(action), float(fps), poses[int(start) : end], SKELETONS["h36m17"])
        for (start, name, subject, action, fps), end, own in zip(rows, ends, splits, strict=False)
        if (split is None or own == split) and str(subject) not in exclude_subjects
    ]


def _check_clips(path: Path, a: Mapping[str, NDArray[Any]], frames: int) -> None:
    """EdgeliftError where clips are not cut out of so many frames one after the other, or lack a rate or a text."""
    starts, rates = a["clip_start"], a["clip_fps"]
    texts = [a[f"clip_{key}"] for key in ("name", "subject", "action", "split")]
    lists = (starts, rates, *texts)
    # a last start, which is the end of all, may stand there or not
    counts = {array.size - (array is starts and array.size > rates.size) for array in lists}
    foreign = any(text.dtype.kind not in "Uiu" for text in texts)
    if any(array.ndim != 1 for array in lists) or len(counts) > 1 or foreign:
        told = ", ".join(f"{array.dtype} {array.shape}" for array in lists)
        raise EdgeliftError(
            str(path), f"clip_start, fps, name, subject, action, split of {told}", "one of each a clip, texts as texts",
            "See docs/formats.md.",
        )  # fmt: skip
    edges = np.concatenate([[0], to_real(f"{path}: clip_start", starts, np.float64), [frames]])
    if starts.dtype.kind == "f" or (np.diff(edges) < 0).any():
        raise EdgeliftError(f"{path}: clip_start", f"{starts[:9]}", f"frames that rise to {frames}", "Correct it.")
    speeds = to_real(f"{path}: clip_fps", rates, np.float64)
    if not (np.isfinite(speeds) & (speeds > 0)).all():
        raise EdgeliftError(f"{path}: clip_fps", f"{speeds[:9]}", "positive frame rates", "Correct them.")
