"""How good the gate is: 200 candidates of a small, quick lifter, half of them made worse on purpose.

python benchmarks/refresh/bases.py --people 02,135 --width 128 --epochs 20 --data ../shared/data --runs runs/small
python benchmarks/refresh/gate.py --data ../shared/data --runs runs/small -o benchmarks/results

Each candidate is adapted to a stretch of one person's first takes that is filmed anew; truth is the error of single
views of that person's later takes, filmed as they should be. Worse: truth more than 1 % above the base's. What is
harmed is drawn, and how much: cameras turned, moved, or with another focal length; the whole rig out of scale; names
exchanged; a view late; hardly any frames; keypoints far noisier; training far too hard, with nothing that is kept.
Every candidate is made and judged, also where the examination of its session refuses it beforehand.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from takes import MISSING, NOISE_PX, RECORDED_HZ, RIG, recorded

from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.motion import Clip, load_motion
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.adapt import AdaptSettings, adapt
from edgelift.trainer.deploy import checkpoint_of
from edgelift.trainer.gate import judge
from edgelift.trainer.refresh import Refreshed, examined, replayed, split
from edgelift.trainer.validation import module_lift

WORSE, NOTHING = 1.01, "nothing beats the base"
QUICK = AdaptSettings(steps=80, batch=64)
# what makes a candidate bad must not be mended by what protects an adaptation: half of the harmed do without it
BLIND = AdaptSettings(steps=120, batch=64, learning_rate=1e-3, anchor=0.0, held_out_views=0)
TOO_HARD = AdaptSettings(
    120, batch=64, learning_rate=2e-2, anchor=0.0, rehearsed=0.0, lent=0.0, virtual_views=0.0, held_out_views=0
)
Rng = np.random.Generator


@dataclass(frozen=True)
class Harmed:
    """A session and how it is trained on; what was done to it, in words."""

    session: Session
    settings: AdaptSettings
    what: str


def harm_cameras(session: Session, rng: Rng) -> Harmed:
    degrees, metres, focal = rng.uniform(0.3, 4), rng.uniform(0, 0.15), rng.uniform(0, 0.06)
    which = rng.choice(len(session.rig), size=rng.integers(1, len(session.rig) + 1), replace=False).tolist()
    rig = [bumped(c, degrees, metres, focal, rng) if v in which else c for v, c in enumerate(session.rig)]
    return Harmed(replace(session, cameras=tuple(rig)), QUICK, f"{len(which)} cameras {degrees:.1f} deg {metres:.2f} m")


def harm_scale(session: Session, rng: Rng) -> Harmed:
    scale = float(rng.choice([rng.uniform(0.75, 0.92), rng.uniform(1.08, 1.3)]))
    rig = tuple(replace(c, t=c.t * scale) for c in session.rig)
    return Harmed(replace(session, cameras=rig), QUICK, f"rig {scale:.2f} times as large")


def harm_names(session: Session, rng: Rng) -> Harmed:
    order = np.arange(len(session.rig))
    a, b = rng.choice(len(order), 2, replace=False)
    order[[a, b]] = order[[b, a]]
    return Harmed(replace(session, keypoints=session.keypoints[order]), QUICK, "names exchanged")


def harm_sync(session: Session, rng: Rng) -> Harmed:
    late, view = int(rng.integers(2, 20)), int(rng.integers(len(session.rig)))
    keypoints = session.keypoints.copy()
    keypoints[view, late:] = session.keypoints[view, :-late]
    keypoints[view, :late] = (np.nan, np.nan, 0)
    return Harmed(replace(session, keypoints=keypoints), QUICK, f"a view {late / RECORDED_HZ:.2f} s late")


def harm_frames(session: Session, rng: Rng) -> Harmed:
    frames = int(rng.integers(20, 150))
    return Harmed(session.during(slice(0, frames)), QUICK, f"{frames} frames")


def harm_noise(session: Session, rng: Rng) -> Harmed:
    noise = rng.uniform(10, 60)
    keypoints = session.keypoints.copy()
    keypoints[..., :2] += rng.normal(0, noise, keypoints[..., :2].shape).astype(np.float32)
    return Harmed(replace(session, keypoints=keypoints), QUICK, f"{noise:.0f} px more noise")


def harm_training(session: Session, rng: Rng) -> Harmed:
    return Harmed(session.during(slice(0, 450)), TOO_HARD, "trained far too hard on 15 s, never looked at")


HARMS: tuple[Callable[[Session, Rng], Harmed], ...] = (
    harm_cameras, harm_scale, harm_names, harm_sync, harm_frames, harm_noise, harm_training,
)  # fmt: skip


def bumped(camera: Camera, degrees: float, metres: float, focal: float, rng: Rng) -> Camera:
    """Turn a camera about a random axis, move it in a random direction, stretch its focal length."""
    (x, y, z), shift = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    angle, K = np.radians(degrees), camera.K.copy()
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    R = (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross) @ camera.R
    K[:2, :2] *= 1 + focal * rng.choice([-1, 1])
    return replace(camera, R=R, t=-R @ (camera.centre + metres * shift), K=K)


def stretch(clips: list[Clip], data: Path, rng: Rng, seed: int) -> Session:
    """15 to 45 s of one of the first takes, or all of a shorter one, with a detector's noise of its own."""
    clip = clips[int(rng.integers(len(clips)))]
    frames = round(rng.uniform(15, 45) * clip.fps)
    start = int(rng.integers(max(1, len(clip.poses) - frames)))
    part = replace(clip, poses=clip.poses[start : start + frames])
    settings = StudioSettings(RECORDED_HZ, 600.0, NOISE_PX, "detector", MISSING, 0.0, seed)
    return next(film([part], read_rig(f"{data / 'rigs.json'}:{RIG}", None), settings))


def candidate(base: Bundle, given: Harmed, later: list[Session], before: float) -> dict[str, Any]:
    """Make and judge one candidate; the truth about it."""
    result = Refreshed("", "base")
    row: dict[str, Any] = {"what": given.what, "findings": [], "gate": [], "truth": None}
    try:
        own = examined([given.session], base, "none", result)
        row["findings"] = result.reasons
        taught, held_out = split(own)
        checkpoint = checkpoint_of(base)
        keep, watched = (base.watch(), held_out) if given.settings is QUICK else (None, [])
        adapted = adapt(checkpoint, taught, given.settings, rehearse=replayed(base)[::4], held_out=watched, keep=keep)
        lifts = module_lift(checkpoint.model()), module_lift(adapted.model)
        verdict = judge(*lifts, held_out, base.reference(), base.input)
    except EdgeliftError as error:  # not even a candidate
        return row | {"findings": [*row["findings"], str(error)]}
    row["gate"] = list(verdict.reasons) + ([] if adapted.best_step else [NOTHING])
    row["measures"] = verdict.to_dict()["measures"]
    row["truth"] = round(evaluate(lifts[1], later, base.input)["mixed_mpjpe_mm"] / before, 4)
    return row


def published(row: dict[str, Any]) -> bool:
    """Whether a candidate would have gone live."""
    return not row["findings"] and not row["gate"]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of the bad were published and how many of the good refused, by examination and gate, by gate alone."""
    made = [row for row in rows if row["truth"] is not None]
    bad = [row for row in made if row["truth"] > WORSE]
    good = [row for row in made if row["truth"] <= WORSE]
    nothing = [row for row in made if NOTHING in row["gate"]]  # the base itself: neither good nor bad
    bad, good = ([row for row in rows if row not in nothing] for rows in (bad, good))
    unharmed = [row for row in good if row["harm"] == "none"]
    refused = [row for row in unharmed if not published(row)]
    return {
        "candidates": len(rows), "not_even_made": len(rows) - len(made), "nothing_won": len(nothing),
        "bad": len(bad), "good": len(good),
        "bad_published": sum(map(published, bad)), "bad_the_gate_alone_would_publish": sum(not r["gate"] for r in bad),
        "good_refused": sum(not published(r) for r in good), "good_refused_by_gate": sum(bool(r["gate"]) for r in good),
        "good_unharmed": len(unharmed), "good_unharmed_refused": len(refused),
        "their_gain": sorted(row["truth"] for row in refused),
        "worst_published": max((row["truth"] for row in made if published(row)), default=None),
        "by_harm": {harm: by_harm(harm, rows) for harm in dict.fromkeys(row["harm"] for row in rows)},
    }  # fmt: skip


def by_harm(harm: str, rows: list[dict[str, Any]]) -> dict[str, int]:
    """What became of the candidates of one kind."""
    own = [row for row in rows if row["harm"] == harm]
    return {
        "candidates": len(own), "bad": sum((row["truth"] or 0) > WORSE for row in own),
        "refused_by_examination": sum(bool(row["findings"]) for row in own),
        "refused_by_gate": sum(bool(row["gate"]) for row in own), "published": sum(map(published, own)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    motion = load_motion(options.data / "mocap" / "cmu17.npz")
    people = {}
    for person in ("02", "135"):
        base, takes = load_bundle(options.runs / f"{person}.bundle"), recorded(options.data, person)
        before = evaluate(module_lift(checkpoint_of(base).model()), takes.later, base.input)["mixed_mpjpe_mm"]
        names = {session.name.rpartition("_")[0] for session in takes.first}
        clips = [c for c in motion if c.name in names and len(c.poses) / c.fps >= 8]
        people[person] = base, takes.later, before, clips
    rows = []
    started = time.perf_counter()
    for number in range(options.candidates):
        rng = np.random.default_rng(number)
        base, later, before, clips = people[list(people)[number % len(people)]]
        session = stretch(clips, options.data, rng, 1000 + number)
        harm = HARMS[number // 2 % len(HARMS)] if number % 4 >= 2 else None
        given = Harmed(session, QUICK, "as it is") if harm is None else harm(session, rng)
        if harm is not None and given.settings is QUICK and rng.random() < 0.5:
            given = replace(given, settings=BLIND, what=f"{given.what}, trained blindly")
        rows.append({"harm": "none" if harm is None else harm.__name__.removeprefix("harm_")})
        rows[-1] |= candidate(base, given, later, before)
        print(number, f"{time.perf_counter() - started:.0f} s", {k: rows[-1][k] for k in ("harm", "what", "truth")},
              [x[:60] for x in rows[-1]["findings"]], [x[:40] for x in rows[-1]["gate"]], flush=True)  # fmt: skip
    found = summary(rows)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"refresh_gate_cpu_{date.today()}.json"
    path.write_text(json.dumps({"summary": found, "rows": rows}) + "\n")
    print(json.dumps(found, indent=1))
    print(f"-> {path}")


if __name__ == "__main__":
    main()
