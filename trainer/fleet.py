"""A fleet: many sites, each with its own base, sessions and registry, refreshed as tasks of a Ray cluster.

Ray brings what a queue of our own would have to: workers on many machines, cores and GPUs shared out by what a task
asks for, and a task begun again where its worker dies. A site is one task. It may run twice without harm: what the
current version has learnt from is left out, an adaptation that was interrupted on the same machine goes on, and of two
publishers one wins.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.poses.sessions import find_sessions, load_session
from edgelift.runtime.registries import Registry, is_url, open_registry, path_of
from edgelift.runtime.registries.places import plain_url
from edgelift.trainer.adapt import AdaptSettings
from edgelift.trainer.data import fingerprint
from edgelift.trainer.refresh import RefreshSettings, learnt_from, refresh
from edgelift.trainer.settings import LearnCameras

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = (lambda value: isinstance(value, str) and value != "", "text")
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": TEXT,
    "LearnCameras": TEXT,
    "float": (lambda value: _is_number(value), "a number"),
    "int": (lambda value: _is_number(value) and value % 1 == 0, "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "tuple": (
        lambda value: isinstance(value, list) and bool(value) and all(map(TEXT[0], value)),
        "a list of paths or URLs",
    ),
}
"""What a key of a type may hold, and that in words."""
CHOICES = {"learn_cameras": ("none", "extrinsics", "intrinsics", "all"), "device": ("cpu", "cuda")}
RETRIES = 3  # of a site whose worker or machine died
ANSWERS_S = 10.0
STORE_BYTES = 80 * 2**20  # of a cluster made for one run: what travels is a site's settings and its report
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
Told = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Site:
    """A site of a fleet.

    registry: path or URL; base: the bundle or registry that begins it where it is not there yet. sessions: files,
    directories, or URLs of either, of different names. cpus, gpus: what a task asks Ray for; parts of one GPU are
    allowed. shared_paths: paths mean the same on every machine of the cluster.
    """

    name: str
    registry: str
    sessions: tuple[str, ...]
    base: str | None = None
    budget_s: float = 60.0
    learn_cameras: LearnCameras = "none"
    steps: int = AdaptSettings.steps
    device: str = "cpu"
    cpus: float = 1.0
    gpus: float = 0.0
    shared_paths: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """All that a worker has to reach."""
        return (self.registry, *self.sessions, *((self.base,) if self.base else ()))


def read_sites(path: Path) -> list[Site]:
    """Read a fleet's file: [[site]] tables, and [defaults] for what they leave out; paths are relative to the file.

    EdgeliftError for a key that is unknown, missing or of another type, and where two sites share a name or a registry.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgeliftError(str(path), f"no TOML ({error})", "[[site]] tables", "See docs/fleet.md.") from error
    rows, defaults = told.get("site"), told.get("defaults", {})
    foreign = sorted(set(told) - {"site", "defaults"})
    if foreign or not isinstance(rows, list) or not rows or not isinstance(defaults, dict):
        raise EdgeliftError(
            str(path), f"{foreign or 'no site'}", "[[site]] tables and perhaps [defaults]", "See docs/fleet.md."
        )
    sites = [_site(row, defaults, path, f"{path}, site {number}") for number, row in enumerate(rows, 1)]
    for what in ("name", "registry"):
        values = [getattr(site, what) for site in sites]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise EdgeliftError(str(path), f"{what} {twice[0]} more than once", "one for each site", "Name another.")
    return sites


def _site(told: Any, defaults: dict[str, Any], path: Path, where: str) -> Site:
    row: dict[str, Any] = defaults | told if isinstance(told, dict) else {}
    known, needed = {field.name: str(field.type) for field in fields(Site)}, {"name", "registry", "sessions"}
    if set(row) - set(known) or needed - set(row):
        raise EdgeliftError(
            where,
            f"keys {sorted(row)}",
            f"{sorted(needed)}, and of {sorted(set(known) - needed)}",
            "See docs/fleet.md.",
        )
    for key, value in row.items():
        fits, expected = VALUES[known[key].partition("[")[0].partition(" ")[0]]
        if not fits(value):
            raise EdgeliftError(f"{where}, {key}", repr(value), expected, "See docs/fleet.md.")
    for key, allowed in CHOICES.items():
        if row.get(key, allowed[0]) not in allowed:
            raise EdgeliftError(f"{where}, {key}", repr(row[key]), " or ".join(allowed), "Choose one of them.")
    gpus = row.get("gpus", 0)
    if min(row.get(key, 1) for key in ("budget_s", "steps", "cpus")) <= 0 or gpus < 0 or (gpus > 1 and gpus % 1):
        raise EdgeliftError(
            where, f"{row}", "budget_s, steps and cpus above 0; gpus 0, a part of one, or whole ones", "Give another."
        )
    site = Site(**row | {"sessions": tuple(_placed(text, path) for text in row["sessions"])})
    base = None if site.base is None else _placed(site.base, path)
    return replace(site, registry=_placed(site.registry, path), base=base)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _placed(text: str, path: Path) -> str:
    """Absolute, as workers have other working directories."""
    return plain_url(text) if is_url(text) else str((path.parent / path_of(text)).resolve())


def refresh_fleet(sites: Sequence[Site], address: str, told: Told = lambda report: None) -> list[dict[str, Any]]:
    """Refresh every site on a Ray cluster; told: called with each site's report as it comes. Reports by site's order.

    A report: `site`, `how` (published, refused, unchanged, failed), `version`, `why`, `host`, `seconds`; and `adapt`,
    the keys of `edgelift adapt --json`, where there was an adaptation.
    address: of a cluster, `auto` for the one that this machine belongs to, `local` for one that lives as long as this.
    """
    reports: dict[str, dict[str, Any]] = {}
    with _cluster(address) as ray, redirect_stdout(sys.stderr):  # Ray tells of dead workers on standard output
        _check_room(sites, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        running = {_task(ray, site): site for site in sites}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            site = running.pop(done[0])
            try:
                report = ray.get(done[0])
            except ray.exceptions.RayError as error:  # the worker died too often, or a fault of ours
                report = _report(site, "failed", str(error).strip().splitlines()[-1]) | {"host": None, "seconds": None}
            reports[site.name] = report
            told(report)
    return [reports[site.name] for site in sites]


def _task(ray: Any, site: Site) -> Any:
    """Start a site's task; in a process of its own: PyTorch keeps its threads and its GPU as long as that lives."""
    how = {"num_cpus": site.cpus, "num_gpus": site.gpus, "max_retries": RETRIES, "max_calls": 1}
    return ray.remote(**how)(refresh_site).options(name=f"edgelift {site.name}").remote(site)


def _check_room(sites: Sequence[Site], machines: Sequence[dict[str, float]]) -> None:
    """EdgeliftError for a site that no machine has room for, which would wait for ever, or whose paths may differ."""
    for site in sites:
        if not any(m.get("CPU", 0) >= site.cpus and m.get("GPU", 0) >= site.gpus for m in machines):
            there = "; ".join(f"{m.get('CPU', 0):g} CPUs, {m.get('GPU', 0):g} GPUs" for m in machines)
            raise EdgeliftError(
                f"site {site.name}",
                f"cpus {site.cpus:g}, gpus {site.gpus:g}",
                f"what a machine has: {there}",
                "Ask for less.",
            )
        paths = [place for place in site.places if not is_url(place)]
        if len(machines) > 1 and paths and not site.shared_paths:
            raise EdgeliftError(
                f"site {site.name}", f"{paths[0]} on a cluster of {len(machines)} machines", "URLs",
                "If it is one file system for all of them, say shared_paths = true.",
            )  # fmt: skip


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Yield Ray, connected."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing_extra("ray", "fleet") from error
    _check_answers(address)
    with tempfile.TemporaryDirectory(prefix="edgelift-ray-", ignore_cleanup_errors=True) as folder:
        how = QUIET | {"address": address}
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
            how |= {"include_dashboard": False, "object_store_memory": STORE_BYTES, "_temp_dir": folder}
        try:
            ray.init(**how)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise EdgeliftError(
                f"--ray {address}", str(error).strip().splitlines()[0], "a cluster of this Ray's version that answers",
                "See `ray status` there; where it wants a token, set RAY_AUTH_MODE=token. Without --ray one is made.",
            ) from error  # fmt: skip
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """EdgeliftError where nothing answers at HOST:PORT: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=ANSWERS_S).close()
        except OSError as error:
            raise EdgeliftError(
                f"--ray {address}", str(error), "a cluster that answers", "See `ray status` there, or leave it out."
            ) from error


def refresh_site(site: Site) -> dict[str, Any]:
    """Refresh one site, and report; what is wrong there is its report, not an error: the others go on."""
    began = time.perf_counter()
    try:
        with _fetched(site.sessions) as paths:
            report = _refreshed(site, open_registry(site.registry), paths)
    except (EdgeliftError, OSError) as error:
        report = _report(site, "failed", str(error))
    return report | {"seconds": round(time.perf_counter() - began, 2)}


def _refreshed(site: Site, registry: Registry, paths: Sequence[Path]) -> dict[str, Any]:
    registry.recover()
    source = site.registry if registry.exists() else site.base
    if source is None:
        raise EdgeliftError(site.registry, "no registry", "one, or a base that begins it", "Add base to the site.")
    sessions, left_out = _readable(paths)
    new = _new(registry, sessions) if registry.exists() else list(sessions.values())
    if not new:
        why = "; ".join(["no session that it has not learnt from, or refused", *left_out])
        return _report(site, "unchanged", why, registry.current())
    settings = RefreshSettings(site.budget_s, site.learn_cameras, False, site.device, AdaptSettings(site.steps))
    result = refresh(source, new, registry, settings)
    bad = {f.session for f in result.findings if f.refused}
    good = [path for path in new if path.stem not in bad]
    if result.version is None and result.adapted is None and 0 < len(good) < len(new):
        result = refresh(site.registry, good, registry, settings)  # without those that spoil it for the others
        left_out += [f"left out: {name}" for name in sorted(bad)]
    how = "refused" if result.version is None else "published"
    why = "; ".join([*result.reasons, *left_out])
    return _report(site, how, why, result.version) | {"adapt": result.to_dict()}


def _readable(paths: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Sessions by fingerprint, and why others are none; EdgeliftError where nothing can be read."""
    sessions: dict[str, Path] = {}
    errors: list[str] = []
    found = find_sessions(paths)
    names = Counter(path.stem for path in found)
    for path in found:
        try:
            if names[path.stem] > 1:
                raise EdgeliftError(str(path), "a name twice", "names that differ", "Rename one of them.")
            session = load_session(path)
            sessions[fingerprint([session], with_poses=False)] = path
        except (EdgeliftError, OSError) as error:
            errors.append(f"left out: {error}")
    if not sessions:
        raise EdgeliftError("its sessions", "; ".join(errors) or "none", "one at least", "Check their places.")
    return sessions, errors


def _new(registry: Registry, sessions: dict[str, Path]) -> list[Path]:
    """Sessions that the current version has not learnt from and that were not refused for themselves.

    None of them where just these were refused after an adaptation of the current version: it would come to the same.
    """
    now, refusals = registry.current(), registry.refusals()
    known = learnt_from(registry.manifest(now)) | _withdrawn(registry)
    for report in refusals:
        bad = {f["session"] for f in report.get("findings", ()) if f["refused"]}
        known |= {s["fingerprint"] for s in report.get("sessions", ()) if s["name"] in bad}
    new = sessions.keys() - known
    together = [{s["fingerprint"] for s in r.get("sessions", ())} for r in refusals if r.get("base") == now]
    return [] if new in together else [sessions[key] for key in sessions if key in new]


def _withdrawn(registry: Registry) -> set[str]:
    """Fingerprints of what versions learnt from that people went back from."""
    left = {event.previous for event in registry.history() if event.what == "rolled_back"} & set(registry.versions())
    refreshes = [registry.manifest(str(name)).get("refresh") or {} for name in left]
    return {session["fingerprint"] for refresh in refreshes for session in refresh.get("sessions", ())}


@contextmanager
def _fetched(places: Sequence[str]) -> Iterator[list[Path]]:
    """Yield sessions as paths of this machine; those of a store are fetched, and gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="edgelift-sessions-") as folder:
        paths = []
        for number, place in enumerate(places):
            if is_url(place):
                from edgelift.runtime.registries.remote import Store

                Store(place).download_all(".npz", Path(folder) / str(number))
                paths.append(Path(folder) / str(number))
            else:
                paths.append(Path(place))
        yield paths


def _report(site: Site, how: str, why: str = "", version: str | None = None) -> dict[str, Any]:
    return {"site": site.name, "how": how, "version": version, "why": why, "host": socket.gethostname()}
