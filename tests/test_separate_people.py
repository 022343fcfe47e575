"""Who is who across views: scenes of benchmarks/calibration/people.py, and small ones made for one difficulty each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, Float64, project
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.motion import Clip, load_motion
from edgelift.poses.people import separate_people
from edgelift.poses.recordings import Recording, View, choose_person
from edgelift.poses.rigs import match_views, read_rig
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import rig_middle, studio_rig

from .conftest import wobbling_person

FPS = 20.0
FRAMES = 100
MISSING = np.array([np.nan, np.nan, 0], np.float32)
RIG = studio_rig(4, distance_m=6.0)


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Benchmarks are scripts beside one another."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks" / "calibration"))
    yield import_module("people")
    sys.modules.pop("people", None)


def _walker(seed: int, start: tuple[float, float], end: tuple[float, float], frames: int = FRAMES) -> Float64:
    """(frames, joints, 3) world metres: somebody who walks straight from one place on the floor to another."""
    way = np.linspace([*start, 0.0], [*end, 0.0], frames)
    return np.asarray(wobbling_person(frames, seed).astype(np.float64) + way[:, None])


def _see(world: Float64, camera: Camera, whose: int) -> NDArray[np.float32]:
    """(frames, joints, 3) with 2 px noise; the confidence says whose it is."""
    xy = project(world, camera) + np.random.default_rng([whose, 7]).normal(0, 2, (*world.shape[:-1], 2))
    return np.concatenate([xy, np.full_like(xy[..., :1], 0.9 - whose / 10)], -1).astype(np.float32)


def _recording(
    seen: NDArray[np.float32], there: NDArray[np.bool_], rig: tuple[Camera, ...] = RIG, name: str = "scene"
) -> Recording:
    """Of seen (people, views, frames, joints, 3), those who are there (people, views, frames), in shuffled order."""
    rng = np.random.default_rng(3)
    views = []
    for v, camera in enumerate(rig[: seen.shape[1]]):
        present = [np.flatnonzero(there[:, v, t]) for t in range(seen.shape[2])]
        rows = [seen[rng.permutation(own), v, t] for t, own in enumerate(present)]
        views.append(View(camera.name, np.arange(len(rows)) / FPS, rows))
    return Recording(tuple(views), skeleton("h36m17"), name)


def _scene(worlds: list[Float64], rig: tuple[Camera, ...] = RIG) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    seen = np.stack([[_see(world, camera, k) for camera in rig] for k, world in enumerate(worlds)])
    return seen, np.ones(seen.shape[:3], bool)


def _sessions(recording: Recording, cameras: tuple[Camera, ...] = RIG) -> list[Session]:
    return [session for session, _ in separate_people(recording, cameras)]


def _assert_is(session: Session, seen: NDArray[np.float32], there: NDArray[np.bool_]) -> None:
    """The session has all of seen (views, frames, joints, 3) that is there (views, frames), and nothing else."""
    expected = np.where(there[..., None, None], seen, MISSING)
    frames = np.rint(session.timestamps * FPS).astype(int)
    np.testing.assert_array_equal(session.keypoints, expected[:, frames])
    outside = np.delete(there, frames, axis=1)
    assert (outside.sum(0) < 2).all()


CROSSING = [_walker(0, (-1.5, -0.3), (1.5, -0.3)), _walker(1, (1.5, 0.3), (-1.5, 0.3)), _walker(2, (0, 1.4), (0, -1.5))]


def test_people_who_cross_become_one_session_each_in_the_order_of_their_time() -> None:
    seen, there = _scene(CROSSING)
    there[1, :, 90:] = there[0, :, 70:] = False
    sessions = _sessions(_recording(seen, there))
    assert [session.name for session in sessions] == ["scene_1", "scene_2", "scene_3"]
    for session, k in zip(sessions, (2, 1, 0), strict=True):
        _assert_is(session, seen[k], there[k])
        assert session.camera_names == tuple(camera.name for camera in RIG)
    assert [len(session.timestamps) for session in sessions] == [100, 90, 70]


def test_the_order_of_views_and_people_does_not_matter() -> None:
    recording = _recording(*_scene(CROSSING))
    mixed = tuple(View(v.name, v.timestamps, [p[::-1] for p in v.people]) for v in recording.views[::-1])
    again = _sessions(Recording(mixed, recording.skeleton, "scene"), RIG[::-1])
    found = {float(s.keypoints[..., 2].max()): s.keypoints for s in _sessions(recording)}
    assert len(found) == len(again) == 3
    for session in again:
        np.testing.assert_array_equal(session.keypoints[::-1], found[float(session.keypoints[..., 2].max())])


def test_a_track_that_changes_to_another_person_midway_is_cut_there() -> None:
    """One view sees two people in one line: until frame 50 only the one, then only the other, a step of 6 cm away."""
    toward = RIG[0].centre[:2] / np.linalg.norm(RIG[0].centre[:2])
    still = _walker(0, (0, 0), (0, 0))
    behind = still - 0.9 * np.array([*toward, 0])
    seen, there = _scene([still, behind])
    there[0, 0, 50:] = there[1, 0, :50] = False
    jump = np.linalg.norm(seen[1, 0, 50, :, :2] - seen[0, 0, 49, :, :2], axis=-1)
    height = np.ptp(seen[0, 0, 49, :, 1])
    assert np.median(jump) < 0.1 * height  # nobody who sees this view alone would notice
    sessions = _sessions(_recording(seen, there))
    assert len(sessions) == 2
    for session, k in zip(sorted(sessions, key=lambda s: -float(s.keypoints[..., 2].max())), (0, 1), strict=True):
        _assert_is(session, seen[k], there[k])


def test_a_view_that_disagrees_is_missing_in_those_frames() -> None:
    seen, there = _scene(CROSSING[:1])
    seen[0, 2, 40:45, :, 0] += 150
    there[0, 3, 60] = False
    (session,) = _sessions(_recording(seen, there))
    there[0, 2, 40:45] = False
    _assert_is(session, seen[0], there[0])


def test_two_views_that_disagree_make_no_frame() -> None:
    seen, there = _scene(CROSSING[:1])
    seen, there = seen[:, :2], there[:, :2]
    seen[0, 1, 40:45, :, 1] += 150
    there[0, 1, 60] = False
    (session,) = _sessions(_recording(seen, there), RIG[:2])
    there[0, :, 40:45] = there[0, :, 60] = False
    _assert_is(session, seen[0], there[0])


@pytest.mark.parametrize(("away", "sessions"), [(36, 1), (50, 2)])
def test_who_comes_back_within_two_seconds_is_the_same(away: int, sessions: int) -> None:
    seen, there = _scene([_walker(0, (0, 0), (0.2, 0), frames=180)])
    there[..., 60 : 60 + away] = False
    assert len(_sessions(_recording(seen, there))) == sessions


def test_whom_one_view_followed_meanwhile_is_the_same() -> None:
    seen, there = _scene([_walker(0, (0, 0), (0.2, 0))])
    there[0, 1:, 25:75] = False
    (session,) = _sessions(_recording(seen, there))
    expected = there[0].copy()
    expected[:, 25:75] = False  # one view alone says nothing about where somebody is
    _assert_is(session, seen[0], expected)


def test_whom_one_view_alone_sees_is_no_person() -> None:
    seen, there = _scene(CROSSING[:2])
    there[1, 1:] = False
    recording = _recording(seen, there)
    ((session, selection),) = separate_people(recording, RIG)
    _assert_is(session, seen[0], there[0])
    assert [view.discarded for view in selection.views] == [100, 0, 0, 0]
    assert [view.crowded_frames for view in selection.views] == [100, 0, 0, 0]
    there[1, 1, :10] = True  # half a second
    assert len(_sessions(_recording(seen, there))) == 1


def test_what_two_of_nine_views_see_where_all_look_is_no_person() -> None:
    ring = studio_rig(9, distance_m=6.0)
    seen, there = _scene(CROSSING[:2], ring)
    there[1, 2:] = False
    (session,) = _sessions(_recording(seen, there, ring), ring)
    _assert_is(session, seen[0], there[0])
    there[1, 2:4] = True
    assert len(_sessions(_recording(seen, there, ring), ring)) == 2


def test_a_person_whom_all_views_detect_twice_is_one() -> None:
    seen, _ = _scene(CROSSING[:1])
    again = seen + np.array([25, 0, -0.1], np.float32)
    both = np.concatenate([seen, again])
    found = separate_people(_recording(both, np.ones(both.shape[:3], bool)), RIG)
    assert len(found) == 1
    assert [view.discarded for view in found[0][1].views] == [100, 100, 100, 100]


def test_what_a_selection_says() -> None:
    seen, there = _scene(CROSSING[:2])
    there[0, 1, 30:35] = False
    found = separate_people(_recording(seen, there), RIG)
    (_, second) = found[1]
    assert second.how.startswith("2 of 2 people")
    assert all(view.discarded == 0 and view.frames == FRAMES for _, s in found for view in s.views)
    missing = {tuple(view.missing_frames for view in s.views) for _, s in found}
    assert missing == {(0, 0, 0, 0), (0, 5, 0, 0)}
    assert all(1 < view.residual_px < 5 for _, s in found for view in s.views)


def test_clocks_that_differ_meet_on_one_timeline() -> None:
    seen, there = _scene(CROSSING)
    recording = _recording(seen, there)
    late = recording.views[3]
    late = View(late.name, late.timestamps[10:] + 0.3 / FPS, late.people[10:])
    there[:, 3, :10] = False
    sessions = _sessions(Recording((*recording.views[:3], late), recording.skeleton, "scene"))
    for session in sessions:
        k = round((0.9 - float(session.keypoints[..., 2].max())) * 10)
        _assert_is(session, seen[k], there[k])
    assert len(sessions) == 3


def test_a_recording_of_one_person_is_as_chosen() -> None:
    recording = _recording(*_scene(CROSSING[:1]))
    ((session, _),) = separate_people(recording, RIG)
    np.testing.assert_array_equal(session.keypoints, choose_person(recording, RIG)[0].keypoints)


def test_without_a_rig_or_with_one_view_people_are_not_separated() -> None:
    recording = _recording(*_scene(CROSSING))
    with pytest.raises(EdgeliftError, match=r"no rig.*two or more calibrated views"):
        separate_people(recording, None)
    alone = Recording(recording.views[:1], recording.skeleton, "alone")
    for cameras in (None, RIG[:1]):
        with pytest.raises(EdgeliftError, match=r"one view.*--cameras"):
            separate_people(alone, cameras)
    with pytest.raises(EdgeliftError, match="one camera a view"):
        separate_people(recording, RIG[:2])


def test_nobody_is_an_error() -> None:
    seen, there = _scene(CROSSING[:1])
    with pytest.raises(EdgeliftError, match="no person in any frame"):
        separate_people(_recording(seen, there & False), RIG)
    there[0, 1:] = False
    with pytest.raises(EdgeliftError, match="no person on whom two views agree within 40 mrad for 40 frames"):
        separate_people(_recording(seen, there), RIG)


def test_other_joints_than_the_skeletons_are_an_error() -> None:
    recording = _recording(*_scene(CROSSING[:1]))
    with pytest.raises(EdgeliftError, match="joints of skeleton coco17"):
        separate_people(
            Recording(
                tuple(View(v.name, v.timestamps, [p[:, :16] for p in v.people]) for v in recording.views),
                skeleton("coco17"), "short",
            ),
            RIG,
        )  # fmt: skip


def test_what_is_not_finite_is_missing() -> None:
    seen, there = _scene(CROSSING[:1])
    broken = seen.copy()
    broken[0, 0, 10, 3, 0], broken[0, 1, 11, 4, 1], broken[0, 2, 12] = np.inf, np.nan, np.nan
    (session,) = _sessions(_recording(broken, there))
    there[0, 2, 12] = False
    expected = np.where(there[0, ..., None, None], seen[0], MISSING)
    expected[0, 10, 3] = expected[1, 11, 4] = (np.nan, np.nan, 0)
    np.testing.assert_array_equal(session.keypoints, expected)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_real_motion_with_all_that_goes_wrong(count: int, shared: Path, scenes: Any) -> None:
    """Scenes that work, one a number of people; how often others do not is in benchmarks/calibration/people.py."""
    rig = read_rig(f"{shared / 'rigs.json'}:h36m_S9", None)
    clips = [clip for clip in load_motion(shared / "mocap" / "cmu17.npz") if clip.name in scenes.LONG]
    worlds = scenes.walk_about(clips, count, int(8 * scenes.FPS), rig_middle(rig), seed=1)
    recording, there = scenes.film_people(worlds, rig, 1, scenes.Faults())
    assert max(len(people) for view in recording.views for people in view.people) > count  # there are ghosts
    found = scenes.judge(_sessions(recording, rig), there)
    assert found["one_session_each"]
    assert found["right"] > 0.99
    assert found["wrong"] < 0.002


def test_the_judge_sees_mistakes(scenes: Any) -> None:
    clips = [Clip("a", "s", "sway", FPS, wobbling_person(FRAMES, k), skeleton("h36m17")) for k in (0, 1)]
    worlds = scenes.walk_about(clips, 2, 90, rig_middle(RIG), seed=0)
    recording, there = scenes.film_people(worlds, RIG, 0, scenes.Faults(ghosts=0.0))
    one, other = _sessions(recording)
    assert scenes.judge([one, other], there)["right"] > 0.99
    swapped = one.keypoints.copy()
    both = min(one.keypoints.shape[1], other.keypoints.shape[1])
    swapped[0, : both // 2] = other.keypoints[0, : both // 2]
    mixed = replace(one, keypoints=swapped)
    assert scenes.judge([mixed, other], there)["wrong"] > 0.05
    assert not scenes.judge([one, one], there)["one_session_each"]


def test_real_recording_with_a_bystander(shared: Path) -> None:
    """The bystander is seen by cameras 1 and 2, and is a second person; the first is whom `choose_person` chooses."""
    recording = read_openpose(shared / "pose2sim" / "BalancingTrial", skeleton("body25b"), 60)
    rig = {camera.name: camera for camera in read_rig(str(shared / "pose2sim" / "Calib.toml"), "m")}
    matched = match_views([v.name for v in recording.views], list(rig), {})
    cameras = tuple(rig[matched[v.name]] for v in recording.views)
    (actor, of_actor), (bystander, of_bystander) = separate_people(recording, cameras)
    np.testing.assert_array_equal(actor.keypoints, choose_person(recording, cameras)[0].keypoints)
    assert [view.missing_frames for view in of_bystander.views] == [0, 0, 100, 100]
    assert [view.discarded for view in of_actor.views] == [1, 0, 0, 0]
    places = [np.nanmedian(session.triangulate()[0], axis=(0, 1)) for session in (actor, bystander)]
    assert 3 < np.linalg.norm(places[0] - places[1]) < 4  # metres
