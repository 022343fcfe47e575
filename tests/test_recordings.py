from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, project, undistort
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.recordings import Recording, View, choose_person
from edgelift.poses.rigs import match_views, read_rig
from edgelift.poses.skeletons import skeleton
from edgelift.poses.windows import undistort_keypoints

POSE2SIM = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "pose2sim"
COCO = skeleton("coco17")
FRAMES = 30
DIST = np.array([-0.2, 0.1, 0.001, 0.001, 0.0])


def _camera(degrees: float) -> Camera:
    """5 m from the origin, looking at it."""
    a = np.radians(degrees)
    R = np.array([[-np.sin(a), np.cos(a), 0], [0, 0, -1], [-np.cos(a), -np.sin(a), 0]])
    return Camera(f"c{degrees:.0f}", np.array([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]]), DIST, R,
                  np.array([0, 0, 5.0]), (1000, 1000))  # fmt: skip


RIG = tuple(_camera(degrees) for degrees in (0, 80, 170, 250))


def _walker(seed: int, start: tuple[float, float]) -> NDArray[np.float64]:
    """(frames, joints, 3) world metres: a fixed random body that travels 1 m a second at 30 fps."""
    body = np.random.default_rng(seed).normal(0, [0.2, 0.2, 0.5], (17, 3))
    travel = np.linspace(0, 1, FRAMES)[:, None] * [0.7, 0.7, 0]
    return np.asarray(body + np.array([*start, 0.0]) + travel[:, None], np.float64)


def _seen(world: NDArray[np.float64], camera: Camera, noise: float = 3.0) -> NDArray[np.float32]:
    xy = project(world, camera) + np.random.default_rng(1).normal(0, noise, (*world.shape[:-1], 2))
    return np.concatenate([xy, np.full_like(xy[..., :1], 0.8)], -1).astype(np.float32)


def _scene() -> tuple[list[View], list[NDArray[np.float32]]]:
    """The actor in every view; a bystander in views 0 and 1; people in shuffled order."""
    actor, bystander = _walker(0, (0, 0)), _walker(1, (-1.2, 0.8))
    rng = np.random.default_rng(2)
    views, truth = [], []
    for v, camera in enumerate(RIG):
        detections = [_seen(actor, camera)] + ([_seen(bystander, camera)] if v < 2 else [])
        people = [np.stack([d[t] for d in detections])[rng.permutation(len(detections))] for t in range(FRAMES)]
        views.append(View(f"v{v}", np.arange(FRAMES) / 30, people))
        truth.append(detections[0])
    return views, truth


def test_the_actor_is_found_and_counted() -> None:
    views, truth = _scene()
    views[1].people[5] = views[1].people[5][:0]  # nobody
    actor = np.abs(views[0].people[7] - truth[0][7]).max((1, 2)) == 0
    views[0].people[7] = views[0].people[7][~actor]  # the bystander alone
    session, selection = choose_person(Recording(tuple(views), COCO, "scene"), RIG)
    expected = np.stack(truth)
    expected[1, 5] = expected[0, 7] = (np.nan, np.nan, 0)
    np.testing.assert_array_equal(session.keypoints, expected)
    assert session.camera_names == tuple(c.name for c in RIG)
    assert [v.crowded_frames for v in selection.views] == [29, 29, 0, 0]
    assert [v.discarded for v in selection.views] == [30, 29, 0, 0]
    assert [v.missing_frames for v in selection.views] == [1, 1, 0, 0]
    assert all(1 < v.residual_px < 6 for v in selection.views)
    assert "30 detections discarded, 1 frames without the person" in selection.summary()[1]


def test_a_view_that_fits_no_other_is_doubted() -> None:
    views, _ = _scene()
    wrong = (RIG[0], RIG[1], RIG[2], replace(RIG[3], R=RIG[1].R, t=RIG[1].t))
    _, selection = choose_person(Recording(tuple(views), COCO, "wrong"), wrong)
    assert [("is it this camera?" in line) for line in selection.summary()] == [False, False, False, False, True]


def test_views_and_people_order_do_not_matter() -> None:
    views, _ = _scene()
    session, _ = choose_person(Recording(tuple(views), COCO, "scene"), RIG)
    mixed = [View(v.name, v.timestamps, [p[::-1] for p in v.people]) for v in views]
    again, _ = choose_person(Recording(tuple(mixed[::-1]), COCO, "scene"), RIG[::-1])
    np.testing.assert_array_equal(session.keypoints, again.keypoints[::-1])


def test_two_whole_people_are_not_mixed_in_time() -> None:
    worlds = [_walker(0, (0, 0)), _walker(1, (-1.2, 0.8))]
    rng = np.random.default_rng(4)
    seen = np.stack([[_seen(w, camera) for camera in RIG] for w in worlds])
    views = tuple(
        View(f"v{v}", np.arange(FRAMES) / 30, [seen[rng.permutation(2), v, t] for t in range(FRAMES)]) for v in range(4)
    )
    session, _ = choose_person(Recording(views, COCO, "two"), RIG)
    assert any(np.array_equal(session.keypoints, one) for one in seen)


def test_without_a_rig_the_largest_person_is_followed() -> None:
    near, far = _walker(0, (0, 0)), _walker(0, (-4, 0))
    detections = np.stack([_seen(near, RIG[0]), _seen(far, RIG[0])])
    view = View("v", np.arange(FRAMES) / 30, [detections[:, t][:: 1 if t % 2 else -1] for t in range(FRAMES)])
    for cameras in (None, RIG[:1]):
        session, selection = choose_person(Recording((view,), COCO, "one"), cameras)
        np.testing.assert_array_equal(session.keypoints[0], detections[0])
        assert "largest" in selection.summary()[0]
        assert selection.views[0].discarded == FRAMES


def test_different_clocks_meet_on_one_timeline() -> None:
    views, truth = _scene()
    late = View("v3", views[3].timestamps[4:] + 0.4 / 30, views[3].people[4:])
    holed = View("v2", np.delete(views[2].timestamps, 9), [p for t, p in enumerate(views[2].people) if t != 9])
    session, _ = choose_person(Recording((views[0], views[1], holed, late), COCO, "clocks"), RIG)
    expected = np.stack(truth)
    expected[2, 9] = expected[3, :4] = (np.nan, np.nan, 0)
    np.testing.assert_array_equal(session.keypoints, expected)
    np.testing.assert_array_equal(session.timestamps, views[0].timestamps)


def test_frames_of_other_views_extend_the_timeline() -> None:
    views, _ = _scene()
    first = View("v0", views[0].timestamps[:20], views[0].people[:20])
    second = View("v1", views[1].timestamps[15:], views[1].people[15:])
    session, _ = choose_person(Recording((first, second), COCO, "relay"), None)
    assert np.allclose(session.timestamps, np.arange(FRAMES) / 30)
    assert not session.keypoints[0, 20:, :, 2].any()
    assert session.keypoints[1, 15:, :, 2].all()


def test_nobody_is_an_error() -> None:
    empty = View("v", np.arange(3) / 30, [np.empty((0, 17, 3), np.float32)] * 3)
    with pytest.raises(EdgeliftError, match="no person in any frame"):
        choose_person(Recording((empty, empty), COCO, "empty"), RIG[:2])
    views, _ = _scene()
    with pytest.raises(EdgeliftError, match="no person on whom two views agree"):
        choose_person(Recording((views[0], empty), COCO, "alone"), RIG[:2])
    with pytest.raises(EdgeliftError, match="one camera a view"):
        choose_person(Recording(tuple(views), COCO, "rig"), RIG[:2])


@pytest.mark.skipif(not POSE2SIM.is_dir(), reason="the shared Pose2Sim recording is not beside the project")
def test_real_recording_with_a_bystander() -> None:
    recording = read_openpose(POSE2SIM / "BalancingTrial", skeleton("body25b"), 60)
    rig = {camera.name: camera for camera in read_rig(str(POSE2SIM / "Calib.toml"), "m")}
    matched = match_views([v.name for v in recording.views], list(rig), {})
    session, selection = choose_person(recording, tuple(rig[matched[v.name]] for v in recording.views))
    with np.load(POSE2SIM / "pose2sim_balancing.npz") as reference:
        keypoints = reference["keypoints_2d"]
    seen = keypoints[..., 2] > 0
    np.testing.assert_array_equal(session.keypoints[..., 2] > 0, seen)
    np.testing.assert_allclose(session.keypoints[seen], keypoints[seen], atol=1e-3)
    assert [v.discarded for v in selection.views] == [101, 100, 0, 0]
    assert [v.missing_frames for v in selection.views] == [0, 0, 0, 0]
    assert [v.residual_px for v in selection.views] == pytest.approx([15.0, 8.5, 19.3, 10.8], abs=0.1)


def test_a_point_that_the_lens_cannot_have_imaged_is_missing() -> None:
    action_camera = np.array([-0.257, 0.093, 0, 0, -0.0155])  # its model folds towards the corners
    rig = tuple(replace(camera, dist=action_camera, size=(1920, 1080)) for camera in RIG)
    detections = [_seen(_walker(0, (0, 0)), camera, noise=1.0) for camera in rig]
    corner = (np.array([1900.0, 1060]) - [500, 500]) / 1000
    assert np.isnan(undistort(corner * 3, action_camera)).all()
    detections[0][4, 3, :2] = 500 + 3000 * corner  # one false detection, confident
    views = tuple(View(f"v{v}", np.arange(FRAMES) / 30, list(d[:, None])) for v, d in enumerate(detections))
    session, _ = choose_person(Recording(views, COCO, "lens"), rig)
    points, residuals = session.triangulate()
    assert np.isfinite(points).all()
    assert np.isnan(residuals[0, 4, 3])
    assert undistort_keypoints(session.keypoints[0], rig[0])[4, 3, 2] == 0


def test_views_of_which_nobody_is_in_the_others_frames_are_stepped_over() -> None:
    views, _ = _scene()
    empty = [View(v.name, v.timestamps, [p[:0] for p in v.people]) for v in views[1:]]
    with pytest.raises(EdgeliftError, match="no person on whom two views agree"):
        choose_person(Recording((views[0], *empty), COCO, "alone"), RIG)
