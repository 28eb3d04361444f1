"""Intermediate features of a network by module name, through forward hooks that are always taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from edge_runtime.errors import ConfigError

__all__ = ["capture", "check_layer"]


def check_layer(module: nn.Module, name: str, whose: str = "the network") -> nn.Module:
    """The submodule called `name`; raises `ConfigError` with the nearest names."""
    layers: dict[str, nn.Module] = dict(module.named_modules())
    layers.pop("", None)
    if name not in layers:
        near = get_close_matches(name, layers, n=5, cutoff=0.3) or list(layers)[:12]
        raise ConfigError(
            f"layer {name!r} is not in {whose}; nearest: {', '.join(near) if near else 'it has no named layers'}"
        )
    return layers[name]


@contextmanager
def capture(module: nn.Module, names: Sequence[str], whose: str = "the network") -> Iterator[dict[str, Tensor]]:
    """Within the context, every forward pass of `module` leaves the outputs of the layers `names` in the dict.

    A later pass replaces an earlier one's. On leaving, by an error too, the hooks are removed and the dict is emptied,
    so that no graph is kept alive. Raises `ConfigError` for an unknown name, with the nearest ones, and in the pass
    for a layer whose output is not one tensor. Graph: the features keep their gradient.
    """
    features: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ConfigError(
                    f"layer {name!r} of {whose} returns {type(output).__name__}, not one tensor; choose a layer in it"
                )
            features[name] = output

        return hook

    with ExitStack() as stack:
        stack.callback(features.clear)
        for name in dict.fromkeys(names):
            handle = check_layer(module, name, whose).register_forward_hook(keep(name))
            stack.callback(handle.remove)
        yield features
