"""Faults of the refresh loop, with a tiny lifter: what happens, what is said, and that what is live stays whole.

python benchmarks/refresh/accidents.py -o benchmarks/results [--publish-kills 1000] [--adapt-kills 50]

SIGKILL at random moments of publishing and of `edgelift adapt`: after each the registry must load, `current` must name
a complete, verified version, and the next try must succeed. Then sessions and places that are wrong, each through the
command line: the exit code, the last line said, and whether `current` and its files are untouched.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.person import clips
from edgelift.poses.sessions import Session, save_session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.registries import LocalRegistry
from edgelift.runtime.registries.staging import STAGING
from edgelift.trainer.deploy import export_run
from edgelift.trainer.fit import train
from edgelift.trainer.settings import TrainSettings

FILMED = StudioSettings(30.0, 12.0, 3.0, "detector", 0.05)
PERSON_SEED = 77
PUBLISH_COUNTS = ("kills", "before_it_counted", "after", "finished_first", "left", "not_whole", "next_failed")
ADAPT_COUNTS = (
    "kills", "finished_first", "work_was_saved", "resumed", "live_before_the_kill", "published_after", "not_whole",
    "not_whole_after",
)  # fmt: skip
Ran = tuple[int, dict[str, Any], str]  # exit code, what was told to machines, what to people


def tiny_base(folder: Path, joints: str = "common14") -> Bundle:
    """A lifter that is trained in seconds."""
    people = list(film(clips(6.0, 60.0, 6, 0), studio_rig(4), StudioSettings(noise_px=3.0)))
    train(people[:-6], folder / "run", TrainSettings(skeleton=joints, width=32, epochs=4, batch=128), people[-6:])
    return export_run(folder / "run", folder / "base")


def recording(folder: Path, change: Callable[[Session], Session] = lambda s: s) -> Path:
    """Sessions of one person, changed; where they lie."""
    for session in film(clips(12.0, 60.0, 1, PERSON_SEED)[:2], studio_rig(4), FILMED):
        save_session(change(session), folder / f"{session.name}.npz")
    return folder


# --- kills ---


def publish_once(registry: Path, bundle: Path) -> str:
    """Stage a copy and publish it, as a refresh does."""
    with LocalRegistry(registry).staging() as folder:
        shutil.copytree(bundle, folder / "bundle")
        return LocalRegistry(registry).publish(folder / "bundle", LocalRegistry(registry).current())


def kill_publish(base: Bundle, folder: Path, kills: int) -> dict[str, Any]:
    """Kill a publishing process after a random share of the time that it takes; look; publish again."""
    registry = folder / "published"
    LocalRegistry(registry).create(base)
    takes_s = forked_s(registry, base.path)
    chance, found = random.Random(0), dict.fromkeys(PUBLISH_COUNTS, 0)
    while found["kills"] < kills:
        before, child = LocalRegistry(registry).current(), forked(registry, base.path)
        time.sleep(chance.uniform(0, 1.1 * takes_s))
        os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found["not_whole"] += not is_whole(registry)
        now = LocalRegistry(registry).current()
        found["kills"] += killed
        found["finished_first"] += not killed
        takes_s *= 1.01 if killed else 0.97  # the machine is not always as fast
        found["before_it_counted" if now == before else "after"] += killed
        found["left"] += bool(list(registry.glob(f"{STAGING}*")))
        again = publish_once(registry, base.path)
        found["next_failed"] += LocalRegistry(registry).current() != again or bool(list(registry.glob(f"{STAGING}*")))
        LocalRegistry(registry).prune(3)
    return found | {"publish_ms": round(1e3 * takes_s, 1)}


def is_whole(registry: Path) -> bool:
    """Whether `current` names a version, and all there are load: complete and verified."""
    try:
        return all(
            [
                LocalRegistry(registry).load(),
                *(load_bundle(registry / name) for name in LocalRegistry(registry).versions()),
            ]
        )
    except Exception as error:
        print(f"not whole: {error}", flush=True)
        return False


def forked(registry: Path, bundle: Path) -> int:
    """Publish once in a child; its process number."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            publish_once(registry, bundle)
        os._exit(0)
    return child


def forked_s(registry: Path, bundle: Path) -> float:
    """Seconds that a child takes."""
    began = time.perf_counter()
    for _ in range(10):
        os.waitpid(forked(registry, bundle), 0)
    return (time.perf_counter() - began) / 10


def kill_adapt(base: Bundle, folder: Path, kills: int) -> dict[str, Any]:
    """Kill `edgelift adapt` at a random moment; look; run it again to its end, which goes on from what was saved."""
    sessions, chance = recording(folder / "sessions"), random.Random(1)
    began = time.perf_counter()
    run_adapt(fresh(base, folder), sessions)
    takes_s = time.perf_counter() - began
    found = dict.fromkeys(ADAPT_COUNTS, 0)
    while found["kills"] < kills:
        registry = fresh(base, folder)
        child = start_adapt(registry, sessions)
        time.sleep(chance.uniform(0.3, takes_s))
        child.kill()
        child.communicate()
        found["not_whole"] += not is_whole(registry)
        saved, live = bool(list(registry.glob(".work-*"))), LocalRegistry(registry).current() != "v0001"
        killed = child.returncode == -signal.SIGKILL
        found["kills" if killed else "finished_first"] += 1
        found["work_was_saved"] += saved
        found["live_before_the_kill"] += live
        code, told, said = run_adapt(registry, sessions)
        resumed = [line for line in said.splitlines() if "going on from" in line]
        found["resumed"] += bool(resumed)
        found["published_after"] += code == 0 and told["version"] == LocalRegistry(registry).current()
        found["not_whole_after"] += not is_whole(registry) or bool(list(registry.glob(f"{STAGING}*")))
        what = f"adapt kill {found['kills']}: killed {killed}, saved {saved}, live {live}"
        print(f"{what}, rerun {code} {told.get('version')}", flush=True)
    return found | {"adapt_s": round(takes_s, 1)}


def fresh(base: Bundle, folder: Path) -> Path:
    """A new registry of one version."""
    registry = folder / "adapted"
    shutil.rmtree(registry, ignore_errors=True)
    LocalRegistry(registry).create(base)
    return registry


def start_adapt(registry: Path, sessions: Path, *more: str, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgelift.cli", "adapt", str(registry), str(sessions), "-o", str(registry)]
    command += ["--budget", "600s", "--steps", "40", "--json", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def run_adapt(registry: Path, sessions: Path, *more: str, **how: Any) -> Ran:
    process = start_adapt(registry, sessions, *more, **how)
    out, said = process.communicate(timeout=600)
    return process.returncode, json.loads(out) if out.strip() else {}, said


# --- what is wrong with sessions and places ---


def exchanged(s: Session) -> Session:
    return replace(s, keypoints=s.keypoints[[1, 0, 2, 3]])


def late(s: Session) -> Session:
    keypoints = s.keypoints.copy()
    keypoints[2, 9:] = s.keypoints[2, :-9]
    return replace(s, keypoints=keypoints)


def gone(s: Session) -> Session:
    keypoints = s.keypoints.copy()
    keypoints[np.random.default_rng(0).random(keypoints.shape[:-1]) < 0.9] = (np.nan, np.nan, 0)
    return replace(s, keypoints=keypoints)


def bumped(s: Session) -> Session:
    turn = np.radians(1.5)
    R = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    moved = replace(s.rig[0], R=R @ s.rig[0].R, t=R @ s.rig[0].t)
    return replace(s, cameras=(moved, *s.rig[1:]))


def feet(s: Session) -> Session:
    return replace(s, cameras=tuple(replace(c, t=c.t * 3.28) for c in s.rig))


def larger(s: Session) -> Session:
    names = tuple(f"new_{name}" for name in s.camera_names)  # as the known rig it would be a rig out of scale
    cameras = tuple(replace(c, t=c.t * 1.15, name=name) for c, name in zip(s.rig, names, strict=True))
    return replace(s, cameras=cameras, camera_names=names)


SESSIONS: dict[str, Callable[[Session], Session]] = {
    "camera names swapped": exchanged,
    "a view 0.3 s late": late,
    "90 % of the joints missing": gone,
    "a camera turned by 1.5 degrees": bumped,
    "positions in feet": feet,
    "a person 15 % larger": larger,
}


def wrong_sessions(base: Bundle, folder: Path) -> list[dict[str, Any]]:
    """Each kind of wrong session: nothing may change that is live."""
    rows = []
    for name, change in SESSIONS.items():
        registry = fresh(base, folder)
        sessions = recording(folder / name.replace(" ", "_").replace("%", "percent"), change)
        expected = "v0002" if change is larger else "v0001"  # they may be: it is told
        rows.append(row(name, registry, run_adapt(registry, sessions), expected))
    whole_body = tiny_base(folder / "h36m17", "h36m17")
    registry, other = fresh(whole_body, folder), folder / "other"
    recording(other, lambda s: s.to_skeleton(skeleton("common14")))
    rows.append(row("a session of another skeleton", registry, run_adapt(registry, other)))
    registry = fresh(base, folder)
    cut = folder / "cut"
    cut.mkdir()
    whole = next((folder / "sessions").glob("*.npz")).read_bytes()
    (cut / "cut.npz").write_bytes(whole[: len(whole) // 2])
    rows.append(row("a session file cut short", registry, run_adapt(registry, cut)))
    return rows


def wrong_places(base: Bundle, folder: Path) -> list[dict[str, Any]]:
    """Two publishers, a full disk, a read-only registry, a clock set back, a tampered version."""
    sessions, rows = folder / "sessions", []
    registry = fresh(base, folder)
    pair = [start_adapt(registry, sessions, "--seed", str(seed)) for seed in (0, 1)]
    ended = [(p.communicate(timeout=600), p.returncode) for p in pair]
    codes = sorted(code for _, code in ended)
    loser = next((said for (_, said), code in ended if code), "")
    rows.append(row("two publishers at once", registry, (codes[-1], {"codes": codes}, loser), "v0002"))
    with mounted(folder / "small", "size=3m") as small:
        registry = small / "registry"
        LocalRegistry(registry).create(base)
        (small / "filler").write_bytes(bytes(max(0, shutil.disk_usage(small).free - 150_000)))
        rows.append(row("a full disk", registry, run_adapt(registry, sessions)))
    with mounted(folder / "readonly", "size=8m") as place:
        registry = place / "registry"
        LocalRegistry(registry).create(base)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        rows.append(row("a read-only registry", registry, run_adapt(registry, sessions)))
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    registry = fresh(base, folder)
    future = time.time() + 10 * 365 * 86400
    for path in [registry / "current", *registry.rglob("v0001/*")]:
        os.utime(path, (future, future))
    history = registry / "history.jsonl"
    history.write_text(history.read_text().replace(history.read_text().split('"at_s": ')[1].split("}")[0], str(future)))
    rows.append(row("a clock set back by ten years", registry, run_adapt(registry, sessions), "v0002"))
    registry = fresh(base, folder)
    graph = registry / "v0001" / "lifter.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    rows.append(row("a tampered current version", registry, run_adapt(registry, sessions), None))
    return rows


class mounted:  # noqa: N801 - a context manager
    """A small file system in memory."""

    def __init__(self, place: Path, options: str) -> None:
        self.place, self.options = place, options

    def __enter__(self) -> Path:
        self.place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.place)], check=True)
        return self.place

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", str(self.place)], check=True)


def row(what: str, registry: Path, ran: Ran, expected: str | None = "v0001") -> dict[str, Any]:
    """What came of a fault; `whole`: whether `current` is what it should be, and verifies."""
    code, told, said = ran
    try:
        whole = LocalRegistry(registry).load().path.name == expected
    except Exception:
        whole = expected is None
    against = "; ".join(told.get("reasons", ())) or (said.strip().splitlines() or [""])[-1]
    return {
        "fault": what, "code": code, "current": LocalRegistry(registry).current(), "as_it_should_be": whole,
        "said": against[:400], "flagged": [f["what"] for f in told.get("findings", ()) if not f["refused"]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish-kills", type=int, default=1000)
    parser.add_argument("--adapt-kills", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = Path(tempfile.mkdtemp(prefix="refresh-faults-"))
    try:
        base = tiny_base(folder)
        result: dict[str, Any] = {"publish": kill_publish(base, folder, options.publish_kills)}
        print(json.dumps(result["publish"]), flush=True)
        result["adapt"] = kill_adapt(base, folder, options.adapt_kills)
        print(json.dumps(result["adapt"]), flush=True)
        result["faults"] = wrong_sessions(base, folder) + wrong_places(base, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for fault in result["faults"]:
        print(json.dumps(fault), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"refresh_faults_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"-> {path}")


if __name__ == "__main__":
    main()
