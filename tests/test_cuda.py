"""How CUDA is called: the compiled pycuda and cuda.bindings over a driver that only notes what it is told.

Nothing here says what a GPU computes.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .stubs import bindings, driver_stub, run_python

# the stub has no function that edgelift does not call, so the bindings may not look for all when they are loaded
LAZY = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)\n"
RUN = """
from edgelift.runtime.cuda import Pycuda
cuda = Pycuda()
with cuda:
    data, result = (cuda.buffer((4, 3), mapped=False) for _ in range(2))
    def work():
        cuda.copy_in(data, 2)
        cuda.copy_out(result, 2)
    graph = cuda.capture(work)
    graph.launch()
    cuda.synchronise()
    graph.close()
    print(cuda.stream, data.device, result.device, data.host.sum())
    del data, result
cuda.close()
"""
REFUSED = """
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.cuda import Pycuda, find_gpu
try:
    {}
except EdgeliftError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver_stub(tmp_path_factory.mktemp("driver"))


class Stub:
    """Runs scripts over the stub; `calls` is what the last one called."""

    def __init__(self, driver: Path, log: Path) -> None:
        self.driver, self.log = driver, log

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return run_python(LAZY + script, bindings("cuda"), self.driver, STUB_LOG=str(self.log), **variables)

    def output(self, script: str, **variables: str) -> str:
        done = self.run(script, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def names(self) -> list[str]:
        return [call.partition(" ")[0] for call in self.calls]


@pytest.fixture
def stub(driver: Path, tmp_path: Path) -> Stub:
    return Stub(driver, tmp_path / "calls")


def test_copies_are_captured_and_launched_on_one_stream(stub: Stub) -> None:
    stream, data, result = (f"{int(n):x}" for n in stub.output(RUN).split()[:3])
    start = stub.names.index("cuStreamBeginCapture")
    assert stub.calls[start : start + 9] == [
        f"cuStreamBeginCapture {stream} mode=1",  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        f"cuMemcpyHtoDAsync {data} 24 {stream}",  # two rows of three floats
        f"cuMemcpyDtoHAsync {result} 24 {stream}",
        f"cuStreamEndCapture {stream}",
        "cuGraphInstantiate 6a flags=0",
        "cuGraphDestroy 6a",
        f"cuGraphLaunch e8 {stream}",
        f"cuStreamSynchronize {stream}",
        "cuGraphExecDestroy e8",
    ]
    assert f"cuStreamCreate {stream} flags=1" in stub.calls  # CU_STREAM_NON_BLOCKING
    assert stream != "0"


def test_all_that_was_made_is_released_and_the_context_left_as_it_was(stub: Stub) -> None:
    stub.output(RUN)
    names = stub.names
    assert names.count("cuDevicePrimaryCtxRetain") == names.count("cuDevicePrimaryCtxRelease") == 1
    assert names.count("cuMemAlloc") == names.count("cuMemFree") == 2
    assert names.count("cuMemHostAlloc") == names.count("cuMemFreeHost") == 2
    assert names.count("cuStreamCreate") == names.count("cuStreamDestroy") == 1
    until = names.index("cuDevicePrimaryCtxRelease") - 1  # pycuda pushes once more, to release
    assert names[:until].count("cuCtxPushCurrent") == names[:until].count("cuCtxPopCurrent") == 3


def test_what_is_not_closed_does_not_disturb_the_exit(stub: Stub) -> None:
    stub.output("from edgelift.runtime.cuda import Pycuda\nc = Pycuda()\nwith c: b = c.buffer((1, 1), mapped=False)")
    assert stub.names[-1] == "cuDevicePrimaryCtxRelease"


def test_a_context_that_is_left_pushed_is_popped_at_exit(stub: Stub) -> None:
    stub.output("from edgelift.runtime.cuda import Pycuda\ncuda = Pycuda()\ncuda.__enter__()\ncuda.__enter__()")
    names = stub.names[: stub.names.index("cuDevicePrimaryCtxRelease") - 1]  # pycuda pushes once more, to release
    assert names.count("cuCtxPushCurrent") == names.count("cuCtxPopCurrent") >= 3


def test_without_the_exit_handler_the_interpreter_is_aborted(stub: Stub) -> None:
    # why there is one
    done = stub.run(
        "import atexit\nfrom edgelift.runtime import cuda\nc = cuda.Pycuda()\n"
        "atexit.unregister(cuda._release)\nc.__enter__()"
    )
    assert done.returncode != 0
    assert "context stack was not empty" in done.stderr


def test_several_share_the_primary_context_in_several_threads(stub: Stub) -> None:
    stub.output(
        """
import threading
from edgelift.runtime.cuda import Pycuda
first, second = Pycuda(), Pycuda()
assert first.stream != second.stream
def work():
    with first, second:
        buffer = second.buffer((1, 1), mapped=False)
        second.copy_in(buffer, 1)
        del buffer
thread = threading.Thread(target=work)
thread.start()
thread.join()
with second:
    second.synchronise()
second.close()
first.close()
"""
    )
    assert stub.names.count("cuDevicePrimaryCtxRetain") == 1
    assert stub.names.count("cuMemFree") == 1


def test_mapped_memory_is_one_address_and_is_not_allocated_twice(stub: Stub) -> None:
    told = stub.output(
        """
from edgelift.runtime.cuda import Pycuda
with Pycuda() as cuda:
    buffer = cuda.buffer((4, 3), mapped=True)
    print(cuda.gpu.integrated, hex(buffer.device), buffer.mapped)
""",
        STUB_INTEGRATED="1",
    )
    assert told == "True 0xde True"
    assert "cuMemHostAlloc 48 flags=2" in stub.calls  # CU_MEMHOSTALLOC_DEVICEMAP
    assert "cuMemAlloc" not in stub.names


def test_marks_are_microseconds_of_the_stream(stub: Stub) -> None:
    told = stub.output(
        """
from edgelift.runtime.cuda import Pycuda
with Pycuda() as cuda:
    first, second = cuda.mark(), cuda.mark()
    cuda.synchronise()
    print(second.since_us(first), format(cuda.stream, "x"))
"""
    )
    us, stream = told.split()
    assert float(us) == 250.0  # the stub tells a quarter of a millisecond
    assert stub.calls.count(f"cuEventRecord {stream}") == 2


def test_the_gpu_is_described_as_engines_name_it(stub: Stub) -> None:
    told = stub.output("import json\nfrom edgelift.runtime.cuda import find_gpu\nprint(json.dumps(vars(find_gpu())))")
    assert json.loads(told) == {"name": "Stub GPU", "target": "sm_89", "integrated": False}


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch"])
def test_a_graph_call_that_fails_is_an_error_that_names_it(stub: Stub, call: str) -> None:
    capture = "with Pycuda() as cuda:\n        cuda.capture(lambda: None).launch()"
    told = stub.output(REFUSED.format(capture), STUB_FAIL=call)
    assert f"CUDA call {call}: received CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in told


def test_work_that_fails_takes_the_stream_out_of_capture(stub: Stub) -> None:
    capture = "with Pycuda() as cuda:\n        cuda.capture(lambda: 1 / 0)"
    assert stub.run(REFUSED.format(capture)).stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "cuStreamEndCapture" in stub.names
    assert "cuGraphInstantiate" not in stub.names


def test_a_driver_call_that_fails_is_an_error_that_names_it(stub: Stub) -> None:
    told = stub.output(
        REFUSED.format("with Pycuda() as cuda:\n        cuda.buffer((1, 1), mapped=False)"), STUB_FAIL="cuMemAlloc"
    )
    assert "CUDA on Stub GPU: received cuMemAlloc failed" in told


def test_a_machine_without_a_gpu_is_told(stub: Stub) -> None:
    assert "NVIDIA GPU: received cuInit failed" in stub.output(REFUSED.format("find_gpu()"), STUB_DEVICES="0")


def test_a_machine_without_a_driver_is_told() -> None:
    done = run_python(REFUSED.format("find_gpu()"), bindings("cuda"), None)
    assert "NVIDIA driver: received libcuda.so.1" in done.stdout


def test_a_machine_without_pycuda_is_told_the_pip_line() -> None:
    forbid = "import sys; sys.modules['pycuda'] = None\n"
    done = run_python(forbid + REFUSED.format("find_gpu()"), None, None)
    assert "pip install 'edgelift[cuda]'" in done.stdout
