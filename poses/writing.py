"""Sessions as files of other tools: what `edgelift convert --format session --to KIND` writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.bvh import write_bvh
from edgelift.poses.formats.c3d import write_c3d
from edgelift.poses.formats.csv_poses import write_csv_poses
from edgelift.poses.formats.detections import MOST_HOLES
from edgelift.poses.formats.openpose_writer import write_openpose
from edgelift.poses.formats.trc import write_trc
from edgelift.poses.formats.videopose3d import write_videopose3d
from edgelift.poses.sessions import Session
from edgelift.poses.timeline import SNAP_S
from edgelift.poses.windows import MISSING

LARGEST_NUMBER = 10**12  # OpenPose's file names have twelve digits

Float32 = NDArray[np.float32]


def write_session(session: Session, kind: str, output: Path) -> tuple[dict[str, Any], list[str]]:
    """Write a session as openpose (a folder), videopose3d (.npz), or its poses as trc, c3d, bvh or csv.

    Returns facts for --json and lines for people: what was written, and what such a file cannot hold. Poses are
    triangulated where the session has none. Where a format knows a rate alone (all but trc and csv), frames go to a
    regular grid, each to the place that is its by the times, and places without a frame are empty. What is written
    appears whole or not at all. EdgeliftError where the session has not what the kind needs.
    """
    if kind not in _WRITERS:
        raise EdgeliftError("--to", repr(kind), f"one of {', '.join(_WRITERS)}", "Name one of them.")
    suffix, write = _WRITERS[kind]
    if suffix and output.suffix.lower() != suffix:
        raise EdgeliftError("-o", str(output), f"a name that ends in {suffix}", f"Write, say, -o take1{suffix}.")
    notes = write(session, output)
    views, frames = session.keypoints.shape[:2]
    facts = {"output": str(output), "kind": kind, "views": views, "frames": frames, "notes": notes}
    return facts, [*notes, f"{frames} frames, {session.skeleton.name} -> {output}"]


def _write_openpose(session: Session, output: Path) -> list[str]:
    session.check_synchronised()
    grid = _grid(session)
    write_openpose(output, grid.spread(session), grid.first)
    return [
        *grid.notes(),
        f"files are numbered from {grid.first}{grid.rate()}; skeleton, cameras and poses are not in them",
    ]


def _write_videopose3d(session: Session, output: Path) -> list[str]:
    session.check_synchronised()
    grid = _grid(session)
    path_3d = None if session.poses is None else _name_3d(output)
    write_videopose3d(grid.spread(session), output, path_3d)
    views = len(session.camera_names)
    single = [f"VideoPose3D's own `custom` data set takes one view a subject, not {views}"] if views > 1 else []
    posed = [] if path_3d is None else [f"poses ({session.poses_source}) in world metres -> {path_3d}"]
    return [*grid.notes(), f"confidence, cameras and rate{grid.rate()} are not in the file", *single, *posed]


def _name_3d(path: Path) -> Path:
    """data_2d_x.npz to data_3d_x.npz; another name gets _3d at its end."""
    name = path.name.replace("2d", "3d", 1)
    return path.with_name(name) if name != path.name else path.with_stem(f"{path.stem}_3d")


def _write_trc(session: Session, output: Path) -> list[str]:
    poses, told = _poses(session)
    write_trc(output, poses, session.timestamps, session.skeleton.joints)
    even = np.linspace(session.timestamps[0], session.timestamps[-1], len(session.timestamps))
    uneven = np.abs(session.timestamps - even).max() > SNAP_S
    return [told, *(["times are uneven: every row keeps its own, the data rate is the mean"] if uneven else [])]


def _write_csv(session: Session, output: Path) -> list[str]:
    poses, told = _poses(session)
    write_csv_poses(output, poses, session.timestamps, session.skeleton.joints)
    return [told]


def _write_c3d(session: Session, output: Path) -> list[str]:
    poses, told = _poses(session)
    grid = _grid(session)
    write_c3d(output, grid.spread_poses(poses), 1 / grid.known_interval_s, session.skeleton.joints)
    return [told, *grid.notes(), *grid.start()]


def _write_bvh(session: Session, output: Path) -> list[str]:
    poses, told = _poses(session)
    grid = _grid(session)
    filled = write_bvh(output, grid.spread_poses(poses), grid.known_interval_s, session.skeleton)
    repeats = [f"{filled} frames that lack a joint repeat the pose before"] if filled else []
    twist = "centimetres; how far a bone is twisted about itself no joint shows: it is left at rest"
    return [told, *grid.notes(), *grid.start(), *repeats, twist]


def _poses(session: Session) -> tuple[Float32, str]:
    """Poses (frames, joints, 3) world metres, and where they are from."""
    if session.poses is not None:
        return session.poses, f"poses: the session's ({session.poses_source})"
    points = session.triangulate()[0].astype(np.float32)
    known = f"{np.isfinite(points).all(-1).mean():.1%} of joints"
    return points, f"poses: triangulated from {len(session.camera_names)} views, {known} (the session has none)"


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where frames lie on a regular grid.

    places (frames,): rising from 0. interval_s: None where one frame tells none. off_s: how far a frame's time is from
    its place's at most. first: the place's number where the session's clock is 0, 0 where it is before that.
    """

    places: NDArray[np.intp]
    interval_s: float | None
    start_s: float
    off_s: float
    first: int

    @property
    def known_interval_s(self) -> float:
        if self.interval_s is None:
            raise EdgeliftError("session", "one frame", "two or more", "The format states a rate: write .csv.")
        return self.interval_s

    @property
    def count(self) -> int:
        return int(self.places[-1]) + 1

    def spread(self, session: Session) -> Session:
        """Return the session at the grid's times, places without a frame missing."""
        views, _, joints, _ = session.keypoints.shape
        keypoints = np.tile(MISSING, (views, self.count, joints, 1))
        keypoints[:, self.places] = session.keypoints
        times = np.arange(self.first, self.first + self.count) * np.float64(self.interval_s or 1)
        poses = None if session.poses is None else self.spread_poses(session.poses)
        return replace(session, keypoints=keypoints, timestamps=times, poses=poses)

    def spread_poses(self, poses: Float32) -> Float32:
        out = np.full((self.count, *poses.shape[1:]), np.nan, np.float32)
        out[self.places] = poses
        return out

    def rate(self) -> str:
        return "" if self.interval_s is None else f" ({1 / self.interval_s:.5g} Hz)"

    def start(self) -> list[str]:
        return [f"frame 1 is at {self.start_s:.6g} s, which is not in the file"] if self.start_s else []

    def notes(self) -> list[str]:
        """Say what the regular grid does to the times."""
        off = [f"times are uneven: up to {1000 * self.off_s:.3g} ms from the regular ones of the file"]
        holes = self.count - len(self.places)
        empty = [f"{holes} places have no frame: they are empty, {self.count} frames in all"]
        return [*(off if self.off_s > SNAP_S else []), *(empty if holes else [])]


def _grid(session: Session) -> _Grid:
    """Put the frames on the grid of their usual interval: steps are whole numbers of it, one at least."""
    times = session.timestamps
    if len(times) < 2:
        return _Grid(np.zeros(1, np.intp), None, float(times[0]), 0.0, 0)
    steps = np.diff(times)
    whole = np.maximum(np.rint(steps / np.median(steps)), 1)
    if whole.sum() > (MOST_HOLES + 1) * len(times):
        raise EdgeliftError(
            f"session {session.name}", f"{len(times)} frames in {times[-1] - times[0]:.4g} s, {np.median(steps):.4g} s "
            "apart as a rule", "a take without long gaps", "Write .csv or .trc, or cut the session at its gaps.",
        )  # fmt: skip
    places = np.concatenate([[0], np.cumsum(whole)]).astype(np.intp)
    # from end to end: a median of rounded times would drift
    interval_s = float((times[-1] - times[0]) / places[-1])
    off_s = float(np.abs(times - times[0] - places * interval_s).max())
    first = round(float(times[0]) / interval_s)
    return _Grid(places, interval_s, float(times[0]), off_s, first if 0 <= first < LARGEST_NUMBER - len(times) else 0)


_WRITERS: dict[str, tuple[str, Callable[[Session, Path], list[str]]]] = {
    "openpose": ("", _write_openpose),
    "videopose3d": (".npz", _write_videopose3d),
    "trc": (".trc", _write_trc),
    "c3d": (".c3d", _write_c3d),
    "bvh": (".bvh", _write_bvh),
    "csv": (".csv", _write_csv),
}
