from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgelift.poses.cameras import world_to_camera
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import write_rig
from edgelift.poses.sessions import Session, load_session, save_session
from edgelift.poses.skeletons import convert, skeleton
from edgelift.poses.studio import studio_rig
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame, LiftedFrame
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.live import Cameras, EachCamera
from edgelift.runtime.smoothing import OneEuroSettings
from edgelift.runtime.sources import replay
from edgelift.runtime.sources.inbox import Inbox
from edgelift.runtime.sources.replay import Replay, read_tracks, session_tracks
from edgelift.runtime.start import LiftSettings, lift

from .conftest import make_sessions

FRAME_NS = 50_000_000
SCHEMA = json.loads((Path(replay.__file__).parents[1] / "schemas" / "pose3d.schema.json").read_text())
COMMON14 = skeleton("common14")


class Clock:
    """Stands in for the `time` module of the replay: the test says what time it is."""

    def __init__(self) -> None:
        self.now = 7_000_000_000

    def perf_counter_ns(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replay, "time", clock)
    return clock


@pytest.fixture(scope="module")
def session() -> Session:
    made = make_sessions(1, noise_px=2.0)[0]
    made.keypoints[0, 20:23] = (np.nan, np.nan, 0)  # the person steps out of the first view
    return replace(made, timestamps=made.timestamps + 3.0)


@pytest.fixture
def source(session: Session, tmp_path: Path) -> Path:
    save_session(session, tmp_path / "take.npz")
    return tmp_path / "take.npz"


def messages(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lifted(bundle: Path, source: Path, **settings: Any) -> list[dict[str, Any]]:
    path = source.with_name("poses.jsonl")
    asked = {"sources": (str(source),), "sinks": (str(path),), "camera": ("cam_01",), "rate": None} | settings
    lift(LiftSettings(bundle=bundle, **asked), lambda: False)
    return messages(path)


# replay


def test_frames_come_at_the_recordings_rate(session: Session, clock: Clock) -> None:
    stream, started, came = Replay("take", session_tracks(session, ["cam_01"]), Live()), clock.now, []
    while not stream.ended:
        wake = stream.wake_ns()
        assert wake is not None
        clock.now = wake
        came += [(frame.seq, clock.now - started, frame.arrived_ns - started) for frame in stream.take()]
    assert came == [(i, i * FRAME_NS, i * FRAME_NS) for i in range(60)]


def test_twice_the_rate_takes_half_the_time(session: Session, clock: Clock) -> None:
    stream, started = Replay("take", session_tracks(session, ["cam_01"]), Live(), rate=2.0), clock.now
    stream.wake_ns()
    clock.now = started + 10 * FRAME_NS
    assert [frame.seq for frame in stream.take()] == list(range(21))


def test_at_once_gives_one_moment_of_all_views_each_time(session: Session) -> None:
    stream = Replay("take", session_tracks(session), Live(), rate=None)
    came = []
    while not stream.ended:
        came.append([(frame.stream, frame.seq) for frame in stream.take()])
    assert came == [[(name, i) for name in session.camera_names] for i in range(60)]


def test_an_unknown_view_is_named(session: Session) -> None:
    with pytest.raises(EdgeliftError, match="cam_09"):
        session_tracks(session, ["cam_09"])


def test_messages_are_replayed_as_they_were_sent(bundle: Path, session: Session, tmp_path: Path) -> None:
    for view, late in ((0, 0), (1, 2)):
        lines = [sent_message(session, view, seq, 10**18 + (seq + 40 * late) * FRAME_NS) for seq in range(40)]
        (tmp_path / f"{view}.jsonl").write_text("".join(json.dumps(told) + "\n" for told in lines))
    write_rig(session.rig, tmp_path / "rig.toml")
    sources = tuple(str(tmp_path / f"{view}.jsonl") for view in (0, 1))
    asked: dict[str, Any] = {"sources": sources, "sinks": (str(tmp_path / "out.jsonl"),), "rate": None, "units": "m"}
    lift(LiftSettings(bundle=bundle, **asked, cameras=str(tmp_path / "rig.toml")), lambda: False)
    first = next(m for m in messages(tmp_path / "out.jsonl") if m["stream"] == "cam_01")
    assert (first["seq"], first["t_ns"], first["clock"], first["persons"][0]["id"]) == (100, 10**18, "unix", 7)
    lift(LiftSettings(bundle=bundle, **asked, fuse=str(tmp_path / "rig.toml")), lambda: False)
    fused = messages(tmp_path / "out.jsonl")  # the second file begins when the first has ended
    assert {len(m["views"]) for m in fused} == {1}


def sent_message(session: Session, view: int, seq: int, t_ns: int) -> dict[str, Any]:
    kpts = [[*map(float, row)] if row[2] > 0 else None for row in session.keypoints[view, seq % 20]]
    told = {"v": 1, "type": "pose2d", "stream": session.camera_names[view], "seq": 100 + seq, "t_ns": t_ns}
    told |= {"clock": "unix", "size": [*session.rig[view].size], "skeleton": session.skeleton.name}
    return told | {"persons": [{"id": 7, "kpts": kpts}]}


# the loop


def test_messages_fit_their_schema_and_carry_the_sources_clock(bundle: Path, source: Path) -> None:
    sent = lifted(bundle, source, echo=True)
    for message in sent:
        jsonschema.validate(message, SCHEMA)
    assert [m["t_ns"] for m in sent[:3]] == [3_000_000_000, 3_050_000_000, 3_100_000_000]
    assert [m["seq"] for m in sent] == list(range(60))
    assert sent[0]["persons"][0]["xyz"][0] == sent[0]["persons"][0]["root"]
    total = sent[5]["latency_ms"]
    assert total["total"] >= total["prepare"] + total["backend"] > 0


def test_the_2d_input_is_echoed_as_it_was_lifted(bundle: Path, source: Path) -> None:
    plain, echoed = lifted(bundle, source), lifted(bundle, source, echo=True)
    assert "views" not in plain[0]
    [view] = echoed[0]["views"]
    kpts = np.array([k or (np.nan, np.nan, 0) for k in view["persons"][0]["kpts"]])
    own = load_session(source).to_skeleton(COMMON14).keypoints[0, 0]
    np.testing.assert_allclose(kpts[:, :2], own[:, :2], atol=0.0051)
    np.testing.assert_allclose(kpts[:, 2], own[:, 2], atol=0.000051)


def test_a_frame_without_the_person_says_so(bundle: Path, source: Path) -> None:
    assert [m["seq"] for m in lifted(bundle, source) if not m["persons"]] == [20, 21, 22]


def test_views_are_lifted_each_by_itself(bundle: Path, source: Path) -> None:
    together = lifted(bundle, source, camera=())
    for name in ("cam_01", "cam_02", "cam_03"):
        own = [m["persons"] for m in together if m["stream"] == name]
        assert own == [m["persons"] for m in lifted(bundle, source, camera=(name,))]


def test_the_world_frame_is_the_camera_frame_moved(bundle: Path, source: Path) -> None:
    camera = lifted(bundle, source)
    world = lifted(bundle, source, stream=StreamSettings(frame="world"))
    rig = load_session(source).rig
    assert {m["frame"] for m in world} == {"world"}
    for one, other in zip(camera, world, strict=True):
        for a, b in zip(one["persons"], other["persons"], strict=True):
            np.testing.assert_allclose(world_to_camera(b["xyz"], rig[0]), a["xyz"], atol=3e-5)


def test_a_rig_file_stands_in_for_the_sessions_own_cameras(bundle: Path, source: Path, tmp_path: Path) -> None:
    write_rig(studio_rig(), tmp_path / "rig.toml")
    given = lifted(bundle, source, cameras=str(tmp_path / "rig.toml"), units="m")
    for one, other in zip(given, lifted(bundle, source), strict=True):
        for a, b in zip(one["persons"], other["persons"], strict=True):
            np.testing.assert_allclose(a["xyz"], b["xyz"], atol=2e-5)


def test_smoothing_holds_still_joints_and_is_off_by_default(bundle: Path, source: Path) -> None:
    def jitter(sent: list[dict[str, Any]]) -> float:
        poses = np.array([m["persons"][0]["xyz"] for m in sent[30:]])
        return float(np.linalg.norm(np.diff(poses, 2, axis=0), axis=-1).mean())

    smooth = StreamSettings(smooth=OneEuroSettings(0.5, 0.0))
    assert jitter(lifted(bundle, source, stream=smooth)) < 0.3 * jitter(lifted(bundle, source))


# frames made by hand, through the pipeline alone


def frame(session: Session, seq: int, **changed: Any) -> Frame:
    made = Frame(
        "cam_01", seq, seq * FRAME_NS, "unix", session.skeleton, session.keypoints[0, seq % 60][None], (0,), None, 0
    )
    return replace(made, **changed)


@pytest.fixture
def pipeline(bundle: Path, session: Session) -> EachCamera:
    return EachCamera(Lifter(bundle), Cameras.of_rig(session.rig), StreamSettings(), Live(), every=False)


def feed(pipeline: EachCamera, *frames: Frame) -> list[LiftedFrame]:
    return list(pipeline.feed(frames))


def test_of_what_has_come_only_the_newest_of_each_stream_is_lifted(pipeline: EachCamera, session: Session) -> None:
    others = [frame(session, i, stream="cam_02") for i in range(2)]
    out = feed(pipeline, *(frame(session, i) for i in range(4)), *others)
    assert [(o.stream, o.seq, o.dropped) for o in out] == [("cam_01", 3, 3), ("cam_02", 1, 1)]
    assert pipeline.live.counts.dropped == 4


def test_newest_is_what_was_seen_last_not_what_came_last(pipeline: EachCamera, session: Session) -> None:
    feed(pipeline, frame(session, 10))
    out = [
        [o.seq for o in feed(pipeline, *(frame(session, i) for i in burst))] for burst in ((12, 13, 11), (14, 15, 12))
    ]
    assert out == [[13], [15]]
    counts = pipeline.live.counts
    assert (counts.dropped, counts.stale, counts.missing) == (2, 2, 1)


def test_what_was_overtaken_is_not_missing(pipeline: EachCamera, session: Session) -> None:
    feed(pipeline, *(frame(session, i) for i in range(10)))
    assert (pipeline.live.counts.dropped, pipeline.live.counts.missing) == (9, 0)


def test_every_frame_is_lifted_if_asked(pipeline: EachCamera, session: Session) -> None:
    pipeline.every = True
    assert [o.seq for o in feed(pipeline, *(frame(session, i) for i in range(4)))] == [0, 1, 2, 3]
    assert pipeline.live.counts.dropped == 0


def test_late_and_repeated_frames_are_left_out(pipeline: EachCamera, session: Session) -> None:
    out = [o.seq for i in (0, 1, 1, 3, 2, 4) for o in feed(pipeline, frame(session, i))]
    assert out == [0, 1, 3, 4]
    assert (pipeline.live.counts.stale, pipeline.live.counts.missing) == (2, 1)


def test_a_clock_that_jumps_back_begins_a_stream_anew(pipeline: EachCamera, session: Session) -> None:
    for i in range(3):
        feed(pipeline, frame(session, i, t_ns=10**12 + i * FRAME_NS))
    before = pipeline.streams["cam_01"]
    [out] = feed(pipeline, frame(session, 3, t_ns=5))
    assert (out.seq, out.t_ns) == (3, 5)
    assert pipeline.streams["cam_01"] is not before
    assert pipeline.live.counts.clock_resets == 1


def test_a_stream_without_a_camera_is_counted_and_the_others_go_on(pipeline: EachCamera, session: Session) -> None:
    out = feed(pipeline, frame(session, 0, stream="kitchen"), frame(session, 0))
    assert [o.stream for o in out] == ["cam_01"]
    assert pipeline.live.counts.unplaced == 1
    assert list(pipeline.order.heard) == ["cam_01"]


def test_streams_are_forgotten_when_there_are_too_many(pipeline: EachCamera, session: Session) -> None:
    pipeline.cameras = Cameras({}, session.rig[0])
    for i in range(200):
        assert len(feed(pipeline, frame(session, 0, stream=f"s{i}"))) == 1
    assert len(pipeline.streams) == len(pipeline.order.heard) == 64
    assert "s199" in pipeline.streams


def test_names_that_nobody_knows_leave_nothing_behind(pipeline: EachCamera, session: Session) -> None:
    for i in range(100):
        feed(pipeline, frame(session, 0, stream=f"s{i}"), frame(session, 1, stream=f"s{i}"))
    assert (pipeline.live.counts.dropped, pipeline.live.counts.unplaced) == (100, 100)
    assert not pipeline.streams
    assert not pipeline.order.heard
    assert not pipeline.live.dropped_by_stream
    assert not pipeline.names


def test_streams_stay_within_bounds_when_a_lifter_of_another_kind_follows(
    pipeline: EachCamera, session: Session, bundle: Path
) -> None:
    pipeline.cameras = Cameras({}, session.rig[0])
    for i in range(60):
        feed(pipeline, frame(session, 0, stream=f"s{i}"))
    other = Lifter(bundle)
    other.input = replace(other.input, frame_interval_s=0.1)
    pipeline.take_up(other)
    assert not pipeline.streams  # their past was another one's input
    for i in range(100, 300):
        feed(pipeline, frame(session, 0, stream=f"s{i}"))
    assert len(pipeline.order.heard) <= 128
    assert len(pipeline.streams) == 64


def test_names_of_streams_are_limited_in_all(pipeline: EachCamera, session: Session) -> None:
    pipeline.cameras = Cameras({}, session.rig[0])
    for i in range(1100):
        feed(pipeline, frame(session, 0, stream=f"s{i}"))
    assert pipeline.live.counts.unplaced == 100
    assert len(pipeline.names) == 1000


def test_images_of_another_size_than_the_cameras_are_refused(pipeline: EachCamera, session: Session) -> None:
    width, height = session.rig[0].size
    assert not feed(pipeline, frame(session, 0, size=(height + 16, width)))
    assert not feed(pipeline, frame(session, 0, size=(width, height - 16)))
    assert pipeline.live.counts.unplaced == 2
    assert len(feed(pipeline, frame(session, 1, size=(width, height)))) == 1
    assert len(feed(pipeline, frame(session, 2, size=(width, height - 8)))) == 1  # what a codec pads


def test_a_moment_is_lifted_once(pipeline: EachCamera, session: Session) -> None:
    out = [o.seq for i, t in ((0, 0), (1, 5), (2, 5), (3, 6)) for o in feed(pipeline, frame(session, i, t_ns=t))]
    assert out == [0, 1, 3]
    assert (pipeline.live.counts.stale, pipeline.live.counts.clock_resets) == (1, 0)


def test_times_in_another_unit_are_told(
    pipeline: EachCamera, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(1100):
        feed(pipeline, frame(session, i, t_ns=i * 50))  # milliseconds
    pipeline.live.complaints.report(now=True)
    assert "1000 frames in 50000 of t_ns" in caplog.text


def test_somebody_new_in_every_frame_is_not_remembered_for_ever(pipeline: EachCamera, session: Session) -> None:
    for i in range(40):
        ids = tuple(range(10 * i, 10 * i + 10))
        feed(pipeline, frame(session, i, t_ns=i * 10**6, keypoints=session.keypoints[0, :10], ids=ids))
    assert len(pipeline.streams["cam_01"].people) == 64
    assert set(ids) <= set(pipeline.streams["cam_01"].people)


def test_a_burst_of_many_streams_again_and_again(pipeline: EachCamera, session: Session) -> None:
    pipeline.cameras = Cameras({}, session.rig[0])
    for seq in range(3):
        assert len(feed(pipeline, *(frame(session, seq, stream=f"s{i}") for i in range(80)))) == 80
    assert len(pipeline.streams) == 64


def test_clocks_that_differ_are_not_replayed_together(session: Session, tmp_path: Path) -> None:
    for view, clock in ((0, "unix"), (1, "recording")):
        told = sent_message(session, view, 0, 5) | {"clock": clock}
        (tmp_path / f"{view}.jsonl").write_text(json.dumps(told) + "\n")
    with pytest.raises(EdgeliftError, match="clocks recording, unix"):
        Replay("take", read_tracks(tmp_path, (), None, None), Live())


def test_nan_keypoints_are_missing_joints(bundle: Path, session: Session) -> None:
    ankle = COMMON14.joints.index("right_ankle")
    spoiled, missing = (session.to_skeleton(COMMON14).keypoints[0, :1].copy() for _ in range(2))
    spoiled[0, ankle], missing[0, ankle] = (np.nan, np.nan, 0.9), (np.nan, np.nan, 0)
    with Lifter(bundle) as lift_it:
        people = lift_it.stream(session.rig[0]).push(0.0, spoiled)
        np.testing.assert_allclose(people.xyz, lift_it(missing, session.rig[0]), atol=1e-4)
        np.testing.assert_array_equal(lift_it(spoiled, session.rig[0]), lift_it(missing, session.rig[0]))
    assert people.conf[0, ankle] == 0


def test_people_of_a_frame_are_lifted_as_each_would_be(pipeline: EachCamera, session: Session) -> None:
    crowd = session.keypoints[0, :10]
    [out] = feed(pipeline, frame(session, 0, keypoints=crowd, ids=tuple(range(10))))
    for k in range(10):
        [alone] = feed(pipeline, frame(session, 1 + k, keypoints=crowd[k][None], ids=(90 + k,)))
        np.testing.assert_allclose(out.xyz[k], alone.xyz[0], atol=1e-5)


def test_sides_that_are_exchanged_are_mended_flagged_or_left(pipeline: EachCamera, session: Session) -> None:
    def through(swaps: Any, exchanged: bool) -> LiftedFrame:
        pipeline.settings = StreamSettings(swaps=swaps)
        pipeline.streams.clear()
        feed(pipeline, frame(session, 0))
        pipeline.order.heard.clear()
        keypoints = session.keypoints[0, 1][None]
        feed(pipeline, frame(session, 1))
        mirrored = session.keypoints[0, 2][None][:, list(session.skeleton.mirror)] if exchanged else keypoints
        return feed(pipeline, frame(session, 2, keypoints=mirrored))[0]

    right = [feed(pipeline, frame(session, i))[0] for i in range(3)][2]
    mended, flagged, left = (through(policy, True) for policy in ("mend", "flag", "ignore"))
    np.testing.assert_allclose(mended.xyz, right.xyz, atol=1e-6)
    assert (mended.flags, flagged.flags, left.flags) == ((("swapped",),), (("swapped",),), ((),))
    np.testing.assert_allclose(flagged.xyz, left.xyz, atol=1e-6)
    assert np.abs(flagged.xyz - right.xyz).max() > 2e-3  # a lifter that has hardly been trained


# the library


def test_the_lifter_of_five_lines(bundle: Path, session: Session) -> None:
    own = session.to_skeleton(COMMON14)
    with Lifter(bundle) as lift_it:
        poses = lift_it(own.keypoints[0], session.rig[0])
        people = lift_it(own.keypoints[0][:, None], session.rig[0])
    assert poses.shape == (60, 14, 3)
    np.testing.assert_array_equal(poses, people[:, 0])
    assert np.isnan(poses[20:23]).all()
    assert np.isfinite(np.delete(poses, range(20, 23), 0)).all()


def test_the_lifter_takes_a_detectors_skeleton(bundle: Path, session: Session) -> None:
    with Lifter(bundle, skeleton="h36m17") as theirs, Lifter(bundle) as own:
        poses = theirs(session.keypoints[1], session.rig[1])
        same = own(convert(session.keypoints[1], session.skeleton, COMMON14), session.rig[1])
    np.testing.assert_array_equal(poses, same)


def test_a_stream_gives_what_single_frames_give(bundle: Path, session: Session) -> None:
    own = session.to_skeleton(COMMON14)
    with Lifter(bundle) as lift_it:
        stream = lift_it.stream(session.rig[1])
        for i in range(5):
            people = stream.push(i / 20, own.keypoints[1, i][None])
            assert people.ids == (0,)
            np.testing.assert_allclose(people.xyz[0], lift_it(own.keypoints[1, i], session.rig[1]), atol=1e-4)


def test_a_stream_looks_its_lens_up_and_stays_within_a_tenth_of_a_millimetre(bundle: Path, session: Session) -> None:
    lens = replace(session.rig[1], dist=np.array([-0.3, 0.12, 0.001, -0.002, 0.0]))
    own = session.to_skeleton(COMMON14)
    with Lifter(bundle) as lift_it:
        stream = lift_it.stream(lens)
        for i in range(30):
            people = stream.push(i / 20, own.keypoints[1, i][None])
            np.testing.assert_allclose(people.xyz[0], lift_it(own.keypoints[1, i], lens), atol=1e-4)


def test_what_the_lifter_cannot_take_is_told(bundle: Path, session: Session) -> None:
    with Lifter(bundle) as lift_it:
        with pytest.raises(EdgeliftError, match="intrinsics"):
            lift_it(session.to_skeleton(COMMON14).keypoints[0])
        with pytest.raises(EdgeliftError, match="joints of skeleton common14"):
            lift_it(session.keypoints[0], session.rig[0])


def test_no_frames_give_no_poses(bundle: Path, session: Session) -> None:
    with Lifter(bundle) as lift_it:
        assert lift_it(np.empty((0, 14, 3), np.float32), session.rig[0]).shape == (0, 14, 3)


def test_an_inbox_of_ended_sources_has_ended(session: Session) -> None:
    with Inbox([Replay("take", session_tracks(session), Live(), rate=None)]) as inbox:
        frames = 0
        while not inbox.ended:
            frames += len(inbox.wait())
    assert frames == 180
