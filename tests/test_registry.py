"""A loop that follows a registry: swaps between two frames, and never to something broken."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame, LiftedFrame
from edgelift.runtime.lifter import Lifter, StreamSettings
from edgelift.runtime.live import Cameras, EachCamera, run
from edgelift.runtime.registries import LocalRegistry, load_current
from edgelift.runtime.registries.follow import Follower
from edgelift.runtime.sinks import Sinks
from edgelift.runtime.sources import Inbox
from edgelift.runtime.swap import Swapper, SwapSettings

from .lifters import make_bundle

COMMON14 = skeleton("common14")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("versions") / "registry"
    for number in (1, 2):
        make_bundle(home / f"v000{number}", "tcn", seed=number)
    make_bundle(home / "v0003", "frame", seed=3)
    publish(home, "v0001")
    return home


@pytest.fixture
def registry(versions: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(versions, tmp_path / "registry"))


def publish(registry: Path, name: str) -> None:
    (registry / ".current").write_text(name + "\n")
    os.replace(registry / ".current", registry / "current")


def test_a_registry_stands_for_its_current_bundle(registry: Path) -> None:
    assert LocalRegistry(registry).exists()
    assert load_current(registry).path == registry / "v0001"
    assert load_current(registry / "v0002").path == registry / "v0002"
    with Lifter(registry) as lifter:
        assert lifter.name == "v0001"


@pytest.mark.parametrize("name", ["../v0001", "", "/etc", ".hidden", "a/b"])
def test_current_names_a_bundle_of_this_registry(registry: Path, name: str) -> None:
    publish(registry, name)
    with pytest.raises(EdgeliftError, match="current"):
        load_current(registry)


class Steps:
    """A source of one frame a step; `between` is called with the number of the frame that comes next."""

    name, ended = "steps", False

    def __init__(self, session: Session, between: Callable[[int], None], frames: int = 60) -> None:
        self.session, self.between, self.frames, self.next = session, between, frames, 0

    def filenos(self) -> tuple[int, ...]:
        return ()

    def wake_ns(self) -> int:
        return 0

    def take(self) -> list[Frame]:
        i = self.next
        self.between(i)
        self.next += 1
        self.ended = self.next == self.frames
        keypoints = self.session.keypoints[0, i][None]
        return [Frame("cam_01", i, i * 50_000_000, "unix", self.session.skeleton, keypoints, (0,), None, 0)]

    def close(self) -> None:
        pass


class Kept:
    """A sink that keeps frames."""

    name, lost, notes = "kept", 0, ()

    def __init__(self) -> None:
        self.frames: list[LiftedFrame] = []

    def write(self, lifted: LiftedFrame) -> None:
        self.frames.append(lifted)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def follow(
    registry: Path, session: Session, publications: dict[int, str], shadow_s: float = 0.0
) -> tuple[list[LiftedFrame], Live]:
    """Run a loop that follows; before frame i, what is published is looked at and opened."""
    live, kept = Live(), Kept()
    lifter = Lifter(registry)
    follower = Follower(LocalRegistry(registry), lifter.name, Lifter, Lifter.close, live.complaints.add)

    def between(i: int) -> None:
        if i in publications:
            publish(registry, publications[i])
            follower.look()

    pipeline = EachCamera(lifter, Cameras.of_rig(session.rig), StreamSettings(), live, every=True)
    swapper = Swapper(pipeline, follower, SwapSettings(shadow_s), live)
    with Inbox([Steps(session, between)]) as inbox, Sinks([kept], live) as sinks:
        run(inbox, pipeline, sinks, live, lambda: False, swapper)
    follower.close()
    swapper.close()
    pipeline.lifter.close()
    return kept.frames, live


def test_a_swap_between_two_frames_loses_none_and_keeps_the_past(registry: Path, sessions: list[Session]) -> None:
    out, live = follow(registry, sessions[0], {20: "v0002", 40: "v0001"})
    assert [o.seq for o in out] == list(range(60))
    assert [o.lifter for o in out] == ["v0001"] * 20 + ["v0002"] * 20 + ["v0001"] * 20
    assert (live.counts.swaps, live.counts.rollbacks) == (1, 1)  # the first one is still open as the spare
    # the windows go on through the swap: every frame is what its lifter gives for the whole recording
    own = sessions[0].to_skeleton(COMMON14)
    for name in ("v0001", "v0002"):
        with Lifter(registry / name) as lifter:
            windows = lifter.input.windows(own, 0)
            row = lifter.input.intrinsics(own.rig[0], None)
            whole = lifter.lift(windows, np.tile(row, (60, 1)))
        for o in out:
            if o.lifter == name and o.ids:
                np.testing.assert_allclose(o.xyz[0], whole[o.seq], atol=1e-5)


def test_a_lifter_that_is_fed_otherwise_begins_anew(registry: Path, sessions: list[Session]) -> None:
    out, _ = follow(registry, sessions[0], {20: "v0003"})
    assert [o.seq for o in out] == list(range(60))
    assert [o.lifter for o in out][19:21] == ["v0001", "v0003"]


def test_what_is_broken_is_refused_and_the_old_one_goes_on(registry: Path, sessions: list[Session]) -> None:
    weights = registry / "v0002" / "lifter.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    out, live = follow(registry, sessions[0], {10: "v0002", 20: "nothing", 30: "../v0003", 50: "v0003"})
    assert [o.seq for o in out] == list(range(60))
    assert [o.lifter for o in out] == ["v0001"] * 50 + ["v0003"] * 10
    assert live.counts.swaps == 1


def test_only_a_registry_can_be_followed(registry: Path) -> None:
    with pytest.raises(EdgeliftError, match="no registry"):
        Follower(LocalRegistry(registry / "v0001"), "v0001", Lifter, Lifter.close, lambda kind, what: None)


def test_the_watching_thread_finds_what_is_published(registry: Path) -> None:
    opened = threading.Event()

    def open_it(bundle: Bundle) -> Bundle:
        opened.set()
        return bundle

    released: list[Bundle] = []
    follower = Follower(LocalRegistry(registry), "v0001", open_it, released.append, lambda kind, what: None)
    publish(registry, "v0002")
    assert opened.wait(20)
    while (taken := follower.taken()) is None:
        time.sleep(0.01)
    assert taken.path.name == "v0002"
    assert follower.taken() is None
    follower.close()
    assert not released


def test_what_nobody_took_is_released(registry: Path) -> None:
    released: list[str] = []
    follower = Follower(
        LocalRegistry(registry), "v0001", lambda bundle: bundle.path.name, released.append, lambda kind, what: None
    )
    for name in ("v0002", "v0003"):
        publish(registry, name)
        follower.look()
    assert released == ["v0002"]
    follower.close()
    assert released == ["v0002", "v0003"]


def test_a_bundle_that_was_mended_is_taken_up_after_a_rollback(registry: Path) -> None:
    weights = registry / "v0002" / "lifter.onnx"
    whole = weights.read_bytes()
    follower = Follower(
        LocalRegistry(registry), "v0001", lambda bundle: bundle.path.name, lambda name: None, lambda kind, what: None
    )
    weights.write_bytes(whole[:-1] + b"x")
    for name in ("v0002", "v0001"):
        publish(registry, name)
        follower.look()
        assert follower.taken() is None
    weights.write_bytes(whole)
    publish(registry, "v0002")
    follower.look()
    assert follower.taken() == "v0002"
    follower.close()
