"""The runners' common contract, asked of the TensorRT runner on a fake GPU; a real one is asked where there is one."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.runners.tensorrt import TensorRtRunner

CONTRACT = Path(__file__).parents[1] / "runners" / "test_contract.py"
_spec = importlib.util.spec_from_file_location("runners_contract", CONTRACT)
assert _spec is not None
assert _spec.loader is not None
_contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_contract)

# every test of the contract that asks one runner; they find the fixture `make` below
ASKED = {
    name: item
    for name, item in vars(_contract).items()
    if name.startswith("test_") and inspect.isfunction(item) and "make" in inspect.signature(item).parameters
}
globals().update(ASKED)


@pytest.fixture(params=[True, False], ids=["graph", "no graph"])
def make(request, fake, cache, manifest, model):
    with Bundle.open(_contract.V1) as bundle:
        assert bundle.model("fp32") == model
    return lambda: TensorRtRunner(
        model, "fp32", manifest.input, manifest.outputs, cache=cache, cuda_graph=request.param, timeout_s=60
    )


def test_the_contract_was_found() -> None:
    assert len(ASKED) >= 10
