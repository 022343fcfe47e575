"""Two slots over a recording TensorRT: the idle engine takes the new weights, the live one is never touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, save_session
from edgelift.runtime import swap
from edgelift.runtime.attachments import Attachment, amend, attach
from edgelift.runtime.backends import tensorrt as backend_module
from edgelift.runtime.backends.onnx_runtime import OnnxRuntimeCpu
from edgelift.runtime.backends.tensorrt import TensorRTBackend
from edgelift.runtime.bundle import REFIT, Bundle
from edgelift.runtime.counts import Live
from edgelift.runtime.engines.api import ILogger, TensorRT
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.flavours import Loaded, load
from edgelift.runtime.engines.store import build_engine
from edgelift.runtime.lifter import Lifter
from edgelift.runtime.slots import open_beside
from edgelift.runtime.start import LiftSettings, lift
from edgelift.runtime.swap import SwapSettings

from .lifters import make_bundle
from .test_tensorrt_backend import FakeApi, FakeCuda, FakeEngine

Weights = dict[str, NDArray[Any]]


class Engine(FakeEngine):
    """An engine that holds weights by name, and what it is told; each opening of a plan makes another."""

    def __init__(self, calls: list[str], weights: Weights) -> None:
        super().__init__(calls, [])
        self.weights = weights
        self.refits = True


class Refitter:
    def __init__(self, engine: Engine, logger: object) -> None:
        self.engine, self.offered = engine, cast(Weights, {})
        engine.calls.append("refitter")

    def get_all_weights(self) -> list[str]:
        return list(self.engine.weights)

    def set_named_weights(self, name: str, values: NDArray[Any]) -> bool:
        self.offered[name] = values
        return True

    def get_missing_weights(self) -> list[str]:
        return []

    def refit_cuda_engine(self) -> bool:
        self.engine.calls.append("refitted")
        self.engine.weights = dict(self.offered) if self.engine.refits else {}
        return self.engine.refits


class Api(FakeApi):
    """TensorRT, which makes an engine of its own of every plan."""

    Refitter = Refitter

    def __init__(self, weights: Weights, version: str) -> None:
        super().__init__(cast(FakeEngine, None), version)
        self.first, self.engines, self.calls = weights, cast(list[Engine], []), cast(list[list[str]], [])

    def Weights(self, values: NDArray[Any]) -> NDArray[Any]:  # noqa: N802 - the vendor's name
        return values

    def deserialize_cuda_engine(self, plan: bytes) -> Engine:
        self.engines.append(Engine(self.calls[-1], dict(self.first)))
        return self.engines[-1]


class Machine:
    """A GPU machine that computes nothing; what a backend gives is what the CPU gives for the weights it holds."""

    def __init__(self, versions: list[Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights = {v.path.name: load_file(v.path / REFIT) for v in versions}
        self.plain = {v.path.name: OnnxRuntimeCpu(v) for v in versions}
        self.api = Api(self.weights["v0001"], str(load("rtx").version))
        self.trt = Loaded("rtx", cast(TensorRT, self.api), cast(ILogger, None), [])
        monkeypatch.setattr(backend_module, "load", lambda flavour: self.trt)
        monkeypatch.setattr(backend_module, "Pycuda", self.cuda)
        monkeypatch.setattr(TensorRTBackend, "_executed", lambda backend, inputs: self.execute(backend, inputs))

    def cuda(self) -> FakeCuda:
        """Of the engine that is opened next: its calls and CUDA's are one list."""
        self.api.calls.append([])
        return FakeCuda(self.api.calls[-1])

    def execute(self, backend: TensorRTBackend, inputs: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
        return self.plain[self.holds(backend)].run(inputs)

    def holds(self, backend: object) -> str:
        """The version whose weights an engine has."""
        own = cast(Engine, cast(TensorRTBackend, backend).engine).weights
        return next(n for n, w in self.weights.items() if all(k in own and np.array_equal(w[k], own[k]) for k in w))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Four versions of a lifter; the first has an engine that TensorRT-RTX built, said to be refittable."""
    home = tmp_path_factory.mktemp("slots")
    made = [make_bundle(home / f"v000{n}", seed=n) for n in (1, 2, 3)] + [make_bundle(home / "v0004", "tcn")]
    engine = build_engine(made[0], BuildSettings("rtx"), made[0].onnx.read_bytes(), {})
    amend(engine, {"refittable": True, "refit_names": made[0].manifest["graph"]["parameters"]})
    return made


@pytest.fixture
def machine(versions: list[Bundle], monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(versions, monkeypatch)


@pytest.fixture
def live(versions: list[Bundle], machine: Machine) -> Lifter:
    return Lifter(versions[0], "rtx")


def handing_over(idle: Lifter | None) -> Callable[[Callable[[Lifter], bool]], Lifter | None]:
    return lambda fits: idle if idle is not None and fits(idle) else None


def test_the_first_new_version_opens_a_second_engine(live: Lifter, machine: Machine, versions: list[Bundle]) -> None:
    before = list(machine.api.engines[0].calls)
    new = open_beside(versions[1], live, handing_over(None))
    assert (new.name, machine.holds(new.backend), machine.holds(live.backend)) == ("v0002", "v0002", "v0001")
    assert len(machine.api.engines) == 2
    assert machine.api.engines[0].calls == before


def test_from_then_on_the_idle_engine_takes_the_weights(live: Lifter, machine: Machine, versions: list[Bundle]) -> None:
    second = open_beside(versions[1], live, handing_over(None))
    third = open_beside(versions[2], second, handing_over(live))  # v0002 lifts now, v0001 stands by
    assert third.backend is live.backend
    assert len(machine.api.engines) == 2  # nothing was opened
    assert (machine.holds(third.backend), machine.holds(second.backend)) == ("v0003", "v0002")
    again = open_beside(versions[0], third, handing_over(second))
    assert machine.holds(again.backend) == "v0001"


def test_nothing_that_was_captured_outlives_a_refit(live: Lifter, machine: Machine, versions: list[Bundle]) -> None:
    second = open_beside(versions[1], live, handing_over(None))
    calls = machine.api.calls[0]
    calls.clear()
    open_beside(versions[2], second, handing_over(live))
    assert calls[:5] == ["synchronise", "graph closed", "refitter", "refitted", "context eager"]
    assert calls.count("captured") == 1


def test_a_graph_of_another_kind_takes_nothing_from_the_idle_one(
    live: Lifter, machine: Machine, versions: list[Bundle]
) -> None:
    with pytest.raises(EdgeliftError, match="another one"):
        open_beside(versions[3], live, handing_over(live))
    assert machine.holds(live.backend) == "v0001"


def test_a_refit_that_fails_closes_the_slot_and_is_not_tried_again(
    live: Lifter, machine: Machine, versions: list[Bundle]
) -> None:
    second = open_beside(versions[1], live, handing_over(None))
    machine.api.engines[0].refits = False
    with pytest.raises(EdgeliftError, match=r"a refit of what stood by: .*failed halfway"):
        open_beside(versions[2], second, handing_over(live))
    assert not hasattr(live.backend, "engine")  # closed
    assert machine.holds(second.backend) == "v0002"
    with pytest.raises(EdgeliftError, match=r"it failed before: .*failed halfway"):
        open_beside(versions[2], second, lambda fits: pytest.fail("taken") if fits(second) else None)


def test_a_refit_that_lifts_otherwise_is_refused(live: Lifter, machine: Machine, versions: list[Bundle]) -> None:
    """The reference set, which the portable graph lifts too, shows weights that did not arrive."""
    machine.plain["v0002"] = machine.plain["v0001"]
    with pytest.raises(EdgeliftError, match=r"a refit of the live plan: .*refitted"):
        open_beside(versions[1], live, handing_over(None))
    assert machine.api.calls[1][-1] == "cuda closed"
    assert (machine.holds(live.backend), "cuda closed" in machine.api.calls[0]) == ("v0001", False)


def test_a_slot_can_be_opened_when_the_file_it_came_from_is_gone(
    machine: Machine, versions: list[Bundle], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(versions[0].path, tmp_path / "v0001"))
    live = Lifter(copy, "rtx")
    shutil.rmtree(copy / "engines")  # its version was pruned
    assert machine.holds(open_beside(versions[1], live, handing_over(None)).backend) == "v0002"


def test_a_loop_takes_the_new_bundles_own_engine_where_none_can_be_refitted(machine: Machine, tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / f"v000{n}", seed=n) for n in (1, 2)]
    engines: list[Attachment] = []
    for bundle in bundles:  # built without --refittable
        engines.append(build_engine(bundle, BuildSettings("rtx"), bundle.onnx.read_bytes(), {}))
    live = Lifter(bundles[0], "rtx")
    opened = open_beside(bundles[1], live, handing_over(live))
    assert cast(TensorRTBackend, opened.backend).attachment.path == engines[1].path
    engines[1].sidecar.unlink()
    engines[1].path.unlink()
    with pytest.raises(EdgeliftError, match="edgelift build"):
        open_beside(bundles[1], live, handing_over(live))


def test_another_engine_of_the_live_bundle_may_be_the_refittable_one(
    versions: list[Bundle], machine: Machine, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "v0001", seed=1)
    plain = build_engine(bundle, BuildSettings("rtx"), bundle.onnx.read_bytes(), {})
    refittable = {"refittable": True, "refit_names": bundle.manifest["graph"]["parameters"]}
    attach(bundle, "engines", "other.plan", plain.read(), plain.facts | refittable)
    live = Lifter(bundle, "rtx")
    assert cast(TensorRTBackend, live.backend).attachment.path == plain.path
    new = open_beside(versions[1], live, handing_over(None))
    assert cast(TensorRTBackend, new.backend).attachment.path.name == "other.plan"


def test_a_loop_swaps_between_two_slots(
    machine: Machine, versions: list[Bundle], sessions: list[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lift --follow` as it is put together, over the recording TensorRT: three versions, two engines."""
    monkeypatch.setattr(swap, "PROBATION_S", 0.0)
    registry = tmp_path / "registry"
    registry.mkdir()
    for version in versions[:3]:
        shutil.copytree(version.path, registry / version.path.name)
    (registry / "current").write_text("v0001")
    save_session(sessions[0], tmp_path / "take.npz")
    settings = LiftSettings(
        registry, (str(tmp_path / "take.npz"),) * 40, (str(tmp_path / "out.jsonl"),), "rtx", camera=("cam_01",),
        follow=True, swap=SwapSettings(0.0),
    )  # fmt: skip
    live, names = Live(), ["v0002", "v0003", "v0001", "v0002"]

    def stopped() -> bool:
        if live.counts.swaps + live.counts.rollbacks == 4 - len(names) and names:
            (registry / "current").write_text(names.pop(0))
        return not names and live.counts.swaps + live.counts.rollbacks == 4

    summary = lift(settings, stopped, live)
    assert summary.lifter == "v0002"
    assert len(machine.api.engines) == 2
    assert live.counts.failed == 0
    told = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["lifter"] for row in told} == {"v0001", "v0002", "v0003"}
    assert all("cuda closed" in calls for calls in machine.api.calls)
