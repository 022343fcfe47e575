"""Clocks from people: offsets between views found, written, and gone when views are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelift.calibration.synchronise import Offsets, find_offsets
from edgelift.poses.cameras import project, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, clean_keypoints, load_session, load_sessions, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import studio_rig

from .conftest import wobbling_person
from .test_cli import as_json, refused

FPS = 60.0


def pose_at(seconds: np.ndarray) -> np.ndarray:
    """A person who sways, bobs and walks in a loop, at any moments: (moments, 17, 3)."""
    rest = wobbling_person(1, 0)[0].astype(np.float64)
    phase = np.random.default_rng(1).uniform(0, 2 * np.pi, (17, 3))
    rate = np.random.default_rng(2).uniform(3, 9, (17, 3))
    t = seconds[:, None, None]
    walk = np.stack([np.sin(0.9 * seconds), np.cos(0.7 * seconds), 0.08 * np.sin(5.3 * seconds + np.sin(seconds))], -1)
    return np.asarray(rest + 0.06 * np.sin(rate * t + phase) + 0.7 * walk[:, None] * [1, 1, 1])


def late(
    offsets: list[float], seconds: float = 4.0, noise_px: float = 2.0, drift: float = 0.0, pace: float = 1.0
) -> Session:
    """A session whose view v shows, at its time t, the world at t + offset; pace: of the person."""
    rig = studio_rig(len(offsets))
    times = np.arange(int(seconds * FPS)) / FPS
    rng = np.random.default_rng(0)
    views = []
    for view, (camera, offset) in enumerate(zip(rig, offsets, strict=True)):
        world = pose_at(pace * (times * (1 + drift * (view == 1)) + offset))
        pixels = project(world, camera) + noise_px * rng.standard_normal((*world.shape[:2], 2))
        shown = (rng.random(world.shape[:2]) > 0.05).astype(float)
        views.append(np.concatenate([pixels, shown[..., None]], -1))
    return Session(
        keypoints=clean_keypoints(np.stack(views)), timestamps=times, camera_names=tuple(c.name for c in rig),
        cameras=rig, skeleton=skeleton("h36m17"), time_offset_s=np.zeros(len(rig)), name="late",
    )  # fmt: skip


@pytest.fixture(scope="module")
def shifted() -> Session:
    return late([0.0, 0.3137, -0.2211])


@pytest.fixture(scope="module")
def found(shifted: Session) -> Offsets:
    return find_offsets(shifted)


def test_offsets_are_found_below_a_frame(found: Offsets) -> None:
    assert found.offset_s[0] == 0
    assert np.abs(found.offset_s - [0.0, 0.3137, -0.2211]).max() < 0.002
    assert (np.abs(found.offset_s - [0.0, 0.3137, -0.2211])[1:] < 4 * found.sd_s[1:]).all()
    assert found.residual_px[1] < 0.7 * found.residual_px[0]
    assert found.drift_ms_per_min is None


def test_slow_people_tell_less_and_the_doubt_says_so(found: Offsets) -> None:
    """Their speeds are lost in noise over a few frames: clocks then moved too little, and were called sure."""
    slow = find_offsets(late([0.0, 0.3137, -0.2211], seconds=8.0, pace=0.1))
    errors = np.abs(slow.offset_s - [0.0, 0.3137, -0.2211])[1:]
    assert (errors < 4 * slow.sd_s[1:]).all()
    assert (slow.sd_s[1:] > 2 * found.sd_s[1:]).all()
    assert errors.max() < 0.02


def test_stated_offsets_and_poses_of_cameras_are_not_read(shifted: Session, found: Offsets) -> None:
    told = replace(shifted, time_offset_s=np.array([0.0, 0.1, 0.2]), cameras=tuple(reversed_names(shifted)))
    assert np.array_equal(find_offsets(told).offset_s, found.offset_s)


def reversed_names(session: Session) -> list:  # type: ignore[type-arg]
    """The cameras with each other's poses."""
    poses = [(c.R, c.t) for c in session.rig][::-1]
    return [replace(c, R=R, t=t) for c, (R, t) in zip(session.rig, poses, strict=True)]


def test_offsets_are_found_without_lenses(shifted: Session, tmp_path: Path) -> None:
    bare = replace(shifted, cameras=None, image_sizes=tuple(c.size for c in shifted.rig))
    save_session(bare, tmp_path / "bare.npz")
    words = ["calibrate", "sync", str(tmp_path / "bare.npz"), "-o", str(tmp_path / "out")]
    assert "no intrinsics" in refused(*words)
    told = as_json(*words, "--estimate", "focal", "--json")["sessions"][0]
    assert np.abs(np.array(told["offset_ms"]) - [0.0, 313.7, -221.1]).max() < 3


def test_a_synchronised_session_triangulates_as_if_nothing_had_been(shifted: Session) -> None:
    mended = replace(shifted, time_offset_s=np.array([0.0, 0.3137, -0.2211]))
    points, residual = mended.triangulate()
    known = np.isfinite(points).all(-1)
    true = pose_at(shifted.timestamps)
    assert np.median(np.linalg.norm(points - true, axis=-1)[known]) < 0.012
    assert np.nanmedian(residual) < 2.5
    assert np.nanmedian(shifted.triangulate()[1]) > 8


def test_resampling_keeps_what_needs_none_and_marks_what_nobody_saw() -> None:
    session = late([0.0, 0.0], seconds=1.0)
    assert session.synchronised() is session
    whole = replace(session, time_offset_s=np.array([0.0, 2 / FPS])).synchronised()
    # the second view's frame i - 2 shows moment i: whole frames are moved, not mixed
    assert np.array_equal(whole.keypoints[1, 2:], session.keypoints[1, :-2], equal_nan=True)
    assert not (whole.keypoints[1, :2, :, 2] > 0).any()
    assert np.array_equal(whole.keypoints[0], session.keypoints[0], equal_nan=True)
    half = replace(session, time_offset_s=np.array([0.0, 0.5 / FPS])).synchronised()
    both = (session.keypoints[1, :-1, :, 2] > 0) & (session.keypoints[1, 1:, :, 2] > 0)
    mean = (session.keypoints[1, :-1] + session.keypoints[1, 1:]) / 2
    assert np.allclose(half.keypoints[1, 1:][both], mean[both], atol=1e-3)
    assert np.array_equal(half.keypoints[1, 1:, :, 2] > 0, both)
    gap = np.r_[session.timestamps[:30], session.timestamps[30:] + 1.0]
    torn = replace(session, timestamps=gap, time_offset_s=np.array([0.0, 0.5 / FPS])).synchronised()
    assert not (torn.keypoints[1, 30, :, 2] > 0).any()


def test_drift_is_told() -> None:
    found = find_offsets(late([0.0, 0.05, -0.1], seconds=42.0, drift=1e-3))
    assert found.drift_ms_per_min is not None
    assert found.drift_ms_per_min[1] == pytest.approx(60.0, abs=15.0)
    assert abs(found.drift_ms_per_min[2]) < 15.0


def test_the_command_writes_offsets_that_later_steps_use(shifted: Session, tmp_path: Path) -> None:
    save_session(shifted, tmp_path / "late.npz")
    facts = as_json("calibrate", "sync", tmp_path / "late.npz", "-o", tmp_path / "out")
    assert facts["sessions"][0]["offset_ms"] == pytest.approx([0, 313.7, -221.1], abs=2)
    written = load_session(tmp_path / "out" / "late.npz")
    assert np.allclose(written.time_offset_s * 1000, facts["sessions"][0]["offset_ms"], atol=1e-2)
    assert np.array_equal(written.keypoints, shifted.keypoints, equal_nan=True)
    loaded = load_sessions([tmp_path / "out"])[0]
    assert not loaded.time_offset_s.any()
    assert np.nanmedian(triangulate(loaded.keypoints, loaded.rig)[1]) < 2.5
    assert "another directory" in refused("calibrate", "sync", tmp_path / "late.npz", "-o", tmp_path)
    assert "time" in refused("calibrate", "sync", tmp_path / "late.npz", "-o", tmp_path / "x", "--farthest", "soon")


def test_joints_that_a_view_never_shows_change_nothing(shifted: Session) -> None:
    keypoints = shifted.keypoints.copy()
    keypoints[1, :, 10] = (np.nan, np.nan, 0)
    keypoints[:, :, 13] = (np.nan, np.nan, 0)
    found = find_offsets(replace(shifted, keypoints=keypoints))
    assert np.abs(found.offset_s - [0.0, 0.3137, -0.2211]).max() < 0.002


def test_a_recording_of_few_frames_is_refused() -> None:
    with pytest.raises(EdgeliftError, match="30 frames"):
        find_offsets(late([0.0, 0.1], seconds=0.5))


def test_views_that_never_meet_are_refused() -> None:
    session = late([0.0, 0.0], seconds=2.0)
    keypoints = session.keypoints.copy()
    keypoints[1] = (np.nan, np.nan, 0)
    with pytest.raises(EdgeliftError, match="never move together"):
        find_offsets(replace(session, keypoints=keypoints))
