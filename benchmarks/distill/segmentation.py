"""Trainings behind the segmentation rows: a teacher ensemble and students of several seeds. Hours, resumable.

`python -m benchmarks.distill.segmentation CASE teacher|student|labels|... SEED` trains one network, in any order that
has the teachers first; `finish` scores all of them on the test split and stores the records. `--fresh` of the table
does all of it in turn. With `choose` at the end of the line, part of the train split is held out by group and scored
instead: every setting was chosen so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.distill.stored import SeedRecord, recipe_sha256, save_record, save_weights
from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_sdk.config import DistillConfig, TeacherConfig
from edge_sdk.distill import distill_student, output_planes, train_teacher
from edge_sdk.frames import LabelledFrames, network_inputs
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress
from edge_sdk.students import UNet, build_network
from edge_sdk.teachers import (
    Teacher,
    TeacherCache,
    ensemble,
    load_state_dict,
    save_state_dict,
    teacher_from_module,
    with_flips,
)

__all__ = [
    "WORK",
    "Case",
    "HalfPrecision",
    "Images",
    "logits_of",
    "network",
    "settings",
    "teacher",
    "train",
    "train_all",
]

WORK = Path(__file__).resolve().parents[2] / "build" / "distill"
_SEEDS = range(3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """Labelled images of one split; `groups` names what must stay on one side, `facts` a column of numbers each."""

    labelled: LabelledFrames
    names: list[str]
    groups: list[str]
    facts: Mapping[str, npt.NDArray[np.float64]]

    def part(self, chosen: list[int]) -> Images:
        """The images of `chosen`."""
        frames, masks = self.labelled.frames, self.labelled.masks
        return Images(
            labelled=LabelledFrames(frames=[frames[k] for k in chosen], masks=[masks[k] for k in chosen]),
            names=[self.names[k] for k in chosen],
            groups=[self.groups[k] for k in chosen],
            facts={name: values[chosen] for name, values in self.facts.items()},
        )

    def halves(self, parts: int = 4) -> tuple[Images, Images]:
        """For choosing settings: all but every `parts`-th group, and those."""
        held = set(sorted(set(self.groups))[::parts])
        train = [k for k, group in enumerate(self.groups) if group not in held]
        return self.part(train), self.part([k for k, group in enumerate(self.groups) if group in held])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One set: how it is read, trained on, and scored.

    `students` are distilled; those whose name is in `alone` are trained on the labels alone with as many steps.
    `score(logits (N, C, h, w), images)` gives per-image numbers by name.
    """

    name: str
    spec: PreprocessSpec
    classes: int
    read: Callable[[str], Images]
    sha256: Callable[[], str]
    score: Callable[[npt.NDArray[np.float32], Images], dict[str, list[float]]]
    teacher: TeacherConfig
    members: int
    students: Mapping[str, DistillConfig]
    alone: Mapping[str, str]
    choose_epochs: int = 80


class HalfPrecision(nn.Module):
    """A network computed in bfloat16, which large networks run several times faster in; logits come out as float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.network(frames.contiguous(memory_format=torch.channels_last))
        return logits.float()


def settings(case: Case, name: str = "") -> str:
    """Hash of everything a stored record of `case` was trained with; of one network's settings with `name`."""
    if name == "teacher":
        return recipe_sha256(case.name, case.spec, case.teacher)
    if name in case.alone:
        return recipe_sha256(case.name, case.spec, _labels_alone(case.students[case.alone[name]], 0))
    taught = [case.name, case.spec, case.teacher, case.members]
    if name:
        return recipe_sha256(*taught, case.students[name])
    return recipe_sha256(*taught, dict(case.students), dict(case.alone))


def network(case: Case, name: str) -> UNet:
    """The untrained network called `name`: "teacher", a student, or one trained on labels alone."""
    config = case.teacher.network if name == "teacher" else case.students[case.alone.get(name, name)].network
    channels = Preprocessor(case.spec).output_shape[1]
    return build_network(config, in_channels=channels, classes=output_planes(case.classes))


def _home(case: Case, choosing: bool) -> Path:
    folder = WORK / (case.name + ("-choose" if choosing else ""))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _path(case: Case, name: str, seed: int, home: Path) -> Path:
    """Where the weights of one network go; other settings go elsewhere."""
    return home / f"{name}_{seed}-{settings(case, name)[:8]}.pt"


def _load(case: Case, name: str, seed: int, home: Path) -> UNet:
    module = network(case, name)
    module.load_state_dict(load_state_dict(_path(case, name, seed, home)))
    return module.eval()


def teacher(case: Case, *, choosing: bool = False) -> Teacher:
    """The ensemble of the trained members, each asked about the frame and its mirror image; bfloat16 inside."""
    home, planes = _home(case, choosing), output_planes(case.classes)
    members = []
    for seed in range(1 if choosing else case.members):
        module = HalfPrecision(_load(case, "teacher", seed, home).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        members.append(with_flips(teacher_from_module(module, classes=planes, name=f"{case.name} member {seed}")))
    return ensemble(members, name=f"{case.name} ensemble")


def train(case: Case, name: str, seed: int, *, choosing: bool = False, progress: Progress = ignore_progress) -> Path:
    """Train one network and return the file of its weights; one that is there already is kept."""
    home = _home(case, choosing)
    path = _path(case, name, seed, home)
    if path.exists():
        return path
    images = case.read("train")
    if choosing:
        images, _ = images.halves()
    checkpoint = path.with_suffix(".checkpoint")
    if name == "teacher":
        config = _seeded(case.teacher, seed, case.choose_epochs if choosing else 0)
        trained = train_teacher(
            images.labelled,
            spec=case.spec,
            classes=case.classes,
            config=config,
            checkpoint=checkpoint,
            progress=progress,
        )
    elif name in case.alone:
        trained = train_teacher(
            images.labelled,
            spec=case.spec,
            classes=case.classes,
            config=_labels_alone(case.students[case.alone[name]], seed),
            checkpoint=checkpoint,
            progress=progress,
        )
    else:
        trained = distill_student(
            teacher(case, choosing=choosing),
            spec=case.spec,
            labelled=images.labelled,
            classes=case.classes,
            config=_seeded(case.students[name], seed, 0),
            cache=TeacherCache(home / "answers"),
            checkpoint=checkpoint,
            progress=progress,
        )
    log = {"losses": trained.fit.losses, "seconds": trained.fit.seconds}
    path.with_suffix(".json").write_bytes(msgspec.json.encode(log))
    save_state_dict(trained.network, path)
    return path


def _seeded(config: Any, seed: int, epochs: int) -> Any:
    optimiser = msgspec.structs.replace(config.optimiser, seed=seed, epochs=epochs or config.optimiser.epochs)
    return msgspec.structs.replace(config, optimiser=optimiser)


def _labels_alone(config: DistillConfig, seed: int) -> TeacherConfig:
    """The same network, steps and changes of frames, with the truth alone: fresh views in every epoch."""
    optimiser = msgspec.structs.replace(
        config.optimiser, seed=seed, epochs=config.optimiser.epochs * max(1, config.views)
    )
    augment = config.augment
    if config.views:
        names = ("flip", "min_scale", "max_scale", "rotate", "stretch")
        augment = msgspec.structs.replace(augment, **{name: getattr(config.view_augment, name) for name in names})
    return TeacherConfig(network=config.network, optimiser=optimiser, augment=augment)


def logits_of(module: Callable[[Tensor], Tensor], case: Case, images: Images) -> npt.NDArray[np.float32]:
    """(N, C, h, w) logits of the images."""
    inputs = torch.from_numpy(network_inputs(images.labelled.frames, case.spec))
    with torch.inference_mode():
        parts = [module(inputs[k : k + 16]).float().numpy() for k in range(0, len(inputs), 16)]
    return np.concatenate(parts)


def _finish(case: Case) -> None:
    """Score every trained network on the test split, store the records and the weights of seed 0."""
    images, home = case.read("test"), _home(case, False)
    joined = case.score(logits_of(teacher(case), case, images), images)
    names = [*case.students, *case.alone]
    for seed in _SEEDS:
        scores = {f"teacher.{key}": values for key, values in joined.items()}
        weights, log = {}, {}
        for name in [*(["teacher"] if seed < case.members else []), *names]:
            module = _load(case, name, seed, home)
            label = "member" if name == "teacher" else name
            found = case.score(logits_of(module, case, images), images)
            scores.update({f"{label}.{key}": values for key, values in found.items()})
            log[label] = msgspec.json.decode(_path(case, name, seed, home).with_suffix(".json").read_bytes())
            if seed == 0:
                weights[f"{label}.safetensors"] = save_weights(case.name, label, module)
        save_record(
            SeedRecord(
                row=case.name,
                seed=seed,
                recipe_sha256=settings(case),
                data_sha256=case.sha256(),
                names=images.names,
                scores=scores,
                log=log,
                weights=weights,
            )
        )


def train_all(case: Case, progress: Progress = ignore_progress) -> None:
    """Everything of `case`, resumable: members, students, records."""
    for seed in range(case.members):
        train(case, "teacher", seed, progress=progress)
    for seed in _SEEDS:
        for name in [*case.students, *case.alone]:
            train(case, name, seed, progress=progress)
    _finish(case)


def _tell_choice(case: Case, name: str, seed: int) -> None:
    _, held = case.read("train").halves()
    systems: dict[str, Callable[[Tensor], Tensor]] = {
        name: _load(case, name, seed, _home(case, True)),
        "teacher with flips": teacher(case, choosing=True),
    }
    for label, module in systems.items():
        found = case.score(logits_of(module, case, held), held)
        parts = [f"{key} {np.mean(np.abs(values)):.4f} (worst {np.min(values):.4f})" for key, values in found.items()]
        print(f"{label}: {', '.join(parts)}", flush=True)


def main(arguments: list[str]) -> None:
    """One training of the command line."""
    from benchmarks.distill.cases import CASES

    case, choosing = CASES[arguments[0]], "choose" in arguments
    torch.set_num_threads(1)
    began = time.perf_counter()

    def show(event: ProgressEvent) -> None:
        if event.step % 5 == 0 or event.step == event.total:
            loss = "" if event.loss is None else f" loss {event.loss:.4f}"
            print(f"{event.task} {event.step}/{event.total}{loss} {time.perf_counter() - began:.0f} s", flush=True)

    if arguments[1] == "finish":
        _finish(case)
        return
    name, seed = arguments[1], int(arguments[2])
    train(case, name, seed, choosing=choosing, progress=show)
    if choosing:
        _tell_choice(case, name, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
