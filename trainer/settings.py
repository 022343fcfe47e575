"""What a training run was asked for; saved with everything it writes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.skeletons import skeleton
from edgelift.poses.windows import CameraInput, LifterInput

Supervision = Literal["views", "poses"]
Loss = Literal["teacher", "reprojection", "report"]
Model = Literal["frame", "tcn", "transformer", "original"]
Trunk = Literal["dense", "parts"]
Precision = Literal["fp32", "bf16"]
LearnCameras = Literal["none", "extrinsics", "intrinsics", "all"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run; EdgeliftError names the flag that does not fit."""

    skeleton: str = "common14"
    """Skeleton of the lifter; sessions are converted to it."""
    supervision: Supervision = "views"
    """`views`: the other cameras' keypoints, no 3D label. `poses`: the sessions' true poses, for comparison."""
    loss: Loss = "teacher"
    """Of `views`. `teacher`: distance to the person reconstructed from all views. `reprojection`: distance to the rays
    of all views, in metres. `report`: reprojection and consistency in images of width 1."""
    virtual_views: float = 0.67
    """Fraction of the examples that are filmed anew: the teacher turned, mirrored and varied, with real noise."""
    camera_variation: float = 0.0
    """How much elsewhere virtual cameras stand. 0: exactly where the real ones do, the best for a site that keeps its
    cameras. 1: a decimetre or several, for lifters that meet cameras they were not trained on."""
    model: Model = "frame"
    """`original`: the report's frame model, for comparison."""
    trunk: Trunk = "parts"
    """`parts`: arms, legs and torso have streams of their own beside a small shared one, so that a new pose of known
    parts is no new input. `dense`: every unit sees every joint."""
    frames: int = 1
    """Frames of a window, 0.05 s apart; the last one is lifted. tcn: a power of 3. transformer: a multiple of 3."""
    camera_input: CameraInput = "rays"
    """`rays`: true intrinsics at run time. `screen`: f = width / 2, for cameras whose intrinsics nobody knows."""
    learn_cameras: LearnCameras = "none"
    """Which parameters of the sessions' cameras are corrected before training, from the people in them."""
    width: int = 1024
    blocks: int = 2
    epochs: int = 40
    batch: int = 256
    """Multi-view frames a step."""
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    dropout: float = 0.0
    dropout_until: float = 0.5
    """Fraction of the run after which dropout is off."""
    batch_norm_until: float = 1.0
    """Fraction of the run after which batch norm uses its running statistics and no longer changes them."""
    root_weight: float = 0.2
    """Weight of the root's error beside the mean error of the other joints relative to it."""
    precision: Precision = "fp32"
    """`bf16`: matrix products in bfloat16 (autocast); weights, losses and the optimiser stay in fp32."""
    seed: int = 0

    def __post_init__(self) -> None:
        skeleton(self.skeleton)
        self._check_choices()
        for flag, value, ok, expected in (
            ("--virtual-views", self.virtual_views, 0 <= self.virtual_views <= 1, "from 0 to 1"),
            ("--camera-variation", self.camera_variation, 0 <= self.camera_variation <= 3, "from 0 to 3"),
            (
                "--camera-variation",
                self.camera_variation,
                self.virtual_views > 0 or not self.camera_variation,
                "0 without virtual views",
            ),
            ("--frames", self.frames, self._frames_fit(), "1; tcn: 3, 9, 27, 81 or 243; transformer: 3, 6, 9, ..."),
            ("--width", self.width, self._width_fits(), "a multiple of 16; of 32 for transformer"),
            ("--epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("--batch", self.batch, self.batch >= 2, "at least 2 (batch norm needs two)"),
            ("--seed", self.seed, self.seed >= 0, "0 or more"),
            ("--learning-rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a positive number"),
            ("--dropout", self.dropout, 0 <= self.dropout < 1, "from 0 up to, not including, 1"),
            ("--virtual-views", self.virtual_views, self.targeted or not self.virtual_views, "0 with this --loss"),
        ):
            if not ok:
                raise EdgeliftError(flag, str(value), expected, "See `edgelift train --help`.")

    def _check_choices(self) -> None:
        for name, known in (
            ("supervision", get_args(Supervision)), ("loss", get_args(Loss)), ("model", get_args(Model)),
            ("trunk", get_args(Trunk)), ("camera_input", get_args(CameraInput)), ("precision", get_args(Precision)),
            ("learn_cameras", get_args(LearnCameras)),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in known:
                raise EdgeliftError(
                    f"--{name.replace('_', '-')}", str(value), " or ".join(known), "See `edgelift train --help`."
                )

    def _width_fits(self) -> bool:
        step = 32 if self.model == "transformer" else 16  # attention is half as wide, and its heads share it evenly
        return self.width >= step and self.width % step == 0

    def _frames_fit(self) -> bool:
        if self.model == "tcn":
            return self.frames in (3, 9, 27, 81, 243)
        if self.model == "transformer":
            return self.frames >= 3 and self.frames % 3 == 0
        return self.frames == 1

    @property
    def targeted(self) -> bool:
        """Whether the loss compares with 3D targets: labels, or the teacher's."""
        return self.supervision == "poses" or self.loss == "teacher"

    @property
    def input(self) -> LifterInput:
        """What the lifter will be fed."""
        return LifterInput(skeleton(self.skeleton), self.camera_input, self.frames)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
