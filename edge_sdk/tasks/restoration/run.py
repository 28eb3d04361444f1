"""Run a restoration recipe: clean frames, teacher, student, scores, each a cached stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import nn

from edge_export import Origin, export_torch
from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import Letterbox, PreprocessSpec, Resize
from edge_sdk.batch import TrainingSet
from edge_sdk.lowering import Product, check_export, export_student, file_origin
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.recipe_export import ExportSection
from edge_sdk.recipe_text import write_report
from edge_sdk.stages import Stages, code_sha256
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.students.restorer import Restorer
from edge_sdk.tasks.restoration.data import FrameSet, read_clean
from edge_sdk.tasks.restoration.recipe import RestorationRecipe, RestorerConfig
from edge_sdk.tasks.restoration.scores import network_scores, trivial_scores
from edge_sdk.tasks.restoration.training import (
    IMAGE,
    build_restorer,
    degraded_set,
    distill_restorer,
    restorer_teacher,
    train_restorer,
)
from edge_sdk.teachers import (
    OutputForm,
    Teacher,
    TeacherCache,
    load_state_dict,
    load_teacher,
    save_state_dict,
)

__all__ = ["OUTPUT_NAME", "device_preprocess", "run"]

OUTPUT_NAME = "restored"  # of the student's ONNX output, (1, 1, s H, s W) float32
_CODE = (
    "edge_sdk.augment",
    "edge_sdk.batch",
    "edge_sdk.config",
    "edge_sdk.students",
    "edge_sdk.tasks.restoration",
    "edge_sdk.train",
    "edge_runtime.preprocess",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """What every stage of one run shares; `held_out` are the test frames, degraded once."""

    recipe: RestorationRecipe
    stages: Stages
    train: FrameSet
    held_out: TrainingSet
    test_sha256: str

    def inputs(self, **more: Any) -> dict[str, Any]:
        """What the outcome of a stage depends on."""
        recipe = self.recipe
        return {
            "preprocess": recipe.preprocess,
            "degrade": recipe.degrade,
            "seed": recipe.seed,
            "data": [self.train.sha256, self.test_sha256],
            "code": code_sha256(*_CODE),
            **more,
        }

    def training(self, draws: int) -> TrainingSet:
        recipe = self.recipe
        return degraded_set(self.train.frames, recipe.preprocess, recipe.degrade, draws=draws, seed=recipe.seed)

    def network(self, config: RestorerConfig, weights: Path) -> Restorer:
        network = build_restorer(config, scale=self.recipe.degrade.scale)
        network.load_state_dict(load_state_dict(weights))
        return network.eval()

    def scored(self, network: Any) -> dict[str, Any]:
        scores = network_scores(network, self.held_out)
        result: dict[str, Any] = {name: float(np.mean(values)) for name, values in scores.items()}
        result["per_frame"] = scores
        if isinstance(network, nn.Module):
            result["parameters"] = count_parameters(network)
            result["macs"] = count_macs(network, (1, *self.held_out.inputs.shape[1:]))
        return result


def run(
    recipe: RestorationRecipe, *, base: Path, out_dir: Path, progress: Progress = ignore_progress
) -> dict[str, Any]:
    """Run `recipe`; its paths are relative to `base`. Returns the report.

    `out_dir` receives `student.pt` (a state dict), `student.onnx` (output "restored") and `report.json`, each whole or
    not at all, and `stages/`, the cache that a second run continues from. With an export section NAME.edge and
    `recipe.effective.yaml` too, and the report says `export`. Raises `ConfigError` for anything in the recipe or its
    files that does not fit, `InferenceError` for a teacher whose output does not, and as `edge_sdk.lowering.make_edge`.
    """
    check_export(recipe, base)
    make_folder(out_dir)
    train, test = read_clean(recipe.data, base)
    held_out = degraded_set(test.frames, recipe.preprocess, recipe.degrade, draws=1, seed=recipe.seed + 1)
    stages = Stages(out_dir / "stages", progress)
    work = _Run(recipe=recipe, stages=stages, train=train, held_out=held_out, test_sha256=test.sha256)
    teacher, teacher_result = _teacher(work, base)
    student, result, state = _student(work, teacher)
    report: dict[str, Any] = {
        "name": recipe.name,
        "task": recipe.task,
        "preprocess_sha256": recipe.preprocess.sha256,
        "frames": {"train": len(train.frames), "test": len(test.frames)},
        "trivial": {
            name: {key: float(np.mean(values)) for key, values in scores.items()}
            for name, scores in trivial_scores(held_out).items()
        },
        "teacher": teacher_result,
        "student": result,
        "seconds": stages.timings(),
    }
    write_bytes(out_dir / "student.pt", state.read_bytes())
    exported = export_torch(student, (1, *held_out.inputs.shape[1:]), output_names=(OUTPUT_NAME,))
    write_bytes(out_dir / "student.onnx", exported.SerializeToString())
    write_report(out_dir, report)
    if recipe.export:
        teacher_origin = Origin(kind="teacher", name=teacher.name, sha256=teacher.sha256)
        origins = [file_origin("data", base / recipe.data.manifest), teacher_origin]
        made = _product(work, recipe.export, student, state, origins, report)
        report = {**report, "export": export_student(made, recipe, base=base, out_dir=out_dir, stages=stages)}
        write_report(out_dir, report)
    return report


def _product(
    work: _Run, section: ExportSection, student: Restorer, state: Path, origins: list[Origin], report: dict[str, Any]
) -> Product:
    recipe, held_out = work.recipe, work.held_out
    return Product(
        name=recipe.name,
        student=student,
        state=state,
        output=OutputSpec(
            name=OUTPUT_NAME,
            shape=(1, 1, *held_out.target(IMAGE).shape[2:]),
            kind="image",
            threshold=section.threshold,
        ),
        preprocess=device_preprocess(recipe),
        trained_on=work.training(1).inputs.numpy(),
        held_out=held_out.inputs.numpy(),
        origins=origins,
        report=report,
        features=student.body.encoder[-1],
    )


def device_preprocess(recipe: RestorationRecipe) -> PreprocessSpec:
    """What stands before the student on a device: at scale 2 it is given frames of half the size that it answers with.

    Raises `ConfigError` when the preprocessing has no size step that could be halved.
    """
    steps, scale = recipe.preprocess.steps, recipe.degrade.scale
    if scale == 1:
        return recipe.preprocess
    for k in reversed(range(len(steps))):
        step = steps[k]
        if isinstance(step, (Resize, Letterbox)):
            half = msgspec.structs.replace(step, height=step.height // scale, width=step.width // scale)
            return PreprocessSpec(steps=(*steps[:k], half, *steps[k + 1 :]))
    raise ConfigError("the preprocessing has neither resize nor letterbox; at scale 2 the export needs one to halve")


def _teacher(work: _Run, base: Path) -> tuple[Teacher, dict[str, Any]]:
    source = work.recipe.teacher
    if source.file:
        form = OutputForm(channels=1, layout="planes", values="values", enlarge=work.recipe.degrade.scale)
        loaded = load_teacher(base / source.file, form=form)
        stage = work.stages.run("teacher", work.inputs(teacher=loaded.sha256), lambda folder: work.scored(loaded))
        return loaded, stage.record.result
    inputs = work.inputs(train=source.train)

    def make(folder: Path) -> dict[str, Any]:
        trained = train_restorer(
            work.training(source.train.draws),
            source.train,
            checkpoint=work.stages.work_folder("teacher", inputs) / "checkpoint.pt",
            progress=work.stages.progress,
        )
        save_state_dict(trained.network, folder / "teacher.pt")
        return {**work.scored(trained.network), "losses": trained.fit.losses}

    stage = work.stages.run("teacher", inputs, make)
    network = work.network(source.train.network, stage.folder / "teacher.pt")
    return restorer_teacher(network), stage.record.result


def _student(work: _Run, teacher: Teacher) -> tuple[Restorer, dict[str, Any], Path]:
    config = work.recipe.distill
    inputs = work.inputs(distill=config, teacher=teacher.sha256)

    def make(folder: Path) -> dict[str, Any]:
        trained = distill_restorer(
            teacher,
            work.training(config.draws),
            config,
            cache=TeacherCache(work.stages.root / "answers"),
            checkpoint=work.stages.work_folder("student", inputs) / "checkpoint.pt",
            progress=work.stages.progress,
        )
        save_state_dict(trained.network, folder / "student.pt")
        return {**work.scored(trained.network), "losses": trained.fit.losses}

    stage = work.stages.run("student", inputs, make)
    state = stage.folder / "student.pt"
    return work.network(config.network, state), stage.record.result, state
