"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError

__all__ = ["count_macs", "count_parameters"]


def count_parameters(module: nn.Module) -> int:
    """Number of learned scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _layer_macs(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    if isinstance(layer, nn.ConvTranspose2d):
        return inputs[0].numel() * layer.weight[0].numel()
    return output.numel() * layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else 0


def count_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward pass on zeros of `input_shape` (with the batch dimension).

    Convolutions, transposed convolutions and linear layers are counted, at the padded borders too; biases,
    normalisation (folded at export), activations and resizing are not. Raises `ConfigError` when a layer with
    weights is of a kind that is not counted.
    """
    counted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _layer_macs(layer, inputs, output)

    hooks = []
    try:
        for name, layer in module.named_modules():
            if isinstance(layer, counted):
                hooks.append(layer.register_forward_hook(count))
            elif next(layer.parameters(recurse=False), None) is not None and not isinstance(
                layer, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.PReLU)
            ):
                raise ConfigError(
                    f"multiply-adds of layer {name!r} ({type(layer).__name__}) are not known; "
                    "Conv2d, ConvTranspose2d and Linear are counted"
                )
        with _evaluation_mode(module), torch.no_grad():
            module(torch.zeros(input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return total
