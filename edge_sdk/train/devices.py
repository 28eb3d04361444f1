"""Lightning Fabric for the devices that were asked for, or an error that says what is there."""

from __future__ import annotations

import os
from typing import Any

import torch

from edge_runtime.errors import ConfigError
from edge_sdk.config import OptimiserConfig

__all__ = ["launch"]

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


def _there() -> dict[str, int]:
    """Accelerators of this machine and how many devices each has."""
    found = {"cpu": os.cpu_count() or 1}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        found["mps"] = 1
    return found


def _check(config: OptimiserConfig) -> None:
    there = _there()
    listing = ", ".join(f"{name} ({count})" for name, count in there.items()) + f" with torch {torch.__version__}"
    wanted = config.accelerator
    if wanted == "gpu":
        wanted = "mps" if "mps" in there else "cuda"
    elif wanted == "auto":
        wanted = next((name for name in ("cuda", "mps") if name in there), "cpu")
    if wanted not in there:
        raise ConfigError(f"accelerator is {config.accelerator!r}; this machine has {listing}, or say 'auto'")
    if wanted != "cpu" and config.devices > there[wanted]:
        raise ConfigError(f"devices is {config.devices}; this machine has {listing}")
    if config.precision == "16-mixed" and wanted == "cpu":
        raise ConfigError(
            "precision is '16-mixed' and the accelerator the CPU, which multiplies in bfloat16; "
            "say 'bf16-mixed' or '32-true'"
        )
    if config.strategy not in STRATEGIES:
        raise ConfigError(f"strategy is {config.strategy!r}; {', '.join(STRATEGIES)} are allowed")
    world, asked = os.environ.get("WORLD_SIZE"), config.devices * config.nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and world is not None and int(world) != asked:
        raise ConfigError(
            f"torchrun started {world} processes, devices x nodes is {config.devices} x {config.nodes}; make both agree"
        )


def launch(config: OptimiserConfig) -> Any:
    """A launched `Fabric`. Without torchrun it starts the other processes itself, which run the same script.

    Raises `ConfigError` for an accelerator, number of devices, precision or strategy that cannot be had here.
    """
    from lightning_fabric import Fabric

    _check(config)
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision=config.precision,
    )
    fabric.launch()
    return fabric
