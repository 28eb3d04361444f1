"""What each convolution costs the task when it is quantized: one alone, and all but one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from edge_export.gate import run_model
from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["Quantize", "Score", "Sensitivity", "Trials", "measure_sensitivity", "quantizable", "sqnr_score"]

Float32 = npt.NDArray[np.float32]
Quantize = Callable[[frozenset[str]], onnx.ModelProto]
"""The quantized model with the nodes of these names left in float."""
Score = Callable[[onnx.ModelProto], float]
"""What a model reaches on the task; more is better (mean Dice, agreement, decibels)."""

_KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LEAST_NOISE = 1e-12  # share of the signal's energy: equal outputs count as 120 dB


def quantizable(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes with weights (Conv, ConvTranspose, Gemm, MatMul), in graph order."""
    constants = {item.name for item in model.graph.initializer}
    return tuple(n.name for n in model.graph.node if n.op_type in _KINDS and n.input[1] in constants)


def sqnr_score(reference: onnx.ModelProto, inputs: Sequence[Float32]) -> Score:
    """A score without labels: signal over noise in dB against the outputs of `reference`, at most 120.

    It is the mean over outputs of 10 log10(sum y^2 / sum (y - y')^2), each taken over all `inputs` (float32, the
    model's shape). Raises `ConfigError` without inputs.
    """
    if len(inputs) == 0:
        raise ConfigError("no inputs to score on; give preprocessed frames")
    wanted = run_model(reference, inputs)

    def score(model: onnx.ModelProto) -> float:
        found = run_model(model, inputs)
        decibels = []
        for name in wanted[0]:
            pairs = [(w[name].astype(np.float64), f[name]) for w, f in zip(wanted, found, strict=True)]
            signal = sum(float((w**2).sum()) for w, _ in pairs)
            noise = sum(float(((w - f) ** 2).sum()) for w, f in pairs)
            decibels.append(-10.0 * np.log10(max(noise / signal if signal else noise, _LEAST_NOISE)))
        return float(np.mean(decibels))

    return score


class Trials:
    """Scores of quantized models with some nodes left in float; each distinct file is scored once.

    `store` is a JSON file that keeps the scores by the hash of the scored file, so that a stopped search goes on where
    it was. It knows nothing of the score: another score or other frames need another file.
    """

    def __init__(self, quantize: Quantize, score: Score, store: Path | None = None) -> None:
        self.quantize, self._score, self._store = quantize, score, store
        self._scores: dict[str, float] = {}
        if store is not None and store.is_file():
            try:
                self._scores = msgspec.json.decode(store.read_bytes(), type=dict[str, float])
            except msgspec.DecodeError as error:
                raise ConfigError(f"{store} does not hold scores ({error}); remove it to begin again") from error

    def score(self, model: onnx.ModelProto) -> float:
        """The score of `model`. Raises `LoweringError` when it is not finite."""
        key = _sha256(model)
        if key not in self._scores:
            value = float(self._score(model))
            if not np.isfinite(value):
                raise LoweringError(f"the score of a quantized model is {value}; a finite number is needed")
            self._scores[key] = value
            if self._store is not None:
                write_bytes(self._store, msgspec.json.encode(self._scores))
        return self._scores[key]

    def without(self, names: Iterable[str]) -> float:
        """The score with the nodes `names` left in float."""
        return self.score(self.quantize(frozenset(names)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Scores of `float32` and of `int8` (everything quantized), and what each group of nodes does to them.

    `alone[group]`: score lost when only that group is quantized. `last[group]`: score won when everything but that
    group is quantized. Both in the score's unit; negative ones are noise. `groups` names the nodes of each.
    """

    float32: float
    int8: float
    alone: dict[str, float]
    last: dict[str, float]
    groups: dict[str, tuple[str, ...]]

    def blame(self, group: str) -> float:
        """Mean of the two: the ends of what the Shapley value averages (Shapley 1953), its usual cheap estimate."""
        return (self.alone[group] + self.last[group]) / 2

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        rows = {
            name: {"nodes": list(nodes), "alone": self.alone[name], "last": self.last[name]}
            for name, nodes in self.groups.items()
        }
        return {"float32": self.float32, "int8": self.int8, "groups": rows}

    def table(self) -> str:
        """The groups as text, the most sensitive first."""
        width = max(map(len, self.groups))
        lines = [f"{'group':{width}}  lost alone  won when left out"]
        for name in sorted(self.groups, key=self.blame, reverse=True):
            lines.append(f"{name:{width}}  {self.alone[name]:10.4g}  {self.last[name]:17.4g}")
        return "\n".join([*lines, f"float32 {self.float32:.4g}, int8 {self.int8:.4g}"])


def measure_sensitivity(
    model: onnx.ModelProto,
    trials: Trials,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Score the tidy float32 `model` with one group of nodes quantized at a time, and with all but one.

    `groups` names nodes that are judged together; by default each of `quantizable(model)` is one. Nodes that
    `trials.quantize` leaves in float anyway are dropped. `progress(done, total, group)` is called after each group.
    2 n + 2 scores are taken. Raises `ConfigError` for groups that overlap or name what the model does not have, and
    `LoweringError` when nothing is quantized.
    """
    known = quantizable(model)
    chosen = {name: (name,) for name in known} if groups is None else {k: tuple(v) for k, v in groups.items()}
    _check_groups(chosen, known)
    everything = trials.quantize(frozenset())
    untouched = _sha256(everything)
    kept = {k: v for k, v in chosen.items() if _sha256(trials.quantize(frozenset(v))) != untouched}
    if not kept:
        raise LoweringError(f"none of the nodes {sorted(chosen)} is quantized; there is nothing to measure")
    names = frozenset(node for nodes in kept.values() for node in nodes)
    float32, int8 = trials.score(model), trials.score(everything)
    alone: dict[str, float] = {}
    last: dict[str, float] = {}
    for done, (name, nodes) in enumerate(kept.items(), start=1):
        others = names - set(nodes)
        # without any other group there is only the one that is quantized already
        alone[name] = float32 - (trials.without(others) if others else int8)
        last[name] = trials.without(nodes) - int8 if others else float32 - int8
        if progress is not None:
            progress(done, len(kept), name)
    return Sensitivity(float32=float32, int8=int8, alone=alone, last=last, groups=kept)


def _check_groups(groups: Mapping[str, tuple[str, ...]], known: tuple[str, ...]) -> None:
    names = [node for nodes in groups.values() for node in nodes]
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise ConfigError(f"groups name {unknown or 'nothing'}; the nodes with weights are {list(known)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"nodes {twice} are in more than one group; each belongs to one")


def _sha256(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
