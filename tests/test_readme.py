"""The README's commands: they exist, their flags exist, and the two main ones are the Makefile's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert named == {"demo", "test"}
    assert named <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("edgelift ")])
def test_every_flag_is_known_to_its_command(line: str) -> None:
    words = shlex.split(line)
    command = [sys.executable, "-m", "edgelift.cli", words[1], "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "200"}).stdout
    for flag in (word for word in words if word.startswith("-")):
        assert re.search(rf"(^|\s){re.escape(flag)}\b", text), flag
