"""Cameras from people: the geometry on exact numbers, the whole way on noisy ones, size, upright, doubt and verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelift.calibration.bundle import CLOCK, PARAMETERS, adjust, linearise, moved_camera
from edgelift.calibration.cameras import Calibration, Cues, calibrate_cameras, sightings_of
from edgelift.calibration.comparison import aligned_errors_mm, compare
from edgelift.calibration.essential import five_point, relative_pose, sampson
from edgelift.calibration.metric import length_without_noise, upright_by_people
from edgelift.calibration.rig_picture import draw_rig
from edgelift.calibration.structure import Growth, crossed_points
from edgelift.calibration.verdict import judge
from edgelift.poses.cameras import Camera, project, rays
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import read_rig, rotvec_to_matrix
from edgelift.poses.sessions import Session, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import studio_rig

from .conftest import make_sessions
from .test_cli import as_json, edgelift, refused


def walking(count: int = 3, views: int = 3, noise_px: float = 2.0) -> list[Session]:
    """Sessions whose person sways and also walks about: a person who stays leaves depth and size of the scene open."""
    sessions = make_sessions(count, views=views, noise_px=noise_px, missing=0.05)
    out = []
    for number, session in enumerate(sessions):
        assert session.poses is not None
        time = session.timestamps
        shift = np.stack([np.sin(time * 0.9 + number), np.cos(time * 0.7 + 2 * number), 0 * time], -1)
        poses = session.poses + 0.8 * shift[:, None]
        rng = np.random.default_rng(number)
        pixels = np.stack([project(poses, c) for c in session.rig])
        pixels += noise_px * rng.standard_normal(pixels.shape)
        seen = session.keypoints[..., 2:] > 0
        keypoints = np.where(seen, np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1), [np.nan, np.nan, 0])
        out.append(replace(session, keypoints=keypoints.astype(np.float32), poses=poses.astype(np.float32)))
    return out


def measured(rig: tuple[Camera, ...]) -> Cues:
    a, b = rig[:2]
    return Cues(distances={(a.name, b.name): float(np.linalg.norm(a.centre - b.centre))})


@pytest.fixture(scope="module")
def recorded() -> list[Session]:
    return walking()


@pytest.fixture(scope="module")
def found(recorded: list[Session]) -> Calibration:
    return calibrate_cameras(recorded, measured(recorded[0].rig))


def shaken(session: Session, seed: int) -> Session:
    rng = np.random.default_rng(seed)
    cameras = tuple(
        replace(c, R=rotvec_to_matrix(rng.normal(size=3)) @ c.R, t=5 * rng.normal(size=3)) for c in session.rig
    )
    return replace(session, cameras=cameras)


def test_five_points_give_the_true_essential_matrix_among_their_solutions() -> None:
    rng = np.random.default_rng(0)
    R, t = rotvec_to_matrix([0.2, 1.1, -0.1]), np.array([1.0, 0.2, 0.5])
    points = rng.uniform(-1, 1, (5, 3)) + np.array([0, 0, 5])
    there = points @ R.T + t
    first, second = points[:, :2] / points[:, 2:], there[:, :2] / there[:, 2:]
    E = np.cross(np.eye(3), t).T @ R
    E /= np.linalg.norm(E)
    solutions = five_point(first[None], second[None])
    assert min(min(np.abs(s - E).max(), np.abs(s + E).max()) for s in solutions) < 1e-8
    assert sampson(solutions, first, second).max() < 1e-9


def test_a_relative_pose_survives_outliers(recorded: list[Session]) -> None:
    a, b = recorded[0].rig[:2]
    pixels = recorded[0].keypoints.reshape(3, -1, 3)[:2]
    both = (pixels[..., 2] > 0).all(0)
    first, second = rays(pixels[0, both, :2], a), rays(pixels[1, both, :2], b)
    rng = np.random.default_rng(1)
    wrong = rng.random(len(first)) < 0.2
    second[wrong] = rng.uniform(-0.4, 0.4, (wrong.sum(), 2))
    pose = relative_pose(first, second, rng)
    assert pose is not None
    R = b.R @ a.R.T
    turn = np.degrees(np.arccos(np.clip((np.trace(pose.R @ R.T) - 1) / 2, -1, 1)))
    assert turn < 5


def test_derivatives_are_those_of_projection() -> None:
    """Every column against central differences of the projection itself."""
    camera = replace(studio_rig(3)[0], dist=np.array([-0.2, 0.1, 0.002, -0.003, 0.02]))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3)) + np.array([0, 0, 1])
    pixels, by_camera, by_point, depth = linearise(camera, points)
    assert np.abs(pixels - project(points, camera)).max() < 1e-9
    assert (depth > 0).all()

    for parameter in range(PARAMETERS - 1):
        step = np.zeros(PARAMETERS)
        step[parameter] = 1e-6
        change = project(points, moved_camera(camera, step)) - project(points, moved_camera(camera, -step))
        assert np.abs(by_camera[:, :, parameter] - change / 2e-6).max() < 1e-3 * max(1, np.abs(change).max() / 2e-6)
    assert not by_camera[:, :, CLOCK].any()
    for axis in range(3):
        nudge = 1e-6 * np.eye(3)[axis]
        change = (project(points + nudge, camera) - project(points - nudge, camera)) / 2e-6
        assert np.abs(by_point[:, :, axis] - change).max() < 1e-3


def test_exact_keypoints_give_the_rig_back() -> None:
    sessions = walking(2, noise_px=0.0)
    exact = calibrate_cameras(sessions, measured(sessions[0].rig))
    told = compare(exact.cameras, sessions[0].rig)
    # keypoints are float32: 6e-5 pixels at 1000
    assert max(told["metric_centre_error_mm"]) < 0.05
    assert max(told["rotation_error_deg"]) < 0.001
    assert abs(told["scale_error_percent"]) < 0.001


def test_the_rig_is_found_within_its_own_doubt(recorded: list[Session], found: Calibration) -> None:
    told = compare(found.cameras, recorded[0].rig)
    assert max(told["camera_centre_error_mm"]) < 60
    assert max(told["rotation_error_deg"]) < 1
    errors = aligned_errors_mm(found.cameras, recorded[0].rig)
    sd = 1000 * np.sqrt(np.diagonal(found.uncertainty.centre, axis1=1, axis2=2))
    assert (np.abs(errors) < 4 * sd).all()
    assert 0.5 < found.bundle.noise.deviation_px / 2.0 < 1.2
    assert found.frames_left_out == 0
    assert found.joints_left_out == ()


def test_poses_of_the_given_cameras_are_not_read(recorded: list[Session], found: Calibration) -> None:
    again = calibrate_cameras([shaken(s, i) for i, s in enumerate(recorded)], measured(recorded[0].rig))
    for a, b in zip(found.cameras, again.cameras, strict=True):
        assert np.array_equal(a.R, b.R)
        assert np.array_equal(a.t, b.t)


def test_outliers_and_a_joint_that_is_somewhere_else_are_left_out(recorded: list[Session], found: Calibration) -> None:
    rng = np.random.default_rng(0)
    spoilt = []
    for session in recorded:
        keypoints = session.keypoints.copy()
        wrong = (rng.random(keypoints.shape[:3]) < 0.05) & (keypoints[..., 2] > 0)
        keypoints[wrong, :2] = rng.uniform(0, 1000, (wrong.sum(), 2))
        head = keypoints[:, :, skeleton("h36m17").joints.index("head"), :2]
        head += rng.uniform(-300, 300, head.shape)
        spoilt.append(replace(session, keypoints=keypoints))
    robust = calibrate_cameras(spoilt, measured(recorded[0].rig))
    assert robust.joints_left_out == ("head",)
    assert max(compare(robust.cameras, recorded[0].rig)["camera_centre_error_mm"]) < 80
    assert robust.bundle.noise.deviation_px < 1.5 * found.bundle.noise.deviation_px


def guessed(sessions: list[Session], factors: tuple[float, ...]) -> list[Session]:
    """The same with focal lengths that are these factors of the true ones."""
    wrong = [np.array([[f, 1, 1], [1, f, 1], [1, 1, 1]]) for f in factors]
    return [
        replace(s, cameras=tuple(replace(c, K=c.K * f) for c, f in zip(s.rig, wrong, strict=True))) for s in sessions
    ]


@pytest.mark.parametrize("factors", [(1.15, 1.15, 1.15, 1.15), (1.15, 0.9, 1.3, 1.0)], ids=["alike", "different"])
def test_focal_lengths_are_found_with_their_doubt(factors: tuple[float, ...]) -> None:
    sessions = walking(2, views=4, noise_px=1.0)
    told = calibrate_cameras(guessed(sessions, factors), measured(sessions[0].rig), "focal")
    ratios = [c.K[0, 0] / true.K[0, 0] for c, true in zip(told.cameras, sessions[0].rig, strict=True)]
    assert np.abs(np.log(ratios)).max() < 0.05
    assert (np.abs(np.log(ratios)) < 3 * told.uncertainty.focal).all()
    alike = len(set(factors)) == 1
    assert (told.bundle.spread.held < 0.03) == alike, "cameras that were wrong alike are held to be so, others are not"
    assert told.bundle.spread.held < told.bundle.spread.true


def test_sessions_without_lenses_are_refused_where_none_are_estimated() -> None:
    sessions = walking(1)
    bare = [replace(s, cameras=None, image_sizes=tuple(c.size for c in s.rig)) for s in sessions]
    with pytest.raises(EdgeliftError, match="no intrinsics"):
        calibrate_cameras(bare, measured(sessions[0].rig))


def test_a_camera_joins_by_the_pair_that_the_joints_bear_out(recorded: list[Session]) -> None:
    """The surest pair may be wrong: a camera that faces another was taken for one behind it, and never came round."""
    sightings, rig = sightings_of(recorded), recorded[0].rig
    growth = Growth(sightings, rig, np.random.default_rng(0))
    for pair in ((1, 2), (2, 1)):
        growth.relative[pair] = replace(growth.relative[pair], t=-growth.relative[pair].t, doubt=1e-6)
    stands = growth.until(growth.begun((0, 1)), 3)
    told = compare([stands[v] for v in range(3)], rig)
    assert max(told["rotation_error_deg"]) < 3


def test_rays_cross_where_most_views_agree(recorded: list[Session]) -> None:
    four = walking(1, views=4, noise_px=0.0)
    sightings = sightings_of(four)
    keypoints = sightings.keypoints.copy()
    keypoints[2] += 200  # one view of four is all wrong
    points, agreed = crossed_points(replace(sightings, keypoints=keypoints), four[0].rig, 5.0)
    assert four[0].poses is not None
    true = four[0].poses[sightings.frame, sightings.joint]
    three = sightings.seen[[0, 1, 3]].all(0)
    assert np.abs(points[three] - true[three]).max() < 1e-3
    assert not agreed[2, three].any()


def test_joints_alone_are_adjusted_where_no_camera_may_move(recorded: list[Session]) -> None:
    sightings, rig = sightings_of(recorded[:1]), recorded[0].rig
    points, agreed = crossed_points(sightings, rig)
    use = np.flatnonzero(agreed.any(0))
    assert recorded[0].poses is not None
    true = recorded[0].poses[sightings.frame[use], sightings.joint[use]]
    placed = adjust(sightings.take(use), rig, points[use] + 0.05, agreed[:, use], np.zeros(PARAMETERS, bool))
    assert (
        max(np.abs(a.R - b.R).max() + np.abs(a.t - b.t).max() for a, b in zip(placed.cameras, rig, strict=True)) < 1e-9
    )
    before, after = (np.linalg.norm(p - true, axis=1) for p in (points[use], placed.points))
    assert np.median(after) < np.median(before)


def test_a_bone_is_not_longer_for_its_noise() -> None:
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((4000, 3))
    bone = 0.4 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    noisy = bone + 0.1 * rng.standard_normal(bone.shape)
    assert abs(length_without_noise(noisy, np.full(4000, 3 * 0.1**2)) - 0.4) < 0.005
    assert np.median(np.linalg.norm(noisy, axis=1)) > 0.42
    assert np.isnan(length_without_noise(noisy[:10], np.zeros(10)))


def test_height_and_bones_give_the_size(recorded: list[Session]) -> None:
    true = recorded[0].rig
    # the figure's bones are not those of an average person: what counts is that the same cue gives the same size
    tall = calibrate_cameras(recorded, Cues(height_m=1.8))
    small = calibrate_cameras(recorded, Cues(height_m=0.9))
    assert tall.scale.metres == pytest.approx(2 * small.scale.metres)
    shin = {("left_knee", "left_ankle"): 0.41}
    by_bone = calibrate_cameras(recorded, Cues(bones=shin))
    poses = by_bone.poses
    common = skeleton("common14")
    length = np.linalg.norm(
        poses[:, common.joints.index("left_knee")] - poses[:, common.joints.index("left_ankle")], axis=-1
    )
    assert np.nanmedian(length) == pytest.approx(0.41, abs=0.01)
    assert max(compare(by_bone.cameras, true)["camera_centre_error_mm"]) < 60


def test_people_say_what_is_up_and_where_the_floor_is(found: Calibration, recorded: list[Session]) -> None:
    ups = [c.R @ [0, 0, 1] for c in found.cameras]
    true = [c.R @ [0, 0, 1] for c in recorded[0].rig]
    for a, b in zip(ups, true, strict=True):
        assert np.degrees(np.arccos(np.clip(a @ b, -1, 1))) < 4
    ankles = [skeleton("common14").joints.index(f"{side}_ankle") for side in ("left", "right")]
    assert abs(np.nanpercentile(found.poses[:, ankles, 2], 5)) < 0.02
    rng = np.random.default_rng(0)
    place = rng.uniform(-2, 2, (500, 1, 2))
    person = np.zeros((500, 14, 3))
    person[:, :, :2] = place
    common = skeleton("common14")
    person[:, common.joints.index("mid_shoulder"), 2] = 1.4
    person[:, [common.joints.index(f"{s}_ankle") for s in ("left", "right")], 2] = rng.choice([0.0, 0.3], (500, 2))
    tilt = rotvec_to_matrix([np.radians(20), 0, 0])
    lean = rng.normal(0, 0.1, (500, 3)) + np.array([0.1, 0, 0])  # people lean forwards; the floor does not
    person[:, common.joints.index("mid_shoulder")] += lean
    upright = upright_by_people(person @ tilt.T, common, np.array(ankles))
    assert upright.how.startswith("the floor")
    assert np.degrees(np.arccos(upright.up @ tilt[:, 2])) < 0.5


def test_an_axis_can_be_given(recorded: list[Session]) -> None:
    true = recorded[0].rig
    up = tuple(true[0].R @ [0, 0, 1])
    told = calibrate_cameras(recorded, replace(measured(true), up=(true[0].name, up)))
    assert np.allclose(told.cameras[0].R @ [0, 0, 1], up, atol=1e-9)
    with pytest.raises(EdgeliftError, match="--up"):
        calibrate_cameras(recorded, replace(measured(true), up=("nobody", (0, -1, 0))))


def test_a_verdict_names_the_weak_camera_and_what_to_record(recorded: list[Session], found: Calibration) -> None:
    hidden = []
    for session in recorded:
        keypoints = session.keypoints.copy()
        keypoints[2, 12:] = (np.nan, np.nan, 0)
        hidden.append(replace(session, keypoints=keypoints))
    weak = calibrate_cameras(hidden, measured(recorded[0].rig))
    verdict, each = judge(weak)
    assert verdict != "good"
    assert any("only" in why for why, _ in each[2].causes)
    assert any("cam_03" in record for _, record in each[2].causes)
    assert weak.uncertainty.centre[2].trace() > 2 * found.uncertainty.centre[2].trace()


def test_what_cannot_be_calibrated_is_refused(recorded: list[Session]) -> None:
    with pytest.raises(EdgeliftError, match="no measure"):
        calibrate_cameras(recorded, Cues())
    with pytest.raises(EdgeliftError, match="several measures"):
        calibrate_cameras(recorded, replace(measured(recorded[0].rig), height_m=1.7))
    with pytest.raises(EdgeliftError, match="one camera"):
        calibrate_cameras([s.only([0]) for s in recorded], Cues(height_m=1.7))
    with pytest.raises(EdgeliftError, match="nobody"):
        calibrate_cameras(recorded, Cues(distances={("cam_01", "nobody"): 2.0}))
    alone = []
    for session in recorded:
        keypoints = session.keypoints.copy()
        keypoints[2] = (np.nan, np.nan, 0)
        alone.append(replace(session, keypoints=keypoints))
    other = []
    for session in recorded:
        keypoints = session.keypoints.copy()
        keypoints[2] = keypoints[2, ::-1]  # a view that runs backwards in time
        other.append(replace(session, keypoints=keypoints))
    with pytest.raises(EdgeliftError, match=r"cam_03 agrees on \d+ of"):
        calibrate_cameras(other, measured(recorded[0].rig))
    with pytest.raises(EdgeliftError, match=r"cam_03.*hardly a moment"):
        calibrate_cameras(alone, measured(recorded[0].rig))
    zoomed = replace(
        recorded[1], cameras=tuple(replace(c, K=c.K * [[1.1, 1, 1], [1, 1, 1], [1, 1, 1]]) for c in recorded[1].rig)
    )
    with pytest.raises(EdgeliftError, match="other lenses"):
        calibrate_cameras([recorded[0], zoomed], Cues(height_m=1.7))
    with pytest.raises(EdgeliftError, match="of one rig and one detector"):
        calibrate_cameras([recorded[0], recorded[1].only([0, 1])], Cues(height_m=1.7))


def test_comparison_is_blind_to_similarity_and_counts_what_is_left() -> None:
    true = studio_rig(4)
    turn = rotvec_to_matrix([0.3, -0.5, 1.0])

    def moved(camera: Camera, scale: float) -> Camera:
        R = camera.R @ turn.T
        centre = scale * (turn @ camera.centre) + [1, 2, 3]
        return replace(camera, R=R, t=-R @ centre)

    told = compare([moved(c, 2.0) for c in true], true)
    assert max(told["camera_centre_error_mm"]) < 1e-3
    assert max(told["rotation_error_deg"]) < 1e-3
    assert told["scale_error_percent"] == pytest.approx(100)
    assert min(told["metric_centre_error_mm"]) > 1000
    two = compare([moved(c, 1.0) for c in true[:2]], true)
    assert max(two["rotation_error_deg"]) < 1e-2
    bent = [replace(true[0], R=rotvec_to_matrix([0, 0.1, 0]) @ true[0].R, t=rotvec_to_matrix([0, 0.1, 0]) @ true[0].t)]
    assert compare([*bent, *true[1:]], true)["rotation_error_deg"][0] == pytest.approx(np.degrees(0.1), abs=1e-3)


def test_the_picture_shows_a_rig(found: Calibration, tmp_path: Path) -> None:
    draw_rig(found, tmp_path / "rig.svg")
    text = (tmp_path / "rig.svg").read_text()
    assert "cam_01" in text
    assert len(text) > 20_000


def test_the_command_writes_a_rig_that_can_be_read(recorded: list[Session], tmp_path: Path) -> None:
    true = recorded[0].rig
    for session in recorded:
        save_session(session, tmp_path / "takes" / f"{session.name}.npz")
    from edgelift.poses.rigs import write_rig

    write_rig(true, tmp_path / "true.toml")
    a, b = true[:2]
    metres = float(np.linalg.norm(a.centre - b.centre))
    words = ("calibrate", "cameras", tmp_path / "takes", "--distance", f"{a.name},{b.name}={metres}", "--units", "m")
    facts = as_json(*words, "-o", tmp_path / "rig.toml", "--reference", tmp_path / "true.toml")
    assert {"camera_centre_error_mm", "rotation_error_deg", "reprojection_px", "seconds", "verdict"} <= set(facts)
    assert len(facts["camera_centre_error_mm"]) == 3
    again = compare(read_rig(str(tmp_path / "rig.toml"), "m"), true)
    assert again["camera_centre_error_mm"] == pytest.approx(facts["camera_centre_error_mm"], abs=1e-2)
    told = edgelift(*words, "-o", tmp_path / "rig_mm.toml", "--picture", tmp_path / "rig.png").stderr
    assert facts["verdict"] in told
    assert (tmp_path / "rig.png").stat().st_size > 5000
    assert "METRES" in refused("calibrate", "cameras", tmp_path / "takes", "--units", "m", "-o", tmp_path / "x.toml")
    assert "--distance" in refused(*words, "--distance", "a=b", "-o", tmp_path / "x.toml")
    assert not (tmp_path / "x.toml").exists()
    json.dumps(facts, allow_nan=False)


def test_three_centres_are_uncertain_in_their_plane_alone(found: Calibration) -> None:
    assert found.uncertainty.turn.shape == (3, 3, 3)
    values = np.linalg.eigvalsh(found.uncertainty.centre)
    # three centres are always aligned within their plane: nothing is left across it
    assert (values[:, 0] < 1e-6 * values[:, 2]).all()
    assert (values[:, 1:] > 0).all()
    assert (np.linalg.eigvalsh(found.uncertainty.turn) > 0).all()
