from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime.evaluate import evaluate
from edgelift.trainer.adapt import LEAST_STEPS, SHARES, AdaptSettings, _all_pairs, _error_mm, adapt, hold_out
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


def test_sessions_of_two_views_hold_none_out(base: Checkpoint) -> None:
    three, two = make_sessions(9, first=7)
    data = load_multiview([three, two.only((0, 1))], base.settings)
    lifted, pairs = hold_out(data, 1)
    assert set(data.session[pairs[:, 0]].tolist()) == {0}
    assert set(pairs[:, 1].tolist()) == {2}
    assert torch.equal(lifted.keypoints[data.session == 1], data.keypoints[data.session == 1])
    alone = adapt(base, [two.only((0, 1))], AdaptSettings(steps=1))
    assert (alone.curve, alone.best_step) == ((), 1)


def test_an_interrupted_adaptation_goes_on_as_if_nothing_had_happened(base: Checkpoint, tmp_path: Path) -> None:
    take, others = make_sessions(8, first=7, noise_px=2.0), make_sessions(6, first=5)
    settings = AdaptSettings(steps=40, batch=32, checks=4)
    whole = adapt(base, take, settings, rehearse=others)

    class KilledError(Exception):
        pass

    def dying(step: int, steps: int, error: float | None) -> None:
        if step == 30:
            raise KilledError

    work = tmp_path / "work"
    with pytest.raises(KilledError):
        adapt(base, take, settings, dying, others, work=work)
    steps: list[int] = []
    resumed = adapt(base, take, settings, lambda step, of, error: steps.append(step), others, work=work)
    assert steps == [30, 40]  # what was checked at step 20 is not checked again
    assert resumed.curve == whole.curve
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_work_file_that_was_cut_short_is_begun_anew(base: Checkpoint, tmp_path: Path) -> None:
    take, settings = make_sessions(8, first=7), AdaptSettings(steps=20, batch=32, checks=2)
    work = tmp_path / "work"
    whole = adapt(base, take, settings, work=work)
    work.write_bytes(work.read_bytes()[:-100])
    again = adapt(base, take, settings, work=work)
    assert again.curve == whole.curve


def test_as_many_steps_as_fit_into_the_seconds(base: Checkpoint) -> None:
    take = make_sessions(8, first=7)
    few = adapt(base, take, AdaptSettings(steps=100_000, seconds=1.0, batch=16))
    assert LEAST_STEPS <= few.steps < 100_000
    assert adapt(base, take, AdaptSettings(steps=10, seconds=1.0, batch=16)).steps == 10


def test_a_held_out_stretch_has_its_say(base: Checkpoint) -> None:
    take = make_sessions(8, first=7, noise_px=2.0)
    settings = AdaptSettings(steps=20, batch=32, checks=2)
    alone = adapt(base, take, settings)
    both = adapt(base, take, settings, held_out=make_sessions(9, first=8))
    stretch = make_sessions(9, first=8)
    data, pairs = _all_pairs(load_multiview(stretch, base.settings))
    expected = (alone.curve[0][1] + _error_mm(base.model(), data, pairs)) / 2
    assert both.curve[0][1] == pytest.approx(expected, rel=1e-5)


def test_the_weights_go_as_far_as_nothing_is_lost(base: Checkpoint) -> None:
    take = make_sessions(8, first=7, noise_px=2.0)
    settings = AdaptSettings(steps=60, batch=60, learning_rate=1e-3)
    own = windows_of(take[0], base)
    free = adapt(base, take, settings, keep=own)  # what is kept is what is learnt: the whole way
    assert free.share > 0.5
    wrong = own | {"poses": base_poses(base, own)}  # as the base has it, so every change loses
    bound = adapt(base, take, settings, keep=wrong)
    assert bound.share == SHARES[-1]
    a, b, c = (m.state_dict() for m in (base.model(), adapt(base, take, settings).model, bound.model))
    name = next(key for key in a if key.endswith("weight"))
    torch.testing.assert_close(c[name], torch.lerp(a[name], b[name], bound.share))


def windows_of(session: Session, base: Checkpoint) -> dict[str, np.ndarray]:
    fed, camera = base.settings.input, session.rig[0]
    own = session.to_skeleton(fed.skeleton)
    assert own.poses is not None
    windows = fed.windows(own, 0)
    intrinsics = np.tile(fed.intrinsics(camera, camera.size), (len(windows), 1))
    return {"keypoints": windows, "intrinsics": intrinsics, "poses": world_to_camera(own.poses, camera)}


def base_poses(base: Checkpoint, own: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        poses = base.model()(torch.from_numpy(own["keypoints"]), torch.from_numpy(own["intrinsics"]))
    return np.asarray(poses)
