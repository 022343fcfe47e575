"""Refit: when it is allowed, what stops it halfway, and its CPU twin, equal to a fresh export to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgelift.export.additions import Addition, add
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, amend
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.make import make_engine
from edgelift.runtime.engines.refit import constants_of, decide, refit, weights_for
from edgelift.runtime.engines.renew import renew
from edgelift.runtime.engines.twin import CpuTwin

from .lifters import KINDS, make_bundle


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bundle, Bundle]]:
    """Two lifters of each kind, the same but for their weights, with graphs in fp16 too."""
    home = tmp_path_factory.mktemp("refit")
    made = {kind: tuple(make_bundle(home / f"{kind}{seed}", kind, seed) for seed in (0, 1)) for kind in KINDS}
    for pair in made.values():
        for bundle in pair:
            add(bundle, Addition(precision="fp16", budget_mm=1e9, budget_p99_mm=1e9, budget_max_mm=1e9))
    return made  # type: ignore[return-value]


def graph(bundle: Bundle, precision: str) -> bytes:
    return (bundle.onnx if precision == "fp32" else bundle.path / "graphs" / "fp16.onnx").read_bytes()


def facts_of(bundle: Bundle, precision: str) -> dict[str, Any]:
    """What the sidecar of a refittable engine would say; building one needs a GPU."""
    half = () if precision == "fp32" else [a for a in add_facts(bundle)["half"]]
    return {
        "precision": precision, "refittable": True, "profiles": [{"min": 1, "opt": 1, "max": 16}], "half": half,
        "refit_names": bundle.manifest["graph"]["parameters"],
    }  # fmt: skip


def add_facts(bundle: Bundle) -> dict[str, Any]:
    from edgelift.runtime.attachments import find

    return find(bundle, "graphs", lambda f: f["precision"] == "fp16")[0].facts


def unoptimised(source: bytes, arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    poses: NDArray[np.float32] = session.run(None, {k: arrays[k] for k in ("keypoints", "intrinsics")})[0]
    return poses


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refitted_twin_is_a_fresh_export_to_the_last_bit(
    pairs: dict[str, tuple[Bundle, Bundle]], kind: str, precision: str
) -> None:
    old, new = pairs[kind]
    facts = facts_of(old, precision)
    assert decide(facts, old, new).refit
    arrays = new.reference()
    with CpuTwin(old, graph(old, precision), tuple(facts["half"])) as twin:
        before = twin(arrays["keypoints"], arrays["intrinsics"])
        refit(twin, weights_for(facts, new), constants_of(new))
        after = twin(arrays["keypoints"], arrays["intrinsics"])
    np.testing.assert_array_equal(before, unoptimised(graph(old, precision), arrays))
    np.testing.assert_array_equal(after, unoptimised(graph(new, precision), arrays))
    assert np.abs(after - before).max() > 0.01


def test_refitting_there_and_back_changes_nothing(pairs: dict[str, tuple[Bundle, Bundle]]) -> None:
    old, new = pairs["frame"]
    arrays, facts = old.reference(), facts_of(old, "fp32")
    with CpuTwin(old, graph(old, "fp32")) as twin:
        before = twin(arrays["keypoints"], arrays["intrinsics"])
        for bundle in (new, old):
            refit(twin, weights_for(facts, bundle), constants_of(bundle))
        np.testing.assert_array_equal(twin(arrays["keypoints"], arrays["intrinsics"]), before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "int8"}, "ranges of activations"),
        ({"precision": "fp8"}, "ranges of activations"),
        ({"refittable": False}, "--refittable"),
        ({"profiles": [{}, {}]}, "2 profiles"),
        ({"refit_names": ["head.weight"]}, "other names"),
    ],
)
def test_the_gate_says_why_an_engine_is_rebuilt(
    pairs: dict[str, tuple[Bundle, Bundle]], change: dict[str, Any], reason: str
) -> None:
    old, new = pairs["frame"]
    decision = decide(facts_of(old, "fp32") | change, old, new)
    assert not decision.refit
    assert reason in decision.reason


def test_another_graph_is_rebuilt(pairs: dict[str, tuple[Bundle, Bundle]]) -> None:
    (frame, _), (tcn, _) = pairs["frame"], pairs["tcn"]
    assert decide(facts_of(frame, "fp32"), frame, tcn).reason == "the new bundle's graph is another one"


@dataclass
class Faulty:
    """A Refittable that errs in one way."""

    exposed: set[str]
    refuses: set[str] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)
    commits: bool = True
    done: list[str] = field(default_factory=list)

    def names(self) -> set[str]:
        return self.exposed

    def offer(self, name: str, values: NDArray[Any]) -> bool:
        self.done.append(name)
        return name not in self.refuses

    def missing(self) -> set[str]:
        return self.lacks

    def commit(self) -> bool:
        self.done.append("commit")
        return self.commits


WEIGHTS = {"a.weight": np.zeros((2, 2), np.float32), "a.bias": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("engine", "message", "offered"),
    [
        (Faulty({"a.weight"}), r"1 weights it does not expose \['a.bias'\]", 0),  # TensorRT 11.3's dropped biases
        (Faulty({"a.weight", "a.bias", "b.weight"}), "unknown", 0),
        (Faulty({"a.weight", "a.bias"}, refuses={"a.bias"}), "does not take", 2),
        (Faulty({"a.weight", "a.bias"}, lacks={"b"}), "still missing", 2),
        (Faulty({"a.weight", "a.bias"}, commits=False), "failed halfway", 3),
    ],
)
def test_a_refit_that_is_not_whole_is_refused(engine: Faulty, message: str, offered: int) -> None:
    with pytest.raises(EdgeliftError, match=message):
        refit(engine, WEIGHTS, {"one"})
    assert len(engine.done) == offered


def test_constants_may_be_listed_and_are_left_alone() -> None:
    engine = Faulty({"a.weight", "a.bias", "one"}, lacks={"one"})
    refit(engine, WEIGHTS, {"one"})
    assert engine.done == ["a.weight", "a.bias", "commit"]


def test_the_twin_refuses_what_onnx_runtime_would_take_silently(pairs: dict[str, tuple[Bundle, Bundle]]) -> None:
    bundle, _ = pairs["frame"]
    with CpuTwin(bundle, graph(bundle, "fp32")) as twin:
        weight = weights_for({}, bundle)["head.weight"]
        assert twin.offer("head.weight", weight)
        assert not twin.offer("head.weights", weight)
        assert not twin.offer("head.weight", weight[:-1])
        assert not twin.offer("head.weight", weight.astype(np.float16))


@pytest.fixture
def engines(pairs: dict[str, tuple[Bundle, Bundle]], tmp_path: Path) -> tuple[Bundle, Bundle, Attachment]:
    old, new = (load_bundle(Path(shutil.copytree(b.path, tmp_path / b.path.name))) for b in pairs["frame"])
    return old, new, make_engine(old, BuildSettings("rtx"))


def test_the_command_decides_without_a_gpu(engines: tuple[Bundle, Bundle, Attachment]) -> None:
    old, new, engine = engines
    [told] = renew(old, new, check=True)
    assert told["engine"] == engine.path.name
    assert not told["refit"]
    assert told["rebuild"].startswith(f"edgelift build {new.path} --engine rtx")
    amend(engine, {"refittable": True})
    [told] = renew(old, new, check=True)
    assert told["refit"]
    assert "rebuild" not in told
    with pytest.raises(EdgeliftError, match=r"pycuda|driver|GPU"):
        renew(old, new)
    assert not (new.path / "engines").exists()


def test_a_bundle_without_engines_has_nothing_to_refit(pairs: dict[str, tuple[Bundle, Bundle]]) -> None:
    with pytest.raises(EdgeliftError, match="no engine"):
        renew(*pairs["frame"], check=True)
