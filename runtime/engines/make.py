"""`edgelift build`: an engine from a bundle alone, checked on the GPU where there is one, kept or refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, amend, find, remove
from edgelift.runtime.backends import open_backend
from edgelift.runtime.backends.onnx_runtime import graph_of
from edgelift.runtime.backends.tensorrt import TensorRTBackend
from edgelift.runtime.budget import BUDGETS, Budget, change, enforce
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.cuda import find_gpu
from edgelift.runtime.engines.build import BuildSettings
from edgelift.runtime.engines.flavours import load
from edgelift.runtime.engines.store import Gpu, build_engine, obstacle
from edgelift.runtime.evaluate import backend_lift
from edgelift.runtime.speed import faster_than_fp32

GRAPH_FACTS = ("graph_parity", "budget", "forced", "half", "ranges", "spared", "quantise_nodes")


def make_engine(bundle: Bundle, settings: BuildSettings, force: bool = False) -> Attachment:
    """Compile an engine from a graph of the bundle and keep it under `engines/`.

    Where it can run on this machine it is run: an engine whose poses leave its budget, or that is reduced and no faster
    than FP32, is refused with both figures unless force keeps it. Elsewhere its sidecar says "not run".
    """
    settings.check()
    load(settings.flavour)
    gpu = find_gpu() if settings.flavour == "tensorrt" else gpu_or_none()
    graph = graph_of(bundle, settings.precision, "graphs", None)
    engine = build_engine(bundle, settings, graph, _facts(bundle, settings.precision), gpu)
    why_not = obstacle(engine.facts, load(settings.flavour).version, gpu)
    if why_not is not None:
        return amend(engine, {"engine_parity": f"not run: {why_not}", "speed": f"not measured: {why_not}"})
    try:
        return amend(engine, _proved(bundle, settings, engine, force))
    except EdgeliftError:
        remove(engine)
        raise


def gpu_or_none() -> Gpu | None:
    """Return this machine's GPU, or None where there is none to ask."""
    try:
        return find_gpu()
    except EdgeliftError:
        return None


def _facts(bundle: Bundle, precision: str) -> dict[str, Any]:
    """Return what the sidecar of the precision's graph says; FP32's is in the manifest."""
    if precision == "fp32":
        return {"graph_parity": bundle.manifest["parity"], "budget": asdict(BUDGETS["fp32"]), "forced": False}
    [graph] = find(bundle, "graphs", lambda f: f["precision"] == precision)
    return {key: graph.facts[key] for key in GRAPH_FACTS if key in graph.facts}


def _proved(bundle: Bundle, settings: BuildSettings, engine: Attachment, force: bool) -> dict[str, Any]:
    """Run an engine on the reference set; return its parity and speed, or raise where it is refused."""
    arrays = bundle.reference()
    windows, cameras, truth = arrays["keypoints"], arrays["intrinsics"], arrays["poses"]
    budget = Budget(**engine.facts["budget"])
    with (
        open_backend(bundle, "cpu") as plain,
        TensorRTBackend(bundle, settings.flavour, settings.precision, engine=engine) as fast,
    ):
        moved = change(backend_lift(plain)(windows, cameras), backend_lift(fast)(windows, cameras), truth)
        forced = enforce(f"{settings.precision}, executed on the GPU", moved, budget, force or engine.facts["forced"])
        told = {"engine_parity": asdict(moved), "forced": forced or engine.facts["forced"]}
        return told | faster_than_fp32(bundle, fast, force)
