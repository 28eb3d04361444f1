"""The fake GPU, a private cache, and models."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.engines import EngineCache

V1 = Path(__file__).parents[2] / "data" / "v1.edge"


def _fake_gpu() -> Any:
    spec = importlib.util.spec_from_file_location("engines_fake_gpu", Path(__file__).with_name("fake_gpu.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake TensorRT 10.3 with a fake CUDA (`fake.cuda`), imported in place of the real ones."""
    return _fake_gpu().install(monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """An empty private cache."""
    return EngineCache(tmp_path / "engines")


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """Of the committed bundle."""
    with Bundle.open(V1) as bundle:
        return bundle.manifest


@pytest.fixture(scope="session")
def model() -> bytes:
    """The committed bundle's fp32 ONNX."""
    with Bundle.open(V1) as bundle:
        return bundle.model("fp32")


@pytest.fixture(scope="session")
def half_model() -> bytes:
    """The committed bundle's fp16 ONNX."""
    with Bundle.open(V1) as bundle:
        return bundle.model("fp16")
