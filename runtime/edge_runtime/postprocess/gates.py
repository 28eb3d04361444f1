"""How unlike the frames that a model knows a frame is: energy of its logits, or distance of its features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.bundle.manifest_reading import EnergyGate, Gate
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.optional import require
from edge_runtime.result import GateScore

__all__ = ["GateReader", "class_energy", "mask_energy", "pooled"]

_INSIDE = np.log(1e-3 / (1 - 1e-3))  # log odds of a probability of 0.001, `edge_runtime.postprocess.masks.CERTAIN`
Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class GateReader:
    """The score of one output's gate, arrays made ready once. Raises `ConfigError` for an output without a gate."""

    def __init__(self, output: OutputSpec) -> None:
        gate: Gate | None = output.gate
        if gate is None:
            raise ConfigError(f"output {output.name!r} has no gate")
        self.output, self.gate = output, gate
        if not isinstance(gate, EnergyGate):
            self._means = np.array(gate.means, np.float64)
            self._whitening = np.zeros((output.shape[1], output.shape[1]))
            for row, numbers in zip(self._whitening, gate.whitening, strict=True):
                row[: len(numbers)] = numbers

    def __call__(self, values: Float32) -> GateScore:
        """The score of a frame from its output, in the manifest's shape; `InferenceError` for values not finite."""
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise InferenceError(f"output {self.output.name!r}: {bad} of {values.size} values are not finite")
        if not isinstance(self.gate, EnergyGate):
            away = (pooled(values)[0] - self._means) @ self._whitening.T
            score = float(np.sqrt((away**2).sum(axis=1)).min())
        elif self.output.kind == "mask_logits":
            score = mask_energy(values[0], self.gate.temperature)
        else:
            score = class_energy(values[0], self.gate.temperature)
        return GateScore(output=self.output.name, score=score, threshold=self.gate.threshold)


def class_energy(logits: npt.NDArray[np.floating], temperature: float = 1.0) -> float:
    """-T log sum exp(f / T) of (K,) logits f, those of (0, f) for one (Liu et al., NeurIPS 2020, equation 4)."""
    scaled = logits.astype(np.float64) / temperature
    if len(scaled) == 1:
        return float(-temperature * np.logaddexp(0.0, scaled[0]))
    return float(-temperature * np.logaddexp.reduce(scaled))


def mask_energy(logits: Float32, temperature: float = 1.0) -> float:
    """Mean energy of the pixels of (C, H, W) logits whose probability of being in any class exceeds 0.001; 0 for none.

    The energy -T log(1 + sum exp(z_k / T)) of the logits z_k relative to the background's, which is 0 for one plane.
    """
    if len(logits) == 1:
        return _plane_energy(logits[0], temperature)
    relative = logits[1:] - logits[0]
    chosen = relative[:, np.logaddexp.reduce(relative, axis=0) > _INSIDE].astype(np.float64) / temperature
    if not chosen.shape[1]:
        return 0.0
    return float(-temperature * np.logaddexp(0.0, np.logaddexp.reduce(chosen, axis=0)).mean())


def _plane_energy(logits: Float32, temperature: float) -> float:
    """The same of one plane (H, W), by log(1 + e^x) = max(x, 0) + log(1 + e^-|x|) in float32, summed in float64."""
    cv2: Any = require("cv2", "to take logarithms")
    scaled = logits[logits > _INSIDE][None] * np.float32(1 / temperature)
    if not scaled.size:
        return 0.0
    terms = np.exp(-np.abs(scaled))
    terms += 1
    terms = cv2.log(terms) + np.maximum(scaled, 0)
    return float(-temperature * cv2.sumElems(terms)[0] / scaled.size)


def pooled(features: Float32) -> Floats:
    """(N, D) of (N, D) or (N, D, H, W): maps are averaged over their pixels."""
    values = features.astype(np.float64)
    return values if values.ndim == 2 else np.asarray(values.mean(axis=(2, 3)))
