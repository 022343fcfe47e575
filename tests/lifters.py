"""Tiny lifters of every kind and bundles of them, with batch norms that have seen data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgelift.export.bundles import Reference, export_bundle
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime.bundle import Bundle
from edgelift.trainer.deploy import export_run
from edgelift.trainer.fit import train
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings

TINY = TrainSettings(width=32)
KINDS = {
    "frame": TINY,
    "tcn": replace(TINY, model="tcn", frames=9),
    "transformer": replace(TINY, model="transformer", frames=9),
}


def trained_looking(seed: int, settings: TrainSettings = TINY) -> Lifter:
    """A lifter whose batch norms have seen data."""
    torch.manual_seed(seed)
    model = build_model(settings).train()
    for _ in range(3):
        model(*some_input(64, seed, frames=settings.frames))
    return model.eval()


def some_input(n: int, seed: int = 0, missing: float = 0.2, frames: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows in which some joints are missing, and a camera."""
    g = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(n, frames, 14, 3, generator=g) * 900
    keypoints[..., 2] = (torch.rand(n, frames, 14, generator=g) >= missing).float()
    return keypoints, torch.tensor([[1100.0, 1100, 500, 500]]).repeat(n, 1)


def reference(n: int = 70, frames: int = 1) -> Reference:
    """Windows whose truth nobody knows."""
    keypoints, intrinsics = (t.numpy() for t in some_input(n, frames=frames))
    return Reference(keypoints, intrinsics, np.full((n, 14, 3), np.nan, np.float32))


def make_bundle(path: Path, kind: str = "frame", seed: int = 0) -> Bundle:
    """A bundle of a tiny lifter."""
    settings = KINDS[kind]
    return export_bundle(trained_looking(seed, settings), path, settings.input, reference(frames=settings.frames), {})


def walkers_bundle(home: Path) -> Bundle:
    """A lifter that knows three people who walk, and no more."""
    people = list(film(clips(6.0, 60.0, 4, 0), studio_rig(4), StudioSettings(noise_px=3.0)))
    known = [s for s in people if s.subject != "person4"]
    held_out = [s for s in people if s.subject == "person4"]
    train(known, home / "run", TrainSettings(width=32, epochs=4, batch=128), held_out)
    return export_run(home / "run", home / "bundle")


def somebody_new() -> list[Session]:
    """Two takes of somebody whom that lifter does not know, 24 s."""
    return list(film(clips(12.0, 60.0, 1, 77), studio_rig(4), StudioSettings(30.0, 12.0, 3.0, "detector", 0.05)))[:2]
