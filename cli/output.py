"""What all commands share: the application, what is printed, and how a user's mistake ends."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from edgelift.poses.errors import EdgeliftError, missing_extra

app = typer.Typer(
    help="Train 2D-to-3D pose lifters from multi-view 2D keypoints without 3D labels, and run them live.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# everything for people goes to standard error: standard output is for --json and for `-` sinks
# nothing is markup: paths, names that others send and arrays hold brackets
say = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Sessions = Annotated[list[Path], typer.Argument(help="Session files (.npz), or directories of them.")]
Units = Annotated[Literal["m", "mm"] | None, typer.Option(help="Of the rig, where its format does not fix it.")]

SECONDS_A_LINE = 10.0  # between progress lines where no bar can be drawn
TRAIN_MODULES = ("torch", "safetensors", "onnx", "onnxscript", "matplotlib")
EXTRAS = dict.fromkeys(TRAIN_MODULES, "train") | {
    "onnxruntime": "cpu", "zmq": "stream", "msgpack": "stream", "c3d": "files", "h5py": "files",
}  # fmt: skip


def main() -> None:
    """Run the command line; a user's mistake is one message and exit code 2, never a traceback."""
    try:
        app()
    except EdgeliftError as error:
        stop(error)
    except OSError as error:
        what = f"{error.filename or 'a file'}"
        stop(EdgeliftError(what, f"{error.strerror or error}", "a path to read or write", "Check path and rights."))
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        stop(missing_extra(name, EXTRAS[name]))


def stop(error: EdgeliftError) -> None:
    """Say what was wrong and leave with exit code 2."""
    say.print(Text.assemble(("error:", "bold red"), f" {error}"))
    sys.exit(2)


def finish(result: dict[str, Any], as_json: bool, *lines: str) -> None:
    """Print the result for a machine if asked to, and the closing lines for people."""
    if as_json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    for line in lines:
        say.print(line)


def seconds_of(flag: str, text: str) -> float:
    """Seconds that `90`, `90s`, `1.5m` or `2h` mean; EdgeliftError names the flag."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", text.strip())
    if match is None:
        raise EdgeliftError(flag, repr(text), "a time such as 60s, 5m or 1h", "Write it so.")
    return float(match[1]) * {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Yield a function of (done, total, note): a bar on a terminal, elsewhere (a log) a line now and then."""
    if not say.is_terminal:
        yield _line_now_and_then(label)
        return
    columns = (
        TextColumn(label, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=say) as bar:
        task = bar.add_task(label, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def _line_now_and_then(label: str) -> Callable[[int, int | None, str], None]:
    told_at = time.monotonic()

    def tell(done: int, total: int | None, note: str) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= SECONDS_A_LINE:
            told_at = time.monotonic()
            say.print(f"{label} {done}{'' if total is None else f'/{total}'} {note}")

    return tell
