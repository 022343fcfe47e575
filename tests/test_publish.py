"""Publishing: complete or not there, one at a time, back again, and whatever dies in between."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.registries import LocalRegistry, load_current
from edgelift.runtime.registries import staging as module
from edgelift.runtime.registries.contract import CURRENT
from edgelift.runtime.registries.staging import LOCK, STAGING, locked

from .lifters import TINY, make_bundle, reference, trained_looking


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("first") / "bundle")


@pytest.fixture
def registry(first: Bundle, tmp_path: Path) -> LocalRegistry:
    made = LocalRegistry(tmp_path / "registry")
    made.create(first)
    return made


def publish_copy(registry: LocalRegistry, parent: str | None, what: str = "published") -> str:
    with registry.staging() as folder:
        shutil.copytree(registry.path / "v0001", folder / "bundle")
        return registry.publish(folder / "bundle", parent, what)


def test_versions_are_numbered_verified_and_named_by_current(registry: LocalRegistry, first: Bundle) -> None:
    assert registry.current() == "v0001"
    assert registry.load("v0001").manifest == first.manifest
    assert publish_copy(registry, "v0001") == "v0002"
    assert publish_copy(registry, "v0002", "forced") == "v0003"
    assert load_current(registry.path).path == registry.path / "v0003"
    assert registry.versions() == ["v0001", "v0002", "v0003"]
    assert [(e.what, e.version, e.previous) for e in registry.history()] == [
        ("published", "v0001", None), ("published", "v0002", "v0001"), ("forced", "v0003", "v0002"),
    ]  # fmt: skip
    assert not list(registry.path.glob(f"{STAGING}*"))


def test_who_comes_second_is_told_and_changes_nothing(registry: LocalRegistry) -> None:
    with registry.staging() as mine:
        shutil.copytree(registry.path / "v0001", mine / "bundle")
        publish_copy(registry, "v0001")
        with pytest.raises(EdgeliftError, match="published meanwhile"):
            registry.publish(mine / "bundle", "v0001")
    assert registry.versions() == ["v0001", "v0002"]


def test_many_at_once_make_one_version_of_one_parent(registry: LocalRegistry) -> None:
    outcomes: list[str] = []

    def run() -> None:
        try:
            outcomes.append(publish_copy(registry, "v0001"))
        except EdgeliftError:
            outcomes.append("second")

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["second"] * 5 + ["v0002"]
    registry.load()


def test_what_is_not_whole_is_not_published(registry: LocalRegistry) -> None:
    with registry.staging() as folder:
        shutil.copytree(registry.path / "v0001", folder / "bundle")
        (folder / "bundle" / "lifter.onnx").write_bytes(b"half")
        with pytest.raises(EdgeliftError, match="tampered"):
            registry.publish(folder / "bundle", "v0001")
    assert registry.current() == "v0001"
    assert registry.versions() == ["v0001"]


def test_rollback_goes_to_the_parent_or_where_it_is_told(registry: LocalRegistry) -> None:
    publish_copy(registry, "v0001")
    with pytest.raises(EdgeliftError, match="Name another with --to"):
        registry.rollback()  # a copy of the first version has no parent
    assert registry.rollback("v0001") == ("v0002", "v0001")
    assert registry.current() == "v0001"
    with pytest.raises(EdgeliftError, match="current version"):
        registry.rollback("v0001")
    with pytest.raises(EdgeliftError, match="no such version"):
        registry.rollback("v0009")
    assert publish_copy(registry, "v0001") == "v0003"  # a number is never used twice
    assert registry.history()[-2].what == "rolled_back"


def test_a_parent_is_what_the_manifest_names(registry: LocalRegistry) -> None:
    lineage = {"parent": {"version": "v0001", "seal": registry.manifest("v0001")["seal"]}, "refresh": None}
    from edgelift.export.bundles import export_bundle

    with registry.staging() as folder:
        export_bundle(trained_looking(1), folder / "bundle", TINY.input, reference(), {}, (), lineage)
        registry.publish(folder / "bundle", "v0001")
    assert registry.rollback() == ("v0002", "v0001")


def test_pruning_keeps_the_newest_the_current_and_its_parent(registry: LocalRegistry) -> None:
    for parent in ("v0001", "v0002", "v0003", "v0004"):
        publish_copy(registry, parent)
    registry.rollback("v0002")
    assert registry.prune(1) == ["v0001", "v0003", "v0004"]
    assert registry.versions() == ["v0002", "v0005"]
    assert not list(registry.path.glob(f"{STAGING}*"))
    with pytest.raises(EdgeliftError, match="--keep"):
        registry.prune(0)


def test_a_bundle_a_file_and_a_foreign_folder_are_no_registries(first: Bundle, tmp_path: Path) -> None:
    for path in (first.path, tmp_path / "nothing"):
        with pytest.raises(EdgeliftError, match="no registry"):
            LocalRegistry(path).rollback()
    (tmp_path / "own" / "papers").mkdir(parents=True)
    with pytest.raises(EdgeliftError, match="something there already"):
        LocalRegistry(tmp_path / "own").create(first)


def test_an_interrupted_beginning_is_finished_by_the_next(registry: LocalRegistry, first: Bundle) -> None:
    (registry.path / CURRENT).unlink()  # died after the first version was named, before it counted
    assert registry.create(first) == "v0002"
    assert registry.current() == "v0002"


def test_what_the_dead_left_is_swept_and_the_living_are_spared(registry: LocalRegistry) -> None:
    dead, halfway = registry.path / f"{STAGING}dead", registry.path / f".{CURRENT}.abc"
    (dead / "bundle").mkdir(parents=True)
    (dead / LOCK).touch()
    (registry.path / f"{STAGING}unborn").mkdir()
    halfway.touch()
    with registry.staging() as alive:
        publish_copy(registry, "v0001")
        assert alive.is_dir()
        assert sorted(p.name for p in registry.path.glob(f"{STAGING}*")) == [alive.name]
    assert not halfway.exists()


def test_killed_at_any_moment_the_registry_is_whole(registry: LocalRegistry) -> None:
    for number in range(12):
        before = registry.current()
        child = os.fork()
        if not child:
            publish_copy(registry, before)
            os._exit(0)
        time.sleep(0.004 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole(registry)
        again = publish_copy(registry, registry.current())
        assert registry.current() == again
        assert not list(registry.path.glob(f"{STAGING}*"))


def whole(registry: LocalRegistry) -> None:
    """`current` names a version, and all there are are complete."""
    registry.load()
    for name in registry.versions():
        load_bundle(registry.path / name)


@pytest.mark.parametrize("step", range(1, 40))
def test_killed_at_every_step_the_registry_is_whole(
    registry: LocalRegistry, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies at the n-th of all the calls that change names or bring them to the disk."""
    child = os.fork()
    if not child:
        try:
            left = [step]

            def dying(call: Callable[..., Any]) -> Callable[..., Any]:
                def run(*arguments: Any, **more: Any) -> Any:
                    left[0] -= 1
                    if not left[0]:
                        os._exit(9)
                    return call(*arguments, **more)

                return run

            for place, name in (
                (os, "rename"), (os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "open"), (fcntl, "flock"),
            ):  # fmt: skip
                setattr(place, name, dying(getattr(place, name)))
            publish_copy(registry, "v0001")
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    whole(registry)
    assert (registry.current() == "v0002") or code == 9
    again = publish_copy(registry, registry.current())
    assert registry.current() == again
    whole(registry)
    assert not list(registry.path.glob(f"{STAGING}*"))


def test_a_damaged_current_version_can_be_left(registry: LocalRegistry) -> None:
    publish_copy(registry, "v0001")
    (registry.path / "v0002" / "lifter.onnx").write_bytes(b"damaged")
    assert registry.rollback("v0001") == ("v0002", "v0001")
    (registry.path / "current").write_text("")
    assert registry.rollback("v0001") == ("", "v0001")
    assert registry.current() == "v0001"


def test_a_history_that_cannot_be_written_stops_nothing(registry: LocalRegistry) -> None:
    (registry.path / "history.jsonl").unlink()
    (registry.path / "history.jsonl").mkdir()
    assert publish_copy(registry, "v0001") == "v0002"


def test_others_can_read_what_is_published(registry: LocalRegistry) -> None:
    with registry.staging() as folder:
        shutil.copytree(registry.path / "v0001", folder / "bundle")
        for path in (folder / "bundle").iterdir():
            path.chmod(0o400)
        (folder / "bundle").chmod(0o555)
        registry.publish(folder / "bundle", "v0001")
    assert {p.stat().st_mode & 0o777 for p in (registry.path / "v0002").iterdir()} == {0o644}
    assert (registry.path / "v0002").stat().st_mode & 0o777 == 0o755
    assert (registry.path / "current").stat().st_mode & 0o777 == 0o644


def test_a_lock_that_nobody_lets_go_of_is_told(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    with (registry.path / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EdgeliftError, match="lock"), locked(registry.path):
            pass


def test_a_history_cut_short_loses_one_line(registry: LocalRegistry) -> None:
    path = registry.path / "history.jsonl"
    path.write_text(path.read_text() + '{"what": "publ')
    publish_copy(registry, "v0001")
    assert [e.version for e in registry.history()] == ["v0001", "v0002"]
    assert json.loads(path.read_text().splitlines()[-1])["version"] == "v0002"
