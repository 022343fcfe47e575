"""What a registry says of its versions: a list of them, one of them, and two of them held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.metrics import mixed_errors
from edgelift.poses.sessions import Session
from edgelift.runtime.backends import open_backend
from edgelift.runtime.bundle import Bundle
from edgelift.runtime.evaluate import Lift, backend_lift, evaluate
from edgelift.runtime.registries import Registry

MM_PER_M = 1000.0


@dataclass(frozen=True)
class Version:
    """A version in a few words. state: current, earlier (it was once), never, or damaged (why says how)."""

    name: str
    state: str
    parent: str | None
    made_at: str | None
    forced: bool
    sessions: int
    reprojection: float | None
    reference: float | None
    why: str | None = None


def overview(registry: Registry) -> list[Version]:
    """List a registry's versions, oldest first; every file of every one is verified."""
    registry.check()
    past = [event for event in registry.history() if event.what != "pruned"]
    now, once = registry.current(), {name for event in past for name in (event.version, event.previous)}
    return [_version(registry, name, now, once) for name in registry.versions()]


def _version(registry: Registry, name: str, now: str, once: set[str | None]) -> Version:
    state = "current" if name == now else "earlier" if name in once else "never"
    try:
        bundle = registry.load(name)
    except EdgeliftError as error:
        return Version(name, "damaged", None, None, False, 0, None, None, str(error))
    parent, refresh = bundle.manifest["parent"], bundle.manifest.get("refresh")
    if refresh is None:
        return Version(name, state, None, None, False, 0, None, None)
    measures = (refresh["gate"] or {"measures": {}})["measures"]
    ratios = [measures[key]["ratio"] if key in measures else None for key in ("reprojection_px", "reference_mm")]
    return Version(
        name, state, parent["version"], refresh["made_at"], refresh["forced"], len(refresh["sessions"]), *ratios
    )


def details(registry: Registry, name: str | None) -> dict[str, Any]:
    """All that a version's manifest says of where it comes from, with what happened to it in the registry."""
    registry.check()
    bundle, now = registry.load(name), registry.current()
    m, own = bundle.manifest, bundle.path.name
    return {
        "version": own, "current": own == now, "path": str(bundle.path), "skeleton": m["skeleton"],
        "frames": m["frames"], "camera_input": m["camera_input"], "seal": m["seal"], "parity": m["parity"],
        "parent": m["parent"], "refresh": m.get("refresh"),
        "history": [vars(e) for e in registry.history() if own in (e.version, e.previous)],
    }  # fmt: skip


def difference(a: Bundle, b: Bundle, sessions: list[Session]) -> dict[str, Any]:
    """Hold two versions against each other, joint by joint: on a's reference set, and on sessions if there are any.

    For each, errors of both in mm, the root absolute and all others relative to it: `joints_mm`, None where nothing is
    known, and `mean_mm`. EdgeliftError where they lift other skeletons.
    """
    if a.skeleton != b.skeleton:
        raise EdgeliftError(
            f"versions {a.path.name} and {b.path.name}", f"{a.skeleton.name} and {b.skeleton.name}", "one skeleton",
            "Compare versions of one lifter.",
        )  # fmt: skip
    with open_backend(a, "cpu", threads=2) as first, open_backend(b, "cpu", threads=2) as second:
        lifts = backend_lift(first), backend_lift(second)
        told: dict[str, Any] = {"versions": [a.path.name, b.path.name], "joints": list(a.skeleton.joints)}
        told["reference"] = _on_reference(lifts, a) if a.input == b.input else None
        told["sessions"] = _on_sessions(lifts, (a, b), sessions) if sessions else None
    return told


def _on_reference(lifts: tuple[Lift, Lift], bundle: Bundle) -> dict[str, Any]:
    arrays, root = bundle.reference(), bundle.skeleton.root
    poses = [lift(arrays["keypoints"], arrays["intrinsics"]).astype(np.float64) for lift in lifts]
    errors = [mixed_errors(p, arrays["poses"].astype(np.float64), root) for p in poses]
    apart = MM_PER_M * np.linalg.norm(poses[0] - poses[1], axis=-1)
    return {
        "joints_mm": [_by_joint(e) for e in errors], "mean_mm": [_mean(e) for e in errors],
        "moved_mm": _mean(apart), "windows": len(apart),
    }  # fmt: skip


def _on_sessions(lifts: tuple[Lift, Lift], bundles: tuple[Bundle, Bundle], sessions: list[Session]) -> dict[str, Any]:
    scores = [evaluate(lift, sessions, bundle.input) for lift, bundle in zip(lifts, bundles, strict=True)]
    root = bundles[0].skeleton.joints[bundles[0].skeleton.root]
    return {
        "joints_mm": [list((s["per_joint_mm"] | {root: s["root_error_mm"]}).values()) for s in scores],
        "mean_mm": [None if s["mixed_mpjpe_mm"] is None else round(s["mixed_mpjpe_mm"], 2) for s in scores],
        "against": scores[0]["against"],
        "frames": scores[0]["frames"],
    }  # fmt: skip


def _by_joint(errors: NDArray[np.float64]) -> list[float | None]:
    return [_mean(column) for column in errors.T]


def _mean(errors: NDArray[np.float64]) -> float | None:
    known = errors[np.isfinite(errors)]
    return round(float(known.mean()), 2) if len(known) else None
