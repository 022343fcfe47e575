from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from edgelift.export import onnx_graph
from edgelift.export.bundles import export_bundle
from edgelift.export.onnx_graph import OPSET, export_onnx, graph_facts
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.bundle import load_bundle
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings

from .lifters import KINDS, TINY, reference, some_input, trained_looking


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(trained_looking(0), path, TINY.input, reference(), {})
    return path


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
@pytest.mark.parametrize("missing", [0.0, 0.5, 1.0])
def test_onnx_equals_pytorch_at_any_batch(bundle_path: Path, batch: int, missing: float) -> None:
    keypoints, intrinsics = some_input(batch, 3, missing)
    with OnnxRuntimeCpu(load_bundle(bundle_path)) as backend:
        given = backend(keypoints.numpy(), intrinsics.numpy())
    expected = trained_looking(0)(keypoints, intrinsics).detach().numpy()
    assert np.linalg.norm(given - expected, axis=-1).max() * 1000 < 0.01


def test_missing_joints_may_hold_anything(bundle_path: Path) -> None:
    keypoints, intrinsics = some_input(4, 1, 0.4)
    with OnnxRuntimeCpu(load_bundle(bundle_path)) as backend:
        expected = backend(keypoints.numpy(), intrinsics.numpy())
        for junk in (np.nan, np.inf, -1e9):
            spoilt = torch.where(keypoints[..., 2:] > 0, keypoints, torch.tensor([junk, junk, 0.0]))
            np.testing.assert_array_equal(backend(spoilt.numpy(), intrinsics.numpy()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_signature_survives_seeds_and_values_and_nothing_else(tmp_path: Path, kind: str) -> None:
    settings = KINDS[kind]
    fresh = build_model(settings).eval()  # as initialised: equal batch norms, the exporter's deduplication trap
    models = [trained_looking(1, settings), trained_looking(2, settings), fresh]
    facts = [facts_of(model, settings, tmp_path / f"{i}.onnx") for i, model in enumerate(models)]
    assert facts[0] == facts[1] == facts[2]
    assert "BatchNormalization" not in facts[0]["ops"]
    assert ("LayerNormalization" in facts[0]["ops"]) == (kind == "transformer")
    assert "Attention" not in facts[0]["ops"]
    wider = facts_of(build_model(replace(settings, width=64)), settings, tmp_path / "wider.onnx")
    assert wider["signature"] != facts[0]["signature"]


def facts_of(model: Lifter, settings: TrainSettings, path: Path) -> dict[str, Any]:
    return graph_facts(export_onnx(model, settings.frames, 14, path), list(model.state_dict()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_with_weights_keeps_its_name(tmp_path: Path, kind: str) -> None:
    settings = KINDS[kind]
    model = trained_looking(1, settings)
    facts = facts_of(model, settings, tmp_path / "a.onnx")
    folded = {
        f"{name}.{part}" for name, m in model.named_modules() if isinstance(m, nn.BatchNorm1d) for part in BATCH_NORM
    }
    assert set(facts["parameters"]) == set(model.state_dict()) - folded
    shapes = {name: shape for name, _, shape in facts["initializers"]}
    for name, tensor in model.state_dict().items():
        if name not in folded:
            assert shapes[name] == list(tensor.shape)


BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_the_graph_holds_no_path_of_the_machine_it_was_made_on(bundle_path: Path) -> None:
    graph = (bundle_path / "lifter.onnx").read_bytes()
    assert b".py" not in graph
    assert str(Path(__file__).resolve().parents[1]).encode() not in graph


def test_the_bundle_holds_exactly_what_the_manifest_says(bundle_path: Path) -> None:
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    files = {"lifter.onnx", "weights.safetensors", "refit.safetensors", "reference.npz"}
    assert set(manifest["files"]) == files
    assert {p.name for p in bundle_path.iterdir()} == files | {"manifest.json"}
    assert manifest["opset"] == OPSET
    assert manifest["parity"]["worst_joint_mm"] <= 0.01
    assert [i["name"] for i in manifest["inputs"]] == ["keypoints", "intrinsics"]
    assert manifest["inputs"][0]["shape"][1:] == [1, 14, 3]
    assert list(load_file(bundle_path / "refit.safetensors")) == sorted(manifest["graph"]["parameters"])


@pytest.mark.parametrize("name", ["lifter.onnx", "weights.safetensors", "reference.npz"])
def test_a_tampered_bundle_is_refused(bundle_path: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle_path, copy)
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(EdgeliftError, match="tampered"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(EdgeliftError, match="files"):
        load_bundle(copy)


def test_a_graph_that_differs_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "PARITY_LIMIT_MM", -1.0)
    with pytest.raises(EdgeliftError, match="parity"):
        export_bundle(trained_looking(0), tmp_path / "b", TINY.input, reference(), {})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_never_overwritten(bundle_path: Path) -> None:
    with pytest.raises(EdgeliftError, match="already"):
        export_bundle(trained_looking(0), bundle_path, TINY.input, reference(), {})


def test_parity_does_not_overlook_nan_at_a_later_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_distance", lambda *args: 0.0 if args[-1] == 1 else float("nan"))
    with pytest.raises(EdgeliftError, match="parity"):
        export_bundle(trained_looking(0), tmp_path / "b", TINY.input, reference(), {})


@pytest.mark.parametrize("key", ["units", "camera_input", "frames", "skeleton", "inputs", "training"])
def test_an_edited_manifest_is_refused(bundle_path: Path, tmp_path: Path, key: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle_path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for spoilt in (manifest | {key: "other"}, {k: v for k, v in manifest.items() if k != key}):
        (copy / "manifest.json").write_text(json.dumps(spoilt))
        with pytest.raises(EdgeliftError, match="seal"):
            load_bundle(copy)
