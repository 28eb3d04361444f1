"""`lung_clips`: regular or abnormal lung in ultrasound clips, scored by patient in patient-grouped folds.

The test split of the CC BY clips holds three patients, too few to say anything. So all nine CC BY patients are dealt
into five folds, every network is trained on the patients outside its fold, and each patient is scored once a seed. No
setting was chosen on a score. Clips under CC BY-NC train nothing; they are an external cohort that is only scored.
Label and source are confounded in this collection (most regular clips come from one probe), so the rows measure
whether a student keeps its teacher's answers and how much brightness alone gives away; they are no claim of diagnosis.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.distill import stored
from benchmarks.figures import Figure
from edge_runtime.errors import ConfigError
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress
from edge_sdk.tasks.classification.data import ClipSet, ManifestRow, patient_folds, read_clips, read_manifest
from edge_sdk.tasks.classification.recipe import (
    ClassDistillConfig,
    ClassificationRecipe,
    ClassifierConfig,
    ClassSpec,
    ClassTeacherConfig,
    Columns,
    ManifestData,
    TeacherSource,
)
from edge_sdk.tasks.classification.scores import ClassScores, agreement, patient_votes, score_patients

__all__ = ["measure_lung_clips", "train_lung_clips"]

ROW = "lung_clips"
SEEDS = (0, 1, 2)
FOLDS = 5
CLASSES = (
    ClassSpec(name="regular"),
    ClassSpec(name="abnormal", labels=("covid", "viral_pneumonia", "bacterial_pneumonia")),
)
GOAL = "above the baselines, student within 2 points of its teacher"
Floats = npt.NDArray[np.float64]


def _manifest(*licences: str) -> ManifestData:
    return ManifestData(
        manifest="classification/pocus_lung/manifest.csv",
        columns=Columns(file="clip_file", patient="group"),
        where={"licence": licences},
        skip_empty=True,
        samples=8,
    )


_OPTIMISER = OptimiserConfig(
    epochs=8, batch_size=16, learning_rate=2e-3, weight_decay=1e-2, precision="bf16-mixed", threads=1
)
_AUGMENT = AugmentConfig(min_scale=0.7, gain=0.4, gamma=0.6)
RECIPE = ClassificationRecipe(
    name="lung_clips",
    data=_manifest("CC BY 4.0", "CC BY 2.0"),
    classes=CLASSES,
    teacher=TeacherSource(
        train=ClassTeacherConfig(
            network=ClassifierConfig(width=32, max_width=128, dropout=0.2), optimiser=_OPTIMISER, augment=_AUGMENT
        )
    ),
    distill=ClassDistillConfig(
        optimiser=msgspec.structs.replace(_OPTIMISER, epochs=14), augment=_AUGMENT, distill_weight=0.9
    ),
)
EXTERNAL = _manifest("CC BY-NC 4.0")


def _seeded(optimiser: OptimiserConfig, seed: int, fold: int) -> OptimiserConfig:
    return msgspec.structs.replace(optimiser, seed=1000 * seed + fold)


@cache
def _clips(external: bool) -> tuple[list[ManifestRow], ClipSet]:
    data = EXTERNAL if external else RECIPE.data
    rows = read_manifest(data, CLASSES, stored.data_root(), check_splits=not external)
    return rows, read_clips(rows, RECIPE.preprocess, data.samples)


def _hashes(rows: list[ManifestRow]) -> tuple[str, str]:
    return stored.recipe_sha256(RECIPE, {"folds": FOLDS}), stored.data_sha256([row.path for row in rows])


def _softmax(network: Any, clips: ClipSet, name: str) -> Floats:
    import torch

    from edge_sdk.tasks.classification.training import class_logits

    logits = class_logits(network, torch.from_numpy(clips.inputs), len(CLASSES), name=name)
    return np.asarray(logits.double().softmax(dim=1).numpy(), np.float64)


def train_lung_clips(progress: Progress = ignore_progress) -> None:
    """Train every seed anew and store its scores; of the first seed also the students of all folds."""
    rows, clips = _clips(external=False)
    recipe, data = _hashes(rows)
    for seed in SEEDS:
        record = _train_seed(seed, rows, clips, recipe, data, progress)
        stored.save_record(record)


def _train_seed(
    seed: int, rows: list[ManifestRow], clips: ClipSet, recipe: str, data: str, progress: Progress
) -> stored.SeedRecord:
    from edge_sdk.tasks.classification.training import distill_classifier, train_teacher

    external = _clips(external=True)[1]
    n, k = len(clips) + len(external), len(CLASSES)
    found = {name: np.zeros((n, k)) for name in ("teacher", "student")}
    weights, log = {}, {"teacher": [], "student": [], "seconds": []}  # type: dict[str, str], dict[str, list[Any]]
    for fold, held in enumerate(patient_folds(rows, FOLDS)):
        train, _ = clips.split(held)
        place = np.array([name in held for name in clips.patients])
        began = time.perf_counter()
        config, distil = RECIPE.teacher.train, RECIPE.distill
        config = msgspec.structs.replace(config, optimiser=_seeded(config.optimiser, seed, fold))
        distil = msgspec.structs.replace(distil, optimiser=_seeded(distil.optimiser, seed, fold))
        teacher, fits = train_teacher(train, spec=RECIPE.preprocess, classes=k, config=config, progress=progress)
        student, fit = distill_classifier(
            teacher, train, spec=RECIPE.preprocess, classes=k, config=distil, progress=progress
        )
        log["seconds"].append(round(time.perf_counter() - began, 1))
        log["teacher"].append(fits[0].losses)
        log["student"].append(fit.losses)
        for name, network in (("teacher", teacher), ("student", student)):
            found[name][: len(clips)][place] = _softmax(network, clips, name)[place]
            found[name][len(clips) :] += _softmax(network, external, name) / FOLDS
        if seed == SEEDS[0]:
            weights[f"student_{fold}"] = stored.save_weights(ROW, f"student_{fold}", student)
        progress(ProgressEvent(task=f"seed {seed}", step=fold + 1, total=FOLDS, note=f"{log['seconds'][-1]} s"))
    return stored.SeedRecord(
        row=ROW,
        seed=seed,
        recipe_sha256=recipe,
        data_sha256=data,
        names=[*clips.files, *external.files],
        scores={f"{name}.abnormal": values[:, 1].tolist() for name, values in found.items()},
        settings=msgspec.to_builtins(RECIPE),
        log=log,
        weights=weights,
    )
