from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.windows import LifterInput
from edgelift.runtime.evaluate import Lift, evaluate, lift_views

from .conftest import make_sessions

FED = LifterInput(skeleton("h36m17"), "rays")
OFF_M = np.array([0.03, 0.0, 0.04], np.float32)  # 50 mm


def truth_lift(sessions: list[Session]) -> Lift:
    """A lifter that gives the truth, off by 50 mm, to one side in one view and to the other in the next."""
    views = [(s, v) for s in sessions for v in range(3)]
    known = [
        (FED.windows(s, v), (world_to_camera(s.poses, s.rig[v]) + (OFF_M, -OFF_M)[v % 2]).astype(np.float32))
        for s, v in views
        if s.poses is not None
    ]

    def lift(windows: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
        return next(poses for w, poses in known if np.array_equal(w, windows, equal_nan=True))

    return lift


def two_actions() -> list[Session]:
    a, b = make_sessions(2, noise_px=2.0, missing=0.05)
    return [replace(a, action="walk"), replace(b, action="box")]


def test_a_constant_error_is_absolute_alone() -> None:
    made = two_actions()
    scores = evaluate(truth_lift(made), made, FED)
    assert scores["mpjpe_mm"] == pytest.approx(50, abs=0.01)
    assert scores["root_error_mm"] == pytest.approx(50, abs=0.01)
    assert scores["root_relative_mpjpe_mm"] == pytest.approx(0, abs=0.01)
    # from view to view the error turns round: no displacement is taken across a seam
    assert scores["velocity_error_mm"] == pytest.approx(0, abs=0.01)
    assert scores["frames"] == 2 * 3 * 60
    assert {k: row["frames"] for k, row in scores["per_action"].items()} == {"walk": 180, "box": 180}
    assert scores["against"] == "truth"


def test_frames_in_which_a_view_sees_nobody_are_not_scored() -> None:
    made = two_actions()
    made[0].keypoints[1, 10:15] = (np.nan, np.nan, 0)
    (_, blind, _) = lift_views(truth_lift(made), made[0], FED)
    assert np.isnan(blind.predicted[10:15]).all()
    assert np.isfinite(np.delete(blind.predicted, range(10, 15), 0)).all()
    assert evaluate(truth_lift(made), made, FED)["frames"] == 2 * 3 * 60 - 5


def test_named_cameras_alone_are_lifted() -> None:
    made = two_actions()
    assert evaluate(truth_lift(made), made, FED, ("cam_03",))["frames"] == 2 * 60
    with pytest.raises(EdgeliftError, match="cam_09"):
        evaluate(truth_lift(made), made, FED, ("cam_09",))


def test_truth_and_triangulation_are_not_mixed() -> None:
    made = two_actions()
    lift = truth_lift(made)
    without = replace(made[1], poses=None)
    assert evaluate(lift, [without], FED)["against"] == "triangulation"
    with pytest.raises(EdgeliftError, match="some with true poses"):
        evaluate(lift, [made[0], without], FED)
