"""Losses in metres; each weighs the root's position and the pose around it apart.

Root and pose differ tenfold in size (depth of one view is barely known), so a joint loss on absolute joints spends the
network on the root and leaves the pose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgelift.trainer.data import Batch

TINY_WEIGHT = 1e-6
TINY_M2 = 1e-10  # keeps the square root's gradient finite at zero; 10 micrometres


def views_loss(poses: Tensor, batch: Batch, root: int, root_weight: float) -> Tensor:
    """Label-free: the pose lifted from each view, moved into every view, against the keypoints seen there.

    poses (b, views, joints, 3) metres, each in its own camera's frame. A joint's residual is its distance in metres
    from the observed ray, at the joint's own depth: (x, y) - z * ray. That is reprojection error back-projected to the
    joint: linear in the pose, defined behind the camera too, and it weighs near and far people alike. All view pairs at
    once, weighted by the observing joint's confidence.
    """
    world = camera_to_world(poses, batch)
    local = torch.einsum("bvxy,bujy->buvjx", batch.R, world) + batch.t[:, None, :, None]
    residual = local[..., :2] - local[..., 2:] * batch.rays[:, None]
    confidence = batch.keypoints[:, :, -1, :, 2]
    # what one view alone sees has no depth: its loss is least in the camera's centre
    shared = (confidence > 0).sum(1, keepdim=True) >= 2
    weight = (confidence * shared)[:, None] * batch.present[:, :, None, None]
    return _root_and_pose(residual, weight, root, root_weight)


def poses_loss(poses: Tensor, batch: Batch, root: int, root_weight: float) -> Tensor:
    """With labels: distance in metres from the true pose in each view's camera frame; NaN truth weighs nothing."""
    if batch.poses is None:
        raise ValueError("poses_loss needs a data set loaded with supervision 'poses'")
    known = ~batch.poses.isnan().any(-1)
    truth = torch.einsum("bvxy,bjy->bvjx", batch.R, batch.poses.nan_to_num()) + batch.t[:, :, None]
    weight = known[:, None] * batch.present[:, :, None].float()
    return _root_and_pose(poses - truth, weight, root, root_weight)


def _root_and_pose(residual: Tensor, weight: Tensor, root: int, root_weight: float) -> Tensor:
    """Mean length of the root's residual times its weight, plus that of the others' relative to the root's.

    Where the root is not seen, the weighted mean of the joints that are stands in for it.
    """
    total = weight.sum(-1, keepdim=True)
    mean = (residual * weight[..., None]).sum(-2, keepdim=True) / total.clamp(min=TINY_WEIGHT)[..., None]
    at_root, trust = residual[..., root : root + 1, :], weight[..., root : root + 1]
    anchor = torch.where(trust[..., None] > 0, at_root, mean)
    trust = torch.where(trust > 0, trust, weight.amax(-1, keepdim=True))
    pose = weighted_mean_length(residual - anchor, torch.minimum(weight, trust))
    return pose + root_weight * weighted_mean_length(anchor, trust)


def weighted_mean_length(vectors: Tensor, weight: Tensor) -> Tensor:
    """Mean length of vectors (..., d) with weights (...)."""
    length = (vectors.square().sum(-1) + TINY_M2).sqrt()
    return (length * weight).sum() / weight.sum().clamp(min=TINY_WEIGHT)


def camera_to_world(poses: Tensor, batch: Batch) -> Tensor:
    """(b, views, joints, 3) from each view's camera frame to the world."""
    return torch.einsum("bvxy,bvjx->bvjy", batch.R, poses - batch.t[:, :, None])
