"""What a training run was asked for; saved with everything it writes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import skeleton
from edgelift.poses.windows import CameraInput, LifterInput

Supervision = Literal["views", "poses"]
Model = Literal["frame"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run; EdgeliftError names the flag that does not fit."""

    skeleton: str = "common14"
    """Skeleton of the lifter; sessions are converted to it."""
    supervision: Supervision = "views"
    """`views`: the other cameras' keypoints, no 3D label. `poses`: the sessions' true poses, for comparison."""
    model: Model = "frame"
    camera_input: CameraInput = "rays"
    """`rays`: true intrinsics at run time. `screen`: f = width / 2, for cameras whose intrinsics nobody knows."""
    width: int = 1024
    blocks: int = 2
    epochs: int = 40
    batch: int = 256
    """Multi-view frames a step."""
    learning_rate: float = 1e-3
    dropout: float = 0.1
    dropout_until: float = 0.5
    """Fraction of the run after which dropout is off."""
    root_weight: float = 0.2
    """Weight of the root's error beside the mean error of the other joints relative to it."""
    seed: int = 0

    def __post_init__(self) -> None:
        skeleton(self.skeleton)
        for flag, value, ok, expected in (
            ("--supervision", self.supervision, self.supervision in ("views", "poses"), "views or poses"),
            ("--model", self.model, self.model == "frame", "frame"),
            ("--camera-input", self.camera_input, self.camera_input in ("rays", "screen"), "rays or screen"),
            ("--width", self.width, self.width >= 8, "at least 8"),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--batch", self.batch, self.batch >= 2, "at least 2 (batch norm needs two)"),
            ("--seed", self.seed, self.seed >= 0, "0 or more"),
            ("--learning-rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a positive number"),
            ("--dropout", self.dropout, 0 <= self.dropout < 1, "from 0 up to, not including, 1"),
        ):
            if not ok:
                raise EdgeliftError(flag, str(value), expected, "See `edgelift train --help`.")

    @property
    def input(self) -> LifterInput:
        """What the lifter will be fed."""
        return LifterInput(skeleton(self.skeleton), self.camera_input)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
