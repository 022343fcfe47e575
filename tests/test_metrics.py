import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses import metrics
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import SKELETONS, skeleton

Float64 = NDArray[np.float64]
H36M = skeleton("h36m17")
ROOT = H36M.root


def random_poses(frames: int = 20, seed: int = 0) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(frames, 17, 3)) * 0.4 + [1.0, -2.0, 5.0]
    return truth + rng.normal(size=truth.shape) * 0.1, truth


def random_rotation(rng: np.random.Generator) -> Float64:
    Q: Float64 = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    Q[:, 0] *= np.linalg.det(Q)
    return Q


def slow_p_mpjpe(predicted: Float64, truth: Float64) -> float:
    """One frame after the other, the proper rotation found by trying both signs of every axis."""
    errors: list[float] = []
    for p, t in zip(predicted, truth, strict=True):
        known = np.isfinite(p).all(1) & np.isfinite(t).all(1)
        if known.sum() < 3:
            continue
        p, t = p[known], t[known]
        p0, t0 = p - p.mean(0), t - t.mean(0)
        U, _, Vt = np.linalg.svd(p0.T @ t0)
        fits = []
        for signs in np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T:
            R = U @ np.diag(signs) @ Vt
            if np.linalg.det(R) > 0:
                s = max(((p0 @ R) * t0).sum() / (p0**2).sum(), 0)
                fits.append(s * p0 @ R + t.mean(0))
        best = min(fits, key=lambda fit: float(((fit - t) ** 2).sum()))
        errors += [math.dist(a, b) * 1000 for a, b in zip(best, t, strict=True)]
    return float(np.mean(errors))


def test_golden_numbers() -> None:
    truth = np.zeros((1, 2, 3))
    truth[0, 1] = [0, 0, 1]
    predicted = truth + np.array([0.003, 0.004, 0])  # both joints 5 mm off
    predicted[0, 1] += [0, 0, 0.012]  # and one 12 mm more, at right angles
    np.testing.assert_allclose(metrics.joint_errors(predicted, truth), [[5, 13]], atol=1e-9)
    assert metrics.mpjpe(predicted, truth) == pytest.approx(9)
    assert metrics.root_relative_mpjpe(predicted, truth, 0) == pytest.approx(6)
    assert metrics.root_error(predicted, truth, 0) == pytest.approx(5)
    assert metrics.mixed_mpjpe(predicted, truth, 0) == pytest.approx((5 + 12) / 2)


def test_golden_scale() -> None:
    truth = np.array([[[0.0, 0, 0], [0, 0, 1], [0, 1, 0]]])
    predicted = np.array([[[0.0, 0, 0], [0, 0, 1], [0, 2, 0]]])
    # s = (1 * 1 + 2 * 1) / (1 + 4) = 0.6: errors 0, 0.4 and 0.2 m
    assert metrics.n_mpjpe(predicted, truth, 0) == pytest.approx(200)


def test_golden_pck_and_its_threshold() -> None:
    truth = np.zeros((1, 4, 3))
    predicted = truth.copy()
    predicted[0, :, 0] = [0, 0.149, 0.151, 0.4]
    assert metrics.pck(predicted, truth, 0) == 0.5
    assert metrics.pck(predicted, truth, 0, threshold_mm=200) == 0.75


def test_golden_velocity() -> None:
    truth = np.zeros((4, 1, 3))
    predicted = np.array([0.0, 0.010, 0.010, 0.040])[:, None, None] * np.array([1.0, 0, 0])
    assert metrics.velocity_error(predicted, truth) == pytest.approx(40 / 3)
    assert metrics.velocity_error(predicted + 7, truth) == pytest.approx(40 / 3)
    assert metrics.velocity_error(predicted, truth, np.array([0, 0, 0, 1])) == pytest.approx(5)
    predicted[1] = np.nan
    assert metrics.velocity_error(predicted, truth) == pytest.approx(30)  # only the last pair is whole


def test_vectorised_procrustes_is_the_slow_loop() -> None:
    predicted, truth = random_poses()
    predicted[3, 5] = np.nan
    truth[4, 2:] = np.nan  # two joints left: not aligned
    predicted[7] *= [1, 1, -1]
    assert metrics.p_mpjpe(predicted, truth) == pytest.approx(slow_p_mpjpe(predicted, truth), abs=1e-6)


def test_p_mpjpe_removes_any_similarity() -> None:
    _, truth = random_poses()
    rng = np.random.default_rng(1)
    moved = np.stack([rng.uniform(0.2, 5) * pose @ random_rotation(rng) + rng.normal(size=3) for pose in truth])
    assert metrics.p_mpjpe(moved, truth) < 1e-6
    assert metrics.mpjpe(moved, truth) > 100


def test_p_mpjpe_does_not_remove_a_reflection() -> None:
    _, truth = random_poses()
    assert metrics.p_mpjpe(truth * [-1, 1, 1], truth) > 50


def test_p_mpjpe_of_a_collapsed_prediction_is_the_spread_of_truth() -> None:
    _, truth = random_poses()
    expected = np.linalg.norm(truth - truth.mean(1, keepdims=True), axis=-1).mean() * 1000
    assert metrics.p_mpjpe(np.zeros_like(truth), truth) == pytest.approx(expected)


def test_invariances_of_scale_and_translation() -> None:
    predicted, truth = random_poses()
    shift = np.random.default_rng(2).normal(size=(len(truth), 1, 3))
    relative = metrics.root_relative_mpjpe(predicted, truth, ROOT)
    assert metrics.root_relative_mpjpe(predicted + shift, truth, ROOT) == pytest.approx(relative)
    normalised = metrics.n_mpjpe(predicted, truth, ROOT)
    assert metrics.n_mpjpe(3.7 * predicted + shift, truth, ROOT) == pytest.approx(normalised)
    assert metrics.p_mpjpe(predicted, truth) < metrics.mpjpe(predicted, truth)


def test_scale_is_the_least_squares_one() -> None:
    predicted, truth = (metrics.root_relative(x, ROOT) for x in random_poses())
    best = ((metrics.scale_align(predicted, truth) - truth) ** 2).sum((1, 2))
    for factor in (0.99, 1.01):
        worse = ((metrics.scale_align(predicted, truth) * factor - truth) ** 2).sum((1, 2))
        assert (worse > best).all()


def test_unknown_joints_are_left_out_of_every_mean() -> None:
    predicted, truth = random_poses()
    errors = metrics.joint_errors(predicted, truth)
    predicted[0, 3], truth[1, 4, 1], truth[2] = np.nan, np.nan, np.nan
    errors[0, 3] = errors[1, 4] = np.nan
    errors[2] = np.nan
    np.testing.assert_array_equal(metrics.joint_errors(predicted, truth), errors)
    assert metrics.mpjpe(predicted, truth) == pytest.approx(float(np.nanmean(errors)))


def test_a_frame_without_its_root_has_no_relative_error() -> None:
    predicted, truth = random_poses(2)
    first = metrics.root_relative_mpjpe(predicted[:1], truth[:1], ROOT)
    predicted[1, ROOT] = np.nan
    assert metrics.root_relative_mpjpe(predicted, truth, ROOT) == pytest.approx(first)


@pytest.mark.parametrize(("known", "counted"), [(2, False), (3, True)])
def test_aligned_metrics_need_three_joints(known: int, counted: bool) -> None:
    predicted, truth = random_poses(1)
    predicted[:, known:] = np.nan
    assert math.isfinite(metrics.p_mpjpe(predicted, truth)) is counted
    assert math.isfinite(metrics.n_mpjpe(predicted, truth, ROOT)) is counted
    assert math.isfinite(metrics.mpjpe(predicted, truth))


def sitting_pose() -> Float64:
    """Trunk upright, thighs forward, shanks down, left elbow straight, right elbow at a right angle."""
    points = {
        "shoulder": [0, 0, 1.5],
        "hip": [0, 0, 1.0],
        "knee": [0.5, 0, 1.0],
        "ankle": [0.5, 0, 0.5],
        "elbow": [0, 0, 1.2],
        "wrist": [0, 0, 0.9],
    }
    pose = np.zeros((1, 17, 3))
    for side in ("left", "right"):
        for joint, xyz in points.items():
            pose[0, H36M.joints.index(f"{side}_{joint}")] = xyz
    pose[0, H36M.joints.index("right_wrist")] = [0.3, 0, 1.2]
    return pose


def test_flexion_of_right_angles() -> None:
    angles = {name: float(value[0]) for name, value in metrics.flexion_angles(sitting_pose(), H36M).items()}
    assert angles == pytest.approx(
        {"left_knee": 90, "right_knee": 90, "left_hip": 90, "right_hip": 90, "left_elbow": 0, "right_elbow": 90},
        abs=1e-9,
    )


def test_flexion_error_is_the_mean_of_both_sides() -> None:
    truth = sitting_pose()
    predicted = truth.copy()
    predicted[0, H36M.joints.index("right_wrist")] = [0, 0, 0.9]  # straightened: 90 degrees off, the left one right
    errors = metrics.flexion_error_deg(predicted, truth, H36M)
    assert errors == pytest.approx({"knee": 0, "hip": 0, "elbow": 45}, abs=1e-9)
    truth[0, H36M.joints.index("left_wrist")] = np.nan
    assert metrics.flexion_error_deg(predicted, truth, H36M)["elbow"] == pytest.approx(90)


def test_a_limb_without_length_has_no_angle() -> None:
    pose = sitting_pose()
    pose[0, H36M.joints.index("left_knee")] = pose[0, H36M.joints.index("left_hip")]
    assert math.isnan(metrics.flexion_angles(pose, H36M)["left_knee"][0])


@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_has_the_flexion_joints(name: str) -> None:
    owner = skeleton(name)
    truth = np.random.default_rng(0).normal(size=(3, len(owner.joints), 3))
    angles = metrics.flexion_angles(truth, owner)
    assert all(value.shape == (3,) and ((value >= 0) & (value <= 180)).all() for value in angles.values())
    assert metrics.score(truth, truth, owner).mpjpe_mm == 0


def test_score_agrees_with_each_metric_and_is_json() -> None:
    predicted, truth = random_poses()
    actions = np.array(["walk"] * 12 + ["box"] * 8)
    sequence = np.repeat([0, 1], [12, 8])
    truth[0] = np.nan
    scores = metrics.score(predicted, truth, H36M, sequence, actions).to_dict()
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert list(scores) == [
        "mpjpe_mm", "root_relative_mpjpe_mm", "p_mpjpe_mm", "n_mpjpe_mm", "root_error_mm", "pck150",
        "velocity_error_mm", "mixed_mpjpe_mm", "flexion_error_deg", "frames", "per_joint_mm", "per_action",
    ]  # fmt: skip
    assert scores["mpjpe_mm"] == metrics.mpjpe(predicted, truth)
    assert scores["root_relative_mpjpe_mm"] == metrics.root_relative_mpjpe(predicted, truth, ROOT)
    assert scores["p_mpjpe_mm"] == pytest.approx(metrics.p_mpjpe(predicted, truth))
    assert scores["n_mpjpe_mm"] == metrics.n_mpjpe(predicted, truth, ROOT)
    assert scores["mixed_mpjpe_mm"] == metrics.mixed_mpjpe(predicted, truth, ROOT)
    assert scores["velocity_error_mm"] == metrics.velocity_error(predicted, truth, sequence)
    assert scores["frames"] == 19
    assert scores["per_joint_mm"]["pelvis"] == 0
    assert np.mean(list(scores["per_joint_mm"].values())) == pytest.approx(scores["root_relative_mpjpe_mm"])
    assert scores["per_action"]["walk"]["frames"] == 11
    assert scores["per_action"]["box"] == {
        "mpjpe_mm": pytest.approx(metrics.mpjpe(predicted[12:], truth[12:])),
        "root_relative_mpjpe_mm": pytest.approx(metrics.root_relative_mpjpe(predicted[12:], truth[12:], ROOT)),
        "p_mpjpe_mm": pytest.approx(metrics.p_mpjpe(predicted[12:], truth[12:])),
        "frames": 8,
    }


def test_velocity_is_not_taken_across_a_seam() -> None:
    _, truth = random_poses(10)
    predicted = truth.copy()
    predicted[5:] += 3.0  # a jump that only the seam sees
    sequence = np.repeat([0, 1], 5)
    assert metrics.score(predicted, truth, H36M).velocity_error_mm > 100
    assert metrics.score(predicted, truth, H36M, sequence).velocity_error_mm < 1e-9


def test_what_nothing_is_known_of_is_null() -> None:
    predicted, truth = random_poses(1)
    truth[:, ROOT] = np.nan
    scores = metrics.score(predicted, truth, H36M).to_dict()
    assert json.dumps(scores, allow_nan=False)
    assert scores["root_error_mm"] is scores["velocity_error_mm"] is scores["per_joint_mm"]["pelvis"] is None
    assert scores["mpjpe_mm"] > 0
    assert scores["per_action"] == {}


def test_mistakes_are_told() -> None:
    predicted, truth = random_poses()
    with pytest.raises(EdgeliftError, match="without a joint known"):
        metrics.score(predicted, truth * np.nan, H36M)
    with pytest.raises(EdgeliftError, match="timeline"):
        metrics.mpjpe(predicted[1:], truth)
    with pytest.raises(EdgeliftError, match="h36m17"):
        metrics.score(predicted[:, :14], truth[:, :14], H36M)
    with pytest.raises(EdgeliftError, match="sequence"):
        metrics.score(predicted, truth, H36M, np.zeros(3, int))
    with pytest.raises(EdgeliftError, match="actions"):
        metrics.score(predicted, truth, H36M, None, np.array(["walk"]))
