"""Reduced precision, written into the graph: what TensorRT or ONNX Runtime then does is what stands there.

The first and last linear layers and all that lies before and after them stay FP32: pixels need more than a half's
eleven bits, and at 5 m its step is 3.9 mm. LayerNorm, softmax and every elementwise operation stay FP32 as well. Names
of weights are kept, so a refit finds them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgelift.poses.errors import EdgeliftError

LINEAR = ("Gemm", "MatMul", "Conv")
SHAPES = ("Shape", "Size")  # what only asks for a tensor's shape does not hear its values
FP8_OPSET = 19  # QuantizeLinear knows FP8 from there on
QUANTISED = {"int8": (np.dtype(np.int8), 127.0), "fp8": (np.dtype(ml_dtypes.float8_e4m3fn), 448.0)}


def inner_linears(model: ModelProto) -> list[NodeProto]:
    """Return the linear layers that may be reduced: all but the first and the last ones.

    First is whatever hears an input of the graph through no other linear layer; last, whatever is heard so.
    """
    nodes = list(model.graph.node)
    first = _reached(nodes, {i.name for i in model.graph.input}, forward=True)
    last = _reached(nodes[::-1], {o.name for o in model.graph.output}, forward=False)
    return [n for n in nodes if n.op_type in LINEAR and not set(n.input) & first and not set(n.output) & last]


def _reached(nodes: list[NodeProto], start: set[str], forward: bool) -> set[str]:
    """Names of tensors that are connected with `start` through no linear layer; nodes in the order of travel."""
    reached = set(start)
    for node in nodes:
        entering, leaving = (node.input, node.output) if forward else (node.output, node.input)
        if node.op_type not in (*LINEAR, *SHAPES) and reached.intersection(entering):
            reached.update(leaving)
    return reached


def to_half(model: ModelProto, spared: Collection[str] = ()) -> ModelProto:
    """Return a copy whose inner linear layers but the spared ones compute in FP16, with casts around each."""
    reduced = copy.deepcopy(model)
    weights = {t.name: t for t in reduced.graph.initializer}
    inner = {n.output[0] for n in inner_linears(reduced) if n.input[1] not in spared}
    casts: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in reduced.graph.node:
        nodes += _halved(node, weights, casts) if node.output[0] in inner else [node]
    return with_nodes(reduced, nodes)


def _halved(node: NodeProto, weights: Mapping[str, TensorProto], casts: dict[str, str]) -> Iterator[NodeProto]:
    for place, name in enumerate(node.input):
        if name in weights:
            _round_to_half(weights[name])
            continue
        if name not in casts:
            casts[name] = f"{name}_half"
            yield helper.make_node("Cast", [name], [casts[name]], f"cast_{name}_half", to=TensorProto.FLOAT16)
        node.input[place] = casts[name]
    [result] = node.output
    node.output[0] = f"{result}_in_half"
    yield node
    yield helper.make_node("Cast", [node.output[0]], [result], f"cast_{result}", to=TensorProto.FLOAT)


def _round_to_half(weight: TensorProto) -> None:
    if weight.data_type == TensorProto.FLOAT16:
        return
    half = numpy_helper.to_array(weight).astype(np.float16)
    if not np.isfinite(half).all():
        raise EdgeliftError(
            weight.name, "a weight beyond 65504", "one that a half can hold", "Use fp32 for this lifter."
        )
    weight.CopyFrom(numpy_helper.from_array(half, weight.name))


def activations(model: ModelProto) -> list[str]:
    """Return the tensors that a quantised graph quantises besides weights: what its inner layers with weights hear."""
    return list(dict.fromkeys(node.input[0] for node in _with_weights(model)))


def layers(model: ModelProto) -> list[str]:
    """Return what may be reduced, or spared: the weights of its inner linear layers, by name."""
    return list(dict.fromkeys(node.input[1] for node in _with_weights(model)))


def _with_weights(model: ModelProto) -> list[NodeProto]:
    weights = {t.name for t in model.graph.initializer}
    return [n for n in inner_linears(model) if n.input[1] in weights]


def to_quantised(
    model: ModelProto, ranges: Mapping[str, tuple[float, float]], precision: str, spared: Collection[str] = ()
) -> ModelProto:
    """Return a copy with explicit symmetric Q/DQ before its inner linear layers but the spared ones: int8 or fp8.

    ranges: lowest and highest value of each of `activations(model)`. Weights are scaled by output channel and stay
    FP32 in the file (W -> Q -> DQ), biases stay FP32. TensorRT takes no zero points, which wastes half of int8 on what
    a ReLU gives: so the middle of a range is subtracted first, and added again in the bias. The nodes are counted.
    """
    reduced = copy.deepcopy(model)
    missing = [name for name in activations(reduced) if name not in ranges]
    if missing:
        raise EdgeliftError("ranges", f"none for {missing[:3]}", "one a quantised tensor", "Calibrate again.")
    writer = _Writer(precision, {t.name: t for t in reduced.graph.initializer}, ranges)
    quantised = [n for n in _with_weights(reduced) if n.input[1] not in spared]
    expected = len({n.input[0] for n in quantised}) + len({n.input[1] for n in quantised})
    chosen = {n.output[0] for n in quantised}
    nodes: list[NodeProto] = []
    for node in reduced.graph.node:
        nodes += writer.around(node) if node.output[0] in chosen else [node]
    reduced.graph.initializer.extend(writer.added)
    if precision == "fp8":
        [default] = [o for o in reduced.opset_import if o.domain in ("", "ai.onnx")]
        default.version = FP8_OPSET
    _count(nodes, expected)
    return with_nodes(reduced, nodes)


class _Writer:
    """Adds Q/DQ pairs, one a tensor, and the constants they need."""

    def __init__(
        self, precision: str, weights: Mapping[str, TensorProto], ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        self.zero, self.largest = QUANTISED[precision]
        self.weights, self.ranges = weights, ranges
        self.centred = precision == "int8"  # a float's step is finer near zero, where most activations are
        self.added: list[TensorProto] = []
        self.pairs: dict[str, str] = {}

    def around(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield a linear layer and, before it, the pairs that its input and its weight still lack."""
        heard, weight = node.input[0], node.input[1]
        low, high = self.ranges[heard]
        # without a bias to put it back into, nothing can be subtracted
        middle = (low + high) / 2 if self.centred and node.op_type == "Gemm" and len(node.input) == 3 else 0.0
        if heard not in self.pairs:
            name = f"{weight}.input"
            yield helper.make_node("Sub", [heard, self._constant(f"{name}.middle", middle)], [f"{name}.centred"], name)
            largest = np.asarray(max(high - middle, middle - low), np.float32)
            self.pairs[heard] = f"{name}.dequantised"
            yield from self._pair(f"{name}.centred", name, largest, None)
        axis = output_axis(node)
        values = numpy_helper.to_array(self.weights[weight])
        channels = np.abs(values).reshape(values.shape if values.ndim == 2 else (len(values), -1)).max(1 - axis)
        scales = np.maximum(channels, 1e-12).astype(np.float32)
        self.pairs[weight] = f"{weight}.dequantised"
        yield from self._pair(weight, weight, scales, axis)
        if middle:
            self._put_back(node, values, scales, axis, middle)
        node.input[0], node.input[1] = self.pairs[heard], self.pairs[weight]
        yield node

    def _put_back(
        self, node: NodeProto, values: NDArray[np.float32], scales: NDArray[np.float32], axis: int, middle: float
    ) -> None:
        """Add to a Gemm's bias what its rounded weights would have made of the subtracted middle."""
        step = np.expand_dims(scales / self.largest, 1 - axis)
        rounded = np.clip(np.rint(values / step), -self.largest, self.largest) * step
        bias = self.weights[node.input[2]]
        moved = numpy_helper.to_array(bias) + middle * rounded.sum(1 - axis)
        bias.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), bias.name))

    def _pair(self, tensor: str, name: str, amax: NDArray[np.float32], axis: int | None) -> Iterator[NodeProto]:
        scales = np.asarray(amax / self.largest, np.float32)
        scale = self._constant(f"{name}.scale", scales)
        zero = self._constant(f"{name}.zero_point", np.zeros(scales.shape, self.zero))
        along: dict[str, Any] = {} if axis is None else {"axis": axis}
        quantised, result = f"{name}.quantised", f"{name}.dequantised"
        yield helper.make_node("QuantizeLinear", [tensor, scale, zero], [quantised], quantised, **along)
        yield helper.make_node("DequantizeLinear", [quantised, scale, zero], [result], result, **along)

    def _constant(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        self.added.append(
            numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)
        )
        return name


def output_axis(node: NodeProto) -> int:
    """Along which axis of its weight a linear layer's output channels lie."""
    transposed = any(a.name == "transB" and a.i == 1 for a in node.attribute)
    return 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and transposed) else 1


def _count(nodes: list[NodeProto], expected: int) -> None:
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        found = sum(n.op_type == kind for n in nodes)
        if not found == expected > 0:
            raise EdgeliftError(
                "quantised graph", f"{found} {kind} nodes", f"{expected}, and more than none",
                "This lifter has nothing to quantise, or the exporter changed; use fp16.",
            )  # fmt: skip


def with_nodes(model: ModelProto, nodes: list[NodeProto]) -> ModelProto:
    """Give a model other nodes, and check it."""
    kept = [copy.deepcopy(n) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.value_info[:]  # types of tensors that have changed
    onnx.checker.check_model(model, full_check=True)
    return model
