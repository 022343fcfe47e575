"""From a finished run to a bundle, and from a bundle's graph back to a function the evaluation can call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelift.export.bundles import Reference, export_bundle
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import load_arrays
from edgelift.poses.skeletons import skeleton
from edgelift.runtime.backends import Backend
from edgelift.runtime.bundle import Bundle
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.evaluate import Lift
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
    settings = checkpoint.settings
    return export_bundle(
        checkpoint.model(), path, skeleton(settings.skeleton), settings.camera_input, reference, training
    )


def backend_lift(backend: Backend, batch: int = 256) -> Lift:
    """Return a runtime backend as the evaluation's function of arrays."""

    def lift(windows: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
        starts = range(0, len(windows), batch)
        return np.concatenate([backend(windows[i : i + batch], intrinsics[i : i + batch]) for i in starts])

    return lift
