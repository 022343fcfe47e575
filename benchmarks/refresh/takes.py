"""The site that the refresh benchmarks play: four cameras, people it does not know yet, and what its base was taught.

cmu17 through Human3.6M's S9 rig, `common14`, noise like a detector's (5 px, 5 % of the joints missing). Each of four
people is left out in turn: the base never saw them. Their first takes are recorded and adapted to, their later takes
are scored. Other people again, whom no base was trained on, make the reference set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelift.poses.motion import Clip, load_motion
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film
from edgelift.trainer.settings import TrainSettings

PEOPLE = ("02", "49", "06", "135")
REFERENCE_PEOPLE = ("03", "10", "14", "golf1")
NOISE_PX, MISSING = 5.0, 0.05
TAKE_S, TAKE_SHARE = 120.0, 0.6  # first takes: up to two minutes, or this share of what there is of a person
RECORDED_HZ = 30.0
RIG = "h36m_S9"


@dataclass(frozen=True)
class Recorded:
    """One person: sessions of the first takes, as long as takes are, and of the later ones."""

    first: list[Session]
    later: list[Session]


def teaching(data: Path, person: str) -> tuple[list[Session], list[Session]]:
    """Training sessions of the base that does not know a person, and those that its reference set is drawn from."""
    motion = data / "mocap" / "cmu17.npz"
    known = load_motion(motion, None, ("mix", person, *REFERENCE_PEOPLE))
    held_out = [clip for clip in load_motion(motion) if clip.subject in REFERENCE_PEOPLE]
    return filmed(data, known, 20.0, 6.0, 0), filmed(data, held_out, 20.0, 6.0, 1)


def recorded(data: Path, person: str, seed: int = 2) -> Recorded:
    """Film a person's takes at the camera's rate: first and later ones, whole takes each."""
    takes = [clip for clip in load_motion(data / "mocap" / "cmu17.npz") if clip.subject == person]
    most = min(TAKE_S, TAKE_SHARE * sum(map(_seconds, takes)))
    first = [c for n, c in enumerate(takes) if sum(map(_seconds, takes[:n])) + _seconds(c) / 2 <= most]
    later = takes[len(first) :]
    return Recorded(filmed(data, first, RECORDED_HZ, 600.0, seed), filmed(data, later, RECORDED_HZ, 600.0, seed))


def filmed(data: Path, clips: Sequence[Clip], fps: float, window_s: float, seed: int) -> list[Session]:
    """Film clips with the site's four cameras and a detector's noise."""
    rig = read_rig(f"{data / 'rigs.json'}:{RIG}", None)
    settings = StudioSettings(fps, window_s, NOISE_PX, "detector", MISSING, 0.0, seed)
    return list(film(clips, rig, settings))


def base_settings(width: int, epochs: int) -> TrainSettings:
    """How every base is trained."""
    return TrainSettings(width=width, epochs=epochs)


def _seconds(clip: Clip) -> float:
    return len(clip.poses) / clip.fps
