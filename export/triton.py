"""A model repository for Triton Inference Server: the lifter's graph or a TensorRT engine, and how to serve it.

The configuration is written as text, so nothing of Triton is needed here; the tests parse it with Triton's own schema.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, attachments
from edgelift.runtime.backends.onnx_runtime import graph_of
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.engines.flavours import TITLES
from edgelift.runtime.engines.store import verify_plan

VERSION = "1"
MAX_BATCH = 64
# Cameras that run together send within a moment of each other and share a batch; a lone camera waits this long with
# every frame. 200 us are about one call of a 512-wide lifter on a CPU, and 1.2 % of a frame at 60 Hz.
QUEUE_DELAY_US = 200
KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
TYPES = {"float32": "TYPE_FP32"}
PIXELS = {
    "rays": "x, y: undistorted pixels. intrinsics: fx, fy, cx, cy of the camera, pixels.",
    "screen": "x, y: raw pixels. intrinsics: fx = fy = width / 2, cx = width / 2, cy = height / 2, pixels.",
}
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")  # a folder, and a part of the server's addresses


@dataclass(frozen=True)
class Served:
    """What a server is given: the model file, the backend that runs it, where, at which batch; `facts` are told on."""

    backend: str
    file: str
    data: bytes
    device: str
    max_batch: int
    facts: dict[str, str]


def write_triton(
    bundle: Bundle,
    folder: Path,
    name: str | None = None,
    precision: str = "fp32",
    max_batch: int | None = None,
    device: str = "gpu",
    engine: str | None = None,
) -> Path:
    """Write `folder`/`name`/ with config.pbtxt and the model of version 1; return that path.

    name: None is the bundle's own. max_batch: the most windows a batch holds, None is 64 or the engine's most. device:
    cpu or gpu. engine: the file name of one of the bundle's TensorRT engines, served by Triton's TensorRT backend; None
    serves the graph of that precision with ONNX Runtime. EdgeliftError where `folder`/`name` exists.
    """
    name = _checked_name(bundle.path.resolve().name if name is None else name)
    if engine is None:
        served = _graph(bundle, precision, max_batch, device)
    else:
        served = _engine(bundle, engine, precision, max_batch, device)
    _check(served)
    return _write(folder / name, served, config_text(bundle, served, name))


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise EdgeliftError(
            "Triton model name", repr(name), "letters, digits, _ and -, with dots inside", "Choose another name."
        )
    return name


def _graph(bundle: Bundle, precision: str, max_batch: int | None, device: str) -> Served:
    data = graph_of(bundle, precision, "graphs", None)
    facts = {"precision": precision}
    if device == "cpu":
        facts["intra_op_thread_count"] = "1"  # read by the backend: a lifter is too small to gain from more
    return Served("onnxruntime", "model.onnx", data, device, MAX_BATCH if max_batch is None else max_batch, facts)


def _engine(bundle: Bundle, engine: str, precision: str, max_batch: int | None, device: str) -> Served:
    attachment = _named(bundle, engine)
    facts = attachment.facts
    if facts["precision"] != precision:
        raise EdgeliftError(
            f"engine {engine}", f"--precision {precision}", facts["precision"], f"Add --precision {facts['precision']}."
        )
    if device != "gpu":
        raise EdgeliftError(f"engine {engine}", f"device {device}", "gpu", "Serve the graph to run on the CPU.")
    most = int(facts["profiles"][0]["max"])
    if max_batch is not None and max_batch > most:
        raise EdgeliftError(
            f"engine {engine}", f"a batch of {max_batch}", f"at most {most}, its profile",
            f"Build with --max-batch {max_batch}, or serve smaller batches.",
        )  # fmt: skip
    told = {"precision": facts["precision"], "tensorrt": facts["version"], "gpu": facts["gpu"] or "unknown"}
    most = most if max_batch is None else max_batch
    return Served("tensorrt", "model.plan", verify_plan(attachment), device, most, told)


def _named(bundle: Bundle, engine: str) -> Attachment:
    """Return the bundle's TensorRT engine of a name; EdgeliftError where it is none, or TensorRT-RTX's."""
    held = {a.path.name: a for a in attachments(bundle, "engines")}
    served = [n for n, a in held.items() if a.facts["flavour"] == "tensorrt"]
    build = f"On the server's machine run: edgelift build {bundle.path} --engine tensorrt"
    if engine not in held:
        raise EdgeliftError(f"engines of {bundle.path}", f"no {engine}", f"one of {served}", build)
    flavour = held[engine].facts["flavour"]
    if flavour != "tensorrt":
        title = TITLES.get(flavour, flavour)
        raise EdgeliftError(f"engine {engine}", f"one for {title}", "one for TensorRT, which Triton can serve", build)
    return held[engine]


def _check(served: Served) -> None:
    if served.device not in KINDS:
        raise EdgeliftError("device", served.device, " or ".join(KINDS), "Choose one of them.")
    if served.max_batch < 1:
        raise EdgeliftError(
            "--max-batch", str(served.max_batch), "1 or more: the lifter's tensors have a batch dimension",
            "Name the most windows that a batch may hold.",
        )  # fmt: skip


def _write(path: Path, served: Served, config: str) -> Path:
    """Write beside `path` and rename: a server that watches the folder sees the whole model, or nothing."""
    if path.exists():
        raise EdgeliftError(
            str(path), "something there already", "a new path", "Choose another name or folder, or delete it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (temporary / VERSION).mkdir()
        (temporary / VERSION / served.file).write_bytes(served.data)
        (temporary / "config.pbtxt").write_text(config)
        temporary.chmod(0o755)  # mkdtemp's own is for the writer alone; servers run as somebody else
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def config_text(bundle: Bundle, served: Served, name: str) -> str:
    """Return the text of config.pbtxt: tensors without their batch dimension, batching, warm-up, what the bundle is."""
    inputs = [(i["name"], _tensor(i["dtype"], i["shape"][1:])) for i in bundle.manifest["inputs"]]
    output = _tensor("float32", [len(bundle.skeleton.joints), 3])
    lines = [
        *_comments(bundle),
        f"name: {_quoted(name)}",
        f"backend: {_quoted(served.backend)}",
        f"max_batch_size: {served.max_batch}",
        *(f"input {{ name: {_quoted(tensor)} {told} }}" for tensor, told in inputs),
        f'output {{ name: "poses" {output} }}',
        f"instance_group {{ kind: {KINDS[served.device]} count: 1 }}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}",
        *_warmup(inputs),
        *_tf32(served),
        *(_parameter(key, value) for key, value in (_facts(bundle) | served.facts).items()),
    ]
    return "\n".join(lines) + "\n"


def _comments(bundle: Bundle) -> list[str]:
    return [
        "# keypoints: x, y, confidence of every joint, oldest frame first. Confidence not above 0: a missing joint,",
        "# whatever x and y are.",
        f"# {PIXELS[bundle.manifest['camera_input']]}",
        "# poses: x, y, z of every joint in the newest frame, in its camera's frame.",
    ]


def _tensor(dtype: str, dims: Sequence[int]) -> str:
    return f"data_type: {TYPES[dtype]} dims: [ {', '.join(map(str, dims))} ]"


def _warmup(inputs: Sequence[tuple[str, str]]) -> list[str]:
    """One window in which nobody is seen: the server is not ready before every layer has run once."""
    values = [f"  inputs {{ key: {_quoted(name)} value {{ {told} zero_data: true }} }}" for name, told in inputs]
    return ["model_warmup {", '  name: "nobody"', "  batch_size: 1", *values, "}"]


def _tf32(served: Served) -> list[str]:
    """Forbid ONNX Runtime's TF32 on a GPU: it rounds to ten bits, at 5 m that is millimetres."""
    if (served.backend, served.device) != ("onnxruntime", "gpu"):
        return []
    option = 'name: "cuda" parameters { key: "use_tf32" value: "0" }'
    return [f"optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ {option} }} }} }}"]


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    joints = ",".join(manifest["joints"])
    told = {key: str(manifest[key]) for key in ("skeleton", "units", "camera_input", "frames", "frame_interval_s")}
    return told | {"joints": joints, "bundle_seal": manifest["seal"]}


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _quoted(text: str) -> str:
    return json.dumps(text)  # the text format's escapes are among JSON's
