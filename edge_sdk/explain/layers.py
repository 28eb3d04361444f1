"""Which layers of a network can be explained, and the one that is taken unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError

__all__ = ["LayerInfo", "automatic_layer", "check_explainable", "evaluation_mode", "layers_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """A module inside a network and the (channels, height, width) of what it gives for one frame."""

    name: str
    shape: tuple[int, int, int]


def layers_of(module: nn.Module, frames: Tensor) -> list[LayerInfo]:
    """The inner modules that give one tensor (N, C, H, W), in the order in which they finish on `frames`.

    A module that runs more than once is left out: its name does not say which output is meant. Raises
    `ConfigError` for scripted networks, whose inner layers cannot be watched.
    """
    check_explainable(module)
    found: list[LayerInfo] = []
    names = {part: name for name, part in module.named_modules() if name}

    def note(part: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            found.append(LayerInfo(name=names[part], shape=(output.shape[1], output.shape[2], output.shape[3])))

    hooks = [part.register_forward_hook(note) for part in names]
    try:
        with evaluation_mode(module), torch.no_grad():
            module(frames[:1])
    finally:
        for hook in hooks:
            hook.remove()
    runs = [layer.name for layer in found]
    return [layer for layer in found if runs.count(layer.name) == 1]


def automatic_layer(module: nn.Module, frames: Tensor) -> str:
    """The name of the last layer with the fewest positions (but more than one): a U-Net's bottleneck, a classifier's
    last stage before pooling.

    Vinogradova et al. find the bottleneck the most informative layer of a U-Net, and Selvaraju et al. the last
    convolutional one of a classifier. Where a block and its last part finish together the block is named. Raises
    `ConfigError` when no layer has a map of positions.
    """
    layers = [layer for layer in layers_of(module, frames) if layer.shape[1] * layer.shape[2] > 1]
    if not layers:
        raise ConfigError(f"{type(module).__name__} has no inner layer that gives (N, C, H, W); name one it has")
    fewest = min(layer.shape[1] * layer.shape[2] for layer in layers)
    return [layer.name for layer in layers if layer.shape[1] * layer.shape[2] == fewest][-1]


def check_explainable(module: nn.Module) -> None:
    """Raise `ConfigError` for what has no layers to look into."""
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{type(module).__name__} has no layers to explain; Grad-CAM needs the network as an nn.Module, "
            "which an ONNX file or an ensemble is not (explain the members one by one)"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ConfigError(
            "a TorchScript network cannot be explained, because its inner layers cannot be watched; "
            "give the nn.Module it was made from"
        )


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Run `module` in evaluation mode, and put every part back into the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
