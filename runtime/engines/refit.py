"""New weights for an engine that is already built: when that may be done, and the one way in which it is done.

TensorRT does not say which weights of a failed refit were taken, an unknown name is easily overlooked, and 11.3 is
known to leave GEMM biases out of what it can refit. So names are compared with the engine's own list before anything
is set, and an engine whose refit failed is worth nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError, missing_extra
from edgelift.runtime.bundle import REFIT, Bundle
from edgelift.runtime.engines.api import ICudaEngine
from edgelift.runtime.engines.flavours import Loaded

REFITTED = ("fp32", "fp16")
Weights = Mapping[str, NDArray[Any]]


class Refittable(Protocol):
    """An engine whose weights can be replaced by name, or its twin on the CPU."""

    def names(self) -> set[str]:
        """Names of all weights that it lets one replace."""

    def offer(self, name: str, values: NDArray[Any]) -> bool:
        """Offer new values; whether they were taken."""

    def missing(self) -> set[str]:
        """Names that must be offered as well before a commit."""

    def commit(self) -> bool:
        """Put the offered values in; False leaves an engine in pieces."""


@dataclass(frozen=True)
class Decision:
    """Refit, or rebuild; and why."""

    refit: bool
    reason: str


def decide(engine: Mapping[str, Any], old: Bundle, new: Bundle) -> Decision:
    """Say whether an engine of `old` (its sidecar's facts) may take the weights of `new`; needs no GPU."""
    if engine["precision"] not in REFITTED:
        return Decision(False, f"{engine['precision']}: the ranges of activations do not move with the weights")
    if not engine["refittable"]:
        return Decision(False, "the engine was not built with --refittable")
    if len(engine["profiles"]) > 1:
        return Decision(False, f"it has {len(engine['profiles'])} profiles, and a refittable engine can have one")
    if old.manifest["graph"]["signature"] != new.manifest["graph"]["signature"]:
        return Decision(False, "the new bundle's graph is another one")
    unknown = sorted(set(engine["refit_names"]) ^ set(new.manifest["graph"]["parameters"]))
    if unknown:
        return Decision(False, f"weights of other names, {unknown[0]} among them")
    return Decision(True, "the same graph with other weights")


def weights_for(engine: Mapping[str, Any], new: Bundle) -> dict[str, NDArray[Any]]:
    """Return the new bundle's weights by initializer name, rounded to half where the engine's graph holds halves."""
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError as error:
        raise missing_extra("safetensors", "tensorrt") from error
    weights = load_file(new.path / REFIT)
    half = set(engine.get("half", ()))
    return {name: values.astype(np.float16) if name in half else values for name, values in weights.items()}


def constants_of(bundle: Bundle) -> set[str]:
    """Names of the graph's tensors that are no weights; the signature vouches for their values."""
    graph = bundle.manifest["graph"]
    return {name for name, _, _ in graph["initializers"]} - set(graph["parameters"]) | set(graph["constants"])


def refit(engine: Refittable, weights: Weights, constants: set[str]) -> None:
    """Replace all of an engine's weights, or raise EdgeliftError and leave it to be thrown away.

    constants: names of the graph's tensors that are no weights; an engine may list those too, they stay as they are.
    """
    exposed = engine.names()
    hidden, foreign = set(weights) - exposed, exposed - set(weights) - constants
    if hidden or foreign:
        raise _refused(f"{len(hidden)} weights it does not expose {sorted(hidden)[:3]}, {sorted(foreign)[:3]} unknown")
    refused = [name for name, values in weights.items() if not engine.offer(name, np.ascontiguousarray(values))]
    if refused:
        raise _refused(f"weights it does not take: {refused[:3]}")
    missing = engine.missing() - constants
    if missing:
        raise _refused(f"weights still missing: {sorted(missing)[:3]}")
    if not engine.commit():
        raise _refused("a refit that failed halfway")


def _refused(received: str) -> EdgeliftError:
    return EdgeliftError(
        "refit", received, "every weight of the new bundle taken by name",
        "Do not use that engine; rebuild it: edgelift build BUNDLE.",
    )  # fmt: skip


class EngineRefitter:
    """TensorRT's refitter, as a Refittable. The engine must not be executing: refit one that stands by."""

    def __init__(self, trt: Loaded, engine: ICudaEngine) -> None:
        self.trt = trt
        self.refitter = trt.api.Refitter(engine, trt.logger)
        self.kept: list[NDArray[Any]] = []  # TensorRT reads the arrays at the commit

    def names(self) -> set[str]:
        """See Refittable."""
        return set(self.refitter.get_all_weights())

    def offer(self, name: str, values: NDArray[Any]) -> bool:
        """See Refittable."""
        self.kept.append(values)
        return bool(self.refitter.set_named_weights(name, self.trt.api.Weights(values)))

    def missing(self) -> set[str]:
        """See Refittable."""
        return set(self.refitter.get_missing_weights())

    def commit(self) -> bool:
        """See Refittable."""
        return bool(self.refitter.refit_cuda_engine())
