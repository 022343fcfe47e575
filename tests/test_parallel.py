from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgelift.poses.sessions import Session, save_session
from edgelift.trainer.checkpoint import load_checkpoint

PLAIN = ("--width", "32", "--epochs", "3", "--batch", "32", "--seed", "5")


def train(sessions: Path, run: Path, processes: int, *flags: str) -> list[float]:
    """Train in a process of its own, or in several; the loss of every epoch."""
    module = ("-m", "edgelift.cli", "train", str(sessions), "-o", str(run), "--json", *PLAIN, *flags)
    team = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)) if processes > 1 else ()
    done = subprocess.run([sys.executable, *team, *module], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["epochs"] == 3  # one process speaks
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(sessions: list[Session], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parallel")
    for session in sessions:
        save_session(session, path / f"{session.name}.npz")
    return path


@pytest.mark.parametrize("loss", ["teacher", "reprojection"])
def test_two_processes_train_as_one(folder: Path, tmp_path: Path, loss: str) -> None:
    flags = ("--loss", loss, "--virtual-views", "0")
    one, two = train(folder, tmp_path / "one", 1, *flags), train(folder, tmp_path / "two", 2, *flags)
    assert two == pytest.approx(one, rel=2e-3)  # sums in another order, over 33 steps of Adam
    keypoints, intrinsics = torch.rand(64, 1, 14, 3) * 300 + 350, torch.tensor([[1150.0, 1150, 500, 500]]).repeat(64, 1)
    a, b = (load_checkpoint(tmp_path / run).model()(keypoints, intrinsics).detach() for run in ("one", "two"))
    assert (a - b).norm(dim=-1).mean() < 0.02 * (a - a[:, :1]).norm(dim=-1).mean()


def test_two_processes_draw_virtual_views_of_their_own_and_learn_alike(folder: Path, tmp_path: Path) -> None:
    one, two = train(folder, tmp_path / "one", 1), train(folder, tmp_path / "two", 2)
    assert one != two
    assert two == pytest.approx(one, rel=0.1)


def test_a_compiled_run_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    plain, compiled = train(folder, tmp_path / "a", 1), train(folder, tmp_path / "b", 1, "--compile")
    assert compiled == pytest.approx(plain, rel=2e-3)
