"""Training and distillation of classifiers: weights and losses in closed form, motion that is learned, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.preprocess import Letterbox, Normalize, PreprocessSpec, Stack
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.losses import logit_kd
from edge_sdk.tasks.classification.data import ClipSet
from edge_sdk.tasks.classification.recipe import (
    ClassDistillConfig,
    ClassificationRecipe,
    ClassifierConfig,
    ClassSpec,
    ClassTeacherConfig,
    ManifestData,
    TeacherSource,
)
from edge_sdk.tasks.classification.run import run
from edge_sdk.tasks.classification.scores import agreement
from edge_sdk.tasks.classification.training import (
    ClassEnsemble,
    ClassLoss,
    build_classifier,
    class_logits,
    distill_classifier,
    sample_weights,
    train_teacher,
)

SPEC = PreprocessSpec(steps=(Letterbox(height=16, width=16), Normalize(mean=0.5, std=0.3), Stack(n=3, stride=1)))
CLASSES = (ClassSpec(name="still"), ClassSpec(name="moving"))
STILL = AugmentConfig(flip=0, min_scale=1, gain=0, gamma=0, noise=0)
OPTIMISER = OptimiserConfig(epochs=6, batch_size=16, learning_rate=1e-2, threads=1)
LONGER = msgspec.structs.replace(OPTIMISER, epochs=25)
TEACHER = ClassTeacherConfig(
    network=ClassifierConfig(width=8, depth=2, max_width=16, convs=1), optimiser=OPTIMISER, augment=STILL, members=2
)
STUDENT = ClassDistillConfig(
    network=ClassifierConfig(width=4, depth=2, max_width=8, convs=1), optimiser=OPTIMISER, augment=STILL
)


def _movie(moving: bool, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Speckle (frames, 16, 16) uint8 that stands still or is new in every frame."""
    first = rng.integers(40, 216, (1, 16, 16), np.uint8)
    return rng.integers(40, 216, (frames, 16, 16), np.uint8) if moving else first.repeat(frames, axis=0)


def _set(n: int, seed: int) -> ClipSet:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    movies = np.stack([_movie(bool(label), 3, rng) for label in labels])
    inputs = ((movies / 255 - 0.5) / 0.3).astype(np.float32)
    names = tuple(f"p{k}" for k in range(n))
    return ClipSet(inputs=inputs, labels=labels, files=names, patients=names, sha256=f"{n}|{seed}")


def test_weights_by_hand() -> None:
    labels, patients = [0, 0, 0, 1], ["a", "a", "b", "c"]
    assert sample_weights(labels, patients, 2, "none").tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(sample_weights(labels, patients, 2, "class"), torch.tensor([2 / 3, 2 / 3, 2 / 3, 2]))
    torch.testing.assert_close(sample_weights(labels, patients, 2, "patient"), torch.tensor([0.5, 0.5, 1, 2]))
    with pytest.raises(ConfigError, match=r"classes \[2\] have no training sample"):
        sample_weights(labels, patients, 3, "class")


def _batch(logits: torch.Tensor, labelled: list[bool], weight: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        inputs=torch.zeros(len(logits), 1, 1, 1),
        labelled=torch.tensor(labelled),
        targets={
            "class": Field(values=torch.tensor([0, 1, 2, -1]), kind="fixed"),
            "weight": Field(values=weight, kind="fixed"),
        },
        soft={"class": Field(values=torch.randn(logits.shape, generator=generator), kind="fixed")},
    )


def test_loss_in_closed_form() -> None:
    logits = torch.randn((4, 3), generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 2.0, 0.5, 0.5])
    batch = _batch(logits, [True, True, True, False], weight)
    soft, target = batch.soft_target("class"), batch.target("class")
    expected = 0.0
    for k in range(4):
        kd = logit_kd(logits[k : k + 1], soft[k : k + 1], 3.0)
        share = 0.4 if k < 3 else 1.0
        expected += weight[k] * share * kd
        if k < 3:
            expected += weight[k] * 0.6 * F.cross_entropy(logits[k : k + 1], target[k : k + 1], label_smoothing=0.1)
    loss = ClassLoss(label_smoothing=0.1, temperature=3.0, distill_weight=0.4)(logits, batch)
    assert loss.item() == pytest.approx(float(expected / weight.sum()), rel=1e-5)


def test_label_free_loss_reads_no_label_and_labels_alone_no_teacher() -> None:
    logits = torch.randn((4, 3), generator=torch.Generator().manual_seed(0))
    batch = _batch(logits, [False] * 4, torch.ones(4))
    free = ClassLoss(distill_weight=1.0)(logits, batch)
    assert free.item() == pytest.approx(logit_kd(logits, batch.soft_target("class")).item(), rel=1e-5)
    known = Batch(inputs=batch.inputs[:3], labelled=torch.ones(3, dtype=torch.bool), targets={
        name: Field(values=values.values[:3], kind="fixed") for name, values in batch.targets.items()
    })  # fmt: skip
    loss = ClassLoss()(logits[:3], known)
    assert loss.item() == pytest.approx(F.cross_entropy(logits[:3], torch.tensor([0, 1, 2])).item(), rel=1e-5)


def test_an_ensembles_softmax_is_the_mean_probability() -> None:
    members = [build_classifier(STUDENT.network, SPEC, 3, seed=k).eval() for k in range(3)]
    inputs = torch.from_numpy(_set(4, 0).inputs)
    mean = torch.stack([member(inputs).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(ClassEnsemble(members)(inputs).softmax(1), mean)
    with pytest.raises(ConfigError, match="at least one member"):
        ClassEnsemble([])


def test_the_seed_alone_draws_the_weights() -> None:
    state = torch.random.get_rng_state()
    one, two, other = (build_classifier(STUDENT.network, SPEC, 2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_motion_is_learned_and_distilled_with_and_without_labels() -> None:
    train, test = _set(96, 0), _set(40, 1)
    teacher, reports = train_teacher(train, spec=SPEC, classes=2, config=TEACHER)
    assert len(reports) == 2
    inputs = torch.from_numpy(test.inputs)
    answers = class_logits(teacher, inputs, 2).numpy()
    assert (answers.argmax(1) == test.labels).mean() > 0.9
    unlabelled = msgspec.structs.replace(STUDENT, distill_weight=1.0)
    hidden = ClipSet(
        inputs=train.inputs,
        labels=np.full_like(train.labels, -1),
        files=train.files,
        patients=train.patients,
        sha256="x",
    )
    for config, clips in ((STUDENT, train), (unlabelled, hidden)):
        student, _ = distill_classifier(teacher, clips, spec=SPEC, classes=2, config=config)
        assert agreement(class_logits(student, inputs, 2).numpy(), answers) > 0.9


def test_refusals() -> None:
    clips = _set(4, 0)
    with pytest.raises(ConfigError, match="there is no teacher"):
        distill_classifier(None, clips, spec=SPEC, classes=2, config=STUDENT)
    hidden = clips.subset(np.ones(4, bool))
    hidden.labels[:] = -1
    with pytest.raises(ConfigError, match="4 clips have no label"):
        distill_classifier(lambda x: x, hidden, spec=SPEC, classes=2, config=STUDENT)
    with pytest.raises(InferenceError, match=r"tiny: the output for .* is \(4, 3\); \(4, 2\) is needed"):
        class_logits(lambda x: torch.zeros(len(x), 3), torch.from_numpy(clips.inputs), 2, name="tiny")
    with pytest.raises(InferenceError, match="NaN"):
        class_logits(lambda x: torch.full((len(x), 2), torch.nan), torch.from_numpy(clips.inputs), 2)


def _recipe(folder: Path) -> ClassificationRecipe:
    rng = np.random.default_rng(0)
    lines = ["file,label,split,patient"]
    for k in range(12):
        np.save(folder / f"{k}.npy", _movie(k % 2 == 1, 8, rng))
        lines.append(f"{k}.npy,{CLASSES[k % 2].name},{'train' if k < 8 else 'test'},p{k}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return ClassificationRecipe(
        data=ManifestData(manifest="m.csv", samples=6),
        classes=CLASSES,
        preprocess=SPEC,
        teacher=TeacherSource(train=msgspec.structs.replace(TEACHER, members=1, optimiser=LONGER)),
        distill=msgspec.structs.replace(STUDENT, optimiser=LONGER),
    )


def test_a_run_writes_student_model_and_report_and_is_cached(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    notes: list[str] = []
    report = run(recipe, base=tmp_path, out_dir=tmp_path / "out")
    assert report["patients"] == {"train": 8, "test": 4}
    assert report["student"]["scores"]["balanced_accuracy"] >= 0.75
    assert report["student"]["macs"] < report["teacher"]["macs"]
    model = onnx.load(tmp_path / "out" / "student.onnx")
    assert (model.graph.output[0].name, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value) == ("class", 2)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["agreement"] == report["agreement"]
    again = run(recipe, base=tmp_path, out_dir=tmp_path / "out", progress=lambda e: notes.append(e.note))
    assert again == report
    assert notes.count("cached") == 2


def test_a_teacher_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    from edge_export import export_torch

    recipe = _recipe(tmp_path)
    wrong = build_classifier(STUDENT.network, SPEC, 3)
    (tmp_path / "t.onnx").write_bytes(export_torch(wrong, (1, 3, 16, 16), output_names=("class",)).SerializeToString())
    recipe = msgspec.structs.replace(recipe, teacher=TeacherSource(file="t.onnx"))
    with pytest.raises(InferenceError, match=r"t\.onnx"):
        run(recipe, base=tmp_path, out_dir=tmp_path / "out")
    (tmp_path / "m.csv").write_text("file,label,split,patient\n0.npy,still,train,p0\n")
    with pytest.raises(ConfigError, match="no row of split 'test'"):
        run(recipe, base=tmp_path, out_dir=tmp_path / "out")
