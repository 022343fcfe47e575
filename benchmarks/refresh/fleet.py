"""What a site of a fleet costs: four sites on a Ray cluster of this machine, registries and sessions in a store.

python benchmarks/refresh/bases.py --data ../shared/data --runs runs/refresh
python benchmarks/refresh/fleet.py --data ../shared/data --runs runs/refresh -o benchmarks/results

Each site has a person that its base does not know, as in gain.py; its registry and its sessions lie in a server that
speaks S3 (moto, in this process). `edgelift adapt --fleet` runs with a core for each site, then with two; then with a
core each again, and a worker is killed by SIGKILL midway. Later takes are scored as in gain.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from gain import scored
from moto.server import ThreadedMotoServer
from takes import PEOPLE, recorded

from edgelift.poses.sessions import save_session
from edgelift.runtime.bundle import load_bundle
from edgelift.runtime.registries import open_registry
from edgelift.runtime.registries.remote import RemoteRegistry, Store

BUCKET, MIB = "fleet", 2.0**20
KILLED, KILLED_AFTER_S = "135", 20.0


def ask_the_store(folder: Path) -> None:
    """Start the server, and let this process and those it starts use it."""
    import fsspec

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1", "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip
    fsspec.filesystem("s3").mkdir(BUCKET)


def upload_sessions(person: str, data: Path, folder: Path) -> dict[str, Any]:
    """Put a person's first takes into the store; how much they are."""
    takes, size = recorded(data, person).first, 0
    for session in takes:
        path = folder / f"{session.name}.npz"
        save_session(session, path)
        size += path.stat().st_size
        Store(f"s3://{BUCKET}/recordings/{person}").put(path.name, path.read_bytes())
    seconds = sum(float(s.timestamps[-1] - s.timestamps[0]) for s in takes)
    return {"person": person, "recorded_s": round(seconds, 1), "sessions_mib": round(size / MIB, 2)}


def run(name: str, cpus: float, people: list[str], options: argparse.Namespace, folder: Path, kill: bool) -> Any:
    """Refresh the fleet once, in registries of its own."""
    rows = [f"[defaults]\ncpus = {cpus}\nbudget_s = {options.budget}\n"]
    rows += [
        f'[[site]]\nname = "{p}"\nregistry = "s3://{BUCKET}/{name}/{p}"\nbase = "{options.runs.resolve()}/{p}.bundle"\n'
        f'sessions = ["s3://{BUCKET}/recordings/{p}"]\n'
        for p in people
    ]
    (folder / f"{name}.toml").write_text("\n".join(rows))
    command = [sys.executable, "-m", "edgelift.cli", "adapt", "--fleet", str(folder / f"{name}.toml"), "--json"]
    with Watched() as watched:
        started = time.perf_counter()
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        killer = threading.Thread(target=kill_worker) if kill else None
        if killer is not None:
            killer.start()
        out, _ = running.communicate()
        seconds = time.perf_counter() - started
    told = json.loads(out)
    return {"name": name, "cpus_a_site": cpus, "seconds": round(seconds, 1), **watched.told(), "fleet": told}


def kill_worker() -> None:
    """Kill the worker of one site when it has been at work for a while."""
    while not (found := [p for p in ray_processes() if f"ray::edgelift {KILLED}" in " ".join(p.cmdline())]):
        time.sleep(0.1)
    time.sleep(KILLED_AFTER_S)
    found[0].kill()
    print(f"killed the worker of {KILLED}", flush=True)


def ray_processes() -> list[psutil.Process]:
    """All that belongs to a cluster."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if words.startswith("ray::") or "/ray/" in words or "gcs_server" in words:
            found.append(process)
    return found


class Watched:
    """The cluster's memory meanwhile: the most that its workers with a site took, and what all the rest did."""

    def __enter__(self) -> Watched:
        self.site_mib, self.rest_mib, self.stopping = 0.0, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stopping.wait(1.0):
            sizes: dict[bool, list[float]] = {True: [], False: []}
            for process in ray_processes():
                try:
                    at_work = "ray::edgelift" in " ".join(process.cmdline())
                    sizes[at_work].append(process.memory_full_info().pss / MIB)
                except psutil.Error:  # gone meanwhile
                    continue
            self.site_mib = max([self.site_mib, *sizes[True]])
            self.rest_mib = max(self.rest_mib, sum(sizes[False]))

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        self.thread.join()

    def told(self) -> dict[str, float]:
        """Proportional set sizes, MiB."""
        return {"largest_site_pss_mib": round(self.site_mib, 1), "rest_of_cluster_pss_mib": round(self.rest_mib, 1)}


def outcome(run_: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each site gained, and what its registry holds."""
    rows = []
    for report in run_["fleet"]["sites"]:
        person = report["site"]
        registry = open_registry(f"s3://{BUCKET}/{run_['name']}/{person}")
        assert isinstance(registry, RemoteRegistry)
        base, now = load_bundle(options.runs / f"{person}.bundle"), registry.load()
        gained = scored(base, now, recorded(options.data, person).later)
        size = sum(p.stat().st_size for p in now.path.rglob("*") if p.is_file())
        rows.append(
            {
                "person": person, "how": report["how"], "seconds": report["seconds"], "ratio": gained["ratio"],
                "interval": gained["interval"], "steps": report["adapt"]["adaptation"]["steps"],
                "stages": report["adapt"]["seconds"], "version_mib": round(size / MIB, 2),
                "objects": len(registry.store.names()),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--people", default=",".join(PEOPLE))
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    people = options.people.split(",")
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        folder = Path(scratch)
        ask_the_store(folder)
        result: dict[str, Any] = {"budget_s": options.budget, "cores": os.cpu_count()}
        result["sessions"] = [upload_sessions(person, options.data, folder) for person in people]
        result["runs"] = []
        for name, cpus, kill in (("one-core", 1.0, False), ("two-cores", 2.0, False), ("killed", 1.0, True)):
            done = run(name, cpus, people, options, folder, kill)
            done["rows"] = outcome(done, options)
            result["runs"].append(done)
    path = options.output / f"refresh_fleet_cpu_{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"-> {path}")
    os._exit(0)  # the server's thread has no end


if __name__ == "__main__":
    main()
