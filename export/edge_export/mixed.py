"""Mixed precision: which nodes stay in float, chosen from what they cost the task and what they cost in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._graph import GraphView, main_input
from edge_export.gate import open_session
from edge_export.macs import node_macs
from edge_export.sensitivity import Sensitivity, Trials, measure_sensitivity
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["Latency", "MixedPoint", "MixedPrecision", "cpu_latency", "interleaved_ms", "mac_cost", "mixed_precision"]

Latency = Callable[[Sequence[onnx.ModelProto]], list[float]]
"""Milliseconds, or another cost, of one inference of each model, all measured in one go."""

_INT8_MAC = 0.25  # of a float32 one: four int8 products in a lane of 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPoint:
    """One choice: the nodes left in float, its score, what that is below float32, its cost, float32's cost over it,
    and the share of the full quantization's speed-up that it gives up, (s_int8 - s) / (s_int8 - 1)."""

    exclude: tuple[str, ...]
    score: float
    loss: float
    latency: float
    speed_up: float
    given_up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision:
    """The `chosen` point of `curve`, whose first entry has everything quantized; `float32_*` is the model itself."""

    chosen: MixedPoint
    curve: tuple[MixedPoint, ...]
    sensitivity: Sensitivity
    float32_score: float
    float32_latency: float

    @property
    def exclude(self) -> tuple[str, ...]:
        """The nodes to leave in float."""
        return self.chosen.exclude

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "chosen": asdict(self.chosen),
            "curve": [asdict(point) for point in self.curve],
            "sensitivity": self.sensitivity.to_dict(),
            "float32_score": self.float32_score,
            "float32_latency": self.float32_latency,
        }


def mixed_precision(
    model: onnx.ModelProto,
    trials: Trials,
    *,
    latency: Latency,
    max_given_up: float = 0.15,
    max_loss: float | None = None,
    sensitivity: Sensitivity | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> MixedPrecision:
    """Leave in float what wins back most of the score for the time it costs, one group after the other.

    The greedy solution of the knapsack (Dantzig 1957): groups in the order of score won (`Sensitivity.blame`) per time
    lost when that group alone is left out; those that win nothing are not tried, those that cost nothing come first.
    Every step of that order is then scored and timed for itself, which is `curve`: neither score nor time adds up.
    Chosen is, among the points that give up at most `max_given_up` of the speed-up (a share), the one of the best
    score; with `max_loss` the fastest of those that lose at most so much. `latency` is `cpu_latency` on this machine,
    or `mac_cost` where no runner of the target is at hand. Raises `LoweringError` when int8 is not faster
    than float32 by `latency`, or when no point is within `max_loss`, with the best that there is.
    """
    if not 0 <= max_given_up <= 1:
        raise ConfigError(f"max_given_up is {max_given_up}; a share of the speed-up in [0, 1] is needed")
    found = sensitivity or measure_sensitivity(model, trials, progress=progress)
    order = _order(found, trials, latency)
    sets = [frozenset(n for name in order[:k] for n in found.groups[name]) for k in range(len(order) + 1)]
    models = [trials.quantize(names) for names in sets]
    float_ms, *costs = latency([model, *models])
    best = float_ms / costs[0]
    if best <= 1:
        raise LoweringError(
            f"int8 takes {costs[0]:.4g} and float32 {float_ms:.4g} by this latency: there is no speed-up to trade; "
            "measure on the runner and the device that the model is for, or ship float32"
        )
    scores = [trials.score(item) for item in models]
    curve = tuple(
        MixedPoint(
            exclude=tuple(sorted(names)),
            score=score,
            loss=found.float32 - score,
            latency=cost,
            speed_up=float_ms / cost,
            given_up=(best - float_ms / cost) / (best - 1),
        )
        for names, score, cost in zip(sets, scores, costs, strict=True)
    )
    return MixedPrecision(
        chosen=_chosen(curve, max_given_up, max_loss),
        curve=curve,
        sensitivity=found,
        float32_score=found.float32,
        float32_latency=float_ms,
    )


def _order(found: Sensitivity, trials: Trials, latency: Latency) -> list[str]:
    helpful = [name for name in found.groups if found.blame(name) > 0]
    models = [trials.quantize(frozenset()), *(trials.quantize(frozenset(found.groups[name])) for name in helpful)]
    base, *costs = latency(models)
    least = base * 1e-3  # what cannot be told from nothing
    value = {name: found.blame(name) / max(cost - base, least) for name, cost in zip(helpful, costs, strict=True)}
    return sorted(helpful, key=lambda name: value[name], reverse=True)


def _chosen(curve: Sequence[MixedPoint], max_given_up: float, max_loss: float | None) -> MixedPoint:
    quick = [point for point in curve if point.given_up <= max_given_up]
    best = max(quick, key=lambda point: (point.score, point.speed_up))
    if max_loss is None:
        return best
    good = [point for point in quick if point.loss <= max_loss]
    if not good:
        raise LoweringError(
            f"no choice loses at most {max_loss:g} and gives up at most {max_given_up:.0%} of the speed-up; the best "
            f"loses {best.loss:.4g} with {list(best.exclude)} in float. Allow more, or train with quantization (QAT)"
        )
    return max(good, key=lambda point: (point.speed_up, point.score))


def cpu_latency(sample: npt.NDArray[np.float32], *, rounds: int = 30) -> Latency:
    """Milliseconds in ONNX Runtime on this machine's CPU, one thread, for the input `sample` (see `interleaved_ms`)."""

    def measure(models: Sequence[onnx.ModelProto]) -> list[float]:
        calls = []
        for model in models:
            session, feed = open_session(model), {main_input(model)[0]: sample}
            calls.append(lambda session=session, feed=feed: session.run(None, feed))
        return interleaved_ms(calls, rounds=rounds)

    return measure


def interleaved_ms(calls: Sequence[Callable[[], object]], *, rounds: int = 30) -> list[float]:
    """The lower quartile, in ms, of each call's CPU time over `rounds` rounds in which all take their turn.

    CPU time of this process (`time.process_time_ns`), so that what else runs on the machine counts little; it equals
    the latency of a call that computes in one thread and waits for nothing. Raises `ConfigError` without rounds.
    """
    if rounds < 1:
        raise ConfigError(f"rounds is {rounds}; at least 1 is needed")
    times = np.zeros((rounds + 2, len(calls)))
    for row in times:
        for column, call in enumerate(calls):
            began = time.process_time_ns()
            call()
            row[column] = (time.process_time_ns() - began) / 1e6
    return [float(value) for value in np.quantile(times[2:], 0.25, axis=0)]


def mac_cost(models: Sequence[onnx.ModelProto]) -> list[float]:
    """Millions of float32 multiply-adds that each model is worth, an int8 one counting a quarter.

    A stand-in for a latency on a target that is not at hand: it knows nothing of memory, of layers that a device fuses
    or of what it has no kernel for. A node counts as int8 when its weight comes from a DequantizeLinear.
    """
    return [_worth(model) / 1e6 for model in models]


def _worth(model: onnx.ModelProto) -> float:
    view = GraphView(model)
    total = 0.0
    for node in view.nodes:
        macs = node_macs(view, node)
        if macs:
            total += macs * (_INT8_MAC if _is_int8(view, node.input[1]) else 1.0)
    return total


def _is_int8(view: GraphView, name: str) -> bool:
    maker = view.producer.get(name)
    while maker is not None and maker.op_type == "Cast":
        maker = view.producer.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"
