"""The gate: what is better passes, what is not, or has forgotten something, does not."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.windows import LifterInput
from edgelift.runtime.evaluate import Lift
from edgelift.trainer.gate import LEAST_BLOCKS, judge

from .conftest import make_sessions

FED = LifterInput(skeleton("common14"), "rays", 1)
Float32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def held_out() -> list[Session]:
    return [s.to_skeleton(FED.skeleton) for s in make_sessions(4, frames=80, noise_px=2.0)]


@pytest.fixture(scope="module")
def reference(held_out: list[Session]) -> dict[str, Float32]:
    """Every fourth frame of every view, with the truth."""
    parts: dict[str, list[Float32]] = {"keypoints": [], "intrinsics": [], "poses": []}
    for session in held_out:
        for view, camera in enumerate(session.rig):
            assert session.poses is not None
            windows = FED.windows(session, view)[::4]
            parts["keypoints"].append(windows)
            parts["intrinsics"].append(np.tile(FED.intrinsics(camera, camera.size), (len(windows), 1)))
            parts["poses"].append(world_to_camera(session.poses[::4], camera).astype(np.float32))
    return {name: np.concatenate(rows) for name, rows in parts.items()}


def erring(sessions: list[Session], error_m: Callable[[int], float], seed: int = 0) -> Lift:
    """A lifter that knows the truth, and errs by so much: per session, by the order in which windows are asked for."""
    rng = np.random.default_rng(seed)
    truth = {}
    for number, session in enumerate(sessions):
        for view, camera in enumerate(session.rig):
            assert session.poses is not None
            poses = world_to_camera(session.poses, camera)
            for window, pose in zip(FED.windows(session, view), poses, strict=True):
                truth[window.tobytes()] = (pose, number)

    def lift(windows: Float32, intrinsics: Float32) -> Float32:
        known = [truth[window.tobytes()] for window in windows]
        errors = np.array([error_m(number) for _, number in known])[:, None, None]
        poses = np.stack([pose for pose, _ in known])
        return (poses + errors * rng.standard_normal(poses.shape)).astype(np.float32)

    return lift


def test_the_better_one_is_published(held_out: list[Session], reference: dict[str, Float32]) -> None:
    verdict = judge(erring(held_out, lambda n: 0.10), erring(held_out, lambda n: 0.05, 1), held_out, reference, FED)
    assert verdict.publish, verdict.reasons
    assert set(verdict.measures) == {"reprojection_px", "triangulation_mm", "bones_mm", "reference_mm"}
    for name in ("reprojection_px", "triangulation_mm", "reference_mm"):
        measure = verdict.measures[name]
        assert measure.interval[0] < measure.ratio < measure.interval[1] < 0.75
    expected = 1000 * 0.05 * np.sqrt(8 / np.pi)  # mean length of a normal error in space
    relative = 1000 * 0.05 * np.sqrt(2) * np.sqrt(8 / np.pi)
    assert verdict.measures["reference_mm"].candidate == pytest.approx((13 * relative + expected) / 14, rel=0.05)
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_an_equal_one_is_refused(held_out: list[Session], reference: dict[str, Float32]) -> None:
    verdict = judge(erring(held_out, lambda n: 0.08), erring(held_out, lambda n: 0.08, 1), held_out, reference, FED)
    assert not verdict.publish
    assert all(abs(m.ratio - 1) < 0.03 for m in verdict.measures.values())


def test_a_gain_that_rests_on_one_moment_is_not_certain(held_out: list[Session], reference: dict[str, Float32]) -> None:
    # one session of four is much better, the others a little worse: the mean is better, and proves nothing
    lucky = erring(held_out, lambda n: 0.05 if n == 0 else 0.112, 1)
    verdict = judge(erring(held_out, lambda n: 0.10), lucky, held_out, reference, FED)
    assert verdict.measures["reprojection_px"].ratio < 1 < verdict.measures["reprojection_px"].interval[1]
    assert not verdict.publish


def test_one_that_forgets_is_refused(held_out: list[Session], reference: dict[str, Float32]) -> None:
    site = held_out[:2]
    half = len(reference["keypoints"]) // 2
    elsewhere = {name: rows[half:] for name, rows in reference.items()}
    base = erring(held_out, lambda n: 0.08)
    forgetful = erring(held_out, lambda n: 0.02 if n < 2 else 0.10, 1)
    verdict = judge(base, forgetful, site, elsewhere, FED)
    assert [reason.partition(":")[0] for reason in verdict.reasons] == ["error on the reference set"]
    mindful = erring(held_out, lambda n: 0.02 if n < 2 else 0.07, 2)
    assert judge(base, mindful, site, elsewhere, FED).publish


def test_poses_that_are_not_finite_do_not_count_as_better(
    held_out: list[Session], reference: dict[str, Float32]
) -> None:
    good = erring(held_out, lambda n: 0.02, 1)

    def partly(windows: Float32, intrinsics: Float32) -> Float32:
        poses = good(windows, intrinsics)
        poses[-len(poses) // 5 :] = np.nan
        return poses

    verdict = judge(erring(held_out, lambda n: 0.10), partly, held_out, reference, FED)
    assert "not finite" in verdict.reasons[0]


def test_little_to_judge_by_is_told(held_out: list[Session], reference: dict[str, Float32]) -> None:
    short = [held_out[0].during(slice(0, 20 * (LEAST_BLOCKS - 1)))]
    verdict = judge(erring(held_out, lambda n: 0.1), erring(held_out, lambda n: 0.01), short, reference, FED)
    assert verdict.reasons == (f"{LEAST_BLOCKS - 1} s are held out to judge by, at least {LEAST_BLOCKS} s are needed",)
    assert not judge(erring(held_out, lambda n: 0.1), erring(held_out, lambda n: 0.01), [], reference, FED).publish


def test_without_a_third_view_or_known_poses_the_rest_decides(
    held_out: list[Session], reference: dict[str, Float32]
) -> None:
    pair = [session.only((0, 1)) for session in held_out]
    unknown = reference | {"poses": np.full_like(reference["poses"], np.nan)}
    verdict = judge(erring(held_out, lambda n: 0.1), erring(held_out, lambda n: 0.05), pair, unknown, FED)
    assert set(verdict.measures) == {"reprojection_px", "bones_mm"}
    assert verdict.publish
