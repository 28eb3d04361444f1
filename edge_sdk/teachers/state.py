"""Weights in files: state dicts of tensors in torch's or the safetensors form, and nothing that needs code."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.atomic import replacing
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = ["first_line", "load_into", "load_state_dict", "save_state_dict"]


def save_state_dict(module: nn.Module, path: Path) -> None:
    """Write the module's tensors to `path` atomically, in the form that `load_state_dict` reads.

    A name ending in `.safetensors` is written in that form, any other in torch's.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with replacing(path) as temporary:
        if path.suffix.lower() == ".safetensors":
            _safetensors(path).save_file({name: tensor.clone() for name, tensor in state.items()}, str(temporary))
        else:
            torch.save(state, temporary)


def load_state_dict(path: Path, *, key: str = "") -> dict[str, Tensor]:
    """Read a state dict of tensors, and nothing else: no code of the file is ever run.

    `.safetensors` files are read by that package, others by `torch.load` with `weights_only`. `key` names the entry
    that holds the tensors where a checkpoint holds more ("state_dict" in Lightning's).

    Raises `ConfigError` when the file is missing, is not of its form, needs code to be unpickled, or holds other
    things than named tensors; `MissingDependencyError` for a `.safetensors` file without that package.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the path of a state dict")
    state = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    if key:
        if not isinstance(state, Mapping) or key not in state:
            found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ConfigError(f"{path} has no entry {key!r}; it holds {found}")
        state = state[key]
    if not _named_tensors(state):
        inner = [name for name, value in state.items() if _named_tensors(value)] if isinstance(state, Mapping) else []
        hint = f"; its entry {inner[0]!r} does: give key={inner[0]!r}" if inner else "; save module.state_dict()"
        raise ConfigError(f"{path} holds {type(state).__name__}, not named tensors{hint}")
    return dict(state)


def load_into(module: nn.Module, path: Path, *, key: str = "") -> None:
    """Load the state dict at `path` into `module`; `ConfigError` naming both when it does not fit."""
    try:
        module.load_state_dict(load_state_dict(path, key=key))
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit {type(module).__name__}: {error}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, cut to what a message can carry."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _named_tensors(state: object) -> bool:
    return isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(
            f"{path} is refused: it is not a plain state dict of tensors, and a file that needs code to be loaded "
            f"can run anything ({first_line(error)}). Save module.state_dict() instead, or export to ONNX."
        ) from error


def _safetensors(path: Path) -> Any:
    require("safetensors", f"for {path.name}")
    return importlib.import_module("safetensors.torch")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    reader = _safetensors(path)
    try:
        state: dict[str, Tensor] = reader.load_file(str(path), device="cpu")
    except Exception as error:  # SafetensorError, and OSError for a damaged header; the package names no other base
        raise ConfigError(f"{path} is not a readable safetensors file ({first_line(error)})") from error
    return state
