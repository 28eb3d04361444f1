"""Run a recipe: frames, teacher, student, scores, each a cached stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edge_export import Origin, export_torch
from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import Preprocessor
from edge_sdk.config import NetworkConfig
from edge_sdk.distill import Trained, distill_student, output_planes, train_teacher
from edge_sdk.evaluate import predict_masks, score_masks
from edge_sdk.evaluate.folds import check_split, grouped_folds, read_rows
from edge_sdk.frame_store import load_labelled, save_labelled
from edge_sdk.frames import LabelledFrames, UnlabelledFrames, network_inputs, network_masks
from edge_sdk.lowering import Product, check_export, export_student, file_origin
from edge_sdk.pairs import find_pairs, read_pairs
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress
from edge_sdk.recipe import FolderData, Recipe, SimulatedData, effective_yaml
from edge_sdk.recipe_export import ExportSection
from edge_sdk.recipe_text import write_report
from edge_sdk.stages import StageResult, Stages, code_sha256
from edge_sdk.students import UNet, build_network, count_macs, count_parameters
from edge_sdk.teachers import (
    Teacher,
    TeacherCache,
    ensemble,
    load_state_dict,
    load_teacher,
    save_state_dict,
    teacher_from_module,
    with_flips,
)
from edge_sdk.unlabelled import read_unlabelled

__all__ = ["RecipeData", "RecipeOutcome", "make_student", "product", "read_data", "run"]

_CODE = (
    "augment",
    "batch",
    "config",
    "distill",
    "evaluate.scores",
    "frames",
    "losses",
    "students",
    "teachers",
    "train",
    "views",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecipeData:
    """The frames of a recipe: for training, held out, unlabelled; `sha256` over all that can be trained on.

    `validation` are frames that choose the epoch, or None; `groups` the examination or patient of each training frame,
    its own name where none is known.
    """

    train: LabelledFrames
    held_out: LabelledFrames
    unlabelled: tuple[UnlabelledFrames, ...]
    sha256: str
    validation: LabelledFrames | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecipeOutcome:
    """What `make_student` gives: both networks, the report (JSON values), and where the student's stage lies."""

    teacher: Teacher
    student: UNet
    data: RecipeData
    report: dict[str, Any]
    student_stage: StageResult


def read_data(recipe: Recipe, *, base: Path, stages: Stages) -> RecipeData:
    """The recipe's frames; simulated ones come from the cache of `stages`. `base` is the recipe's folder."""
    if isinstance(recipe.data, SimulatedData):
        train, held_out = _simulated(recipe.data, stages)
        groups = [str(k) for k in range(len(train.frames))]
    else:
        train, held_out, groups = _folder(recipe.data, base)
    unlabelled = tuple(read_unlabelled(entry, base) for entry in recipe.unlabelled)
    digest = hashlib.sha256()
    for labelled in (train, held_out):
        for frame, mask in zip(labelled.frames, labelled.masks, strict=True):
            digest.update(repr((frame.shape, frame.geometry)).encode())
            digest.update(frame.image.tobytes())
            digest.update(mask.tobytes())
    for source in unlabelled:
        digest.update(msgspec.json.encode(source.record))
    validation = None
    if recipe.validation:
        train, validation, groups = _validation(train, groups, recipe.validation)
        digest.update(f"|validation {recipe.validation}".encode())
    common: dict[str, Any] = {"validation": validation, "groups": tuple(groups), "sha256": digest.hexdigest()}
    return RecipeData(train=train, held_out=held_out, unlabelled=unlabelled, **common)


def _validation(
    train: LabelledFrames, groups: list[str], share: float
) -> tuple[LabelledFrames, LabelledFrames, list[str]]:
    """The frames that stay for training, about `share` of them by whole groups, and the groups of those that stay."""
    held = grouped_folds(groups, max(2, round(1 / share)), seed=0)[0].tolist()
    stay = sorted(set(range(len(groups))) - set(held))
    parts = [
        LabelledFrames(
            frames=[train.frames[k] for k in chosen],
            masks=[train.masks[k] for k in chosen],
            names=tuple(train.names[k] for k in chosen) if train.names else (),
        )
        for chosen in (stay, held)
    ]
    return parts[0], parts[1], [groups[k] for k in stay]


def _simulated(data: SimulatedData, stages: Stages) -> tuple[LabelledFrames, LabelledFrames]:
    from edge_sdk.simulate import training_set

    def part(name: str, seed: int, n: int) -> LabelledFrames:
        def tell(done: int, total: int) -> None:
            stages.progress(ProgressEvent(task=name, step=done, total=total))

        def make(folder: Path) -> None:
            frames = training_set(seed, n, data.shape, workers=data.workers, progress=tell)
            save_labelled(folder / "frames.npz", LabelledFrames.from_arrays(*frames))

        inputs = {"seed": seed, "n": n, "shape": data.shape, "code": code_sha256("edge_sdk.simulate")}
        return load_labelled(stages.run(name, inputs, make).folder / "frames.npz")

    return part("frames", data.seed, data.train), part("held-out", data.seed + 1, data.held_out)


def _folder(data: FolderData, base: Path) -> tuple[LabelledFrames, LabelledFrames, list[str]]:
    """Training and held-out frames, and the group of each training frame (its own name without a group column)."""
    if data.group:
        check_split(base / data.manifest, group=data.group)
    pairs = find_pairs(
        base / data.images,
        base / data.masks,
        manifest=base / data.manifest if data.manifest else None,
        hold_out_every=data.hold_out_every,
    )
    train, held_out = [p for p in pairs if not p.held_out], [p for p in pairs if p.held_out]
    if not train or not held_out:
        raise ConfigError(
            f"{base / data.images}: {len(train)} pairs to train on and {len(held_out)} held out; both need at least one"
        )
    groups = [pair.image.stem for pair in train]
    if data.group:
        column = {Path(row["file"]).stem: row[data.group] for row in read_rows(base / data.manifest)}
        groups = [column[name] for name in groups]
    return read_pairs(train, data.mask_values), read_pairs(held_out, data.mask_values), groups


def _train_code() -> str:
    return code_sha256(*(f"edge_sdk.{name}" for name in _CODE), "edge_runtime.preprocess")


def make_student(recipe: Recipe, *, base: Path, stages: Stages, data: RecipeData | None = None) -> RecipeOutcome:
    """Teacher and student of `recipe`, from the cache of `stages` where nothing has changed.

    `base` is the folder that the recipe's paths are relative to. `data` saves reading the frames again. Raises
    `ConfigError` for anything in the recipe or its files that does not fit, `InferenceError` for a teacher
    whose output does not.
    """
    data = data or read_data(recipe, base=base, stages=stages)
    teacher, teacher_report = _teacher(recipe, base, stages, data)
    inputs = {
        "distill": recipe.distill,
        "preprocess": recipe.preprocess,
        "classes": recipe.classes,
        "teacher": [teacher.sha256, teacher.output],
        "data": data.sha256,
        "code": _train_code(),
    }
    classes = len(recipe.classes)

    def make(folder: Path) -> dict[str, Any]:
        trained = distill_student(
            teacher,
            spec=recipe.preprocess,
            labelled=data.train,
            unlabelled=data.unlabelled,
            classes=classes,
            config=recipe.distill,
            cache=TeacherCache(stages.root / "answers"),
            validation=data.validation,
            logs=folder / "logs",
            checkpoint=stages.work_folder("student", inputs) / "checkpoint.pt",
            progress=stages.progress,
        )
        return _finish(folder / "student.pt", trained, trained.network, recipe, data)

    stage = stages.run("student", inputs, make)
    student = _network(recipe, recipe.distill.network)
    student.load_state_dict(load_state_dict(stage.folder / "student.pt"))
    report = _report(recipe, data, teacher, teacher_report, stage.record.result, stages)
    return RecipeOutcome(teacher=teacher, student=student.eval(), data=data, report=report, student_stage=stage)


def product(recipe: Recipe, outcome: RecipeOutcome, section: ExportSection, *, base: Path) -> Product:
    """What `edge_sdk.lowering` makes a file of: the student, the frames it learned from and those held out."""
    data, spec, planes = outcome.data, recipe.preprocess, outcome.student.classes
    source = recipe.data
    if isinstance(source, FolderData) and source.manifest:
        labelled = file_origin("data", base / source.manifest)
    else:
        name = "simulated frames" if isinstance(source, SimulatedData) else f"{source.images} and {source.masks}"
        labelled = Origin(kind="data", name=name, sha256=data.sha256)
    records = [entry.record for entry in data.unlabelled]
    frames = [*data.train.frames, *(frame for entry in data.unlabelled for frame in entry.frames)]
    return Product(
        name=recipe.name,
        student=outcome.student,
        state=outcome.student_stage.folder / "student.pt",
        output=OutputSpec(
            name="mask",
            shape=(1, planes, *Preprocessor(spec).output_shape[2:]),
            kind="mask_logits",
            classes=recipe.classes if planes == 1 else ("background", *recipe.classes),
            threshold=section.threshold,
        ),
        preprocess=spec,
        trained_on=network_inputs(frames, spec),
        held_out=network_inputs(data.held_out.frames, spec),
        labels=network_masks(data.held_out, spec, len(recipe.classes)),
        origins=[
            labelled,
            *(Origin(kind="data", name=item.source, sha256=item.sha256) for item in records),
            Origin(kind="teacher", name=outcome.teacher.name, sha256=outcome.teacher.sha256),
        ],
        report=outcome.report,
        groups=data.groups,
        features=outcome.student.encoder[-1],
    )


def _network(recipe: Recipe, config: NetworkConfig) -> UNet:
    in_channels = Preprocessor(recipe.preprocess).output_shape[1]
    return build_network(config, in_channels=in_channels, classes=output_planes(len(recipe.classes)))


def _teacher(recipe: Recipe, base: Path, stages: Stages, data: RecipeData) -> tuple[Teacher, dict[str, Any]]:
    """The teacher and its result: one network or file, or several joined, with flips where asked for."""
    section = recipe.teacher
    if section.file or section.files or section.checkpoint:
        teachers = _given_teachers(recipe, base)
        result: dict[str, Any] = {}
    else:
        trained = [_trained_teacher(recipe, stages, data, member) for member in range(section.members)]
        teachers, result = [teacher for teacher, _ in trained], trained[0][1]
    if len(teachers) == 1 and not section.flips and result:
        return teachers[0], result
    if section.flips:
        teachers = [with_flips(teacher) for teacher in teachers]
    teacher = teachers[0] if len(teachers) == 1 else ensemble(teachers, weighting=section.weighting)
    inputs = {
        "teacher": teacher.sha256,
        "output": section.output,
        "preprocess": recipe.preprocess,
        "data": data.sha256,
        "code": _train_code(),
    }
    name = "ensemble" if result else "teacher"
    stage = stages.run(name, inputs, lambda folder: _finish(None, None, teacher, recipe, data))
    costs = {key: result[key] for key in ("parameters", "macs", "training") if key in result}
    return teacher, {**stage.record.result, **costs, "members": len(teachers)} if result else stage.record.result


def _given_teachers(recipe: Recipe, base: Path) -> list[Teacher]:
    section, planes = recipe.teacher, output_planes(len(recipe.classes))
    if section.checkpoint:
        network = _network(recipe, section.train.network)
        return [load_teacher(base / section.checkpoint, classes=planes, module=network)]
    names = section.files or (section.file,)
    return [load_teacher(base / name, classes=planes, output=section.output) for name in names]


def _trained_teacher(recipe: Recipe, stages: Stages, data: RecipeData, member: int) -> tuple[Teacher, dict[str, Any]]:
    config = recipe.teacher.train
    if member:
        optimiser = msgspec.structs.replace(config.optimiser, seed=config.optimiser.seed + member)
        config = msgspec.structs.replace(config, optimiser=optimiser)
    inputs = {
        "train": config,
        "preprocess": recipe.preprocess,
        "classes": recipe.classes,
        "data": data.sha256,
        "code": _train_code(),
    }
    task = f"teacher-{member}" if member else "teacher"

    def make(folder: Path) -> dict[str, Any]:
        trained = train_teacher(
            data.train,
            spec=recipe.preprocess,
            classes=len(recipe.classes),
            config=config,
            validation=data.validation,
            logs=folder / "logs",
            checkpoint=stages.work_folder(task, inputs) / "checkpoint.pt",
            progress=stages.progress,
        )
        return _finish(folder / "teacher.pt", trained, trained.network, recipe, data)

    stage = stages.run(task, inputs, make)
    network = _network(recipe, config.network)
    network.load_state_dict(load_state_dict(stage.folder / "teacher.pt"))
    name = f"{task}.pt"
    return teacher_from_module(network, classes=network.classes, name=name), stage.record.result


def _finish(
    path: Path | None, trained: Trained | None, network: Callable[[Tensor], Tensor], recipe: Recipe, data: RecipeData
) -> dict[str, Any]:
    """Save the network if it was trained here; score it on the held-out frames; count what it costs."""
    classes = len(recipe.classes)
    inputs = torch.from_numpy(network_inputs(data.held_out.frames, recipe.preprocess))
    truth = network_masks(data.held_out, recipe.preprocess, classes)
    scores = score_masks(predict_masks(network, inputs), truth, classes)
    result: dict[str, Any] = {"dice": msgspec.to_builtins(scores)}
    if isinstance(network, nn.Module):
        result["parameters"] = count_parameters(network)
        result["macs"] = count_macs(network, (1, *inputs.shape[1:]))
    if trained is not None and path is not None:
        save_state_dict(trained.network, path)
        result["training"] = {"losses": trained.fit.losses, "seconds": trained.fit.seconds}
        result["labelled_frames"] = trained.labelled_frames
        result["unlabelled"] = msgspec.to_builtins(trained.unlabelled)
    return result


def _report(
    recipe: Recipe,
    data: RecipeData,
    teacher: Teacher,
    teacher_result: dict[str, Any],
    student_result: dict[str, Any],
    stages: Stages,
) -> dict[str, Any]:
    drop = teacher_result["dice"]["mean"] - student_result["dice"]["mean"]
    return {
        "name": recipe.name,
        "classes": list(recipe.classes),
        "preprocess_sha256": recipe.preprocess.sha256,
        "data_sha256": data.sha256,
        "frames": {"train": len(data.train.frames), "held_out": len(data.held_out.frames)},
        "trained_on_real": student_result["unlabelled"],
        "teacher": {"name": teacher.name, "sha256": teacher.sha256, **teacher_result},
        "student": student_result,
        "dice_drop_points": 100 * drop,
        "seconds": stages.timings(),
    }


def run(recipe: Recipe, *, base: Path, out_dir: Path, progress: Progress = ignore_progress) -> dict[str, Any]:
    """Run `recipe`; its paths are relative to `base`. Returns the report.

    `out_dir` receives `recipe.effective.yaml`, `student.pt` (a state dict), `student.onnx` (what `edge-export package`
    takes), `curves.png` (the student's training; tables lie in its stage's folder) and `report.json`, each whole or
    not at all, and `stages/`, the cache that a second run continues from. With an export section NAME.edge too, and the
    report says `export`; raises as `edge_sdk.lowering.make_edge` then.
    """
    check_export(recipe, base)
    make_folder(out_dir)
    write_bytes(out_dir / "recipe.effective.yaml", effective_yaml(recipe).encode())
    stages = Stages(out_dir / "stages", progress)
    outcome = make_student(recipe, base=base, stages=stages)
    report = outcome.report
    write_bytes(out_dir / "student.pt", (outcome.student_stage.folder / "student.pt").read_bytes())
    write_bytes(out_dir / "curves.png", (outcome.student_stage.folder / "logs" / "curves.png").read_bytes())
    exported = export_torch(outcome.student, Preprocessor(recipe.preprocess).output_shape)
    write_bytes(out_dir / "student.onnx", exported.SerializeToString())
    write_report(out_dir, report)
    if recipe.export:
        made = product(recipe, outcome, recipe.export, base=base)
        report = {**report, "export": export_student(made, recipe, base=base, out_dir=out_dir, stages=stages)}
        write_report(out_dir, report)
    return report
