"""How well people are told apart across views: real motion among one another, by number of people and of views.

python benchmarks/calibration/people.py --data ../shared/data -o benchmarks/results

Long walks of cmu17 (each begun elsewhere, turned and shifted, nobody nearer than 40 cm to another) through Human3.6M's
S9 rig: all four cameras, three, or two (two that face each other, and two beside each other); and six people through a
ring of sixteen. 5 px noise, 8 % of the joints missing, people shuffled in every frame and overlooked (3 % by chance,
and half of the time behind somebody nearer), and ghosts: figures that one view alone sees, for a frame or for two
seconds. Each row says what share of the detections of people whom two views or more detect then went to the right
person, what share to a wrong one (or to a second session of the right one, or what was a ghost's), and how many
sessions there were. Who was out of sight for longer than ABSENT_S may be new.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64, project, world_to_camera
from edgelift.poses.motion import Clip, load_motion, resample
from edgelift.poses.people import separate_people
from edgelift.poses.people_followed import ABSENT_S
from edgelift.poses.recordings import Recording, View
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import rig_middle, studio_rig

FPS = 30.0
NEAREST_M = 0.4  # between the roots of two people: bodies do not go through each other
ROOM_M = 1.2  # from the middle, mean of a person's path
GHOST = 0.5  # confidence of ghosts; that of person k is PERSON - k / 100, so a session says whose keypoints it has
PERSON = 0.95
GHOST_S = 2.0
FRESH = 20  # first seed: scenes before it were looked at while the constants of poses/people*.py were chosen
NOBODY, A_GHOST = -1, -2
LONG = ("03_03", "03_04")  # 38 s of walking about each


@dataclass(frozen=True)
class Faults:
    """Noise in pixels; shares of joints, of people and of people behind others that are missed, of frames with a ghost.

    Half of the ghosts stay for GHOST_S.
    """

    noise_px: float = 5.0
    joints_missed: float = 0.08
    people_missed: float = 0.03
    hidden_missed: float = 0.5
    ghosts: float = 0.2


def walk_about(clips: Sequence[Clip], count: int, frames: int, middle: Float64, seed: int) -> list[Float64]:
    """(frames, joints, 3) world metres of each person: clips begun anywhere, turned, shifted; nobody collides."""
    rng = np.random.default_rng(seed)
    people: list[Float64] = []
    for attempt in range(2000):
        if len(people) == count:
            return people
        poses = resample(clips[int(rng.integers(len(clips)))], FPS).poses
        poses = np.concatenate([poses, poses[::-1]])  # there and back: no jump
        begin = int(rng.integers(len(poses)))
        poses = poses[(begin + np.arange(frames)) % len(poses)].astype(np.float64)
        a = rng.uniform(0, 2 * np.pi)
        turned = poses @ np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
        aim = middle[:2] + rng.uniform(-ROOM_M, ROOM_M, 2) * (0 if attempt < 100 and not people else 1)
        turned[..., :2] += aim - turned[:, 0, :2].mean(0)
        if all(np.linalg.norm(turned[:, 0] - other[:, 0], axis=-1).min() > NEAREST_M for other in people):
            people.append(turned)
    raise SystemExit(f"no room for {count} people")


def film_people(
    worlds: Sequence[Float64], cameras: Sequence[Camera], seed: int, faults: Faults
) -> tuple[Recording, NDArray[np.bool_]]:
    """Return what detectors saw, and (views, frames, people) who was detected."""
    rng = np.random.default_rng([seed, 1])
    seen = np.stack([_see(worlds, camera, faults, rng) for camera in cameras])
    there = (seen[..., 2] > 0).sum(-1) >= 4
    views = []
    for camera, people, present in zip(cameras, seen, there, strict=True):
        ghosts = _ghosts(worlds, camera, faults, rng)
        rows = [_shuffled(people[t][present[t]], ghosts[t], rng) for t in range(len(people))]
        views.append(View(camera.name, np.arange(len(rows)) / FPS, rows))
    return Recording(tuple(views), skeleton("h36m17"), f"scene{seed}"), there


def _see(worlds: Sequence[Float64], camera: Camera, faults: Faults, rng: np.random.Generator) -> NDArray[np.float32]:
    """(frames, people, joints, 3) detections of the people, missing where overlooked."""
    exact = np.stack([project(world, camera) for world in worlds], axis=1)
    depth = np.stack([world_to_camera(world[:, 0], camera)[:, 2] for world in worlds], axis=1)
    missed = rng.random(exact.shape[:2]) < faults.people_missed
    missed |= _hidden(exact, depth) & (rng.random(exact.shape[:2]) < faults.hidden_missed)
    xy = exact + faults.noise_px * rng.standard_normal(exact.shape)
    gone = missed[..., None] | (rng.random(xy.shape[:-1]) < faults.joints_missed)
    gone |= ~((xy >= 0) & (xy < np.array(camera.size))).all(-1)
    confidence = np.broadcast_to(PERSON - np.arange(len(worlds))[:, None] / 100, gone.shape)
    return _keypoints(xy, np.where(gone, 0, confidence))


def _hidden(exact: Float64, depth: Float64) -> NDArray[np.bool_]:
    """(frames, people) whether half of a person's joints are within the box of somebody nearer."""
    low, high = exact.min(2)[:, None, :, None], exact.max(2)[:, None, :, None]
    inside = ((exact[:, :, None] >= low) & (exact[:, :, None] <= high)).all(-1).mean(-1) > 0.5
    return np.asarray((inside & (depth[:, :, None] > depth[:, None])).any(2))


def _ghosts(
    worlds: Sequence[Float64], camera: Camera, faults: Faults, rng: np.random.Generator
) -> list[list[NDArray[np.float32]]]:
    """For each frame its ghosts: a person's figure elsewhere in the image, for one frame or drifting for GHOST_S."""
    frames = len(worlds[0])
    ghosts: list[list[NDArray[np.float32]]] = [[] for _ in range(frames)]
    for length, share in ((int(GHOST_S * FPS), faults.ghosts / 2), (1, faults.ghosts / 2)):
        for _ in range(round(share * frames / length)):
            begin, model = int(rng.integers(frames)), int(rng.integers(len(worlds)))
            figure = project(worlds[model][begin], camera)
            place = rng.uniform(0.15, 0.85, 2) * camera.size - figure.mean(0)
            drift = rng.normal(0, 2, 2)
            for t in range(begin, min(begin + length, frames)):
                xy = figure + place + drift * (t - begin) + faults.noise_px * rng.standard_normal(figure.shape)
                ghosts[t].append(_keypoints(xy, np.full(len(xy), GHOST)))
    return ghosts


def _keypoints(xy: Float64, confidence: Float64) -> NDArray[np.float32]:
    out = np.concatenate([xy, confidence[..., None]], -1).astype(np.float32)
    out[~(out[..., 2] > 0)] = (np.nan, np.nan, 0)
    return out


def _shuffled(
    people: NDArray[np.float32], ghosts: list[NDArray[np.float32]], rng: np.random.Generator
) -> NDArray[np.float32]:
    together = np.concatenate([people, *(ghost[None] for ghost in ghosts)])
    return together[rng.permutation(len(together))]


def stays(there: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(frames, people) numbers of stays, and (stays,) whose each is: after ABSENT_S out of sight one may be new."""
    seen = there.sum(0) >= 2
    out = np.zeros(seen.shape, np.intp)
    whose: list[int] = []
    for k in range(seen.shape[1]):
        at = np.flatnonzero(seen[:, k])
        begins = at[np.append(True, np.diff(at) > ABSENT_S * FPS)]
        out[:, k] = len(whose) + np.maximum(np.searchsorted(begins, np.arange(len(seen)), side="right") - 1, 0)
        whose += [k] * len(begins)
    return out, np.array(whose)


def judge(sessions: Sequence[Session], there: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare sessions with who was detected, there (views, frames, people); confidence says whose a keypoint is.

    Only detections of people whom two views see at the time count: those of one view may be kept or left out.
    """
    stay, whose = stays(there)
    counts = there.sum(0) >= 2
    given = np.full((len(sessions), *there.shape[:2]), NOBODY)  # of each session, the stays its detections are of
    for own, session in zip(given, sessions, strict=True):
        at = np.rint(session.timestamps * FPS).astype(int)
        confidence = session.keypoints[..., 2].max(-1)
        person = np.clip(np.rint((PERSON - confidence) * 100).astype(int), 0, there.shape[2] - 1)
        of_person = np.where(counts[at, person], stay[at, person], NOBODY)
        own[:, at] = np.where(confidence > 0, np.where(confidence > GHOST + 0.1, of_person, A_GHOST), NOBODY)
    votes = np.array([[(own == k).sum() for k in range(len(whose))] for own in given])
    owner = np.stack([votes[:, whose == k].sum(1) for k in range(there.shape[2])], axis=1).argmax(1)
    votes[owner[:, None] != whose] = 0  # what a session has of others is a mistake, and so is a second one of a stay
    total, right = int((there & counts).sum()), int(votes.max(0).sum())
    return {
        "people": there.shape[2], "stays": len(whose), "sessions": len(sessions),
        "one_session_each": bool(votes.max(0).all()) and set(votes.argmax(0).tolist()) == set(range(len(sessions))),
        "detections": total, "right": round(right / total, 5),
        "wrong": round((int((given != NOBODY).sum()) - right) / total, 5), "of_ghosts": int((given == A_GHOST).sum()),
    }  # fmt: skip


def run(name: str, worlds: Sequence[Float64], cameras: tuple[Camera, ...], seed: int, faults: Faults) -> dict[str, Any]:
    recording, there = film_people(worlds, cameras, seed, faults)
    started = time.perf_counter()
    sessions = [session for session, _ in separate_people(recording, cameras)]
    seconds = time.perf_counter() - started
    row = {"cameras": name, "views": len(cameras), "seed": seed, **judge(sessions, there), "took_s": round(seconds, 1)}
    row |= {"recorded_s": round(len(worlds[0]) / FPS, 1)}
    print(row, flush=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sum the seeds of each number of people and choice of cameras."""
    out = []
    for people, cameras in dict.fromkeys((row["people"], row["cameras"]) for row in rows):
        own = [row for row in rows if (row["people"], row["cameras"]) == (people, cameras)]
        total = sum(row["detections"] for row in own)
        shares = {k: round(sum(row[k] * row["detections"] for row in own) / total, 5) for k in ("right", "wrong")}
        whole = sum(row["one_session_each"] for row in own)
        out.append({"people": people, "cameras": cameras, **shares, "one_session_each": f"{whole} of {len(own)}"})
        print(out[-1], flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the raw result")
    options = parser.parse_args()
    rig = read_rig(f"{options.data / 'rigs.json'}:h36m_S9", None)
    ring = studio_rig(16, distance_m=5.5)
    choices = {
        "four": rig, "three": rig[:3], "two facing": rig[:2], "two beside": (rig[0], rig[2]),
    }  # fmt: skip
    clips = [clip for clip in load_motion(options.data / "mocap" / "cmu17.npz") if clip.name in LONG]
    frames = int(options.seconds * FPS)
    rows = []
    for count, seed in product((2, 3, 4), range(FRESH, FRESH + options.seeds)):
        worlds = walk_about(clips, count, frames, rig_middle(rig), seed)
        rows += [run(name, worlds, cameras, seed, Faults()) for name, cameras in choices.items()]
    rows.append(run("ring", walk_about(clips, 6, frames, rig_middle(ring), FRESH), ring, FRESH, Faults()))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"faults": asdict(Faults()), "table": table(rows), "peak_mib": round(peak_mib), "rows": rows}
    path = options.output / f"calibration_people_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"-> {path}")


if __name__ == "__main__":
    main()
