"""Refresh: from recorded sessions to the next version of a lifter, or to the reason why there is none."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.calibration.soundness import Finding, bone_lengths, compare_build, compare_rigs, examine
from edgelift.export.bundles import Reference, export_bundle
from edgelift.export.renewal import renew_additions
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, load_sessions, load_together
from edgelift.runtime.bundle import REPLAY, WATCH, Bundle
from edgelift.runtime.registries import Registry, load_current
from edgelift.trainer.adapt import Adapted, AdaptSettings, adapt
from edgelift.trainer.data import fingerprint
from edgelift.trainer.deploy import checkpoint_of
from edgelift.trainer.gate import Verdict, judge
from edgelift.trainer.learn_cameras import check_cameras, learn_cameras
from edgelift.trainer.settings import LearnCameras
from edgelift.trainer.validation import module_lift

RESERVED_S = 10.0  # of the budget, for the gate, the export and the publication
# of the sessions' time, the last part of each: a fifth, or as much as makes the seconds, but no more than the most
HELD_OUT_SHARE, HELD_OUT_S, MOST_HELD_OUT, APART_S = 0.2, 7.0, 0.4, 0.5
WORK = ".work-"
Say = Callable[[str], None]
Told = Callable[[int, int, float | None], None]


@dataclass(frozen=True)
class RefreshSettings:
    """budget_s: for everything, from the first file read to the version published. force: publish what is refused.

    device: where PyTorch trains, cpu or cuda.
    """

    budget_s: float = 60.0
    learn_cameras: LearnCameras = "none"
    force: bool = False
    device: str = "cpu"
    adapt: AdaptSettings = field(default_factory=AdaptSettings)


@dataclass
class Refreshed:
    """What a refresh came to. version: what was published, None if it was refused; kept: where a refused one lies."""

    registry: str
    base: str
    version: str | None = None
    kept: str | None = None
    forced: bool = False
    reasons: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    verdict: Verdict | None = None
    adapted: Adapted | None = None
    additions: list[dict[str, Any]] = field(default_factory=list)
    learnt: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The keys of `edgelift adapt --json`."""
        gate = None if self.verdict is None else self.verdict.to_dict()
        steps = None if self.adapted is None else {
            "steps": self.adapted.steps, "best_step": self.adapted.best_step, "share": self.adapted.share,
            "curve": [(step, error if math.isfinite(error) else None) for step, error in self.adapted.curve],
        }  # fmt: skip
        return {
            "registry": self.registry, "sessions": self.sessions, "base": self.base, "version": self.version,
            "forced": self.forced, "kept": self.kept, "reasons": self.reasons,
            "findings": [asdict(f) for f in self.findings], "gate": gate, "adaptation": steps,
            "learnt_cameras": self.learnt, "additions": self.additions,
            "seconds": {name: round(spent, 2) for name, spent in self.seconds.items()},
        }  # fmt: skip

    @contextmanager
    def timed(self, stage: str, say: Say = lambda line: None) -> Iterator[None]:
        """Count the seconds of a stage."""
        say(stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def refresh(
    source: str | Path, paths: Sequence[Path], registry: Registry, settings: RefreshSettings,
    say: Say = lambda line: None, told: Told = lambda step, steps, error: None,
) -> Refreshed:  # fmt: skip
    """Adapt a lifter to sessions, prove it, and publish it as the next version of a registry.

    source: a bundle, which begins a new registry, or the registry itself. Where the sessions or the gate speak against
    it nothing is published, and what was made is kept under `refused/` with its report, unless settings.force.
    """
    started = time.perf_counter()
    base = begin(source, registry)
    result = Refreshed(str(registry), base.path.name)
    with result.timed("sessions", say):
        loaded = load_sessions(paths)
        result.sessions = [_origin(session) for session in loaded]
        sessions = examined(loaded, base, settings.learn_cameras, result)
    if result.reasons and not settings.force:
        result.kept = _refuse(result, registry, None)
        return result
    taught, held_out = split(sessions)
    work = _work(registry, base, sessions, settings)
    if work.is_file():
        say("going on from what an interrupted run saved")
    with result.timed("adapt", say):
        checkpoint = checkpoint_of(base)
        seconds = max(1.0, settings.budget_s - RESERVED_S - (time.perf_counter() - started))
        result.adapted = adapt(
            checkpoint, taught, replace(settings.adapt, seconds=seconds), told, replayed(base), held_out, base.watch(),
            work, settings.device,
        )  # fmt: skip
    with result.timed("gate", say):
        lifts = module_lift(checkpoint.model()), module_lift(result.adapted.model)
        result.verdict = judge(*lifts, held_out, base.reference(), base.input)
    result.reasons += ["nothing beats the base on what is held out"] if not result.adapted.best_step else []
    result.reasons += result.verdict.reasons
    result.forced = bool(result.reasons) and settings.force
    with registry.staging() as folder:
        bundle = _export(result, base, folder, say)
        with result.timed("publish", say):
            if result.reasons and not settings.force:
                result.kept = _refuse(result, registry, bundle)
            else:
                result.version = registry.publish(bundle, base.path.name, "forced" if result.forced else "published")
    work.unlink(missing_ok=True)
    return result


def begin(source: str | Path, registry: Registry) -> Bundle:
    """Return the version to start from: the registry's current one; a bundle becomes a registry's first version."""
    registry.recover()
    if not registry.is_at(source):
        bundle = load_current(source)
        if not registry.exists():
            registry.create(bundle)
        elif registry.load().manifest["seal"] != bundle.manifest["seal"]:
            raise EdgeliftError(
                f"-o {registry}", f"a registry whose current version is not {source}", "a new path, or its own",
                f"Run: edgelift adapt {registry} SESSIONS -o {registry}",
            )  # fmt: skip
    registry.check()
    return registry.load()


def examined(sessions: list[Session], base: Bundle, learn: LearnCameras, result: Refreshed) -> Sequence[Session]:
    """Look at sessions before anything is learnt from them; what speaks against them goes into `result`.

    Returns them in the lifter's skeleton, with their learnt cameras where those are asked for.
    """
    own: Sequence[Session] = [s.to_skeleton(base.skeleton) for s in sessions]
    result.findings += [finding for s in own for finding in best_explained(s, learn)]
    sound = not any(f.refused for f in result.findings)
    if sound and learn != "none":
        learnt = learn_cameras(own, learn)
        result.learnt = [rig.to_dict() for rig in learnt.rigs.values()]
        own = list(learnt)
    elif sound:
        result.findings += check_cameras(own)
    if sound:
        rigs = {repr([(c.name, c.R.tolist(), c.t.tolist()) for c in s.rig]): s.rig for s in replayed(base)}
        result.findings += [f for s in own for f in compare_rigs(s, list(rigs.values()))]
    known = bone_lengths(base.reference()["poses"], base.skeleton)
    for person in sorted({s.subject or s.name for s in own}) if sound else ():
        result.findings += compare_build([s for s in own if (s.subject or s.name) == person], known)
    result.reasons += [str(f) for f in result.findings if f.refused]
    return own


def best_explained(session: Session, learn: LearnCameras = "none") -> list[Finding]:
    """Examine a session. A camera that moved looks like a late one to somebody who walks: what fits better is told."""
    findings = examine(session)
    late = [f.left for f in findings if f.left is not None]
    moved = check_cameras([session]) if late else []
    if not moved or (moved[0].left or 1.0) >= max(late):
        return findings
    return moved if learn == "none" else []  # what is wrong with the cameras is corrected next


def split(sessions: Sequence[Session]) -> tuple[list[Session], list[Session]]:
    """What is trained on, and the end of every session, which judges: apart by a moment, as neighbours are alike."""
    taught, held_out = [], []
    sessions = [trimmed(session) for session in sessions]
    seconds = sum(float(np.ptp(session.timestamps)) for session in sessions)
    share = max(HELD_OUT_SHARE, min(MOST_HELD_OUT, HELD_OUT_S / max(seconds, 1e-3)))
    for session in sessions:
        times = session.timestamps - session.timestamps[0]
        cut = (1 - share) * times[-1]
        before, after = int((times < cut - APART_S).sum()), int((times < cut).sum())
        if before < 2:  # too short to be parted
            taught.append(session)
        else:
            taught.append(session.during(slice(0, before)))
            held_out.append(session.during(slice(after, None)))
    return taught, held_out


def trimmed(session: Session) -> Session:
    """Return the session without the empty room before and after: from the first frame that two views know on."""
    known = np.flatnonzero(((session.keypoints[..., 2] > 0).sum(0) >= 2).any(-1))
    return session.during(slice(int(known[0]), int(known[-1]) + 1)) if len(known) else session


def replayed(base: Bundle) -> list[Session]:
    """What the base keeps to be rehearsed; what one camera saw alone cannot be."""
    path = base.path / REPLAY
    return [s for s in load_together(path) if len(s.rig) >= 2] if path.is_file() else []


def _work(registry: Registry, base: Bundle, sessions: Sequence[Session], settings: RefreshSettings) -> Path:
    """Where this very adaptation is saved as it goes; those of other versions are of no use any more."""
    told = json.dumps([base.manifest["seal"], fingerprint(sessions, False), asdict(settings.adapt)])
    path = registry.work / f"{WORK}{base.path.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    for other in registry.work.glob(f"{WORK}*"):
        if not other.name.startswith(f"{WORK}{base.path.name}-"):
            other.unlink(missing_ok=True)
    return path


def _export(result: Refreshed, base: Bundle, folder: Path, say: Say) -> Path:
    """Write the candidate's bundle into a folder, with all that the base had beside its graph."""
    assert result.adapted is not None
    with result.timed("export", say):
        bundle = export_bundle(
            result.adapted.model, folder / "bundle", base.input, Reference(**base.reference()),
            base.manifest["training"], [base.path / name for name in (WATCH, REPLAY)],
            _lineage(result, base),
        )  # fmt: skip
    with result.timed("engines", say):
        if not result.reasons or result.forced:
            result.additions = renew_additions(base, bundle)
    return bundle.path


def _lineage(result: Refreshed, base: Bundle) -> dict[str, Any]:
    """Where a version comes from, for its manifest."""
    told = result.to_dict()
    kept = ("forced", "reasons", "findings", "gate", "adaptation", "learnt_cameras", "sessions")
    return {
        "parent": {"version": base.path.name, "seal": base.manifest["seal"]},
        "refresh": {"made_at": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        | {key: told[key] for key in kept}
        | {"learnt": sorted(learnt_from(base.manifest) | {s["fingerprint"] for s in result.sessions})},
    }


def learnt_from(manifest: dict[str, Any]) -> set[str]:
    """Fingerprints of all sessions that a version, and those before it, were adapted to."""
    return set((manifest.get("refresh") or {}).get("learnt", ()))


def _origin(session: Session) -> dict[str, Any]:
    return {
        "name": session.name, "fingerprint": fingerprint([session], with_poses=False), "subject": session.subject,
        "action": session.action, "cameras": list(session.camera_names), "frames": len(session.timestamps),
        "seconds": round(float(session.timestamps[-1] - session.timestamps[0]), 2),
    }  # fmt: skip


def _refuse(result: Refreshed, registry: Registry, bundle: Path | None) -> str:
    """Keep what was refused, with its report, under the registry's `refused/`; returns where."""
    with registry.staging() as folder:
        whole = folder / "refused"
        whole.mkdir()
        if bundle is not None:
            os.rename(bundle, whole / "bundle")
        (whole / "report.json").write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
        return registry.keep_refused(whole)
