"""What a bundle was made with: versions of the tools and hashes of the parts."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

__all__ = ["inventory"]

_DISTRIBUTIONS = (
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pocus-edge-export",
    "pocus-edge-runtime",
    "pocus-edge-sdk",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu12-libs",
    "torch",
)


def inventory(models: Mapping[str, bytes]) -> dict[str, Any]:
    """Versions of the distributions that are installed (None where one is absent), Python, and sha256 of each model."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "components": [{"name": name, "version": _version(name)} for name in _DISTRIBUTIONS],
        "models": [
            {"variant": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in models.items()
        ],
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
