"""From a finished run to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgelift.export.bundles import Reference, export_bundle
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import load_arrays
from edgelift.runtime.bundle import Bundle
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.reference import REFERENCE


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
    return export_bundle(checkpoint.model(), path, checkpoint.settings.input, reference, training)
