"""Adaptation: a lifter's own weights, moved a little towards the people and cameras of newly recorded sessions.

No label is read. The teacher is the reconstruction from all views. A short recording must not undo what a large one
taught: an anchor holds the weights near the base's, and sessions of the base's own training, where they are at hand,
are rehearsed: the person makes their movements too. One view whose keypoints are never lifted in training says when to
stop, or that nothing was won.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session
from edgelift.trainer.checkpoint import Checkpoint
from edgelift.trainer.data import MultiView, load_multiview
from edgelift.trainer.fit import Examples, set_learning_rate
from edgelift.trainer.models import Lifter

Told = Callable[[int, int, float | None], None]
MM_PER_M = 1000.0


@dataclass(frozen=True)
class AdaptSettings:
    """How far and how long."""

    steps: int = 600
    learning_rate: float = 5e-4
    """At the first step; falls along a cosine to zero."""
    anchor: float = 1e-3
    """Share of the way back to the base's weights, every step."""
    batch: int = 128
    """Multi-view frames a step."""
    virtual_views: float = 0.5
    held_out_views: int = 1
    """Of every session, the last ones: they only say when to stop. 0: the last weights are taken."""
    checks: int = 10
    """How often the held-out views are looked at."""
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """curve: (step, held-out error in mm against the teacher), the base first; best_step: which of them was taken."""

    model: Lifter
    curve: tuple[tuple[int, float], ...]
    best_step: int


def adapt(
    base: Checkpoint, sessions: Sequence[Session], settings: AdaptSettings,
    told: Told = lambda step, steps, error: None, rehearse: Sequence[Session] = (),
) -> Adapted:  # fmt: skip
    """Adapt a lifter to sessions of two or more calibrated views (three, where one is held out).

    rehearse: other sessions, as those that the base was trained on; every step then lifts as many frames more in which
    the people of `sessions`, with their own bones and before their own cameras, make the movements of those.
    Batch norm keeps the base's statistics. Where nothing beats the base on the held-out views, `best_step` is 0 and the
    model is the base. The held-out error is MPJPE with the absolute root, mm.
    """
    fed = replace(
        base.settings, supervision="views", loss="teacher", virtual_views=settings.virtual_views,
        batch=settings.batch, learning_rate=settings.learning_rate, schedule="cosine",
    )  # fmt: skip
    data = load_multiview(sessions, fed)
    lifted, held_out = hold_out(data, settings.held_out_views)
    examples, model = [Examples(lifted, fed)], base.model()
    if rehearse:
        examples.append(Examples(lifted, replace(fed, virtual_views=1.0), load_multiview(rehearse, fed)))
    anchor = [p.detach().clone() for p in model.parameters()]
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    curve: list[tuple[int, float]] = []
    best = copy.deepcopy(model)
    torch.manual_seed(settings.seed)
    for step in range(settings.steps + 1):
        if held_out is not None and step % max(1, settings.steps // settings.checks) == 0:
            curve.append((step, _error_mm(model, data, held_out)))
            best = copy.deepcopy(model) if curve[-1][1] <= min(error for _, error in curve) else best
            told(step, settings.steps, curve[-1][1])
        if step < settings.steps:
            set_learning_rate(optimiser, fed, step / settings.steps)
            _step(model, optimiser, examples, anchor, settings)
    if held_out is None:
        return Adapted(model, (), settings.steps)
    return Adapted(best, tuple(curve), min(curve, key=lambda point: point[1])[0])


def _step(
    model: Lifter, optimiser: torch.optim.Optimizer, examples: Sequence[Examples], anchor: list[Tensor],
    settings: AdaptSettings,
) -> None:  # fmt: skip
    loss = torch.stack([e.loss(model, torch.randint(len(e.data), (settings.batch,))) for e in examples]).sum()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    if settings.anchor:
        with torch.no_grad():
            torch._foreach_lerp_(list(model.parameters()), anchor, settings.anchor)


def hold_out(data: MultiView, views: int) -> tuple[MultiView, Tensor | None]:
    """Data whose last views show nobody, and their (row, view) pairs (n, 2) in the taught rows."""
    if not views:
        return data, None
    real = (data.keypoints[..., 2] > 0).any(-1).any(0)  # padded views show nobody, ever
    if real.sum() - views < 2:
        raise EdgeliftError(
            "sessions to adapt to", f"{int(real.sum())} views, {views} of them held out", "two or more that are left",
            "Record with another camera, or hold none out.",
        )  # fmt: skip
    out = real.nonzero()[-views:, 0]
    keypoints = data.keypoints.clone()
    keypoints[:, out] = 0
    shown = (data.keypoints[:, out, :, 2] > 0).any(-1)
    taught = torch.zeros(len(shown), dtype=torch.bool).index_fill(0, data.taught, True)
    row, which = (shown & taught[:, None]).nonzero().T
    return replace(data, keypoints=keypoints), torch.stack([row, out[which]], 1)


def _error_mm(model: Lifter, data: MultiView, pairs: Tensor) -> float:
    """Mean distance in mm of the lifted pairs (row, view) from the teacher, over the joints it knows."""
    total = weight = 0.0
    with torch.inference_mode():
        for row, view in (pairs[i : i + 2048].T for i in range(0, len(pairs), 2048)):
            camera = data.camera[row, view]
            poses = model(data.view_windows(data.keypoints, row, view), data.given[camera])
            target = data.local_target(row, camera)
            total += float(((poses - target[..., :3]).norm(dim=-1) * target[..., 3]).sum())
            weight += float(target[..., 3].sum())
    return MM_PER_M * total / max(weight, 1.0)
