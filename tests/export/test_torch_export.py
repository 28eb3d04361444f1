"""Export from torch: opset asserted, form, parity, quiet, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edge_export import export_torch, run_model, torch_parity
from edge_runtime.errors import LoweringError


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_opset_is_what_was_asked_for(trained, opset):
    model = export_torch(trained.module, (1, 1, 48, 48), opset=opset)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
    assert torch_parity(trained.module, model, trained.inputs[:2]) < 1e-4
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Conv", "Relu", "MaxPool", "Resize", "Concat"}


def test_default_is_18_and_small(student):
    assert student.opset_import[0].version == 18
    assert student.ir_version == 8
    weights = sum(np.prod(item.dims) * 4 for item in student.graph.initializer)
    assert student.ByteSize() < weights + 6000
    onnx.checker.check_model(student, full_check=True)


def test_transposed_agrees_with_torch(student_transposed, trained_transposed):
    assert torch_parity(trained_transposed.module, student_transposed, trained_transposed.inputs[:2]) < 1e-4


def test_training_flag_is_restored_and_names_are_set(trained):
    module = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)).train()
    model = export_torch(module, (1, 1, 8, 8), input_name="frame", output_names=("logits",))
    assert module.training
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("frame", "logits")


def test_two_outputs():
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, x + 1

    model = export_torch(Two(), (1, 3), output_names=("a", "b"))
    sample = np.float32([[1, 2, 3]])
    found = run_model(model, [sample])[0]
    np.testing.assert_array_equal(found["a"], sample * 2)
    np.testing.assert_array_equal(found["b"], sample + 1)


class Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mask": x * 2, "uncertainty": x + 1}


def test_outputs_by_name():
    module = Named()
    model = export_torch(module, (1, 3), output_names=("mask", "uncertainty"))
    sample = np.float32([[1, 2, 3]])
    found = run_model(model, [sample])[0]
    np.testing.assert_array_equal(found["mask"], sample * 2)
    np.testing.assert_array_equal(found["uncertainty"], sample + 1)
    assert torch_parity(module, model, [sample]) == 0


def test_names_in_another_order_are_refused():
    with pytest.raises(LoweringError, match="in that order"):
        export_torch(Named(), (1, 3), output_names=("uncertainty", "mask"))


def test_export_is_quiet(caplog, capfd, recwarn):
    level = logging.getLogger("torch.onnx").level
    with caplog.at_level(logging.WARNING):
        export_torch(nn.Conv2d(1, 1, 3), (1, 1, 8, 8), opset=17)
    out, err = capfd.readouterr()
    assert (out, err, caplog.records, list(recwarn)) == ("", "", [], [])
    assert logging.getLogger("torch.onnx").level == level


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1,), (1, 0, 8, 8)])
def test_bad_shape(shape):
    with pytest.raises(LoweringError, match="batch 1"):
        export_torch(nn.ReLU(), shape)


def test_wrong_shape_for_the_module():
    with pytest.raises(LoweringError, match="torch cannot export"):
        export_torch(nn.Conv2d(3, 1, 3), (1, 1, 8, 8))


def test_data_dependent_module_is_refused():
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    module = Branching().train()
    with pytest.raises(LoweringError, match="torch cannot export"):
        export_torch(module, (1, 1, 8, 8))
    assert module.training


def test_a_wrong_model_is_found_out(trained, student):
    broken = onnx.ModelProto()
    broken.CopyFrom(student)
    weight = onnx.numpy_helper.to_array(broken.graph.initializer[0])
    broken.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight * 2, broken.graph.initializer[0].name))
    assert torch_parity(trained.module, broken, trained.inputs[:1]) > 1e-2
    with pytest.raises(LoweringError, match="at most 0"):
        export_torch(trained.module, (1, 1, 48, 48), max_abs=0.0)
    with pytest.raises(LoweringError, match="no samples"):
        torch_parity(trained.module, student, [])
