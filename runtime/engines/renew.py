"""`edgelift refit`: an old bundle's engines with a new one's weights, kept in the new one; or why they are rebuilt."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from typing import Any

import numpy as np

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, amend, attach, find, remove
from edgelift.runtime.backends import open_backend
from edgelift.runtime.backends.tensorrt import TensorRTBackend, open_engine
from edgelift.runtime.budget import BUDGETS, Budget, Change, change, enforce
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.cuda import Pycuda, find_gpu
from edgelift.runtime.engines.flavours import load
from edgelift.runtime.engines.refit import EngineRefitter, constants_of, decide, refit, weights_for
from edgelift.runtime.engines.store import obstacle, rebuild_command, verify_plan
from edgelift.runtime.evaluate import backend_lift


def renew(old: Bundle, new: Bundle, check: bool = False) -> list[dict[str, Any]]:
    """Refit every engine of `old` that takes the weights of `new`; check only decides, which needs no GPU.

    One dict an engine: engine, refit, reason; path of the new one; or rebuild, the command. EdgeliftError where a refit
    fails or a refitted engine leaves its budget: nothing of it is kept then.
    """
    engines = find(old, "engines", lambda f: f["kind"] == "engine")
    if not engines:
        raise EdgeliftError(str(old.path), "no engine", "a bundle with engines", "Run: edgelift build BUNDLE")
    return [_renewed(engine, old, new, check) for engine in engines]


def _renewed(engine: Attachment, old: Bundle, new: Bundle, check: bool) -> dict[str, Any]:
    decision = decide(engine.facts, old, new)
    told = {"engine": engine.path.name} | asdict(decision)
    if not decision.refit:
        return told | {"rebuild": rebuild_command(new, engine.facts)}
    return told if check else told | {"path": str(refitted(engine, new).path)}


def refitted(engine: Attachment, new: Bundle) -> Attachment:
    """Give a new bundle an engine of its predecessor with the new weights; EdgeliftError where it does not hold."""
    facts = engine.facts
    trt = load(facts["flavour"])
    why_not = obstacle(facts, trt.version, find_gpu())
    if why_not is not None:
        raise EdgeliftError(
            engine.path.name, why_not, "an engine that runs here", f"Run: {rebuild_command(new, facts)}"
        )
    plan = verify_plan(engine)
    cuda = Pycuda()
    with cuda:
        opened = open_engine(trt, plan, engine.path.name)
        refit(EngineRefitter(trt, opened), weights_for(facts, new), constants_of(new))
        memory = opened.serialize()
        del opened  # while its context is current
    cuda.close()
    if memory is None:
        raise EdgeliftError(engine.path.name, "no plan", "a refitted engine", f"Run: {rebuild_command(new, facts)}")
    kept = attach(new, "engines", engine.path.name, bytes(memory), facts | {"refitted_from": facts["sha256"]})
    try:
        return amend(kept, _parity(new, kept))
    except EdgeliftError:
        remove(kept)
        raise


def _parity(new: Bundle, kept: Attachment) -> dict[str, Any]:
    """Run the refitted engine on the new bundle's reference set; EdgeliftError where it leaves its budget."""
    facts = kept.facts
    with TensorRTBackend(new, facts["flavour"], facts["precision"], engine=kept) as engine:
        moved = prove(new, engine)
    return {} if moved is None else {"engine_parity": asdict(moved)}


def prove(new: Bundle, engine: TensorRTBackend) -> Change | None:
    """Return how far a refitted engine is from the portable graph on the reference set; None without onnxruntime.

    EdgeliftError where that is more than the budget that the engine was built with, unless it was kept by force then,
    and where a pose is not finite.
    """
    facts, arrays = engine.attachment.facts, new.reference()
    windows, cameras = arrays["keypoints"], arrays["intrinsics"]
    poses = backend_lift(engine)(windows, cameras)
    if not np.isfinite(poses).all():
        raise EdgeliftError(engine.attachment.path.name, "poses not finite", "metres", "Do not use it; rebuild it.")
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    budget = Budget(**facts["budget"]) if "budget" in facts else BUDGETS[facts["precision"]]
    with open_backend(new, "cpu") as plain:
        moved = change(backend_lift(plain)(windows, cameras), poses, arrays["poses"])
    enforce(f"{facts['precision']}, refitted", moved, budget, force=bool(facts.get("forced")))
    return moved
