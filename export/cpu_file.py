"""A file for the CPU alone: weights of the inner linear layers in 8 bits, by ONNX Runtime's own operator.

On a CPU a lifter waits for its weights; a quarter of the bytes is several times the speed. Each row of activations is
rounded by itself, so a pose does not depend on who else is in the batch, as it would with `quantize_dynamic`. The
operator is ONNX Runtime's, so this is never the portable graph.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgelift.export.precision import inner_linears, output_axis, with_nodes
from edgelift.export.reduced import judge_of
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, amend, attach, remove
from edgelift.runtime.backends import open_backend
from edgelift.runtime.budget import Budget, enforce, facts
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.speed import faster_than_fp32

BLOCK = 128  # inputs that share a scale
LEVEL = 4  # of accuracy: products in int8, sums in FP32


def keep_cpu_file(bundle: Bundle, budget: Budget, force: bool = False) -> Attachment:
    """Make the CPU's 8-bit file and keep it in `engines/`, if it is within its budget and faster than FP32 here."""
    graph = to_eight_bit_weights(onnx.load(bundle.onnx)).SerializeToString()
    change = judge_of(bundle).change(graph, level="ORT_ENABLE_ALL")  # what the backend runs it with
    forced = enforce("int8 on the CPU", change, budget, force)
    told: dict[str, Any] = {"kind": "graph", "flavour": "cpu", "precision": "int8"}
    kept = attach(bundle, "engines", "cpu-int8.onnx", graph, told | facts(change, budget, forced))
    try:
        with open_backend(bundle, "cpu", "int8") as reduced:
            return amend(kept, faster_than_fp32(bundle, reduced, force))
    except EdgeliftError:
        remove(kept)
        raise


def to_eight_bit_weights(model: ModelProto) -> ModelProto:
    """Return a copy whose inner linear layers are MatMulNBits; the first and last ones stay FP32. They are counted."""
    plain = copy.deepcopy(model)
    inner = {n.output[0] for n in inner_linears(plain) if n.op_type == "Gemm"}
    nodes: list[NodeProto] = []
    for node in plain.graph.node:
        nodes += _split(node, plain) if node.output[0] in inner else [node]
    plain = with_nodes(plain, nodes)
    excluded = [n.name for n in plain.graph.node if n.op_type == "MatMul" and not n.name.endswith(_SPLIT)]
    quantiser = _import_quantiser()(
        plain, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=LEVEL, nodes_to_exclude=excluded
    )
    quantiser.process()
    reduced: ModelProto = quantiser.model.model
    found = sum(n.op_type == "MatMulNBits" for n in reduced.graph.node)
    if not found == len(inner) > 0:
        raise EdgeliftError(
            "8-bit weights", f"{found} reduced layers", f"{len(inner)}, and more than none", "Use fp32 for this lifter."
        )
    return reduced


def _import_quantiser() -> Any:
    """Import ONNX Runtime's quantiser, which sets up the whole program's logging as it is imported."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    return MatMulNBitsQuantizer


_SPLIT = "_product"


def _split(node: NodeProto, model: ModelProto) -> Iterator[NodeProto]:
    """A Gemm as MatMul and Add, its weight transposed into (inputs, outputs)."""
    [weight] = [t for t in model.graph.initializer if t.name == node.input[1]]
    if output_axis(node) == 0:
        turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
        weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    [result] = node.output
    yield helper.make_node("MatMul", [node.input[0], node.input[1]], [result + _SPLIT], result + _SPLIT)
    yield helper.make_node("Add", [result + _SPLIT, node.input[2]], [result], result)
