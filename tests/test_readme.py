"""The README's commands run, as they stand there, on a small recording of the shape it describes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.cameras import project
from edgelift.poses.rigs import write_rig
from edgelift.poses.studio import studio_rig

from .conftest import wobbling_person

ROOT = Path(__file__).resolve().parents[1]
BODY25B = 25


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert named == {"demo", "test"}
    assert named <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def write_openpose(folder: Path, frames: int) -> None:
    """A person of 25 joints before the studio's rig, as OpenPose writes it: a folder a view, a file a frame."""
    body = wobbling_person(frames, 0)[:, np.arange(BODY25B) % 17] + np.linspace(0, 0.1, BODY25B)[:, None]
    for camera in studio_rig():
        pixels = np.concatenate([project(body, camera), np.ones((frames, BODY25B, 1))], -1)
        view = folder / f"{camera.name}_json"
        view.mkdir(parents=True)
        for i, frame in enumerate(pixels):
            people = {"people": [{"pose_keypoints_2d": frame.ravel().tolist()}]}
            (view / f"take_{i:06d}.json").write_text(json.dumps(people))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path
    write_openpose(place / "BalancingTrial", 30)
    write_rig(studio_rig(), place / "Calib.toml")
    return place


def test_the_commands_run_in_their_order_and_leave_what_the_readme_says(place: Path) -> None:
    for line in commands():
        if line.startswith("edgelift "):
            command = [sys.executable, "-m", "edgelift.cli", *shlex.split(line)[1:]]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (place / "poses.jsonl").read_text().startswith('{"v":1')
    assert (place / "take1.trc").read_text().startswith("PathFileType")
    assert (place / "bundles" / "first" / "manifest.json").is_file()
