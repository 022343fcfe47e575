"""Reduced graphs: which layers are reduced, what that does to poses, and what a budget refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgelift.calibration.ranges import Ranges
from edgelift.export.cpu_file import to_eight_bit_weights
from edgelift.export.judge import lift
from edgelift.export.precision import activations, inner_linears, layers, to_half, to_quantised
from edgelift.export.reduced import calibrate, judge_of, keep_graph
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.runtime.attachments import attachments
from edgelift.runtime.budget import BUDGETS, Budget, Change, change
from edgelift.runtime.bundle import Bundle, load_bundle, sha256

from .lifters import KINDS, make_bundle, some_input

WIDE = Budget(1e9, 1e9, 1e9)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    home = tmp_path_factory.mktemp("precision")
    return {kind: make_bundle(home / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def trained(bundle: Path) -> Bundle:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def ranges(trained: Bundle, sessions: list[Session]) -> Ranges:
    return calibrate(trained, sessions)


def spans(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(activations(model), (-4.0, 4.0))


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_and_last_layers_are_never_reduced(bundles: dict[str, Bundle], kind: str) -> None:
    model = onnx.load(bundles[kind].onnx)
    names = [n.input[1] for n in inner_linears(model)]
    assert "head.weight" not in names
    assert not any(name.startswith(("trunk.0", "enter")) for name in names)  # these hear keypoints
    assert {"trunk.4.layers.0.weight", "trunk.5.layers.4.weight"} <= set(names)
    if kind == "transformer":
        assert {"layers.0.query.weight", "layers.1.think.3.weight"} <= set(names)


@pytest.mark.parametrize("kind", KINDS)
def test_half_is_around_inner_layers_alone(bundles: dict[str, Bundle], kind: str) -> None:
    model = onnx.load(bundles[kind].onnx)
    half = to_half(model)
    assert onnx.load(bundles[kind].onnx) == model  # what it is given stays as it is
    weights = {t.name: t for t in half.graph.initializer}
    rounded = {name for name, t in weights.items() if t.data_type == TensorProto.FLOAT16}
    inner = {name for n in inner_linears(model) for name in n.input if name in weights}
    assert rounded == inner
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(half).graph.value_info}
    for node in half.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "Where", "Div", "Relu", "Erf", "Add"):
            assert TensorProto.FLOAT16 not in [types.get(name) for name in node.output]
    assert [t.name for t in half.graph.initializer] == [t.name for t in model.graph.initializer]


@pytest.mark.parametrize("kind", KINDS)
def test_half_moves_poses_by_less_than_its_budget(bundles: dict[str, Bundle], kind: str) -> None:
    bundle = bundles[kind]
    facts = keep_graph(bundle, "fp16", None, BUDGETS["fp16"]).facts
    assert 0 < facts["graph_parity"]["worst_mm"] <= 1.0
    assert facts["forced"] is False
    assert facts["opset"] == 18


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_inner_layer_is_quantised_and_counted(bundles: dict[str, Bundle], kind: str, precision: str) -> None:
    model = onnx.load(bundles[kind].onnx)
    reduced = to_quantised(model, spans(model), precision)
    weights = {t.name for t in model.graph.initializer}
    layers = {n.input[1] for n in inner_linears(model)} & weights
    assert ops(reduced).count("QuantizeLinear") == ops(reduced).count("DequantizeLinear")
    assert ops(reduced).count("QuantizeLinear") == len(layers) + len(activations(model))
    heard = {n.input[0] for n in reduced.graph.node if n.op_type == "QuantizeLinear"}
    assert layers <= heard
    zeros = [t for t in reduced.graph.initializer if t.name.endswith(".zero_point")]
    assert all(not numpy_helper.to_array(t).astype(np.float32).any() for t in zeros)


def test_int8_is_what_numpy_makes_of_it(bundles: dict[str, Bundle]) -> None:
    """The first quantised layer, recomputed from its inputs by rounding in numpy."""
    model = onnx.load(bundles["frame"].onnx)
    reduced = to_quantised(model, {name: (0.0, 3.0) for name in activations(model)}, "int8")
    layer = inner_linears(model)[0]
    heard, output = layer.input[0], layer.output[0]
    x, y = tensors(reduced, [heard, output])
    weight, bias = (array(model, name) for name in layer.input[1:3])
    step = np.abs(weight).max(1, keepdims=True) / 127
    rounded_x = np.clip(np.rint((x - 1.5) / np.float32(1.5 / 127)), -128, 127) * np.float32(1.5 / 127) + 1.5
    expected = rounded_x @ (np.clip(np.rint(weight / step), -127, 127) * step).T + bias
    np.testing.assert_allclose(y, expected, atol=2e-5)


def tensors(model: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    import onnxruntime

    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])
    keypoints, intrinsics = (t.numpy() for t in some_input(16))
    return list(session.run(names, {"keypoints": keypoints, "intrinsics": intrinsics}))


def array(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def test_a_graph_with_nothing_to_quantise_is_refused(bundles: dict[str, Bundle]) -> None:
    model = onnx.load(bundles["frame"].onnx)
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.op_type = "Identity"  # no linear layer is left
    with pytest.raises(EdgeliftError, match="more than none"):
        to_quantised(model, {}, "int8")


def test_the_best_of_all_methods_is_kept_and_what_it_does_is_told(trained: Bundle, ranges: Ranges) -> None:
    facts = keep_graph(trained, "int8", ranges, WIDE).facts
    graph = (trained.path / "graphs" / "int8.onnx").read_bytes()
    assert facts["graph_parity"]["worst_mm"] == pytest.approx(judge_of(trained).change(graph).worst_mm)
    tried = facts["ranges"]["tried"]
    assert set(tried) == set(ranges.methods) >= {"max_1.0", "percentile_99.99", "entropy"}
    assert tried[facts["ranges"]["method"]] == min(tried.values(), key=lambda c: WIDE.share(Change(**c)))
    assert facts["quantise_nodes"] == 8
    assert facts["spared"] == []


def test_the_most_harmful_layers_are_spared_until_there_is_room(trained: Bundle, ranges: Ranges) -> None:
    whole = keep_graph(trained, "int8", ranges, WIDE).facts
    tight = replace(WIDE, worst_mm=whole["graph_parity"]["worst_mm"])  # all of it: no room is left
    facts = keep_graph(trained, "int8", ranges, tight).facts
    model = onnx.load(trained.onnx)
    assert 1 <= len(facts["spared"]) <= 2
    assert facts["quantise_nodes"] == 2 * (4 - len(facts["spared"]))
    assert facts["graph_parity"]["worst_mm"] < whole["graph_parity"]["worst_mm"]
    every = set(layers(model))
    assert len(every) == 4
    harm = {
        name: judge_of(trained)
        .change(
            to_quantised(model, ranges.methods[facts["ranges"]["method"]], "int8", every - {name}).SerializeToString()
        )
        .worst_mm
        for name in every
    }
    assert facts["spared"][0] == max(every, key=lambda name: harm[name])


def test_ranges_survive_disk_and_are_tied_to_their_graph(trained: Bundle, ranges: Ranges, tmp_path: Path) -> None:
    ranges.save(tmp_path)
    digest = sha256(trained.onnx)
    loaded = Ranges.load(tmp_path, digest)
    assert {m: {t: tuple(r) for t, r in v.items()} for m, v in loaded.methods.items()} == ranges.methods
    with pytest.raises(EdgeliftError, match="another lifter"):
        Ranges.load(tmp_path, "0" * 64)
    with pytest.raises(EdgeliftError, match=r"no ranges\.json"):
        Ranges.load(tmp_path / "nowhere", digest)
    (tmp_path / "ranges.json").write_text(
        '{"graph_sha256": "' + digest + '", "windows": 1, "methods": {"max": {"a": [1, 1]}}}'
    )
    with pytest.raises(EdgeliftError, match="without an extent"):
        Ranges.load(tmp_path, digest)
    (tmp_path / "ranges.json").write_text("[]")
    with pytest.raises(EdgeliftError, match="unreadable"):
        Ranges.load(tmp_path, digest)


def test_observed_ranges_hold_what_was_seen(trained: Bundle, ranges: Ranges) -> None:
    for tensor, (low, high) in ranges.methods["max_1.0"].items():
        assert low < high
        for method in ("percentile_99.9", "entropy"):
            assert ranges.methods[method][tensor][0] >= low
            assert ranges.methods[method][tensor][1] <= high
        assert ranges.methods["max_1.5"][tensor][1] == pytest.approx(1.5 * high)


def test_a_reduced_graph_over_its_budget_is_refused_with_both_figures(trained: Bundle, ranges: Ranges) -> None:
    narrow = replace(BUDGETS["int8"], worst_mm=1e-3)
    before = {a.path.name: a.facts for a in attachments(trained, "graphs")}
    with pytest.raises(EdgeliftError, match=r"received p99 .* mm.*worst 0.001 mm.*--force"):
        keep_graph(trained, "int8", ranges, narrow)
    assert {a.path.name: a.facts for a in attachments(trained, "graphs")} == before
    assert keep_graph(trained, "int8", ranges, narrow, force=True).facts["forced"] is True


def test_int8_without_ranges_names_the_command(trained: Bundle) -> None:
    with pytest.raises(EdgeliftError, match="edgelift calibrate ranges"):
        keep_graph(trained, "int8", None, WIDE)


def test_mpjpe_alone_would_pass_what_displacement_refuses() -> None:
    before = np.zeros((100, 14, 3), np.float32)
    truth = before + np.array([0.1, 0, 0], np.float32)
    after = before.copy()
    after[0, 0, 0] = 0.2  # 20 cm away, and as far from the truth as before
    found = change(before, after, truth)
    assert found.mpjpe_change_mm == pytest.approx(0, abs=1e-5)
    assert found.worst_mm == pytest.approx(200, rel=1e-5)
    assert BUDGETS["int8"].share(found) == pytest.approx(4, rel=1e-4)
    with pytest.raises(EdgeliftError, match="not finite"):
        change(before, after * np.float32(np.nan), truth)


@given(st.tuples(*[st.floats(0, 100, width=32)] * 3), st.floats(-1, 1, width=32))
@settings(max_examples=50, deadline=None)
def test_a_share_is_within_one_exactly_when_every_limit_is_kept(moved: Any, worse: float) -> None:
    budget = BUDGETS["int8"]
    kept = abs(worse) <= budget.mpjpe_mm and moved[1] <= budget.p99_mm and moved[2] <= budget.worst_mm
    assert (budget.share(Change(moved[0], moved[1], moved[2], worse)) <= 1) == kept


def test_a_cpu_file_has_8_bit_weights_and_does_not_hear_its_neighbours(bundles: dict[str, Bundle]) -> None:
    model = onnx.load(bundles["frame"].onnx)
    reduced = to_eight_bit_weights(model)
    assert ops(reduced).count("MatMulNBits") == len(inner_linears(model)) == 4
    assert ops(reduced).count("Gemm") == 2  # the first and the last
    keypoints, intrinsics = (t.numpy() for t in some_input(64))
    graph = reduced.SerializeToString()
    together = lift(graph, keypoints, intrinsics, "ORT_ENABLE_ALL")
    alone = np.concatenate(
        [lift(graph, keypoints[i : i + 1], intrinsics[i : i + 1], "ORT_ENABLE_ALL") for i in range(64)]
    )
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.abs(together - lift(model.SerializeToString(), keypoints, intrinsics, "ORT_ENABLE_ALL")).max() > 1e-5
