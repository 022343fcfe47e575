"""Lifters as PyTorch modules, all on one graph contract.

forward(keypoints (batch, frames, joints, 3) float32 undistorted pixels and confidence,
intrinsics (batch, 4) fx fy cx cy) -> poses (batch, joints, 3) metres in the camera's frame, root not removed.
Confidence not > 0 is missing, whatever x, y hold (NaN too): output and gradients are then bit-equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgelift.poses.skeletons import skeleton
from edgelift.trainer.settings import TrainSettings

START_DEPTH_M = 4.0  # where an untrained lifter puts people: saves the first epoch from crossing a room


class Residual(nn.Module):
    """Two of (linear, batch norm, ReLU, dropout) beside an identity (Martinez et al. 2017, as the report used it)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_dense(width, width, dropout), *_dense(width, width, dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) to (n, width)."""
        y: Tensor = self.layers(x)
        return x + y


def _dense(inputs: int, width: int, dropout: float) -> tuple[nn.Module, ...]:
    # batch norm directly behind the linear layer: the exporter can only fold it there
    return nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)


class FrameLifter(nn.Module):
    """One frame in, one pose out: residual blocks over normalised keypoints and their visibility."""

    others: Tensor

    def __init__(self, joints: int, root: int, width: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.joints, self.root = joints, root
        self.trunk = nn.Sequential(
            *_dense(3 * joints, width, dropout), *(Residual(width, dropout) for _ in range(blocks))
        )
        self.head = nn.Linear(width, 3 * joints)
        others = torch.ones(1, joints, 1)
        others[0, root] = 0
        self.register_buffer("others", others, persistent=False)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[3 * root + 2] = START_DEPTH_M

    def forward(self, keypoints: Tensor, intrinsics: Tensor) -> Tensor:
        """Lift (batch, 1, joints, 3) and (batch, 4) to (batch, joints, 3) metres, camera frame."""
        rays, seen, centre = normalise(keypoints[:, -1], intrinsics)
        features = torch.cat([rays.flatten(1), seen.flatten(1)], 1)
        out: Tensor = self.head(self.trunk(features)).view(-1, self.joints, 3)
        return place(out, centre, self.root, self.others)


def normalise(keypoints: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise (batch, joints, 3): rays (batch, joints, 2), visibility (batch, joints, 1), centroid (batch, 1, 2).

    Selects before it calculates, so a NaN in a missing joint reaches neither output nor gradient. A missing joint
    stands at the centroid of the visible ones.
    """
    visible = keypoints[..., 2:] > 0
    focal, centre = intrinsics[:, None, :2], intrinsics[:, None, 2:]
    rays = (torch.where(visible, keypoints[..., :2], centre) - centre) / focal
    seen = visible.to(rays.dtype)
    centroid = rays.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
    return torch.where(visible, rays, centroid), seen, centroid


def place(out: Tensor, centroid: Tensor, root: int, others: Tensor) -> Tensor:
    """Un-root: the root lies at its depth on the centroid's ray plus an offset, the other joints relative to it."""
    own = out[:, root : root + 1]
    depth = own[..., 2:]
    position = own + torch.cat([centroid * depth, torch.zeros_like(depth)], -1)
    return out * others + position


def build_model(settings: TrainSettings) -> FrameLifter:
    """Return an untrained lifter for the settings."""
    s = skeleton(settings.skeleton)
    return FrameLifter(len(s.joints), s.root, settings.width, settings.blocks, settings.dropout)
