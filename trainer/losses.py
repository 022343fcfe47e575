"""Losses. Those of edgelift are in metres and weigh the root's position and the pose around it apart.

Root and pose differ tenfold in size (depth of one view is barely known), so a joint loss on absolute joints spends the
network on the root and leaves the pose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgelift.trainer.data import Batch
from edgelift.trainer.parallel import total

TINY_WEIGHT = 1e-6
TINY_M2 = 1e-10  # keeps the square root's gradient finite at zero; 10 micrometres
TINY_DEPTH_M = 1e-6
CLAMPED = 1.0  # the report's bound on x/z and y/z


def target_loss(poses: Tensor, target: Tensor, root: int, root_weight: float) -> Tensor:
    """Distance in metres: poses (n, joints, 3) from target (n, joints, 4), camera frame and weight."""
    return _root_and_pose(poses - target[..., :3], target[..., 3], root, root_weight)


def reprojection_loss(poses: Tensor, batch: Batch, root: int, root_weight: float) -> Tensor:
    """Label-free: the pose lifted from each view, moved into every view, against the keypoints seen there.

    poses (b, views, joints, 3) metres, each in its own camera's frame. A joint's residual is its distance in metres
    from the observed ray, at the joint's own depth: (x, y) - z * ray. That is reprojection error back-projected to the
    joint: linear in the pose, defined behind the camera too, and it weighs near and far people alike. All view pairs at
    once, weighted by the observing joint's confidence.
    """
    local = _in_every_view(poses, batch)
    residual = local[..., :2] - local[..., 2:] * batch.rays[:, None]
    weight = _seen_weight(batch)[:, None] * batch.present[:, :, None, None]
    return _root_and_pose(residual, weight, root, root_weight)


def report_loss(poses: Tensor, batch: Batch) -> Tensor:
    """The original report's: reprojection plus consistency, in images of width 1 (docs/report.md).

    Reprojection: mean distance of every projection from the keypoints of its view. Consistency: mean distance between
    the projections of different views' poses into the same view. x/z and y/z are clamped to [-1, 1], as in its code.
    """
    local = _in_every_view(poses, batch)
    depth = torch.where(local[..., 2:].abs() < TINY_DEPTH_M, TINY_DEPTH_M, local[..., 2:])  # 0 / 0 has no gradient
    points = (local[..., :2] / depth).clamp(-CLAMPED, CLAMPED)
    scale = batch.zoom[:, None, :, None, None]
    points, seen = points * scale, batch.rays[:, None] * scale
    weight = _seen_weight(batch)[:, None] * batch.present[:, :, None, None]
    reprojection = weighted_mean_length(points - seen, weight)
    first, second = torch.triu_indices(points.shape[1], points.shape[1], 1)
    pairs = torch.minimum(weight[:, first], weight[:, second])
    return reprojection + weighted_mean_length(points[:, first] - points[:, second], pairs)


def _in_every_view(poses: Tensor, batch: Batch) -> Tensor:
    """(b, from view, into view, joints, 3): poses (b, views, joints, 3), each in its camera's frame, in all frames."""
    world = camera_to_world(poses, batch)
    return torch.einsum("bvxy,bujy->buvjx", batch.R, world) + batch.t[:, None, :, None]


def _seen_weight(batch: Batch) -> Tensor:
    """(b, views, joints) confidence; 0 where one view alone sees a joint: its loss is least in the camera's centre."""
    confidence = batch.keypoints[:, :, -1, :, 2]
    return confidence * ((confidence > 0).sum(1, keepdim=True) >= 2)


def _root_and_pose(residual: Tensor, weight: Tensor, root: int, root_weight: float) -> Tensor:
    """Mean length of the root's residual times its weight, plus that of the others' relative to the root's.

    Where the root is not seen, the weighted mean of the joints that are stands in for it.
    """
    together = weight.sum(-1, keepdim=True).clamp(min=TINY_WEIGHT)
    mean = (residual * weight[..., None]).sum(-2, keepdim=True) / together[..., None]
    at_root, trust = residual[..., root : root + 1, :], weight[..., root : root + 1]
    anchor = torch.where(trust[..., None] > 0, at_root, mean)
    trust = torch.where(trust > 0, trust, weight.amax(-1, keepdim=True))
    pose = weighted_mean_length(residual - anchor, torch.minimum(weight, trust))
    return pose + root_weight * weighted_mean_length(anchor, trust)


def weighted_mean_length(vectors: Tensor, weight: Tensor) -> Tensor:
    """Mean length of vectors (..., d) with weights (...); of several processes, this one's part of the mean."""
    length = (vectors.square().sum(-1) + TINY_M2).sqrt()
    return (length * weight).sum() / total(weight.sum()).clamp(min=TINY_WEIGHT)


def camera_to_world(poses: Tensor, batch: Batch) -> Tensor:
    """(b, views, joints, 3) from each view's camera frame to the world."""
    return torch.einsum("bvxy,bvjx->bvjy", batch.R, poses - batch.t[:, :, None])
