"""What a version had beside its portable graph, for the one that follows it: reduced graphs, the CPU's file, engines.

An engine takes the new weights by a refit where its gate allows that and it can run here, else it is built anew from
the new graph. What can be done on another machine only is told, with the command that does it there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edgelift.export.cpu_file import keep_cpu_file
from edgelift.export.reduced import keep_graph
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, find
from edgelift.runtime.budget import Budget
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.engines.build import PORTABLE, BuildSettings
from edgelift.runtime.engines.make import gpu_or_none, make_engine
from edgelift.runtime.engines.refit import decide
from edgelift.runtime.engines.renew import refitted
from edgelift.runtime.engines.store import rebuild_command


def renew_additions(old: Bundle, new: Bundle) -> list[dict[str, Any]]:
    """Give the new bundle what the old one had; one dict each: file, how, seconds; `why_not` if it is not done."""
    try:
        graphs = find(old, "graphs", lambda f: f["kind"] == "graph")  # first: engines are built from them
        rest = find(old, "engines", lambda f: True)
    except EdgeliftError as error:  # a damaged sidecar of the old version
        return [{"file": "graphs/, engines/", "how": "none", "why_not": str(error), "seconds": 0.0}]
    return [_renewed(addition, old, new) for addition in [*graphs, *rest]]


def _renewed(addition: Attachment, old: Bundle, new: Bundle) -> dict[str, Any]:
    how, work = _way(addition, old, new)
    told: dict[str, Any] = {"file": f"{addition.path.parent.name}/{addition.path.name}", "how": how}
    started = time.perf_counter()
    try:
        work()
    except Exception as error:  # a driver's, a library's: the version is good without it, and its absence is told
        told["why_not"] = str(error)
    return told | {"seconds": round(time.perf_counter() - started, 3)}


def _way(addition: Attachment, old: Bundle, new: Bundle) -> tuple[str, Callable[[], object]]:
    """How an addition is renewed, in a word, and what does it."""
    facts = addition.facts
    if facts["kind"] == "graph":
        budget = Budget(**facts["budget"])
        if facts["flavour"] == "cpu":
            return "made", lambda: keep_cpu_file(new, budget, _was_forced(facts))
        return "made", lambda: keep_graph(new, facts["precision"], None, budget, _was_forced(facts))
    decision = decide(facts, old, new)
    if decision.refit and gpu_or_none() is not None:
        return "refit", lambda: _refitted_or_rebuilt(addition, new)
    return f"rebuild: {decision.reason if not decision.refit else 'no GPU to refit on'}", lambda: _rebuilt(new, facts)


def _refitted_or_rebuilt(engine: Attachment, new: Bundle) -> None:
    try:
        refitted(engine, new)
    except EdgeliftError:  # it does not hold on this machine
        _rebuilt(new, engine.facts)


def _rebuilt(new: Bundle, facts: dict[str, Any]) -> None:
    if facts["flavour"] == "tensorrt" and gpu_or_none() is None:
        raise EdgeliftError(
            "TensorRT", "no GPU to build for", "the machine that runs it", f"There, run: {rebuild_command(new, facts)}"
        )
    targets = () if facts["flavour"] == "tensorrt" else tuple(t for t in facts["targets"] if t != PORTABLE)
    settings = BuildSettings(
        facts["flavour"], facts["precision"], targets, facts["profiles"][0]["max"], facts["refittable"]
    )
    make_engine(new, settings, _was_forced(facts))


def _was_forced(facts: dict[str, Any]) -> bool:
    """Whether somebody kept it though it was beyond its budget, or no faster than FP32."""
    speed = facts.get("speed")
    return bool(facts["forced"]) or (isinstance(speed, dict) and speed["p50_us"] >= speed["fp32_p50_us"])
