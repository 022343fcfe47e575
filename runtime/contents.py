"""`edgelift inspect`: what a bundle holds, and which machine can run which of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, attachments
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.engines.build import PORTABLE
from edgelift.runtime.engines.flavours import TITLES, load
from edgelift.runtime.engines.make import gpu_or_none
from edgelift.runtime.engines.store import PORTABLE_SINCE, Gpu, obstacle, rebuild_command, verify_plan

TOLD = ("precision", "bytes", "graph_parity", "budget", "forced")


def contents(bundle: Bundle, verify: bool = False) -> dict[str, Any]:
    """Describe a loaded bundle; verify also hashes what was added to it and reads the plans' headers.

    Its own files were verified when it was loaded. EdgeliftError for whatever does not fit.
    """
    m = bundle.manifest
    graphs, engines = attachments(bundle, "graphs"), attachments(bundle, "engines")
    gpu = gpu_or_none()
    if verify:
        _verify(graphs, engines)
    return {
        "bundle": str(bundle.path), "skeleton": m["skeleton"], "frames": m["frames"], "camera_input": m["camera_input"],
        "frame_interval_s": m["frame_interval_s"], "opset": m["opset"], "parity_mm": m["parity"]["worst_joint_mm"],
        "signature": m["graph"]["signature"], "parameters": len(m["graph"]["parameters"]), "files": sorted(m["files"]),
        "graphs": [_told(graph) for graph in graphs],
        "engines": [_told(engine) | _where(bundle, engine.facts, gpu) for engine in engines],
        "unlisted": _unlisted(bundle, [*graphs, *engines]), "verified": verify,
    }  # fmt: skip


def _verify(graphs: list[Attachment], engines: list[Attachment]) -> None:
    for attachment in graphs:
        attachment.read()
    for attachment in engines:
        if attachment.facts["kind"] == "engine":
            verify_plan(attachment)
        else:
            attachment.read()


def _told(attachment: Attachment) -> dict[str, Any]:
    return {"file": attachment.path.name} | {k: attachment.facts[k] for k in TOLD if k in attachment.facts}


def _where(bundle: Bundle, facts: Mapping[str, Any], gpu: Gpu | None) -> dict[str, Any]:
    """Where something under `engines/` runs: in words, and whether this is such a machine (why_not None)."""
    if facts["kind"] != "engine":
        return {"flavour": facts["flavour"], "runs_on": "any CPU with ONNX Runtime", "why_not": None, "rebuild": None}
    why_not = obstacle(dict(facts), _version(facts["flavour"]), gpu)
    return {
        "flavour": facts["flavour"], "version": facts["version"], "targets": facts["targets"],
        "profiles": facts["profiles"], "refittable": facts["refittable"], "engine_parity": facts["engine_parity"],
        "runs_on": _machines(facts), "why_not": why_not,
        "rebuild": rebuild_command(bundle, dict(facts)) if why_not else None,
    }  # fmt: skip


def _machines(facts: Mapping[str, Any]) -> str:
    title = f"{TITLES[facts['flavour']]} {facts['version']}"
    if facts["gpu"] is not None:
        return f"{facts['gpu']} with {title}"
    if PORTABLE in facts["targets"]:
        return f"GPUs of sm_{PORTABLE_SINCE} and newer with {title}"
    return f"GPUs of {', '.join(facts['targets'])} with {title}"


def _version(flavour: str) -> str | None:
    try:
        return load(flavour).version
    except EdgeliftError:
        return None


def _unlisted(bundle: Bundle, known: list[Attachment]) -> list[str]:
    """Files beside the attachments that no sidecar describes: what an interrupted build left, and nobody loads."""
    expected = {path for attachment in known for path in (attachment.path, attachment.sidecar)}
    there = [p for folder in ("graphs", "engines") for p in (bundle.path / folder).glob("*")]
    return sorted(p.relative_to(bundle.path).as_posix() for p in there if p not in expected)
