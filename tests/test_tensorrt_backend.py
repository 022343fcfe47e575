"""The TensorRT backend over a recording engine and a recording CUDA layer: the order of calls, and no result of a GPU.

What is refused before a GPU is needed is refused here for real, with engines that TensorRT-RTX built.
"""

from __future__ import annotations

import ctypes.util
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, attach
from edgelift.runtime.backends import tensorrt as backend_module
from edgelift.runtime.backends.tensorrt import GRAPHS, TensorRTBackend, check_tensors, make_context
from edgelift.runtime.bundle import Bundle, load_bundle
from edgelift.runtime.cuda import Buffer, Cuda, Graph, Mark
from edgelift.runtime.engines.api import ICudaEngine, IExecutionContext, ILogger, TensorRT
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.flavours import Loaded, load
from edgelift.runtime.engines.store import Gpu, build_engine

JOINTS = 14
MAX_BATCH = 12
WINDOW = {"keypoints": (1, JOINTS, 3), "intrinsics": (4,), "poses": (JOINTS, 3)}
ADA = Gpu("Fake RTX 4090", "sm_89")
ORIN_LIKE = Gpu("Fake board", "sm_89", integrated=True)
KEYPOINTS, INTRINSICS, POSES = 1, 2, 3
"""Addresses that FakeCuda gives, in the order of the engine's tensors."""


class FakeCuda:
    """Notes what it is told; every call must be inside `with`."""

    def __init__(self, calls: list[str], gpu: Gpu = ADA, capturable: bool = True) -> None:
        self.calls, self.gpu, self.capturable, self.stream = calls, gpu, capturable, 77
        self.depth = 0
        self.buffers: list[Buffer] = []
        self.launches = 0

    def __enter__(self) -> FakeCuda:
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1

    def note(self, call: str) -> None:
        assert self.depth > 0, f"{call} without a current context"
        self.calls.append(call)

    def buffer(self, shape: tuple[int, ...], mapped: bool) -> Buffer:
        assert self.depth > 0
        self.buffers.append(Buffer(np.zeros(shape, np.float32), len(self.buffers) + 1, mapped))
        return self.buffers[-1]

    def copy_in(self, buffer: Buffer, rows: int) -> None:
        self.note(f"in {buffer.device} {rows}")

    def copy_out(self, buffer: Buffer, rows: int) -> None:
        self.note(f"out {buffer.device} {rows}")

    def capture(self, work: Callable[[], None]) -> Graph:
        self.note("capture")
        if not self.capturable:
            raise EdgeliftError("CUDA call cuStreamEndCapture", "a failure", "CUDA_SUCCESS", "")
        work()
        self.note("captured")
        return FakeGraph(self)

    def mark(self) -> Mark:
        self.note("mark")
        return FakeMark(self.calls.count("mark"))

    def synchronise(self) -> None:
        self.note("synchronise")

    def close(self) -> None:
        assert self.depth == 0
        self.calls.append("cuda closed")


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def launch(self) -> None:
        self.cuda.note("launch")
        self.cuda.launches += 1
        self.cuda.buffers[POSES - 1].host[:] = self.cuda.launches

    def close(self) -> None:
        self.cuda.note("graph closed")


class FakeMark:
    def __init__(self, number: int) -> None:
        self.number = number

    def since_us(self, earlier: Mark) -> float:
        return float(self.number**2 - cast(FakeMark, earlier).number ** 2)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.calls = engine, engine.calls

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self.calls.append(f"shape {name} {tuple(shape)}")
        return True

    def infer_shapes(self) -> list[str]:
        self.calls.append("infer")
        return self.engine.left_open

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.calls.append(f"address {name} {memory}")
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.calls.append(f"run {stream_handle}")
        if not self.engine.runs:
            self.engine.logged.append("its own words")
        return self.engine.runs

    def is_stream_capturable(self, stream: int) -> bool:
        self.calls.append(f"capturable {stream}")
        return self.engine.capturable


class FakeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = "lazy"


class FakeEngine:
    num_optimization_profiles = 1
    refittable = False

    def __init__(self, calls: list[str], logged: list[str]) -> None:
        self.calls, self.logged = calls, logged
        self.tensors = {name: (name != "poses", "float32", (-1, *rest)) for name, rest in WINDOW.items()}
        self.left_open: list[str] = []
        self.runs = self.capturable = self.has_memory = True

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return FakeApi.TensorIOMode.INPUT if self.tensors[name][0] else FakeApi.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [(batch, *WINDOW[name]) for batch in (1, 1, MAX_BATCH)]

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()

    def create_execution_context(self, runtime_config: FakeConfig | None = None) -> FakeContext | None:
        strategy = runtime_config and runtime_config.dynamic_shapes_kernel_specialization_strategy
        self.calls.append(f"context {strategy}")
        return FakeContext(self) if self.has_memory else None


class FakeApi:
    class TensorIOMode:
        INPUT, OUTPUT = "in", "out"

    class DynamicShapesKernelSpecializationStrategy:
        EAGER = "eager"

    def __init__(self, engine: FakeEngine, version: str) -> None:
        self.engine, self.__version__ = engine, version

    def Runtime(self, logger: object) -> FakeApi:  # noqa: N802 - the vendor's name
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine:
        assert plan[:4] == b"vtrt"
        return self.engine

    def nptype(self, trt_type: str) -> type:
        return {"float32": np.float32, "float16": np.float16}[trt_type]


class Machine:
    """A fake GPU machine; opens backends whose calls it notes."""

    def __init__(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle = bundle
        self.calls: list[str] = []
        logged: list[str] = []
        self.engine = FakeEngine(self.calls, logged)
        api = cast(TensorRT, FakeApi(self.engine, load("rtx").version))
        self.trt = Loaded("rtx", api, cast(ILogger, None), logged)
        monkeypatch.setattr(backend_module, "load", lambda flavour: self.trt)

    def open(self, capture: bool = True, gpu: Gpu = ADA, capturable: bool = True) -> TensorRTBackend:
        self.cuda = FakeCuda(self.calls, gpu, capturable)
        cuda: Cuda = self.cuda
        return TensorRTBackend(self.bundle, "rtx", capture=capture, cuda=cuda)

    def calls_of(self, act: Callable[[], object]) -> list[str]:
        self.calls.clear()
        act()
        return list(self.calls)


def windows(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {name: rng.random((batch, *WINDOW[name]), np.float32) for name in ("keypoints", "intrinsics")}


def enqueued(batch: int) -> list[str]:
    return [f"in {KEYPOINTS} {batch}", f"in {INTRINSICS} {batch}", "run 77", f"out {POSES} {batch}"]


def prepared(batch: int) -> list[str]:
    """The calls by which a batch size is made ready."""
    shapes = [f"shape {name} {(batch, *WINDOW[name])}" for name in ("keypoints", "intrinsics")]
    addresses = [f"address keypoints {KEYPOINTS}", f"address intrinsics {INTRINSICS}", f"address poses {POSES}"]
    run = [*enqueued(batch), "synchronise", "capturable 77"]
    return ["context eager", *shapes, "infer", *addresses, *run, "capture", *enqueued(batch), "captured"]


LAUNCH = ["launch", "synchronise"]


@pytest.fixture(scope="module")
def built(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Attachment:
    """An engine that TensorRT-RTX built from the tiny lifter."""
    path = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(bundle, path)
    copy = load_bundle(path)
    return build_engine(copy, BuildSettings("rtx", max_batch=MAX_BATCH), copy.onnx.read_bytes(), {})


@pytest.fixture
def home(bundle: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(bundle, tmp_path / "bundle")
    return load_bundle(tmp_path / "bundle")


@pytest.fixture
def engine(home: Bundle, built: Attachment) -> Attachment:
    return attach(home, "engines", "tiny.plan", built.read(), built.facts)


@pytest.fixture
def machine(home: Bundle, engine: Attachment, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(home, monkeypatch)


def test_opening_makes_batch_one_ready(machine: Machine) -> None:
    backend = machine.open()
    assert machine.calls == prepared(1)
    assert backend.provider == f"TensorRT-RTX {load('rtx').version}, CUDA graph"
    assert (backend.name, backend.precision, backend.max_batch) == ("rtx", "fp32", MAX_BATCH)
    assert [b.host.shape for b in machine.cuda.buffers] == [(MAX_BATCH, *rest) for rest in WINDOW.values()]
    assert machine.calls_of(lambda: backend.run(windows(1))) == LAUNCH


def test_a_new_batch_size_is_run_once_then_captured_and_from_then_on_launched(machine: Machine) -> None:
    backend = machine.open()
    assert machine.calls_of(lambda: backend.run(windows(3))) == prepared(3) + LAUNCH
    assert machine.calls_of(lambda: backend.run(windows(3))) == LAUNCH
    assert machine.calls_of(lambda: backend.run(windows(1))) == LAUNCH


def test_the_least_recently_used_batch_size_goes(machine: Machine) -> None:
    backend = machine.open()
    for batch in range(2, GRAPHS + 1):
        backend.run(windows(batch))
    backend.run(windows(1))
    assert machine.calls_of(lambda: backend.run(windows(GRAPHS + 1)))[0] == "graph closed"
    assert machine.calls_of(lambda: backend.run(windows(1))) == LAUNCH
    assert machine.calls_of(lambda: backend.run(windows(2))) == ["graph closed", *prepared(2), *LAUNCH]


def test_recapture_closes_every_graph_and_makes_contexts_anew(machine: Machine) -> None:
    backend = machine.open()
    backend.run(windows(2))
    assert machine.calls_of(backend.recapture) == ["graph closed", "graph closed", *prepared(1)]
    assert machine.calls_of(lambda: backend.run(windows(2))) == prepared(2) + LAUNCH


def test_only_real_rows_are_copied_and_they_belong_to_the_caller(machine: Machine) -> None:
    backend = machine.open()
    given = windows(2)
    first = backend.run(given)["poses"]
    second = backend.run(windows(2))["poses"]
    assert first.shape == second.shape == (2, JOINTS, 3)
    assert (first == 1).all()  # launch 1 wrote them, and launch 2 did not change them
    assert (second == 2).all()
    np.testing.assert_array_equal(machine.cuda.buffers[KEYPOINTS - 1].host[:2], given["keypoints"])
    assert not machine.cuda.buffers[KEYPOINTS - 1].host[2:].any()


def test_inputs_are_told_apart_by_name_not_by_order(machine: Machine) -> None:
    backend = machine.open()
    given = windows(1)
    backend.run(dict(reversed(list(given.items()))))
    np.testing.assert_array_equal(machine.cuda.buffers[INTRINSICS - 1].host[:1], given["intrinsics"])


def test_where_memory_is_shared_nothing_is_copied(machine: Machine) -> None:
    backend = machine.open(gpu=ORIN_LIKE)
    backend.run(windows(2))
    assert all(buffer.mapped for buffer in machine.cuda.buffers)
    assert "run 77" in machine.calls
    assert [call for call in machine.calls if call.startswith(("in ", "out "))] == []


def test_without_capture_it_enqueues(machine: Machine) -> None:
    backend = machine.open(capture=False)
    assert backend.provider == f"TensorRT-RTX {load('rtx').version}"
    assert machine.calls_of(lambda: backend.run(windows(1))) == [*enqueued(1), "synchronise"]
    assert "capture" not in machine.calls_of(lambda: backend.run(windows(2)))


def test_timing_marks_the_copies_and_the_run_without_a_graph(machine: Machine) -> None:
    backend = machine.open()
    times: list[dict[str, float]] = []
    calls = machine.calls_of(lambda: times.append(backend.timed(windows(1))))
    copy_in, run, copy_out = enqueued(1)[:2], enqueued(1)[2:3], enqueued(1)[3:]
    assert calls == ["mark", *copy_in, "mark", *run, "mark", *copy_out, "mark", "synchronise"]
    assert times == [{"copy_in_us": 3.0, "run_us": 5.0, "copy_out_us": 7.0}]
    with pytest.raises(EdgeliftError, match="lifter input"):
        backend.timed({"keypoints": windows(1)["keypoints"]})


def test_closing_releases_graphs_and_the_stream(machine: Machine) -> None:
    with machine.open() as backend:
        backend.run(windows(2))
        machine.calls.clear()
    assert machine.calls == ["graph closed", "graph closed", "cuda closed"]


def test_more_windows_than_the_profile_takes_are_refused(machine: Machine) -> None:
    backend = machine.open()
    with pytest.raises(EdgeliftError, match=f"at most {MAX_BATCH}"):
        backend.run(windows(MAX_BATCH + 1))


def test_a_capture_that_fails_is_an_error_and_no_fallback(machine: Machine) -> None:
    with pytest.raises(EdgeliftError, match="cuStreamEndCapture"):
        machine.open(capturable=False)
    machine.engine.capturable = False
    with pytest.raises(EdgeliftError, match="batch 1 cannot be captured"):
        machine.open()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("runs", False, "enqueue: its own"),
        ("left_open", ["intrinsics"], "intrinsics"),
        ("has_memory", False, "context"),
    ],
)
def test_what_tensorrt_refuses_is_an_error(machine: Machine, name: str, value: object, told: str) -> None:
    setattr(machine.engine, name, value)
    with pytest.raises(EdgeliftError, match=told):
        machine.open()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("poses", (False, "float32", (-1, 17, 3))),
        ("poses", (True, "float32", (-1, JOINTS, 3))),
        ("keypoints", (True, "float16", (-1, 1, JOINTS, 3))),
        ("keypoints", (True, "float32", (1, 1, JOINTS, 3))),
        ("ages", (True, "float32", (-1, 1))),
    ],
)
def test_an_engine_of_another_graph_is_refused(machine: Machine, name: str, tensor: tuple[bool, str, Any]) -> None:
    assert check_tensors(machine.trt, cast(ICudaEngine, machine.engine), machine.bundle, "tiny.plan")
    machine.engine.tensors[name] = tensor
    with pytest.raises(EdgeliftError, match=f"tiny.plan: received .*{name}"):
        machine.open()


def test_tensorrt_has_no_specialisation_to_ask_for(machine: Machine) -> None:
    trt = Loaded("tensorrt", machine.trt.api, machine.trt.logger)
    context: IExecutionContext = make_context(trt, cast(ICudaEngine, machine.engine))
    assert isinstance(context, FakeContext)
    assert machine.calls == ["context None"]


# from here on TensorRT-RTX is the real one


@pytest.mark.usefixtures("engine")
def test_without_cuda_opening_says_what_to_install(home: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(EdgeliftError, match=r"pip install 'edgelift\[cuda\]'"):
        TensorRTBackend(home, "rtx")


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a driver: the engine would open")
@pytest.mark.usefixtures("engine")
def test_without_a_driver_tensorrt_is_quoted(home: Bundle) -> None:
    with pytest.raises(EdgeliftError, match=r"tiny.plan: received no engine from TensorRT-RTX .*CUDA"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))


def test_a_bundle_without_engines_names_the_command_that_builds_one(home: Bundle) -> None:
    with pytest.raises(EdgeliftError, match=r"edgelift build .* --engine rtx --precision fp32"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))


def test_an_engine_of_another_version_is_refused_before_tensorrt_sees_it(home: Bundle, built: Attachment) -> None:
    attach(home, "engines", "old.plan", built.read(), built.facts | {"version": "1.2.0.44"})
    with pytest.raises(EdgeliftError, match=f"built by TensorRT-RTX 1.2.0.44, here is {load('rtx').version}"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))


def test_an_engine_for_another_gpu_is_refused(home: Bundle, built: Attachment) -> None:
    attach(home, "engines", "other.plan", built.read(), built.facts | {"targets": ["sm_120"]})
    with pytest.raises(EdgeliftError, match="built for sm_120, Fake RTX 4090 is sm_89"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))


@pytest.mark.parametrize("spoil", [lambda p: p[:5000] + bytes([p[5000] ^ 1]) + p[5001:], lambda p: p[:-1]])
def test_a_plan_that_changed_is_refused(home: Bundle, engine: Attachment, spoil: Callable[[bytes], bytes]) -> None:
    engine.path.write_bytes(spoil(engine.path.read_bytes()))
    with pytest.raises(EdgeliftError, match=r"tiny.plan: received sha256 .* expected .*tampered, or truncated"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))


def test_a_plan_that_was_cut_before_it_was_attached_is_refused_too(home: Bundle, built: Attachment) -> None:
    plan = built.read()
    attach(home, "engines", "short.plan", plan[:-1], built.facts)
    with pytest.raises(EdgeliftError, match=f"the {len(plan)} that its header tells"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))


def test_a_plan_of_another_version_than_its_sidecar_says_is_refused(home: Bundle, built: Attachment) -> None:
    plan = built.read()
    attach(home, "engines", "new.plan", plan[:27] + bytes([plan[27] ^ 1]) + plan[28:], built.facts)
    with pytest.raises(EdgeliftError, match=rf"new.plan: received a plan of rtx .* expected rtx {load('rtx').version}"):
        TensorRTBackend(home, "rtx", cuda=FakeCuda([]))
