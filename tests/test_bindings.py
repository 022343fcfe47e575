"""Every attribute of TensorRT that edgelift touches exists in every version it says it works with.

The bindings are the vendor's compiled ones; each version is loaded in a process of its own.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import get_type_hints

import pytest

from edgelift.runtime.engines import api
from edgelift.runtime.engines.build import TARGETS

from .stubs import bindings, run_python, tensorrt_stubs

TENSORRT = ("10.3.0", "10.16.1.11", "11.4.0.106")
RTX = "TensorRT-RTX"
MODULES = ("TensorRT", "TensorRTRtx")
ANOTHER = {"__iter__": "__getitem__"}  # what Python iterates by where there is no __iter__
UNSEEN = "__buffer__"  # Python shows it from 3.12 on; before, only the C interface has it

FIND_MISSING = """
import importlib, json, sys
asked = json.load(sys.stdin)
module = importlib.import_module(asked["module"])
def has(name, attribute):
    owner = module if name is None else getattr(module, name, None)
    return hasattr(owner, attribute)
print(json.dumps([f"{n or 'module'}.{a}" for n, attributes in asked["classes"] for a in attributes if not has(n, a)]))
"""

MAKE = """
import sys
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends.tensorrt import open_engine
from edgelift.runtime.engines.build import BuildSettings, build_plan
from edgelift.runtime.engines.flavours import load
for make in (
    lambda: build_plan(b"", BuildSettings("tensorrt"), "lifter"),
    lambda: open_engine(load("tensorrt"), b"", "lifter.plan"),
):
    try:
        make()
    except EdgeliftError as error:
        print(error)
"""

Declared = list[tuple[str | None, list[str]]]


def declared(rtx: bool) -> Declared:
    """What the protocols declare: names of classes as the bindings have them (None: the module) and of attributes."""
    tree = ast.parse(Path(api.__file__).read_text())
    found: Declared = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (rtx or not node.name.endswith("Rtx")):
            attributes = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            attributes += [
                n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            ]
            name = None if node.name in MODULES else node.name.removesuffix("Rtx")
            found.append((name, [ANOTHER.get(a, a) for a in attributes if a != UNSEEN]))
    return found


def missing(version: str, classes: Declared, tmp_path: Path) -> list[str]:
    """Which of these attributes a version lacks."""
    if version == RTX:
        asked, packages, libraries = {"module": "tensorrt_rtx", "classes": classes}, None, None
    else:
        asked = {"module": "tensorrt_bindings", "classes": classes}
        packages, libraries = bindings(version), tensorrt_stubs(tmp_path / "lib", version.partition(".")[0])
    done = run_python(FIND_MISSING, packages, libraries, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    lacking: list[str] = json.loads(done.stdout)
    return lacking


@pytest.mark.parametrize("version", [*TENSORRT, RTX])
def test_every_declared_attribute_is_in_the_bindings(version: str, tmp_path: Path) -> None:
    classes = declared(rtx=version == RTX)
    assert ("IExecutionContext", "execute_async_v3") in [(n, a) for n, attributes in classes for a in attributes]
    assert missing(version, classes, tmp_path) == []


@pytest.mark.parametrize("version", TENSORRT)
def test_what_only_tensorrt_rtx_has_is_declared_apart(version: str, tmp_path: Path) -> None:
    lacking = missing(version, declared(rtx=True), tmp_path)
    assert {"IExecutionContext.is_stream_capturable", "module.ComputeCapability"} <= set(lacking)


@pytest.mark.parametrize(
    ("version", "expected"), [("10.3.0", []), ("11.4.0.106", ["BuilderFlag.FP16"]), (RTX, ["BuilderFlag.FP16"])]
)
def test_an_attribute_that_a_version_lacks_is_reported(version: str, expected: list[str], tmp_path: Path) -> None:
    classes: Declared = [*declared(rtx=False), ("BuilderFlag", ["FP16"])]
    assert missing(version, classes, tmp_path) == expected


def test_a_class_that_a_version_lacks_is_reported(tmp_path: Path) -> None:
    assert missing("11.4.0.106", [("IInt8EntropyCalibrator2", ["get_batch"])], tmp_path) == [
        "IInt8EntropyCalibrator2.get_batch"
    ]


@pytest.mark.parametrize("version", TENSORRT)
def test_a_tensorrt_that_can_make_nothing_is_an_error_that_names_it(version: str, tmp_path: Path) -> None:
    done = run_python(MAKE, bindings(version), tensorrt_stubs(tmp_path / "lib", version.partition(".")[0]))
    assert done.returncode == 0, done.stderr
    building, opening = done.stdout.splitlines()
    assert f"building lifter with TensorRT {version}: received no builder" in building
    assert f"lifter.plan: received no engine from TensorRT {version}" in opening


def test_every_target_is_a_declared_machine() -> None:
    # the one attribute that is chosen by a string, which mypy cannot see
    names = {target.replace("_", "").upper() for target in TARGETS}
    assert names == set(get_type_hints(api.ComputeCapabilityRtx))
