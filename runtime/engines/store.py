"""Engines of a bundle: built from it, listed, and matched to the machine before TensorRT sees a byte of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, attach, find
from edgelift.runtime.bundle import Bundle, digest
from edgelift.runtime.engines.build import PORTABLE, BuildSettings, build_plan
from edgelift.runtime.engines.flavours import TITLES
from edgelift.runtime.engines.plan import read_header

NOT_RUN = "not run"
PORTABLE_SINCE = 80  # TensorRT-RTX's untargeted engines: Ampere and later, by its documentation


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its name, compute capability as in sm_89, and whether it shares memory with the CPU."""

    name: str
    target: str
    integrated: bool = False


def engine_name(settings: BuildSettings, version: str, target: str) -> str:
    """Return the file name of an engine: all that decides where it runs."""
    parts = [settings.flavour, version, target, settings.precision, f"b{settings.max_batch}"]
    return "-".join(parts + ["refit"] * settings.refittable) + ".plan"


def build_engine(
    bundle: Bundle, settings: BuildSettings, graph: bytes, facts: dict[str, Any], gpu: Gpu | None = None
) -> Attachment:
    """Build an engine from a graph of the bundle and keep it there. gpu: this machine's, which TensorRT builds for.

    facts: what is known of the graph (parity, budget), copied into the sidecar.
    """
    name = f"{bundle.path.name} ({settings.precision})"
    if settings.flavour == "tensorrt" and gpu is not None and settings.precision == "fp8" and _sm(gpu.target) < 89:
        raise EdgeliftError(f"--precision fp8 on {gpu.name}", "a GPU without FP8", "sm_89 or newer", "Use fp16.")
    built = build_plan(graph, settings, name)
    header = read_header(built.plan, name)
    targets = list(settings.targets) or [gpu.target if settings.flavour == "tensorrt" and gpu else PORTABLE]
    told = facts | {
        "kind": "engine", "flavour": header.flavour, "version": header.version, "targets": targets,
        "gpu": gpu.name if gpu and settings.flavour == "tensorrt" else None, "precision": settings.precision,
        "profiles": [{"min": 1, "opt": 1, "max": settings.max_batch}], "refittable": settings.refittable,
        "flags": settings.flags, "graph_sha256": digest(graph),
        "signature": bundle.manifest["graph"]["signature"], "refit_names": bundle.manifest["graph"]["parameters"],
        "build_seconds": round(built.seconds, 3), "engine_parity": NOT_RUN,
    }  # fmt: skip
    return attach(bundle, "engines", engine_name(settings, header.version, "+".join(targets)), built.plan, told)


def rebuild_command(bundle: Bundle, facts: dict[str, Any]) -> str:
    """Return the command that builds an engine like this one for the machine it is run on."""
    words = ["edgelift", "build", str(bundle.path), "--engine", facts["flavour"], "--precision", facts["precision"]]
    words += ["--max-batch", str(facts["profiles"][0]["max"])] + ["--refittable"] * facts["refittable"]
    return shlex.join(words)


def obstacle(facts: dict[str, Any], version: str | None, gpu: Gpu | None) -> str | None:
    """Say why an engine cannot run with this TensorRT (None: not installed) on this GPU (None: none); None: it can."""
    title = TITLES[facts["flavour"]]
    if version is None:
        return f"{title} is not installed here"
    if version != facts["version"]:
        return f"it was built by {title} {facts['version']}, here is {version}"
    if gpu is None:
        return "no NVIDIA GPU here"
    if facts["gpu"] is not None and facts["gpu"] != gpu.name:
        return f"it was built on {facts['gpu']}, here is {gpu.name}"
    if PORTABLE in facts["targets"]:
        return (
            None if _sm(gpu.target) >= PORTABLE_SINCE else f"it needs sm_{PORTABLE_SINCE} or newer, {gpu.name} is not"
        )
    if gpu.target not in facts["targets"]:
        return f"it was built for {', '.join(facts['targets'])}, {gpu.name} is {gpu.target}"
    return None


def engines_of(bundle: Bundle, flavour: str, precision: str) -> list[Attachment]:
    """Return a bundle's engines of a kind, the best first: not refittable, for particular GPUs, for the most people."""
    wanted = ("engine", flavour, precision)
    found = find(bundle, "engines", lambda f: (f["kind"], f["flavour"], f["precision"]) == wanted)
    return sorted(found, key=lambda a: (a.facts["refittable"], PORTABLE in a.facts["targets"], -_max_batch(a)))


def runnable_engine(bundle: Bundle, flavour: str, precision: str, version: str | None, gpu: Gpu | None) -> Attachment:
    """Return the engine that can run here; EdgeliftError with every one's obstacle and the command that helps."""
    candidates, obstacles = engines_of(bundle, flavour, precision), []
    for candidate in candidates:
        why = obstacle(candidate.facts, version, gpu)
        if why is None:
            return candidate
        obstacles.append(f"{candidate.path.name}: {why}")
    like = candidates[-1].facts if candidates else None
    command = rebuild_command(bundle, like) if like else (
        f"edgelift build {shlex.quote(str(bundle.path))} --engine {flavour} --precision {precision}"
    )  # fmt: skip
    raise EdgeliftError(
        f"{flavour} {precision} engines of {bundle.path}", "; ".join(obstacles) or "none", "one that can run here",
        f"On this machine run: {command}",
    )  # fmt: skip


def verify_plan(attachment: Attachment) -> bytes:
    """Read a plan: its hash first, then its header, which must say what the sidecar says."""
    plan = attachment.read()
    header = read_header(plan, str(attachment.path))
    told = (attachment.facts["flavour"], attachment.facts["version"])
    if (header.flavour, header.version) != told:
        raise EdgeliftError(
            str(attachment.path), f"a plan of {header.flavour} {header.version}",
            f"{' '.join(told)}, as its sidecar says", "Build it again.",
        )  # fmt: skip
    return plan


def _max_batch(engine: Attachment) -> int:
    return int(engine.facts["profiles"][0]["max"])


def _sm(target: str) -> int:
    return int(target.removeprefix("sm_"))
