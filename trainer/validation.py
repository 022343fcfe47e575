"""A lifter that is still a PyTorch module, scored by the same evaluation as a deployed one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgelift.poses.sessions import Session
from edgelift.runtime.evaluate import Lift, evaluate
from edgelift.trainer.models import Lifter
from edgelift.trainer.settings import TrainSettings


def module_lift(model: Lifter, batch: int = 1024) -> Lift:
    """Return a PyTorch lifter as a function of numpy arrays, executed where its weights are."""
    device = model.head.weight.device

    def lift(windows: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            keypoints, cameras = torch.from_numpy(windows).to(device), torch.from_numpy(intrinsics).to(device)
            starts = range(0, len(windows), batch)
            parts = [model(keypoints[i : i + batch], cameras[i : i + batch]) for i in starts]
        out: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return out

    return lift


def validation_mpjpe(model: Lifter, sessions: Sequence[Session], settings: TrainSettings) -> float:
    """MPJPE in mm over the sessions' truth, or their triangulation (`reference_kind` says which)."""
    return float(evaluate(module_lift(model), sessions, settings.input)["mpjpe_mm"])
