"""The two protocols that every accuracy figure is measured on, and the recipes that are compared.

M, across subjects: cmu17 through Human3.6M's S9 rig, trained on cameras 0-2, `h36m17`, `mix` left out; three folds.
H, within subjects: cmu17's clips of 10 s or more through HumanEva's S1 rig, `humaneva15`, the first 80 % of each clip
trains, the last 20 % tests, with 1 s between them. Both at 20 frames/s in sessions of 6 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgelift.poses.cameras import Camera
from edgelift.poses.motion import Clip, load_motion
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.studio import NoiseModel, StudioSettings, film
from edgelift.trainer.settings import TrainSettings

# of M: whom each fold tests; None is the data's own split (02, 49, golf1). Walking, sports and everyday movements in
# each of them; the two performers with the most frames (dance, climbing) always train.
FOLDS: tuple[tuple[str, ...] | None, ...] = (None, ("05", "10", "14"), ("06", "11", "35"))
LEFT_OUT = ("mix",)
SEEN, UNSEEN = (0, 1, 2), 3  # views of M
LONG_S, TRAINED_SHARE, APART_S = 10.0, 0.8, 1.0  # of H
NOISE_PX = {"M": 5.0, "H": 3.0}
MISSING = 0.05

PLAIN: dict[str, Any] = {"trunk": "dense", "virtual_views": 0.0, "dropout": 0.1}
TCN: dict[str, Any] = {"model": "tcn", "frames": 27}
RECIPES: dict[str, dict[str, Any]] = {
    "labels_plain": {"supervision": "poses", **PLAIN},
    "views_plain": PLAIN,
    "labels_best": {"supervision": "poses"},
    "views_best": {},
    "labels_plain_long": {"supervision": "poses", **PLAIN, "epochs": 80},
    "views_best_long": {"epochs": 80},
    "views_other_cameras": {"camera_variation": 1.0},
    "views_far_cameras": {"camera_variation": 2.0},
    "labels_screen": {"supervision": "poses", **PLAIN, "camera_input": "screen"},
    "views_screen": {**PLAIN, "camera_input": "screen"},
    "views_wrong_rig": PLAIN,
    "views_learnt_rig": {**PLAIN, "learn_cameras": "all"},
    "views_tcn27": {**TCN},
    "views_same_latency": {"width": 768},  # as slow as views_tcn27: same_latency.py
    **{
        f"views_{name}_short": {**recipe, "epochs": 20}  # half of all others': two cores' sake
        for name, recipe in (
            ("best", {}),
            ("tcn27", TCN),
            ("tcn81", {**TCN, "frames": 81}),
            ("transformer27", {**TCN, "model": "transformer"}),
        )
    },
}
# these train with every camera turned and moved in a random direction, and its focal length wrong
MISCALIBRATED = ("views_wrong_rig", "views_learnt_rig")
WRONG_DEG, WRONG_M, WRONG_FOCAL = 2.0, 0.04, 0.04  # half of it costs 1.08 only


@dataclass(frozen=True)
class Case:
    """One training: protocol (M, H), fold (0-2; 0 of H), noise and recipe.

    noise: `exact`; `noisy`, like a detector's; `independent`, as large, but new in every frame.
    """

    protocol: str
    fold: int
    noise: str
    recipe: str

    @property
    def name(self) -> str:
        """Of its result file."""
        return f"{self.protocol}{self.fold}_{self.noise}_{self.recipe}"

    def settings(self, width: int, epochs: int) -> TrainSettings:
        """All recipes share width and epochs, unless one of them is about those."""
        common = {"skeleton": "h36m17" if self.protocol == "M" else "humaneva15", "width": width, "epochs": epochs}
        return TrainSettings(**(common | {"precision": "bf16", "seed": self.fold} | RECIPES[self.recipe]))


def sessions(data: Path, case: Case, testing: bool, settings: StudioSettings | None = None) -> list[Session]:
    """Film the training or the test side of a case, all views; `.only(SEEN)` of M's are trained on."""
    rig = {"M": "h36m_S9", "H": "humaneva_S1"}[case.protocol]
    return through(data, rig, clips(data, case, testing), settings or studio(case, testing))


def through(data: Path, rig: str, motion: list[Clip], settings: StudioSettings) -> list[Session]:
    """Film motion with a rig of the data."""
    return list(film(motion, read_rig(f"{data / 'rigs.json'}:{rig}", None), settings))


def studio(case: Case, testing: bool) -> StudioSettings:
    """Training and test noise have seeds of their own."""
    if case.noise == "exact":
        return StudioSettings(seed=int(testing))
    model: NoiseModel = "detector" if case.noise == "noisy" else "independent"
    return StudioSettings(noise_px=NOISE_PX[case.protocol], noise_model=model, missing=MISSING, seed=int(testing))


def miscalibrated(camera: Camera, rng: np.random.Generator) -> Camera:
    """Turn and move a camera, and stretch its focal length, all by the stated amounts in random directions."""
    axis, shift = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    x, y, z = axis * np.radians(WRONG_DEG)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])).numpy()
    R, K = turn @ camera.R, camera.K.copy()
    K[:2, :2] *= 1 + WRONG_FOCAL * rng.choice([-1, 1])
    return replace(camera, R=R, t=-R @ (camera.centre + WRONG_M * shift), K=K)


def training_sessions(data: Path, case: Case) -> list[Session]:
    """The views that train, with the rig that training is told."""
    filmed = sessions(data, case, testing=False)
    seen = [session.only(SEEN) for session in filmed] if case.protocol == "M" else filmed
    if case.recipe not in MISCALIBRATED:
        return seen
    rng = np.random.default_rng(case.fold)
    rig = tuple(miscalibrated(camera, rng) for camera in seen[0].rig)
    return [replace(session, cameras=rig) for session in seen]


def clips(data: Path, case: Case, testing: bool) -> list[Clip]:
    """The motion of one side of a case."""
    motion = data / "mocap" / "cmu17.npz"
    held_out = FOLDS[case.fold]
    if case.protocol == "H":
        return [part for clip in load_motion(motion, None, LEFT_OUT) if (part := _part(clip, testing)) is not None]
    if held_out is None:
        return load_motion(motion, "test" if testing else "train", LEFT_OUT)
    return [clip for clip in load_motion(motion, None, LEFT_OUT) if (clip.subject in held_out) == testing]


def _part(clip: Clip, testing: bool) -> Clip | None:
    if len(clip.poses) < LONG_S * clip.fps:
        return None
    cut = round(TRAINED_SHARE * len(clip.poses))
    return replace(clip, poses=clip.poses[cut:] if testing else clip.poses[: cut - round(APART_S * clip.fps)])


def clip_of(session: Session) -> str:
    """A session's clip: confidence intervals draw whole clips, as neighbouring sessions are alike."""
    return session.name.rpartition("_")[0]


def weighted(rows: list[dict[str, Any]], key: str) -> float:
    """Mean of a figure over rows, by the frames they count."""
    return float(np.average([row[key] for row in rows], weights=[row["frames"] for row in rows]))
