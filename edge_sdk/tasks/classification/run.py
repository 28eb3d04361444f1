"""Run a classification recipe: clips, teacher, student, scores by patient, each a cached stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edge_export import Origin, export_torch
from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError
from edge_sdk.lowering import Product, check_export, export_student, file_origin
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.recipe import effective_yaml
from edge_sdk.recipe_export import ExportSection
from edge_sdk.recipe_text import write_report
from edge_sdk.stages import Stages, code_sha256
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.tasks.classification.data import ClipSet, read_clips, read_manifest
from edge_sdk.tasks.classification.recipe import ClassificationRecipe
from edge_sdk.tasks.classification.scores import agreement, patient_votes, score_patients
from edge_sdk.tasks.classification.training import (
    ClassEnsemble,
    build_classifier,
    class_logits,
    distill_classifier,
    train_teacher,
)
from edge_sdk.teachers import OutputForm, load_state_dict, load_teacher, save_state_dict

__all__ = ["OUTPUT_NAME", "run"]

OUTPUT_NAME = "class"  # of the student's ONNX output, (1, K) float32 logits
_CODE = (
    "edge_sdk.augment",
    "edge_sdk.batch",
    "edge_sdk.config",
    "edge_sdk.losses",
    "edge_sdk.students",
    "edge_sdk.tasks.classification",
    "edge_sdk.train",
    "edge_runtime.preprocess",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """What every stage of one run shares."""

    recipe: ClassificationRecipe
    stages: Stages
    train: ClipSet
    test: ClipSet
    code: str

    @property
    def classes(self) -> int:
        return len(self.recipe.classes)

    def inputs(self, **more: Any) -> dict[str, Any]:
        """What the outcome of a stage depends on."""
        return {
            "preprocess": self.recipe.preprocess,
            "classes": [spec.name for spec in self.recipe.classes],
            "data": [self.train.sha256, self.test.sha256],
            "code": self.code,
            **more,
        }


def run(
    recipe: ClassificationRecipe, *, base: Path, out_dir: Path, progress: Progress = ignore_progress
) -> dict[str, Any]:
    """Run `recipe`; its paths are relative to `base`. Returns the report.

    `out_dir` receives `recipe.effective.yaml`, `student.pt` (a state dict), `student.onnx` (output "class", (1, K)
    logits) and `report.json`, each whole or not at all, and `stages/`, the cache that a second run continues from.
    With an export section NAME.edge too, and the report says `export`. Raises `ConfigError` for anything in the recipe
    or its files that does not fit, `InferenceError` for a teacher whose output does not, and as
    `edge_sdk.lowering.make_edge`.
    """
    check_export(recipe, base)
    make_folder(out_dir)
    write_bytes(out_dir / "recipe.effective.yaml", effective_yaml(recipe).encode())
    rows = read_manifest(recipe.data, recipe.classes, base)
    parts = {split: [row for row in rows if row.split == split] for split in ("train", "test")}
    for split, own in parts.items():
        if not own:
            raise ConfigError(f"{base / recipe.data.manifest}: no row of split {split!r}; both splits are needed")
    train, test = (read_clips(parts[s], recipe.preprocess, recipe.data.samples, progress) for s in ("train", "test"))
    stages = Stages(out_dir / "stages", progress)
    work = _Run(recipe=recipe, stages=stages, train=train, test=test, code=code_sha256(*_CODE))
    teacher, teacher_id, teacher_result = _teacher(work, base)
    student, result, state = _student(work, teacher, teacher_id)
    report = _report(work, teacher_result, result)
    write_bytes(out_dir / "student.pt", state.read_bytes())
    exported = export_torch(student, (1, *train.inputs.shape[1:]), output_names=(OUTPUT_NAME,))
    write_bytes(out_dir / "student.onnx", exported.SerializeToString())
    write_report(out_dir, report)
    if recipe.export:
        teacher_origin = Origin(kind="teacher", name=Path(recipe.teacher.file).name or "teacher.pt", sha256=teacher_id)
        origins = [file_origin("data", base / recipe.data.manifest), teacher_origin]
        made = _product(work, recipe.export, student, state, origins, report)
        report = {**report, "export": export_student(made, recipe, base=base, out_dir=out_dir, stages=stages)}
        write_report(out_dir, report)
    return report


def _product(
    work: _Run, section: ExportSection, student: nn.Module, state: Path, origins: list[Origin], report: dict[str, Any]
) -> Product:
    names = tuple(spec.name for spec in work.recipe.classes)
    return Product(
        name=work.recipe.name,
        student=student,
        state=state,
        output=OutputSpec(
            name=OUTPUT_NAME,
            shape=(1, len(names)),
            kind="class_logits",
            classes=names,
            threshold=section.threshold,
        ),
        preprocess=work.recipe.preprocess,
        trained_on=work.train.inputs,
        held_out=work.test.inputs,
        origins=origins,
        report=report,
    )


def _teacher(work: _Run, base: Path) -> tuple[Callable[[Tensor], Tensor], str, dict[str, Any]]:
    source = work.recipe.teacher
    if source.file:
        form = OutputForm(channels=work.classes, layout="vector", values=source.output)
        loaded = load_teacher(base / source.file, form=form)
        inputs = work.inputs(teacher=[loaded.sha256, source.output])
        stage = work.stages.run("teacher", inputs, lambda folder: _score(work, loaded, loaded.name))
        return loaded, loaded.sha256, stage.record.result
    config = source.train
    inputs = work.inputs(train=config)

    def make(folder: Path) -> dict[str, Any]:
        checkpoint = work.stages.work_folder("teacher", inputs) / "checkpoint.pt"
        ensemble, fits = train_teacher(
            work.train,
            spec=work.recipe.preprocess,
            classes=work.classes,
            config=config,
            checkpoint=checkpoint,
            progress=work.stages.progress,
        )
        save_state_dict(ensemble, folder / "teacher.pt")
        return {**_score(work, ensemble, "teacher"), "losses": [report.losses for report in fits]}

    stage = work.stages.run("teacher", inputs, make)
    networks = [build_classifier(config.network, work.recipe.preprocess, work.classes) for _ in range(config.members)]
    teacher = ClassEnsemble(networks)
    teacher.load_state_dict(load_state_dict(stage.folder / "teacher.pt"))
    return teacher.eval(), stage.sha256, stage.record.result


def _student(
    work: _Run, teacher: Callable[[Tensor], Tensor], teacher_id: str
) -> tuple[nn.Module, dict[str, Any], Path]:
    config = work.recipe.distill
    inputs = work.inputs(distill=config, teacher=teacher_id)

    def make(folder: Path) -> dict[str, Any]:
        network, report = distill_classifier(
            teacher if config.distill_weight > 0 else None,
            work.train,
            spec=work.recipe.preprocess,
            classes=work.classes,
            config=config,
            checkpoint=work.stages.work_folder("student", inputs) / "checkpoint.pt",
            progress=work.stages.progress,
        )
        save_state_dict(network, folder / "student.pt")
        return {**_score(work, network, "student"), "losses": [report.losses]}

    stage = work.stages.run("student", inputs, make)
    student = build_classifier(config.network, work.recipe.preprocess, work.classes)
    student.load_state_dict(load_state_dict(stage.folder / "student.pt"))
    return student.eval(), stage.record.result, stage.folder / "student.pt"


def _score(work: _Run, network: Callable[[Tensor], Tensor], name: str) -> dict[str, Any]:
    """Scores by patient on the test split, what the network costs, and its probabilities of the test clips."""
    test = work.test
    logits = class_logits(network, torch.from_numpy(test.inputs), work.classes, name=name)
    probabilities = logits.double().softmax(dim=1).numpy()
    votes = patient_votes(probabilities, test.labels.tolist(), test.patients, test.files)
    result: dict[str, Any] = {
        "scores": msgspec.to_builtins(score_patients(votes, work.classes)),
        "probabilities": probabilities.round(6).tolist(),
    }
    if isinstance(network, nn.Module):
        result["parameters"] = count_parameters(network)
        result["macs"] = count_macs(network, (1, *test.inputs.shape[1:]))
    return result


def _report(work: _Run, teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    test, recipe = work.test, work.recipe
    own, theirs = np.array(student.pop("probabilities")), np.array(teacher.pop("probabilities"))
    return {
        "name": recipe.name,
        "task": recipe.task,
        "classes": [spec.name for spec in recipe.classes],
        "preprocess_sha256": recipe.preprocess.sha256,
        "data_sha256": {"train": work.train.sha256, "test": test.sha256},
        "clips": {"train": len(work.train), "test": len(test)},
        "patients": {"train": len(set(work.train.patients)), "test": len(set(test.patients))},
        "teacher": teacher,
        "student": student,
        "agreement": agreement(own, theirs),
        "mean_probability_difference": float(np.abs(own - theirs).mean()),
        "seconds": work.stages.timings(),
    }
