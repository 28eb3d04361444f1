"""Class scores of a frame."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.result import ClassScore

__all__ = ["class_scores", "class_uncertainty", "probabilities"]


def class_scores(logits: npt.NDArray[np.float32], output: OutputSpec) -> tuple[ClassScore, ...]:
    """The probability of each class, in the order of `output.classes`, from (1, K) logits of kind `class_logits`.

    Raises `ConfigError` for another kind or shape, `InferenceError` for values that are not finite.
    """
    if output.kind != "class_logits" or logits.shape != (1, len(output.classes)):
        raise ConfigError(
            f"output {output.name!r} is {output.kind} {logits.shape}; class_logits (1, {len(output.classes)}) is needed"
        )
    found = probabilities(logits[0], output, output.activation or "softmax")
    return tuple(ClassScore(label=k, probability=float(p)) for k, p in zip(output.classes, found, strict=True))


def class_uncertainty(scores: tuple[ClassScore, ...], output: OutputSpec) -> float | None:
    """Entropy of a softmax over its largest value log K (Shannon 1948): 0 sure, 1 all alike; None for sigmoids."""
    if output.activation == "sigmoid":
        return None
    entropy = -sum(score.probability * math.log(score.probability) for score in scores if score.probability > 0)
    return min(1.0, max(0.0, entropy / math.log(len(scores))))


def probabilities(logits: npt.NDArray[np.float32], output: OutputSpec, activation: str) -> npt.NDArray[np.float64]:
    """(..., K) probabilities of (..., K) logits over the output's temperature; a softmax is over the last axis."""
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).sum())
        raise InferenceError(f"output {output.name!r}: {bad} of {logits.size} values are not finite")
    scaled = logits.astype(np.float64) / output.temperature
    if activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(scaled, -80, 80))))
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))
