"""All that waits for a GPU, in one command of less than ten minutes: builds, runs, parity in mm, refit, graphs, bench.

python benchmarks/gpu/check.py -o benchmarks/results                   # trains small lifters first (needs torch)
python benchmarks/gpu/check.py -o benchmarks/results --bundle BUNDLE   # on a machine without torch; repeatable

Every section is a process of its own that keeps each part's answer as it comes. A part that raises says why; one that
ends its process or hangs is named, and a new process goes on behind it. Both files are written anew after every
section, so that whoever stops this keeps what was done.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
from report import markdown
from sections import SECTIONS

TOTAL_S = 540.0
SECTION_S = 120.0
PART_S = 75.0  # TensorRT's slowest build of a lifter is far below
TAIL = 500  # characters of a process's last words

Told = dict[str, Any]


# In the section's own process


def one_section(name: str, home: Path, quick: bool) -> None:
    """Run a section's parts that have no answer yet; `doing` is the one in hand, should this process die of it."""
    note = home / f"{name}.json"
    told: Told = json.loads(note.read_text()) if note.is_file() else {"parts": {}}
    parts = list(SECTIONS[name](home, quick))
    told["names"] = [part for part, _ in parts]
    for part, work in parts:
        if part in told["parts"]:
            continue
        _keep(note, told | {"doing": part})
        try:
            told["parts"][part] = work()
        except Exception as error:
            told["parts"][part] = {"why_not": str(error)[:800] or repr(error)}
            traceback.print_exc()
        _keep(note, told)
    _keep(note, told | {"done": True})


def _keep(note: Path, told: Told) -> None:
    temporary = note.with_suffix(".new")
    temporary.write_text(json.dumps(told))
    temporary.replace(note)


# In the process that started it


def run_section(
    name: str, home: Path, words: Sequence[str], limit_s: float = SECTION_S, part_s: float = PART_S
) -> Told:
    """Run a section, beginning anew behind every part that ended its process or took longer than part_s.

    `parts`: answers by name, {why_not} for what has none; `failed`: why the section as a whole has none, or None.
    """
    started, note = time.monotonic(), home / f"{name}.json"
    failed = None
    while True:
        why = _attempt(name, home, words, started + limit_s, part_s)
        told: Told = json.loads(note.read_text()) if note.is_file() else {"parts": {}}
        over = time.monotonic() >= started + limit_s
        part = told.pop("doing", None)
        if part is not None:
            told["parts"][part] = {"why_not": why or "its process ended without a word"}
            _keep(note, told)
        elif why is not None:
            failed = why
        if part is None or over:
            break
    for part in told.get("names", ()):
        told["parts"].setdefault(part, {"why_not": f"not reached: the section's {limit_s:.0f} s were over"})
    return {"parts": told["parts"], "failed": failed, "seconds": round(time.monotonic() - started, 1)}


def _attempt(name: str, home: Path, words: Sequence[str], until: float, part_s: float) -> str | None:
    """Start a section's process and wait for it; why it ended, None where it did all it had to."""
    note, errors = home / f"{name}.json", home / f"{name}.err"
    command = [sys.executable, __file__, "--section", name, "--home", str(home), *words]
    with errors.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    why, started = None, time.time()
    while process.poll() is None and why is None:
        time.sleep(0.05)
        moved = max(started, note.stat().st_mtime if note.is_file() else started)
        if time.monotonic() >= until:
            why = "not done when the section's time was over"
        elif time.time() - moved > part_s:
            why = f"not done after {part_s:.0f} s"
    if why is not None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return _last_words(why, errors)
    if process.returncode == 0:
        return None
    done = note.is_file() and json.loads(note.read_text()).get("done")
    ended = _ended(process.returncode) + " after all was done" * bool(done)
    return _last_words(ended, errors)


def _ended(code: int) -> str:
    return f"its process ended with {signal.Signals(-code).name if code < 0 else code}"


def _last_words(why: str, errors: Path) -> str:
    return f"{why}: {errors.read_text(errors='replace').strip()[-TAIL:]}".rstrip(": ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="folder for the two files")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="use it instead of training lifters")
    parser.add_argument("--quick", action="store_true", help="narrow lifters, rough figures: a rehearsal")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section alone, after the lifters")
    parser.add_argument("--total-s", type=float, default=TOTAL_S, help="seconds for everything")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        one_section(options.section, options.home, options.quick)
        return
    if options.output is None:
        parser.error("-o is needed")
    if not options.bundle and importlib.util.find_spec("torch") is None:
        parser.error("torch is not installed, so no lifter can be trained here: give --bundle")
    names = [name for name in SECTIONS if not options.only or name in ("machine", "lifters", *options.only)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        (Path(scratch) / "given.json").write_text(json.dumps([str(path.resolve()) for path in options.bundle]))
        paths = run_all(names, Path(scratch), options)
    print(f"wrote {paths[0]} and {paths[1]}")


def run_all(names: Sequence[str], home: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """Run sections in order until the time is over, keeping both files up to date."""
    started = time.monotonic()
    result: dict[str, Any] = {"quick": options.quick, "sections": {}}
    for name in names:
        left = started + options.total_s - time.monotonic()
        print(f"{name} ... ({left:.0f} s left)", flush=True)
        if left > 1:
            told = run_section(name, home, ["--quick"] * options.quick, min(SECTION_S, left))
        else:
            told = {"parts": {}, "failed": f"not reached: {options.total_s:.0f} s were over", "seconds": 0.0}
        result["sections"][name] = told
        result["seconds"] = round(time.monotonic() - started, 1)
        paths = save(result, options.output)
    return paths


def save(result: dict[str, Any], output: Path) -> tuple[Path, Path]:
    """Write both files; the device's name is in theirs."""
    gpu = result["sections"]["machine"]["parts"].get("gpu", {}).get("name")
    stem = f"gpu_check_{(gpu or 'no_gpu').replace(' ', '_').replace('/', '_')}_{date.today()}"
    output.mkdir(parents=True, exist_ok=True)
    paths = output / f"{stem}.json", output / f"{stem}.md"
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    paths[1].write_text(markdown(result))
    return paths


if __name__ == "__main__":
    main()
