"""Verification: the numbers by hand, the gates, the overrides."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_export import verify_variants
from edge_export._masks import class_map, mean_dice
from edge_export.verify import WORST_DB, largest_difference, sqnr_db
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError


@pytest.fixture(scope="module")
def held_out(trained, contract):
    return {"inputs": trained.inputs, "labels": trained.labels, "student": trained.logits, **contract}


@pytest.fixture(scope="module")
def report(lowered, held_out):
    return verify_variants(lowered[0], **held_out)


def broken(data: bytes) -> bytes:
    """The model with its last bias far off."""
    model = onnx.load_model_from_string(data)
    conv = next(node for node in model.graph.node if node.name == "Conv_10")
    for item in model.graph.initializer:
        if item.name == conv.input[2]:
            value = numpy_helper.to_array(item)
            item.CopyFrom(numpy_helper.from_array(value + value.dtype.type(3), item.name))
    return model.SerializeToString()


def test_a_trained_student_passes_the_gates(report):
    assert report.student_dice > 0.9
    assert report.score("fp32").max_abs < 1e-4
    for name, allowed in (("fp32", 0.01), ("fp16", 0.05), ("int8", 0.5)):
        row = report.score(name)
        assert row.passed
        assert row.allowed_points == allowed
        assert max(row.drop_points, row.typed_drop_points) <= allowed
        assert row.override == ""
    assert report.score("fp16").sqnr_db > report.score("int8").sqnr_db > 30
    assert 0 < report.score("int8").flips < 0.01


def test_numbers_by_hand(report, lowered, trained):
    from edge_export import run_model

    outputs = run_model(lowered[0]["int8"], trained.inputs)
    masks = [output["mask"][0, 0] > 0 for output in outputs]
    dice = np.mean([2 * (m & (y > 0)).sum() / (m.sum() + y.sum()) for m, y in zip(masks, trained.labels, strict=True)])
    row = report.score("int8")
    assert row.dice == pytest.approx(dice, abs=1e-3)  # the runner may use other kernels
    assert row.drop_points == pytest.approx(100 * (report.student_dice - row.dice), abs=1e-9)
    assert row.file_bytes == len(lowered[0]["int8"])


def test_report_is_json(report):
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["n_frames"] == 120
    with pytest.raises(ConfigError, match="no variant"):
        report.score("x")


def test_the_student_may_be_the_fp32_file(report, lowered, held_out):
    models = {"fp32": lowered[0]["fp32"]}
    again = verify_variants(models, **{**held_out, "student": models["fp32"]})
    assert again.student_dice == pytest.approx(report.student_dice, abs=1e-4)
    assert again.score("fp32").sqnr_db is None
    assert again.score("fp32").max_abs == 0


def test_a_failing_gate_raises_unless_overridden_by_name(lowered, held_out):
    models = {"fp32": lowered[0]["fp32"], "int8": broken(lowered[0]["int8"])}
    with pytest.raises(LoweringError, match=r"int8 loses .* allowed 0\.5"):
        verify_variants(models, **held_out)
    report = verify_variants(models, **held_out, overrides={"int8": "trial on the bench only"})
    assert not report.score("int8").passed
    assert report.score("int8").override == "trial on the bench only"
    assert report.score("fp32").override == ""


def test_logits_that_are_not_finite_do_not_pass_where_nothing_is_to_be_seen(build):
    """NaN is no class above 0, so that an empty frame's Dice stays 1: the gate on Dice alone would let it through."""
    right = build([helper.make_node("Neg", ["image"], ["mask"])], {}, input_shape=(1, 1, 8, 8))
    wrong = build(
        [helper.make_node("Neg", ["image"], ["low"]), helper.make_node("Log", ["low"], ["mask"])],
        {},
        input_shape=(1, 1, 8, 8),
    )
    arguments = {
        "inputs": [np.ones((1, 1, 8, 8), np.float32)],
        "labels": [np.zeros((8, 8), np.uint8)],
        "student": right.SerializeToString(),
        "input_spec": InputSpec(name="image", shape=(1, 1, 8, 8)),
        "output_specs": (OutputSpec(name="mask", shape=(1, 1, 8, 8), kind="mask_logits"),),
    }
    assert verify_variants({"int8": right.SerializeToString()}, **arguments).score("int8").passed
    with pytest.raises(LoweringError, match=r"int8 loses 0\.000 .* and its outputs are not finite: it diverges first"):
        verify_variants({"int8": wrong.SerializeToString()}, **arguments)


@pytest.mark.parametrize(
    ("wanted", "found", "decibel"),
    [([3.0, 4.0], [3.0, 4.0], None), ([3.0, 4.0], [3.0, 3.5], 20.0), ([0.0], [0.0], None), ([0.0], [1e-3], WORST_DB),
     ([1.0, 1.0], [1.0, np.nan], WORST_DB), ([1.0], [np.inf], WORST_DB)],
)  # fmt: skip
def test_signal_over_noise_by_hand(wanted, found, decibel):
    """25 / 0.25 is 20 dB; only equal arrays count as equal."""
    one, two = np.array(wanted, np.float32), np.array(found, np.float32)
    assert sqnr_db([one], [two]) == (None if decibel is None else pytest.approx(decibel))
    assert math.isfinite(largest_difference([one, one], [two, one])) == bool(np.isfinite(two).all())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"inputs": []}, "as many of both"),
        ({"labels": [np.zeros((4, 4), np.uint8)] * 120}, r"label 0 has shape \(4, 4\)"),
        ({"max_drop_points": {"fp32": 1.0}}, r"\['fp16', 'int8'\] have no gate"),
        ({"overrides": {"int8": "  "}}, "carries a reason"),
        ({"overrides": {"int4": "why"}}, "each names one of"),
        ({"output_specs": (OutputSpec(name="mask", shape=(1, 2), kind="logits"),)}, "mask_logits"),
    ],
)
def test_bad_arguments(lowered, held_out, change, match):
    with pytest.raises(ConfigError, match=match):
        verify_variants(lowered[0], **{**held_out, **change})


@pytest.mark.parametrize(("threshold", "temperature"), [(0.5, 1.0), (0.8, 1.0), (0.3, 2.5)])
def test_class_map_of_one_channel_is_the_sigmoids_threshold(threshold, temperature):
    logits = np.linspace(-6, 6, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    spec = OutputSpec(name="m", shape=(1, 1, 8, 8), kind="mask_logits", threshold=threshold, temperature=temperature)
    wanted = 1 / (1 + np.exp(-logits[0, 0].astype(np.float64) / temperature)) > threshold
    np.testing.assert_array_equal(class_map(logits, spec), wanted)


def test_class_map_of_many_channels_is_the_argmax():
    logits = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    spec = OutputSpec(name="m", shape=(1, 3, 4, 5), kind="mask_logits")
    np.testing.assert_array_equal(class_map(logits, spec), logits[0].argmax(0))
    with pytest.raises(ConfigError, match="have shape"):
        class_map(logits[:, :2], spec)


def test_dice_by_hand():
    a, b = np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)
    assert mean_dice([a], [b]) == 1.0
    a[0, :3], b[0, 1:4] = 1, 1
    assert mean_dice([a], [b]) == pytest.approx(4 / 6)
    a[1, :2] = 2
    assert mean_dice([a], [b]) == pytest.approx((4 / 6 + 0) / 2)
    assert mean_dice([a, b], [a, b]) == 1.0


def test_a_failure_names_the_first_tensor_that_diverges(lowered, held_out):
    models = {"fp32": lowered[0]["fp32"], "int8": broken(lowered[0]["int8"])}
    with pytest.raises(LoweringError, match=r"int8 loses .* on onnxruntime.*it diverges first at node 'Conv_10'"):
        verify_variants(models, **held_out)
    report = verify_variants(models, **held_out, refuse=False)
    assert [row.variant for row in report.failed] == ["int8"]
    assert "'Conv_10'" in report.score("int8").divergence
    assert report.score("fp32").divergence == ""


def test_intervals_hold_the_values_and_follow_the_groups(report, lowered, held_out):
    row = report.score("int8")
    assert row.dice_interval[0] < row.dice < row.dice_interval[1]
    assert row.drop_interval[0] <= row.drop_points <= row.drop_interval[1]
    assert report.student_interval[0] < report.student_dice < report.student_interval[1]
    one = verify_variants({"fp32": lowered[0]["fp32"]}, **held_out, groups=["same"] * len(held_out["inputs"]))
    assert one.student_interval is None
    assert one.score("fp32").drop_interval is None
    assert json.dumps(one.to_dict(), allow_nan=False)


def test_a_variant_runs_where_its_targets_allow(lowered, held_out):
    models = {name: lowered[0][name] for name in ("fp32", "int8")}
    few = {**held_out, "inputs": held_out["inputs"][:3], "labels": held_out["labels"][:3], "refuse": False}
    found = verify_variants(models, **few, targets={"fp32": ("ort-cpu",), "int8": ("tensorrt",)})
    assert [(row.variant, row.runner) for row in found.scores] == [("fp32", "onnxruntime"), ("int8", "onnxruntime")]
    with pytest.raises(ConfigError, match="runner 'abacus' is not known"):
        verify_variants(models, **few, runners=["abacus"])
    with pytest.raises(ConfigError, match="name at least one"):
        verify_variants(models, **few, runners=[])


def test_of_several_runners_the_worst_counts(lowered, held_out):
    from edge_runtime.runners import available_runners

    if available_runners().get("openvino", "absent") is not None:
        pytest.skip("OpenVINO is not installed, or has no runner")
    few = {**held_out, "inputs": held_out["inputs"][:10], "labels": held_out["labels"][:10]}
    models = {"fp32": lowered[0]["fp32"]}
    found = verify_variants(models, **few, runners=["onnxruntime", "openvino"])
    assert [row.runner for row in found.scores] == ["onnxruntime", "openvino"]
    assert found.score("fp32").dice == min(row.dice for row in found.scores)
    assert found.scores[1].max_abs < 0.1
