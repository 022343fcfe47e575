"""Every defect, put into a sound recording on its own, is found and named; the sound ones are fit; so is real data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from edgelift.calibration.check import Checked, Finding, check, worst
from edgelift.calibration.check_facts import SECTORS, spans
from edgelift.calibration.check_geometry import find_swaps
from edgelift.calibration.check_page import write_page
from edgelift.cli import app
from edgelift.poses.cameras import Camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.openpose import read_openpose
from edgelift.poses.motion import Clip, load_motion
from edgelift.poses.person import clips
from edgelift.poses.recordings import choose_person
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import Session, clean_keypoints, load_session, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig

from .conftest import wobbling_person

Keypoints = NDArray[np.float32]
MISSING = (np.nan, np.nan, 0)
SOUND = StudioSettings(30.0, 12.0, 3.0, "detector", 0.05)
MEDIAPIPE_SWAP = (41, 74)  # frames of camera 2, as ../shared/data/README.md says


def filmed(action: str, settings: StudioSettings = SOUND, views: int = 4) -> Session:
    people = clips(settings.window_s, 60.0, 1, 5)
    return next(s for s in film(people, studio_rig(views), settings) if action in s.action)


@pytest.fixture(scope="module")
def walk() -> Session:
    return filmed("walk")


@pytest.fixture(scope="module")
def stand() -> Session:
    return filmed("box")


def changed(session: Session, change: Callable[[Keypoints], None]) -> Session:
    keypoints = session.keypoints.copy()
    change(keypoints)
    return replace(session, keypoints=clean_keypoints(keypoints))


def with_camera(session: Session, view: int, camera: Camera) -> Session:
    return replace(session, cameras=(*session.rig[:view], camera, *session.rig[view + 1 :]))


def turned(camera: Camera, degrees: float) -> Camera:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return replace(camera, R=R @ camera.R, t=R @ camera.t)


def told(checked: Checked, *levels: str) -> list[str]:
    return [finding.what for finding in checked.findings if finding.level in (levels or ("wrong", "weak"))]


def only(checked: Checked) -> Finding:
    """The one thing that is wrong or weak."""
    [finding] = [f for f in checked.findings if f.level != "note"]
    return finding


@pytest.mark.parametrize(("views", "noise"), [(2, 8.0), (3, 3.0), (4, 0.0), (4, 8.0)])
def test_sound_sessions_are_fit(views: int, noise: float) -> None:
    for session in film(clips(12.0, 60.0, 1, 7), studio_rig(views), replace(SOUND, noise_px=noise)):
        checked = check(session)
        assert told(checked) == []
        assert checked.verdict == "fit"
        assert "it is short" in told(checked, "note")
        assert all(view.swapped == 0 for view in checked.facts.views)


def test_real_motion_before_a_real_rig_is_fit_and_has_no_exchanged_sides(shared: Path) -> None:
    """Both clean, and with a detector's noise."""
    rig = read_rig(f"{shared / 'rigs.json'}:h36m_S9", None)
    motion = [c for c in load_motion(shared / "mocap" / "cmu17.npz", "test") if len(c.poses) > 5 * c.fps][:3]
    for settings in (StudioSettings(20.0, 12.0), StudioSettings(20.0, 12.0, 5.0, "detector", 0.05)):
        for session in film(motion, rig, settings):
            if session.keypoints.shape[1] < 60:  # remainders that are too short
                continue
            checked = check(session)
            assert told(checked) == [], session.name
            assert not any(view.swapped_frames for view in checked.facts.views)


def test_the_figures_are_those_of_the_recording(walk: Session) -> None:
    facts = check(walk).facts
    assert facts.frames == 360
    assert facts.step_s == pytest.approx(1 / 30)
    assert facts.missing == pytest.approx(0.05, abs=0.01)
    assert walk.poses is not None
    lengths = dict(zip((b.name for b in facts.bones), facts.bones, strict=True))
    knee, hip = (walk.skeleton.joints.index(f"left_{name}") for name in ("knee", "hip"))
    thigh = float(np.median(np.linalg.norm(walk.poses[:, knee] - walk.poses[:, hip], axis=-1)))
    assert lengths["left_knee"].metres == pytest.approx(thigh, abs=0.005)
    assert abs(lengths["left_knee"].asymmetry_percent or 0) < 2
    assert 1.4 < facts.height_m < 1.95
    for view in facts.views:
        assert view.heat.sum() == pytest.approx(1)
        assert 0 < view.residual_px[0] < view.residual_px[1] < 10
        assert view.facing is not None
        assert view.facing.sum() == pytest.approx(1)
        assert view.lag_s == 0
        assert view.drift_s is None  # one part
        assert view.by_joint_px is not None
        assert view.by_joint_px.shape == (17, 2)


def test_the_side_that_a_view_sees_is_told() -> None:
    """Somebody faces +y; cameras stand at 30, 150 and 270 degrees of the x axis."""
    poses = wobbling_person(90, 0) * np.array([-1, 1, 1], np.float32)  # the figure's left is at +x
    [session] = film([Clip("c", "s", "a", 20.0, poses, skeleton("h36m17"))], studio_rig(3), StudioSettings(20.0))
    facing = [view.facing for view in check(session).facts.views]
    seen = [int(shares.argmax()) for shares in facing if shares is not None]
    # at 30 degrees towards the right of the image, at 150 towards its left, from behind
    assert seen == [1, SECTORS - 1, SECTORS // 2]


@pytest.mark.parametrize(("view", "frames"), [(0, 3), (2, 12), (1, -9)])
def test_a_late_view_is_told_with_its_lag(walk: Session, view: int, frames: int) -> None:
    def late(k: Keypoints) -> None:
        k[view] = np.roll(walk.keypoints[view], frames, axis=0)
        k[view, slice(0, frames) if frames > 0 else slice(frames, None)] = MISSING

    checked = check(changed(walk, late))
    finding = only(checked)
    assert checked.verdict == "unfit"
    assert finding.what == f"{walk.camera_names[view]} is not synchronised"
    assert "edgelift calibrate sync" in finding.remedy
    lag = checked.facts.views[view].lag_s
    assert lag == pytest.approx(frames / 30, abs=0.021)
    assert ("later" if frames > 0 else "earlier") in finding.evidence


def test_a_clock_that_drifts_is_told_apart_from_a_lag() -> None:
    session = filmed("walk", replace(SOUND, window_s=60.0))
    frames = session.keypoints.shape[1]
    rows = np.minimum(np.round(np.arange(frames) * (1 - 0.4 / 60)).astype(int), frames - 1)
    checked = check(changed(session, lambda k: k.__setitem__(1, session.keypoints[1, rows])))
    assert told(checked) == ["the clock of cam_02 drifts"]
    assert checked.facts.views[1].drift_s == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("degrees", [0.5, 1.5])
def test_a_camera_that_was_bumped_is_told_with_its_turn(walk: Session, stand: Session, degrees: float) -> None:
    for session in (walk, stand):
        checked = check(with_camera(session, 2, turned(session.rig[2], degrees)))
        finding = only(checked)
        assert finding.what == "cam_03 stands otherwise than its calibration says"
        assert checked.verdict == "unfit"
        moved = checked.facts.views[2].moved
        assert moved is not None
        assert moved.during_s is None
        assert moved.offset_px == pytest.approx(1150 * np.radians(degrees), rel=0.15)


@pytest.mark.parametrize("seconds", [12, 24])
def test_a_camera_that_was_bumped_halfway_is_told_with_when(seconds: int) -> None:
    """A small turn moves what it sees by as many pixels, all the same way."""
    session = filmed("walk", replace(SOUND, window_s=float(seconds)))

    def bump(k: Keypoints) -> None:
        k[0, 15 * seconds :, :, 0] += 25

    checked = check(changed(session, bump))
    found = [what.partition(" from ")[0] for what in told(checked)]
    assert found == ["cam_01 stands otherwise than its calibration says"]
    moved = checked.facts.views[0].moved
    assert moved is not None
    assert moved.during_s is not None
    assert 0.3 * seconds < moved.during_s[0] < 0.7 * seconds  # the middle part, of which half is bumped, or the last
    assert moved.during_s[1] == pytest.approx(seconds, abs=0.1)


def test_exchanged_sides_are_found_frame_by_frame() -> None:
    """The same films with and without swaps say which frames they are."""
    found_of = missed = wrong = 0
    for action in ("walk", "jog", "box", "sit", "wave"):
        sound, swapped = filmed(action), filmed(action, replace(SOUND, swaps=0.08))
        assert sound.keypoints[..., 2].sum() == pytest.approx(swapped.keypoints[..., 2].sum())  # only sides differ
        truth = (np.nan_to_num(sound.keypoints) != np.nan_to_num(swapped.keypoints)).any((2, 3))
        found, clear = find_swaps(swapped), truth.sum(0) <= 1  # of two of four at once nobody can say which
        found_of += int(truth[:, clear].sum())
        missed += int((truth & ~found)[:, clear].sum())
        wrong += int((found & ~truth)[:, clear].sum())
    assert found_of > 300
    assert missed < 0.05 * found_of
    assert wrong < 0.01 * found_of


def test_spans_of_exchanged_sides_are_told_with_their_frames(walk: Session) -> None:
    mirror = list(walk.skeleton.mirror)

    def swap(k: Keypoints) -> None:
        k[1, 100:130] = k[1, 100:130][:, mirror]

    checked = check(changed(walk, swap))
    finding = only(checked)
    assert (checked.verdict, finding.what) == ("usable", "left and right are exchanged in cam_02")
    [(first, last)] = checked.facts.views[1].swapped_frames
    assert abs(first - 100) <= 1
    assert abs(last - 129) <= 1
    assert checked.facts.views[1].swapped == pytest.approx(30 / 360, abs=0.006)
    two = check(changed(walk, swap).only([0, 1]))
    assert "of two, nobody can say which" in only(two).what


def test_a_view_whose_sides_are_always_exchanged_is_unfit(walk: Session) -> None:
    mirror = list(walk.skeleton.mirror)
    checked = check(changed(walk, lambda k: k.__setitem__(3, k[3][:, mirror])))
    assert checked.verdict == "unfit"
    assert told(checked) == ["left and right are exchanged in cam_04"]
    assert "mirrored" in only(checked).remedy


def test_sides_that_are_exchanged_in_all_views_are_told_by_the_knees(walk: Session) -> None:
    mirror = list(walk.skeleton.mirror)
    checked = check(replace(walk, keypoints=walk.keypoints[:, :, mirror]))
    assert told(checked) == ["left and right are exchanged in all views"]
    assert checked.facts.knees < 0.2


def test_frames_that_repeat_are_told(walk: Session) -> None:
    def freeze(k: Keypoints) -> None:
        k[2, 1::2] = k[2, 0::2]

    checked = check(changed(walk, freeze))
    assert told(checked) == ["frames of cam_03 repeat"]
    assert checked.verdict == "usable"
    assert checked.facts.views[2].frozen == pytest.approx(0.5)
    assert "15 Hz" in only(checked).evidence
    still = check(changed(walk, lambda k: k[0].__setitem__(slice(100, 130), k[0, 100])))
    assert "frames of cam_01 repeat" in told(still)
    assert still.facts.views[0].frozen_s == pytest.approx(29 / 30, abs=0.01)


def test_gaps_and_irregular_times_are_told(walk: Session) -> None:
    later = replace(walk, timestamps=walk.timestamps + np.where(np.arange(360) >= 200, 1.5, 0.0))
    assert told(check(later)) == ["the recording has gaps"]
    assert "1 gaps, the longest of 1.53 s" in only(check(later)).evidence
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, 360) / 30
    uneven = check(replace(walk, timestamps=walk.timestamps + jitter))
    assert "frames come irregularly" in told(uneven)


@pytest.mark.parametrize(
    ("factor", "guess"),
    [(1000.0, "millimetres"), (100.0, "centimetres"), (3.281, "feet"), (0.001, "divided by 1000"), (0.01, "by 100")],
)
def test_another_unit_is_told_by_the_persons_size(walk: Session, factor: float, guess: str) -> None:
    cameras = tuple(replace(camera, t=camera.t * factor) for camera in walk.rig)
    checked = check(replace(walk, cameras=cameras))
    finding = next(f for f in checked.findings if f.level == "wrong")
    assert finding.what == "the person is of no human size"
    assert guess in finding.remedy
    assert checked.facts.height_m == pytest.approx(factor * check(walk).facts.height_m, rel=0.02)


def test_exchanged_camera_names_are_told_and_nothing_that_follows_from_them(walk: Session) -> None:
    checked = check(replace(walk, keypoints=walk.keypoints[[1, 0, 2, 3]]))
    assert told(checked) == ["cameras cam_01 and cam_02 look exchanged"]
    assert checked.verdict == "unfit"


def test_another_person_in_one_view_is_told(walk: Session, stand: Session) -> None:
    checked = check(changed(walk, lambda k: k.__setitem__(1, stand.keypoints[1])))
    assert checked.verdict == "unfit"
    assert any("does not fit the other views" in what for what in told(checked, "wrong"))


def test_other_image_sizes_and_coordinates_that_are_no_pixels_are_told(walk: Session) -> None:
    double = check(changed(walk, lambda k: k.__setitem__((0, ..., slice(0, 2)), 2 * k[0, ..., :2])))
    assert "cam_01 is of another image size" in told(double, "wrong")
    parts = check(changed(walk, lambda k: k.__setitem__((..., slice(0, 2)), k[..., :2] / 1000)))
    assert "the keypoints of cam_03 are no pixels" in told(parts, "wrong")
    unknown = replace(walk, cameras=None)
    small = check(changed(unknown, lambda k: k.__setitem__((..., slice(0, 2)), k[..., :2] / 1000)))
    assert "the keypoints of cam_01 are no pixels" in told(small, "wrong")


def test_a_person_who_leaves_the_image_is_told(walk: Session) -> None:
    """The camera looks past them, as one whose principal point lies elsewhere."""
    camera = walk.rig[0]
    K = camera.K - np.array([[0, 0, 300], [0, 0, 0], [0, 0, 0]])
    aside = changed(walk, lambda k: k.__setitem__((0, ..., 0), k[0, ..., 0] - 300))
    checked = check(with_camera(aside, 0, replace(camera, K=K)))
    assert told(checked) == ["the person leaves the image of cam_01"]
    assert checked.facts.views[0].outside > 0.05


def test_what_is_seldom_seen_is_told(walk: Session) -> None:
    away = check(changed(walk, lambda k: k.__setitem__((3, slice(0, 250)), MISSING)))
    assert told(away) == ["cam_04 seldom sees the person"]
    assert away.facts.views[3].absent_s == pytest.approx(250 / 30)
    assert away.facts.views[3].shown == pytest.approx(110 / 360)
    np.testing.assert_array_equal(away.facts.presence[3][:130], 0)
    wrist = walk.skeleton.joints.index("left_wrist")
    hidden = check(changed(walk, lambda k: k.__setitem__((slice(1, None), slice(None), wrist), MISSING)))
    assert told(hidden) == ["1 joints are seldom seen by two views"]
    assert "left_wrist 0 %" in only(hidden).evidence
    doubted = check(changed(walk, lambda k: k.__setitem__((1, ..., 2), 0.3 * k[1, ..., 2])))
    assert told(doubted) == ["the detector doubts what it sees in cam_02"]


def test_too_little_is_unfit(walk: Session) -> None:
    assert told(check(walk.during(slice(0, 40))), "wrong") == ["too little is seen by two views"]
    nobody = check(replace(walk, keypoints=clean_keypoints(np.zeros_like(walk.keypoints))))
    assert told(nobody, "wrong") == ["hardly anything is seen", "too little is seen by two views"]
    for few in (slice(0, 1), slice(0, 2)):
        assert check(walk.during(few)).verdict == "unfit"


def test_bones_that_change_or_differ_are_told(walk: Session) -> None:
    """One ankle is farther from its knee, always or now and then: filmed again by the same rig."""
    assert walk.poses is not None
    knee, ankle = (walk.skeleton.joints.index(f"left_{name}") for name in ("knee", "ankle"))

    def stretched(factor: NDArray[np.float64]) -> Checked:
        poses = np.array(walk.poses)
        poses[:, ankle] = poses[:, knee] + factor[:, None] * (poses[:, ankle] - poses[:, knee])
        clip = Clip("stretched", "s", "walk", 30.0, poses.astype(np.float32), walk.skeleton)
        return check(next(film([clip], walk.rig, SOUND)))

    uneven = stretched(np.full(360, 1.2))
    assert told(uneven) == ["left and right bones differ"]
    assert "left_ankle +1" in only(uneven).evidence
    loose = stretched(1 + 0.3 * np.sin(np.arange(360) / 7))
    assert told(loose) == ["bones change their length"]
    assert "left_ankle" in only(loose).evidence


def test_without_a_rig_there_is_less_and_that_is_said(walk: Session) -> None:
    sizes = tuple(camera.size for camera in walk.rig)
    checked = check(replace(walk, cameras=None, image_sizes=sizes))
    assert (checked.verdict, only(checked).what) == ("unfit", "no cameras are known")
    assert "edgelift calibrate cameras" in only(checked).remedy
    assert "a rig" in checked.facts.unchecked[0]
    assert np.isnan(checked.facts.height_m)
    frozen = changed(replace(walk, cameras=None), lambda k: k[0].__setitem__(slice(1, None, 2), k[0, ::2]))
    assert "frames of cam_01 repeat" in told(check(frozen))  # what needs none is looked at
    assert told(check(walk.only([1]))) == ["there is one view alone"]
    shifted = check(replace(walk, time_offset_s=np.array([0, 0.1, 0, 0])))
    assert told(shifted) == ["views are on different clocks"]
    assert "cam_02 +0.100 s" in only(shifted).evidence
    assert "three views" in check(walk.only([0, 1])).facts.unchecked[0]


def test_what_was_recorded_beside_the_person_changes_nothing(walk: Session) -> None:
    empty = np.full((4, 9000, *walk.keypoints.shape[2:]), np.nan, np.float32)
    empty[..., 2] = 0
    empty[:, 4000:4360] = walk.keypoints
    empty[1, 4009:4360] = walk.keypoints[1, :-9]
    checked = check(replace(walk, keypoints=empty, timestamps=np.arange(9000) / 30, poses=None))
    assert "cam_02 is not synchronised" in told(checked)
    assert checked.facts.together_s == pytest.approx(12, abs=0.1)


def test_spans() -> None:
    assert spans(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 1), (4, 4), (6, 6)]
    assert spans(np.zeros(3, bool)) == []
    assert spans(np.ones(3, bool)) == [(0, 2)]


def mediapipe(shared: Path) -> Session:
    with np.load(shared / "pose2sim" / "pose2sim_balancing_mediapipe.npz") as a:
        rows = zip(a["camera_names"], a["K"], a["dist"], a["R"], a["t"], a["size"], strict=True)
        cameras = tuple(Camera(str(n), K, d, R, t, (int(w), int(h))) for n, K, d, R, t, (w, h) in rows)
        keypoints = clean_keypoints(a["keypoints_2d"])
        times = np.arange(keypoints.shape[1]) / float(a["fps"])
    names = tuple(camera.name for camera in cameras)
    return Session(keypoints, times, names, cameras, skeleton("mediapipe33"), np.zeros(4), name="mediapipe")


def test_the_real_recording_of_mediapipe_has_its_known_swap(shared: Path) -> None:
    checked = check(mediapipe(shared))
    assert checked.verdict == "usable"
    assert "left and right are exchanged in cam_02" in told(checked, "weak")
    assert [len(view.swapped_frames) for view in checked.facts.views] == [0, 1, 0, 0]
    [(first, last)] = checked.facts.views[1].swapped_frames
    assert abs(first - MEDIAPIPE_SWAP[0]) <= 1
    assert abs(last - MEDIAPIPE_SWAP[1]) <= 1
    assert checked.facts.views[1].swapped == pytest.approx(0.33, abs=0.05)


def test_the_real_recording_of_openpose_is_usable_and_its_static_trial_is_one_frame(shared: Path) -> None:
    """One person, 1.7 s: two detectors agree that cam_03 fits worst; frames of the static trial are copies."""
    rig = read_rig(str(shared / "pose2sim" / "Calib.toml"), "m")
    found = {}
    for trial in ("BalancingTrial", "StaticTrial"):
        recording = read_openpose(shared / "pose2sim" / trial, skeleton("body25b"), 60)
        found[trial] = check(choose_person(recording, rig)[0])
    balancing, static = found["BalancingTrial"], found["StaticTrial"]
    assert balancing.verdict == "usable"
    assert told(balancing) == [f"{balancing.facts.views[2].name} stands otherwise than its calibration says"]
    assert 1.5 < balancing.facts.height_m < 1.8
    assert all(view.swapped == 0 for view in balancing.facts.views)
    assert static.verdict == "unfit"
    assert sum("repeat" in what for what in told(static)) == 4


def page(checked: list[Checked], folder: Path) -> str:
    write_page(checked, folder / "check.html")
    assert list(folder.iterdir()) == [folder / "check.html"]
    return (folder / "check.html").read_text()


def test_the_page_needs_nothing_else_and_says_the_verdict_first(walk: Session, tmp_path: Path) -> None:
    wrong = replace(walk, name="<script>alert(1)</script>", cameras=None)
    text = page([check(walk), check(wrong)], tmp_path)
    assert "<script" not in text
    assert not re.search(r"https?://|\bsrc\s*=|@import|url\(", text)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower()
    order = [text.index(part) for part in ("1 fit", "1 unfit", "it is short", "Who was seen", "Bones, of a person")]
    assert order == sorted(order)
    assert "Not checked" in text
    assert "&lt;script&gt;" in text


def test_the_pictures_show_what_was_measured(walk: Session, tmp_path: Path) -> None:
    mirror = list(walk.skeleton.mirror)
    swapped = changed(walk, lambda k: k.__setitem__((1, slice(90, 180)), k[1, 90:180][:, mirror]))
    text = page([check(swapped)], tmp_path)
    [(x, width)] = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)" height="20" fill="var\(--bad\)"', text)
    assert float(x) == pytest.approx(120 + 860 * 90 / 360, abs=4)
    assert float(width) == pytest.approx(860 * 90 / 360, abs=6)
    assert text.count("A") > 4  # arcs of the dials


def test_the_command(walk: Session, tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    save_session(walk, folder / "good.npz")
    save_session(replace(walk, cameras=None), folder / "raw.npz")
    done = CliRunner().invoke(app, ["check", str(folder), "-o", str(tmp_path / "c.html"), "--json"])
    assert done.exit_code == 0  # it ran; the verdict is in the answer
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "unfit"
    assert [(s["session"], s["verdict"]) for s in answer["sessions"]] == [("good", "fit"), ("raw", "unfit")]
    assert {"level", "what", "evidence", "remedy"} == set(answer["sessions"][1]["findings"][0])
    assert answer["sessions"][0]["views"][0]["name"] == "cam_01"
    assert "good: fit" in done.stderr
    assert "to do: convert with --cameras" in done.stderr
    assert (tmp_path / "c.html").is_file()
    assert load_session(folder / "good.npz").keypoints.shape == walk.keypoints.shape
    for words in ([str(tmp_path / "none.npz")], [str(folder), "-o", str(tmp_path / "c.txt")]):
        failed = CliRunner().invoke(app, ["check", *words])
        assert isinstance(failed.exception, EdgeliftError)
    assert not (tmp_path / "c.txt").exists()


def test_the_worst_verdict_counts(walk: Session) -> None:
    good, bad = check(walk), check(replace(walk, cameras=None))
    assert (worst([good]), worst([good, bad]), worst([])) == ("fit", "unfit", "fit")
