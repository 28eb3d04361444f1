"""TensorRT engines on the device: built from a bundle's ONNX, cached, read back to prove their precision."""

from __future__ import annotations

from edge_runtime.engines.build import (
    BuildSettings,
    EngineFile,
    available,
    build_engine,
    open_engine,
    prove_precision,
)
from edge_runtime.engines.cache import EngineCache
from edge_runtime.engines.key import EngineKey, Machine
from edge_runtime.engines.readback import EngineLayer, EngineReport, read_engine, require_precision
from edge_runtime.engines.wanted import wanted_precisions

__all__ = [
    "BuildSettings",
    "EngineCache",
    "EngineFile",
    "EngineKey",
    "EngineLayer",
    "EngineReport",
    "Machine",
    "available",
    "build_engine",
    "open_engine",
    "prove_precision",
    "read_engine",
    "require_precision",
    "wanted_precisions",
]
