"""Batch normalisation over all processes, on any backend: torch's `SyncBatchNorm` runs on GPUs alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["synchronised_batch_norm"]


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient)
        return gradient


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def _forward(self: _BatchNorm, values: Tensor) -> Tensor:
    """Ioffe and Szegedy (2015), algorithm 1, with mean and variance over every process's samples."""
    if not self.training:
        own: Tensor = type(self).forward(self, values)
        return own
    dims = [0, *range(2, values.dim())]
    shape = [1, -1] + [1] * (values.dim() - 2)
    inner = values.float()
    count = torch.full((1,), float(values.numel() // values.shape[1]), device=values.device)
    sums = _sum(torch.cat([inner.sum(dims), count]))
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centred = inner - mean.view(shape)
    variance = _sum(centred.square().sum(dims)) / total
    _remember(self, mean.detach(), variance.detach(), total)
    out = centred * (variance + self.eps).rsqrt().view(shape)
    if self.affine:
        out = out * self.weight.view(shape) + self.bias.view(shape)
    return out.to(values.dtype)


@torch.no_grad()
def _remember(layer: _BatchNorm, mean: Tensor, variance: Tensor, total: Tensor) -> None:
    if not layer.track_running_stats:
        return
    assert layer.num_batches_tracked is not None  # there with running statistics
    layer.num_batches_tracked.add_(1)
    share = 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, share)  # type: ignore[union-attr]
    layer.running_var.lerp_(variance * total / (total - 1).clamp_min(1), share)  # type: ignore[union-attr]


@contextmanager
def synchronised_batch_norm(module: nn.Module, processes: int) -> Iterator[None]:
    """Within, the batch normalisation of `module` has the statistics of all processes; types and weights stay."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)] if processes > 1 else []
    for layer in layers:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
