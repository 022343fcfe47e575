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
from edgelift.trainer.refresh import best_explained


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
    assert all(walk.camera_names[view] in finding.what for view in pair)


def test_a_turned_camera_is_told_apart_from_a_late_one(walk: Session) -> None:
    [finding] = best_explained(turned(walk, 1.5)) or check_cameras([turned(walk, 1.5)])
    assert "do not fit" in finding.what
    [finding] = best_explained(late(walk, 1, 9))
    assert "not synchronised" in finding.what


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
    strangers = tuple(replace(c, name=f"other{k}") for k, c in enumerate(walk.rig))
    assert compare_rigs(scaled(walk, 0.9), [strangers]) == []


def test_another_build_is_told_and_another_unit_refused(walk: Session) -> None:
    own = bone_lengths(walk.triangulate()[0], walk.skeleton)
    [finding] = compare_build([walk], own / 1.15)
    assert not finding.refused
    assert "another build" in finding.what
    [finding] = compare_build([walk], own / 3.28)
    assert finding.refused
    assert "unit" in finding.what
