"""What edgelift takes of a device: disk by what is installed, memory, and seconds from its start to the first pose.

python benchmarks/live/footprint.py --bundle BUNDLE --data ../shared/data -o benchmarks/results

Each set of extras is installed, pinned by constraints-3.11.txt, into a fresh environment in a temporary folder (it is
removed). Disk is that of its packages, with their bytecode, without pip. `edgelift lift` reads JSON lines of one person
from a pipe and writes poses to another; seconds are counted from the moment before it is started. `with its sinks` adds
what the extra is for. Medians; the first start of each, which reads everything from the disk, is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from detected import filmed, message, rig_of
from loops import HOST, ONE_THREAD, free_port, machine, rss_mib, table, write

from edgelift.poses.rigs import read_rig

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES = 1000
MOST_MIB, MOST_S = 150.0, 1.0
IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


@dataclass(frozen=True)
class Extra:
    """What is installed, and arguments of `edgelift lift` that need it."""

    extras: str
    arguments: tuple[str, ...] = ()


SETS = (
    Extra(""),
    Extra("cpu"),
    Extra(
        "cpu,stream", ("--sink", "ws://{host}:{port}", "--sink", "zmq://{host}:{other}", "--metrics", "{host}:{third}")
    ),
    Extra("cpu,stream,files", ("--sink", "{folder}/take.c3d")),
    Extra("cpu,view", ("--sink", "{folder}/take.rrd")),
)


def copied(folder: Path) -> Path:
    """The checkout as it is tracked, because building leaves traces."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def installed(folder: Path, wheel: Path, extras: str) -> Path:
    """A fresh environment with edgelift and some extras; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    named = f"{wheel}[{extras}]" if extras else str(wheel)
    pinned = ["-c", str(REPOSITORY / "constraints-3.11.txt")]
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *pinned, named]
    subprocess.run(command, check=True)
    return python


def disk(python: Path) -> dict[str, Any]:
    """MB of the packages of an environment, and what they are; pip and setuptools are not ours."""
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    names = [f"{p['name']} {p['version']}" for p in json.loads(listed.stdout) if p["name"] not in ("pip", "setuptools")]
    (site,) = python.parents[1].glob("lib/python3*/site-packages")
    own = [path for path in site.rglob("*") if path.is_file() and not path.is_symlink()]
    own = [path for path in own if path.relative_to(site).parts[0].split("-")[0] not in ("pip", "setuptools")]
    size: dict[str, int] = {}
    for path in own:
        top = path.relative_to(site).parts[0].split("-")[0]
        size[top] = size.get(top, 0) + path.stat().st_size
    largest = sorted(size.items(), key=lambda item: -item[1])[:5]
    told = {"mb": round(sum(size.values()) / 1e6, 1), "packages": names}
    return told | {"largest_mb": {name: round(value / 1e6, 1) for name, value in largest}}


def import_s(python: Path, module: str, rounds: int) -> float:
    """Median seconds to import a module."""
    command = [str(python), "-c", IMPORT.format(module)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(rounds + 1)]
    return round(median(float(run.stdout) for run in runs[1:]), 3)


def started(python: Path, bundle: Path, data: Path, lines: Sequence[bytes], arguments: Sequence[str]) -> list[float]:
    """Seconds to the first pose, MiB after it, and MiB after all lines."""
    command = [str(python), "-m", "edgelift.cli", "lift", str(bundle), "--source", "-", "--sink", "-", "--every"]
    command += ["--cameras", rig_of(data), "--max-rate", "0", *arguments]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | ONE_THREAD,
        cwd=bundle,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        figures = []
        for number, line in enumerate(lines):
            process.stdin.write(line)
            process.stdin.flush()
            if not process.stdout.readline():
                raise RuntimeError(f"the loop ended: {' '.join(command)}")
            if number == 0:
                figures += [time.perf_counter() - begun, rss_mib(process.pid)]
        figures.append(rss_mib(process.pid))
        process.stdin.close()
    return figures


def spelled(arguments: Sequence[str], folder: Path) -> list[str]:
    ports = {name: free_port() for name in ("port", "other", "third")}
    return [word.format(host=HOST, folder=folder, **ports) for word in arguments]


def starts(python: Path, bundle: Path, data: Path, rounds: int, arguments: Sequence[str]) -> dict[str, float]:
    """Medians over several starts; one more at first, which is not counted."""
    rig = read_rig(rig_of(data), None)
    people = filmed(data, rig, 1, FRAMES)[0]
    told = [message(rig[0].name, seq, seq * 16_666_667, p, rig[0].size) for seq, p in enumerate(people)]
    lines = [json.dumps(one).encode() + b"\n" for one in told]
    with tempfile.TemporaryDirectory() as folder:
        runs = [started(python, bundle, data, lines, spelled(arguments, Path(folder))) for _ in range(rounds + 1)]
    first, after_one, after_all = (median(values) for values in zip(*runs[1:], strict=True))
    return {
        "first_pose_s": round(first, 3), "rss_first_mib": round(after_one, 1), "rss_1000_mib": round(after_all, 1),
    }  # fmt: skip


def measured(extra: Extra, wheel: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One set of extras: its environment is made, measured and removed."""
    home = folder / "environment"
    python = installed(home, wheel, extra.extras)
    bundle, data = options.bundle.resolve(), options.data.resolve()
    try:
        told: dict[str, Any] = {"extras": extra.extras or "none", **disk(python)}
        told["import_runtime_s"] = import_s(python, "edgelift.runtime", options.rounds)
        told["import_cli_s"] = import_s(python, "edgelift.cli", options.rounds)
        if extra.extras:
            told["plain"] = starts(python, bundle, data, options.rounds, ())
        if extra.arguments:
            told["with"] = starts(python, bundle, data, options.rounds, extra.arguments)
        return told
    finally:
        shutil.rmtree(home)


def show(rows: list[dict[str, Any]]) -> None:
    head = ("extras", "MB", "packages", "import runtime s", "import cli s", "first pose s", "MiB first", "MiB 1000")
    cells: list[tuple[object, ...]] = []
    for row in rows:
        own = (row["extras"], row["mb"], len(row["packages"]), row["import_runtime_s"], row["import_cli_s"])
        cells.append((*own, *row.get("plain", {}).values()))
        if "with" in row:
            cells.append(("  with its sinks", "", "", "", "", *row["with"].values()))
    width = len(head)
    table(head, [(*row, *("-",) * (width - len(row))) for row in cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", help="one set of extras, as it is written")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(folder)]
        subprocess.run([*build, str(copied(folder / "source"))], check=True)
        (wheel,) = folder.glob("*.whl")
        sets = [extra for extra in SETS if options.only in (None, extra.extras)]
        rows = [measured(extra, wheel, folder, options) for extra in sets]
    show(rows)
    result = {"machine": machine(), "bundle": options.bundle.name, "most_mib": MOST_MIB, "most_s": MOST_S, "sets": rows}
    write(result, "footprint", options.output)
    plain = [row["plain"] for row in rows if "plain" in row]
    good = all(p["rss_1000_mib"] < MOST_MIB and p["first_pose_s"] < MOST_S for p in plain)
    print(f"below {MOST_MIB:g} MiB and {MOST_S:g} s to the first pose: {'yes' if good else 'NO'}")


if __name__ == "__main__":
    main()
