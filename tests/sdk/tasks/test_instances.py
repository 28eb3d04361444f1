"""Objects that touch come apart: truth, decoding and matching against scikit-image and by hand; training end to end."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label as skimage_label
from skimage.segmentation import find_boundaries

from edge_export import export_torch, lower
from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.batch import TrainingSet
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.students.instances import InstanceUNet, build_instance_network
from edge_sdk.tasks.instances import (
    InstanceConfig,
    InstanceScore,
    border_of,
    components,
    distill_instances,
    instance_set,
    match_instances,
    separate,
    train_instances,
)

MASKS = arrays(np.uint8, (12, 15), elements=st.integers(0, 2))


def touching_discs(count: int, seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Speckle with two to four dark discs of which neighbours touch with a thin bright wall, as two vessels lie side
    by side: frames (N, 1, S, S) float32 and object numbers (N, S, S) int32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    frames, numbers = np.empty((count, 1, side, side), np.float32), np.zeros((count, side, side), np.int32)
    for k in range(count):
        angle, place = rng.uniform(0, np.pi), rng.uniform(0.25, 0.5, 2) * side
        radius = rng.uniform(6, 10)
        level = np.ones((side, side))
        for number in range(1, rng.integers(3, 6)):
            inside = (np.hypot(x - place[0], y - place[1]) < radius) & (numbers[k] == 0)
            numbers[k][inside] = number
            wall = inside & (np.hypot(x - place[0], y - place[1]) > radius - 1)
            level = np.where(wall, 0.8, np.where(inside, 0.12, level))
            following = rng.uniform(6, 10)
            place = place + (radius + following - 1) * np.array([np.cos(angle), np.sin(angle)])
            radius, angle = following, angle + rng.uniform(-0.5, 0.5)
        frames[k, 0] = np.clip(level * rng.rayleigh(0.3, (side, side)), 0, 1)
    return frames, numbers


@given(MASKS)
def test_components_are_those_of_scikit_image(mask):
    found = components(mask)
    wanted = skimage_label(mask, background=0, connectivity=1)
    assert found.max() == wanted.max()
    # the same parts under other numbers
    assert len(np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1).T) == len(np.unique(wanted))


def test_small_components_go():
    mask = np.zeros((8, 8), np.uint8)
    mask[0, 0], mask[3:6, 3:6], mask[7, 7] = 1, 2, 1
    assert np.unique(components(mask, 2)).tolist() == [0, 1]
    assert np.unique(components(mask)).tolist() == [0, 1, 2, 3]


@given(MASKS)
def test_border_is_the_thick_boundary_of_scikit_image(mask):
    numbers = components(mask)
    found = border_of(torch.from_numpy(numbers)[None].long())[0].numpy()
    wanted = find_boundaries(numbers, connectivity=2, mode="thick") & (numbers > 0)
    np.testing.assert_array_equal(found, wanted)


def test_border_of_objects_whose_numbers_skip_one_between_them():
    """1 | 3 | 2: low and high numbers around must both be seen."""
    numbers = torch.tensor([[[1, 1, 1, 3, 3, 3, 2, 2, 2]]]).expand(1, 5, 9)
    assert border_of(numbers)[0, 2].tolist() == [False, False, True, True, False, True, True, False, False]
    assert border_of(numbers, 2)[0, 2].tolist() == [False, True, True, True, True, True, True, True, False]


def exact_maps(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect network would say of one class."""
    border = border_of(torch.from_numpy(numbers)[None].long())[0].numpy()
    return np.where(numbers > 0, 8.0, -8.0)[None].astype(np.float32), np.where(border, 8.0, -8.0).astype(np.float32)


def test_touching_discs_that_a_plain_mask_merges():
    _, truth = touching_discs(20, 3)
    score, plain = InstanceScore(0, 0, 0), InstanceScore(0, 0, 0)
    for numbers in truth:
        found, classes = separate(*exact_maps(numbers))
        np.testing.assert_array_equal(classes > 0, numbers > 0)
        score, plain = (
            score + match_instances(found, numbers),
            plain + match_instances(components(numbers > 0), numbers),
        )
    assert score.f1 == 1
    assert plain.f1 < 0.4
    assert plain.missed > 20


def test_two_classes_that_touch_stay_apart_and_a_thin_part_is_kept():
    classes = np.zeros((20, 30), np.uint8)
    classes[4:16, 2:10], classes[4:16, 10:18], classes[4:16, 25:27] = 1, 2, 1
    logits = np.where(np.arange(3)[:, None, None] == classes, 5.0, -5.0).astype(np.float32)
    border = np.full(classes.shape, -5.0, np.float32)
    border[:, 24:28] = 5  # nothing but border there
    numbers, found = separate(logits, border)
    np.testing.assert_array_equal(found, classes)
    assert numbers.max() == 3
    assert len({int(numbers[8, 5]), int(numbers[8, 12]), int(numbers[8, 25])}) == 3
    numbers, found = separate(logits, border, min_area=50)
    assert numbers.max() == 2
    assert not found[:, 20:].any()


@given(MASKS, arrays(np.float32, (12, 15), elements=st.sampled_from([-3.0, 3.0])))
@settings(max_examples=60)
def test_any_answer_numbers_its_mask_without_gaps(classes, border):
    logits = np.where(np.arange(3)[:, None, None] == classes, 5.0, -5.0).astype(np.float32)
    numbers, found = separate(logits, border, min_area=1)
    np.testing.assert_array_equal(found, classes)
    assert np.unique(numbers[numbers > 0]).tolist() == list(range(1, numbers.max() + 1))
    for number in range(1, numbers.max() + 1):
        assert len(np.unique(classes[numbers == number])) == 1


def test_matching_by_hand():
    truth, found = np.zeros((10, 10), int), np.zeros((10, 10), int)
    truth[0:4, 0:4], truth[6:10, 0:4], truth[0:2, 8:10] = 1, 2, 3
    found[0:4, 0:3], found[6:10, 3:7], found[5:6, 9:10] = 5, 2, 9  # IoU 12 / 16; 4 / 28; none
    assert match_instances(found, truth) == (1, 2, 2)
    assert match_instances(found, truth).f1 == pytest.approx(2 / 6)
    assert match_instances(found, truth, 0.75) == (0, 3, 3)
    assert np.isnan(match_instances(np.zeros((3, 3), int), np.zeros((3, 3), int)).f1)


def test_bad_values():
    mask, border = np.zeros((1, 8, 8), np.float32), np.zeros((8, 8), np.float32)
    with pytest.raises(ConfigError, match=r"\(C, H, W\)"):
        separate(mask, border[:4])
    with pytest.raises(ConfigError, match="thresholds"):
        separate(mask, border, threshold=1.0)
    border[3, 3] = np.nan
    with pytest.raises(InferenceError, match="finite"):
        separate(mask, border)
    with pytest.raises(ConfigError, match=r"0\.5 <= iou"):
        match_instances(mask[0], mask[0], 0.4)
    with pytest.raises(ConfigError, match="1 pixel"):
        border_of(torch.zeros(1, 4, 4), 0)
    with pytest.raises(ConfigError, match="min_area"):
        components(np.zeros((2, 2), int), 0)
    with pytest.raises(ConfigError, match="frame 1"):
        instance_set(np.zeros((2, 1, 8, 8)), np.zeros((2, 8, 8), int), np.eye(8, dtype=int)[None] * [[[0]], [[1]]])
    for words, values in (("border is 0", {"border": 0}), ("temperature", {"temperature": 0})):
        with pytest.raises(ConfigError, match=words):
            InstanceConfig(**values)
    with pytest.raises(ConfigError, match="classes is 0"):
        InstanceUNet(1, 0)


def test_export_passes_the_gate():
    network = build_instance_network(NetworkConfig(width=4, depth=3, max_width=16), classes=3)
    assert isinstance(network, InstanceUNet)
    model = export_torch(network, (1, 1, 32, 48), output_names=("mask", "border"))
    shapes = [[d.dim_value for d in item.type.tensor_type.shape.dim] for item in model.graph.output]
    assert shapes == [[1, 3, 32, 48], [1, 1, 32, 48]]
    rng = np.random.default_rng(0)
    has_rtx = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
    _, report = lower(model, [rng.random((1, 1, 32, 48), dtype=np.float32)] * 2, require_rtx=has_rtx)
    assert [v.rtx.status for v in report.variants] == ["accepted" if has_rtx else "not tried"] * 3


def test_half_labelled_frames_and_a_teacher_that_is_broken():
    frames, numbers = touching_discs(4, 0, side=32)
    data = instance_set(frames, numbers > 0, numbers)
    labelled = torch.tensor([True, False, True, False])
    mixed = TrainingSet(inputs=data.inputs, labelled=labelled, targets=data.targets)
    config = InstanceConfig(
        network=NetworkConfig(width=2, depth=2), optimiser=OptimiserConfig(epochs=1, batch_size=2, threads=1)
    )
    teacher = build_instance_network(NetworkConfig(width=2, depth=2))
    assert np.isfinite(distill_instances(teacher, mixed, config=config).fit.losses).all()
    with pytest.raises(ConfigError, match="no truth"):
        train_instances(mixed, config=config)
    torch.nn.init.constant_(teacher.net.head.bias, float("nan"))
    with pytest.raises(InferenceError, match="not finite"):
        distill_instances(teacher, mixed, config=config)
    with pytest.raises(ConfigError):
        distill_instances(build_instance_network(NetworkConfig(width=2, depth=2), classes=3), mixed, config=config)


@pytest.mark.slow
def test_a_trained_network_separates_what_components_merge():
    frames, numbers = touching_discs(192, 0)
    data = instance_set(frames, numbers > 0, numbers, scale=(0.0, 1.0))
    config = InstanceConfig(
        network=NetworkConfig(width=8, depth=3, max_width=24),
        optimiser=OptimiserConfig(epochs=16, batch_size=16, learning_rate=1e-2, threads=1),
        augment=AugmentConfig(min_scale=1.0),
    )
    teacher = train_instances(data, config=config)
    student = distill_instances(teacher.network, data, config=config)
    assert student.fit.losses[-1] < student.fit.losses[0]
    held, truth = touching_discs(64, 1)
    for network in (teacher.network, student.network):
        with torch.no_grad():
            maps = network(torch.from_numpy(held))
        ours, plain = InstanceScore(0, 0, 0), InstanceScore(0, 0, 0)
        for mask, border, wanted in zip(maps.mask.numpy(), maps.border.numpy(), truth, strict=True):
            found, _ = separate(mask, border[0])
            ours = ours + match_instances(found, wanted)
            plain = plain + match_instances(components(mask[0] > 0, 12), wanted)
        print(f"instance F1 at IoU 0.5: {ours.f1:.3f} with borders, {plain.f1:.3f} from connected components")
        assert ours.f1 > plain.f1 + 0.2
