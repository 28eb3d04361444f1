"""The gates refuse what their tools refuse, and say so when they were not asked."""

from __future__ import annotations

import importlib.util
import subprocess

import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.lowering.gate import judge, ort_default
from edge_export import check_model, rtx_gate, run_model, to_fp16, to_int8
from edge_export import gate as gate_module
from edge_runtime.errors import LoweringError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed (trt-check extra)"
)


@needs_rtx
@pytest.mark.parametrize("form", ["opset17", "opset19"])
@pytest.mark.parametrize("weights_as", ["int8", "float"])
def test_rtx_builds_every_int8_form(student, trained, form, weights_as):
    lowered = to_int8(student, trained.calibration, qdq_form=form, weights_as=weights_as)
    report = rtx_gate(lowered.SerializeToString())
    assert (report.status, report.reason) == ("accepted", "")
    assert report.layers > 50
    assert report.engine_bytes > 10_000
    assert report.compute_capabilities == ("SM86", "SM89")


@needs_rtx
@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("classifier", "fp32"),
        ("classifier", "int8 (opset 19 form)"),
        ("detector", "fp16"),
        ("detector", "int8 (opset 17 form)"),
    ],
)
def test_rtx_builds_other_families(family, variant):
    report = judge(family, variant)  # the row trt_gate builds all variants of all families
    assert (report.status, report.reason) == ("accepted", "")
    assert report.compute_capabilities == ("SM86", "SM89")


@needs_rtx
def test_rtx_builds_fp16_with_conv_transpose(student_transposed):
    report = rtx_gate(to_fp16(student_transposed).SerializeToString(), ("SM86",))
    assert report.status == "accepted"
    assert report.seconds > 0
    assert report.to_dict()["version"]


@needs_rtx
def test_rtx_refuses_onnxruntimes_default_quantization_by_node(student, trained):
    bad = ort_default(student, trained.calibration[:2])
    report = rtx_gate(bad)
    assert report.status == "refused"
    assert report.errors
    assert report.errors[0].node in {node.name for node in onnx.load_model_from_string(bad).graph.node}
    assert "Quantize" in report.errors[0].operator or "Dequantize" in report.errors[0].operator


@needs_rtx
def test_rtx_refuses_garbage():
    assert rtx_gate(b"not a model").status == "refused"


def test_an_absent_rtx_is_never_a_pass(monkeypatch):
    monkeypatch.setattr(gate_module, "_RTX_MODULE", "no_such_module_here")
    report = rtx_gate(b"")
    assert report.status == "not tried"
    assert "trt-check" in report.reason


@needs_rtx
def test_a_crash_is_reported(monkeypatch):
    def crash(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, -11, b"", b"Segmentation fault")

    monkeypatch.setattr(subprocess, "run", crash)
    report = rtx_gate(b"")
    assert report.status == "crashed"
    assert "-11" in report.reason
    assert "Segmentation" in report.reason


@needs_rtx
def test_a_timeout_is_reported(monkeypatch):
    def sleep(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        raise subprocess.TimeoutExpired(command, 3.0)

    monkeypatch.setattr(subprocess, "run", sleep)
    report = rtx_gate(b"", timeout_s=3.0)
    assert (report.status, report.reason) == ("crashed", "no answer within 3 s")


def test_check_model_wants_consistent_types(build):
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["x", "image"], ["mask"]),
    ]
    with pytest.raises(LoweringError, match=r"onnx\.checker refuses"):
        check_model(build(nodes, {}))


def test_check_model_wants_it_to_load(build):
    model = build([helper.make_node("Relu", ["image"], ["mask"])], {})
    model.ir_version = 3
    model.opset_import[0].version = 18
    check_model(model)
    with pytest.raises(LoweringError, match="ONNX Runtime does not load"):
        run_model(b"garbage", [])


def test_check_model_wants_fixed_shapes(build):
    model = build([helper.make_node("Relu", ["image"], ["mask"])], {}, input_shape=("n", 4, 8, 8))
    with pytest.raises(LoweringError, match="every dimension must be fixed"):
        check_model(model)
