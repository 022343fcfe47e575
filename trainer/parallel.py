"""Several processes, one run, as `torchrun` starts them: each takes its share of every step.

Sums that one process would take over a batch (batch norm's moments, the loss's weights, gradients) are taken over all
shares, so a run's loss does not depend on how many processes it had, but for rounding and what each draws for itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

LINGER_S = 1.0  # gloo's threads let go of tensors a little later; an interpreter that has gone by then aborts


def rank() -> int:
    """Number of this process; 0 writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def team(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; yield the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        yield device
        dist.barrier()
    finally:
        dist.destroy_process_group()
        time.sleep(LINGER_S)


class _Total(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Any shape, the same in all processes."""
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The processes' gradients summed."""
        out = gradients[0].clone()
        dist.all_reduce(out)
        return out


def total(x: Tensor) -> Tensor:
    """Sum over the processes; itself where there is one."""
    if size() == 1:
        return x
    summed: Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
    return summed


def share(index: Tensor) -> Tensor:
    """Return what of an index (b,) falls to this process."""
    return index[rank() :: size()]


def sum_gradients(model: nn.Module) -> None:
    """Give every process the gradient of the whole step."""
    if size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):  # type: ignore[no-untyped-call]
        gradient.copy_(part.view_as(gradient))


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the rows of all processes (PyTorch's own does that on CUDA alone)."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) to (n, features)."""
        if not self.training or size() == 1:
            return super().forward(x)
        wide = x.float()
        count = total(wide.new_tensor([len(wide)]))
        mean = total(wide.sum(0)) / count
        variance = total((wide - mean).square().sum(0)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normal = (wide - mean) * (variance + self.eps).rsqrt()
        return (normal * self.weight + self.bias).to(x.dtype)
