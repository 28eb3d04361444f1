"""A student learns from its teacher, with and without truth, and the report says from which frames."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.preprocess import Normalize, PreprocessSpec, Resize
from edge_sdk.config import AugmentConfig, DistillConfig, NetworkConfig, OptimiserConfig, TeacherConfig
from edge_sdk.distill import distill_student, output_planes, train_teacher
from edge_sdk.evaluate import predict_masks, score_masks
from edge_sdk.frames import LabelledFrames, UnlabelledFrames, frames_of, network_inputs
from edge_sdk.students import UNet
from edge_sdk.teachers import Teacher

SPEC = PreprocessSpec(steps=(Resize(height=32, width=32), Normalize()))
FAST = OptimiserConfig(epochs=30, batch_size=8, learning_rate=0.02, threads=1)
NETWORK = NetworkConfig(width=6, depth=2)


def _blobs(n: int, seed: int) -> LabelledFrames:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    centres = rng.uniform(8, 24, (n, 2))
    masks = np.stack([(((x - cx) ** 2 + (y - cy) ** 2) < 36).astype(np.uint8) for cx, cy in centres])
    images = np.clip(np.where(masks == 1, 60, 160) + rng.normal(0, 20, masks.shape), 0, 255).astype(np.uint8)
    return LabelledFrames.from_arrays(images, masks)


def _dark_teacher(frames: Tensor) -> Tensor:
    return (110 / 255 - torch.nn.functional.avg_pool2d(frames, 3, 1, 1, count_include_pad=False)) * 60


TEACHER = Teacher(name="dark", forward=_dark_teacher, classes=1, sha256="0" * 64)
CONFIG = DistillConfig(network=NETWORK, optimiser=FAST, augment=AugmentConfig(noise=0.0))


def _agreement(student: UNet) -> float:
    inputs = torch.from_numpy(network_inputs(_blobs(16, seed=9).frames, SPEC))
    return score_masks(predict_masks(student, inputs), predict_masks(TEACHER, inputs), 1).mean


def test_a_teacher_learns_from_masks() -> None:
    config = TeacherConfig(network=NETWORK, optimiser=FAST, augment=AugmentConfig(noise=0.0))
    trained = train_teacher(_blobs(24, seed=1), spec=SPEC, config=config)
    held_out = _blobs(16, seed=2)
    inputs = torch.from_numpy(network_inputs(held_out.frames, SPEC))
    scores = score_masks(predict_masks(trained.network, inputs), np.stack(held_out.masks), 1)
    assert scores.mean > 0.9
    assert trained.labelled_frames == 24


def test_a_student_imitates_its_teacher_without_any_truth() -> None:
    source = UnlabelledFrames(source="cine.dcm", frames=_blobs(24, seed=1).frames)
    trained = distill_student(TEACHER, spec=SPEC, unlabelled=[source], config=CONFIG)
    assert _agreement(trained.network) > 0.9
    assert trained.labelled_frames == 0
    assert trained.unlabelled == (source.record,)


def test_labelled_and_unlabelled_frames_go_together() -> None:
    frames = _blobs(24, seed=1).frames
    trained = distill_student(
        TEACHER,
        spec=SPEC,
        labelled=_blobs(16, seed=3),
        unlabelled=[UnlabelledFrames(source=name, frames=frames) for name in ("a", "b")],
        config=CONFIG,
    )
    assert _agreement(trained.network) > 0.9
    assert [record.source for record in trained.unlabelled] == ["a", "b"]


def test_a_weight_of_one_ignores_the_truth() -> None:
    labelled = _blobs(8, seed=1)
    wrong = LabelledFrames(frames=labelled.frames, masks=[1 - mask for mask in labelled.masks])
    config = msgspec.structs.replace(CONFIG, distill_weight=1.0, optimiser=msgspec.structs.replace(FAST, epochs=2))
    a = distill_student(TEACHER, spec=SPEC, labelled=labelled, config=config)
    b = distill_student(TEACHER, spec=SPEC, labelled=wrong, config=config)
    assert a.fit.losses == b.fit.losses
    both = msgspec.structs.replace(config, distill_weight=0.5)
    c = distill_student(TEACHER, spec=SPEC, labelled=wrong, config=both)
    assert c.fit.losses != a.fit.losses


def test_several_classes_share_one_softmax() -> None:
    def forward(frames: Tensor) -> Tensor:
        return torch.cat([frames * 0, (frames - 0.3) * 20, (frames - 0.7) * 40], dim=1)

    teacher = Teacher(name="three", forward=forward, classes=output_planes(2))
    labelled = _blobs(6, seed=1)
    config = msgspec.structs.replace(CONFIG, optimiser=msgspec.structs.replace(FAST, epochs=2))
    trained = distill_student(teacher, spec=SPEC, labelled=labelled, classes=2, config=config)
    assert trained.network.classes == 3
    assert trained.fit.losses[1] < trained.fit.losses[0]


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither labelled nor unlabelled"):
        distill_student(TEACHER, spec=SPEC)


def test_a_teacher_with_other_planes_is_refused() -> None:
    with pytest.raises(ConfigError, match="teacher dark gives 1 planes; 2 classes need 3"):
        distill_student(TEACHER, spec=SPEC, labelled=_blobs(2, 0), classes=2)


@pytest.mark.parametrize(
    ("forward", "message"),
    [(lambda x: x * float("nan"), "NaN"), (lambda x: x[:, :, ::2, ::2], r"\(16, 1, 32, 32\) is needed")],
)
def test_teachers_whose_answers_do_not_fit_are_refused(forward: Any, message: str) -> None:
    teacher = Teacher(name="odd", forward=forward, classes=1)
    with pytest.raises(InferenceError, match=message):
        distill_student(teacher, spec=SPEC, labelled=_blobs(16, 0), config=CONFIG)


def test_confident_teachers_survive_float16() -> None:
    teacher = Teacher(name="sure", forward=lambda x: (x - 0.5) * 1e6, classes=1)
    config = msgspec.structs.replace(CONFIG, optimiser=msgspec.structs.replace(FAST, epochs=1))
    source = UnlabelledFrames(source="s", frames=frames_of(np.stack([f.image for f in _blobs(8, 0).frames])))
    assert np.isfinite(distill_student(teacher, spec=SPEC, unlabelled=[source], config=config).fit.losses).all()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"distill_weight": 1.5}, {"distill_weight": -0.1}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DistillConfig(**settings)  # type: ignore[arg-type]


def test_no_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        output_planes(0)
