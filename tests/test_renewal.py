"""A version inherits what its predecessor had: engines are really built here, refits wait for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelift.export.additions import Addition, add
from edgelift.export.renewal import renew_additions
from edgelift.runtime.attachments import amend, attachments, find
from edgelift.runtime.bundle import Bundle

from .lifters import make_bundle


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    home = tmp_path_factory.mktemp("renewal")
    return make_bundle(home / "old", seed=1), make_bundle(home / "new", seed=2)


def test_nothing_is_inherited_from_a_bare_bundle(pair: tuple[Bundle, Bundle]) -> None:
    assert renew_additions(*pair) == []


def test_graphs_the_cpu_s_file_and_engines_are_made_for_the_new_weights(pair: tuple[Bundle, Bundle]) -> None:
    pytest.importorskip("tensorrt_rtx")
    old, new = pair
    add(old, Addition("rtx", "fp16", ("sm_89",), force=True))
    add(old, Addition("rtx", "fp32", force=True))
    [cpu_file] = add(old, Addition("cpu", "int8", force=True))
    # Whether so small a lifter is faster in 8 bits is chance; one that was kept though it is not is inherited as well.
    amend(cpu_file, {"speed": {"p50_us": 2.0, "fp32_p50_us": 1.0}})
    told = {row["file"]: row for row in renew_additions(old, new)}
    assert all("why_not" not in row for row in told.values()), told
    assert {Path(name).parent.name for name in told} == {"graphs", "engines"}
    for folder in ("graphs", "engines"):
        inherited = attachments(new, folder)  # each of them sealed for the new bundle
        assert {a.path.name for a in inherited} == {a.path.name for a in attachments(old, folder)}
        assert all(a.read() != b.read() for a, b in zip(inherited, attachments(old, folder), strict=True))
    ways = {row["how"] for name, row in told.items() if name.endswith(".plan")}
    assert ways == {"rebuild: the engine was not built with --refittable"}
    targets = {a.facts["precision"]: a.facts["targets"] for a in find(new, "engines", lambda f: f["kind"] == "engine")}
    assert targets == {"fp16": ["sm_89"], "fp32": ["portable"]}


def test_ranges_that_do_not_move_with_the_weights_are_told(tmp_path: Path) -> None:
    from edgelift.runtime.attachments import attach

    old, new = make_bundle(tmp_path / "old", seed=1), make_bundle(tmp_path / "new", seed=2)
    budget = {"mpjpe_mm": 0.5, "p99_mm": 25.0, "worst_mm": 50.0}
    facts = {"kind": "graph", "flavour": "onnx", "precision": "int8", "budget": budget, "forced": False}
    attach(old, "graphs", "int8.onnx", old.onnx.read_bytes(), facts)
    [told] = renew_additions(old, new)
    assert "calibrate ranges" in told["why_not"]
    assert attachments(new, "graphs") == []
