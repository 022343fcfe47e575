"""Many sites on a cluster: what a fleet's file may hold, and a worker killed midway."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgelift.cli.refresh import _site_line
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, save_session
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.registries import LocalRegistry, open_registry
from edgelift.runtime.registries.remote import RemoteRegistry, Store
from edgelift.trainer.fleet import Site, _check_room, read_sites, refresh_site

from .lifters import somebody_new, walkers_bundle


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return walkers_bundle(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def recorded() -> list[Session]:
    return somebody_new()


def saved(sessions: list[Session], folder: Path) -> Path:
    for session in sessions:
        save_session(session, folder / f"{session.name}.npz")
    return folder


def exchanged(session: Session) -> Session:
    return replace(session, name="wrong", keypoints=session.keypoints[[1, 0, 2, 3]])


# --- the file ---

WHOLE = """
[defaults]
budget_s = 90
base = "bundles/first"

[[site]]
name = "hall-1"
registry = "s3://fleet/hall-1"
sessions = ["recordings/hall-1", "s3://recordings/hall-1"]
learn_cameras = "extrinsics"

[[site]]
name = "hall-2"
registry = "registries/hall-2"
base = "bundles/other"
sessions = ["take.npz"]
device = "cuda"
gpus = 0.25
"""


def test_a_fleet_is_read_with_defaults_and_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_text(WHOLE)
    one, two = read_sites(tmp_path / "sites.toml")
    assert (one.registry, one.base, one.budget_s, one.learn_cameras, one.cpus) == (
        "s3://fleet/hall-1", str(tmp_path / "bundles/first"), 90, "extrinsics", 1.0,
    )  # fmt: skip
    assert one.sessions == (str(tmp_path / "recordings/hall-1"), "s3://recordings/hall-1")
    assert (two.registry, two.base) == (str(tmp_path / "registries/hall-2"), str(tmp_path / "bundles/other"))
    assert (two.device, two.gpus) == ("cuda", 0.25)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[[site]]", "[[site", "no TOML"),
        ("[[site]]", "[[sites]]", r"\['sites'\]"),
        (WHOLE, "", "no site"),
        ('name = "hall-2"', 'name = "hall-1"', "name hall-1 more than once"),
        ("registries/hall-2", "s3://fleet/hall-1", "registry s3://fleet/hall-1 more than once"),
        ('base = "bundles/other"', "budget = 5", "site 2: received keys"),
        ('name = "hall-2"\n', "", "site 2: received keys"),
        ('sessions = ["take.npz"]', 'sessions = "take.npz"', "a list of paths or URLs"),
        ('sessions = ["take.npz"]', "sessions = [1]", "a list of paths or URLs"),
        ('sessions = ["take.npz"]', "sessions = []", "a list of paths or URLs"),
        ("budget_s = 90", 'budget_s = "90s"', "a number"),
        ("budget_s = 90", "budget_s = true", "a number"),
        ("budget_s = 90", "budget_s = 0", "budget_s, steps and cpus above 0"),
        ("gpus = 0.25", "gpus = -1", "gpus 0, a part"),
        ("gpus = 0.25", "gpus = 1.5", "whole ones"),
        ("gpus = 0.25", "cpus = inf", "a number"),
        ("gpus = 0.25", "steps = 1.5", "a whole number"),
        ("gpus = 0.25", 'shared_paths = "yes"', "true or false"),
        ('sessions = ["take.npz"]', 'sessions = [""]', "a list of paths or URLs"),
        (WHOLE, "site = [1, 2]", "site 1: received keys"),
        ("registries/hall-2", "s3://fleet//hall-1/", "registry s3://fleet/hall-1 more than once"),
        ("registries/hall-2", "s3://", "no bucket"),
        ('device = "cuda"', 'device = "tpu"', "cpu or cuda"),
        ('learn_cameras = "extrinsics"', 'learn_cameras = "yes"', "none or extrinsics"),
        ('name = "hall-1"', "name = 1", "expected text"),
    ],
)
def test_what_a_fleet_may_not_say(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WHOLE
    (tmp_path / "sites.toml").write_text(WHOLE.replace(old, new))
    with pytest.raises(EdgeliftError, match=told):
        read_sites(tmp_path / "sites.toml")


# --- one site ---


def test_a_site_in_a_store_is_refreshed_once(base: Bundle, recorded: list[Session], s3: str, tmp_path: Path) -> None:
    for session in recorded:
        save_session(session, tmp_path / "take.npz")
        Store(f"{s3}/recordings").put(f"{session.name}.npz", (tmp_path / "take.npz").read_bytes())
    site = Site("hall", f"{s3}/hall", (f"{s3}/recordings",), str(base.path), budget_s=600.0, steps=60)
    report = refresh_site(site)
    assert (report["how"], report["version"]) == ("published", "v0002"), report["why"]
    assert [s["name"] for s in report["adapt"]["sessions"]] == sorted(s.name for s in recorded)
    registry = open_registry(site.registry)
    assert isinstance(registry, RemoteRegistry)
    assert registry.load().manifest["parent"]["version"] == registry.parent("v0002") == "v0001"
    # begun again, as after a worker that died just before it could report: nothing is learnt from twice
    again = refresh_site(replace(site, base=None))
    assert (again["how"], again["version"], registry.current()) == ("unchanged", "v0002", "v0002")


def test_a_bad_session_is_left_out_and_not_tried_every_night(
    base: Bundle, recorded: list[Session], tmp_path: Path
) -> None:
    takes = saved([exchanged(recorded[0])], tmp_path / "takes")
    site = Site("hall", str(tmp_path / "registry"), (str(takes),), str(base.path), budget_s=600.0, steps=60)
    assert refresh_site(site)["how"] == "refused"
    assert refresh_site(site)["how"] == "unchanged"  # the same sessions, the same base
    saved(recorded[1:], takes)
    (takes / "half.npz").write_bytes(b"still being copied")
    report = refresh_site(site)
    assert report["how"] == "published"
    assert re.fullmatch("left out: .*half.npz.*", report["why"])
    assert [s["name"] for s in report["adapt"]["sessions"]] == [recorded[1].name]
    assert refresh_site(site)["how"] == "unchanged"  # nor is it, once there is a newer version
    registry = LocalRegistry(tmp_path / "registry")
    assert len(registry.refusals()) == 1
    registry.rollback()
    assert refresh_site(site)["how"] == "unchanged"  # what people went back from is not made again


def test_a_session_that_spoils_it_for_the_others_is_left_out_at_once(
    base: Bundle, recorded: list[Session], tmp_path: Path
) -> None:
    takes = saved([exchanged(recorded[0]), recorded[1]], tmp_path / "takes")
    report = refresh_site(Site("hall", str(tmp_path / "registry"), (str(takes),), str(base.path), 600.0, steps=60))
    assert (report["how"], report["why"]) == ("published", "left out: wrong")


def test_a_site_may_begin_from_another_sites_version(base: Bundle, recorded: list[Session], tmp_path: Path) -> None:
    takes = saved(recorded[:1], tmp_path / "takes")
    first = Site("one", str(tmp_path / "one"), (str(takes),), str(base.path), 600.0, steps=60)
    assert refresh_site(first)["how"] == "published"
    other = saved(recorded[1:], tmp_path / "other")
    second = replace(first, name="two", registry=str(tmp_path / "two"), base=first.registry, sessions=(str(other),))
    refresh_site(second)
    registry = LocalRegistry(tmp_path / "two")
    assert registry.manifest("v0001")["parent"]["version"] == "v0001"  # of the other registry
    assert registry.parent("v0001") is None
    assert refresh_site(replace(second, sessions=(str(takes),)))["how"] == "unchanged"  # its base has learnt from it


def test_names_that_are_there_twice_are_told(base: Bundle, recorded: list[Session], tmp_path: Path) -> None:
    folders = [str(saved(recorded[:1], tmp_path / day)) for day in ("monday", "tuesday")]
    report = refresh_site(Site("hall", str(tmp_path / "registry"), tuple(folders), str(base.path)))
    assert (report["how"], report["why"].count("a name twice")) == ("failed", 2)


def test_a_site_that_no_machine_has_room_for_is_told_at_once() -> None:
    site = Site("hall", "s3://fleet/hall", ("s3://recordings/hall",), gpus=1.0)
    _check_room([replace(site, gpus=0.0)], [{"CPU": 2.0}])
    with pytest.raises(EdgeliftError, match="site hall: received cpus 1, gpus 1"):
        _check_room([site], [{"CPU": 2.0}, {"CPU": 8.0}])
    with pytest.raises(EdgeliftError, match="shared_paths"):
        _check_room([replace(site, gpus=0.0, base="/data/base")], [{"CPU": 2.0}, {"CPU": 8.0}])


def test_what_is_wrong_at_a_site_is_its_report(base: Bundle, tmp_path: Path) -> None:
    nothing = Site("hall", str(tmp_path / "registry"), (str(tmp_path / "nothing.npz"),), str(base.path))
    assert "nothing.npz" in refresh_site(nothing)["why"]
    (tmp_path / "bad.npz").write_bytes(b"no session")
    assert refresh_site(replace(nothing, sessions=(str(tmp_path / "bad.npz"),)))["how"] == "failed"


# --- the cluster ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of 2 workers on this machine."""
    home = tempfile.mkdtemp(prefix="ray-")  # sockets lie there, whose paths must be short
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")  # it listens on all interfaces
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        words = [
            "start", "--head", "--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000",
            "--port=0", f"--temp-dir={home}", "--disable-usage-stats", "--block",
        ]  # fmt: skip
        ray = str(Path(sys.executable).with_name("ray"))
        with subprocess.Popen([ray, *words], stdout=subprocess.PIPE, text=True, start_new_session=True) as head:
            assert head.stdout is not None
            address = next(line.split("'")[1] for line in head.stdout if "--address=" in line)
            yield address
            os.killpg(head.pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def sites_of(base: Bundle, takes: Path, registries: Path, count: int) -> str:
    rows = [f'[defaults]\nbase = "{base.path}"\nsessions = ["{takes}"]\nbudget_s = 600\nsteps = 60\n']
    rows += [f'[[site]]\nname = "site-{n}"\nregistry = "{registries}/{n}"\n' for n in range(count)]
    return "\n".join(rows)


def worker_of(site: str, within_s: float) -> psutil.Process:
    """The process in which a site's task runs."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        for process in psutil.process_iter(["cmdline"]):
            if f"ray::edgelift {site}" in " ".join(process.info["cmdline"] or ()):
                return process
        time.sleep(0.05)
    raise AssertionError(f"no worker of {site}")


def test_a_worker_killed_midway_costs_nothing_but_time(
    base: Bundle, recorded: list[Session], cluster: str, tmp_path: Path
) -> None:
    takes = saved(recorded, tmp_path / "takes")
    text = sites_of(base, takes, tmp_path / "registries", 2)
    text += f'[[site]]\nname = "none"\nregistry = "{tmp_path}/registries/none"\nsessions = ["{tmp_path}/none.npz"]\n'
    (tmp_path / "sites.toml").write_text(text)
    words = ["adapt", "--fleet", str(tmp_path / "sites.toml"), "--ray", cluster, "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "edgelift.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        victim = worker_of("site-1", 120)
        registry = LocalRegistry(tmp_path / "registries" / "1")
        while not registry.exists():  # it has begun
            time.sleep(0.05)
        victim.kill()
        out, said = running.communicate(timeout=240)
    told: dict[str, Any] = json.loads(out)
    assert running.returncode == 2, said  # one site has no sessions
    assert [(r["site"], r["how"]) for r in told["sites"]] == [
        ("site-0", "published"), ("site-1", "published"), ("none", "failed"),
    ]  # fmt: skip
    assert (told["published"], told["refused"], told["unchanged"], told["failed"]) == (2, 0, 0, 1)
    for number in (0, 1):
        registry = LocalRegistry(tmp_path / "registries" / str(number))
        assert registry.load().manifest["parent"]["version"] == "v0001"
        assert not list(registry.path.glob(".staging-*"))
    assert "3/3" in said
    assert "2 published, 1 failed, of 3 sites" in said.strip().splitlines()[-1]


def test_a_site_whose_worker_died_too_often_is_told_like_the_others() -> None:
    report = {"site": "hall", "how": "failed", "version": None, "why": "a crash", "host": None, "seconds": None}
    assert _site_line(report) == "hall: failed (a crash)"
    assert _site_line(report | {"host": "vm", "seconds": 3.2}) == "hall: failed (a crash), 3 s on vm"


def test_a_cluster_that_is_none(base: Bundle, tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_text(sites_of(base, tmp_path, tmp_path, 1))
    words = [sys.executable, "-m", "edgelift.cli", "adapt"]
    for more, told in (
        (["--fleet", "sites.toml", "--ray", "127.0.0.1:9"], "--ray 127.0.0.1:9"),
        (["--fleet", "sites.toml", "bundle", "--force"], "source, force as well"),
        (["--ray", "auto", "bundle", "take.npz", "-o", "registry"], "no --fleet"),
        (["bundle"], "not all of SOURCE"),
    ):
        done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
