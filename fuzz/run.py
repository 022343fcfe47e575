"""Fuzz all readers, or those named, one after the other, and write what happened: `python -m edgelift.fuzz.run`.

Exit code 1 where anything was found. Inputs that found something are kept below `--keep`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgelift.fuzz.targets import TARGETS
from edgelift.poses.files import replaced

INPUT_S = 5  # what one input may take
MEMORY_MIB = 4096
LONGEST_INPUT = 2**14  # bytes; sound files have a few thousand
COUNT = re.compile(r"^(?:#|Done )(\d+)\s", re.MULTILINE)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"any of: {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--inputs", type=int, help="how many each target gets (default: its own number)")
    parser.add_argument("--seconds", type=int, default=0, help="the most for one target (default: no limit)")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for inputs that found something")
    parser.add_argument("-o", "--output", type=Path, help="JSON to write; what it says of other targets stays")
    asked = parser.parse_args()
    strangers = set(asked.targets) - TARGETS.keys()
    if strangers:
        parser.error(f"no target {', '.join(strangers)}")
    clean = True
    for name in asked.targets or TARGETS:
        told = fuzz(name, asked.inputs or TARGETS[name].inputs, asked.seconds, asked.keep)
        clean = clean and not told["found"]
        print(f"{name}: {told['inputs']} inputs in {told['seconds']} s, found {told['found'] or 'nothing'}", flush=True)
        if asked.output is not None:
            _write(asked.output, name, told)
    return 0 if clean else 1


def fuzz(name: str, inputs: int, seconds: int, keep: Path) -> dict[str, Any]:
    """Fuzz one target; return how many inputs it got, in how many seconds, and what was found."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        flags = {
            "runs": inputs, "max_total_time": seconds, "timeout": INPUT_S, "rss_limit_mb": MEMORY_MIB,
            "max_len": LONGEST_INPUT, "artifact_prefix": f"{home}/",
        }  # fmt: skip
        command = [sys.executable, "-m", "edgelift.fuzz.worker", name, folder, *(f"-{k}={v}" for k, v in flags.items())]
        # in memory-backed TMPDIR one input costs a millisecond, on a disk several
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        took = time.monotonic() - start
        found = _found(home, keep / name.replace(" ", "_"))
        if done.returncode:
            (keep / name.replace(" ", "_")).mkdir(parents=True, exist_ok=True)
            (keep / name.replace(" ", "_") / "stderr").write_text(done.stderr)
            found.append({"raised": f"exit code {done.returncode}", "in": "see its stderr", "input": "stderr"})
        counts = [int(count) for count in COUNT.findall(done.stderr)]
        return {"inputs": max(counts, default=0), "seconds": round(took, 1), "found": found}


def _found(home: Path, keep: Path) -> list[dict[str, str]]:
    """Keep the inputs that found something, and return what each did."""
    notes = home / "found.jsonl"
    found = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    ended = [path for kind in ("crash", "timeout", "oom") for path in home.glob(f"{kind}-*")]
    found += [{"raised": "the process ended", "in": path.name.partition("-")[0], "input": path.name} for path in ended]
    if found:
        keep.mkdir(parents=True, exist_ok=True)
    for one in found:
        shutil.copy(home / one["input"], keep)
    return found


def _write(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one target's result into the file; what it found in earlier runs, since mended or not, stays told."""
    held = json.loads(path.read_text())["targets"] if path.exists() else {}
    before = held.get(name, {})
    earlier = before.get("found_earlier", []) + before.get("found", [])
    packages = {package: version(package) for package in ("atheris", "numpy", "h5py")}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()} | packages
    settings = {"seconds_an_input": INPUT_S, "memory_mib": MEMORY_MIB, "longest_input_bytes": LONGEST_INPUT}
    held[name] = result | {"found_earlier": earlier}
    targets = {key: value for key, value in held.items() if key in TARGETS}
    with replaced(path) as temporary:
        told = {"machine": machine, "settings": settings, "targets": targets}
        temporary.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
