"""Several heads on one encoder: both learn on simulated frames, what it saves, the losses, several outputs exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edge_export import export_torch, lower, run_model
from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.losses import dice_ce, logit_kd
from edge_sdk.simulate import training_set
from edge_sdk.students import UNet, count_macs
from edge_sdk.students.classifier import Encoder
from edge_sdk.students.multitask import MultiTaskLoss, MultiTaskUNet
from edge_sdk.train import fit

SMALL = {"width": 8, "depth": 3, "convs": 1}


def _simulated(n: int, seed: int) -> TrainingSet:
    """Frames (n, 1, 32, 32), every other upside down: the anechoic regions, which way up, and the regions' share."""
    images, masks, _ = training_set(seed, n, (96, 96))
    grey = F.avg_pool2d(torch.from_numpy(images)[:, None].float() / 255, 3)
    mask = (F.avg_pool2d(torch.from_numpy(masks)[:, None].float(), 3)[:, 0] > 0.5).long()
    over = torch.arange(n) % 2 == 1
    grey[over], mask[over] = grey[over].flip(2), mask[over].flip(1)
    share = mask.float().mean(dim=(1, 2))
    return TrainingSet(
        inputs=(grey - 0.3) / 0.2,
        labelled=torch.ones(n, dtype=torch.bool),
        targets={
            "mask": Field(values=mask, kind="labels"),
            "class": Field(values=over.long(), kind="fixed"),
            "value": Field(values=share[:, None], kind="fixed"),
        },
        scale=(0.3, 0.2),
    )


@pytest.mark.slow
def test_every_head_learns_on_simulated_frames() -> None:
    train, test = _simulated(64, 1), _simulated(32, 2)
    truth = test.target("class").numpy()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MultiTaskUNet(1, 1, classes=2, values=1, **SMALL)
    loss = MultiTaskLoss(weights={"mask": 1.0, "class": 1.0, "value": 0.5}, scale=0.05)
    still = AugmentConfig(min_scale=1, gain=0.1, gamma=0.1, noise=0.01)
    fit(network, train, loss, OptimiserConfig(epochs=24, batch_size=8, learning_rate=1e-2, threads=1), still)
    with torch.no_grad():
        found = network(test.inputs)
    mask = found["mask"][:, 0] > 0
    wanted = test.target("mask").bool()
    dice = 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum())
    assert dice > 0.6
    recalls = [(found["class"].argmax(1).numpy()[truth == k] == k).mean() for k in (0, 1)]
    assert np.mean(recalls) > 0.75
    shares = torch.stack([found["value"][:, 0], test.targets["value"].values[:, 0]])
    assert float(torch.corrcoef(shares)[0, 1]) > 0.6


def test_one_encoder_costs_little_more_than_the_mask_alone() -> None:
    both = count_macs(MultiTaskUNet(1, 1, classes=3, **SMALL), (1, 1, 64, 64))
    mask = count_macs(UNet(1, 1, **SMALL), (1, 1, 64, 64))
    second = count_macs(Encoder(1, width=8, depth=3, max_width=32, convs=1), (1, 1, 64, 64))
    assert both == mask + 3 * 32
    assert both < mask + second


def test_the_mask_is_the_unets() -> None:
    network = MultiTaskUNet(1, 2, classes=2, stem_stride=2, **SMALL).eval()
    frames = torch.randn((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(frames)["mask"], network.unet(frames))


def test_export_gives_named_outputs_through_the_gates() -> None:
    network = MultiTaskUNet(1, 1, classes=3, values=2, **SMALL).eval()
    assert network.output_names == ("mask", "class", "value")
    model = export_torch(network, (1, 1, 32, 32), output_names=network.output_names)
    rng = np.random.default_rng(0)
    samples = [rng.random((1, 1, 32, 32), np.float32) for _ in range(4)]
    found = run_model(model, samples)[0]
    assert {name: value.shape for name, value in found.items()} == {
        "mask": (1, 1, 32, 32),
        "class": (1, 3),
        "value": (1, 2),
    }
    files, report = lower(model, samples)
    assert all(variant.rtx.status in ("accepted", "not tried") for variant in report.variants)
    for name, worst in (("fp16", 0.02), ("int8", 0.3)):
        other = run_model(files[name], samples)[0]
        assert max(np.abs(other[key] - found[key]).max() for key in found) < worst


def _batch(labelled: list[bool], soft: bool) -> tuple[dict[str, torch.Tensor], Batch]:
    draw = torch.Generator().manual_seed(0)
    outputs = {
        "mask": torch.randn((3, 1, 4, 4), generator=draw),
        "class": torch.randn((3, 2), generator=draw),
        "value": torch.randn((3, 1), generator=draw),
    }
    answers = {name: Field(values=torch.randn_like(value), kind="fixed") for name, value in outputs.items()}
    answers["mask"] = Field(values=answers["mask"].values, kind="dense")
    batch = Batch(
        inputs=torch.zeros(3, 1, 4, 4),
        labelled=torch.tensor(labelled),
        targets={
            "mask": Field(values=(outputs["mask"][:, 0] > 0.5).long(), kind="labels"),
            "class": Field(values=torch.tensor([1, -1, 0]), kind="fixed"),
            "value": Field(values=torch.tensor([[0.5], [torch.nan], [1.0]]), kind="fixed"),
        },
        soft=answers if soft else {},
    )
    return outputs, batch


def test_losses_add_up_by_their_weights_and_unknown_truth_is_left_out() -> None:
    outputs, batch = _batch([True, True, True], soft=False)
    parts = {
        "mask": dice_ce(outputs["mask"], batch.target("mask")),
        "class": F.cross_entropy(outputs["class"][[0, 2]], torch.tensor([1, 0])),
        "value": F.smooth_l1_loss(outputs["value"][[0, 2]] / 2, torch.tensor([[0.25], [0.5]])),
    }
    weights = {"mask": 2.0, "class": 0.5, "value": 3.0}
    found = MultiTaskLoss(weights=weights, scale=2.0)(outputs, batch)
    expected = sum(weights[name] * float(part) for name, part in parts.items())
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_frames_have_the_teacher_alone() -> None:
    outputs, batch = _batch([False, False, False], soft=True)
    found = MultiTaskLoss(weights={"class": 1.0}, distill_weight=0.2)(outputs, batch)
    assert found.item() == pytest.approx(logit_kd(outputs["class"], batch.soft_target("class")).item(), rel=1e-5)


def test_a_frame_without_any_truth_gives_a_finite_gradient() -> None:
    outputs, batch = _batch([False, True, False], soft=False)  # the labelled one has no class and no value
    outputs = {name: value.requires_grad_() for name, value in outputs.items()}
    MultiTaskLoss(weights={"class": 1.0, "value": 1.0})(outputs, batch).backward()
    assert float(outputs["class"].grad.abs().sum()) == 0
    assert float(outputs["value"].grad.abs().sum()) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiTaskUNet(classes=1), "classes is 1"),
        (lambda: MultiTaskUNet(classes=0, values=0), "use UNet"),
        (lambda: MultiTaskUNet(**SMALL)(torch.zeros(1, 1, 30, 32)), "multiples of 4"),
        (lambda: MultiTaskLoss(weights={}), "positive numbers"),
        (lambda: MultiTaskLoss(weights={"boxes": 1.0}), "positive numbers"),
        (lambda: MultiTaskLoss(weights={"mask": -1.0}), "positive numbers"),
        (lambda: MultiTaskLoss(scale=0.0), "scale is 0.0"),
        (
            lambda: MultiTaskLoss(weights={"value": 1.0})({"mask": torch.zeros(1)}, _batch([True] * 3, False)[1]),
            "Add the",
        ),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
