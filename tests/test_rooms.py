"""The house rules: rooms import only downward, and the device's rooms need no torch and no scipy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import FORBID_TRAINING

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"poses": 1, "runtime": 2, "calibration": 2, "export": 3, "trainer": 4, "cli": 5}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def sources() -> list[Path]:
    return [p for room in FLOORS for p in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            # `from edgelift import trainer` names the room behind `import`
            names += [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
        found |= {name.split(".")[1] for name in names if name.startswith("edgelift.")}
    return found


def test_there_are_sources_to_check() -> None:
    assert len(sources()) > 20
    assert {room_of(p) for p in sources()} == set(FLOORS)


def test_every_way_to_import_a_room_is_seen(tmp_path: Path) -> None:
    for line in ("import edgelift.trainer.fit", "from edgelift import trainer", "from edgelift.trainer import fit"):
        (tmp_path / "x.py").write_text(f"def f():\n    {line}\n")
        assert imported_rooms(tmp_path / "x.py") == {"trainer"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_downward(path: Path) -> None:
    own = room_of(path)
    upward = {room for room in imported_rooms(path) if room != own and FLOORS[room] >= FLOORS[own]}
    assert not upward


IMPORT_ALL = f"""
{FORBID_TRAINING}
import importlib, pkgutil
count = 0
for room in sys.argv[1:]:
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        importlib.import_module(module.name)
        count += 1
print(count)
"""


def test_the_device_rooms_import_without_torch_and_scipy() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, "edgelift.poses", "edgelift.runtime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


def test_help_needs_no_torch() -> None:
    code = IMPORT_ALL + "\nfrom edgelift.cli import app\nfrom typer.testing import CliRunner\n"
    code += "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0"
    done = subprocess.run([sys.executable, "-c", code, "edgelift.poses"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
