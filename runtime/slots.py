"""Two slots: where a loop lifts with a TensorRT engine, a new version is refitted into the one that stands by.

The live engine is never touched. As soon as the live version has held out for its probation, the engine of the one
before it takes the weights of the one after: nothing is allocated, read or built. Where none stands by, a version's own
engine is opened; where it has none, the live one's plan is opened once more, and takes its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.backends.tensorrt import TensorRTBackend
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.counts import log
from edgelift.runtime.engines.refit import decide
from edgelift.runtime.engines.renew import prove
from edgelift.runtime.engines.store import engines_of, obstacle
from edgelift.runtime.lifter import Lifter

FAILED = "refit_failed"  # a fact that this process learns of an engine; slots of one file share it
Spare = Callable[[Callable[[Lifter], bool]], "Lifter | None"]
"""Hands over the lifter that stands by, if there is one and it fits; it is the caller's then."""


def open_beside(bundle: Bundle, live: Lifter, spare: Spare) -> Lifter:
    """Open a version beside the live one, on an engine of the same flavour and precision.

    EdgeliftError, with the reason of every way, where none does it; the live engine is as it was.
    """
    running = cast(TensorRTBackend, live.backend)
    reasons = []
    for name, way in _ways(bundle, live, running, spare):
        try:
            return way()
        except Exception as error:  # a driver's, a library's: there are other ways
            reasons.append(f"{name}: {error}")
            log.info("%s: %s", bundle.path.name, reasons[-1])
    if (why_not := _obstacle(running, bundle)) is not None:
        reasons.append(f"a refit: {why_not}")
    raise EdgeliftError(
        f"{running.name} {running.precision} of {bundle.path.name}", "; ".join(reasons), "an engine",
        "Build it on this machine: edgelift build BUNDLE; with --refittable it takes later versions' weights.",
    )  # fmt: skip


def _ways(
    bundle: Bundle, live: Lifter, running: TensorRTBackend, spare: Spare
) -> Iterator[tuple[str, Callable[[], Lifter]]]:
    idle = spare(lambda lifter: isinstance(lifter.backend, TensorRTBackend) and not _obstacle(lifter.backend, bundle))
    if idle is not None:
        slot = cast(TensorRTBackend, idle.backend)
        yield "a refit of what stood by", partial(_refitted, bundle, lambda: slot)
    yield "its own engine", partial(Lifter, bundle, running.name, running.precision)
    if not _obstacle(running, bundle):
        yield "a refit of the live plan", partial(_refitted, bundle, running.another)
    for engine in engines_of(live.bundle, running.name, running.precision):
        usable = obstacle(engine.facts, running.trt.version, running.cuda.gpu) is None
        other = engine.path != running.attachment.path
        if other and usable and decide(engine.facts, live.bundle, bundle).refit:
            how = (live.bundle, running.name, running.precision, running.capture, None, engine)
            yield f"a refit of {engine.path.name}", partial(_refitted, bundle, partial(TensorRTBackend, *how))


def _obstacle(backend: TensorRTBackend, bundle: Bundle) -> str | None:
    """Why an engine does not take a version's weights; None: it may."""
    facts = backend.attachment.facts
    decision = decide(facts, backend.built_for, bundle)
    return facts.get(FAILED) if decision.refit else decision.reason


def _refitted(bundle: Bundle, open_slot: Callable[[], TensorRTBackend]) -> Lifter:
    """Put a version's weights into a slot; where they do not arrive it is closed, and its file not tried again."""
    slot = open_slot()
    try:
        slot.refit(bundle)
        moved = prove(bundle, slot)
        log.info("%s refitted in place; %s", bundle.path.name, moved or "not compared: onnxruntime is not installed")
        return Lifter(bundle, slot)
    except BaseException as error:
        slot.attachment.facts[FAILED] = f"it failed before: {error}"  # else the next version would lose its spare, too
        slot.close()
        raise
