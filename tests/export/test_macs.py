"""Multiply-adds against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edge_export import count_macs
from edge_runtime.errors import LoweringError


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("node", "weight", "output", "wanted"),
    [
        (("Conv", {"pads": [1, 1, 1, 1]}), (6, 4, 3, 3), (1, 6, 8, 8), 6 * 8 * 8 * 4 * 9),
        (("Conv", {"strides": [2, 2], "pads": [1, 1, 1, 1]}), (6, 4, 3, 3), (1, 6, 4, 4), 6 * 4 * 4 * 4 * 9),
        (("Conv", {"group": 4, "pads": [1, 1, 1, 1]}), (4, 1, 3, 3), (1, 4, 8, 8), 4 * 8 * 8 * 9),
        (("ConvTranspose", {"strides": [2, 2]}), (4, 3, 2, 2), (1, 3, 16, 16), 4 * 8 * 8 * 3 * 4),
        (("MatMul", {}), (8, 5), (1, 4, 8, 5), 4 * 8 * 8 * 5),
        (("Relu", {}), None, (1, 4, 8, 8), 0),
    ],
)
def test_one_node(build, node, weight, output, wanted):
    kind, attributes = node
    inputs = ["image"] if weight is None else ["image", "w"]
    constants = {} if weight is None else {"w": zeros(*weight)}
    assert count_macs(
        build([helper.make_node(kind, inputs, ["mask"], **attributes)], constants, output_shape=output)
    ) == (wanted)


@pytest.mark.parametrize(("trans_a", "shape"), [(0, (3, 7)), (1, (7, 3))])
def test_gemm(build, trans_a, shape):
    node = helper.make_node("Gemm", ["image", "w"], ["mask"], transA=trans_a)
    model = build([node], {"w": zeros(7, 5)}, input_shape=shape, output_shape=(3, 5))
    assert count_macs(model) == 3 * 7 * 5


def test_u_net_in_closed_form(student):
    w, s = 8, 48 * 48
    convs = 9 * (s * (w + w * w + 2 * w * w) + s // 4 * (2 * w * w + 4 * w * w + 8 * w * w))
    convs += 9 * (s // 16 * (8 * w * w + 16 * w * w))
    convs += s // 4 * 8 * w * w + s * 2 * w * w + s * w
    assert count_macs(student) == convs


def test_open_shape_is_refused(build):
    node = helper.make_node("Conv", ["image", "w"], ["mask"])
    model = build([node], {"w": zeros(6, 4, 1, 1)}, input_shape=("n", 4, 8, 8), output_shape=("n", 6, 8, 8))
    with pytest.raises(LoweringError, match="fixed shapes"):
        count_macs(model)
