"""Lifters as PyTorch modules, all on one graph contract.

forward(keypoints (batch, frames, joints, 3) float32 undistorted pixels and confidence,
intrinsics (batch, 4) fx fy cx cy) -> poses (batch, joints, 3) metres in the camera's frame, root not removed.
The last frame is the one lifted. Confidence not > 0 is missing, whatever x, y hold (NaN too): output and gradients are
then bit-equal. Linear layers see 2-D tensors, so that the exported initializers carry the parameters' names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgelift.poses.skeletons import Skeleton, skeleton
from edgelift.trainer.parallel import BatchNorm
from edgelift.trainer.parts import SHARED, linear
from edgelift.trainer.settings import TrainSettings

START_DEPTH_M = 4.0  # where an untrained lifter puts people: saves the first epoch from crossing a room
MASKED = -1e4  # added to attention scores of empty tokens; -inf would make a window without any frame NaN
PART_SHARE, SHARED_SHARE = 4, 16  # of a `parts` trunk: each part has width / 4 units, all of them share width / 16


def start_in_front(head: nn.Linear, root: int) -> None:
    """Let the root (its x, y, z among the outputs) start at START_DEPTH_M."""
    with torch.no_grad():
        head.bias[3 * root + 2] = START_DEPTH_M


class Layout:
    """Which part of the body every joint and every unit belongs to.

    Units of a part listen to their part and to the shared ones, shared ones to all (split and recombine; Zeng et al.
    2020). In a dense trunk everything is shared.
    """

    def __init__(self, skeleton: Skeleton, width: int, parts: bool) -> None:
        self.root = skeleton.root
        names = sorted(set(skeleton.parts))
        self.joints = torch.tensor([names.index(part) if parts else SHARED for part in skeleton.parts])
        self.units = torch.full((width,), SHARED)
        if parts:
            own = torch.arange(len(names)).repeat_interleave(width // PART_SHARE)
            self.units = torch.cat([own, torch.full((width // SHARED_SHARE,), SHARED)])
        self.width = len(self.units)

    def inputs(self, shared: int) -> Tensor:
        """Parts of a frame's features: two coordinates and a visibility a joint, then what is shared."""
        return torch.cat([self.joints.repeat_interleave(2), self.joints, torch.full((shared,), SHARED)])

    def outputs(self) -> Tensor:
        """Parts of the poses' coordinates; the root is the whole body's."""
        parts = self.joints.clone()
        parts[self.root] = SHARED
        return parts.repeat_interleave(3)


def dense(sources: Tensor, targets: Tensor, dropout: float) -> tuple[nn.Module, ...]:
    """Linear, batch norm, ReLU, dropout; batch norm right behind the linear layer, where the exporter can fold it."""
    return linear(sources, targets), BatchNorm(len(targets)), nn.ReLU(), nn.Dropout(dropout)


class Lifter(nn.Module):
    """What all lifters share: features of every frame in, a root on the centroid's ray and joints around it out."""

    others: Tensor

    def __init__(self, layout: Layout, frames: int) -> None:
        super().__init__()
        self.joints, self.root, self.frames = len(layout.joints), layout.root, frames
        shared = 2 if frames == 1 else 4
        self.features = layout.inputs(shared)
        self.flags = torch.tensor([0] * 2 * self.joints + [1] * self.joints + [0] * shared, dtype=torch.bool)
        self.head = linear(layout.units, layout.outputs())
        others = torch.ones(1, self.joints, 1)
        others[0, self.root] = 0
        self.register_buffer("others", others, persistent=False)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
        start_in_front(self.head, self.root)

    def forward(self, keypoints: Tensor, intrinsics: Tensor) -> Tensor:
        """Lift (batch, frames, joints, 3) and (batch, 4) to (batch, joints, 3) metres, camera frame."""
        rays, seen, centroid = normalise(keypoints, intrinsics)
        features = [(rays - centroid).flatten(2), seen.flatten(2), centroid.flatten(2)]
        if self.frames > 1:
            features.append((centroid - centroid[:, -1:]).flatten(2))
        encoded = self.encode(torch.cat(features, 2).flatten(0, 1), seen)
        return place(self.answer(encoded).view(-1, self.joints, 3), centroid[:, -1], self.root, self.others)

    def answer(self, encoded: Tensor) -> Tensor:
        """(batch, units) to (batch, 3 * joints) metres, never in bfloat16: at 5 m its step is 3 cm."""
        if not torch.is_autocast_enabled(encoded.device.type):
            out: Tensor = self.head(encoded)
            return out
        with torch.autocast(encoded.device.type, enabled=False):
            out = self.head(encoded.float())
            return out

    def deaf_to_flags(self, first: nn.Module, frames: int = 1) -> None:
        """Let a layer that hears the features of so many frames, and then anything else, start deaf to visibility.

        A flag that never changes in training has no gradient: whatever weight it starts with stays, and batch norm has
        made it large by the day the flag changes (a joint that no training view shows: 20-fold error).
        """
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            flags = self.flags.repeat(frames)
            first.weight[:, : len(flags)][:, flags] = 0

    def encode(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (batch * frames, n) and visibility (batch, frames, joints, 1) to (batch, units)."""
        raise NotImplementedError


class Residual(nn.Module):
    """Two of (linear, batch norm, ReLU, dropout) beside an identity (Martinez et al. 2017, as the report used it)."""

    def __init__(self, units: Tensor, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*dense(units, units, dropout), *dense(units, units, dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(n, units) to (n, units)."""
        y: Tensor = self.layers(x)
        return x + y


class FrameLifter(Lifter):
    """One frame in, one pose out: residual blocks over normalised keypoints and their visibility."""

    def __init__(self, layout: Layout, blocks: int, dropout: float) -> None:
        super().__init__(layout, 1)
        residuals = (Residual(layout.units, dropout) for _ in range(blocks))
        self.trunk = nn.Sequential(*dense(self.features, layout.units, dropout), *residuals)
        self.deaf_to_flags(self.trunk[0])

    def encode(self, x: Tensor, seen: Tensor) -> Tensor:
        """See Lifter."""
        y: Tensor = self.trunk(x)
        return y


class OriginalLifter(Lifter):
    """The report's frame model: no visibility, the root's position as it comes, PyTorch's own first weights.

    But for the depth it starts at: from 0 m the report's loss, which is clamped, does not find the people (cmu17).
    """

    def __init__(self, layout: Layout, blocks: int, dropout: float) -> None:
        super().__init__(layout, 1)
        residuals = (Residual(layout.units, dropout) for _ in range(blocks))
        self.trunk = nn.Sequential(*dense(layout.inputs(0)[: 2 * self.joints], layout.units, dropout), *residuals)
        self.head = nn.Linear(layout.width, 3 * self.joints)
        start_in_front(self.head, self.root)

    def forward(self, keypoints: Tensor, intrinsics: Tensor) -> Tensor:
        """See Lifter."""
        rays, _, _ = normalise(keypoints, intrinsics)
        out = self.answer(self.trunk(rays[:, -1].flatten(1))).view(-1, self.joints, 3)
        poses: Tensor = out * self.others + out[:, self.root : self.root + 1]
        return poses


class Fold(nn.Module):
    """Three neighbours to one: a convolution of kernel and stride 3 beside the newest of the three.

    Strides and dilations are the same where only the last frame's output is wanted (Pavllo et al. 2019, 3.2).
    """

    def __init__(self, units: Tensor, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*dense(units.repeat(3), units, dropout), *dense(units, units, dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(3 n, units) to (n, units)."""
        triples = x.view(-1, 3, x.shape[-1])
        y: Tensor = self.layers(triples.flatten(1))
        return triples[:, -1] + y


class SequenceLifter(Lifter):
    """A frame lifter that also hears what came before.

    What came before is worked out for every frame, so that is narrower than what works on the newest one alone.
    """

    trunk: nn.Sequential

    def encode(self, x: Tensor, seen: Tensor) -> Tensor:
        """See Lifter."""
        newest = _newest(x, self.frames)
        y: Tensor = self.trunk(torch.cat([newest, self.before(x, seen)], 1))
        return y

    def before(self, x: Tensor, seen: Tensor) -> Tensor:
        """Features (batch * frames, n) and visibility (batch, frames, joints, 1) to (batch, narrow units)."""
        raise NotImplementedError

    def end_with(self, layout: Layout, narrow: Layout, blocks: int, dropout: float) -> None:
        """Make the trunk: a frame lifter's, over the newest frame's features and what `before` makes of all."""
        residuals = (Residual(layout.units, dropout) for _ in range(blocks))
        heard = torch.cat([self.features, narrow.units])
        self.trunk = nn.Sequential(*dense(heard, layout.units, dropout), *residuals)
        self.deaf_to_flags(self.trunk[0])


class TemporalConvolution(SequenceLifter):
    """A window of 3^n frames, folded three to one until one is left."""

    def __init__(self, layout: Layout, narrow: Layout, blocks: int, dropout: float, frames: int) -> None:
        super().__init__(layout, frames)
        folds = 0
        while 3 ** (folds + 2) <= frames:
            folds += 1
        self.enter = nn.Sequential(*dense(self.features.repeat(3), narrow.units, dropout))
        self.deaf_to_flags(self.enter[0], 3)
        self.folds = nn.Sequential(*(Fold(narrow.units, dropout) for _ in range(folds)))
        self.end_with(layout, narrow, blocks, dropout)

    def before(self, x: Tensor, seen: Tensor) -> Tensor:
        """See SequenceLifter."""
        y: Tensor = self.folds(self.enter(x.view(-1, 3 * x.shape[-1])))
        return y


class Attention(nn.Module):
    """A pre-norm transformer layer over the tokens of a window; every linear layer sees (batch * tokens, units).

    A head lies within one part, so that parts attend on their own.
    """

    def __init__(self, units: Tensor, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(len(units)), nn.LayerNorm(len(units))
        self.query, self.key, self.value, self.merge = (linear(units, units) for _ in range(4))
        wide = units.repeat_interleave(2)
        self.think = nn.Sequential(linear(units, wide), nn.GELU(), nn.Dropout(dropout), linear(wide, units))

    def forward(self, x: Tensor, bias: Tensor, last_only: bool) -> Tensor:
        """x (batch * tokens, units), bias (batch, 1, 1, tokens) added to scores; last_only: (batch, units)."""
        batch, tokens = bias.shape[0], bias.shape[3]
        normed = self.before(x)
        asking, slots = (_newest(normed, tokens), 1) if last_only else (normed, tokens)
        query = self._split(self.query(asking), slots)
        key, value = (self._split(layer(normed), tokens) for layer in (self.key, self.value))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch * slots, -1)
        x = (_newest(x, tokens) if last_only else x) + self.merge(mixed)
        y: Tensor = x + self.think(self.between(x))
        return y

    def _split(self, x: Tensor, slots: int) -> Tensor:
        return x.view(-1, slots, self.heads, x.shape[-1] // self.heads).transpose(1, 2)


def _newest(x: Tensor, frames: int) -> Tensor:
    return x.view(-1, frames, x.shape[-1])[:, -1]


class Transformer(SequenceLifter):
    """Attention over a window's tokens, three frames each; the last layer asks for the newest token alone.

    Positions are a learned table, newest token last: the window's grid is regular, so a slot is a moment.
    """

    def __init__(self, layout: Layout, narrow: Layout, blocks: int, dropout: float, frames: int, head: int) -> None:
        super().__init__(layout, frames)
        self.tokens = frames // 3
        self.enter = linear(self.features.repeat(3), narrow.units)
        self.deaf_to_flags(self.enter, 3)
        self.positions = nn.Parameter(torch.randn(1, self.tokens, narrow.width) * 0.02)
        heads = narrow.width // head
        self.layers = nn.ModuleList(Attention(narrow.units, heads, dropout) for _ in range(blocks))
        self.leave = nn.LayerNorm(narrow.width)
        self.end_with(layout, narrow, blocks, dropout)

    def before(self, x: Tensor, seen: Tensor) -> Tensor:
        """See SequenceLifter."""
        empty = (seen.view(-1, self.tokens, 3 * self.joints).sum(2) == 0).to(x.dtype)
        bias = (empty * MASKED)[:, None, None]
        entered = self.enter(x.view(-1, 3 * x.shape[-1]))
        y = (entered.view(-1, self.tokens, self.positions.shape[2]) + self.positions).flatten(0, 1)
        for number, layer in enumerate(self.layers):
            y = layer(y, bias, number == len(self.layers) - 1)
        out: Tensor = self.leave(y)
        return out


def normalise(keypoints: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise (batch, frames, joints, 3): rays (..., joints, 2), visibility (..., joints, 1), centroid (..., 1, 2).

    Selects before it calculates, so a NaN in a missing joint reaches neither output nor gradient. A missing joint
    stands at the centroid of its frame's visible ones.
    """
    visible = keypoints[..., 2:] > 0
    focal, centre = intrinsics[:, None, None, :2], intrinsics[:, None, None, 2:]
    rays = (torch.where(visible, keypoints[..., :2], centre) - centre) / focal
    seen = visible.to(rays.dtype)
    centroid = rays.sum(2, keepdim=True) / seen.sum(2, keepdim=True).clamp(min=1)
    return torch.where(visible, rays, centroid), seen, centroid


def place(out: Tensor, centroid: Tensor, root: int, others: Tensor) -> Tensor:
    """Un-root: the root lies at its depth on the centroid's ray plus an offset, the other joints relative to it."""
    own = out[:, root : root + 1]
    depth = own[..., 2:]
    position = own + torch.cat([centroid * depth, torch.zeros_like(depth)], -1)
    return out * others + position


def build_model(settings: TrainSettings) -> Lifter:
    """Return an untrained lifter for the settings."""
    owner, parts = skeleton(settings.skeleton), settings.trunk == "parts"
    layout, narrow = (Layout(owner, width, parts) for width in (settings.width, settings.width // 2))
    rest = settings.blocks, settings.dropout
    if settings.model == "tcn":
        return TemporalConvolution(layout, narrow, *rest, settings.frames)
    if settings.model == "transformer":
        return Transformer(layout, narrow, *rest, settings.frames, settings.width // 2 // SHARED_SHARE)
    return (OriginalLifter if settings.model == "original" else FrameLifter)(layout, *rest)
