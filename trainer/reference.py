"""What a run keeps of its data for the bundle: the reference set, and what an adaptation rehearses.

The reference set is real windows that nothing was trained on: the export checks parity on them, and a refresh must not
lose on them. Another such set is watched by adaptations while they are made. What is rehearsed is a third, a part of
what the run was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.reconstruction import reconstruct
from edgelift.poses.sessions import Session, save_arrays, save_together
from edgelift.runtime.bundle import REFERENCE, REPLAY, WATCH
from edgelift.trainer.data import KNOWN_SIGMA_M, MultiView
from edgelift.trainer.settings import TrainSettings

REFERENCE_WINDOWS = 512
STRETCH_FRAMES = 60
REPLAY_FRAMES = 6000  # multi-view frames: 5 minutes at 20 a second, about 4 MB with four views


def save_replay(run: Path, data: MultiView, sessions: Sequence[Session], settings: TrainSettings) -> None:
    """Keep REPLAY_FRAMES of the frames that a run trains on, or all, in stretches that are spread evenly.

    data: of the same sessions in the same order. Poses are those that the teacher gave: true ones are not kept.
    """
    teacher = settings.supervision == "views" and settings.loss == "teacher"
    counts = torch.bincount(data.session, minlength=len(sessions)).tolist()
    kept: list[Session] = []
    frame_s = max(float(torch.median(settings.input.frame_interval_s / data.rows_a_slot)), 1e-3)
    length = max(STRETCH_FRAMES, round(4 * settings.frames * settings.input.frame_interval_s / frame_s))
    for number, parts in enumerate(stretches(counts, length)):
        if parts:
            target = data.target[data.session == number].cpu().numpy()
            poses = np.where(target[..., 3:] > 0, target[..., :3], np.float32(np.nan)) if teacher else None
            own = replace(sessions[number], poses=None).to_skeleton(settings.input.skeleton)
            taught = replace(own, poses=poses, poses_source="triangulation")
            kept += [taught.during(part) for part in parts]
    save_together(kept, run / REPLAY)


def stretches(counts: Sequence[int], length: int = STRETCH_FRAMES) -> list[list[slice]]:
    """For sessions of so many frames, which frames of each to keep: all of a few, of many stretches spread evenly.

    length: of a stretch, in frames; some windows of a sequence lifter have to fit into it whole.
    """
    total = sum(counts)
    if total <= REPLAY_FRAMES:
        return [[slice(0, count)] for count in counts]
    firsts = np.cumsum([0, *counts[:-1]])
    starts = np.arange(0, total, max(1, total * length // REPLAY_FRAMES))
    kept = []
    for first, count in zip(firsts, counts, strict=True):
        own = starts[(starts >= first) & (starts < first + count)] - first
        kept.append([slice(int(at), int(min(at + length, count))) for at in own])
    return kept


def save_held_out(run: Path, sessions: Sequence[Session], settings: TrainSettings, held_out: bool) -> None:
    """Keep the reference set of one half of every session, and what adaptations watch of the other half.

    The same people in the same sessions, so that what watching foretells is what the gate will find.
    """
    save_windows(run / REFERENCE, Halves(sessions, 0), settings, held_out)
    save_windows(run / WATCH, Halves(sessions, 1), settings, held_out)


class Halves(Sequence[Session]):
    """Sessions cut in half: of every other one the first or the last half, of those between the other one."""

    def __init__(self, sessions: Sequence[Session], which: int) -> None:
        self.sessions, self.which = sessions, which

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: Any) -> Any:
        session = self.sessions[index]
        cut = len(session.timestamps) // 2
        first = index % 2 == self.which
        return session.during(slice(0, cut) if first else slice(cut, None)) if cut else session


def save_windows(path: Path, sessions: Sequence[Session], settings: TrainSettings, held_out: bool) -> None:
    """Keep REFERENCE_WINDOWS real windows or fewer, as many of every session and view.

    With the session's poses, or those reconstructed from its views where it has none, NaN where neither is known.
    Which of a view's is left to chance: a fixed place, such as its start, would be the same moment in all of them.
    """
    chance = np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(sessions) - 1, REFERENCE_WINDOWS).round().astype(int))
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for number in chosen.tolist():
        session = sessions[number].to_skeleton(settings.input.skeleton)
        poses = _known_poses(session)
        each = -(-REFERENCE_WINDOWS // (len(chosen) * len(session.rig)))
        parts += [_some(_windows(session, poses, view, settings), each, chance) for view in range(len(session.rig))]
    columns = _some([np.concatenate(column) for column in zip(*parts, strict=True)], REFERENCE_WINDOWS, chance)
    names = ("keypoints", "intrinsics", "poses")
    save_arrays(path, dict(zip(names, columns, strict=True)) | {"held_out": np.array(held_out)})


def _some(
    columns: Sequence[NDArray[np.float32]], count: int, chance: np.random.Generator
) -> tuple[NDArray[np.float32], ...]:
    """Take up to `count` rows of every column, the same ones, in order."""
    rows = len(columns[0])
    keep = np.sort(chance.choice(rows, min(count, rows), replace=False))
    return tuple(column[keep] for column in columns)


def _known_poses(session: Session) -> NDArray[np.float64] | None:
    """World poses (frames, joints, 3) in metres: the session's own, else reconstructed; None from one view alone."""
    if session.poses is not None:
        return session.poses.astype(np.float64)
    if session.cameras is None or not ((session.keypoints[..., 2] > 0).sum(0) >= 2).any():
        return None
    found = reconstruct(session)
    return np.where((found.sigma < KNOWN_SIGMA_M)[..., None], found.poses, np.nan)


def _windows(
    session: Session, world: NDArray[np.float64] | None, view: int, settings: TrainSettings
) -> tuple[NDArray[np.float32], ...]:
    camera = session.rig[view]
    windows = settings.input.windows(session, view)
    intrinsics = np.tile(settings.input.intrinsics(camera, camera.size), (len(windows), 1))
    poses = np.full((len(windows), *windows.shape[2:]), np.nan)
    if world is not None:
        poses = world_to_camera(world, camera)
    return windows, intrinsics, poses.astype(np.float32)
