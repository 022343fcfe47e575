"""Linear layers between units that belong to parts of the body: a part hears itself and what all share, no other part.

Stored, saved and exported as plain layers with zeros. Trained, where all parts are of one size, as one small product a
part: in a half to a third of the plain layer's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SHARED = -1  # the part of inputs and units that belong to the whole body


def linear(sources: Tensor, targets: Tensor) -> nn.Linear:
    """Return a linear layer from units of these parts (inputs,) to units of those (outputs,)."""
    heard = (sources == targets[:, None]) | (sources == SHARED) | (targets[:, None] == SHARED)
    if heard.all():
        return nn.Linear(len(sources), len(targets))
    return PartLinear(heard, Blocks.between(sources, targets))


class PartLinear(nn.Linear):
    """A linear layer whose weights between different parts are zero and stay it."""

    heard: Tensor

    def __init__(self, heard: Tensor, blocks: Blocks | None) -> None:
        super().__init__(heard.shape[1], heard.shape[0])
        self.blocks = blocks
        self.register_buffer("heard", heard.float(), persistent=False)
        with torch.no_grad():  # PyTorch's own spread for the number of inputs that are left
            self.weight.mul_(self.heard * (heard.shape[1] / heard.sum(1, keepdim=True)).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        if not torch.is_grad_enabled():
            return nn.functional.linear(x, self.weight, self.bias)
        if self.blocks is None:
            weight = _Masked.apply(self.weight, self.heard)  # type: ignore[no-untyped-call]
            return nn.functional.linear(x, weight, self.bias)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        y: Tensor = _BlockLinear.apply(x.to(dtype), self.weight, self.bias, self.blocks)  # type: ignore[no-untyped-call]
        return y


class _Masked(torch.autograd.Function):
    """A tensor as it is, whose gradient is multiplied by a mask."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0] * mask, None


@dataclass(frozen=True)
class Blocks:
    """Units in order: `parts` parts of `each` units, then `shared` ones. Inputs: the same, `repeats` times over."""

    repeats: int
    parts: int
    each: int
    shared: int

    @classmethod
    def between(cls, sources: Tensor, targets: Tensor) -> Blocks | None:
        """None where units are not in that order."""
        names = sorted(set(targets.tolist()) - {SHARED})
        shared = int((targets == SHARED).sum())
        each, rest = divmod(len(targets) - shared, max(len(names), 1))
        repeats = len(sources) // len(targets)
        ordered = torch.cat([torch.tensor(names).repeat_interleave(each), torch.full((shared,), SHARED)])
        if rest or not torch.equal(targets, ordered) or not torch.equal(sources, targets.repeat(repeats)):
            return None
        return cls(repeats, len(names), each, shared)

    @property
    def own(self) -> int:
        """Units that are not shared."""
        return self.parts * self.each

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views of (n, inputs): each part's own (parts, n, repeats, each), and the shared (n, repeats, shared)."""
        x = x.view(len(x), self.repeats, self.own + self.shared)
        return self._by_part(x).permute(2, 0, 1, 3), x[..., self.own :]

    def weights(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Views of (outputs, inputs), of each part's outputs: (parts, each, repeats, each) and (..., shared)."""
        rows = weight[: self.own].view(self.parts, self.each, self.repeats, -1)
        return self._by_part(rows).diagonal(dim1=0, dim2=3).permute(3, 0, 1, 2), rows[..., self.own :]

    def outputs(self, y: Tensor) -> Tensor:
        """View of (n, outputs): each part's own (parts, n, each)."""
        return self._by_part(y).transpose(0, 1)

    def _by_part(self, units: Tensor) -> Tensor:
        """(..., units) to (..., parts, each), the shared left out."""
        own = units[..., : self.own]
        return own.view(*own.shape[:-1], self.parts, self.each)

    def apart(self, heard: Tensor) -> tuple[Tensor, Tensor]:
        """(parts, n, repeats * (each + shared)), what a part hears, to the shapes of `inputs` or `weights`."""
        heard = heard.view(*heard.shape[:-1], self.repeats, -1)
        return heard[..., : self.each], heard[..., self.each :]


class _BlockLinear(torch.autograd.Function):
    """x (n, inputs) in the product's type, weight (outputs, inputs) and bias (outputs,) in their own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, blocks: Blocks) -> Tensor:
        own, shared = blocks.inputs(x)
        heard = torch.cat([own, shared.expand(blocks.parts, *shared.shape)], -1).flatten(2)
        of_parts = torch.cat(blocks.weights(weight), -1).flatten(2).to(x.dtype)
        of_shared = weight[blocks.own :].to(x.dtype)
        y = x.new_empty(len(x), len(weight))
        blocks.outputs(y).copy_(heard @ of_parts.transpose(1, 2))
        y[:, blocks.own :] = x @ of_shared.T
        ctx.save_for_backward(x, heard, of_parts, of_shared, weight)
        ctx.blocks = blocks
        return y.add_(bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, heard, of_parts, of_shared, weight = ctx.saved_tensors
        blocks: Blocks = ctx.blocks
        (gradient,) = gradients
        parts, shared = blocks.outputs(gradient).contiguous(), gradient[:, blocks.own :]
        dx, dweight = shared @ of_shared, torch.zeros_like(weight)
        to_own, to_shared = blocks.apart(parts @ of_parts)
        dx_own, dx_shared = blocks.inputs(dx)
        dx_own.add_(to_own)
        dx_shared.add_(to_shared.sum(0))
        dweight[blocks.own :] = shared.T @ x
        for view, found in zip(blocks.weights(dweight), blocks.apart(parts.transpose(1, 2) @ heard), strict=True):
            view.copy_(found)
        return dx, dweight, gradient.sum(0, dtype=weight.dtype), None
