from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.adapt import AdaptSettings, adapt, hold_out
from edgelift.trainer.checkpoint import Checkpoint, load_checkpoint
from edgelift.trainer.data import load_multiview
from edgelift.trainer.fit import train
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.validation import module_lift

from .conftest import make_sessions


@pytest.fixture(scope="module")
def base(sessions: list[Session], tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("base")
    train(sessions, path, TrainSettings(width=32, epochs=4, batch=64))
    return load_checkpoint(path)


def score(model: torch.nn.Module, base: Checkpoint, sessions: list[Session]) -> float:
    return float(evaluate(module_lift(model), sessions, base.settings.input)["mpjpe_mm"])  # type: ignore[arg-type]


def test_adaptation_learns_a_person_without_labels_and_keeps_the_statistics(base: Checkpoint) -> None:
    take = make_sessions(8, first=7, noise_px=2.0)
    blind = [replace(s, poses=np.full_like(s.poses, 9.0)) for s in take if s.poses is not None]
    adapted = adapt(base, blind, AdaptSettings(steps=120, batch=60, learning_rate=1e-3, held_out_views=0))
    assert score(adapted.model, base, take) < 0.6 * score(base.model(), base, take)
    before, after = base.model().state_dict(), adapted.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "running" in k)
    assert not all(torch.equal(before[k], after[k]) for k in before)


def test_the_best_weights_by_the_view_that_never_trained_are_taken(base: Checkpoint) -> None:
    take = make_sessions(8, first=7, noise_px=2.0)
    adapted = adapt(base, take, AdaptSettings(steps=60, batch=60, learning_rate=1e-3, checks=6))
    steps, errors = zip(*adapted.curve, strict=True)
    assert steps == tuple(range(0, 61, 10))
    assert adapted.best_step == steps[errors.index(min(errors))] > 0
    data = load_multiview(take, base.settings)
    lifted, pairs = hold_out(data, 1)
    assert pairs is not None
    assert (lifted.keypoints[:, 2] == 0).all()
    assert torch.equal(lifted.keypoints[:, :2], data.keypoints[:, :2])
    assert (pairs[:, 1] == 2).all()


def test_what_does_not_help_leaves_the_base(base: Checkpoint) -> None:
    take = make_sessions(8, first=7)
    adapted = adapt(base, take, AdaptSettings(steps=20, learning_rate=5.0, checks=2))
    assert adapted.best_step == 0
    a, b = base.model().state_dict(), adapted.model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_anchor_holds_the_weights_near_the_base(base: Checkpoint) -> None:
    take, moved = make_sessions(8, first=7), []
    for anchor in (0.0, 0.05):
        settings = AdaptSettings(steps=40, anchor=anchor, held_out_views=0)
        a, b = base.model().state_dict(), adapt(base, take, settings).model.state_dict()
        moved.append(sum(float((a[k] - b[k]).norm()) for k in a if k.endswith("weight")))
    assert moved[1] < 0.6 * moved[0]


def test_movements_of_others_are_rehearsed_as_the_person_s_own(base: Checkpoint) -> None:
    people = list(film(clips(3.0, 60.0, 3, 0), studio_rig(), StudioSettings()))
    own = [s for s in people if s.subject == "person1"]
    others = [s for s in people if s.subject != "person1"]
    take, later = own[:1], own[1:]
    settings = AdaptSettings(steps=200, batch=60, learning_rate=3e-3, held_out_views=0, anchor=0)
    models = [adapt(base, take, settings, rehearse=rehearsed).model for rehearsed in ((), others)]
    assert all(score(model, base, take) < 0.5 * score(base.model(), base, take) for model in models)
    alone, rehearsed = (score(model, base, later) for model in models)
    assert rehearsed < 0.7 * alone


def test_two_views_cannot_spare_one(base: Checkpoint) -> None:
    take = [s.only((0, 1)) for s in make_sessions(8, first=7)]
    with pytest.raises(EdgeliftError, match="held out"):
        adapt(base, take, AdaptSettings(steps=1))
    assert adapt(base, take, AdaptSettings(steps=1, held_out_views=0)).best_step == 1
