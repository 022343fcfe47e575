from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgelift.poses.cameras import Camera, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.metrics import procrustes_align
from edgelift.poses.sessions import Session
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.fit import train
from edgelift.trainer.learn_cameras import learn_cameras
from edgelift.trainer.settings import TrainSettings

from .conftest import make_sessions


def turned(camera: Camera, axis: list[float], centre: list[float], focal: float) -> Camera:
    """A camera that is wrong by a rotation vector (rad), a shift of its centre (m), a factor of its focal length."""
    x, y, z = axis
    R = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)).numpy()
    R = R @ camera.R
    K = camera.K.copy()
    K[:2, :2] *= focal
    return replace(camera, R=R, t=-R @ (camera.centre + centre), K=K)


def with_wrong_rig(sessions: list[Session], intrinsics: bool = True) -> list[Session]:
    focal = [1.02, 0.98, 1.02] if intrinsics else [1.0, 1.0, 1.0]
    wrong = (([0.012, -0.008, 0.01], [0.015, 0.01, -0.01]), ([-0.01, 0.012, 0.0], [-0.01, 0.02, 0.0]),
             ([0.0, 0.014, -0.01], [0.0, -0.015, 0.012]))  # fmt: skip
    rig = tuple(turned(c, *w, f) for c, w, f in zip(sessions[0].rig, wrong, focal, strict=True))
    return [replace(s, cameras=rig) for s in sessions]


def shape_error_mm(session: Session, rig: tuple[Camera, ...]) -> float:
    """Mean error of the triangulation after alignment frame by frame: what no choice of world can explain."""
    points = triangulate(session.keypoints, rig)[0]
    assert session.poses is not None
    return float(1000 * np.nanmean(np.linalg.norm(procrustes_align(points, session.poses) - session.poses, axis=-1)))


def test_exact_keypoints_give_the_true_rig_back_up_to_the_world() -> None:
    sessions = with_wrong_rig(make_sessions(4))
    learnt = learn_cameras(sessions, "all")
    (rig,) = learnt.rigs.values()
    true = make_sessions(1)[0].rig
    assert rig.residual_px[0] > 5
    assert rig.residual_px[1] < 0.01
    for found, camera in zip(rig.learnt, true, strict=True):
        assert found.K[0, 0] == pytest.approx(camera.K[0, 0], rel=1e-3)
        np.testing.assert_allclose(found.R @ found.R.T, np.eye(3), atol=1e-12)
    turns = [found.R.T @ camera.R for found, camera in zip(rig.learnt, true, strict=True)]
    for turn in turns[1:]:  # one rotation for all: the world's, which nobody can see
        np.testing.assert_allclose(turn, turns[0], atol=1e-4)
    assert shape_error_mm(learnt[0], rig.learnt) < 0.5
    given, found = (
        np.mean([np.linalg.norm(a.centre - b.centre) for a in r for b in r]) for r in (rig.given, rig.learnt)
    )
    assert found == pytest.approx(given, rel=0.01)  # the stated cue of scale


def test_noise_leaves_the_poses_nearly_as_with_the_true_rig() -> None:
    true = make_sessions(8, noise_px=4.0, noise_model="detector", missing=0.05)
    learnt = learn_cameras(with_wrong_rig(true), "all")
    errors = [shape_error_mm(s, rig) for s in true[:3] for rig in (s.rig, learnt[0].rig)]
    assert sum(errors[1::2]) < 1.05 * sum(errors[::2])
    assert sum(shape_error_mm(s, with_wrong_rig(true)[0].rig) for s in true[:3]) > 1.2 * sum(errors[::2])


def test_only_what_was_asked_for_changes() -> None:
    sessions = with_wrong_rig(make_sessions(2), intrinsics=False)
    rig = next(iter(learn_cameras(sessions, "extrinsics").rigs.values()))
    assert all((a.K == b.K).all() and not (a.R == b.R).all() for a, b in zip(rig.given, rig.learnt, strict=True))
    rig = next(iter(learn_cameras(sessions, "intrinsics").rigs.values()))
    assert all((a.R == b.R).all() and (a.t == b.t).all() for a, b in zip(rig.given, rig.learnt, strict=True))
    assert not any((a.K == b.K).all() for a, b in zip(rig.given, rig.learnt, strict=True))


def test_rigs_are_learnt_apart_and_too_little_is_refused() -> None:
    a, b = make_sessions(2)
    b = with_wrong_rig([b])[0]
    assert len(learn_cameras([a, b, a], "all").rigs) == 2
    short = replace(a, keypoints=a.keypoints[:, :3], timestamps=a.timestamps[:3], poses=None)
    with pytest.raises(EdgeliftError, match="--learn-cameras"):
        learn_cameras([short], "all")


def test_training_uses_the_learnt_cameras_and_keeps_them(sessions: list[Session], tmp_path: Path) -> None:
    settings = TrainSettings(width=32, epochs=1, batch=64, learn_cameras="all")
    train(with_wrong_rig(sessions), tmp_path, settings)
    rigs = load_checkpoint(tmp_path).facts["learnt_rigs"]
    assert len(rigs) == 1
    assert rigs[0]["residual_px"][1] < 0.5 * rigs[0]["residual_px"][0]
    assert {c["name"] for c in rigs[0]["cameras"]} == set(sessions[0].camera_names)
