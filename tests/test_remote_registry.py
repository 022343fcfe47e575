"""A registry in S3: complete or not there, one winner of two, and whatever dies in between."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, save_session
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.registries import load_current, open_registry, remote
from edgelift.runtime.registries.contract import Event
from edgelift.runtime.registries.follow import Follower
from edgelift.runtime.registries.remote import ABANDONED_S, CACHED, CLAIMS, RemoteRegistry, Store

from .lifters import make_bundle


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("first") / "bundle")


@pytest.fixture
def url(s3: str, request: pytest.FixtureRequest) -> str:
    return f"{s3}/{abs(hash(request.node.name))}"


@pytest.fixture
def registry(first: Bundle, url: str, tmp_path: Path) -> RemoteRegistry:
    made = RemoteRegistry(url, tmp_path / "cache")
    made.create(first)
    return made


def publish_copy(registry: RemoteRegistry, first: Bundle, parent: str | None, what: str = "published") -> str:
    with registry.staging() as folder:
        return registry.publish(Path(shutil.copytree(first.path, folder / "bundle")), parent, what)


def whole(url: str, cache: Path) -> None:
    """`current` names a version, and all there are are complete, for somebody who has fetched nothing yet."""
    other = RemoteRegistry(url, cache)
    other.load()
    for name in other.versions():
        other.load(name)


def test_versions_are_numbered_verified_and_named_by_current(
    registry: RemoteRegistry, first: Bundle, url: str, tmp_path: Path
) -> None:
    assert registry.load("v0001").manifest == first.manifest
    assert publish_copy(registry, first, "v0001") == "v0002"
    assert publish_copy(registry, first, "v0002", "forced") == "v0003"
    assert registry.versions() == ["v0001", "v0002", "v0003"]
    assert [(e.what, e.version, e.previous) for e in RemoteRegistry(url, tmp_path / "other").history()] == [
        ("published", "v0001", None), ("published", "v0002", "v0001"), ("forced", "v0003", "v0002"),
    ]  # fmt: skip
    assert registry.store.read("current") == b"v0003\n"
    whole(url, tmp_path / "other")
    with pytest.raises(EdgeliftError, match="something there already"):
        registry.create(first)


def test_of_many_at_once_one_wins_and_the_others_say_so(
    registry: RemoteRegistry, first: Bundle, url: str, tmp_path: Path
) -> None:
    outcomes: list[str] = []

    def run(number: int) -> None:
        try:
            outcomes.append(publish_copy(RemoteRegistry(url, tmp_path / str(number)), first, "v0001"))
        except EdgeliftError as error:
            outcomes.append("second" if "published meanwhile" in str(error) else str(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("second") == 4
    assert registry.current() in outcomes
    assert [e.what for e in registry.history()] == ["published", "published"]
    whole(url, tmp_path / "after")


def test_who_comes_second_is_told(registry: RemoteRegistry, first: Bundle) -> None:
    publish_copy(registry, first, "v0001")
    with pytest.raises(EdgeliftError, match="published meanwhile"):
        publish_copy(registry, first, "v0001")
    assert registry.current() == "v0002"


class DeadError(BaseException):
    """What a dead process would have done next; nobody catches it."""


def own_file_system(registry: RemoteRegistry) -> None:
    """One that can be changed: fsspec gives everybody the same."""
    registry.store.fs = type(registry.store.fs)(use_listings_cache=False, skip_instance_cache=True)


def dying_after(registry: RemoteRegistry, steps: int) -> list[int]:
    """Let a store take so many changes and no more, as if its process had died; returns what is left, in a list."""
    left = [steps]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise DeadError
            return call(*arguments, **more)

        return run

    own_file_system(registry)
    for name in ("pipe_file", "put_file", "rm_file"):
        setattr(registry.store.fs, name, dying(getattr(registry.store.fs, name)))
    return left


def act(verb: str, registry: RemoteRegistry, first: Bundle) -> None:
    """Change a registry with three versions, the second one current; or begin another."""
    if verb == "create":
        registry.create(first)
    elif verb == "publish":
        publish_copy(registry, first, "v0002")
    elif verb == "rollback":
        registry.rollback("v0001")
    elif verb == "prune":
        registry.prune(1)
    else:
        with registry.staging() as folder:
            shutil.copytree(first.path, folder / "refused" / "bundle")
            (folder / "refused" / "report.json").write_text("{}")
            registry.keep_refused(folder / "refused")


@pytest.mark.parametrize("verb", ["create", "publish", "rollback", "prune", "refuse"])
def test_dead_after_any_change_the_registry_is_whole(verb: str, first: Bundle, tmp_path: Path) -> None:
    for steps in range(60):
        url = f"memory://{verb}/{steps}"
        registry = RemoteRegistry(url, tmp_path / "first")
        if verb != "create":
            registry.create(first)
            for parent in ("v0001", "v0002"):
                publish_copy(registry, first, parent)
            registry.rollback("v0002")
        other = RemoteRegistry(url, tmp_path / "dead")
        left = dying_after(other, steps)
        with contextlib.suppress(DeadError):
            act(verb, other, first)
        again = RemoteRegistry(url, tmp_path / "again")
        if again.store.read("current") is not None:
            whole(url, tmp_path / "reader")  # whoever follows meets something whole before anybody has put it right
        again.recover()
        if not again.exists():
            again.create(first)
        published = publish_copy(again, first, again.current())
        assert again.current() == published == again.versions()[-1]
        whole(url, tmp_path / "last")
        if left[0] >= 0:  # it was not killed any more
            break
    assert left[0] >= 0
    assert steps > 1


class Answer(Exception):  # noqa: N818 - as botocore's
    def __init__(self, status: int) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize("name", ["history", "claims"])
def test_a_put_whose_answer_was_lost_is_ones_own(registry: RemoteRegistry, first: Bundle, name: str) -> None:
    """Libraries repeat a put; the second one meets the first."""
    pipe = registry.store.fs.pipe_file

    def twice(path: str, data: bytes, **how: Any) -> None:
        pipe(path, data, **how)
        if f"/{name}/" in path:
            pipe(path, data, **how)

    own_file_system(registry)
    registry.store.fs.pipe_file = twice
    assert publish_copy(registry, first, "v0001") == "v0002"
    assert registry.current() == "v0002"


@pytest.mark.parametrize(("status", "expected"), [(412, "published meanwhile"), (409, "in somebody else's way")])
def test_what_other_servers_answer_to_a_second_put(
    registry: RemoteRegistry, first: Bundle, status: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_copy(registry, first, "v0001")
    stale, pipe = registry.history()[:1], registry.store.fs.pipe_file
    looks = iter([stale, stale, stale])

    def answers(path: str, data: bytes, **how: Any) -> None:
        if "/history/" in path:
            raise OSError(22, "no such condition") from Answer(status)
        pipe(path, data, **how)

    monkeypatch.setattr(remote, "REPEAT_S", 0.0)
    own_file_system(registry)
    registry.store.fs.pipe_file = answers
    monkeypatch.setattr(registry, "current", lambda: "v0001")
    monkeypatch.setattr(registry, "history", lambda: next(looks, [*stale, Event("published", "v0002", "v0001", 0.0)]))
    with pytest.raises(EdgeliftError, match=expected):
        publish_copy(registry, first, "v0001")


def test_one_that_is_already_late_when_it_looks_is_told_by_the_history(registry: RemoteRegistry, first: Bundle) -> None:
    """Both have seen the same current version; the put that appends decides, and the loser's files go."""
    append = registry._append

    def overtaken(event: Event, fits: Callable[[list[Event]], None]) -> None:
        registry._append = append  # type: ignore[method-assign]
        publish_copy(registry, first, "v0001")
        append(event, fits)

    registry._append = overtaken  # type: ignore[method-assign]
    with pytest.raises(EdgeliftError, match="published meanwhile"):
        publish_copy(registry, first, "v0001")
    assert registry.current() == "v0003"
    assert registry.versions() == ["v0001", "v0003"]


def test_a_late_put_does_not_bring_an_old_version_back(registry: RemoteRegistry, first: Bundle) -> None:
    put = registry.store.put

    def late(name: str, data: bytes) -> None:
        registry.store.put = put  # type: ignore[method-assign]
        publish_copy(registry, first, "v0002")  # somebody puts right what this one left, and publishes
        put(name, data)

    registry.store.put = late  # type: ignore[method-assign]
    publish_copy(registry, first, "v0001")
    assert registry.current() == "v0003"


def test_rollback_and_pruning(registry: RemoteRegistry, first: Bundle, url: str, tmp_path: Path) -> None:
    for parent in ("v0001", "v0002", "v0003", "v0004"):
        publish_copy(registry, first, parent)
    with pytest.raises(EdgeliftError, match="Name another with --to"):
        registry.rollback()  # a copy of the first version has no parent
    assert registry.rollback("v0002") == ("v0005", "v0002")
    assert registry.prune(1) == ["v0001", "v0003", "v0004"]
    assert registry.versions() == ["v0002", "v0005"]
    assert publish_copy(registry, first, "v0002") == "v0006"  # a number is never used twice
    whole(url, tmp_path / "other")


def test_nobody_goes_back_to_what_is_being_pruned(registry: RemoteRegistry, first: Bundle) -> None:
    publish_copy(registry, first, "v0001")
    registry._append(Event("pruned", "v0001", "v0002", time.time()), lambda events: None)  # its files are there yet
    with pytest.raises(EdgeliftError, match="just pruned"):
        registry.rollback("v0001")
    with pytest.raises(EdgeliftError, match="current again"):
        registry._remove("v0002", "v0001")


def test_what_was_never_completed_is_swept_after_a_day(registry: RemoteRegistry, first: Bundle) -> None:
    for name, age_s in (("v0002", ABANDONED_S + 60), ("v0003", 60.0)):
        registry.store.put(f"{CLAIMS}/{name}", json.dumps({"at_s": time.time() - age_s}).encode())
        registry.store.put(f"{name}/lifter.onnx", b"half")
    assert registry.versions() == ["v0001"]
    assert registry.prune(1) == []
    assert registry.store.names("v0002") == []
    assert registry.history()[-1].what == "pruned"  # so that its publisher, if it lives, is told
    assert registry.store.names("v0003") == ["v0003/lifter.onnx"]
    assert publish_copy(registry, first, "v0001") == "v0004"


def test_a_tampered_object_is_refused(registry: RemoteRegistry, url: str, tmp_path: Path) -> None:
    registry.store.put("v0001/lifter.onnx", b"tampered")
    with pytest.raises(EdgeliftError, match="tampered"):
        RemoteRegistry(url, tmp_path / "other").load()
    registry.store.put("v0001/../../out", b"")
    with pytest.raises(EdgeliftError, match="leads out"):
        RemoteRegistry(url, tmp_path / "third").load()
    assert not (tmp_path / "out").exists()


def test_what_was_fetched_is_fetched_once_and_only_the_last_are_kept(
    registry: RemoteRegistry, first: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load()
    monkeypatch.setattr(registry.store, "download", lambda name, path: pytest.fail("fetched again"))
    assert registry.load().manifest == first.manifest
    monkeypatch.undo()
    for number in range(1, CACHED + 3):
        publish_copy(registry, first, f"v{number:04d}")
        registry.load()
    assert len(list(registry.cache.glob("v*"))) == CACHED


def test_what_is_refused_is_kept_and_old_candidates_go(registry: RemoteRegistry, first: Bundle) -> None:
    for number in range(7):
        with registry.staging() as folder:
            shutil.copytree(first.path, folder / "refused" / "bundle")
            (folder / "refused" / "report.json").write_text(json.dumps({"number": number}))
            assert registry.keep_refused(folder / "refused") == f"{registry}/refused/{number + 1:04d}"
    assert [report["number"] for report in registry.refusals()] == list(range(7))
    assert len([name for name in registry.store.names("refused") if name.endswith("manifest.json")]) == 5


def test_a_loop_follows_a_store_and_asks_again_after_an_outage(
    registry: RemoteRegistry, first: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    registry.look_every_s = 3600.0
    follower = Follower(registry, "v0001", lambda b: b.path.name, lambda n: None, lambda kind, what: said.append(kind))
    publish_copy(registry, first, "v0001")
    with monkeypatch.context() as broken:
        broken.setattr(registry.store.fs, "get_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no route")))
        follower.look()
    assert (follower.taken(), said) == (None, ["registry"])
    follower.look()
    assert follower.taken() == "v0002"
    follower.close()


def test_places_that_are_none(first: Bundle, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgeliftError, match="no registry"):
        load_current(f"{s3}/nothing")
    with pytest.raises(EdgeliftError, match="nosuch"):
        open_registry("nosuch://bucket/registry")
    with pytest.raises(EdgeliftError, match="bucket does not exist"):
        RemoteRegistry("s3://nobodys/registry", tmp_path / "cache").create(first)
    Store(f"{s3}/own").put("papers/one", b"")
    with pytest.raises(EdgeliftError, match="papers/one there already"):
        RemoteRegistry(f"{s3}/own", tmp_path / "cache").create(first)
    assert open_registry(first.path.as_uri()).place == str(first.path)  # a file:// URL is a path


@pytest.mark.parametrize("url", ["dir::file:///tmp/store", "simplecache::memory://registry", "https://host/registry"])
def test_stores_that_may_put_twice_are_refused(url: str) -> None:
    with pytest.raises(EdgeliftError, match="may put one object twice"):
        open_registry(url)


def test_one_place_has_one_name(s3: str, tmp_path: Path) -> None:
    assert open_registry(f"{s3}//hall/").place == f"{s3}/hall"
    assert open_registry(f"{s3}/hall").is_at(f"{s3}/hall/")
    assert not open_registry(f"{s3}/hall").is_at(tmp_path)
    assert open_registry("file:///a%20b").place == "/a b"
    with pytest.raises(EdgeliftError, match="no bucket"):
        open_registry("s3://")


def test_what_consoles_and_people_leave_is_passed_over_or_told(registry: RemoteRegistry, first: Bundle) -> None:
    for folder in ("", "history/", "v0001/", "refused/"):
        registry.store.fs.pipe_file(f"{registry.store.root}/{folder}", b"")
    registry.store.put("refused/notes/hello.txt", b"")
    assert publish_copy(registry, first, "v0001") == "v0002"
    assert registry.load("v0001").manifest == first.manifest
    assert registry.refusals() == []
    registry.store.put("history/000003.json", b"")
    with pytest.raises(EdgeliftError, match=r"history/000003.json: received b''"):
        registry.history()


def test_a_neighbour_whose_name_is_a_pattern_stays(s3: str, first: Bundle, tmp_path: Path) -> None:
    for name in ("room[1]", "room1"):
        registry = RemoteRegistry(f"{s3}/{name}", tmp_path / name)
        registry.create(first)
        publish_copy(registry, first, "v0001")
    assert RemoteRegistry(f"{s3}/room[1]", tmp_path / "pruner").prune(1) == ["v0001"]
    whole(f"{s3}/room1", tmp_path / "reader")
    assert RemoteRegistry(f"{s3}/room1", tmp_path / "reader").versions() == ["v0001", "v0002"]


def test_a_damaged_copy_on_this_machine_is_fetched_again(registry: RemoteRegistry, first: Bundle) -> None:
    (registry.load().path / "lifter.onnx").unlink()
    assert registry.load().manifest == first.manifest


def test_a_dead_store_is_one_message(first: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edgelift.cli", "registry", "list", "s3://bucket/registry"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "error: s3://bucket/registry: received " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_live_command_takes_a_url(
    registry: RemoteRegistry, url: str, sessions: list[Session], tmp_path: Path
) -> None:
    save_session(sessions[0], tmp_path / "take.npz")
    words = ["lift", url, "--source", str(tmp_path / "take.npz"), "--camera", "cam_01", "--fast", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgelift.cli", *words, "--sink", str(tmp_path / "out.jsonl")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lifter"] == "v0001"
