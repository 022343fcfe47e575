"""The demo: the main job from end to end on the embedded person, and a page that shows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import camera_to_world
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session, load_sessions, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.evaluate import backend_lift, evaluate
from edgelift.runtime.start import LiftSettings, LiftSummary, lift
from edgelift.trainer.deploy import export_run
from edgelift.trainer.fit import TrainResult, train
from edgelift.trainer.report import ClipView, ReportData, write_report
from edgelift.trainer.settings import TrainSettings

TRAIN_PEOPLE, TEST_PEOPLE = 24, 3
NOISE_PX, MISSING = 4.0, 0.03
MARK = ".edgelift-demo"  # says that the next demo may clear its parts
SHOWN = ("walk", "box", "sit")  # the clips on the page


def run_demo(output: Path, epochs: int, width: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Simulate, train without labels, export, lift, evaluate, report; everything lands under `output`."""
    _make_room(output)
    say("1/6 simulate: people who walk, jog, box, sit down and wave before three cameras")
    _simulate(output / "train", TRAIN_PEOPLE, seed)
    _simulate(output / "test", TEST_PEOPLE, seed + 1000)
    sessions, held_out = load_sessions([output / "train"]), load_sessions([output / "test"])
    say(f"2/6 train without a 3D label on {len(sessions)} sessions, {epochs} epochs")
    settings = TrainSettings(width=width, epochs=epochs, seed=seed)
    result = train(sessions, output / "run", settings, held_out, lambda e, n, row: say(_epoch(e, n, row)))
    say("3/6 export to ONNX, with the parity check")
    bundle = export_run(output / "run", output / "bundle")
    say("4/6 lift unseen people, frame by frame, with ONNX Runtime on the CPU")
    streams = [_lift(bundle, output, session) for session in _shown(held_out)]
    say("5/6 evaluate on every view of the unseen people")
    with OnnxRuntimeCpu(bundle, threads=2) as backend:
        scores = evaluate(backend_lift(backend), held_out, bundle.input)
    say("6/6 report")
    report = output / "report.html"
    write_report(_report(bundle, streams, scores, result), report)
    return _facts(report, bundle, scores, result, streams)


def _make_room(output: Path) -> None:
    """Clear what an earlier demo made in this folder; any other that holds something is somebody's."""
    if output.exists() and not (output / MARK).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise EdgeliftError(
            f"-o {output}", "something there that no demo made", "a new folder, or an earlier demo's",
            "Choose another -o.",
        )  # fmt: skip
    for part in ("train", "test", "run", "bundle", "poses"):
        shutil.rmtree(output / part, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).touch()


def _epoch(epoch: int, epochs: int, row: dict[str, float]) -> str:
    return f"    epoch {epoch}/{epochs}: loss {row['loss']:.4f} m, validation MPJPE {row['validation_mpjpe_mm']:.1f} mm"


def _simulate(folder: Path, people: int, seed: int) -> None:
    settings = StudioSettings(noise_px=NOISE_PX, missing=MISSING, seed=seed)
    for session in film(clips(12.0, 60.0, people, seed), studio_rig(), settings):
        save_session(session, folder / f"{session.name}.npz")


def _shown(sessions: list[Session]) -> list[Session]:
    """One session of each action to show."""
    found = (next((s for s in sessions if action in s.action), None) for action in SHOWN)
    return [session for session in found if session is not None]


def _lift(bundle: Bundle, output: Path, session: Session) -> tuple[Session, Path, LiftSummary]:
    poses = output / "poses" / f"{session.name}.jsonl"
    settings = LiftSettings(
        bundle=bundle.path,
        sources=(str(output / "test" / f"{session.name}.npz"),),
        sinks=(str(poses),),
        camera=session.camera_names[:1],
        rate=None,
    )
    return session, poses, lift(settings, lambda: False)


def _report(
    bundle: Bundle, streams: list[tuple[Session, Path, LiftSummary]], scores: dict[str, Any], result: TrainResult
) -> ReportData:
    summaries = [summary for _, _, summary in streams]
    return ReportData(
        title="edgelift: label-free lifting of an unseen person",
        skeleton=bundle.skeleton,
        clips=tuple(_clip(bundle, session, poses) for session, poses, _ in streams),
        scores=scores,
        validation=result.validation,
        training=result.to_dict(),
        latency_ms=[m["latency_ms"]["total"] for _, poses, _ in streams for m in read_messages(poses)],
        provider=summaries[0].provider,
        facts={
            "supervision": "other views' 2D keypoints, no 3D label",
            "training": f"{result.epochs} epochs, {result.to_dict()['frames_per_second']} multi-view frames/s",
            "keypoint noise": f"{NOISE_PX:g} px, {MISSING:.0%} of joints missing",
            "ONNX parity": f"{bundle.manifest['parity']['worst_joint_mm']:.5f} mm at the worst joint",
        },
    )


def _clip(bundle: Bundle, session: Session, poses: Path) -> ClipView:
    shown = session.to_skeleton(skeleton(bundle.skeleton.name))
    camera = session.rig[0]
    return ClipView(
        title=f"{session.subject}: {session.action}",
        keypoints=shown.keypoints[0],
        size=camera.size,
        lifted=camera_to_world(read_poses(poses, shown.keypoints.shape[1], len(bundle.skeleton.joints)), camera),
        truth=shown.poses,
        fps=round(1 / float(np.median(np.diff(session.timestamps))), 3),
    )


def read_messages(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_poses(path: Path, frames: int, joints: int) -> NDArray[np.float64]:
    """Read one stream's JSON lines: (frames, joints, 3) metres as sent, NaN where a frame has no person."""
    poses = np.full((frames, joints, 3), np.nan)
    for message in read_messages(path):
        for person in message["persons"][:1]:
            poses[message["seq"]] = person["xyz"]
    return poses


def _facts(
    report: Path,
    bundle: Bundle,
    scores: dict[str, Any],
    result: TrainResult,
    streams: list[tuple[Session, Path, LiftSummary]],
) -> dict[str, Any]:
    return {
        "report": str(report),
        "bundle": str(load_bundle(bundle.path).path),
        "train": result.to_dict(),
        "evaluate": scores,
        "lift": [summary.to_dict() for _, _, summary in streams],
    }
