"""Scores of a classifier by patient: the patient, not the clip, is what a figure counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.classification import auroc, balanced_accuracy, grouped_vote
from edge_runtime.optional import require

__all__ = [
    "ClassScores",
    "PatientVote",
    "agreement",
    "exact_interval",
    "patient_votes",
    "score_patients",
]

Floats = npt.NDArray[np.float64]


class PatientVote(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one patient: mean probability (K,) over the patient's files, each the mean of its clips.

    A contributor's set that holds files of several classes counts once per class.
    """

    patient: str
    label: int
    clips: int
    probability: tuple[float, ...]

    @property
    def predicted(self) -> int:
        """The class with the highest mean probability, the first of equal ones."""
        return int(np.argmax(self.probability))


class ClassScores(msgspec.Struct, frozen=True, kw_only=True):
    """Balanced accuracy over patients with its 95 % interval, sensitivity and AUROC per class, and the votes.

    `interval` is a percentile bootstrap over patients, drawn within each class, which says nothing when no patient
    or every patient is wrong; `sensitivity_interval` is exact (Clopper and Pearson, Biometrika 1934) per class.
    `auroc[k]` is of class k against the rest over patients; it and a sensitivity are None for a class without patients.
    """

    patients: tuple[int, ...]
    balanced_accuracy: float
    interval: tuple[float, float]
    sensitivity: tuple[float | None, ...]
    sensitivity_interval: tuple[tuple[float, float], ...]
    auroc: tuple[float | None, ...]
    votes: tuple[PatientVote, ...]


def patient_votes(
    probabilities: Floats, labels: Sequence[int], patients: Sequence[str], files: Sequence[str]
) -> list[PatientVote]:
    """Votes of `probabilities` (N, K) by patient and label, in the order of first sight.

    Raises `ConfigError` for lengths that differ, none at all, or rows that are not probabilities.
    """
    n = len(labels)
    if probabilities.ndim != 2 or {len(probabilities), len(patients), len(files)} != {n} or n == 0:
        raise ConfigError(
            f"probabilities {probabilities.shape}, {n} labels, {len(patients)} patients, {len(files)} files; "
            "(N, K) and N of each, at least one, are needed"
        )
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3) or probabilities.min() < 0:
        raise ConfigError("rows of probabilities must be 0 or more and sum to 1; take the softmax of logits first")
    files_of = list(zip(patients, map(int, labels), files, strict=True))
    keys, of_files = grouped_vote(probabilities, files_of)
    owners = [(patient, label) for patient, label, _ in cast(list[tuple[str, int, str]], keys)]
    _, means = grouped_vote(of_files, owners)
    clips = Counter((patient, label) for patient, label, _ in files_of)
    return [
        PatientVote(patient=patient, label=label, clips=clips[patient, label], probability=tuple(map(float, mean)))
        for (patient, label), mean in zip(dict.fromkeys(owners), means, strict=True)
    ]


def exact_interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share of `right` in `n`. `ConfigError` unless 0 <= right <= n, n > 0."""
    if not 0 <= right <= n or n < 1:
        raise ConfigError(f"{right} of {n}; 0 <= right <= n and n of 1 or more are needed")
    beta: Any = require("scipy.stats", "to take exact intervals").beta
    tail = (1 - level) / 2
    low = 0.0 if right == 0 else float(beta.ppf(tail, right, n - right + 1))
    high = 1.0 if right == n else float(beta.ppf(1 - tail, right + 1, n - right))
    return low, high


def _bootstrap(
    labels: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], draws: int, seed: int
) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    shares = []
    for k in np.unique(labels):
        own = right[labels == k]
        shares.append(own[rng.integers(0, len(own), (draws, len(own)))].mean(axis=1))
    low, high = np.percentile(np.mean(shares, axis=0), (2.5, 97.5))
    return float(low), float(high)


def score_patients(votes: Sequence[PatientVote], classes: int, *, draws: int = 4000, seed: int = 0) -> ClassScores:
    """Scores of `votes`. Raises `ConfigError` for no votes, or a label or a number of classes that does not fit."""
    if not votes:
        raise ConfigError("no patient to score; check the split")
    for vote in votes:
        if not 0 <= vote.label < classes or len(vote.probability) != classes:
            raise ConfigError(
                f"patient {vote.patient!r}: label {vote.label}, {len(vote.probability)} probabilities; "
                f"a label of 0 to {classes - 1} and {classes} probabilities are needed"
            )
    labels = np.array([vote.label for vote in votes], np.int64)
    predicted = np.array([vote.predicted for vote in votes], np.int64)
    probability = np.array([vote.probability for vote in votes])
    right, n = labels == predicted, [int((labels == k).sum()) for k in range(classes)]
    hits = [int(right[labels == k].sum()) for k in range(classes)]
    return ClassScores(
        patients=tuple(n),
        balanced_accuracy=balanced_accuracy(labels, predicted, classes),
        interval=_bootstrap(labels, right, draws, seed),
        sensitivity=tuple(h / m if m else None for h, m in zip(hits, n, strict=True)),
        sensitivity_interval=tuple(exact_interval(h, m) if m else (0.0, 1.0) for h, m in zip(hits, n, strict=True)),
        auroc=tuple(_or_none(auroc(probability[:, k], labels == k)) for k in range(classes)),
        votes=tuple(votes),
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def agreement(student: Floats, teacher: Floats) -> float:
    """Share of rows in which probabilities or logits (N, K) of both have their maximum in the same class."""
    if student.shape != teacher.shape or student.ndim != 2 or not len(student):
        raise ConfigError(f"student {student.shape} and teacher {teacher.shape}; equal (N, K), N > 0, are needed")
    return float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean())
