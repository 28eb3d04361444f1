"""Which runners there are on this machine, and one for a bundle's variant."""

from __future__ import annotations

from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError
from edge_runtime.optional import is_available
from edge_runtime.runners.base import Runner
from edge_runtime.runners.onnxruntime import OrtRunner

__all__ = ["available_runners", "create_runner"]


def available_runners() -> dict[str, str | None]:
    """Name of each shipped runner with None, or the reason why it cannot be used here."""
    absent = "onnxruntime is not installed: pip install 'pocus-edge-runtime[ort]'"
    return {"onnxruntime": None if is_available("onnxruntime") else absent}


def create_runner(
    bundle: Bundle,
    variant_id: str,
    *,
    runner: str = "onnxruntime",
    threads: int = 1,
    timeout_s: float | None = None,
) -> Runner:
    """A runner for one variant, not yet activated; the model's bytes are checked while they are read.

    Raises `ConfigError` for an unknown runner or variant, and what `Bundle.model` raises.
    """
    if runner != "onnxruntime":
        raise ConfigError(f"runner {runner!r} is not known; there is {sorted(available_runners())}")
    manifest = bundle.manifest
    return OrtRunner(
        bundle.model(variant_id), variant_id, manifest.input, manifest.outputs, threads=threads, timeout_s=timeout_s
    )
