"""The model repository says, in Triton's own schema, what its model file really takes and gives."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgelift.export.bundles import Reference, export_bundle
from edgelift.export.precision import to_half
from edgelift.export.triton import QUEUE_DELAY_US, write_triton
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import attach, attachments
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.store import build_engine
from edgelift.trainer.models import build_model
from edgelift.trainer.settings import TrainSettings

SCHEMA = Path(__file__).resolve().parents[1] / ".bindings" / "triton" / "tritonclient" / "grpc" / "model_config_pb2.py"
text_format: Any = importlib.import_module("google.protobuf.text_format")  # it ships no types
JOINTS = 14
ENGINE = "tensorrt-10.16.1.11-sm_89-fp16-b16.plan"
PLAN = b"ftrt" + bytes(20) + bytes([10, 16, 1, 11]) + b"the rest of a plan"


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's protobuf module; its package would also import gRPC, so the file is loaded by itself."""
    if not SCHEMA.is_file():
        pytest.fail(f"Triton's schema is not at {SCHEMA}; run: make .bindings/triton/.installed")
    spec = importlib.util.spec_from_file_location("model_config_pb2", SCHEMA)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_bundle(path: Path, settings: TrainSettings) -> Bundle:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(1, 900, (70, settings.input.frames, JOINTS, 3)).astype(np.float32)
    intrinsics = np.tile(np.array([1100, 1100, 500, 500], np.float32), (70, 1))
    reference = Reference(keypoints, intrinsics, np.full((70, JOINTS, 3), np.nan, np.float32))
    return export_bundle(build_model(settings).eval(), path, settings.input, reference, {})


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A frame lifter's bundle with an FP16 graph, TensorRT-RTX's engine, and one that has TensorRT's header alone."""
    bundle = make_bundle(tmp_path_factory.mktemp("triton") / "site-A", TrainSettings(width=32))
    half = to_half(onnx.load(bundle.onnx)).SerializeToString()
    attach(bundle, "graphs", "fp16.onnx", half, {"kind": "graph", "flavour": "onnx", "precision": "fp16"})
    rtx = build_engine(bundle, BuildSettings("rtx", "fp16"), half, {})
    facts = rtx.facts | {"flavour": "tensorrt", "version": "10.16.1.11", "gpu": "NVIDIA L4"}
    attach(bundle, "engines", ENGINE, PLAN, facts)
    return bundle


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = TrainSettings(model="tcn", frames=27, width=32, camera_input="screen")
    return make_bundle(tmp_path_factory.mktemp("triton") / "sequence", settings)


@pytest.fixture(params=["frame", "sequence"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    made: Bundle = request.getfixturevalue(request.param)
    return made


def parsed(schema: Any, text: str) -> Any:
    return text_format.Parse(text, schema.ModelConfig())


def config_of(schema: Any, path: Path) -> Any:
    return parsed(schema, (path / "config.pbtxt").read_text())


def tensors(messages: Any) -> dict[str, tuple[int, list[int]]]:
    return {m.name: (m.data_type, list(m.dims)) for m in messages}


def told(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_the_repository_has_tritons_layout_and_the_bundles_graph(bundle: Bundle, tmp_path: Path) -> None:
    path = write_triton(bundle, tmp_path / "models")
    assert path == tmp_path / "models" / bundle.path.name
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {f"models/{path.name}/config.pbtxt", f"models/{path.name}/1/model.onnx"}
    assert (path / "1" / "model.onnx").read_bytes() == bundle.onnx.read_bytes()
    assert os.stat(path).st_mode & 0o777 == 0o755  # a server of another user may read it


def test_the_configuration_in_tritons_schema(schema: Any, bundle: Bundle, tmp_path: Path) -> None:
    config = config_of(schema, write_triton(bundle, tmp_path, "lifter", max_batch=8))
    frames = bundle.input.frames
    assert (config.name, config.backend, config.max_batch_size) == ("lifter", "onnxruntime", 8)
    assert tensors(config.input) == {
        "keypoints": (schema.TYPE_FP32, [frames, JOINTS, 3]),
        "intrinsics": (schema.TYPE_FP32, [4]),
    }
    assert tensors(config.output) == {"poses": (schema.TYPE_FP32, [JOINTS, 3])}
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == QUEUE_DELAY_US
    assert QUEUE_DELAY_US * 60 < 0.02 * 1e6  # below a fiftieth of a frame at 60 Hz
    [warmup] = config.model_warmup
    assert warmup.batch_size == 1
    assert {k: (v.data_type, list(v.dims)) for k, v in warmup.inputs.items()} == tensors(config.input)
    assert all(value.zero_data for value in warmup.inputs.values())


def test_what_the_manifest_knows_reaches_who_serves_it(schema: Any, bundle: Bundle, tmp_path: Path) -> None:
    facts, manifest = told(config_of(schema, write_triton(bundle, tmp_path))), bundle.manifest
    assert facts["joints"].split(",") == list(bundle.skeleton.joints)
    for key in ("skeleton", "units", "camera_input"):
        assert facts[key] == manifest[key]
    assert int(facts["frames"]) == manifest["frames"]
    assert float(facts["frame_interval_s"]) == manifest["frame_interval_s"]
    assert (facts["precision"], facts["bundle_seal"]) == ("fp32", manifest["seal"])


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("max_batch_size", "max_batchsize"),
        ("max_queue_delay_microseconds", "max_queue_delay_us"),
        ("TYPE_FP32", "TYPE_FLOAT"),
        ("KIND_GPU", "KIND_CUDA"),
        ("zero_data: true", "zero_data: 0.5"),
    ],
)
def test_a_misspelt_configuration_is_refused_by_the_schema(
    schema: Any, frame: Bundle, tmp_path: Path, correct: str, wrong: str
) -> None:
    text = (write_triton(frame, tmp_path) / "config.pbtxt").read_text()
    assert correct in text
    parsed(schema, text)
    with pytest.raises(text_format.ParseError):
        parsed(schema, text.replace(correct, wrong))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_finds_in_the_model_what_the_configuration_says(
    schema: Any, frame: Bundle, tmp_path: Path, precision: str
) -> None:
    path = write_triton(frame, tmp_path, precision=precision)
    config = config_of(schema, path)
    session = onnxruntime.InferenceSession(path / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    for served, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert all(isinstance(i.shape[0], str) for i in real)  # the batch, which Triton's dims leave out
        assert tensors(served) == {i.name: (schema.TYPE_FP32, i.shape[1:]) for i in real}
        assert {i.type for i in real} == {"tensor(float)"}
    reference = frame.reference()
    for batch in (1, 3, config.max_batch_size):
        fed = {i.name: reference[i.name][:batch] for i in config.input}
        [poses] = session.run([config.output[0].name], fed)
        assert poses.shape == (batch, JOINTS, 3)
        assert np.isfinite(poses).all()


def test_the_warmup_request_runs(schema: Any, sequence: Bundle, tmp_path: Path) -> None:
    path = write_triton(sequence, tmp_path)
    [warmup] = config_of(schema, path).model_warmup
    fed = {k: np.zeros((warmup.batch_size, *v.dims), np.float32) for k, v in warmup.inputs.items()}
    session = onnxruntime.InferenceSession(path / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["poses"], fed)[0].shape == (1, JOINTS, 3)


def test_the_device_decides_kind_threads_and_tf32(schema: Any, frame: Bundle, tmp_path: Path) -> None:
    gpu = config_of(schema, write_triton(frame, tmp_path / "gpu"))
    cpu = config_of(schema, write_triton(frame, tmp_path / "cpu", device="cpu"))
    group = schema.ModelInstanceGroup
    assert gpu.max_batch_size == cpu.max_batch_size == 64
    assert [(g.kind, g.count) for g in gpu.instance_group] == [(group.KIND_GPU, 1)]
    assert [(g.kind, g.count) for g in cpu.instance_group] == [(group.KIND_CPU, 1)]
    assert told(cpu)["intra_op_thread_count"] == "1"
    assert "intra_op_thread_count" not in told(gpu)
    [accelerator] = gpu.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert not cpu.HasField("optimization")


def test_the_half_precision_graph_is_the_one_that_was_attached(schema: Any, frame: Bundle, tmp_path: Path) -> None:
    path = write_triton(frame, tmp_path, precision="fp16")
    assert (path / "1" / "model.onnx").read_bytes() == (frame.path / "graphs" / "fp16.onnx").read_bytes()
    assert told(config_of(schema, path))["precision"] == "fp16"
    with pytest.raises(EdgeliftError, match="no int8 graph"):
        write_triton(frame, tmp_path / "other", precision="int8")


def test_a_tensorrt_engine_is_served_as_a_plan(schema: Any, frame: Bundle, tmp_path: Path) -> None:
    path = write_triton(frame, tmp_path, precision="fp16", engine=ENGINE)
    config = config_of(schema, path)
    assert {p.name for p in (path / "1").iterdir()} == {"model.plan"}
    assert (path / "1" / "model.plan").read_bytes() == PLAN
    assert (config.backend, config.max_batch_size) == ("tensorrt", 16)  # its profile's most
    assert tensors(config.input).keys() == {"keypoints", "intrinsics"}
    assert not config.HasField("optimization")
    facts = told(config)
    assert (facts["precision"], facts["tensorrt"], facts["gpu"]) == ("fp16", "10.16.1.11", "NVIDIA L4")
    smaller = write_triton(frame, tmp_path, "smaller", precision="fp16", max_batch=4, engine=ENGINE)
    assert config_of(schema, smaller).max_batch_size == 4


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"engine": "absent.plan"}, "no absent.plan"),
        ({"engine": ENGINE, "max_batch": 17}, "at most 16"),
        ({"engine": ENGINE, "precision": "fp32"}, "Add --precision fp16"),
        ({"engine": ENGINE, "device": "cpu"}, "received device cpu"),
        ({"device": "tpu"}, "received tpu"),
        ({"max_batch": 0}, "1 or more"),
        ({"name": "a/b"}, "model name"),
        ({"name": ".hidden"}, "model name"),
        ({"name": ""}, "model name"),
        ({"name": "zwei Wörter"}, "model name"),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_is_left(
    frame: Bundle, tmp_path: Path, asked: dict[str, Any], match: str
) -> None:
    with pytest.raises(EdgeliftError, match=match):
        write_triton(frame, tmp_path, **({"precision": "fp16"} | asked))
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_rtx_engines_are_refused(frame: Bundle, tmp_path: Path) -> None:
    [rtx] = (a for a in attachments(frame, "engines") if a.facts["flavour"] == "rtx")
    with pytest.raises(EdgeliftError, match=r"one for TensorRT-RTX.*edgelift build .* --engine tensorrt"):
        write_triton(frame, tmp_path, precision="fp16", engine=rtx.path.name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_model_is_never_overwritten(frame: Bundle, tmp_path: Path) -> None:
    path = write_triton(frame, tmp_path)
    before = (path / "config.pbtxt").read_bytes()
    with pytest.raises(EdgeliftError, match="already"):
        write_triton(frame, tmp_path, max_batch=2)
    assert (path / "config.pbtxt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_write_that_breaks_off_leaves_nothing(frame: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="space"):
        write_triton(frame, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tampered_engine_is_not_served(frame: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(frame.path, copy)
    (copy / "engines" / ENGINE).write_bytes(PLAN[:-1] + b"!")
    with pytest.raises(EdgeliftError, match="tampered"):
        write_triton(load_bundle(copy), tmp_path / "models", precision="fp16", engine=ENGINE)
    assert not (tmp_path / "models").exists()
