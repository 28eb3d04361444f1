"""The GPU benchmark's arithmetic and words; its TensorRT contestants on a fake GPU, which says nothing about speed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.lowering import engines as row
from edge_runtime.bundle import Bundle
from edge_runtime.engines import read_engine

HERE = Path(__file__).parent
V1 = HERE.parent / "data" / "v1.edge"
INSPECTOR = HERE.parent / "runtime" / "engines" / "inspector"


def test_all_take_turns():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = gpu.take_turns(calls, rounds=3, warm_up=2)
    assert "".join(order) == "abc" * 5
    assert {name: found.shape for name, found in times.items()} == {"a": (3,), "b": (3,), "c": (3,)}
    assert all((found > 0).all() for found in times.values())


def test_the_ratio_is_of_the_medians_of_the_faster_tensorrt():
    times = {
        f"{gpu.TORCH}, with transfers": np.full(1000, 3_000_000),
        "tensorrt fp16, with transfers": np.full(1000, 1_000_000),
        "tensorrt int8, with transfers": np.full(1000, 2_000_000),
    }
    found = {figure.name: figure for figure in gpu.figures("hc18", times, {"ORT-CUDA fp16": "no such provider"})}
    ratio = found["hc18: TensorRT against torch, with transfers"]
    assert (ratio.value, ratio.met, ratio.n) == (3.0, True, 1000)
    assert ratio.detail["fastest"] == "tensorrt fp16, with transfers"
    assert found["hc18: tensorrt int8, with transfers, p50"].value == 2.0
    assert found["hc18: ORT-CUDA fp16, p50"].reason == "no such provider"
    other = found["hc18: TensorRT against torch, on the device"]
    assert (other.value, other.met) == (None, None)


def test_without_a_gpu_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda: "no GPU")
    monkeypatch.setattr(row, "missing", lambda: "no GPU")
    for figure in (*gpu.measure_latency(), *row.measure_gpu_engines()):
        assert (figure.value, figure.met, figure.reason) == (None, None, "no GPU")


def test_engines_that_were_refused_are_not_proven():
    report = read_engine((INSPECTOR / "trt8-int8.json").read_text())
    good = row.proven({"hc18, int8": report}, {})
    assert (good.value, good.met, good.n) == (True, True, 1)
    assert good.spread == "hc18, int8: 40 % fp16, 60 % int8"
    bad = row.proven({"hc18, int8": report}, {"hc18, TensorRT fp16": "fp16 was asked for"})
    assert (bad.value, bad.met, bad.n) == (False, False, 2)
    assert row.proven({}, {}).met is False


@pytest.fixture
def fake(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("gpu_fake", HERE.parent / "runtime" / "engines" / "fake_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return module.install(monkeypatch)


def test_fake_tensorrt_takes_part_and_torch_without_a_gpu_would_not(fake, monkeypatch):
    with Bundle.open(V1) as bundle:
        manifest = bundle.manifest
        model = bundle.model("fp16")
    subject = gpu.Student(
        name="v1", module=None, models={"fp16": model, "int8": model}, input=manifest.input, outputs=manifest.outputs
    )
    reports = {}
    with gpu.tensorrt_calls(subject, "fp16", reports) as calls:
        times = gpu.take_turns(calls, rounds=5, warm_up=1)
    assert set(times) == {"tensorrt fp16, with transfers", "tensorrt fp16, on the device"}
    assert reports["fp16"].shares() == {"fp16": 1.0}
    assert len(fake.cuda.live) == 0
