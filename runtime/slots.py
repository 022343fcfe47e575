"""Two slots: where a loop lifts with a TensorRT engine, a new version is refitted into the one that stands by.

The live engine is never touched. The first new version opens a second engine from the live one's plan; from then on the
engine of the version before the live one is taken, so that nothing is allocated, read or built: only weights are put
in. The version whose engine is taken can no longer take over at once; going back to it opens it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, find
from edgelift.runtime.backends.tensorrt import TensorRTBackend
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.counts import log
from edgelift.runtime.engines.refit import decide
from edgelift.runtime.engines.renew import prove
from edgelift.runtime.engines.store import obstacle
from edgelift.runtime.lifter import Lifter

Spare = Callable[[Callable[[Lifter], bool]], Lifter | None]
"""Hands over the lifter that stands by, if there is one and it fits; it is the caller's then."""


def refitted_beside(bundle: Bundle, live: Lifter, spare: Spare) -> Lifter:
    """Open a version on an engine that stands by, by a refit in place.

    EdgeliftError, and the live engine as it was, where no engine takes its weights, or what came of it leaves the
    engine's budget on the reference set: that one is closed then.
    """
    slot = _slot(bundle, live, spare)
    try:
        slot.refit(bundle)
        moved = prove(bundle, slot, slot.attachment.facts)
    except BaseException:
        slot.close()
        raise
    told = "not compared, onnxruntime is not installed" if moved is None else f"{asdict(moved)}"
    log.info("%s refitted in place; against the portable graph: %s", bundle.path.name, told)
    return Lifter(bundle, slot)


def _slot(bundle: Bundle, live: Lifter, spare: Spare) -> TensorRTBackend:
    idle = spare(lambda lifter: _takes(lifter.backend, bundle))
    if idle is not None and isinstance(idle.backend, TensorRTBackend):
        return idle.backend
    running = live.backend
    assert isinstance(running, TensorRTBackend)
    reasons = []
    for engine in (running.attachment, *_others(live.bundle, running)):
        decision = decide(engine.facts, live.bundle, bundle)
        if decision.refit:
            return TensorRTBackend(live.bundle, running.name, running.precision, running.capture, engine=engine)
        reasons.append(f"{engine.path.name}: {decision.reason}")
    raise EdgeliftError(
        f"engines of {live.name}", "; ".join(reasons), "one that takes new weights", "Build it with --refittable."
    )


def _takes(backend: object, bundle: Bundle) -> bool:
    return isinstance(backend, TensorRTBackend) and decide(backend.attachment.facts, backend.bundle, bundle).refit


def _others(bundle: Bundle, like: TensorRTBackend) -> list[Attachment]:
    """Engines of the live bundle that could run in its place."""
    wanted, own = ("engine", like.name, like.precision), like.attachment.path
    found = find(bundle, "engines", lambda f: (f["kind"], f["flavour"], f["precision"]) == wanted)
    return [e for e in found if e.path != own and obstacle(e.facts, like.trt.version, like.cuda.gpu) is None]
