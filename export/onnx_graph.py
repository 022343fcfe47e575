"""PyTorch to ONNX, and the proof that both say the same."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir.passes.common
import onnxruntime
import onnxscript.optimizer
import onnxscript.rewriter
import torch
from numpy.typing import NDArray
from torch import nn

from edgelift.poses.errors import EdgeliftError

OPSET = 18
PARITY_LIMIT_MM = 0.01  # worst joint
PARITY_BATCHES = (1, 2, 5, 64)


def export_onnx(model: nn.Module, frames: int, joints: int, path: Path) -> onnx.ModelProto:
    """Write the lifter's graph with a dynamic batch; check it, the opset that was really written too; return it.

    Exported unoptimised and then folded by the public passes: the exporter's own optimiser merges equal small tensors,
    so that initializer names would depend on the weights' values and a refit by name could hit the wrong tensor.
    """
    keypoints = torch.rand(2, frames, joints, 3) * 100
    intrinsics = torch.tensor([[1000.0, 1000.0, 500.0, 500.0]]).repeat(2, 1)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model.eval(),
            (keypoints, intrinsics),
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=["keypoints", "intrinsics"],
            output_names=["poses"],
            dynamic_shapes=({0: batch}, {0: batch}),
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        proto = _bare(_fold(program.model))
    onnx.checker.check_model(proto, full_check=True)
    written = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if written != [OPSET] or any(n.op_type == "Attention" for n in proto.graph.node):
        raise EdgeliftError(
            "exported graph", f"opset {written}", f"opset {OPSET} without Attention", "Report the torch version."
        )
    path.write_bytes(proto.SerializeToString())
    return proto


def _fold(model: Any) -> onnx.ModelProto:
    onnx_ir.passes.common.InlinePass()(model)
    for _ in range(2):  # the second round folds what the first one's rewrites uncovered (batch norm into linear)
        onnxscript.optimizer.fold_constants(model)
        model = onnxscript.rewriter.rewrite(model)
        onnxscript.optimizer.remove_unused_nodes(model)
    proto: onnx.ModelProto = onnx_ir.to_proto(model)
    return proto


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes for people: paths of source files, which differ between checkouts."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return proto


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's progress lines off standard output, which belongs to --json."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def graph_facts(proto: onnx.ModelProto, parameters: Sequence[str]) -> dict[str, Any]:
    """Return what makes two graphs the same but for their weights: what a refit may replace, and a digest of the rest.

    parameters: names that hold weights. `signature` digests every node, every initializer's name, type and shape, in
    order, and the values of constants; it depends on the versions of torch and onnxscript too.
    """
    graph = proto.graph
    weights = [t for t in graph.initializer if t.name in set(parameters)]
    tensors = [[t.name, _dtype(t.data_type), list(t.dims)] for t in graph.initializer]
    constants = [
        t.SerializeToString(deterministic=True).hex() for t in graph.initializer if t.name not in set(parameters)
    ]
    nodes = [n.SerializeToString(deterministic=True).hex() for n in graph.node]
    told = json.dumps([tensors, constants, nodes])
    return {
        "signature": hashlib.sha256(told.encode()).hexdigest(),
        "ops": [n.op_type for n in graph.node],
        "initializers": tensors,
        "parameters": [t.name for t in weights],
        "constants": [n.output[0] for n in graph.node if n.op_type == "Constant"],
    }


def _dtype(code: int) -> str:
    return onnx.helper.tensor_dtype_to_np_dtype(code).name


def graph_inputs(proto: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return the graph's inputs as the manifest lists them: name, dtype, shape (a string is a dynamic dimension)."""
    graph = proto.graph
    return [
        {
            "name": value.name,
            "dtype": _dtype(value.type.tensor_type.elem_type),
            "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        }
        for value in graph.input
    ]


def parity_mm(model: nn.Module, path: Path, keypoints: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> float:
    """Worst joint distance in mm between PyTorch and ONNX Runtime over the input, at several batch sizes.

    keypoints (n, frames, joints, 3), intrinsics (n, 4): real input. EdgeliftError above PARITY_LIMIT_MM.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(keypoints), torch.from_numpy(intrinsics)).numpy()
    # np.max keeps a NaN, which max may drop
    worst = float(np.max([_distance(session, keypoints, intrinsics, expected, size) for size in PARITY_BATCHES]))
    if not worst <= PARITY_LIMIT_MM:
        raise EdgeliftError(
            "parity of the exported graph", f"{worst:.4f} mm at the worst joint", f"at most {PARITY_LIMIT_MM} mm",
            "Do not deploy it; report the torch and onnxruntime versions.",
        )  # fmt: skip
    return worst


def _distance(
    session: Any,
    keypoints: NDArray[np.float32],
    intrinsics: NDArray[np.float32],
    expected: NDArray[np.float32],
    size: int,
) -> float:
    starts: Sequence[int] = range(0, len(keypoints), size)
    given = [
        session.run(None, {"keypoints": keypoints[i : i + size], "intrinsics": intrinsics[i : i + size]})[0]
        for i in starts
    ]
    return 1000 * float(np.linalg.norm(np.concatenate(given) - expected, axis=-1).max())
