"""A stream lifted frame by frame equals the whole recording lifted at once, to a tenth of a millimetre.

python benchmarks/live/streaming.py --bundle FRAME --bundle TCN --bundle TRANSFORMER --data ../shared/data -o OUT

Live: a session goes through the live loop (`edgelift lift --fast`, into JSON lines). Offline: its windows are cut all
at once and lifted in batches, as `edgelift evaluate` does. Filmed: test clips of cmu17 before h36m_S9 with a detector's
noise and missing joints, at 60 Hz; and the same with irregular times: a fifth of the frames missing, the rest early or
late, and gaps of half a second. Real: Pose2Sim's recording. Left and right are mended live, offline nobody does; where
that touched a frame, the loop is run again without. Exit code 1 above the limit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detected import rig_of, test_clips
from loops import machine, table, write
from numpy.typing import NDArray

from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.recordings import choose_person
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session, load_session, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film
from edgelift.runtime.evaluate import backend_lift, lift_views
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.people import SwapPolicy
from edgelift.runtime.start import LiftSettings, LiftSummary, lift

Float64 = NDArray[np.float64]
LIMIT_M = 1e-4
DROPPED, JITTER_S, GAP_S, GAPS = 0.2, 0.004, 0.5, 2


def filmed(data: Path, count: int) -> Iterator[Session]:
    rig = read_rig(rig_of(data), None)
    settings = StudioSettings(fps=60.0, noise_px=5.0, noise_model="detector", missing=0.05)
    sessions = film(test_clips(data, 60.0)[:count], rig, settings)
    yield from (session for _, session in zip(range(count), sessions, strict=False))


def irregular(session: Session) -> Session:
    """The same frames without some of them, at times that are not quite right, with gaps."""
    rng = np.random.default_rng(0)
    times = session.timestamps
    kept = rng.random(len(times)) >= DROPPED
    for start in rng.uniform(0.5, times[-1] - 1, GAPS):
        kept &= ~((times > start) & (times < start + GAP_S))
    moved = times[kept] + rng.uniform(-JITTER_S, JITTER_S, kept.sum())
    poses = None if session.poses is None else session.poses[kept]
    return replace(session, keypoints=session.keypoints[:, kept], timestamps=moved - moved[0], poses=poses)


def recorded(data: Path) -> Session:
    folder = data / "pose2sim"
    recording = read_openpose(folder / "BalancingTrial", skeleton("body25b"), 60.0)
    return choose_person(recording, tuple(read_rig(str(folder / "Calib.toml"), "m")))[0]


def recordings(data: Path, clips: int) -> dict[str, list[Session]]:
    sessions = list(filmed(data, clips))
    return {
        "cmu17, 60 Hz": sessions, "cmu17, irregular": [irregular(session) for session in sessions],
        "Pose2Sim, 60 Hz": [recorded(data)],
    }  # fmt: skip


def streamed(bundle: Path, session: Session, swaps: SwapPolicy) -> tuple[Float64, LiftSummary]:
    """(views, frames, joints, 3) metres as the live loop's messages tell them, NaN where they tell of nobody."""
    with tempfile.TemporaryDirectory() as folder:
        source, sink = Path(folder, "take.npz"), Path(folder, "poses.jsonl")
        save_session(session, source)
        settings = LiftSettings(bundle, (str(source),), (str(sink),), rate=None, stream=StreamSettings(swaps))
        summary = lift(settings, lambda: False)
        messages = [json.loads(line) for line in sink.read_text().splitlines()]
    joints = len(skeleton(messages[0]["skeleton"]).joints)
    poses = np.full((len(session.camera_names), len(session.timestamps), joints, 3), np.nan)
    for told in messages:
        for person in told["persons"]:
            poses[session.camera_names.index(told["stream"]), told["seq"]] = person["xyz"]
    if len(messages) != poses.shape[0] * poses.shape[1]:
        raise AssertionError(f"{len(messages)} messages of {poses.shape[0] * poses.shape[1]} frames")
    return poses, summary


def offline(lifter: Lifter, session: Session) -> Float64:
    """The same, lifted at once."""
    views = lift_views(backend_lift(lifter.backend), session, lifter.input)
    return np.stack([view.predicted for view in views]).astype(np.float64)


def compared(bundle: Path, session: Session) -> dict[str, Any]:
    """Largest distance of a joint, and of how many frames the person is in one of the two alone."""
    with Lifter(bundle) as lifter:
        expected = offline(lifter, session)
    poses, summary = streamed(bundle, session, "mend")
    mended = summary.live.counts.swapped
    if mended:
        poses, summary = streamed(bundle, session, "ignore")
    apart = np.linalg.norm(poses - expected, axis=-1)
    alone = np.isnan(poses).any((-1, -2)) != np.isnan(expected).any((-1, -2))
    frames = int(np.isfinite(apart).all(-1).sum())
    return {"frames": frames, "largest_m": float(np.nanmax(apart)), "alone": int(alone.sum()), "mended": mended}


def summed(bundle: Path, name: str, sessions: list[Session]) -> dict[str, Any]:
    """One row: a bundle and a recording."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number, session in enumerate(sessions):  # through a file, as the loop reads it
            path = Path(folder, f"{number}.npz")
            save_session(session, path)
            rows.append(compared(bundle, load_session(path)))
    with Lifter(bundle) as lifter:
        kind = f"{lifter.input.frames} frame{'s' if lifter.input.frames > 1 else ''}"
    largest = max(row["largest_m"] for row in rows)
    counts = {key: sum(row[key] for row in rows) for key in ("frames", "alone", "mended")}
    good = largest <= LIMIT_M and not counts["alone"]
    return {
        "bundle": bundle.name,
        "kind": kind,
        "recording": name,
        "largest_mm": round(1000 * largest, 5),
        **counts,
        "ok": good,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, action="append", help="one of each kind")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=6, help="of cmu17, 6 s each")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    takes = recordings(options.data, options.clips)
    rows = [summed(bundle, name, takes[name]) for bundle in options.bundle for name in takes]
    head = ("bundle", "kind", "recording", "frames", "largest_mm", "alone", "mended", "ok")
    table(head, [[row[name] for name in head] for row in rows])
    write({"machine": machine(), "limit_mm": 1000 * LIMIT_M, "rows": rows}, "streaming", options.output)
    raise SystemExit(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    main()
