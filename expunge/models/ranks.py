"""Training on several processes as if on one: each has a part of every batch, and all have the same weights.

Started by `torchrun`, or alone; alone, every function here hands back what it was given. All processes draw the
same batch from the same random stream and take their own part of it, statistics over a batch are taken over all
parts, and gradients are averaged before a step. What they compute then differs from one process only by the order
of additions.

Own reductions, because `torch.nn.SyncBatchNorm` takes no tensors on a CPU, and because gradient penalties
differentiate twice: both functions below can be differentiated as often as one likes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that `torchrun` started, for as long as the context lasts; alone, nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes train together; 1 if this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that reports and writes."""
    return count() == 1 or dist.get_rank() == 0


def agreed(condition: bool) -> bool:
    """What the first process finds, in all of them: who decides by numbers must not go on where another stops.

    Their numbers may differ in the last bit, for each passes the same images in another company.
    """
    if count() == 1:
        return condition
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    said = torch.tensor([int(condition)], device=device)
    dist.broadcast(said, 0)
    return bool(said.item())


def own_part(batch: Tensor) -> Tensor:
    """This process's rows of a batch [B, ...] that all processes have drawn alike.

    Raises:
        BadInput: the batch cannot be divided evenly: means of parts would not be the mean of the whole.
    """
    parts = count()
    if parts == 1:
        return batch
    if len(batch) % parts:
        raise BadInput(f"method.params.batch: {len(batch)} images cannot be divided among {parts} processes",
                       f"use a multiple of {parts}, and of four times that where a method shows a quarter")
    return batch.chunk(parts)[dist.get_rank()]


def whole_batch(part: Tensor) -> Tensor:
    """The rows of all processes [B, ...], in order, from this one's [B / processes, ...]; differentiable."""
    if count() == 1:
        return part
    gathered: Tensor = _Gather.apply(part)
    return gathered


def mean_of_losses(losses: dict[str, Tensor]) -> dict[str, float]:
    """Each loss as a number, its mean over all processes."""
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    if count() > 1:
        dist.all_reduce(values)
        values = values / count()
    return dict(zip(losses, values.tolist(), strict=True))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each parameter's gradient by its mean over all processes, in one exchange."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    for gradient, mean in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class _Gather(torch.autograd.Function):
    """All parts, one after the other; its derivative sends each part the sum of what all found for it."""

    @staticmethod
    def forward(_: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(count())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        scattered: Tensor = _SumAndScatter.apply(gradient)
        return scattered


class _SumAndScatter(torch.autograd.Function):
    """The sum over all processes, of which each keeps its own part; its derivative is the gathering again."""

    @staticmethod
    def forward(_: Any, whole: Tensor) -> Tensor:
        total = whole.contiguous().clone()
        dist.all_reduce(total)
        return own_part(total).clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gathered: Tensor = _Gather.apply(gradient)
        return gathered


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the statistics of all processes' rows."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions from two: [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x` [B, C, ...]."""
        if not self.training or count() == 1:
            return super().forward(x)
        return own_part(F.batch_norm(
            whole_batch(x), self.running_mean, self.running_var, self.weight, self.bias, True,
            self._momentum(), self.eps))

    def _momentum(self) -> float:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.momentum is None:  # the plain average of all batches so far
            return 1.0 / float(self.num_batches_tracked or 1)
        return self.momentum


def share_batch_norm(module: nn.Module) -> nn.Module:
    """Lets every batch normalisation in a module, in place, see all processes' rows while it trains."""
    if count() == 1:
        return module
    for inner in module.modules():
        if isinstance(inner, nn.modules.batchnorm._BatchNorm):
            inner.__class__ = _WholeBatchNorm  # the same tensors under the same names
    return module
