"""TensorRT on a real GPU. The runners' contract is asked in `tests/runtime/runners`, also with the marker `gpu`."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime import engines
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.engines import BuildSettings, EngineCache, build_engine, open_engine, prove_precision

pytest.importorskip("torch")
pytest.importorskip("onnx")

from benchmarks.gpu import take_turns
from benchmarks.lowering.gate import FAMILIES, lowered

pytestmark = pytest.mark.gpu
FORMS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8 (opset 17 form)"}


@pytest.fixture(autouse=True)
def gpu():
    reason = engines.available()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return EngineCache(tmp_path_factory.mktemp("gpu") / "engines")


def specs(model):
    def dims(item):
        return tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)

    image, outputs = model.graph.input[0], model.graph.output
    return (
        InputSpec(name=image.name, shape=dims(image)),
        tuple(OutputSpec(name=item.name, shape=dims(item), kind="raw") for item in outputs),
    )


def runner(family, form, cache, **options):
    from edge_runtime.runners.tensorrt import TensorRtRunner

    model = lowered(family, FORMS[form])
    image, outputs = specs(model)
    return TensorRtRunner(model.SerializeToString(), f"student-{form}", image, outputs, cache=cache, **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_variant_of_every_student_builds_and_is_read_back(family, form, cache):
    model = lowered(family, FORMS[form]).SerializeToString()
    file = build_engine(model, name="student", cache=cache)
    engine = open_engine(file, cache)
    report = prove_precision(engine, model, form)
    assert report.compute
    assert not build_engine(model, name="student", cache=cache).built


@pytest.mark.parametrize("form", FORMS)
def test_the_captured_graph_gives_the_same_bits_as_the_calls(form, cache):
    generator = np.random.default_rng(0)
    with runner("segmentation", form, cache) as graph, runner("segmentation", form, cache, cuda_graph=False) as calls:
        assert graph.graph_refused == ""
        for _ in range(10):
            frame = {graph.input.name: generator.standard_normal(graph.input.shape).astype(np.float32)}
            found, wanted = graph.infer(frame), calls.infer(frame)
            for name in wanted:
                np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize(("form", "allowed"), [("fp32", 1e-3), ("fp16", 0.05), ("int8", 0.5)])
def test_outputs_are_near_those_of_onnxruntime(form, allowed, cache):
    from edge_runtime.runners import OrtRunner

    model = lowered("segmentation", FORMS[form])
    image, outputs = specs(model)
    frame = {image.name: np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)}
    with (
        runner("segmentation", form, cache) as subject,
        OrtRunner(model.SerializeToString(), form, image, outputs) as peer,
    ):
        found, wanted = subject.infer(frame), peer.infer(frame)
        for name in wanted:
            scale = float(np.abs(wanted[name]).max())
            assert float(np.abs(found[name] - wanted[name]).max()) <= allowed * max(scale, 1.0)


def test_latency_is_measured_call_by_call(cache):
    with runner("segmentation", "fp16", cache) as subject:
        frame = {subject.input.name: np.zeros(subject.input.shape, np.float32)}
        times = take_turns({"fp16": lambda: subject.infer(frame)}, rounds=200, warm_up=20)["fp16"]
    assert times.shape == (200,)
    assert times.min() > 0


def test_a_changed_setting_is_the_reason_of_the_next_build(cache):
    model = lowered("segmentation", FORMS["fp16"]).SerializeToString()
    build_engine(model, name="reasons", cache=cache)
    again = build_engine(model, name="reasons", settings=BuildSettings(workspace_mb=512), cache=cache)
    assert again.reasons == ("workspace_mb: 1024 -> 512",)


def test_mapped_memory_gives_the_same_bits_where_the_gpu_shares_the_hosts(cache):
    from edge_runtime.engines._cuda import Cuda

    gpu = Cuda().gpu()
    if not gpu.integrated:
        pytest.skip(f"{gpu.name} does not share the host's memory")
    frame = np.random.default_rng(0).random(FAMILIES["segmentation"].shape, np.float32)
    with runner("segmentation", "fp16", cache, mapped=True) as mapped, runner("segmentation", "fp16", cache) as copied:
        found, wanted = mapped.infer({mapped.input.name: frame}), copied.infer({copied.input.name: frame})
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
