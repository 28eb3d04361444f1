"""What an engine depends on: everything that makes a stored one useless, in one comparable value."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edge_runtime._machine import jetson, power_mode
from edge_runtime.engines._cuda import Gpu

__all__ = ["AHEAD_OF_TIME", "EngineKey", "Machine", "machine_facts"]

AHEAD_OF_TIME = "ahead of time"


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hardware and system part of a key.

    `cuda_driver` and `cuda_runtime` as CUDA counts them (13000 is 13.0). `l4t` and `power_mode` are empty off Jetson;
    the power mode is in it because TensorRT chooses kernels by timing them under its clocks.
    """

    gpu: str
    compute_capability: str
    sms: int
    cuda_driver: int
    cuda_runtime: int
    l4t: str
    power_mode: str


class EngineKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that invalidates an engine. `device` is "gpu" or "dla0"; `profile` the open batch, or "fixed"."""

    model_sha256: str
    flavour: str
    tensorrt: str
    machine: Machine
    device: str
    profile: str
    flags: tuple[str, ...]
    optimization_level: int
    workspace_mb: int

    @property
    def digest(self) -> str:
        """sha256 (hex) of the key's canonical JSON; the engine's name in the cache."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """Canonical JSON: sorted names, one form for one key."""
        return msgspec.json.encode(self, order="sorted")

    def differences(self, old: EngineKey) -> tuple[str, ...]:
        """One line for each part that is not as in `old`."""
        now, before = _flat(self), _flat(old)
        return tuple(f"{name}: {before[name]} -> {now[name]}" for name in now if now[name] != before[name])


def _flat(key: EngineKey) -> dict[str, object]:
    values = msgspec.to_builtins(key)
    machine = values.pop("machine")
    return {**values, **machine}


def machine_facts(gpu: Gpu | None, capabilities: tuple[str, ...] = (), *, root: Path = Path("/")) -> Machine:
    """The machine at hand, or with `capabilities` the GPUs that are built for ahead of time."""
    board, mode = jetson(root), power_mode(root)
    ahead = bool(capabilities) or gpu is None
    return Machine(
        gpu=AHEAD_OF_TIME if ahead or gpu is None else gpu.name,
        compute_capability=" ".join(capabilities) if ahead or gpu is None else gpu.capability,
        sms=0 if ahead or gpu is None else gpu.sms,
        cuda_driver=0 if ahead or gpu is None else gpu.driver,
        cuda_runtime=0 if ahead or gpu is None else gpu.runtime,
        l4t="" if board is None or ahead else board.detail,
        power_mode="" if mode is None or ahead else mode.detail,
    )
