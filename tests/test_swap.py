"""A new lifter in the shadow of the old one, and back again where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.runtime import swap as module
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Float32, Frame, LiftedFrame
from edgelift.runtime.fuse import Fuse
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.live import Cameras, EachCamera, run
from edgelift.runtime.registries import LocalRegistry
from edgelift.runtime.registries.follow import Follower
from edgelift.runtime.sinks import Sinks
from edgelift.runtime.sources import Inbox
from edgelift.runtime.swap import JUDGED, LEAST_COMPARED, Swapper, SwapSettings

from .lifters import make_bundle
from .test_registry import Kept, Steps, publish

SOON_S = 1e-9  # over with the first frame, but for LEAST_COMPARED


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("swap") / "registry"
    for number in (1, 2, 3):
        make_bundle(home / f"v000{number}", "frame", seed=number)
    make_bundle(home / "v0004", "tcn", seed=4)
    return home


class Ran:
    """What came of a loop whose registry changed meanwhile."""

    def __init__(
        self, registry: Path, session: Session, publications: dict[int, str], settings: SwapSettings,
        opened: Callable[[Lifter], None] = lambda lifter: None, first: str = "v0001",
    ) -> None:  # fmt: skip
        publish(registry, first)
        self.live, kept = Live(), Kept()
        self.said: list[str] = []
        self.live.complaints.add = lambda kind, what: self.said.append(f"{kind}: {what}")  # type: ignore[method-assign]
        self.lifters: list[Lifter] = [Lifter(registry)]
        self.closed: list[str] = []

        def open_lifter(bundle: Bundle) -> Lifter:
            lifter = Lifter(bundle)
            opened(lifter)
            self._watch(lifter)
            return lifter

        self._watch(self.lifters[0])
        follower = Follower(LocalRegistry(registry), first, open_lifter, Lifter.close, self.live.complaints.add)
        follower.stopping.set()  # this test alone says when the registry is looked at
        follower.thread.join()
        pipeline = EachCamera(self.lifters[0], Cameras.of_rig(session.rig), StreamSettings(), self.live, every=True)
        swapper = self.swapper = Swapper(pipeline, follower, settings, self.live)

        def between(i: int) -> None:
            if i in publications:
                publish(registry, publications[i])
            follower.look()

        with Inbox([Steps(session, between)]) as inbox, Sinks([kept], self.live) as sinks:
            run(inbox, pipeline, sinks, self.live, lambda: False, swapper)
        follower.close()
        swapper.close()
        pipeline.lifter.close()
        self.frames: list[LiftedFrame] = kept.frames
        self.names = [frame.lifter for frame in kept.frames]

    def _watch(self, lifter: Lifter) -> None:
        close = lifter.backend.close

        def closing() -> None:
            self.closed.append(lifter.name)
            close()

        lifter.backend.close = closing  # type: ignore[method-assign]

    def told(self, words: str) -> bool:
        return any(words in said for said in self.said)


def check_poses(registry: Path, session: Session, frames: list[LiftedFrame]) -> None:
    """Every frame holds what the lifter that it names gives."""
    for name in {frame.lifter for frame in frames}:
        with Lifter(registry / name, skeleton=session.skeleton.name) as lifter:
            for frame in frames:
                if frame.lifter == name and frame.ids:
                    expected = lifter(session.keypoints[0, frame.seq], session.rig[0])
                    np.testing.assert_allclose(frame.xyz[0], expected, atol=1e-4)


def test_a_new_lifter_takes_over_after_its_time_in_the_shadow(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {10: "v0002"}, SwapSettings(SOON_S))
    first = ran.names.index("v0002")
    assert first >= 10 + LEAST_COMPARED
    assert ran.names == ["v0001"] * first + ["v0002"] * (60 - first)
    assert [frame.seq for frame in ran.frames] == list(range(60))
    assert (ran.live.counts.swaps, ran.live.counts.rollbacks) == (1, 0)
    assert sorted(ran.closed) == ["v0001", "v0002"]
    check_poses(registry, sessions[0], ran.frames)


def test_without_enough_frames_it_stays_in_the_shadow(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {50: "v0002"}, SwapSettings(SOON_S))
    assert set(ran.names) == {"v0001"}
    assert sorted(ran.closed) == ["v0001", "v0002"]


def test_a_newer_one_replaces_what_is_in_the_shadow(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {10: "v0002", 20: "v0003"}, SwapSettings(SOON_S))
    assert set(ran.names) == {"v0001", "v0003"}
    assert ran.names[-1] == "v0003"
    assert sorted(ran.closed) == ["v0001", "v0002", "v0003"]


def failing(after: int, how: Callable[[Float32], Float32]) -> Callable[[Lifter], None]:
    """Let a lifter fail from its n-th lifting on."""

    def spoil(lifter: Lifter) -> None:
        whole, calls = lifter._lift, [0]

        def lift(windows: Float32, intrinsics: Float32) -> Float32:
            calls[0] += 1
            poses = whole(windows, intrinsics)
            return how(poses) if calls[0] > after else poses

        lifter._lift = lift  # type: ignore[method-assign]

    return spoil


def breaking(poses: Float32) -> Float32:
    raise RuntimeError("the device is gone")


def unfinished(poses: Float32) -> Float32:
    return np.full_like(poses, np.nan)


def far_off(poses: Float32) -> Float32:
    return poses * np.float32(500.0)


@pytest.mark.parametrize("how", [breaking, unfinished, far_off])
def test_what_fails_in_the_shadow_never_lifts_a_frame(
    registry: Path, sessions: list[Session], how: Callable[[Float32], Float32]
) -> None:
    ran = Ran(registry, sessions[0], {5: "v0002"}, SwapSettings(SOON_S), failing(3, how))
    assert set(ran.names) == {"v0001"}
    assert [frame.seq for frame in ran.frames] == list(range(60))
    assert ran.live.counts.swaps == 0
    assert ran.told("lifter v0002 refused")
    assert ran.closed == ["v0002", "v0001"]


@pytest.mark.parametrize("how", [breaking, unfinished])
def test_a_frame_that_the_new_one_fails_on_is_lifted_by_the_old_one(
    registry: Path, sessions: list[Session], how: Callable[[Float32], Float32]
) -> None:
    ran = Ran(registry, sessions[0], {5: "v0002"}, SwapSettings(SOON_S), failing(LEAST_COMPARED + 10, how))
    first = ran.names.index("v0002")
    assert ran.names == ["v0001"] * first + ["v0002"] * 10 + ["v0001"] * (50 - first)
    assert [frame.seq for frame in ran.frames] == list(range(60))
    assert (ran.live.counts.swaps, ran.live.counts.rollbacks, ran.live.counts.failed) == (1, 1, 0)
    assert ran.told("back from lifter v0002 to v0001")
    check_poses(registry, sessions[0], ran.frames)


def test_a_lifter_that_is_too_late_is_not_taken(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {5: "v0002"}, SwapSettings(SOON_S, deadline_ms=1e-6))
    assert set(ran.names) == {"v0001"}
    assert ran.told("are allowed")


def test_one_that_becomes_too_late_is_left_again(registry: Path, sessions: list[Session]) -> None:
    def slow(poses: Float32) -> Float32:
        time.sleep(0.02)
        return poses

    spoil = failing(LEAST_COMPARED, slow)
    ran = Ran(registry, sessions[0], {2: "v0002"}, SwapSettings(SOON_S, deadline_ms=15.0), spoil)
    assert ran.names.count("v0002") == JUDGED
    assert ran.names[-1] == "v0001"
    assert ran.told("took longer than 15.0 ms")


def test_a_rollback_of_the_registry_is_followed_at_once_and_back(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {5: "v0002", 40: "v0001", 50: "v0002"}, SwapSettings(SOON_S))
    assert ran.names[39:] == ["v0002"] + ["v0001"] * 10 + ["v0002"] * 10  # kept open: no opening, no shadow
    assert (ran.live.counts.swaps, ran.live.counts.rollbacks) == (1, 2)
    assert sorted(ran.closed) == ["v0001", "v0002"]


def test_an_older_version_needs_no_proof(registry: Path, sessions: list[Session]) -> None:
    # far from the one that runs, slower than its deadline: whoever goes back knows why
    settings = SwapSettings(SOON_S, deadline_ms=1e-6)
    ran = Ran(registry, sessions[0], {10: "v0001"}, settings, failing(0, far_off), first="v0002")
    assert ran.names[:11] == ["v0002"] * 10 + ["v0001"]


def test_a_version_that_is_withdrawn_leaves_the_shadow(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {10: "v0002", 15: "v0001"}, SwapSettings(SOON_S))
    assert set(ran.names) == {"v0001"}
    assert (ran.live.counts.swaps, ran.live.counts.rollbacks) == (0, 0)
    assert ran.closed == ["v0002", "v0001"]


def test_the_spare_is_remembered_while_another_is_refused(registry: Path, sessions: list[Session]) -> None:
    def far_third(lifter: Lifter) -> None:
        if lifter.name == "v0003":
            failing(0, breaking)(lifter)

    ran = Ran(registry, sessions[0], {2: "v0002", 35: "v0003", 50: "v0001"}, SwapSettings(SOON_S), far_third)
    assert ran.told("lifter v0003 refused")
    assert ran.names[49:] == ["v0002"] + ["v0001"] * 10
    assert sorted(ran.closed) == ["v0001", "v0002", "v0003"]


def test_a_deadline_holds_without_a_shadow_too(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {10: "v0002"}, SwapSettings(0.0, deadline_ms=1e-6))
    assert ran.names == ["v0001"] * 10 + ["v0002"] * JUDGED + ["v0001"] * (50 - JUDGED)


def test_one_that_is_fed_otherwise_and_fails_costs_one_frame(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {10: "v0004"}, SwapSettings(SOON_S), failing(5, breaking))
    assert ran.names == ["v0001"] * 10 + ["v0004"] * 5 + ["v0001"] * 44
    assert ran.live.counts.failed == 1


def test_a_lifter_that_cannot_be_released_does_not_stop_the_loop(registry: Path, sessions: list[Session]) -> None:
    def stubborn(lifter: Lifter) -> None:
        failing(3, breaking)(lifter)
        lifter.close = breaking_close  # type: ignore[method-assign]

    def breaking_close() -> None:
        raise RuntimeError("the context is gone")

    ran = Ran(registry, sessions[0], {5: "v0002"}, SwapSettings(SOON_S), stubborn)
    assert ran.names == ["v0001"] * 60
    assert ran.told("could not be released")


@pytest.mark.parametrize("raises", [False, True])
def test_what_both_fail_on_is_the_frame_s_fault(registry: Path, sessions: list[Session], raises: bool) -> None:
    calls = []

    def fails_once(lifter: Lifter) -> None:
        whole = lifter._lift

        def lift(windows: Float32, intrinsics: Float32) -> Float32:
            poses = whole(windows, intrinsics)
            calls.append(lifter.name)
            if not 60 <= len(calls) < 62:
                return poses
            return breaking(poses) if raises else poses * np.nan  # the new one's, then the spare's of that frame

        lifter._lift = lift  # type: ignore[method-assign]

    class Both(Ran):
        def _watch(self, lifter: Lifter) -> None:
            super()._watch(lifter)
            if lifter.name == "v0001":
                fails_once(lifter)

    ran = Both(registry, sessions[0], {0: "v0002"}, SwapSettings(SOON_S), fails_once)
    assert ran.live.counts.failed == 1
    assert ran.live.counts.rollbacks == 0
    assert ran.names[-1] == "v0002"
    assert sorted(ran.closed) == ["v0001", "v0002"]


def test_a_shadow_takes_over_where_the_spare_was_given_away(registry: Path, sessions: list[Session]) -> None:
    def breaks_later(lifter: Lifter) -> None:
        if lifter.name == "v0002":
            failing(LEAST_COMPARED + 20, breaking)(lifter)

    class Given(Ran):
        def _watch(self, lifter: Lifter) -> None:
            super()._watch(lifter)
            if lifter.name == "v0003":  # as a slot that was refitted: the spare is no more
                given = self.swapper._take_spare()
                assert given is not None
                given.close()

    ran = Given(registry, sessions[0], {2: "v0002", 30: "v0003"}, SwapSettings(SOON_S), breaks_later)
    first = ran.names.index("v0003")
    assert ran.names[first - 1] == "v0002"
    assert set(ran.names[first:]) == {"v0003"}
    assert ran.live.counts.failed == 0
    assert ran.told("lifter v0002 failed, v0003 takes over")


def test_a_spare_is_handed_over_once_the_new_one_has_held_out(
    registry: Path, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, "v0001")
    live = Live()
    follower = Follower(LocalRegistry(registry), "v0001", Lifter, Lifter.close, live.complaints.add)
    follower.stopping.set()
    follower.thread.join()
    pipeline = EachCamera(Lifter(registry), Cameras.of_rig(sessions[0].rig), StreamSettings(), live, every=True)
    swapper = Swapper(pipeline, follower, SwapSettings(0.0), live)
    assert swapper.give_spare(lambda lifter: True) is None  # there is none
    publish(registry, "v0002")
    follower.look()
    swapper.before_frames()
    assert swapper.give_spare(lambda lifter: True) is None  # it may be needed yet
    monkeypatch.setattr(module, "PROBATION_S", 0.0)
    assert swapper.give_spare(lambda lifter: lifter.name == "v0009") is None
    spare = swapper.give_spare(lambda lifter: True)
    assert spare is not None
    assert (spare.name, swapper.spare) == ("v0001", None)
    publish(registry, "v0001")  # whoever goes back to it opens it again
    follower.look()
    swapper.before_frames()
    assert pipeline.lifter.name == "v0001"
    assert pipeline.lifter is not spare
    for closing in (spare, pipeline.lifter, swapper, follower):
        closing.close()


def test_views_that_are_fused_go_over_too(registry: Path, sessions: list[Session]) -> None:
    publish(registry, "v0001")
    live, session = Live(), sessions[0]
    lifter = Lifter(registry)
    follower = Follower(LocalRegistry(registry), "v0001", Lifter, Lifter.close, live.complaints.add)
    follower.stopping.set()
    follower.thread.join()
    fuse = Fuse(lifter, session.rig, StreamSettings(frame="world"), live, True, False, True)
    swapper = Swapper(fuse, follower, SwapSettings(SOON_S), live)
    names = []
    for i in range(60):
        if i == 5:
            publish(registry, "v0002")
            follower.look()
        swapper.before_frames()
        now = time.monotonic_ns()
        seen = zip(session.rig, session.keypoints[:, i], strict=True)
        frames = [
            Frame(camera.name, i, i * 50_000_000, "unix", session.skeleton, row[None], (0,), None, now)
            for camera, row in seen
        ]
        names += [lifted.lifter for lifted in fuse.feed(frames)]
        swapper.after_frames()
    assert names[-1] == "v0002"  # though every joint is triangulated, and no frame needs a lifter
    follower.close()
    swapper.close()
    fuse.lifter.close()


def test_one_that_is_fed_otherwise_takes_over_without_a_shadow(registry: Path, sessions: list[Session]) -> None:
    ran = Ran(registry, sessions[0], {10: "v0004"}, SwapSettings(SOON_S))
    assert ran.names == ["v0001"] * 10 + ["v0004"] * 50


@pytest.mark.parametrize("settings", [{"shadow_s": -1.0}, {"shadow_s": 1e9}, {"deadline_ms": 0.0}])
def test_times_that_are_none(settings: dict[str, float]) -> None:
    with pytest.raises(EdgeliftError, match=r"--shadow|--deadline"):
        SwapSettings(**settings)
