"""One call to the three variants."""

from __future__ import annotations

import importlib.util
import json

import onnx
import pytest
from onnx import helper

from edge_export import _lower, count_macs, lower
from edge_export.gate import GateError, GateReport
from edge_runtime.errors import ConfigError, LoweringError


def test_three_variants_and_their_table(lowered, student):
    models, report = lowered
    assert list(models) == ["fp32", "fp16", "int8"]
    assert [row.id for row in report.variants] == list(models)
    for row in report.variants:
        assert row.file_bytes == len(models[row.id])
        assert row.macs == count_macs(student)
        assert row.opset == 18
        assert {finding.rule for finding in row.warnings} <= {"half-on-cpu"}
        tried = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
        assert row.rtx.status == ("accepted" if tried else "not tried")
    assert report.variant("fp16").size_ratio < 0.56
    assert report.variant("int8").size_ratio <= 0.45
    assert report.variant("int8").operators["QuantizeLinear"] >= 9
    assert json.loads(json.dumps(report.to_dict()))["ranges"]["n_inputs"] == 16
    with pytest.raises(ConfigError, match="no variant 'fp8'"):
        report.variant("fp8")


def test_same_input_same_bytes(lowered, student, trained):
    again, _ = lower(student, trained.calibration, rtx=False)
    assert again == lowered[0]


def test_conv_transpose_student(student_transposed, trained_transposed):
    models, report = lower(student_transposed, trained_transposed.calibration, rtx=False)
    assert report.variant("int8").size_ratio <= 0.45
    assert report.variant("fp16").rtx.status == "not tried"
    assert "rtx=False" in report.variant("fp16").rtx.reason
    assert set(models) == {"fp32", "fp16", "int8"}


def test_opset19_form_needs_targets_that_read_it(student, trained):
    with pytest.raises(LoweringError, match="lint error"):
        lower(student, trained.calibration, qdq_form="opset19", rtx=False)
    _, report = lower(student, trained.calibration, qdq_form="opset19", targets=("tensorrt11", "rtx"), rtx=False)
    assert report.variant("int8").opset == 19


def test_int8_for_processors_is_held_to_processors_alone(student, trained):
    models, report = lower(student, trained.calibration, precisions=["int8", "int8-cpu"])
    row = report.variant("int8-cpu")
    assert list(models) == ["fp32", "int8", "int8-cpu"]
    assert (row.precision, row.targets, row.rtx.status) == ("int8", ("ort-cpu", "openvino"), "not tried")
    assert "not written for TensorRT" in row.rtx.reason
    assert {v.id: "tensorrt" in v.targets for v in report.variants} == {"fp32": True, "int8": True, "int8-cpu": False}
    assert row.size_ratio <= 0.45
    with pytest.raises(ConfigError, match="int8-cpu is written for"):
        lower(student, trained.calibration, precisions=["int8-cpu"], targets=("jetpack6", "rtx"), rtx=False)


def test_every_file_is_read_back(student, trained):
    _, report = lower(student, trained.calibration, precisions=["fp32"], rtx=False)
    assert report.variant("fp32").opset == 18
    with pytest.raises(LoweringError, match="meant to have opset 21"):
        _lower._read_back("fp32", student.SerializeToString(), 21)
    apart = onnx.ModelProto()
    apart.CopyFrom(student)
    apart.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(LoweringError, match="in another file"):
        _lower._read_back("fp32", apart.SerializeToString(), 18)
    apart.CopyFrom(student)
    apart.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    with pytest.raises(LoweringError, match="axis 0 of 'image' without a size and a name"):
        _lower._read_back("fp32", apart.SerializeToString(), 18)


def test_fewer_precisions(student, trained):
    models, _ = lower(student, trained.calibration, precisions=["fp16"], rtx=False)
    assert list(models) == ["fp32", "fp16"]


def test_a_refusal_is_an_error_that_names_the_node(student, trained, monkeypatch):
    error = GateError(code="UNSUPPORTED", node="Conv_3", operator="Conv", text="no")
    refused = GateReport(status="refused", reason="the parser refuses the graph", errors=(error,))
    monkeypatch.setattr(_lower, "rtx_gate", lambda data: refused)
    with pytest.raises(LoweringError, match=r"refused the fp32 variant.*Conv_3 \(Conv\): no"):
        lower(student, trained.calibration)


def test_an_absent_rtx_is_an_error_when_required(student, trained, monkeypatch):
    monkeypatch.setattr(_lower, "rtx_gate", lambda data: GateReport(status="not tried", reason="absent"))
    _, report = lower(student, trained.calibration)
    assert report.variant("int8").rtx.status == "not tried"
    with pytest.raises(LoweringError, match="not tried the fp32 variant: absent"):
        lower(student, trained.calibration, require_rtx=True)
    with pytest.raises(ConfigError, match="needs rtx=True"):
        lower(student, trained.calibration, rtx=False, require_rtx=True)


def test_bad_arguments(student, trained):
    with pytest.raises(ConfigError, match="fp8"):
        lower(student, trained.calibration, precisions=["fp8"])
    with pytest.raises(ConfigError, match="never random"):
        lower(student, [])


def test_an_operator_outside_the_list_is_refused(build, trained):
    model = build([helper.make_node("Det", ["image"], ["mask"])], {}, output_shape=(1, 1), input_shape=(1, 1, 48, 48))
    onnx.checker.check_model(model)
    with pytest.raises(LoweringError, match="Det"):
        lower(model, trained.calibration, precisions=["fp16"], rtx=False)
