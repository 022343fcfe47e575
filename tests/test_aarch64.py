"""What `poses` and `runtime` need resolves to wheels on a Jetson: JetPack 6 and JetPack 7, 64-bit ARM.

pip cannot be asked: with --python-version and --platform it still evaluates environment markers for the machine it runs
on, so it leaves out tomli for Python 3.10. uv evaluates them for the target.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[1]
NOT_FROM_A_WHEEL = {"pycuda": "compiled on the device", "tensorrt": "JetPack's own"}

# Python, the C library of its Ubuntu, tested versions, and the CUDA that its driver speaks
JETPACK_6 = ("3.10", "aarch64-manylinux_2_35", "constraints-3.10.txt", "cuda-bindings<13")
JETPACK_7 = ("3.12", "aarch64-manylinux_2_39", "constraints-3.11.txt", "cuda-bindings>=13")


def requirements() -> list[str]:
    """What pyproject.toml lists for a device and wheels provide: the base and a device's extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [
        *project["dependencies"],
        *extras["cpu"],
        *extras["cuda"],
        *extras["tensorrt"],
        *extras["stream"],
        *extras["files"],
        *extras["remote"],
    ]
    return [line for line in dict.fromkeys(named) if name_of(line) not in NOT_FROM_A_WHEEL]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def resolve(lines: list[str], jetpack: tuple[str, str, str, str]) -> subprocess.CompletedProcess[str]:
    """Resolve to wheels alone for a target; standard output has a line `name==version` for each."""
    python, platform, constraints, cuda = jetpack
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-version", python, "--python-platform", platform]
    command += ["--constraint", str(ROOT / constraints), "-"]
    given = "\n".join([*lines, cuda])
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("jetpack", [JETPACK_6, JETPACK_7], ids=["jetpack6", "jetpack7"])
def test_every_dependency_has_a_wheel(jetpack: tuple[str, str, str, str]) -> None:
    done = resolve(requirements(), jetpack)
    assert done.returncode == 0, done.stderr
    versions = dict(line.split("==") for line in done.stdout.split())
    wanted = {name_of(line) for line in requirements()}
    if jetpack[0] != "3.10":
        wanted.remove("tomli")  # part of Python from 3.11 on
    assert wanted <= versions.keys()
    assert ("tomli" in versions) == (jetpack[0] == "3.10")
    pinned = dict(line.split("==") for line in (ROOT / jetpack[2]).read_text().split() if "==" in line)
    assert all(versions[name] == pinned[name] for name in wanted & pinned.keys())
    assert (int(versions["cuda-bindings"].split(".")[0]) < 13) == (jetpack is JETPACK_6)


@pytest.mark.parametrize(
    ("package", "reason"),
    [("pycuda", "no usable wheels"), ("mkl", "no wheels with a matching platform tag")],
    ids=["source only", "x86-64 only"],
)
def test_a_dependency_without_a_wheel_is_noticed(package: str, reason: str) -> None:
    done = resolve([*requirements(), package], JETPACK_6)
    assert done.returncode != 0
    assert package in done.stderr
    assert reason in " ".join(done.stderr.split())
