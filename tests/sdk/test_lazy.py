"""`import edge_sdk` costs nothing: names come when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_sdk

HEAVY = ("torch", "monai", "lightning_fabric", "onnx", "onnxruntime", "cv2", "numpy.testing", "matplotlib")


@pytest.mark.parametrize(
    "module", ["edge_sdk", "edge_sdk.config", "edge_sdk.progress", "edge_sdk.recipe", "edge_sdk.stages"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_brings_fabric_and_monai_only_when_it_runs() -> None:
    code = (
        "import sys, edge_sdk.train, edge_sdk.losses; print('monai' in sys.modules, 'lightning_fabric' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_every_public_name_can_be_had() -> None:
    assert edge_sdk.__all__ == sorted(edge_sdk.__all__)
    for name in edge_sdk.__all__:
        assert getattr(edge_sdk, name) is not None
    assert set(edge_sdk.__all__) <= set(dir(edge_sdk))


def test_other_names_cannot() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = edge_sdk.nonsense
