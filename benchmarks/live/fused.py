"""Fused views beside plain triangulation: on filmed motion with truth, and on a real recording.

python benchmarks/live/fused.py --bundle BUNDLE --data ../shared/data -o benchmarks/results

Filmed: the test people of cmu17 before the rig h36m_S9 with a detector's noise and gaps. Every number is a mean joint
distance from the truth in mm, over the joints that plain triangulation (all views, weighted by confidence) gives, and
over all joints; with 4, 3, 2 and 1 of the views. Intervals: 95 %, by resampling clips.
Real: no truth. The distance of the fused pose from the triangulation of all four views, and the error in a view that is
left out (pixels), for both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import project
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.motion import load_motion
from edgelift.poses.recordings import choose_person
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import LiftedFrame
from edgelift.runtime.fuse import Fuse
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.sources import Inbox
from edgelift.runtime.sources.replay import Replay, session_tracks

Float64 = NDArray[np.float64]
RESAMPLES = 1000


def fuse(lifter: Lifter, session: Session) -> tuple[Float64, NDArray[np.int64]]:
    """(frames, joints, 3) world metres, NaN for moments without the person, and by how many views each was made."""
    live = Live()
    rig = session.rig
    poses = np.full((len(session.timestamps), len(lifter.skeleton.joints), 3), np.nan)
    seen_by = np.zeros(poses.shape[:2], np.int64)
    if len(rig) == 1:
        return alone(lifter, session), seen_by
    pipeline = Fuse(lifter, rig, StreamSettings(frame="world"), live, every=True, echo=False, recorded=True)
    with Inbox([Replay("session", session_tracks(session), live, None)]) as inbox:
        for lifted in _all(pipeline, inbox):
            frame = int(np.argmin(np.abs(session.timestamps - lifted.t_ns / 1e9)))
            if lifted.ids and lifted.seen_by is not None:
                poses[frame], seen_by[frame] = lifted.xyz[0], lifted.seen_by[0]
    return poses, seen_by


def _all(pipeline: Fuse, inbox: Inbox) -> Iterator[LiftedFrame]:
    while not inbox.ended:
        yield from pipeline.feed(inbox.wait())
    yield from pipeline.rest()


def alone(lifter: Lifter, session: Session) -> Float64:
    """The same of one view, by its stream."""
    stream = lifter.stream(session.rig[0], settings=StreamSettings(frame="world"))
    own = session.to_skeleton(lifter.skeleton)
    poses = np.full((len(own.timestamps), len(lifter.skeleton.joints), 3), np.nan)
    for frame, (at_s, keypoints) in enumerate(zip(own.timestamps, own.keypoints[0], strict=True)):
        people = stream.push(float(at_s), keypoints[None], (0,))
        if people.ids:
            poses[frame] = people.xyz[0]
    return poses


def filmed(data: Path, settings: StudioSettings) -> Iterator[Session]:
    rig = read_rig(f"{data}/rigs.json:h36m_S9", None)
    clips = load_motion(data / "mocap" / "cmu17.npz", "test")
    yield from film([clip for clip in clips if clip.subject != "mix"], rig, settings)


def errors(lifter: Lifter, session: Session) -> dict[str, Float64]:
    """For each measure the distances (frames, joints) in mm, NaN where it has none."""
    own = session.to_skeleton(lifter.skeleton)
    assert own.poses is not None
    poses, _ = fuse(lifter, session)
    off = 1000 * np.linalg.norm(poses - own.poses, axis=-1)
    found = {"fused, all joints": off, "fused, % of joints": 100.0 * np.isfinite(off)}
    if len(session.rig) > 1:
        plain = 1000 * np.linalg.norm(own.triangulate()[0] - own.poses, axis=-1)
        both = np.isfinite(plain) & np.isfinite(off)
        found |= {"fused": np.where(both, off, np.nan), "triangulated": np.where(both, plain, np.nan)}
        found |= {"triangulated, % of joints": 100.0 * np.isfinite(plain)}
        found |= {"of the triangulated, % fused": np.where(np.isfinite(plain), 100.0 * np.isfinite(off), np.nan)}
    return found


def sums(found: dict[str, Float64]) -> dict[str, tuple[float, int]]:
    return {name: (float(np.nansum(v)), int(np.isfinite(v).sum())) for name, v in found.items()}


def summarised(found: Sequence[dict[str, Float64]]) -> dict[str, Any]:
    """Means and medians over all clips; the ratio of the means, fused / triangulated, with its interval, by clips."""
    rows = [sums(one) for one in found]
    total = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    told: dict[str, Any] = {name: round(float(v[:, 0].sum() / v[:, 1].sum()), 2) for name, v in total.items()}
    for name in ("fused", "triangulated", "fused, all joints"):
        if name in total:
            told[f"{name}, median"] = round(float(np.nanmedian(np.concatenate([f[name].ravel() for f in found]))), 2)
    if "fused" in total:
        rng = np.random.default_rng(0)
        draws = rng.integers(len(rows), size=(RESAMPLES, len(rows)))
        ratios = total["fused"][draws, 0].sum(1) / total["triangulated"][draws, 0].sum(1)
        told["ratio"] = round(told["fused"] / told["triangulated"], 4)
        told["ratio_95"] = [round(float(v), 4) for v in np.percentile(ratios, [2.5, 97.5])]
    return told


def real(lifter: Lifter, data: Path) -> dict[str, Any]:
    folder = data / "pose2sim"
    recording = read_openpose(folder / "BalancingTrial", skeleton("body25b"), 60.0)
    rig = read_rig(str(folder / "Calib.toml"), "m")
    session = choose_person(recording, tuple(rig))[0].to_skeleton(lifter.skeleton)
    plain = session.triangulate()[0]
    whole, seen_by = fuse(lifter, session)
    away = 1000 * np.linalg.norm(whole - plain, axis=-1)
    told: dict[str, Any] = {
        "all views: joints triangulated": round(float(np.isfinite(plain).all(-1).mean()), 4),
        "all views: joints fused": round(float(np.isfinite(whole).all(-1).mean()), 4),
        "all views: fused from triangulated, mm p50 p99": [
            round(float(np.nanpercentile(away, q)), 2) for q in (50, 99)
        ],
        "all views: joints by number of views": np.bincount(seen_by.ravel(), minlength=5).tolist(),
    }
    for views in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)):
        left_out = next(v for v in range(4) if v not in views)
        part = session.only(views)
        told[f"{rig[left_out].name} left out: px"] = {
            name: _pixels(poses, session, left_out, part.triangulate()[0])
            for name, poses in (("fused", fuse(lifter, part)[0]), ("triangulated", part.triangulate()[0]))
        }
    for view in range(4):
        one = 1000 * np.linalg.norm(alone(lifter, session.only([view])) - plain, axis=-1)
        told[f"{rig[view].name} alone: mm from the triangulation of all"] = round(float(np.nanmean(one)), 1)
    return told


def _pixels(poses: Float64, session: Session, view: int, known: Float64) -> list[float]:
    """p50 and p90 of the distance to a view's keypoints, over the joints that triangulation knows."""
    there = np.where(np.isfinite(known), poses, np.nan)
    off = np.linalg.norm(project(there, session.rig[view]) - session.keypoints[view, ..., :2], axis=-1)
    return [round(float(np.nanpercentile(off, q)), 2) for q in (50, 90)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sessions", type=int, default=60, help="of the filmed ones")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    settings = StudioSettings(fps=30.0, noise_px=5.0, noise_model="detector", missing=0.08)
    sessions = [s for _, s in zip(range(options.sessions), filmed(options.data, settings), strict=False)]
    result: dict[str, Any] = {"bundle": options.bundle.name, "sessions": len(sessions)}
    with Lifter(options.bundle) as lifter:
        for views in ((0, 1, 2, 3), (0, 1, 2), (0, 1), (0, 3), (0,)):
            rows = [errors(lifter, session.only(views)) for session in sessions]
            result[f"cmu17, views {', '.join(map(str, views))}, mm"] = summarised(rows)
            print(views, summarised(rows), flush=True)
        result["Pose2Sim"] = real(lifter, options.data)
    path = options.output / f"live_fused_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["Pose2Sim"], indent=1), path)


if __name__ == "__main__":
    main()
