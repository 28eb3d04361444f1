"""What makes one network another: its weights, its structure, its settings and the code of its own classes."""

from __future__ import annotations

import hashlib
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

__all__ = ["module_identity", "module_sha256"]

_PLAIN = (bool, int, float, str, type(None))
_NOT_SETTINGS = ("training", "_is_full_backward_hook")  # states of a module that change no answer in evaluation mode


def module_sha256(module: nn.Module) -> str:
    """Hash of a module's parameters and buffers: names, dtypes, shapes and values, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        kind = str(array.dtype).removeprefix("torch.")
        digest.update(f"{name}|{kind}|{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


def module_identity(module: nn.Module, weights_sha256: str = "") -> str:
    """Hash of what a module computes: weights, class, structure, plain settings, and its classes' own bytecode.

    Two modules with equal weights but another class, another layer setting or another `forward` differ. Functions
    that a class calls in other modules are not followed. `weights_sha256` replaces the hash of the weights where
    it is known (that of their file). The same in every process of one Python version.
    """
    digest = hashlib.sha256()
    digest.update((weights_sha256 or module_sha256(module)).encode())
    digest.update(repr(module).encode())
    classes: dict[str, type] = {}
    for name, part in module.named_modules():
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        settings = {k: v for k, v in sorted(vars(part).items()) if k not in _NOT_SETTINGS and _is_plain(v)}
        digest.update(f"{name}|{kind}|{settings!r}".encode())
        classes[kind] = type(part)
    for kind, cls in sorted(classes.items()):
        for base in cls.__mro__:
            if base.__module__.split(".")[0] != "torch":
                _add_class(digest, kind, base)
    if isinstance(module, torch.jit.ScriptModule):
        digest.update(str(module.graph).encode())
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple | list) and all(_is_plain(item) for item in value))


def _add_class(digest: Any, kind: str, cls: type) -> None:
    for name, value in sorted(vars(cls).items()):
        function = getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            digest.update(f"{kind}|{name}|".encode())
            _add_code(digest, function.__code__)


def _add_code(digest: Any, code: CodeType) -> None:
    digest.update(code.co_code)
    digest.update(repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _add_code(digest, constant)
        else:
            digest.update(repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant).encode())
