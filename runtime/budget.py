"""What reduced precision does to poses, in millimetres, and how much of it is allowed.

The change of MPJPE alone hides damage: errors of both signs average out, and a joint that jumped by 132 mm passed a
limit of 0.5 mm. So displacement from the FP32 poses has limits too, at the 99th percentile and at the worst joint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.errors import EdgeliftError

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """Distance of joints from the FP32 graph's, and the change of the mean error; None where no truth is known."""

    mean_mm: float
    p99_mm: float
    worst_mm: float
    mpjpe_change_mm: float | None

    def __str__(self) -> str:
        against = "unknown (no truth)" if self.mpjpe_change_mm is None else f"{self.mpjpe_change_mm:+.3f} mm"
        return f"p99 {self.p99_mm:.3f} mm, worst {self.worst_mm:.3f} mm from FP32, MPJPE {against}"


@dataclass(frozen=True)
class Budget:
    """Limits of a Change: of the MPJPE's magnitude, of the 99th percentile, of the worst joint."""

    mpjpe_mm: float
    p99_mm: float
    worst_mm: float

    def share(self, change: Change) -> float:
        """Return the largest share of a limit that is used; above 1: refused."""
        worse = abs(change.mpjpe_change_mm or 0.0) / self.mpjpe_mm
        return max(worse, change.p99_mm / self.p99_mm, change.worst_mm / self.worst_mm)

    def __str__(self) -> str:
        return f"p99 at most {self.p99_mm} mm, worst {self.worst_mm} mm, MPJPE within {self.mpjpe_mm} mm"


BUDGETS = {
    "fp32": Budget(0.01, 0.05, 0.1),  # of an engine; the graph itself is held to 0.01 mm at the worst joint
    "fp16": Budget(0.1, 0.5, 1.0),
    "int8": Budget(0.5, 25.0, 50.0),
    "fp8": Budget(0.5, 25.0, 50.0),
}


def budget_of(precision: str, mpjpe_mm: float | None, p99_mm: float | None, worst_mm: float | None) -> Budget:
    """Return a precision's budget with the limits that were given in place of its own."""
    given = {"mpjpe_mm": mpjpe_mm, "p99_mm": p99_mm, "worst_mm": worst_mm}
    return replace(BUDGETS[precision], **{k: v for k, v in given.items() if v is not None})


def change(before: Float32, after: Float32, truth: Float32) -> Change:
    """Compare poses (n, joints, 3), metres, with those of FP32; truth likewise, NaN where nobody knows it."""
    if not np.isfinite(after).all():
        raise EdgeliftError("reduced precision", "poses that are not finite", "metres", "Use a higher precision.")
    moved = 1000 * np.linalg.norm(after - before, axis=-1)
    errors = [1000 * np.linalg.norm(poses - truth, axis=-1) for poses in (before, after)]
    known = np.isfinite(errors[0])
    worse = float(errors[1][known].mean() - errors[0][known].mean()) if known.any() else None
    return Change(float(moved.mean()), float(np.percentile(moved, 99)), float(moved.max()), worse)


def enforce(precision: str, change: Change, budget: Budget, force: bool) -> bool:
    """Refuse what is over its budget; return whether force kept it."""
    within = budget.share(change) <= 1
    if not within and not force:
        raise EdgeliftError(
            f"precision {precision}", str(change), str(budget),
            "Use a higher precision, calibrate on other keypoints, or keep it all the same with --force.",
        )  # fmt: skip
    return not within


def facts(change: Change, budget: Budget, forced: bool) -> dict[str, object]:
    """Return what a sidecar tells of a change."""
    return {"graph_parity": asdict(change), "budget": asdict(budget), "forced": forced}
