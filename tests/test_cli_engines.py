"""The commands that bring a lifter to a device: their --json, what they leave behind, and what bad input ends in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelift.poses.sessions import Session, save_session
from edgelift.trainer.fit import train
from edgelift.trainer.settings import TrainSettings

from .test_cli import as_json, edgelift, refused

FIGURES = {"mean_mm", "p99_mm", "worst_mm", "mpjpe_change_mm"}
WIDE = ("--budget-mm", 1e9, "--budget-p99-mm", 1e9, "--budget-max-mm", 1e9)


@pytest.fixture(scope="module")
def home(sessions: list[Session], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a bundle of the first, ranges and an int8 graph, all made by the commands."""
    home = tmp_path_factory.mktemp("engines")
    for session in sessions:
        save_session(session, home / "sessions" / f"{session.name}.npz")
    for seed in (0, 1):
        train(sessions, home / f"run{seed}", TrainSettings(width=32, epochs=2, batch=32, seed=seed))
    edgelift("export", home / "run0", "-o", home / "bundle")
    told = as_json("calibrate", "ranges", home / "bundle", home / "sessions", "-o", home / "ranges")
    assert told["ranges"] == str(home / "ranges" / "ranges.json")
    assert told["tensors"] == 4
    assert {"max_1.0", "entropy"} <= set(told["methods"])
    return home


@pytest.fixture
def bundle(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "bundle", tmp_path / "bundle"))


def test_export_makes_a_bundle_and_an_engine_in_one_go(home: Path, tmp_path: Path) -> None:
    words = ("--engine", "rtx", "--precision", "fp16", "--target", "sm_89", "--target", "sm_120", *WIDE)
    told = as_json("export", home / "run0", "-o", tmp_path / "new", *words)
    graph, engine = told["added"]
    assert set(graph["graph_parity"]) == FIGURES
    assert engine["targets"] == ["sm_89", "sm_120"]
    assert engine["engine_parity"].startswith("not run: ")
    assert Path(engine["path"]).is_file()


def test_export_adds_to_a_bundle_of_the_same_run_only(home: Path, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    told = as_json("export", home / "run0", "-o", bundle, "--precision", "int8", "--ranges", home / "ranges", *WIDE)
    [graph] = told["added"]
    assert graph["quantise_nodes"] == 8
    assert (bundle / "manifest.json").read_bytes() == before
    assert "another lifter" in refused("export", home / "run1", "-o", bundle, "--precision", "fp16")
    assert "already" in refused("export", home / "run0", "-o", bundle)


def test_a_reduced_graph_over_budget_ends_in_one_message(home: Path, bundle: Path) -> None:
    int8 = ("export", home / "run0", "-o", bundle, "--precision", "int8", "--ranges", home / "ranges")
    message = refused(*int8, "--budget-max-mm", 1e-4)
    assert "worst 0.0001 mm" in message
    assert "--force" in message
    assert not (bundle / "graphs").exists()
    told = as_json(*int8, "--budget-max-mm", 1e-4, "--force")
    assert told["added"][0]["forced"] is True
    assert "calibrate ranges" in refused("export", home / "run0", "-o", bundle, "--precision", "fp8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engine", "rtx", "--precision", "fp8", "--target", "sm_86"), "sm_89 or newer"),
        (("--engine", "rtx", "--target", "sm_90"), "build on the machine itself"),
        (("--engine", "tensorrt", "--target", "sm_89"), "the machine it runs on"),
        (("--target", "sm_89"), "--engine rtx"),
        (("--engine", "cpu", "--precision", "fp16"), "int8"),
        (("--engine", "rtx", "--max-batch", 0), "1 or more"),
    ],
)
def test_what_no_target_can_do_is_refused_before_anything_is_made(
    home: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    assert message in refused("export", home / "run0", "-o", tmp_path / "new", *words)
    assert not (tmp_path / "new").exists()


def test_build_inspect_and_refit(home: Path, bundle: Path, tmp_path: Path) -> None:
    made = as_json("build", bundle, "--engine", "rtx", "--max-batch", 1)
    assert made["profiles"] == [{"min": 1, "opt": 1, "max": 1}]
    told = as_json("inspect", bundle, "--verify")
    assert told["verified"] is True
    [engine] = told["engines"]
    assert engine["runs_on"] == "GPUs of sm_80 and newer with TensorRT-RTX 1.7.1.116"
    assert "GPU" in engine["why_not"]
    text = edgelift("inspect", bundle).stdout
    assert "for this machine: edgelift build" in text
    edgelift("export", home / "run1", "-o", tmp_path / "second")
    [decision] = as_json("refit", bundle, tmp_path / "second", "--check")["engines"]
    assert decision["refit"] is False
    assert "--refittable" in decision["reason"]
    assert "pip install" in refused("build", bundle, "--engine", "tensorrt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plan: plan.write_bytes(plan.read_bytes()[:-1]), "truncated"),
        (lambda plan: plan.write_bytes(b"x" + plan.read_bytes()[1:]), "tampered"),
        (lambda plan: plan.unlink(), "no such file"),
        (lambda plan: plan.with_name(plan.name + ".json").write_text("{}"), "unreadable sidecar"),
    ],
)
def test_a_spoilt_engine_ends_in_one_message(bundle: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(Path(as_json("build", bundle, "--engine", "rtx")["path"]))
    assert message in refused("inspect", bundle, "--verify")


@pytest.mark.parametrize(
    ("backend", "message"),
    [("cuda", "backend cuda"), ("tensorrt", "edgelift[tensorrt]"), ("rtx", "edgelift[cuda]")],
)
def test_a_backend_that_is_not_there_is_an_error_and_never_another_one(
    home: Path, bundle: Path, backend: str, message: str
) -> None:
    session = min((home / "sessions").iterdir())
    sink = bundle.parent / "out.jsonl"
    lift = ("lift", bundle, "--source", session, "--camera", "cam_01", "--sink", sink)
    assert message in refused(*lift, "--backend", backend)
    assert not sink.exists()
    assert message in refused("evaluate", bundle, session, "--backend", backend)


def test_the_cpu_lifts_in_eight_bits_when_asked_to(home: Path, bundle: Path) -> None:
    sessions = home / "sessions"
    assert "--engine cpu" in refused("evaluate", bundle, sessions, "--precision", "int8")
    edgelift("export", home / "run0", "-o", bundle, "--engine", "cpu", "--precision", "int8", "--force")
    plain = as_json("evaluate", bundle, sessions)
    reduced = as_json("evaluate", bundle, sessions, "--precision", "int8")
    assert 0 < abs(plain["mpjpe_mm"] - reduced["mpjpe_mm"]) < 5


def test_doctor_tells_every_backend_s_state() -> None:
    told = {b["backend"]: b for b in as_json("doctor")["backends"]}
    assert set(told) == {"cpu", "cuda", "tensorrt", "rtx"}
    assert told["cpu"]["ready"]
    assert not told["cuda"]["ready"]
    assert "pip install 'edgelift[tensorrt]'" in told["tensorrt"]["remedy"]
    assert told["rtx"]["builds"]
    assert "builds, cannot run" in edgelift("doctor").stderr


def test_bench_gives_rows_and_a_picture(bundle: Path, tmp_path: Path) -> None:
    words = ("bench", bundle, "--backend", "cpu,rtx", "--quick", "--plot", tmp_path / "b.png")
    told = as_json(*words)
    keys = {"backend", "provider", "precision", "batch", "mode", "p50_us", "p90_us", "p95_us", "p99_us", "max_us"}
    for row in told["rows"]:
        assert keys | {"throughput_per_s"} <= set(row)
        assert row["provider"] == "CPUExecutionProvider"
        assert row["p50_us"] <= row["p99_us"] <= row["max_us"]
    assert [s["backend"] for s in told["skipped"]] == ["rtx"]
    assert (tmp_path / "b.png").stat().st_size > 1000
    assert "doctor" in refused("bench", bundle, "--backend", "rtx", "--quick")
    assert "comma-separated" in refused("bench", bundle, "--batch", "one")


def test_a_triton_repository_lies_beside_the_bundle(home: Path, bundle: Path, tmp_path: Path) -> None:
    told = as_json("export", home / "run0", "-o", bundle, "--triton", tmp_path / "models")
    folder = Path(told["triton"])
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle / "lifter.onnx").read_bytes()
    assert json.loads((bundle / "manifest.json").read_text())["skeleton"] in (folder / "config.pbtxt").read_text()
