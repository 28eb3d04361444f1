"""The greedy choice against a search over every subset, the limits it keeps, and costs in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import onnx
import pytest
from onnx import helper

from edge_export import to_int8
from edge_export._tidy import tidy
from edge_export.mixed import cpu_latency, interleaved_ms, mac_cost, mixed_precision
from edge_export.sensitivity import Trials, quantizable
from edge_runtime.errors import ConfigError, LoweringError
from tests.export.conftest import build_model

LOSS = {"Conv_0": 8.0, "Conv_1": 0.5, "Conv_2": 3.0, "Conv_3": 0.0}
COST = {"Conv_0": 0.2, "Conv_1": 0.4, "Conv_2": 0.3, "Conv_3": 0.1}


def model_of(count: int = 4) -> onnx.ModelProto:
    weights = {f"w{k}": np.full((4, 4, 1, 1), 0.1 + k, np.float32) for k in range(count)}
    names = ["image", *(f"t{k}" for k in range(count - 1)), "mask"]
    nodes = [helper.make_node("Conv", [names[k], f"w{k}"], [names[k + 1]], kernel_shape=[1, 1]) for k in range(count)]
    return tidy(build_model(nodes, weights))


def marked(names: frozenset[str]) -> onnx.ModelProto:
    """A model that says which of its nodes stay in float."""
    model = model_of()
    model.doc_string = ",".join(sorted(names))
    return model


def left_out(model: onnx.ModelProto) -> set[str]:
    return set(model.doc_string.split(",")) - {""} if model.doc_string != "float32" else set(LOSS)


def score(model: onnx.ModelProto) -> float:
    return 100 - sum(value for name, value in LOSS.items() if name not in left_out(model))


def latency(models: Sequence[onnx.ModelProto]) -> list[float]:
    return [1 + sum(COST[name] for name in left_out(model)) for model in models]


def float_model() -> onnx.ModelProto:
    model = model_of()
    model.doc_string = "float32"
    return model


@pytest.mark.parametrize("allowed", [0.0, 0.15, 0.4, 0.6, 1.0])
def test_the_choice_is_the_best_of_all_subsets_here(allowed: float) -> None:
    found = mixed_precision(float_model(), Trials(marked, score), latency=latency, max_given_up=allowed)
    best = 2.0
    subsets = chain.from_iterable(combinations(LOSS, k) for k in range(5))
    given_up = {names: (best - 2 / (1 + sum(COST[n] for n in names))) / (best - 1) for names in subsets}
    scores = [100 - sum(v for n, v in LOSS.items() if n not in names) for names, g in given_up.items() if g <= allowed]
    assert found.chosen.score == max(scores)
    assert found.chosen.given_up <= allowed
    assert found.curve[0].exclude == ()
    assert found.curve[0].given_up == 0
    assert "Conv_3" not in found.exclude  # it wins nothing


def test_with_a_largest_loss_the_fastest_is_taken() -> None:
    found = mixed_precision(float_model(), Trials(marked, score), latency=latency, max_given_up=1.0, max_loss=4.0)
    assert found.exclude == ("Conv_0",)
    assert found.chosen.loss == pytest.approx(3.5)
    assert found.chosen.speed_up == pytest.approx(2 / 1.2)
    assert found.to_dict()["chosen"]["exclude"] == ("Conv_0",)
    with pytest.raises(LoweringError, match=r"loses at most 0\.1 and gives up at most 20%"):
        mixed_precision(float_model(), Trials(marked, score), latency=latency, max_given_up=0.2, max_loss=0.1)


def test_where_int8_is_not_faster_there_is_nothing_to_trade() -> None:
    with pytest.raises(LoweringError, match="no speed-up to trade"):
        mixed_precision(float_model(), Trials(marked, score), latency=lambda models: [1.0] * len(models))
    with pytest.raises(ConfigError, match=r"max_given_up is 1\.5"):
        mixed_precision(float_model(), Trials(marked, score), latency=latency, max_given_up=1.5)


def test_multiply_adds_count_a_quarter_in_int8() -> None:
    model = model_of()
    frames = [np.random.default_rng(0).random((1, 4, 8, 8)).astype(np.float32)]
    one = 4 * 4 * 64 / 1e6
    some = to_int8(model, frames, exclude=["Conv_1"])
    assert quantizable(model) == ("Conv_0", "Conv_1", "Conv_2", "Conv_3")
    assert mac_cost([model, some]) == pytest.approx([4 * one, 3.25 * one])  # first and head stay in float too


def test_the_clock_gives_one_number_per_call() -> None:
    sample = np.zeros((1, 4, 8, 8), np.float32)
    times = cpu_latency(sample, rounds=3)([model_of(), model_of(2)])
    assert len(times) == 2
    assert min(times) >= 0
    with pytest.raises(ConfigError, match="rounds is 0"):
        interleaved_ms([lambda: None], rounds=0)
