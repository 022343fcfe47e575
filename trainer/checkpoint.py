"""Checkpoints: one safetensors file with weights, optimiser state and, in its header, what made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.files import replaced
from edgelift.trainer.models import Lifter, build_model
from edgelift.trainer.settings import TrainSettings

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds. facts: epoch, data fingerprint, versions, figures."""

    settings: TrainSettings
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def model(self) -> Lifter:
        """Return the lifter with these weights, in evaluation mode."""
        model = build_model(self.settings)
        model.load_state_dict(under(self.tensors, "model."))
        return model.eval()

    def restore(self, optimiser: torch.optim.Optimizer) -> None:
        """Put the optimiser's state back."""
        restore(optimiser, self.tensors)


def save_checkpoint(
    run: Path, model: nn.Module, optimiser: torch.optim.Optimizer, settings: TrainSettings, facts: dict[str, Any]
) -> Path:
    """Write RUN/checkpoint.safetensors, complete or not at all."""
    tensors = named_tensors(model, optimiser)
    path = run / CHECKPOINT
    with replaced(path) as temporary:
        header = {"settings": json.dumps(settings.to_dict()), "facts": json.dumps(facts)}
        temporary.write_bytes(save(tensors, header))  # to bytes: safetensors' own writing says little of a full disk
    return path


def load_checkpoint(run: Path) -> Checkpoint:
    """Read a run's checkpoint (RUN or the file itself); EdgeliftError when it is none."""
    path = run / CHECKPOINT if run.is_dir() else run
    if not path.is_file():
        raise EdgeliftError(str(run), f"no {CHECKPOINT}", "a training run", "Make one with `edgelift train`.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        settings = TrainSettings(**json.loads(header["settings"]))
        return Checkpoint(settings, json.loads(header["facts"]), tensors)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise EdgeliftError(str(path), f"an unreadable file ({error})", "a checkpoint", "Train again.") from error


def restore(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put an optimiser's state back."""
    state = optimiser.state_dict()
    state["state"] = {}
    for key, value in under(tensors, "optimiser.").items():
        number, _, name = key.partition(".")
        state["state"].setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(state)


def named_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return `model.*` and `optimiser.*`, as files hold them."""
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{k}": v.detach().contiguous() for k, v in state.items()}
    return tensors


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
