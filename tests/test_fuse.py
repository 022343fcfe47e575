"""Several views as one: against triangulation, against each view alone, and when views come and go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.cameras import project, rays, triangulate
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.motion import Clip
from edgelift.poses.sessions import Session, clean_keypoints
from edgelift.poses.skeletons import convert_poses, skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime import fuse as fuse_module
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame, LiftedFrame
from edgelift.runtime.fuse import Fuse
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.sources import Inbox
from edgelift.runtime.sources.replay import ArrayTrack, Replay

from .conftest import wobbling_person

COMMON14 = skeleton("common14")
FRAME_NS = 50_000_000


def crowd(
    places: Sequence[tuple[float, float]] = ((0.0, 0.0),), noise_px: float = 0.0, missing: float = 0.0
) -> list[Session]:
    """Two seconds of a person at each place, all filmed by one rig of four."""
    rig, rng, out = studio_rig(4), np.random.default_rng(0), []
    for i, (x, y) in enumerate(places):
        poses = convert_poses(wobbling_person(40, i), skeleton("h36m17"), COMMON14) + np.array([x, y, 0])
        pixels = np.stack([project(poses, camera) for camera in rig])
        pixels += rng.normal(0, noise_px, pixels.shape)
        confidence = (rng.random(pixels.shape[:-1]) >= missing)[..., None]
        keypoints = clean_keypoints(np.concatenate([pixels, confidence], -1))
        names, nought = tuple(camera.name for camera in rig), np.zeros(4)
        out.append(Session(keypoints, np.arange(40) / 20, names, rig, COMMON14, nought, poses=poses.astype(np.float32)))
    return out


@pytest.fixture(scope="module")
def lifter(bundle: Path) -> Iterator[Lifter]:
    with Lifter(bundle) as opened:
        yield opened


class Now:
    """The pipeline's clock: it stands still unless the test moves it."""

    ns = 10**9

    def perf_counter_ns(self) -> int:
        return self.ns


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(fuse_module, "time", now)
    return now


def frames(sessions: Sequence[Session], index: int, now: Now, views: Sequence[int] = range(4)) -> list[Frame]:
    """One moment's frames; people without ids, in an order that differs by view."""
    out = []
    for view in views:
        people = np.stack([s.keypoints[view, index] for s in sessions])
        people = people[np.roll(np.arange(len(people)), view)]
        name, size = sessions[0].camera_names[view], sessions[0].rig[view].size
        out.append(Frame(name, index, index * FRAME_NS, "unix", COMMON14, people, None, size, now.ns))
    return out


def pipeline(lifter: Lifter, sessions: Sequence[Session], every: bool = True) -> Fuse:
    return Fuse(lifter, sessions[0].rig, StreamSettings(frame="world"), Live(), every, echo=False)


def fused(lifter: Lifter, sessions: Sequence[Session], now: Now, views: Sequence[int] = range(4)) -> list[LiftedFrame]:
    line = pipeline(lifter, sessions)
    out: list[LiftedFrame] = []
    for i in range(40):
        out += line.feed(frames(sessions, i, now, views))
        now.ns += FRAME_NS
        if len(views) < 4:
            out += line.feed([])  # those who are missed are waited for, and then no more
    return out


def test_exact_views_give_the_truth(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    out = fused(lifter, [session], now)
    assert session.poses is not None
    assert [o.seq for o in out] == list(range(40))
    np.testing.assert_allclose([o.xyz[0] for o in out], session.poses, atol=1e-5)
    assert all((o.seen_by == 4).all() for o in out if o.seen_by is not None)


def test_noisy_views_are_no_worse_than_triangulation(lifter: Lifter, now: Now) -> None:
    [session] = crowd(noise_px=6.0, missing=0.1)
    assert session.poses is not None
    out = np.stack([o.xyz[0] for o in fused(lifter, [session], now)])
    plain = triangulate(session.keypoints, session.rig)[0]
    known = np.isfinite(plain).all(-1)
    ours, theirs = (np.linalg.norm(poses - session.poses, axis=-1)[known].mean() for poses in (out, plain))
    assert np.isfinite(out).all()
    assert ours <= 1.001 * theirs


def test_people_keep_their_numbers_though_views_disagree_on_their_order(lifter: Lifter, now: Now) -> None:
    sessions = crowd(((0.0, 0.0), (0.9, 0.3), (-0.6, 0.7)), noise_px=2.0)
    out = fused(lifter, sessions, now)
    for number in range(3):
        track = np.stack([o.xyz[o.ids.index(number)] for o in out])
        off = [np.linalg.norm(track - s.poses, axis=-1).mean() for s in sessions]
        assert min(off) < 0.03
        assert sorted(off)[1] > 0.3
    assert all(sorted(o.ids) == [0, 1, 2] for o in out)


def test_one_view_alone_gives_what_the_lifter_gives(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    out = fused(lifter, [session], now, views=[2])
    stream = lifter.stream(session.rig[2], settings=StreamSettings(frame="world"))
    alone = [stream.push(i / 20, session.keypoints[2, i][None]).xyz[0] for i in range(40)]
    assert [round(o.t_ns / FRAME_NS) for o in out] == list(range(40))
    np.testing.assert_allclose([o.xyz[0] for o in out], alone, atol=1e-5)
    assert all((o.seen_by == 0).all() for o in out if o.seen_by is not None)


def test_it_goes_on_when_views_go_and_come_back(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    out: list[LiftedFrame] = []
    for i in range(40):
        views = range(4) if i < 10 or i >= 30 else [1] if i >= 20 else [1, 2]
        out += line.feed(frames([session], i, now, views))
        now.ns += FRAME_NS
        out += line.feed([])
    assert session.poses is not None
    assert [round(o.t_ns / FRAME_NS) for o in out] == list(range(40))
    assert {o.ids for o in out} == {(0,)}
    seen = [int(np.median(o.seen_by)) for o in out if o.seen_by is not None]
    assert seen == [4] * 10 + [2] * 10 + [0] * 10 + [4] * 10
    for o in out[:20] + out[30:]:
        np.testing.assert_allclose(o.xyz[0], session.poses[round(o.t_ns / FRAME_NS)], atol=1e-4)


def test_a_joint_no_two_views_see_stands_to_its_neighbour_as_lifted(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    wrist, elbow = COMMON14.joints.index("left_wrist"), COMMON14.joints.index("left_elbow")
    session.keypoints[1:, :, wrist] = (np.nan, np.nan, 0)
    out = fused(lifter, [session], now)
    assert session.poses is not None
    for i, o in enumerate(out):
        assert o.seen_by is not None
        assert o.seen_by[0, wrist] == 0
        assert (np.delete(o.seen_by[0], wrist) == 4).all()
        # the one view that sees it holds it on its ray
        ray = rays(session.keypoints[0, i, wrist, :2], session.rig[0])
        local = session.rig[0].R @ o.xyz[0, wrist] + session.rig[0].t
        assert np.linalg.norm(local[:2] / local[2] - ray) < 0.02
        assert np.linalg.norm(o.xyz[0, wrist] - o.xyz[0, elbow]) < 0.6


def test_cameras_out_of_step_are_interpolated_to_one_moment(lifter: Lifter, now: Now) -> None:
    """Views 20 ms apart: taken as they are, a hand that moves is torn apart; at one time it is not."""
    rig = studio_rig(4)
    clip = Clip("p", "s", "sway", 100.0, wobbling_person(1, 0), skeleton("h36m17"))
    seconds = np.arange(400) / 100
    moving = clip.poses + np.stack([1.5 * np.sin(seconds), 0 * seconds, 0 * seconds], -1)[:, None].astype(np.float32)
    session = next(iter(film([replace(clip, poses=moving)], rig, StudioSettings(fps=100.0, window_s=4.0))))
    session = session.to_skeleton(COMMON14)
    assert session.poses is not None
    line = pipeline(lifter, [session])
    out: list[LiftedFrame] = []
    for i in range(0, 380, 5):
        for view, late in enumerate((0, 1, 2, 3)):
            frame = frames([session], i + late, now, [view])[0]
            out += line.feed([replace(frame, seq=i // 5, t_ns=(i + late) * 10**7)])
            now.ns += 10**7
    assert len(out) > 70
    truth = np.stack([session.poses[round(o.t_ns / 1e7)] for o in out[1:]])
    np.testing.assert_allclose(np.stack([o.xyz[0] for o in out[1:]]), truth, atol=2e-3)


def test_moments_that_are_overtaken_are_dropped_and_counted(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session], every=False)
    out = list(line.feed([f for i in range(5) for f in frames([session], i, now)]))
    assert [round(o.t_ns / FRAME_NS) for o in out] == [4]
    assert line.live.counts.dropped == out[0].dropped == 4


def test_a_clock_that_jumps_back_begins_anew(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    for i in range(10, 20):
        list(line.feed(frames([session], i, now)))
        now.ns += FRAME_NS
    jumped = [replace(f, seq=100 + f.seq, t_ns=f.t_ns - 3 * 10**9) for f in frames([session], 0, now)]
    out = list(line.feed(jumped))
    assert [o.t_ns for o in out] == [-3 * 10**9]
    assert line.live.counts.clock_resets >= 1


@pytest.mark.parametrize("astray", [0, 1])
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_view_whose_clock_is_astray_takes_no_part_and_holds_nobody_up(
    lifter: Lifter, now: Now, caplog: pytest.LogCaptureFixture, astray: int, hours: int
) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    out: list[LiftedFrame] = []
    for i in range(20):
        taken = frames([session], i, now)
        taken[astray] = replace(taken[astray], t_ns=taken[astray].t_ns + hours * 3600 * 10**9)
        out += line.feed(taken)
        now.ns += FRAME_NS
    assert len(out) == 20
    together = [len(o.views) for o in out]
    assert together == [1 if astray == 0 else 3] * 20  # the first view leads, and is alone if it is the one
    line.live.complaints.report(now=True)
    assert "the leading view, by its clock" in caplog.text


def test_a_jump_of_one_views_clock_leaves_the_others_alone(lifter: Lifter, now: Now) -> None:
    people = crowd([(0, 0), (1.5, 0.5)])
    line, ids = pipeline(lifter, people), []
    for i in range(12):
        taken = frames(people, i, now)
        if i == 5:
            taken[2] = replace(taken[2], t_ns=taken[2].t_ns - 3 * 10**9)
        ids += [o.ids for o in line.feed(taken)]
        now.ns += FRAME_NS
    assert ids == [(0, 1)] * 12


def test_people_are_the_same_when_a_lifter_of_another_kind_follows(lifter: Lifter, now: Now, bundle: Path) -> None:
    people = crowd([(0, 0), (1.5, 0.5)])
    line = pipeline(lifter, people)
    before = [o for i in range(5) for o in line.feed(frames(people, i, now))]
    with Lifter(bundle) as other:
        other.input = replace(other.input, frame_interval_s=0.1)
        line.take_up(other)
        after = [o for i in range(5, 10) for o in line.feed(frames(people, i, now))]
    assert {o.ids for o in before} == {o.ids for o in after} == {(0, 1)}
    assert np.abs(after[0].xyz - before[-1].xyz).max() < 0.3


def staggered(
    line: Fuse, session: Session, now: Now, count: int, interval_s: float, lags_s: Sequence[float]
) -> list[LiftedFrame]:
    """Frames of one moment each, that arrive one view after the other."""
    out: list[LiftedFrame] = []
    started = now.ns
    for i in range(count):
        taken = frames([session], i % 40, now)
        for view, lag_s in enumerate(lags_s):
            now.ns = started + round((i * interval_s + lag_s) * 1e9)
            told = replace(taken[view], seq=i, t_ns=round(i * interval_s * 1e9), arrived_ns=now.ns)
            out += line.feed([told])
    return out


@pytest.mark.parametrize("hertz", [5, 15, 60])
def test_cameras_in_step_are_fused_at_any_rate(lifter: Lifter, now: Now, hertz: int) -> None:
    [session] = crowd()
    out = staggered(pipeline(lifter, [session]), session, now, 30, 1 / hertz, (0, 0.002, 0.003, 0.004))
    assert [len(o.views) for o in out] == [4] * 30


def test_it_goes_on_when_the_leading_view_comes_back_with_an_earlier_clock(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    moments = []
    for i in range(60):
        taken = frames([session], i % 40, now, (0, 1) if i < 20 or i >= 30 else (1,))
        back = 20 * 10**9 if i >= 30 else 0
        taken = [replace(f, seq=i, t_ns=i * FRAME_NS - (back if f.stream == "cam_01" else 0)) for f in taken]
        moments += [o.t_ns for o in line.feed(taken)]
        now.ns += FRAME_NS
        moments += [o.t_ns for o in line.feed([])]
    assert len(moments) >= 57  # that it is silent takes a moment to notice
    assert moments[-1] == 59 * FRAME_NS - 20 * 10**9


def test_it_goes_on_when_a_leading_view_whose_clock_is_ahead_vanishes(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, count = pipeline(lifter, [session]), 0
    for i in range(40):
        taken = frames([session], i, now, (0, 1) if i < 20 else (1,))
        taken = [replace(f, t_ns=f.t_ns + 3600 * 10**9) if f.stream == "cam_01" else f for f in taken]
        count += len([*line.feed(taken)])
        now.ns += FRAME_NS
        count += len([*line.feed([])])
    assert count >= 38


def test_a_view_three_seconds_ahead_takes_no_part(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, out = pipeline(lifter, [session]), list[LiftedFrame]()
    for i in range(100):
        taken = [replace(f, seq=i, t_ns=i * FRAME_NS) for f in frames([session], i % 40, now)]
        taken[3] = replace(taken[3], t_ns=taken[3].t_ns + 3 * 10**9)
        out += line.feed(taken)
        now.ns += FRAME_NS
    assert {len(o.views) for o in out} == {3}


def test_what_waits_at_the_end_is_lifted(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    out = [o for i in range(20) for o in line.feed(frames([session], i, now, (0, 1, 2)))]  # the clock stands still
    assert not out
    assert [o.t_ns for o in line.rest()] == [i * FRAME_NS for i in range(20)]


def test_other_spellings_of_a_cameras_name_are_that_camera(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, count = pipeline(lifter, [session]), 0
    for i in range(40):
        taken = frames([session], i, now)
        taken[0] = replace(taken[0], stream="cam" + "_" * (i + 1) + "01")
        count += len([*line.feed(taken)])
        now.ns += FRAME_NS
    assert count == 40
    assert len(line.order.heard) == 4


def test_somebody_who_enters_one_views_image_late_is_one_person(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, ids = pipeline(lifter, [session]), []
    for i in range(40):
        taken = frames([session], i, now, (0, 1))
        if i < 12:  # three joints tell nobody apart
            some = taken[1].keypoints.copy()
            some[:, 3:] = (np.nan, np.nan, 0)
            taken[1] = replace(taken[1], keypoints=some)
        ids += [o.ids for o in line.feed(taken)]
        now.ns += FRAME_NS
        ids += [o.ids for o in line.feed([])]
    first = next(seen for seen in ids if seen)
    assert any(len(seen) == 2 for seen in ids)
    assert set(ids[-20:]) == {first[:1]}


def test_a_view_that_finds_somebody_new_in_every_frame_fills_no_memory(lifter: Lifter, now: Now) -> None:
    people = crowd()
    line = pipeline(lifter, people)
    for i in range(30):
        [taken] = frames(people, i, now, (0,))
        many = np.repeat(taken.keypoints, 10, axis=0)
        list(line.feed([replace(taken, keypoints=many, ids=tuple(range(10 * i, 10 * i + 10)), t_ns=i * 10**7)]))
        now.ns += 10**7
    assert len(line.association.persons) <= 74


@pytest.mark.parametrize("back_s", [0.1, 1.0, 5.0])
def test_no_moment_is_lost_when_all_clocks_jump_back(lifter: Lifter, now: Now, back_s: float) -> None:
    [session] = crowd()
    line, out = pipeline(lifter, [session]), list[LiftedFrame]()
    for i in range(20):
        back_ns = int(back_s * 1e9) if i >= 10 else 0
        out += line.feed([replace(f, t_ns=f.t_ns + 10**10 - back_ns) for f in frames([session], i, now)])
        now.ns += FRAME_NS
        out += line.feed([])
    assert [o.t_ns for o in out] == [10**10 + i * FRAME_NS - (int(back_s * 1e9) if i >= 10 else 0) for i in range(20)]


def test_a_moment_is_told_to_the_nanosecond(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    t_ns = 1_795_000_000_123_456_789  # since 1970: seconds in float64 hold 240 ns at best
    [out] = pipeline(lifter, [session]).feed([replace(f, t_ns=t_ns) for f in frames([session], 0, now)])
    assert out.t_ns == t_ns


def test_a_view_that_comes_late_is_waited_for(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, out = pipeline(lifter, [session]), list[LiftedFrame]()
    for i in range(60):
        for view, late in ((0, 0), (1, 14)):  # 0.7 s
            if i >= late:
                taken = frames([session], (i - late) % 40, now)[view]
                out += line.feed([replace(taken, seq=i - late, t_ns=(i - late) * FRAME_NS)])
        now.ns += FRAME_NS
        out += line.feed([])
    assert [len(o.views) for o in out[-30:]] == [2] * 30


def test_views_a_little_apart_are_one_moment_also_when_the_rig_pauses(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, out = pipeline(lifter, [session]), list[LiftedFrame]()
    for i in range(10):
        apart = enumerate(frames([session], i, now))
        out += line.feed([replace(f, t_ns=f.t_ns + view * 10**6) for view, f in apart])
        now.ns += FRAME_NS
    for _ in range(40):
        now.ns += 25 * 10**6
        out += line.feed([])
    assert len(out) == 10


@pytest.mark.parametrize(("first", "second"), [((20, 1), (40, 1)), ((20, 6), (1100, 1)), ((40, 1), (20, 1))])
def test_recordings_of_any_length_are_fused_whole(
    lifter: Lifter, monkeypatch: pytest.MonkeyPatch, first: tuple[int, int], second: tuple[int, int]
) -> None:
    monkeypatch.undo()  # a clock that goes on
    [session] = crowd()
    rig, tracks, moments = session.rig[:2], list[ArrayTrack](), set[int]()
    for view, (count, step) in enumerate((first, second)):
        times = np.arange(count) * step / 60
        people = [session.keypoints[view, i % 40][None] for i in range(count)]
        tracks.append(ArrayTrack(rig[view].name, times, people, COMMON14, None, rig[view], (0,)))
        moments |= set(tracks[-1].t_ns[tracks[-1].t_ns > (max(moments) if moments else -1)].tolist())
    line = Fuse(lifter, rig, StreamSettings(frame="world"), Live(), True, False, recorded=True)
    out: list[int] = []
    with Inbox([Replay("take", tracks, Live(), None)]) as inbox:
        while not inbox.ended:
            out += [o.t_ns for o in line.feed(inbox.wait())]
        out += [o.t_ns for o in line.rest()]
    assert out == sorted(out)
    assert set(out) == moments
    assert len(out) == len(moments)


def test_people_whom_other_views_know_apart_are_not_made_one(lifter: Lifter, now: Now) -> None:
    people = crowd([(0.0, 0.0), (1.2, 0.4)])
    line, out = pipeline(lifter, people), list[LiftedFrame]()
    for i in range(30):
        taken = frames(people, i, now)
        if i >= 20:  # one view sees one of them, another the other one
            pairs = enumerate(zip(taken, people, strict=False))
            taken = [replace(f, keypoints=s.keypoints[v, i][None]) for v, (f, s) in pairs]
        out += line.feed(taken)
        now.ns += FRAME_NS
        out += line.feed([])
    assert {o.ids for o in out} == {(0, 1)}


def test_a_view_that_spoke_once_and_late_holds_a_moment_up_but_does_not_keep_it(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line, out = pipeline(lifter, [session]), list[LiftedFrame]()
    for i in range(3):  # 3 ms apart
        taken = [replace(f, t_ns=10**10 + i * 3 * 10**6) for f in frames([session], i, now)]
        taken[1] = replace(taken[1], arrived_ns=now.ns + 1)
        if i == 2:
            taken = [replace(taken[2], t_ns=9 * 10**9, seq=5), *taken[:2]]
        out += line.feed(taken[:2] if i < 2 else taken)
        now.ns += 100 * 10**6
        out += line.feed([])
    for _ in range(30):
        now.ns += 25 * 10**6
        out += line.feed([])
    assert [o.t_ns - 10**10 for o in out] == [0, 3 * 10**6, 6 * 10**6]


def test_a_stranger_stream_is_counted(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    list(line.feed([replace(frames([session], 0, now)[0], stream="kitchen")]))
    assert line.live.counts.unplaced == 1


def test_images_of_another_size_than_the_rigs_are_refused(lifter: Lifter, now: Now) -> None:
    [session] = crowd()
    line = pipeline(lifter, [session])
    [first, *rest] = frames([session], 0, now)
    assert not list(line.feed([replace(first, size=(99, 99)), *rest]))  # it is waited for
    now.ns += int(1e9 * fuse_module.PATIENCE_S) + 1
    [out] = line.feed([])
    assert line.live.counts.failed == 1
    assert session.camera_names[0] not in [view.stream for view in out.views]


def test_one_camera_is_no_rig(lifter: Lifter) -> None:
    with pytest.raises(EdgeliftError, match="two or more"):
        Fuse(lifter, studio_rig(4)[:1], StreamSettings(frame="world"), Live(), True, False)
