"""Run a detection recipe: boxes, teacher, student, average precision, each a cached stage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_export import Origin
from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.preprocess import Preprocessor
from edge_sdk.frames import network_inputs
from edge_sdk.lowering import Product, check_export, export_student, file_origin
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.recipe_export import ExportSection
from edge_sdk.recipe_text import write_report
from edge_sdk.stages import Stages, code_sha256
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.students.detector import Detector
from edge_sdk.tasks.detection.config import DetectorConfig
from edge_sdk.tasks.detection.data import BoxedFrames, read_boxes, training_set
from edge_sdk.tasks.detection.predict import OUTPUT_NAME, detect, output_spec
from edge_sdk.tasks.detection.recipe import DetectionRecipe
from edge_sdk.tasks.detection.scores import average_precision, trivial_answers
from edge_sdk.tasks.detection.train import TrainedDetector, build_detector, distill_detector, train_detector
from edge_sdk.teachers import load_state_dict, save_state_dict

__all__ = ["run"]

MAX_ABS = 1e-2  # of the boxes, which are in pixels, between torch and ONNX
_CODE = (
    "edge_sdk.augment",
    "edge_sdk.batch",
    "edge_sdk.config",
    "edge_sdk.students",
    "edge_sdk.tasks.detection",
    "edge_sdk.train",
    "edge_runtime.postprocess",
    "edge_runtime.preprocess",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """What every stage of one run shares."""

    recipe: DetectionRecipe
    stages: Stages
    train: BoxedFrames
    test: BoxedFrames

    @property
    def shape(self) -> tuple[int, ...]:
        return Preprocessor(self.recipe.preprocess).output_shape

    def inputs(self, **more: Any) -> dict[str, Any]:
        """What the outcome of a stage depends on."""
        return {
            "preprocess": self.recipe.preprocess,
            "classes": self.recipe.classes,
            "data": [self.train.sha256, self.test.sha256],
            "score": self.recipe.score,
            "code": code_sha256(*_CODE),
            **more,
        }

    def network(self, config: DetectorConfig, weights: Path) -> Detector:
        network = build_detector(config, in_channels=self.shape[1], classes=len(self.recipe.classes))
        network.load_state_dict(load_state_dict(weights))
        return network.eval()

    def scored(self, network: Detector) -> dict[str, Any]:
        """Average precision on the test frames and what the network costs."""
        exported = network.exportable(*self.shape[2:]).eval()
        output = output_spec(exported, self.recipe.classes, threshold=self.recipe.score)
        found = detect(exported, output, self.test, self.recipe.preprocess)
        return {
            **_precision(found, self.test, self.recipe.classes),
            "parameters": count_parameters(network),
            "macs": count_macs(network, self.shape),
        }


def run(recipe: DetectionRecipe, *, base: Path, out_dir: Path, progress: Progress = ignore_progress) -> dict[str, Any]:
    """Run `recipe`; its paths are relative to `base`. Returns the report.

    `out_dir` receives `student.pt` (a state dict), `student.onnx` (output "boxes", (1, P, 4 + K)) and `report.json`,
    each whole or not at all, and `stages/`, the cache that a second run continues from. With an export section
    NAME.edge and `recipe.effective.yaml` too, and the report says `export`. Raises `ConfigError` for anything in the
    recipe or its files that does not fit, `InferenceError` for a teacher that answers with NaN, and as
    `edge_sdk.lowering.make_edge`.
    """
    check_export(recipe, base)
    make_folder(out_dir)
    data = recipe.data
    train, test = read_boxes(
        base / data.images, base / data.boxes, base / data.manifest, recipe.classes, group=data.group
    )
    work = _Run(recipe=recipe, stages=Stages(out_dir / "stages", progress), train=train, test=test)
    teacher, teacher_id, teacher_result = _teacher(work, base)
    student, result, state = _student(work, teacher, teacher_id)
    report = _report(work, teacher_result, result)
    write_bytes(out_dir / "student.pt", state.read_bytes())
    write_bytes(out_dir / "student.onnx", _onnx(student, work.shape))
    write_report(out_dir, report)
    if recipe.export:
        teacher_origin = Origin(
            kind="teacher", name=Path(recipe.teacher.checkpoint).name or "teacher.pt", sha256=teacher_id
        )
        origins = [file_origin("data", base / path) for path in (data.manifest, data.boxes)]
        made = _product(work, recipe.export, student, state, [*origins, teacher_origin], report)
        report = {
            **report,
            "export": export_student(made, recipe, base=base, out_dir=out_dir, stages=work.stages),
        }
        write_report(out_dir, report)
    return report


def _product(
    work: _Run, section: ExportSection, student: Detector, state: Path, origins: list[Origin], report: dict[str, Any]
) -> Product:
    spec = work.recipe.preprocess
    exported = student.exportable(*work.shape[2:]).eval()
    return Product(
        name=work.recipe.name,
        student=exported,
        state=state,
        output=output_spec(exported, work.recipe.classes, threshold=section.threshold),
        preprocess=spec,
        trained_on=network_inputs(work.train.frames, spec),
        held_out=network_inputs(work.test.frames, spec),
        origins=origins,
        report=report,
        max_abs=MAX_ABS,
        features=student.stages[-1],
    )


def _teacher(work: _Run, base: Path) -> tuple[Detector, str, dict[str, Any]]:
    source, config = work.recipe.teacher, work.recipe.teacher.train
    if source.checkpoint:
        path = base / source.checkpoint
        network = work.network(config.network, path)
        inputs = work.inputs(network=config.network, weights=hashlib.sha256(path.read_bytes()).hexdigest())
        stage = work.stages.run("teacher", inputs, lambda folder: work.scored(network))
        return network, stage.sha256, stage.record.result
    inputs = work.inputs(train=config)

    def make(folder: Path) -> dict[str, Any]:
        trained = train_detector(
            training_set(work.train, work.recipe.preprocess, len(work.recipe.classes)),
            classes=len(work.recipe.classes),
            config=config,
            checkpoint=work.stages.work_folder("teacher", inputs) / "checkpoint.pt",
            progress=work.stages.progress,
        )
        return _saved(work, trained, folder / "teacher.pt")

    stage = work.stages.run("teacher", inputs, make)
    return work.network(config.network, stage.folder / "teacher.pt"), stage.sha256, stage.record.result


def _student(work: _Run, teacher: Detector, teacher_id: str) -> tuple[Detector, dict[str, Any], Path]:
    config = work.recipe.distill
    inputs = work.inputs(distill=config, teacher=teacher_id)

    def make(folder: Path) -> dict[str, Any]:
        trained = distill_detector(
            teacher,
            training_set(work.train, work.recipe.preprocess, len(work.recipe.classes)),
            classes=len(work.recipe.classes),
            config=config,
            checkpoint=work.stages.work_folder("student", inputs) / "checkpoint.pt",
            progress=work.stages.progress,
        )
        return _saved(work, trained, folder / "student.pt")

    stage = work.stages.run("student", inputs, make)
    path = stage.folder / "student.pt"
    return work.network(config.network, path), stage.record.result, path


def _saved(work: _Run, trained: TrainedDetector, path: Path) -> dict[str, Any]:
    save_state_dict(trained.network, path)
    training = {"losses": trained.fit.losses, "seconds": trained.fit.seconds}
    return {**work.scored(trained.network), "training": training}


def _precision(found: list[npt.NDArray[np.float32]], frames: BoxedFrames, classes: tuple[str, ...]) -> dict[str, Any]:
    mean, each = average_precision(found, frames.boxes)
    return {"ap50": mean, "ap50_by_class": {classes[label]: value for label, value in each.items()}}


def _report(work: _Run, teacher: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    answers = trivial_answers(work.train, work.test)
    trivial = {name: average_precision(rows, work.test.boxes)[0] for name, rows in answers.items()}
    return {
        "name": work.recipe.name,
        "classes": list(work.recipe.classes),
        "preprocess_sha256": work.recipe.preprocess.sha256,
        "data_sha256": [work.train.sha256, work.test.sha256],
        "frames": {"train": len(work.train.frames), "test": len(work.test.frames)},
        "trivial_ap50": trivial,
        "teacher": teacher,
        "student": student,
        "ap50_drop_points": 100 * (teacher["ap50"] - student["ap50"]),
        "seconds": work.stages.timings(),
    }


def _onnx(student: Detector, shape: tuple[int, ...]) -> bytes:
    from edge_export import export_torch

    module = student.exportable(*shape[2:]).eval()
    data: bytes = export_torch(module, shape, output_names=(OUTPUT_NAME,), max_abs=MAX_ABS).SerializeToString()
    return data
