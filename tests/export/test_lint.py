"""Every rule on a graph that breaks it and on one that does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_export import Finding, lint, require_clean, rule_table, tidy, to_fp16, to_int8
from edge_export.cpu_int8 import to_cpu_int8
from edge_runtime.errors import ConfigError, LoweringError

NVIDIA = ("jetpack6", "jetpack7", "tensorrt11", "rtx")
CPU = ("ort-cpu", "openvino")
ALL = (*NVIDIA, *CPU)
W = np.ones((4, 4, 1, 1), np.float32)
S, Z = np.float32(0.1), np.int8(0)


def node(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def array(value: object, dtype: type) -> np.ndarray:
    return np.asarray(value, dtype)


def pair(source: str, tag: str, scale: str = "s", zero: str = "z") -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", [source, scale, zero], f"{tag}q"),
        node("DequantizeLinear", [f"{tag}q", scale, zero], f"{tag}d"),
    ]


def conv(**attributes: object) -> onnx.NodeProto:
    return node("Conv", ["image", "w"], "mask", **attributes)


def with_bias(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", ["b", "s", "zb"], "bd"),
        node("Conv", ["image", "w", "bd"], "mask", kernel_shape=[1, 1]),
    ]
    return build(nodes, {"w": W, "b": np.zeros(4, np.int32), "s": array(S, np.float32), "zb": array(0, np.int32)})


def quantized(build: Callable[..., onnx.ModelProto], zero: object, scale: float = 0.1) -> onnx.ModelProto:
    nodes = [*pair("image", "a"), node("Relu", ["ad"], "mask")]
    return build(nodes, {"s": array(scale, np.float32), "z": np.asarray(zero)})


def half_scale(build: Callable[..., onnx.ModelProto], opset: int) -> onnx.ModelProto:
    nodes = [
        node("Cast", ["image"], "h", to=TensorProto.FLOAT16),
        *pair("h", "a"),
        node("Cast", ["ad"], "mask", to=TensorProto.FLOAT),
    ]
    return build(nodes, {"s": array(0.1, np.float16), "z": array(0, np.int8)}, opset=opset)


def concat(build: Callable[..., onnx.ModelProto], second: str) -> onnx.ModelProto:
    nodes = [
        *pair("image", "a"),
        node("Neg", ["image"], "n"),
        *pair("n", "b", scale=second),
        node("Concat", ["ad", "bd"], "mask", axis=1),
    ]
    scales = {"s": array(0.1, np.float32), "t": array(0.2, np.float32), "z": array(0, np.int8)}
    return build(nodes, scales, output_shape=(1, 8, 8, 8))


def transposed(build: Callable[..., onnx.ModelProto], source: str) -> onnx.ModelProto:
    nodes = [*pair("image", "a"), node("ConvTranspose", [source, "w"], "x", kernel_shape=[1, 1])]
    return build(
        [*nodes, node("Add", ["x", "ad"], "mask")], {"w": W, "s": array(S, np.float32), "z": array(0, np.int8)}
    )


def grouped(build: Callable[..., onnx.ModelProto], kind: int) -> onnx.ModelProto:
    weight = np.ones((4, 1, 1, 1), helper.tensor_dtype_to_np_dtype(kind))
    nodes = [
        node("Cast", ["image"], "h", to=kind),
        node("Conv", ["h", "w"], "x", group=4, kernel_shape=[1, 1]),
        node("Cast", ["x"], "mask", to=TensorProto.FLOAT),
    ]
    return build(nodes, {"w": weight})


def external(build: Callable[..., onnx.ModelProto], apart: bool) -> onnx.ModelProto:
    model = build([conv(kernel_shape=[1, 1])], {"w": W})
    if apart:
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
    return model


def reshaped(build: Callable[..., onnx.ModelProto], computed: bool) -> onnx.ModelProto:
    shape = np.array([1, 4, 8, 8], np.int64)
    first = [node("Shape", ["image"], "shape")] if computed else []
    return build([*first, node("Reshape", ["image", "shape"], "mask")], {} if computed else {"shape": shape})


def doubled(build: Callable[..., onnx.ModelProto], kind: int) -> onnx.ModelProto:
    return build([node("Cast", ["image"], "x", to=kind), node("Cast", ["x"], "mask", to=TensorProto.FLOAT)], {})


def relu(build: Callable[..., onnx.ModelProto], **options: object) -> onnx.ModelProto:
    return build([node("Relu", ["image"], "mask")], {}, **options)


def mistyped(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return build([node("Cast", ["image"], "x", to=TensorProto.FLOAT16), node("Add", ["x", "image"], "mask")], {})


def with_kernel(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return build([conv(kernel_shape=[1, 1])], {"w": W})


def changed(build: Callable[..., onnx.ModelProto], edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = with_kernel(build)
    edit(model)
    return model


def cut(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def weight(build: Callable[..., onnx.ModelProto], value: float, dtype: type = np.float32) -> onnx.ModelProto:
    values = np.ones((4, 4, 1, 1), dtype)
    values[2] = value
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        node("Cast", ["image"], "h", to=kind),
        node("Conv", ["h", "w"], "x", kernel_shape=[1, 1]),
        node("Cast", ["x"], "mask", to=TensorProto.FLOAT),
    ]
    return build(nodes, {"w": values})


def computed_weight(build: Callable[..., onnx.ModelProto], computed: bool) -> onnx.ModelProto:
    nodes = [
        node("Reshape", ["image", "shape"], "r"),
        node("Conv", ["image", "r" if computed else "w"], "mask", kernel_shape=[1, 1]),
    ]
    constants = {"shape": np.array([4, 4, 1, 1], np.int64), "w": W}
    return build(nodes, constants, input_shape=(1, 4, 2, 2))


def branching(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "b", [], [out])
    return build([node("If", ["yes"], "mask", then_branch=body, else_branch=body)], {"yes": np.array(True)})


def resize(build: Callable[..., onnx.ModelProto], **attributes: object) -> onnx.ModelProto:
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    return build([node("Resize", ["image", "", "scales"], "mask", **attributes)], scales, output_shape=(1, 4, 16, 16))


def aligned(build: Callable[..., onnx.ModelProto], scale: float) -> onnx.ModelProto:
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    scales = {"scales": np.array([1, 1, scale, 1], np.float32)}
    shape = (1, 4, int(8 * scale), 8)
    return build([node("Resize", ["image", "", "scales"], "mask", **attributes)], scales, output_shape=shape)


def modulo(build: Callable[..., onnx.ModelProto], fmod: int) -> onnx.ModelProto:
    return build([node("Mod", ["image", "two"], "mask", fmod=fmod)], {"two": np.float32(2) * np.ones(1, np.float32)})


def sliced(build: Callable[..., onnx.ModelProto], end: int) -> onnx.ModelProto:
    ends = {"start": np.array([0]), "end": np.array([end]), "axes": np.array([1])}
    nodes = [
        node("Slice", ["image", "start", "end", "axes"], "part"),
        node("Concat", ["part", "image"], "mask", axis=1),
    ]
    return build(nodes, ends, output_shape=(1, 4 + end, 8, 8))


def pool(build: Callable[..., onnx.ModelProto], kind: str = "MaxPool", **attributes: object) -> onnx.ModelProto:
    return build(
        [node(kind, ["image"], "mask", kernel_shape=[3, 3], **attributes)], {}, output_shape=(1, 4, None, None)
    )


def indices(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return build(
        [helper.make_node("MaxPool", ["image"], ["mask", "i"], kernel_shape=[1, 1])], {}, output_shape=(1, 4, 8, 8)
    )


def twice(build: Callable[..., onnx.ModelProto], apart: bool) -> onnx.ModelProto:
    middle = [node("Relu", ["ad"], "n")] if apart else [node("Cast", ["ad"], "n", to=TensorProto.FLOAT)]
    nodes = [*pair("image", "a"), *middle, *pair("n", "b"), node("Relu", ["bd"], "mask")]
    return build(nodes, {"s": array(0.1, np.float32), "z": array(0, np.int8)})


def lonely(build: Callable[..., onnx.ModelProto], kind: str) -> onnx.ModelProto:
    if kind == "Q":
        nodes = [node("QuantizeLinear", ["image", "s", "z"], "q"), node("Cast", ["q"], "mask", to=TensorProto.FLOAT)]
    else:
        nodes = [node("Cast", ["image"], "q", to=TensorProto.INT8), node("DequantizeLinear", ["q", "s", "z"], "mask")]
    return build(nodes, {"s": array(0.1, np.float32), "z": array(0, np.int8)})


def per_channel(build: Callable[..., onnx.ModelProto], kind: str, axis: int) -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], "wd", axis=axis),
        node(kind, ["image", "wd"], "mask", kernel_shape=[1, 1]),
    ]
    constants = {"w": np.ones((4, 4, 1, 1), np.int8), "s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)}
    return build(nodes, constants)


def per_channel_activation(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    nodes = [*pair("image", "a"), node("Relu", ["ad"], "mask")]
    return build(nodes, {"s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)})


def masked(build: Callable[..., onnx.ModelProto], kind: type) -> onnx.ModelProto:
    if kind is bool:
        return build([node("Where", ["keep", "image", "zero"], "mask")], {"keep": np.ones((8, 8), bool), "zero": S})
    return build([node("Mul", ["image", "keep"], "mask")], {"keep": np.ones((8, 8), np.float32)})


def doubled_output(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    return build([node("Cast", ["image"], "mask", to=TensorProto.DOUBLE)], {}, output_type=TensorProto.DOUBLE)


def unranked(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def nameless(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = ""


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, (1, 4, 8, 8)))


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def grid_sample(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    grid = {"grid": np.zeros((1, 8, 8, 2), np.float32)}
    return build([node("GridSample", ["image", "grid"], "mask")], grid)


# rule, the targets it holds for, a graph that breaks it, one that does not
WHOLE_FILE = {"graph-types", "opset", "device-guard", "inputs", "open-shape"}  # the others name a node
CASES = [
    ("graph-types", ALL, mistyped, relu),
    ("opset", ("jetpack6",), lambda b: relu(b, opset=19), relu),
    ("opset", ALL, lambda b: relu(b, opset=25), lambda b: relu(b, opset=17)),
    ("external-data", ALL, lambda b: external(b, True), lambda b: external(b, False)),
    ("operator", ALL, lambda b: b([node("Det", ["image"], "mask")], {}, output_shape=(1, 4)), relu),
    ("device-guard", ALL, lambda b: external(b, True), relu),
    ("open-shape", ALL, lambda b: relu(b, input_shape=("n", 4, 8, 8)), relu),
    ("computed-shape", ALL, lambda b: reshaped(b, True), lambda b: reshaped(b, False)),
    ("kernel-shape", NVIDIA, lambda b: b([conv()], {"w": W}), with_kernel),
    ("half-group", ("tensorrt11",), lambda b: grouped(b, TensorProto.FLOAT16), lambda b: grouped(b, TensorProto.FLOAT)),
    ("qdq-bias", NVIDIA, with_bias, lambda b: quantized(b, Z)),
    ("qdq-zero-point", NVIDIA, lambda b: quantized(b, np.int8(3)), lambda b: quantized(b, Z)),
    ("qdq-uint8", NVIDIA, lambda b: quantized(b, np.uint8(0)), lambda b: quantized(b, Z)),
    ("qdq-scale", ALL, lambda b: quantized(b, Z, 0.0), lambda b: quantized(b, Z)),
    ("qdq-scale", ALL, lambda b: quantized(b, Z, float("inf")), lambda b: quantized(b, Z)),
    ("qdq-half-scale-opset", ALL, lambda b: half_scale(b, 18), lambda b: half_scale(b, 19)),
    ("qdq-half-scale-ort", ("ort-cpu",), lambda b: half_scale(b, 19), lambda b: quantized(b, Z)),
    ("qdq-concat", NVIDIA, lambda b: concat(b, "t"), lambda b: concat(b, "s")),
    ("qdq-conv-transpose", NVIDIA, lambda b: transposed(b, "ad"), lambda b: transposed(b, "image")),
    ("float64", NVIDIA, lambda b: doubled(b, TensorProto.DOUBLE), lambda b: doubled(b, TensorProto.FLOAT16)),
    ("leftover", ALL, lambda b: b([node("Identity", ["image"], "mask")], {}), relu),
    ("opset", ALL, lambda b: relu(b, opset=12), relu),
    ("opset", ALL, lambda b: changed(b, no_opset), with_kernel),
    ("constant-data", ALL, lambda b: changed(b, cut), with_kernel),
    ("not-finite", ALL, lambda b: weight(b, np.nan), lambda b: weight(b, 1.0)),
    ("not-finite", ALL, lambda b: weight(b, -np.inf, np.float16), lambda b: weight(b, 1.0, np.float16)),
    ("control-flow", ALL, branching, relu),
    ("inputs", ALL, lambda b: changed(b, second_input), with_kernel),
    ("inputs", ALL, lambda b: relu(b, input_shape=(1, 4)), relu),
    ("outputs", ALL, doubled_output, relu),
    ("node-name", ALL, lambda b: changed(b, nameless), with_kernel),
    ("open-shape", ALL, lambda b: changed(b, unranked), with_kernel),
    ("integer-constant", NVIDIA, lambda b: masked(b, bool), lambda b: masked(b, float)),
    ("element-type", ALL, lambda b: doubled(b, TensorProto.UINT16), lambda b: doubled(b, TensorProto.FLOAT16)),
    ("half-subnormal", ALL, lambda b: weight(b, 1e-6, np.float16), lambda b: weight(b, 0.0, np.float16)),
    ("half-on-cpu", CPU[:1], lambda b: weight(b, 1.0, np.float16), lambda b: weight(b, 1.0)),
    ("computed-weight", NVIDIA, lambda b: computed_weight(b, True), lambda b: computed_weight(b, False)),
    ("grid-sample", ("tensorrt11",), grid_sample, relu),
    ("resize-mode", NVIDIA, lambda b: resize(b, mode="cubic"), lambda b: resize(b, mode="linear")),
    ("resize-mode", NVIDIA, lambda b: resize(b, mode="linear", antialias=1), resize),
    ("resize-mode", NVIDIA, lambda b: resize(b, coordinate_transformation_mode="half_pixel_symmetric"), resize),
    ("resize-align-corners", ALL, lambda b: aligned(b, 0.7), lambda b: aligned(b, 0.5)),
    ("mod-float", ALL, lambda b: modulo(b, 0), lambda b: modulo(b, 1)),
    ("empty-tensor", ALL, lambda b: sliced(b, 0), lambda b: sliced(b, 4)),
    ("pool-dilation", NVIDIA, lambda b: pool(b, dilations=[2, 2]), lambda b: pool(b, dilations=[1, 1])),
    ("pool-ceil", ALL, lambda b: pool(b, "AveragePool", ceil_mode=1, strides=[2, 2]), lambda b: pool(b, "AveragePool")),
    ("extra-output", NVIDIA, indices, pool),
    ("qdq-lonely", ALL, lambda b: lonely(b, "Q"), lambda b: quantized(b, Z)),
    ("qdq-lonely", ALL, lambda b: lonely(b, "DQ"), lambda b: per_channel(b, "Conv", 0)),
    ("qdq-twice", ALL, lambda b: twice(b, False), lambda b: twice(b, True)),
    ("qdq-axis", NVIDIA, lambda b: per_channel(b, "Conv", 1), lambda b: per_channel(b, "Conv", 0)),
    ("qdq-axis", NVIDIA, lambda b: per_channel(b, "ConvTranspose", 0), lambda b: per_channel(b, "ConvTranspose", 1)),
    ("qdq-axis", NVIDIA, per_channel_activation, lambda b: quantized(b, Z)),
]


@pytest.mark.parametrize(("rule", "targets", "bad", "good"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_rule(build, rule, targets, bad, good):
    for target in ALL:
        found = [finding for finding in lint(bad(build), target) if finding.rule == rule]
        if target in targets:
            assert found, f"{target} lets it pass"
            assert all(finding.message and finding.fix for finding in found)
            assert rule in WHOLE_FILE or all(finding.node for finding in found)
        assert rule not in {finding.rule for finding in lint(good(build), target)}


def test_every_rule_has_a_case():
    assert {row["id"] for row in rule_table()} == {case[0] for case in CASES}
    for row in rule_table():
        targets = {target for case in CASES if case[0] == row["id"] for target in case[1]}
        assert targets == set(row["targets"]), row["id"]
        assert row["severity"] in ("error", "warning")
        assert row["reason"]
        assert row["fix"]


def test_concat_with_one_side_quantized(build):
    nodes = [*pair("image", "a"), node("Concat", ["ad", "image"], "mask", axis=1)]
    model = build(nodes, {"s": array(S, np.float32), "z": array(0, np.int8)}, output_shape=(1, 8, 8, 8))
    assert [f.message for f in lint(model, "rtx") if f.rule == "qdq-concat"] == [
        "Concat with only some inputs quantized."
    ]


def test_findings_name_the_node(build):
    finding = next(f for f in lint(with_bias(build), "rtx") if f.rule == "qdq-bias")
    assert finding.node == "n_bd"
    assert set(finding.to_dict()) == {"rule", "severity", "node", "message", "fix"}
    with pytest.raises(LoweringError, match="qdq-bias at n_bd"):
        require_clean(with_bias(build), "rtx")


def test_warnings_do_not_stop(build):
    found = require_clean(build([node("Identity", ["image"], "mask")], {}), "rtx")
    assert [type(f) for f in found] == [Finding]
    assert found[0].severity == "warning"


@pytest.mark.parametrize("target", ALL)
def test_our_own_files_are_clean(student, student_transposed, trained, target):
    for model in (student, student_transposed):
        for lowered in (tidy(model), to_fp16(model, trained.calibration), to_int8(model, trained.calibration)):
            found = {finding.rule for finding in lint(lowered.SerializeToString(), target)}
            assert found <= ({"half-on-cpu"} if target == "ort-cpu" else set())


def test_the_form_for_cpus_is_theirs_alone(student, trained):
    lowered = to_cpu_int8(tidy(student), trained.calibration)
    for target in ALL:
        errors = {finding.rule for finding in lint(lowered, target) if finding.severity == "error"}
        assert ("qdq-uint8" in errors) == (target in NVIDIA)
        assert bool(errors) == (target in NVIDIA)
        if target in NVIDIA:
            with pytest.raises(LoweringError, match="qdq-"):
                require_clean(lowered, target)


def test_bad_arguments(build):
    with pytest.raises(ConfigError, match="jetpack6"):
        lint(relu(build), "orin")
    with pytest.raises(LoweringError, match="not an ONNX model"):
        lint(b"\xff\xff\xff", "rtx")
