"""From a finished run to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from edgelift.export.bundles import Reference, export_bundle
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import load_arrays
from edgelift.runtime.bundle import REFERENCE, REPLAY, WATCH, WEIGHTS, Bundle, load_bundle
from edgelift.trainer.checkpoint import Checkpoint, load_checkpoint
from edgelift.trainer.settings import TrainSettings


def export_run(run: Path, path: Path) -> Bundle:
    """Export a run's lifter to a bundle at `path`."""
    checkpoint = load_checkpoint(run)
    folder = run if run.is_dir() else run.parent
    if not (folder / REFERENCE).is_file():
        raise EdgeliftError(str(folder), f"no {REFERENCE}", "a run of `edgelift train`", "Train again.")
    arrays = load_arrays(folder / REFERENCE)
    reference = Reference(*(np.asarray(arrays[k], np.float32) for k in ("keypoints", "intrinsics", "poses")))
    training = {
        "settings": checkpoint.settings.to_dict(),
        "facts": checkpoint.facts,
        "reference_held_out": bool(arrays["held_out"]),
    }
    kept = [folder / name for name in (WATCH, REPLAY)]  # runs of earlier versions have none
    return export_bundle(checkpoint.model(), path, checkpoint.settings.input, reference, training, kept)


def checkpoint_of(bundle: Bundle) -> Checkpoint:
    """Return a bundle's lifter as something to train on; EdgeliftError where it was not made by `edgelift train`."""
    training = bundle.manifest["training"]
    try:
        settings = TrainSettings(**training["settings"])
    except (KeyError, TypeError) as error:
        raise EdgeliftError(
            f"bundle {bundle.path}", "no training settings of this version", "a bundle of `edgelift export`",
            "Export its run again.",
        ) from error  # fmt: skip
    tensors = {f"model.{name}": tensor for name, tensor in load_file(bundle.path / WEIGHTS).items()}
    return Checkpoint(settings, dict(training.get("facts", {})), tensors)


def bundle_of(run: Path, path: Path) -> Bundle:
    """Export a run to `path`, or open the bundle there if it is of this run's lifter; EdgeliftError if of another's."""
    if not path.exists():
        return export_run(run, path)
    bundle = load_bundle(path)
    own, there = load_checkpoint(run).model().state_dict(), load_file(bundle.path / WEIGHTS)
    if own.keys() != there.keys() or not all(torch.equal(own[name], there[name]) for name in own):
        raise EdgeliftError(str(path), f"another lifter than {run}'s", "a bundle of this run", "Choose another -o.")
    return bundle
