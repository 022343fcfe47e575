"""benchmarks/gpu/check.py where there is no GPU: what can run does, all else says why, and no crash stops the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.runtime.backends import open_backend
from edgelift.runtime.bundle import REFIT, load_bundle
from edgelift.runtime.engines.flavours import load
from edgelift.runtime.engines.refit import constants_of, refit, weights_for
from edgelift.runtime.engines.twin import CpuTwin

from .lifters import make_bundle, some_input
from .stubs import DRIVER, bindings, compile_library, run_python

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
NEED_A_GPU = (
    "runs_rtx", "engines_tensorrt", "runs_tensorrt", "targets", "refit_tensorrt", "refit_rtx", "overhead_tensorrt",
    "overhead_rtx", "overhead_cuda", "precisions_tensorrt", "precisions_rtx", "runs_cuda", "bench_tensorrt",
    "bench_rtx", "bench_cuda",
)  # fmt: skip
RUN_HERE = ("machine", "lifters", "engines_rtx", "overhead_cpu", "bench_cpu")
Sections = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sections, str]:
    """Sections and report of a run that no GPU is shown to."""
    home = tmp_path_factory.mktemp("check")
    command = [sys.executable, FOLDER / "check.py", "-o", home, "--bundle", make_bundle(home / "tiny").path, "--quick"]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=hidden)
    assert done.returncode == 0, done.stderr
    [result] = home.glob("gpu_check_no_gpu_*.json")
    assert done.stdout.splitlines()[-1] == f"wrote {result} and {result.with_suffix('.md')}"
    return json.loads(result.read_text())["sections"], result.with_suffix(".md").read_text()


def test_every_section_ends_and_is_in_the_report(checked: tuple[Sections, str]) -> None:
    sections, report = checked
    assert set(sections) == {*NEED_A_GPU, *RUN_HERE}
    for name, told in sections.items():
        assert told["failed"] is None, name
        assert told["parts"], name
        assert f"\n## {name}\n" in report


@pytest.mark.parametrize("name", NEED_A_GPU)
def test_what_needs_a_gpu_has_a_reason_and_no_number(checked: tuple[Sections, str], name: str) -> None:
    for part, answer in checked[0][name]["parts"].items():
        assert set(answer) == {"why_not"}, part
        assert answer["why_not"]


def test_no_question_is_answered_without_a_gpu(checked: tuple[Sections, str]) -> None:
    answers = checked[1].partition("## Answers")[2].partition("## Sections")[0].strip().splitlines()
    unanswered = [line for line in answers if "Not answered: " in line]
    assert [line for line in answers if line not in unanswered] == [line for line in answers if "(cpu, fp32)" in line]
    assert len(unanswered) == len(answers) - 1 > 20


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_tensorrt_rtx_builds_here(checked: tuple[Sections, str], precision: str) -> None:
    engine = checked[0]["engines_rtx"]["parts"][f"0_tiny {precision}"]
    assert engine["version"] == load("rtx").version
    assert engine["targets"] == ["portable"]
    assert engine["bytes"] > 30_000  # more than the weights
    assert engine["build_seconds"] > 0


def test_refittable_builds_fail_here_in_tensorrts_words(checked: tuple[Sections, str]) -> None:
    for precision in ("fp32", "fp16"):
        why = checked[0]["engines_rtx"]["parts"][f"0_tiny {precision}, refittable"]["why_not"]
        assert "buildSerializedNetwork" in why


def test_the_cpu_is_benched(checked: tuple[Sections, str]) -> None:
    rows = [row for answer in checked[0]["bench_cpu"]["parts"].values() for row in answer["rows"]]
    assert {(row["provider"], row["precision"]) for row in rows} == {
        ("CPUExecutionProvider", "fp32"), ("CPUExecutionProvider", "int8")
    }  # fmt: skip


def test_moved_weights_are_those_of_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import lifters  # type: ignore[import-not-found, unused-ignore]

    old = make_bundle(tmp_path / "old")
    told = lifters.moved(old, tmp_path / "new")
    new = load_bundle(tmp_path / "new")
    assert (told["moved"], told["stayed"]) == (len(old.manifest["graph"]["parameters"]), 0)
    assert old.manifest["files"][REFIT] != new.manifest["files"][REFIT]
    windows, cameras = (t.numpy() for t in some_input(5))
    twin = CpuTwin(old, old.onnx.read_bytes())
    refit(twin, weights_for({}, new), constants_of(new))
    with open_backend(old, "cpu") as before, open_backend(new, "cpu") as after:
        np.testing.assert_allclose(after(windows, cameras), twin(windows, cameras), atol=1e-5)
        assert np.abs(after(windows, cameras) - before(windows, cameras)).max() > 1e-3


# Sections that break

SECTION = """
import os, sys, time
sys.path.insert(0, {folder!r})
import sections
def parts(home, quick):
    yield "before", lambda: 1
    yield "fatal", lambda: {fatal}
    yield "after", lambda: 2
sections.SECTIONS.clear()
sections.SECTIONS["bad"] = {section}
import check
check.__file__ = __file__
if "--section" in sys.argv:
    check.main()
else:
    import json
    from pathlib import Path
    print(json.dumps(check.run_section("bad", Path(sys.argv[1]), [], {limit_s}, {part_s})))
"""


def broken(home: Path, fatal: str = "3", section: str = "parts", limit_s: float = 60, part_s: float = 30) -> Any:
    """Run a section of three parts."""
    script = home / "script.py"
    script.write_text(SECTION.format(folder=str(FOLDER), fatal=fatal, section=section, limit_s=limit_s, part_s=part_s))
    done = subprocess.run([sys.executable, str(script), str(home)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("fatal", "part_s", "why"),
    [
        ("os.abort()", 30, "its process ended with SIGABRT"),
        ("os._exit(3)", 30, "its process ended with 3"),
        ("time.sleep(60)", 2, "not done after 2 s"),
        ("1 / 0", 30, "division by zero"),
    ],
)
def test_a_part_that_breaks_is_named_and_the_next_one_runs(tmp_path: Path, fatal: str, part_s: float, why: str) -> None:
    told = broken(tmp_path, fatal, part_s=part_s)
    assert told["failed"] is None
    assert list(told["parts"]) == ["before", "fatal", "after"]
    assert (told["parts"]["before"], told["parts"]["after"]) == (1, 2)
    assert told["parts"]["fatal"]["why_not"].startswith(why)


def test_parts_behind_the_end_of_a_sections_time_say_so(tmp_path: Path) -> None:
    told = broken(tmp_path, "time.sleep(60)", limit_s=4)
    assert told["parts"]["before"] == 1
    assert told["parts"]["fatal"]["why_not"].startswith("not done when the section's time was over")
    assert told["parts"]["after"]["why_not"].startswith("not reached")


def test_a_process_that_dies_after_its_work_loses_nothing(tmp_path: Path) -> None:
    told = broken(tmp_path, "__import__('atexit').register(os.abort) and 3")
    assert told["parts"] == {"before": 1, "fatal": 3, "after": 2}
    assert told["failed"].startswith("its process ended with SIGABRT after all was done")


def test_a_section_without_parts_says_why(tmp_path: Path) -> None:
    told = broken(tmp_path, section="lambda home, quick: 1 / 0")
    assert told["parts"] == {}
    assert "ZeroDivisionError" in told["failed"]


# pycuda's stand-in

CUDA = """
import os, sys
sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
sys.path.insert(0, {folder!r})
import standin
installed = standin.install()
from edgelift.runtime.cuda import Pycuda
cuda = Pycuda()
with cuda:
    data, result, shared = cuda.buffer((4, 3), False), cuda.buffer((4, 3), False), cuda.buffer((2, 3), True)
    def work():
        cuda.copy_in(data, 2)
        cuda.copy_out(result, 2)
    graph = cuda.capture(work)
    graph.launch()
    first, second = cuda.mark(), cuda.mark()
    cuda.synchronise()
    graph.close()
    data.host[:] = 1
    print(installed, cuda.gpu, data.host.sum(), shared.host.sum(), shared.device, second.since_us(first))
    del data, result, shared
cuda.close()
"""
FOUND = "*function = dlsym(RTLD_DEFAULT, name);"
# a driver gives the second version of a function to who asks for the name alone; the stub had no need to
FOUND_IN_V2 = (
    FOUND + ' char second[99]; snprintf(second, 99, "%s_v2", name); '
    "if (!*function) *function = dlsym(RTLD_DEFAULT, second);"
)


def test_the_stand_in_calls_the_driver_as_pycuda_does(tmp_path: Path) -> None:
    driver, without = tmp_path / "driver", tmp_path / "without"
    assert FOUND in DRIVER
    compile_library(DRIVER.replace(FOUND, FOUND_IN_V2), driver, "libcuda.so.1")
    without.mkdir()
    for path in bindings("cuda").iterdir():
        if not path.name.startswith("pycuda"):
            (without / path.name).symlink_to(path)
    said, called = [], []
    for number, packages in enumerate((bindings("cuda"), without)):
        log = tmp_path / f"calls{number}"
        done = run_python(CUDA.format(folder=str(FOLDER)), packages, driver, STUB_LOG=str(log))
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        calls = log.read_text().splitlines()
        called.append(calls[: calls.index("cuGraphExecDestroy e8") + 1])  # the stand-in frees nothing afterwards
    assert said[0].startswith("False ")
    assert said[1] == said[0].replace("False", "True", 1)
    assert called[1] == called[0]
