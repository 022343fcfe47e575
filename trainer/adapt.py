"""Adaptation: a lifter's own weights, moved a little towards the people and cameras of newly recorded sessions.

No label is read. The teacher is the reconstruction from all views. A short recording must not undo what a large one
taught: an anchor holds the weights near the base's, and sessions of the base's own training, where they are at hand,
are rehearsed, as they were and as the person's own movements. Views that are never lifted in training, and stretches of
time that are never trained on, say when to stop, or that nothing was won.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgelift.poses.files import replaced_durably
from edgelift.poses.metrics import mixed_mpjpe
from edgelift.poses.sessions import Session
from edgelift.trainer.checkpoint import Checkpoint, named_tensors, restore, under
from edgelift.trainer.data import MultiView, load_multiview
from edgelift.trainer.fit import Examples, check_device, set_learning_rate
from edgelift.trainer.models import Lifter
from edgelift.trainer.settings import TrainSettings

Told = Callable[[int, int, float | None], None]
Watched = Sequence[tuple[MultiView, Tensor]]
Batches = list[tuple[int, Examples]]  # frames a step, and of what
MM_PER_M = 1000.0
PROBED = 10  # steps that are timed before the number of all is settled, where seconds are given
LEAST_STEPS = 50
SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)


@dataclass(frozen=True)
class AdaptSettings:
    """How far and how long."""

    steps: int = 600
    seconds: float | None = None
    """As many of the steps are made as fit, with their preparation; None: all of them."""
    learning_rate: float = 5e-4
    """At the first step; falls along a cosine to zero."""
    anchor: float = 1e-3
    """Share of the way back to the base's weights, every step."""
    batch: int = 128
    """Multi-view frames a step."""
    rehearsed: float = 1.0
    """As many frames more, in batches, of what is rehearsed as it was."""
    lent: float = 0.5
    """As many frames more, in batches, in which the sessions' people make the movements of what is rehearsed."""
    virtual_views: float = 0.75
    held_out_views: int = 1
    """Of every session, the last ones of three or more: they only say when to stop."""
    checks: int = 10
    """How often what is held out is looked at; where nothing is, the last weights are taken."""
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """curve: (step, held-out error in mm against the teacher), the base first; best_step: which of them was best.

    share: how far the model lies from the base (0) towards the best weights (1).
    """

    model: Lifter
    curve: tuple[tuple[int, float], ...]
    best_step: int
    steps: int
    share: float = 1.0


@dataclass
class Adapting:
    """An adaptation on its way: all that an interrupted one needs to go on as if nothing had happened."""

    model: Lifter
    best: Lifter
    optimiser: torch.optim.Optimizer
    steps: int
    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)


def adapt(
    base: Checkpoint, sessions: Sequence[Session], settings: AdaptSettings,
    told: Told = lambda step, steps, error: None, rehearse: Sequence[Session] = (), held_out: Sequence[Session] = (),
    keep: Mapping[str, NDArray[np.float32]] | None = None, work: Path | None = None, device: str = "cpu",
) -> Adapted:  # fmt: skip
    """Adapt a lifter to sessions of two or more calibrated views.

    rehearse: sessions that the base was trained on; every step then lifts more frames, some as they were, some in which
    the people of `sessions`, with their own bones and before their own cameras, make those movements. held_out:
    stretches that only say when to stop. keep: windows, as a bundle's, on which nothing may be lost: the weights that
    are taken lie between the base's and the best ones, as far from the base as that allows. work: a file that an
    interrupted adaptation goes on from; it is the caller's to remove, and to give for the same arguments only. Batch
    norm keeps the base's statistics. Where nothing beats the base on what is held out, `best_step` is 0 and the model
    is the base. The held-out error is MPJPE with the absolute root, mm. device: `cpu` or `cuda`; the model comes back
    on the CPU.
    """
    check_device(device)
    began = time.perf_counter()
    fed = fed_as(base.settings, settings)
    data = load_multiview(sessions, fed)
    lifted, pairs = hold_out(data, settings.held_out_views)
    watched = [(data.to(device), pairs.to(device))] if len(pairs) else []
    if held_out:
        watched.append(_all_pairs(load_multiview(held_out, fed).to(device)))
    lifted = lifted.to(device)
    examples = [(settings.batch, Examples(lifted, fed)), *_rehearsed(lifted, rehearse, fed, settings)]
    state = _begun(base, settings, work, device)
    anchor = [p.detach().clone() for p in base.model().to(device).parameters()]
    if not state.steps:
        state.steps = _affordable(state, examples, anchor, settings, began)
    every = max(1, state.steps // settings.checks)
    while state.step <= state.steps:
        if state.step % every == 0:
            if not state.curve or state.curve[-1][0] < state.step:
                _check(state, watched, told)
            if work is not None and state.step:
                _save(work, state)
            torch.manual_seed(settings.seed + state.step)  # what goes on draws what would have been drawn
        if state.step < state.steps:
            set_learning_rate(state.optimiser, fed, state.step / state.steps)
            _step(state, examples, anchor, settings)
        state.step += 1
    best = state.best if watched else state.model
    best_step = min(state.curve, key=lambda point: point[1])[0] if watched else state.steps
    model, share = best, 1.0
    if keep is not None:
        model, share = _between(base.model().to(device), best, watched, keep, fed.input.skeleton.root)
    return Adapted(model.cpu(), tuple(state.curve), best_step, state.steps, share)


def _between(
    base: Lifter, best: Lifter, watched: Watched, keep: Mapping[str, NDArray[np.float32]], root: int
) -> tuple[Lifter, float]:
    """Average the weights of base and best (Wortsman et al. 2022) for the least held-out error that loses nothing.

    Where every share loses something, the smallest is returned: the gate has the last word.
    """
    before, found = _kept_mm(base, keep, root), []
    if not math.isfinite(before):  # nobody knows the poses of what is to be kept
        return best, 1.0
    for share in SHARES:
        model = _averaged(base, best, share)
        if _kept_mm(model, keep, root) <= before:
            found.append((_held_out_mm(model, watched), -share, model))
    if not found:
        return _averaged(base, best, SHARES[-1]), SHARES[-1]
    _, share, model = min(found, key=lambda row: row[:2])
    return model, -share


def _averaged(base: Lifter, best: Lifter, share: float) -> Lifter:
    model, own = copy.deepcopy(base), best.state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(own[name], share)
    return model


def _kept_mm(model: Lifter, keep: Mapping[str, NDArray[np.float32]], root: int) -> float:
    device = next(model.parameters()).device
    with torch.inference_mode():
        fed = (torch.from_numpy(keep[name]).to(device) for name in ("keypoints", "intrinsics"))
        poses = model(*fed).cpu().numpy()
    return mixed_mpjpe(poses.astype(np.float64), keep["poses"].astype(np.float64), root)


def fed_as(base: TrainSettings, settings: AdaptSettings) -> TrainSettings:
    """How the base's training settings change for its adaptation. FP32: bfloat16 is many times slower on most CPUs."""
    return replace(
        base, supervision="views", loss="teacher", virtual_views=settings.virtual_views, batch=settings.batch,
        learning_rate=settings.learning_rate, schedule="cosine", precision="fp32",
    )  # fmt: skip


def _begun(base: Checkpoint, settings: AdaptSettings, work: Path | None, device: str) -> Adapting:
    def new() -> Adapting:
        model = base.model().to(device)
        optimiser = torch.optim.Adam(model.parameters(), fused=True)
        return Adapting(model, copy.deepcopy(model), optimiser, 0 if settings.seconds else settings.steps)

    state = new()
    if work is not None and work.is_file():
        try:
            _load(work, state)
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError):  # cut short, or another version's
            return new()
    return state


def _save(path: Path, state: Adapting) -> None:
    """Write what an interrupted adaptation goes on from, complete or not at all."""
    tensors = {f"best.{k}": v.detach().contiguous() for k, v in state.best.state_dict().items()}
    header = {"steps": state.steps, "step": state.step, "curve": state.curve}
    with replaced_durably(path) as temporary:
        tensors |= named_tensors(state.model, state.optimiser)
        temporary.write_bytes(save(tensors, {"adapting": json.dumps(header)}))


def _load(path: Path, state: Adapting) -> None:
    """Put an interrupted adaptation's state back."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["adapting"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    curve = [(int(step), float(error)) for step, error in header["curve"]]
    state.model.load_state_dict(under(tensors, "model."))
    state.best.load_state_dict(under(tensors, "best."))
    restore(state.optimiser, tensors)
    state.steps, state.step, state.curve = int(header["steps"]), int(header["step"]), curve


def _rehearsed(lifted: MultiView, rehearse: Sequence[Session], fed: TrainSettings, settings: AdaptSettings) -> Batches:
    """What is rehearsed, as it was and as the person's own movements."""
    if not rehearse:
        return []
    taught = all(s.poses is not None and s.poses_source == "triangulation" for s in rehearse)  # by a teacher, once
    known = load_multiview(rehearse, replace(fed, supervision="poses") if taught else fed)
    known = known.to(str(lifted.keypoints.device))
    parts = [
        (round(settings.rehearsed * settings.batch), Examples(known, fed)),
        (round(settings.lent * settings.batch), Examples(lifted, replace(fed, virtual_views=1.0), known)),
    ]
    return [(frames, examples) for frames, examples in parts if frames]


def _affordable(state: Adapting, examples: Batches, anchor: list[Tensor], settings: AdaptSettings, began: float) -> int:
    """How many steps fit into the seconds that began then: some are timed on a copy, and forgotten."""
    assert settings.seconds is not None
    trial = replace(state, model=copy.deepcopy(state.model))
    trial.optimiser = torch.optim.Adam(trial.model.parameters(), lr=0.0, fused=True)
    _step(trial, examples, anchor, settings)
    started = _now(anchor[0].device)
    for _ in range(PROBED):
        _step(trial, examples, anchor, settings)
    now = _now(anchor[0].device)
    left = settings.seconds - (now - began)
    return min(settings.steps, max(LEAST_STEPS, int(left / (now - started) * PROBED)))


def _now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _check(state: Adapting, watched: Watched, told: Told) -> None:
    if not watched:
        told(state.step, state.steps, None)
        return
    error = _held_out_mm(state.model, watched)
    state.curve.append((state.step, error))
    if error <= min(known for _, known in state.curve):
        state.best = copy.deepcopy(state.model)
    told(state.step, state.steps, error)


def _held_out_mm(model: Lifter, watched: Watched) -> float:
    return sum(_error_mm(model, data, pairs) for data, pairs in watched) / max(1, len(watched))


def _step(state: Adapting, examples: Batches, anchor: list[Tensor], settings: AdaptSettings) -> None:
    losses = [_loss(state.model, e, frames) * (frames / settings.batch) for frames, e in examples]
    state.optimiser.zero_grad(set_to_none=True)
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    if settings.anchor:
        with torch.no_grad():
            torch._foreach_lerp_(list(state.model.parameters()), anchor, settings.anchor)


def _loss(model: Lifter, examples: Examples, frames: int) -> Tensor:
    return examples.loss(model, torch.randint(len(examples.data), (frames,)).to(examples.device))


def hold_out(data: MultiView, views: int) -> tuple[MultiView, Tensor]:
    """Data in which the last views of every session of three or more show nobody; their (row, view) pairs (n, 2).

    Of the taught rows. A session that would keep fewer than two views holds none out.
    """
    sessions = torch.zeros(len(data.people), data.keypoints.shape[1], dtype=torch.bool)
    shown = (data.keypoints[..., 2] > 0).any(-1)
    for number in range(len(sessions)):
        real = shown[data.session == number].any(0).nonzero()[:, 0]  # padded views show nobody, ever
        if views and len(real) - views >= 2:
            sessions[number, real[-views:]] = True
    out = sessions[data.session]
    keypoints = torch.where(out[..., None, None], 0.0, data.keypoints)
    taught = torch.zeros(len(shown), dtype=torch.bool).index_fill(0, data.taught, True)
    return replace(data, keypoints=keypoints), (shown & out & taught[:, None]).nonzero()


def _all_pairs(data: MultiView) -> tuple[MultiView, Tensor]:
    shown = (data.keypoints[..., 2] > 0).any(-1)
    taught = torch.zeros_like(shown[:, 0]).index_fill(0, data.taught, True)
    return data, (shown & taught[:, None]).nonzero()


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
