from __future__ import annotations

import numpy as np
import pytest

from edgelift.poses.skeletons import convert, skeleton
from edgelift.runtime.people import BELIEVE_S, Sides, Tracker, oks, swap_evidence

from .conftest import make_sessions

COMMON14 = skeleton("common14")


@pytest.fixture(scope="module")
def walk() -> np.ndarray:
    """(60, 14, 3) one person in one view, 20 frames a second."""
    keypoints: np.ndarray = make_sessions(1)[0].to_skeleton(COMMON14).keypoints[0]
    return keypoints


def shifted(person: np.ndarray, x: float) -> np.ndarray:
    moved: np.ndarray = person + np.array([x, 0, 0], np.float32)
    return moved


def mirrored(person: np.ndarray) -> np.ndarray:
    return person[..., list(COMMON14.mirror), :]


def test_similarity_is_one_with_oneself_and_falls_with_distance(walk: np.ndarray) -> None:
    moved = np.stack([shifted(walk[0], x) for x in (0, 20, 60, 400)])
    similar = oks(walk[:1], moved, COMMON14)[0]
    assert similar[0] == pytest.approx(1)
    assert (np.diff(similar) < 0).all()
    assert similar[-1] < 1e-3


def test_similarity_counts_the_joints_that_both_have(walk: np.ndarray) -> None:
    part, other = walk[:1].copy(), walk[:1].copy()
    part[0, :7] = other[0, 7:] = (np.nan, np.nan, 0)
    assert oks(walk[:1], part, COMMON14)[0, 0] == pytest.approx(1)
    assert oks(part, other, COMMON14)[0, 0] == 0


def test_people_keep_their_ids_in_any_order(walk: np.ndarray) -> None:
    tracker = Tracker(COMMON14)
    rng = np.random.default_rng(0)
    for frame in range(60):
        crowd = np.stack([shifted(walk[frame], 150 * k) for k in range(4)])
        order = rng.permutation(4)
        ids = tracker.assign(crowd[order], frame / 20)
        if frame == 0:
            names = {int(k): number for k, number in zip(order, ids, strict=True)}
        assert ids == tuple(names[int(k)] for k in order)


def test_who_leaves_comes_back_as_the_same_within_a_second_and_as_somebody_new_after(walk: np.ndarray) -> None:
    tracker, nobody = Tracker(COMMON14), walk[:0]
    [first] = tracker.assign(walk[:1], 0.0)
    tracker.assign(nobody, 0.5)
    assert tracker.assign(walk[:1], 0.9) == (first,)
    assert tracker.assign(walk[:1], 2.5) != (first,)


def test_a_runner_is_expected_where_they_run_to(walk: np.ndarray) -> None:
    tracker = Tracker(COMMON14)
    ids = {tracker.assign(shifted(walk[0], 40 * frame)[None], frame / 10) for frame in range(30)}
    assert ids == {(0,)}


def test_two_times_that_are_almost_one_do_not_throw_a_person_away(walk: np.ndarray) -> None:
    tracker, rng = Tracker(COMMON14), np.random.default_rng(0)
    noisy = walk[:3] + np.concatenate([rng.normal(0, 2, (3, 14, 2)), np.zeros((3, 14, 1))], -1).astype(np.float32)
    assert [tracker.assign(noisy[k : k + 1], at_s)[0] for k, at_s in enumerate((0.0, 0.0002, 0.033))] == [0, 0, 0]


def test_somebody_else_is_somebody_else(walk: np.ndarray) -> None:
    tracker = Tracker(COMMON14)
    tracker.assign(walk[:1], 0.0)
    assert tracker.assign(shifted(walk[:1], 600), 0.05) == (1,)


def test_a_detector_that_finds_somebody_new_in_every_frame_fills_no_memory(walk: np.ndarray) -> None:
    tracker = Tracker(COMMON14)
    numbers = [tracker.assign(shifted(walk[:1], 600 * k), k / 1000)[0] for k in range(500)]
    assert numbers == list(range(500))
    assert len(tracker.tracks) == 64


def test_evidence_of_a_swap_is_certain_both_ways(walk: np.ndarray) -> None:
    assert swap_evidence(walk[0], walk[0], COMMON14) == pytest.approx(-1)
    assert swap_evidence(walk[0], mirrored(walk[0]), COMMON14) == pytest.approx(1)


def test_side_on_nothing_can_be_told(walk: np.ndarray) -> None:
    flat = walk[0].copy()
    right = [j for j, name in enumerate(COMMON14.joints) if name.startswith("right_")]
    flat[right] = flat[[COMMON14.mirror[j] for j in right]]
    assert swap_evidence(flat, walk[1], COMMON14) == 0


def test_swapped_stretches_are_found_exactly(walk: np.ndarray) -> None:
    sides = Sides(COMMON14)
    truth = [10 <= frame < 20 or frame == 31 for frame in range(60)]
    found = [sides.swapped(mirrored(walk[f]) if truth[f] else walk[f], f / 20) for f in range(60)]
    assert found == truth


def test_a_half_exchanged_frame_does_not_turn_the_track(walk: np.ndarray) -> None:
    sides = Sides(COMMON14)
    half = walk[20].copy()
    legs = [j for j, name in enumerate(COMMON14.joints) if any(part in name for part in ("knee", "ankle", "left_hip"))]
    half[legs] = mirrored(walk[20])[legs]
    found = [sides.swapped(half if f == 20 else walk[f], f / 20) for f in range(40)]
    assert not any(found[21:])


def test_a_track_that_began_with_the_wrong_sides_gets_well(walk: np.ndarray) -> None:
    sides = Sides(COMMON14)
    found = [sides.swapped(mirrored(walk[f]) if f == 0 else walk[f], f / 20) for f in range(60)]
    assert found[1]
    last = max(f for f in range(60) if found[f])
    assert last / 20 == pytest.approx(BELIEVE_S, abs=0.11)


def test_the_real_swap_of_a_real_detector_is_found(shared) -> None:  # type: ignore[no-untyped-def]
    """MediaPipe exchanges the whole body in camera 2, frames 41 to 74, at visibility 0.986; nowhere else."""
    recorded = np.load(shared / "pose2sim" / "pose2sim_balancing_mediapipe.npz")
    keypoints = convert(recorded["keypoints_2d"].astype(np.float32), skeleton("mediapipe33"), COMMON14)
    for view in range(4):
        sides = Sides(COMMON14)
        found = [f for f in range(100) if sides.swapped(keypoints[view, f], f / 60)]
        if view == 1:
            assert min(found) == 41
            assert max(found) == 74
            assert len(found) >= 30
        else:
            assert found == []


def test_a_real_detector_without_swaps_is_left_alone(shared) -> None:  # type: ignore[no-untyped-def]
    recorded = np.load(shared / "pose2sim" / "pose2sim_balancing.npz")
    keypoints = convert(recorded["keypoints_2d"].astype(np.float32), skeleton("body25b"), COMMON14)
    for view in range(4):
        sides = Sides(COMMON14)
        assert not any(sides.swapped(keypoints[view, f], f / 60) for f in range(100))
