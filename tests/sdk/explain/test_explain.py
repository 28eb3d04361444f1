"""Grad-CAM against closed forms and finite facts; agreement against SciPy; the sanity check must be able to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.explain import (
    automatic_layer,
    cam_agreement,
    chance_iou,
    explanation_check,
    explanation_picture,
    grad_cam,
    layers_of,
    predicted_region,
    randomised,
)
from edge_sdk.students import UNet

FRAMES = torch.rand((3, 1, 16, 24), generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """Global average pooling and one linear layer: where CAM (Zhou et al. 2016) and Grad-CAM are the same."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3, 2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(5, classes)

    def forward(self, frames: Tensor) -> Tensor:
        found: Tensor = self.head(self.features(frames).mean(dim=(2, 3)))
        return found


class Planes(nn.Module):
    """One map times a weight for each class: y_c = w_c A at the size of the frame."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.weights = weights

    def forward(self, frames: Tensor) -> Tensor:
        inner = self.inner(frames)
        return torch.cat([weight * inner for weight in self.weights], dim=1)


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier().eval()


def unet(seed: int = 0, classes: int = 1) -> UNet:
    torch.manual_seed(seed)
    return UNet(classes=classes, width=4, depth=3).eval()


@pytest.mark.parametrize("target", [0, 1, 2, None])
def test_after_global_pooling_grad_cam_is_cam(target: int | None) -> None:
    module = classifier()
    features = module.features(FRAMES)
    chosen = module(FRAMES).argmax(dim=1) if target is None else torch.full((3,), target)
    cam = torch.einsum("nk,nkhw->nhw", module.head.weight[chosen], features).relu()
    cam = nn.functional.interpolate(cam[:, None], size=(16, 24), mode="bilinear", align_corners=False)[:, 0]
    expected = (cam / cam.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)).detach()
    for variant in ("grad-cam", "hires-cam"):
        found = grad_cam(module, FRAMES, layer="features", target=target, variant=variant)
        assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(
        grad_cam(module, FRAMES, layer="features", target=chosen),
        grad_cam(module, FRAMES, layer="features", target=target),
    )


def test_planes_in_closed_form() -> None:
    """With y = w A summed over a region, a = w |region| / |A|: the map is A itself, or nothing for w < 0."""
    region = torch.zeros((3, 16, 24), dtype=torch.bool)
    region[:, 2:5, 3:9] = True
    expected = FRAMES[:, 0] / FRAMES[:, 0].amax(dim=(1, 2), keepdim=True)
    assert torch.allclose(grad_cam(Planes([2.0]), FRAMES, layer="inner", region=region), expected)
    assert not grad_cam(Planes([-2.0]), FRAMES, layer="inner", region=region).any()
    assert torch.allclose(grad_cam(Planes([-1.0, 3.0]), FRAMES, layer="inner", target=1), expected)
    local = grad_cam(Planes([2.0]), FRAMES, layer="inner", region=region, variant="hires-cam")
    assert not local[~region].any()
    assert bool(local[region].any())


def test_the_region_is_by_default_the_prediction() -> None:
    module = Planes([1.0])
    frames = FRAMES - 0.5
    region = predicted_region(module(frames))
    assert torch.equal(region, frames[:, 0] > 0)
    assert torch.equal(grad_cam(module, frames, layer="inner"), grad_cam(module, frames, layer="inner", region=region))
    several = torch.randn((2, 3, 4, 4))
    assert torch.equal(predicted_region(several, 2), several.argmax(1) == 2)


def test_batches_do_not_mix_and_the_network_is_left_as_it_was() -> None:
    module = unet().train()
    module.stem.eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    region = FRAMES[:, 0] > 0.5
    whole = grad_cam(module, FRAMES, region=region)
    single = torch.cat([grad_cam(module, FRAMES[k : k + 1], region=region[k : k + 1]) for k in range(3)])
    assert torch.allclose(whole, single, atol=1e-5)
    assert torch.allclose(whole, grad_cam(module, FRAMES, region=region, batch_size=2), atol=1e-5)
    assert module.training
    assert not module.stem.training
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())
    frozen = unet().requires_grad_(False)
    assert torch.allclose(grad_cam(frozen, FRAMES, region=region), whole, atol=1e-5)


def test_the_automatic_layer_is_the_bottleneck() -> None:
    assert automatic_layer(unet(), FRAMES) == "encoder.1"
    assert automatic_layer(classifier(), FRAMES) == "features"
    names = [layer.name for layer in layers_of(unet(), FRAMES)]
    assert "pool" not in names  # it runs at every stage
    assert names.index("encoder.0") < names.index("encoder.1") < names.index("decoder.0") < names.index("head")


def test_what_cannot_be_explained_is_refused() -> None:
    script = torch.jit.trace(classifier(), FRAMES)  # type: ignore[no-untyped-call]
    many = Planes([1.0, 2.0])
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (script, {}, "TorchScript"),
        (abs, {}, "nn.Module"),
        (nn.Flatten(), {}, "no inner layer"),
        (classifier(), {"layer": "encoder"}, r"no layer 'encoder'.*'features'"),
        (classifier(), {"layer": "head"}, r"gives \(3, 3\)"),
        (unet(), {"layer": "pool"}, "runs 2 times"),
        (classifier(), {"target": 3}, "0 to 2 are allowed"),
        (classifier(), {"target": torch.tensor([0, 1])}, "one class per frame"),
        (classifier(), {"region": torch.ones(3, 16, 24, dtype=torch.bool)}, "region is for planes"),
        (many, {"layer": "inner"}, "as `target`"),
        (unet(), {"region": torch.ones(3, 8, 8, dtype=torch.bool)}, r"region is \(3, 8, 8\)"),
        (unet(), {"variant": "cam"}, "'cam' is unknown"),
    ]
    for module, arguments, message in cases:
        with pytest.raises(ConfigError, match=message):
            grad_cam(module, FRAMES, **arguments)
    with pytest.raises(ConfigError, match=r"\(N, C, H, W\)"):
        grad_cam(unet(), FRAMES[0])
    broken = unet()
    broken.head.weight.data.fill_(float("nan"))
    with pytest.raises(InferenceError, match="NaN"):
        grad_cam(broken, FRAMES, region=FRAMES[:, 0] > 0.5)


@given(st.integers(0, 10**6), st.booleans())
def test_rank_correlation_is_scipys(seed: int, ties: bool) -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 2, 5, 7))
    if ties:
        a, b = np.maximum(np.round(a, 1) - 0.5, 0), np.maximum(np.round(b, 1) - 0.5, 0)
    found = cam_agreement(torch.from_numpy(a), torch.from_numpy(b))
    for k in range(2):
        if np.ptp(a[k]) and np.ptp(b[k]):
            assert found.spearman[k] == pytest.approx(stats.spearmanr(a[k].ravel(), b[k].ravel()).statistic)


def test_agreement_of_known_maps() -> None:
    ramp = torch.arange(1.0, 101.0).view(1, 10, 10)
    same = cam_agreement(ramp, ramp**3)
    assert (same.spearman[0], same.top_iou[0], same.undefined) == (pytest.approx(1), 1, 0)
    turned = cam_agreement(ramp, 101 - ramp)
    assert (turned.spearman[0], turned.top_iou[0]) == (pytest.approx(-1), 0)
    shifted = cam_agreement(ramp, ramp.flatten().roll(10).view(1, 10, 10))  # top 20 rows of 100 move by 10
    assert shifted.top_iou[0] == pytest.approx(10 / 30)
    nothing = cam_agreement(ramp, torch.zeros_like(ramp))
    assert (nothing.spearman[0], nothing.top_iou[0], nothing.undefined) == (0, 0, 1)
    assert cam_agreement(ramp, ramp.flip(1), area=torch.eye(10, dtype=torch.bool)).spearman[0] == pytest.approx(-1)
    rng = torch.Generator().manual_seed(0)
    random = cam_agreement(*torch.rand((2, 4, 200, 200), generator=rng))
    assert random.top_iou.mean() == pytest.approx(chance_iou(), abs=0.01)
    assert abs(random.spearman.mean()) < 0.01


def test_agreement_refuses_what_does_not_fit() -> None:
    maps = torch.ones(2, 4, 4)
    with pytest.raises(ConfigError, match="equal"):
        cam_agreement(maps, maps[:1])
    with pytest.raises(ConfigError, match="top is 1"):
        cam_agreement(maps, maps, top=1)
    with pytest.raises(ConfigError, match="frame 0 is empty"):
        cam_agreement(maps, maps, area=torch.zeros(4, 4, dtype=torch.bool))


def test_random_weights_are_drawn_from_the_seed_alone() -> None:
    module = unet()
    before = torch.random.get_rng_state()
    a, b, c = (randomised(module, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    drawn = [name for name in a if "weight" in name and a[name].ndim == 4]
    assert all(not torch.equal(a[name], c[name]) for name in drawn)
    assert all(not torch.equal(a[name], module.state_dict()[name]) for name in drawn)


def test_the_check_compares_one_region_and_falls_for_random_weights() -> None:
    teacher = unet(3)
    found = explanation_check([teacher, teacher], teacher, FRAMES, draws=4)
    assert found.region is not None
    assert torch.equal(found.region, predicted_region(teacher(FRAMES).detach()))
    assert np.allclose(found.student.spearman, 1)
    assert len(found.randomised) == 4
    assert np.mean([draw.spearman.mean() for draw in found.randomised]) < 0.8
    one = classifier()
    kinds = explanation_check(one, one, FRAMES, draws=1)
    assert kinds.region is None
    assert np.allclose(kinds.student.top_iou[kinds.student.spearman > 0], 1)
    with pytest.raises(ConfigError, match="as `target`"):
        explanation_check(unet(classes=3), unet(classes=3), FRAMES)
    with pytest.raises(ConfigError, match="0 teachers"):
        explanation_check([], one, FRAMES)


def test_the_picture(tmp_path: Path) -> None:
    cv2: Any = pytest.importorskip("cv2")
    maps = {"teacher": FRAMES[:, 0], "student": FRAMES[:, 0] ** 2}
    masks = FRAMES[:, 0] > 0.5
    path = tmp_path / "cams.png"
    notes = {"student": ["a", "b", "c"]}
    explanation_picture(path, FRAMES[:, 0], maps, teacher_masks=masks, student_masks=~masks, notes=notes)
    image = cv2.imread(str(path))
    assert image.shape == (26 + 3 * (16 * 12 + 4), 3 * 24 * 12 + 2 * 4, 3)
    green = (image == (80, 220, 80)).all(axis=2)
    assert bool(green[:, : 24 * 12].any())
    assert not green[:, 24 * 12 :].any()
    with pytest.raises(ConfigError, match="student is"):
        explanation_picture(path, FRAMES[:, 0], {"student": FRAMES[:2, 0]})
    with pytest.raises(ConfigError, match="cannot be written"):
        explanation_picture(tmp_path / "none" / "x.png", FRAMES[:, 0], maps)
