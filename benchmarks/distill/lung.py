"""`lung_clips`: regular or abnormal lung in ultrasound clips, scored by patient in patient-grouped folds.

The test split of the CC BY clips holds three patients, too few to say anything. So all nine CC BY patients are dealt
into five folds, every network is trained on the patients outside its fold, and each patient is scored once a seed.
One setting was changed after the held-out scores of a first run (8 epochs, one seed) had been seen: the epochs are 24,
because the teachers' training loss was still falling. Clips under CC BY-NC train nothing; they are an external cohort
that is only scored.
Label and source are confounded in this collection (most regular clips come from one probe), so the rows measure
whether a student keeps its teacher's answers and how much brightness alone gives away; they are no claim of diagnosis.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.distill import stored
from benchmarks.figures import Figure, judged
from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import Letterbox, Normalize, PreprocessSpec, Stack, ToGray
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
        samples=6,
    )


_OPTIMISER = OptimiserConfig(
    epochs=24, batch_size=16, learning_rate=2e-3, weight_decay=1e-2, precision="bf16-mixed", threads=1
)
_AUGMENT = AugmentConfig(min_scale=0.7, gain=0.4, gamma=0.6)
RECIPE = ClassificationRecipe(
    name="lung_clips",
    data=_manifest("CC BY 4.0", "CC BY 2.0"),
    classes=CLASSES,
    preprocess=PreprocessSpec(
        steps=(ToGray(), Letterbox(height=64, width=64), Normalize(mean=0.25, std=0.25), Stack(n=4, stride=5))
    ),
    teacher=TeacherSource(
        train=ClassTeacherConfig(
            network=ClassifierConfig(width=24, max_width=128, dropout=0.2), optimiser=_OPTIMISER, augment=_AUGMENT
        )
    ),
    distill=ClassDistillConfig(
        network=ClassifierConfig(width=8, max_width=32),
        optimiser=_OPTIMISER,
        augment=_AUGMENT,
        distill_weight=0.9,
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


def _answers(record: stored.SeedRecord, name: str) -> Floats:
    """(N, 2) stored probabilities of `name` for the CC BY clips, then the external ones."""
    abnormal = record.array(f"{name}.abnormal")
    return np.stack([1 - abnormal, abnormal], axis=1)


def _stored_students(record: stored.SeedRecord, rows: list[ManifestRow], clips: ClipSet, external: ClipSet) -> Floats:
    """What the stored students of all folds answer now, as `_answers`; each patient by one that never saw it."""
    from edge_sdk.tasks.classification.training import build_classifier

    found = np.zeros((len(clips) + len(external), len(CLASSES)))
    for fold, held in enumerate(patient_folds(rows, FOLDS)):
        network = build_classifier(RECIPE.distill.network, RECIPE.preprocess, len(CLASSES))
        stored.load_weights(ROW, f"student_{fold}", network)
        place = np.array([name in held for name in clips.patients])
        found[: len(clips)][place] = _softmax(network, clips, "student")[place]
        found[len(clips) :] += _softmax(network, external, "student") / FOLDS
    return found


def _histograms(clips: ClipSet) -> Floats:
    """(N, 32): shares of grey values; a clip's brightness and nothing of its shape."""
    grey = clips.inputs * 0.25 + 0.25  # undo the recipe's Normalize
    return np.array([np.histogram(clip, bins=32, range=(0, 1))[0] / clip.size for clip in grey])


def _nearest_mean(train: ClipSet, test: ClipSet) -> Floats:
    """(N, 2) shares of nearness to each class's mean brightness histogram, patients counted alike."""
    histograms, labels = _histograms(train), train.labels
    means = []
    for label in range(len(CLASSES)):
        names = sorted({name for name, own in zip(train.patients, labels, strict=True) if own == label})
        of_patient = [
            histograms[(labels == label) & np.array([own == name for own in train.patients])].mean(axis=0)
            for name in names
        ]
        means.append(np.mean(of_patient, axis=0))
    distance = np.array([np.abs(_histograms(test) - mean).sum(axis=1) for mean in means]).T
    shares: Floats = 1 - distance / distance.sum(axis=1, keepdims=True)
    return shares


def _baseline(rows: list[ManifestRow], clips: ClipSet, external: ClipSet) -> Floats:
    found = np.zeros((len(clips) + len(external), len(CLASSES)))
    for held in patient_folds(rows, FOLDS):
        train, test = clips.split(held)
        place = np.array([name in held for name in clips.patients])
        found[: len(clips)][place] = _nearest_mean(train, test)
    found[len(clips) :] = _nearest_mean(clips, external)
    return found


def _scores(answers: Floats, clips: ClipSet) -> ClassScores:
    return score_patients(patient_votes(answers, clips.labels.tolist(), clips.patients, clips.files), len(CLASSES))


def _right(scores: ClassScores) -> Floats:
    return np.array([vote.predicted == vote.label for vote in scores.votes], np.float64)


def _interval(values: Floats, labels: npt.NDArray[np.int64], draws: int = 4000) -> tuple[float, float]:
    """95 % percentile bootstrap of the class-balanced mean of (S seeds, N patients); patients within their class."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    means = np.empty(draws)
    for k in range(draws):
        seeds = rng.integers(0, len(values), len(values))
        parts = [values[np.ix_(seeds, rng.choice(own, len(own)))].mean() for own in groups]
        means[k] = np.mean(parts)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def measure_lung_clips() -> list[Figure]:
    """The figures of the row, from stored answers; the first seed's students are run again."""
    try:
        rows, clips = _clips(external=False)
        _, external = _clips(external=True)
        records = stored.load_records(ROW)
    except ConfigError as error:
        return [_unmeasured(str(error))]
    recipe, data = _hashes(rows)
    for record in records:
        reason = stored.check_fresh(record, recipe, data)
        if not reason and record.names != [*clips.files, *external.files]:
            reason = f"stale: {ROW}, seed {record.seed}, was scored on other clips"
        if reason:
            return [_unmeasured(reason)]
    teachers = [_answers(record, "teacher") for record in records]
    students = [_answers(record, "student") for record in records]
    students[0] = _stored_students(records[0], rows, clips, external)
    baseline = _baseline(rows, clips, external)
    own, other = slice(0, len(clips)), slice(len(clips), None)
    figures = _cohort("patients of CC BY clips", clips, *(_cut(x, own) for x in (teachers, students, [baseline])))
    figures += _cohort("external CC BY-NC clips", external, *(_cut(x, other) for x in (teachers, students, [baseline])))
    return figures


def _cut(answers: list[Floats], part: slice) -> list[Floats]:
    return [values[part] for values in answers]


def _unmeasured(reason: str) -> Figure:
    return Figure(name=ROW, value=None, goal=GOAL, unit="", n=0, met=None, reason=reason)


def _cohort(
    cohort: str, clips: ClipSet, teachers: list[Floats], students: list[Floats], baseline: list[Floats]
) -> list[Figure]:
    """Student above the baseline, student against its teacher, and agreement with it, on one cohort."""
    of = {
        name: [_scores(answers, clips) for answers in found]
        for name, found in (("teacher", teachers), ("student", students), ("baseline", baseline))
    }
    labels = np.array([vote.label for vote in of["student"][0].votes])
    right = {name: np.stack([_right(score) for score in scores]) for name, scores in of.items()}
    mean = {name: float(np.mean([s.balanced_accuracy for s in scores])) for name, scores in of.items()}
    gain = right["student"] - right["baseline"]
    low, high = _interval(right["student"], labels)
    gain_low, gain_high = _interval(gain, labels)
    drop_low, drop_high = _interval(right["teacher"] - right["student"], labels)
    drop = 100 * (mean["teacher"] - mean["student"])
    same = [agreement(a, b) for a, b in zip(students, teachers, strict=True)]
    n, seeds = len(labels), len(students)
    detail: dict[str, object] = {
        "seeds": seeds,
        "patients": dict(zip((spec.name for spec in CLASSES), np.bincount(labels).tolist(), strict=True)),
        "teacher": mean["teacher"],
        "student": mean["student"],
        "brightness_histogram_nearest_mean": mean["baseline"],
        "majority": 0.5,
        "gain_over_histogram": [100 * gain_low, 100 * gain_high],
        **_student_detail(of["student"], right["student"]),
    }
    threshold = max(0.5, mean["baseline"])
    return [
        Figure(
            name=f"student, balanced accuracy by patient, {cohort}",
            value=100 * mean["student"],
            goal=f"above majority 50 and brightness histogram {100 * mean['baseline']:.1f}, with interval",
            unit="%",
            n=n,
            met=mean["student"] > threshold and low > 0.5 and gain_low > 0,
            spread=f"95 % {100 * low:.1f} to {100 * high:.1f} over patients x {seeds} seeds; "
            f"over the histogram {100 * gain_low:+.1f} to {100 * gain_high:+.1f}",
            detail=detail,
        ),
        judged(
            name=f"teacher minus student, {cohort}",
            value=drop,
            goal="<= 2 points",
            unit="points",
            n=n,
            spread=f"95 % {100 * drop_low:+.1f} to {100 * drop_high:+.1f}; teacher {100 * mean['teacher']:.1f} %",
        ),
        Figure(
            name=f"clips on which student and teacher agree, {cohort}",
            value=100 * float(np.mean(same)),
            goal="stated, no diagnosis claim",
            unit="%",
            n=len(clips),
            met=None,
            spread="seeds " + ", ".join(f"{100 * value:.1f}" for value in same),
        ),
    ]


def _student_detail(scores: list[ClassScores], right: Floats) -> dict[str, object]:
    """Of the student's seeds; `right` (seeds, patients) is 1 where a patient was told apart rightly."""
    patients = (f"{vote.patient}/{CLASSES[vote.label].name}" for vote in scores[0].votes)
    return {
        "student_auroc": [score.auroc[1] for score in scores],
        "sensitivity_of_first_seed": [list(pair) for pair in scores[0].sensitivity_interval],
        "patients_right_in_share_of_seeds": dict(zip(patients, right.mean(axis=0).round(3).tolist(), strict=True)),
    }
