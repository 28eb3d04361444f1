"""Activation ranges for quantization calibration: run the float32 model over frames and look at every tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edge_export._graph import GraphView, main_input
from edge_export.admit import admit_frames
from edge_export.gate import open_session
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["METHODS", "Method", "Ranges", "collect_ranges"]

Method = Literal["minmax", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile", "mse")
Float32 = npt.NDArray[np.float32]

_BINS = 2048
_MSE_STEPS = 64
_LEVELS = 128  # magnitudes of int8
_KL_STRIDE = 4  # bins between two candidates of the entropy search


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Magnitudes of every float32 tensor of one model over one set of inputs, in the tensor's own unit.

    `absmax[name]` is the largest |x| seen; `clip[name]` <= absmax the magnitude that int8 should still represent by
    `method`. `low[name]` <= 0 <= `high[name]` are the signed ends that were seen, stretched to hold 0; ranges made
    without them (learned ones) are symmetric. `inputs_sha256` hashes the input tensors in order, `n_inputs`
    counts them.
    """

    absmax: dict[str, float]
    clip: dict[str, float]
    method: Method
    n_inputs: int
    inputs_sha256: str
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)

    def interval(self, name: str) -> tuple[float, float]:
        """(low, high) with low <= 0 <= high that 8 asymmetric bits should represent: the signed ends within the clip.

        Raises `ConfigError` when the tensor is not in these ranges.
        """
        if name not in self.clip:
            raise ConfigError(f"the ranges hold no tensor {name!r}; collect them on the model that is quantized")
        clip = self.clip[name]
        return max(self.low.get(name, -clip), -clip), min(self.high.get(name, clip), clip)

    def to_dict(self) -> dict[str, Any]:
        """JSON form: method, count, hash, and the tables by tensor."""
        return {
            "method": self.method,
            "n_inputs": self.n_inputs,
            "inputs_sha256": self.inputs_sha256,
            "absmax": self.absmax,
            "clip": self.clip,
            "low": self.low,
            "high": self.high,
        }


def collect_ranges(
    model: onnx.ModelProto,
    inputs: Sequence[Float32],
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    threads: int = 1,
) -> Ranges:
    """Run `model` (float32) on each tensor of `inputs` (float32, the model's input shape) in ONNX Runtime.

    `minmax` keeps the largest magnitude; `percentile` the magnitude below which `percentile` % of all values lie; `mse`
    the clip with the least expected squared error of symmetric 8-bit rounding plus clipping, by a search over
    a histogram of 2048 bins (Banner et al., "Post training 4-bit quantization", 2019, section 4, done
    numerically); `entropy` the clip whose 128 merged bins lie nearest to the histogram in Kullback-Leibler divergence
    (Migacz, "8-bit inference with TensorRT", GTC 2017). The frames are run twice where a histogram is needed: the
    memory is 16 KiB per tensor, whatever the number of frames. Raises `ConfigError` on a bad method, percentile or
    input and `LoweringError` when the model gives values that are not finite.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; choose {', '.join(METHODS)}")
    if not 50.0 < percentile <= 100.0:
        raise ConfigError(f"percentile is {percentile}; it must lie in (50, 100]")
    admit_frames(inputs, *main_input(model))
    view = GraphView(model)
    names = [name for node in view.nodes for name in node.output if name and view.is_float(name)]
    run = _probe(model, view, names, threads)
    tracked = [main_input(model)[0], *names]
    low, high = dict.fromkeys(tracked, 0.0), dict.fromkeys(tracked, 0.0)
    for sample in inputs:
        for name, array in run(sample).items():
            ends = _ends(name, array)
            low[name], high[name] = min(low[name], ends[0]), max(high[name], ends[1])
    absmax = {name: max(-low[name], high[name]) for name in tracked}
    clip = dict(absmax)
    if method != "minmax":
        for name, counts in _histograms(run, inputs, absmax).items():
            clip[name] = absmax[name] * _clip_share(counts, method, percentile)
    digest = hashlib.sha256()
    for sample in inputs:
        digest.update(np.ascontiguousarray(sample).tobytes())
    return Ranges(
        absmax=absmax,
        clip=clip,
        method=method,
        n_inputs=len(inputs),
        inputs_sha256=digest.hexdigest(),
        low=low,
        high=high,
    )


def _probe(
    model: onnx.ModelProto, view: GraphView, names: list[str], threads: int
) -> Callable[[Float32], dict[str, Float32]]:
    """A function that runs one sample and gives every tensor, the input included."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    for name in names:
        if name not in view.outputs:
            probed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, view.types[name].shape))
    session = open_session(probed, threads=threads)
    input_name = main_input(model)[0]

    def run(sample: Float32) -> dict[str, Float32]:
        arrays = session.run(names, {input_name: sample})
        return {input_name: sample, **dict(zip(names, arrays, strict=True))}

    return run


def _ends(name: str, array: Float32) -> tuple[float, float]:
    low, high = float(array.min(initial=0.0)), float(array.max(initial=0.0))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise LoweringError(f"tensor {name!r} has values that are not finite; the float32 model itself is broken")
    return low, high


def _histograms(
    run: Callable[[Float32], dict[str, Float32]], inputs: Sequence[Float32], absmax: dict[str, float]
) -> dict[str, npt.NDArray[np.int64]]:
    found = {name: np.zeros(_BINS, np.int64) for name, top in absmax.items() if top > 0}
    for sample in inputs:
        for name, array in run(sample).items():
            if name in found:
                found[name] += np.histogram(np.abs(array), bins=_BINS, range=(0.0, absmax[name]))[0]
    return found


def _clip_share(counts: npt.NDArray[np.int64], method: Method, percentile: float) -> float:
    """The clip as a share of the largest magnitude, in (0, 1]."""
    if method == "percentile":
        reached = np.cumsum(counts) >= counts.sum() * (percentile / 100.0)
        return float((int(np.argmax(reached)) + 1) / _BINS)
    if method == "entropy":
        return _least_divergence(counts)
    centres = (np.arange(_BINS) + 0.5) / _BINS
    shares = np.linspace(1.0 / _MSE_STEPS, 1.0, _MSE_STEPS)
    costs = []
    for share in shares:
        step = share / 127.0
        rounded = np.minimum(np.rint(centres / step), 127.0) * step
        costs.append(float((counts * (centres - rounded) ** 2).sum()))
    return float(shares[int(np.argmin(costs))])


def _least_divergence(counts: npt.NDArray[np.int64]) -> float:
    """The share of the histogram to keep so that merging it into 128 levels loses the least information."""
    table = counts.astype(np.float64)
    table[0] = table[1]  # zeros, of which a ReLU makes many, are exact at every scale
    if not table.any():
        return 1.0
    ends = range(_LEVELS, _BINS + 1, _KL_STRIDE)
    return ends[int(np.argmin([_divergence(table, end) for end in ends]))] / _BINS


def _divergence(table: npt.NDArray[np.float64], end: int) -> float:
    """KL(p, q): p the first `end` bins with the tail added to the last, q the same bins averaged within 128 levels."""
    kept = table[:end]
    reference = kept.copy()
    reference[-1] += table[end:].sum()
    level = np.minimum(np.arange(end) * _LEVELS // end, _LEVELS - 1)
    filled = reference > 0
    sums = np.bincount(level, weights=kept, minlength=_LEVELS)
    sizes = np.bincount(level, weights=filled, minlength=_LEVELS)
    merged = np.where(filled, (sums / np.maximum(sizes, 1))[level], 0.0)
    p, q = reference / reference.sum(), merged / max(merged.sum(), 1e-300)
    return float(np.sum(p[filled] * np.log(p[filled] / np.maximum(q[filled], 1e-9))))
