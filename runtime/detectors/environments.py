"""The environments of detectors: where they are, and how they are made. Their packages never mix with edgelift's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelift.poses.errors import EdgeliftError

Tell = Callable[[int, int | None, str], None]

NEWEST_PYTHON = {"mediapipe": 12, "rtmlib": 13}  # the minor version of Python 3 that the pinned wheels still know
OLDEST_PYTHON = 10
FINISHED = "edgelift-requirements.txt"  # written last; what the environment was made of


@dataclass(frozen=True)
class Environment:
    """An environment that is ready: its folder, how large it is, and whether it was there before."""

    folder: Path
    mib: int
    existed: bool


def environment_folder(detector: str, given: Path | None) -> Path:
    """Return the place of the detector's environment: as given, else as EDGELIFT_DETECTORS says, else in the cache."""
    if given is not None:
        return given
    own = os.environ.get("EDGELIFT_DETECTORS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own) if own else cache / "edgelift" / "detectors") / detector


def find_python(detector: str, given: Path | None) -> Path:
    """Return the interpreter of the detector's environment; EdgeliftError where there is none."""
    folder = environment_folder(detector, given)
    python = _python_in(folder)
    if not python.is_file():
        raise EdgeliftError(
            f"detector {detector}", f"no environment in {folder}", "its packages, apart from edgelift's",
            f"Set it up: {_setup_command(detector, given)}",
        )  # fmt: skip
    return python


def set_up(detector: str, given: Path | None, tell: Tell) -> Environment:
    """Make the environment with pip, as the user has configured it, and try it; nothing is left of one that fails.

    One that is there already is kept, or made anew if it was made of other packages. tell: (done, total, package).
    """
    folder = environment_folder(detector, given).absolute()
    requirements = Path(__file__).with_name(f"{detector}.txt")
    if _finished_with(folder) == requirements.read_text(encoding="utf-8"):
        return Environment(folder, _mib(folder), existed=True)
    python = _base_python(detector)
    with _room_at(folder):
        tell(0, None, "environment")
        _run([python, "-m", "venv", str(folder)], f"environment {folder}", "Install Python's venv module.")
        _install(_python_in(folder), requirements, tell)
        _run(
            [str(_python_in(folder)), "-I", "-c", f"import cv2, {detector}"], f"{detector}, just installed",
            "Install what the message names.",
        )  # fmt: skip
        shutil.copyfile(requirements, folder / FINISHED)
    return Environment(folder, _mib(folder), existed=False)


def _finished_with(folder: Path) -> str | None:
    """Return the packages of an environment, or None where there is none; EdgeliftError for anything else there."""
    if (folder / FINISHED).is_file():
        return (folder / FINISHED).read_text(encoding="utf-8")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EdgeliftError(
            str(folder), "something that --setup has not finished", "nothing there, or an environment of --setup",
            "Remove it, or name another folder with --env.",
        )  # fmt: skip
    return None


@contextmanager
def _room_at(folder: Path) -> Iterator[None]:
    """Move an older environment aside while a new one is made in its place; it comes back if that fails."""
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if aside.exists():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _base_python(detector: str) -> str:
    """Return an interpreter that the pinned packages know: this one, or the newest such on the path."""
    newest = NEWEST_PYTHON[detector]
    if sys.version_info[:2] <= (3, newest):
        return sys.executable
    for minor in range(newest, OLDEST_PYTHON - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return found
    raise EdgeliftError(
        f"detector {detector}", f"Python {'.'.join(map(str, sys.version_info[:2]))} alone",
        f"Python 3.{OLDEST_PYTHON} to 3.{newest}", f"Install Python 3.{newest}, so that python3.{newest} is found.",
    )  # fmt: skip


def _install(python: Path, requirements: Path, tell: Tell) -> None:
    total = len(_packages(requirements.read_text(encoding="utf-8")))
    command = [str(python), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps"]
    done = 0
    for line in _output([*command, "-r", str(requirements)], "pip", "Check the network and pip's configuration."):
        if line.startswith(("Collecting ", "Processing ", "Installing ")):
            tell(done, total, " ".join(line.split()[:2])[:60])
            done += line.startswith("Collecting ")
    tell(total, total, "")


def _run(command: list[str], subject: str, remedy: str) -> None:
    for _ in _output(command, subject, remedy):
        pass


def _output(command: list[str], subject: str, remedy: str) -> Iterator[str]:
    """Yield what a program says, line by line; EdgeliftError with the last of it where it fails."""
    last = ""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = line.strip() or last
                yield line.rstrip()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise EdgeliftError(subject, f"{last or 'no message'} (exit code {process.returncode})", "success", remedy)


def _packages(requirements: str) -> set[str]:
    """Return the names in a requirements file; one may stand there twice, for two kinds of machine."""
    return {line.partition("==")[0] for line in requirements.splitlines() if "==" in line and line[0] != "#"}


def _python_in(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if sys.platform == "win32" else folder / "bin" / "python"


def _mib(folder: Path) -> int:
    return round(sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20)


def _setup_command(detector: str, given: Path | None) -> str:
    return f"edgelift detect --setup --detector {detector}{'' if given is None else f' --env {given}'}"
