"""What is wrong with sessions is found by the keypoints alone, and told with the figure that mends it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgelift.calibration.soundness import (
    bone_lengths,
    compare_build,
    compare_rigs,
    examine,
    find_exchanged,
    find_shifts,
    residual_rad,
)
from edgelift.poses.person import clips
from edgelift.poses.sessions import Session
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.trainer.learn_cameras import check_cameras
from edgelift.trainer.refresh import best_explained, trimmed


@pytest.fixture(scope="module")
def walk() -> Session:
    settings = StudioSettings(30.0, 12.0, 3.0, "detector", 0.05)
    return next(s for s in film(clips(12.0, 60.0, 1, 5), studio_rig(4), settings) if "walk" in s.action)


def late(session: Session, view: int, frames: int) -> Session:
    keypoints = session.keypoints.copy()
    keypoints[view, :frames] = (np.nan, np.nan, 0)
    keypoints[view, frames:] = session.keypoints[view, :-frames]
    return replace(session, keypoints=keypoints)


def turned(session: Session, degrees: float) -> Session:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    camera = session.rig[0]
    return replace(session, cameras=(replace(camera, R=R @ camera.R, t=R @ camera.t), *session.rig[1:]))


def scaled(session: Session, factor: float) -> Session:
    return replace(session, cameras=tuple(replace(c, t=c.t * factor) for c in session.rig))


def test_a_sound_session_is_found_no_fault_with(walk: Session) -> None:
    assert examine(walk) == []
    assert check_cameras([walk]) == []
    assert compare_rigs(walk, [walk.rig]) == []
    assert compare_build([walk], bone_lengths(walk.triangulate()[0], walk.skeleton)) == []


@pytest.mark.parametrize(("view", "frames"), [(0, 3), (1, 9), (3, 21)])
def test_a_late_view_is_found_with_its_shift(walk: Session, view: int, frames: int) -> None:
    found = find_shifts(late(walk, view, frames))
    assert set(found) == {walk.camera_names[view]}
    assert found[walk.camera_names[view]] == pytest.approx(frames / 30, abs=0.021)
    [finding] = examine(late(walk, view, frames))
    assert finding.refused
    assert walk.camera_names[view] in finding.what


def test_an_early_view_has_a_shift_below_zero(walk: Session) -> None:
    keypoints = walk.keypoints.copy()
    keypoints[2, :-12] = walk.keypoints[2, 12:]
    keypoints[2, -12:] = (np.nan, np.nan, 0)
    found = find_shifts(replace(walk, keypoints=keypoints))
    assert found == {walk.camera_names[2]: pytest.approx(-0.4, abs=0.021)}


def test_two_late_views_of_four_are_both_found(walk: Session) -> None:
    found = find_shifts(late(late(walk, 0, 6), 2, 12))
    assert found == {
        walk.camera_names[0]: pytest.approx(0.2, abs=0.03), walk.camera_names[2]: pytest.approx(0.4, abs=0.03),
    }  # fmt: skip


@pytest.mark.parametrize("pair", [(0, 1), (1, 3)])
def test_exchanged_names_are_found_by_pair(walk: Session, pair: tuple[int, int]) -> None:
    order = [0, 1, 2, 3]
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    swapped = replace(walk, keypoints=walk.keypoints[order])
    keypoints = swapped.keypoints.astype(np.float64)
    assert find_exchanged(keypoints, walk.rig, residual_rad(keypoints, walk.rig)) == pair
    [finding] = examine(swapped)
    assert "look exchanged" in finding.what  # this rig is symmetric: which pair it is, few points tell by chance


def test_a_turned_camera_is_told_apart_from_a_late_one(walk: Session) -> None:
    [finding] = best_explained(turned(walk, 1.5)) or check_cameras([turned(walk, 1.5)])
    assert "do not fit" in finding.what
    [finding] = best_explained(late(walk, 1, 9))
    assert "not synchronised" in finding.what


def test_a_camera_bumped_between_two_takes_is_found_beside_the_good_one(walk: Session) -> None:
    good = replace(walk, name="good")
    bumped = replace(turned(walk, 1.0), name="bumped")
    found = check_cameras([good, bumped])
    assert [finding.session for finding in found] == ["bumped"]
    assert check_cameras([good, replace(good, name="again")]) == []


def test_cameras_that_are_to_be_learnt_are_not_held_against_a_session(walk: Session) -> None:
    assert best_explained(turned(walk, 2.0), "all") == []
    assert best_explained(late(walk, 1, 9), "all") != []


def test_what_was_recorded_beside_the_person_changes_nothing(walk: Session) -> None:
    """Twelve seconds of somebody in five minutes: what is examined is drawn from what is known."""
    empty = np.full((4, 9000, *walk.keypoints.shape[2:]), np.nan, np.float32)
    empty[..., 2] = 0
    empty[:, 4000:4360] = late(walk, 1, 9).keypoints
    long = replace(walk, keypoints=empty, timestamps=np.arange(9000) / 30, poses=None)
    assert find_shifts(long) == {walk.camera_names[1]: pytest.approx(0.3, abs=0.021)}
    assert len(trimmed(long).timestamps) == 360
    rare = replace(long, keypoints=np.where(np.arange(9000)[:, None, None] < 4010, empty, np.float32(0)))
    assert check_cameras([rare]) == []  # too little to say anything
    hidden = walk.keypoints.copy()
    hidden[:, :, walk.skeleton.root] = (0, 0, 0)
    assert examine(replace(walk, keypoints=hidden)) == []


def test_no_cameras_and_offsets_in_time_are_found(walk: Session) -> None:
    assert "two calibrated views" in examine(replace(walk, cameras=None))[0].what
    assert "two calibrated views" in examine(walk.only([0]))[0].what
    assert "time_offset_s" in examine(replace(walk, time_offset_s=np.array([0, 0.1, 0, 0])))[0].what


def test_too_little_to_see_is_refused(walk: Session) -> None:
    keypoints = walk.keypoints.copy()
    keypoints[np.random.default_rng(0).random(keypoints.shape[:-1]) < 0.9] = (np.nan, np.nan, 0)
    [finding] = examine(replace(walk, keypoints=keypoints))
    assert finding.refused
    assert "missing" in finding.what
    assert examine(walk.during(slice(0, 30)))[0].refused
    nobody = replace(walk, keypoints=np.zeros_like(walk.keypoints))
    assert "100%" in examine(nobody)[0].what


def test_a_rig_of_another_size_is_refused_and_another_rig_is_not(walk: Session) -> None:
    for factor in (0.9, 1.05):
        [finding] = compare_rigs(scaled(walk, factor), [walk.rig])
        assert finding.refused
        assert f"{factor:.3f}" in finding.what
    assert compare_rigs(turned(scaled(walk, 0.9), 10.0), [walk.rig]) == []
    others = replace(walk, cameras=studio_rig(4, 5.5))
    assert compare_rigs(others, [walk.rig]) == []  # moved, and turned to look at the same place
    assert compare_rigs(scaled(walk, 0.9), [walk.rig, scaled(walk, 0.9).rig]) == []  # a known one
    two = scaled(walk, 0.9).only([0, 1])
    assert compare_rigs(two, [walk.rig]) == []  # one distance has no form
    strangers = tuple(replace(c, name=f"other{k}") for k, c in enumerate(walk.rig))
    assert compare_rigs(scaled(walk, 0.9), [strangers]) == []


def test_another_build_is_told_and_another_unit_refused(walk: Session) -> None:
    own = bone_lengths(walk.triangulate()[0], walk.skeleton)
    [finding] = compare_build([walk], own / 1.15)
    assert not finding.refused
    assert "another build" in finding.what
    found = compare_build([walk, replace(walk, name="second")], own / 3.28)
    assert [finding.session for finding in found] == [walk.name, "second"]
    assert all(finding.refused and "unit" in finding.what for finding in found)
