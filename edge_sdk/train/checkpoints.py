"""The file that a killed run continues from: written atomically, read without running code."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from edge_runtime.atomic import replacing
from edge_runtime.errors import ConfigError
from edge_sdk.batch import TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.train.settings import LoopConfig

__all__ = ["Checkpoint", "fingerprint"]

# what a file from before early stopping, loss parameters and checkpoints within an epoch lacks
_ABSENT: dict[str, Any] = {
    "precision": {},
    "loss": {},
    "best": {"value": None, "waited": 0, "state": {}},
    "sums": {},
    "streams": {},
}


class Checkpoint:
    """One file with the whole state of a run; `fingerprint` says which run."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`; the file is the old one or the new one, never a part."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save({"fingerprint": self.fingerprint, **state}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is no file; raises `ConfigError` for a damaged file or another run's."""
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            known = state["fingerprint"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path} is not a checkpoint of this program; delete it to start anew") from error
        if known != self.fingerprint:
            raise ConfigError(
                f"checkpoint {self.path} was made with other settings, data or network; "
                "delete it, or give another folder"
            )
        return {**_ABSENT, **state}


def fingerprint(
    module: nn.Module,
    data: TrainingSet,
    loss: object,
    config: OptimiserConfig,
    augmentation: AugmentConfig,
    loop: LoopConfig,
) -> str:
    """Hash of all that decides what is learned: settings, data, the network's shapes, the loss's own fingerprint.

    A loss without a `fingerprint` attribute is not seen.
    """
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    parts: list[object] = [config, augmentation, shapes, data.sha256]
    more = {**loop.identity(), "loss": getattr(loss, "fingerprint", "")}
    if any(more.values()):
        parts.append(more)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
