from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from edgelift.export import onnx_graph
from edgelift.export.bundles import Reference, export_bundle, initializers
from edgelift.export.onnx_graph import OPSET, export_onnx
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends import OnnxRuntimeCpu
from edgelift.runtime.bundle import load_bundle
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings

TINY = TrainSettings(width=32)


def trained_looking(seed: int) -> Lifter:
    """A lifter whose batch norms have seen data."""
    torch.manual_seed(seed)
    model = build_model(TINY).train()
    for _ in range(3):
        model(*some_input(64, seed))
    return model.eval()


def some_input(n: int, seed: int = 0, missing: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(n, 1, 14, 3, generator=g) * 900
    keypoints[..., 2] = (torch.rand(n, 1, 14, generator=g) >= missing).float()
    return keypoints, torch.tensor([[1100.0, 1100, 500, 500]]).repeat(n, 1)


def reference(n: int = 70) -> Reference:
    keypoints, intrinsics = (t.numpy() for t in some_input(n))
    return Reference(keypoints, intrinsics, np.full((n, 14, 3), np.nan, np.float32))


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


def test_initializer_names_survive_seeds_and_equal_weights(tmp_path: Path) -> None:
    fresh = build_model(TINY).eval()  # as initialised: equal batch norms, the exporter's deduplication trap
    graphs = []
    for i, model in enumerate((trained_looking(1), trained_looking(2), fresh)):
        export_onnx(model, 1, 14, tmp_path / f"{i}.onnx")
        graph = onnx.load(tmp_path / f"{i}.onnx").graph
        graphs.append(([(t.name, tuple(t.dims)) for t in graph.initializer], [n.op_type for n in graph.node]))
    assert graphs[0] == graphs[1] == graphs[2]
    assert "BatchNormalization" not in graphs[0][1]


def test_every_linear_layer_keeps_its_name_and_refit_replaces_it(tmp_path: Path) -> None:
    a, b = trained_looking(1), trained_looking(2)
    for name, model in (("a", a), ("b", b)):
        export_onnx(model, 1, 14, tmp_path / f"{name}.onnx")
    names = set(initializers(tmp_path / "a.onnx"))
    assert {"head.weight", "head.bias", "trunk.0.weight", "trunk.4.layers.0.bias"} <= names
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(v) for v in initializers(tmp_path / "b.onnx").values()]
    for name, value in zip(initializers(tmp_path / "b.onnx"), values, strict=True):
        options.add_initializer(name, value)
    refitted = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), options, providers=["CPUExecutionProvider"])
    keypoints, intrinsics = some_input(5)
    given = refitted.run(None, {"keypoints": keypoints.numpy(), "intrinsics": intrinsics.numpy()})[0]
    np.testing.assert_allclose(given, b(keypoints, intrinsics).detach().numpy(), atol=1e-5)


def test_the_bundle_holds_exactly_what_the_manifest_says(bundle_path: Path) -> None:
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    files = {"lifter.onnx", "weights.safetensors", "refit.safetensors", "reference.npz"}
    assert set(manifest["files"]) == files
    assert {p.name for p in bundle_path.iterdir()} == files | {"manifest.json"}
    assert manifest["opset"] == OPSET
    assert manifest["parity"]["worst_joint_mm"] <= 0.01
    assert [i["name"] for i in manifest["inputs"]] == ["keypoints", "intrinsics"]
    assert manifest["inputs"][0]["shape"][1:] == [1, 14, 3]
    assert load_file(bundle_path / "refit.safetensors").keys() == initializers(bundle_path / "lifter.onnx").keys()


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
