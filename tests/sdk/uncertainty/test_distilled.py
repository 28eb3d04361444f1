"""A student that tells its teacher's spread: targets, loss, training, and the way to a device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edge_export import export_torch, rtx_gate, run_model, to_fp16
from edge_runtime.errors import ConfigError, LoweringError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.losses import dice_ce, pixelwise_kd
from edge_sdk.train import fit
from edge_sdk.uncertainty import (
    SpreadLoss,
    SpreadStudent,
    spread_fields,
    spread_of,
    spread_student,
    spread_target,
)

SMALL = NetworkConfig(width=4, depth=2)


def opposites(planes: int = 1) -> list[torch.Tensor]:
    """Two members: sure of opposites in pixel 0, agreed on one half in 1, on 0.9 in 2."""
    p = torch.tensor([[0.0, 0.5, 0.9], [1.0, 0.5, 0.9]]).view(2, 1, 1, 1, 3)
    return list(p if planes == 1 else torch.cat([1 - p, p], 2))


@pytest.mark.parametrize("planes", [1, 2])
def test_targets_of_known_members(planes: int) -> None:
    spread = spread_of(opposites(planes))
    nine = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    np.testing.assert_allclose(spread_target(spread).ravel(), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(spread_target(spread, "epistemic").ravel(), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(spread_target(spread, "total").ravel(), [1, 1, nine], atol=1e-5)


@pytest.mark.parametrize("planes", [1, 2])
def test_soft_fields_carry_the_mean_and_the_spread(planes: int) -> None:
    spread = spread_of(opposites(planes))
    fields = spread_fields(spread)
    logits = fields["mask"].values.float()
    p = torch.sigmoid(logits) if planes == 1 else torch.softmax(logits, 1)
    torch.testing.assert_close(p, spread.mean, atol=2e-3, rtol=0)
    assert {field.values.dtype for field in fields.values()} == {torch.float16}
    assert {field.kind for field in fields.values()} == {"dense"}
    sure = spread_fields(spread_of([torch.ones(1, 1, 1, 2)] * 2))["mask"].values
    assert torch.isfinite(sure).all()


def test_bad_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="variance"):
        spread_target(spread_of(opposites()), "variance")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dense"):
        spread_target(spread_of([torch.full((1, 2), 0.5)] * 2))


def batch(n: int = 2) -> tuple[dict[str, torch.Tensor], Batch]:
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "mask": torch.randn((n, 1, 4, 4), generator=generator),
        "uncertainty": torch.rand((n, 1, 4, 4), generator=generator),
    }
    soft = {
        "mask": Field(values=torch.randn((n, 1, 4, 4), generator=generator), kind="dense"),
        "uncertainty": Field(values=torch.rand((n, 1, 4, 4), generator=generator), kind="dense"),
    }
    truth = {"mask": Field(values=torch.randint(0, 2, (n, 4, 4), generator=generator), kind="labels")}
    labelled = torch.arange(n) < 1
    return outputs, Batch(inputs=torch.zeros(n, 1, 4, 4), labelled=labelled, targets=truth, soft=soft)


def test_loss_is_the_sum_of_its_parts() -> None:
    outputs, data = batch()
    loss = SpreadLoss(temperature=2.0, distill_weight=0.4, spread_weight=3.0)(outputs, data)
    weight = torch.tensor([0.4, 1.0]).view(2, 1, 1)
    soft = pixelwise_kd(outputs["mask"], data.soft_target("mask"), 2.0, weight) * 0.7
    truth = dice_ce(outputs["mask"][:1], data.target("mask")[:1]) * 0.3
    p, q = outputs["uncertainty"], data.soft_target("uncertainty")
    divergence = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean()
    assert loss.item() == pytest.approx((soft + truth + 3 * divergence).item(), rel=1e-4)


def test_loss_is_least_at_the_teacher_and_its_gradient_the_difference() -> None:
    _, data = batch()
    wanted = data.soft_target("uncertainty")
    plane = torch.zeros_like(wanted, requires_grad=True)
    exact = {"mask": data.soft_target("mask"), "uncertainty": wanted}
    loss = SpreadLoss(distill_weight=1.0)
    assert loss(exact, data).item() == pytest.approx(0.0, abs=1e-5)
    loss({"mask": data.soft_target("mask"), "uncertainty": torch.sigmoid(plane)}, data).backward()
    assert plane.grad is not None
    torch.testing.assert_close(plane.grad, (0.5 - wanted) / wanted.numel(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"distill_weight": 1.5}, {"spread_weight": 0.0}])
def test_bad_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SpreadLoss(**setting)


def test_outputs_that_do_not_fit_are_refused() -> None:
    outputs, data = batch()
    with pytest.raises(ConfigError, match="by name"):
        SpreadLoss()(outputs["mask"], data)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="both need one size"):
        SpreadLoss()({**outputs, "uncertainty": outputs["uncertainty"][..., :2]}, data)
    with pytest.raises(ConfigError, match="1 planes; 1 \\+ 1"):
        SpreadStudent(nn.Conv2d(1, 1, 1), 1)(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ConfigError, match="planes is 0"):
        SpreadStudent(nn.Identity(), 0)


def test_a_student_learns_where_its_teacher_is_in_doubt() -> None:
    """The members disagree where a frame is grey, and nowhere else; so does the student after training."""
    generator = torch.Generator().manual_seed(0)
    kinds = F.interpolate(torch.randint(0, 3, (24, 1, 4, 4), generator=generator).float(), scale_factor=4.0)
    frames = kinds - 1  # -1 surely out, 0 in doubt, 1 surely in
    members = [torch.where(kinds == 1, p, kinds / 2) for p in (0.1, 0.9)]
    data = TrainingSet(
        inputs=frames,
        labelled=torch.zeros(24, dtype=torch.bool),
        soft=spread_fields(spread_of(members)),
    )
    student = spread_student(SMALL)
    still = AugmentConfig(flip=0.5, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)
    fit(student, data, SpreadLoss(), OptimiserConfig(epochs=40, batch_size=8, learning_rate=2e-2, threads=1), still)
    with torch.no_grad():
        found = student(frames)
    told = found["uncertainty"]
    assert told[kinds == 1].mean() == pytest.approx(0.8, abs=0.1)
    assert told[kinds != 1].mean() < 0.1
    assert torch.sigmoid(found["mask"])[kinds == 2].mean() > 0.9


@pytest.mark.parametrize("planes", [1, 3])
def test_two_outputs_reach_onnx_and_pass_the_gate(planes: int) -> None:
    student = spread_student(SMALL, planes=planes).eval()
    model = export_torch(student, (1, 1, 16, 16), output_names=("mask", "uncertainty"))
    sample = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
    half = to_fp16(model, [sample])
    for each, tolerance in ((model, 1e-5), (half, 1e-2)):
        found = run_model(each, [sample])[0]
        with torch.no_grad():
            wanted = student(torch.from_numpy(sample))
        assert found["mask"].shape == (1, planes, 16, 16)
        assert found["uncertainty"].shape == (1, 1, 16, 16)
        for name in ("mask", "uncertainty"):
            np.testing.assert_allclose(found[name], wanted[name], atol=tolerance)
        report = rtx_gate(each.SerializeToString(), ("SM86",))
        if report.status == "not tried":
            pytest.skip(report.reason)
        assert report.status == "accepted", report


def test_names_of_outputs_must_be_the_students() -> None:
    with pytest.raises(LoweringError, match="in that order"):
        export_torch(spread_student(SMALL), (1, 1, 16, 16), output_names=("uncertainty", "mask"))
