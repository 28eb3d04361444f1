"""Sensitivity against a network whose guilty layer is known, and what a search keeps between calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from edge_export import run_model, to_int8
from edge_export._tidy import tidy
from edge_export.sensitivity import Trials, measure_sensitivity, quantizable, sqnr_score
from edge_runtime.errors import ConfigError, LoweringError
from tests.export.conftest import build_model

SHAPE = (1, 4, 8, 8)


def chain(guilty: int, count: int = 4) -> onnx.ModelProto:
    """`count` 1 x 1 convolutions; the weights of one span 10^4 within each output channel, which 8 bits cannot hold."""
    random = np.random.default_rng(3)
    nodes, constants = [], {}
    for k in range(count):
        weight = np.eye(4) + random.normal(0, 0.1, (4, 4))
        if k == guilty:
            weight = weight * np.array([1e-4, 1.0, 1e-4, 1e-4])
            weight[:, 1] = 30.0  # the channel that is 0 throughout drowns the steps of the others
        weight[1] = 0
        constants[f"w{k}"] = weight.reshape(4, 4, 1, 1).astype(np.float32)
        source, target = ("image" if k == 0 else f"t{k - 1}"), ("mask" if k == count - 1 else f"t{k}")
        nodes.append(helper.make_node("Conv", [source, f"w{k}"], [target], kernel_shape=[1, 1]))
    return tidy(build_model(nodes, constants, input_shape=SHAPE))


def frames(count: int = 3) -> list[npt.NDArray[np.float32]]:
    random = np.random.default_rng(0)
    samples = random.random((count, *SHAPE)).astype(np.float32)
    samples[:, :, 1] = 0.0
    return list(samples)


def trials_of(model: onnx.ModelProto, store: Path | None = None) -> Trials:
    def quantize(names: frozenset[str]) -> onnx.ModelProto:
        every = set(quantizable(model))
        if names >= every:
            return model
        return to_int8(model, frames(), exclude=names, exclude_first=False, exclude_head=False)

    return Trials(quantize, sqnr_score(model, frames()), store)


@pytest.mark.parametrize("guilty", [0, 2])
def test_the_layer_that_8_bits_cannot_hold_is_blamed(guilty: int) -> None:
    model = chain(guilty)
    found = measure_sensitivity(model, trials_of(model))
    assert max(found.groups, key=found.blame) == f"Conv_{guilty}"
    assert found.float32 == pytest.approx(120)
    assert found.int8 < 60
    assert found.table().splitlines()[1].startswith(f"Conv_{guilty}")
    assert found.to_dict()["groups"][f"Conv_{guilty}"]["nodes"] == [f"Conv_{guilty}"]


def test_the_score_in_decibels_is_the_closed_form() -> None:
    model = chain(0)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    last = next(item for item in other.graph.initializer if item.name == model.graph.node[-1].input[1])
    last.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(last) * np.float32(1.1), last.name))
    assert sqnr_score(model, frames())(other) == pytest.approx(20, abs=1e-3)  # y' = 1.1 y: noise is y / 10


def test_groups_are_judged_together() -> None:
    model = chain(1)
    found = measure_sensitivity(model, trials_of(model), groups={"a": ["Conv_0", "Conv_1"], "b": ["Conv_2", "Conv_3"]})
    assert found.blame("a") > found.blame("b")
    assert found.alone["a"] > found.alone["b"]


def test_a_stopped_search_goes_on_where_it_was(tmp_path: Path) -> None:
    model, store = chain(1), tmp_path / "scores.json"
    first = measure_sensitivity(model, trials_of(model, store))
    again = trials_of(model, store)
    again._score = lambda _: pytest.fail("scored again")
    assert measure_sensitivity(model, again) == first
    store.write_text("[1, 2")
    with pytest.raises(ConfigError, match=r"scores\.json does not hold scores"):
        trials_of(model, store)


def test_nodes_that_stay_in_float_anyway_are_dropped() -> None:
    model = chain(1)
    calls: list[tuple[int, int, str]] = []
    trials = Trials(lambda names: to_int8(model, frames(), exclude=names), sqnr_score(model, frames()))
    found = measure_sensitivity(
        model, trials, groups={"Conv_1": ["Conv_1"], "Conv_0": ["Conv_0"]}, progress=_note(calls)
    )
    assert list(found.groups) == ["Conv_1"]
    assert calls == [(1, 1, "Conv_1")]
    with pytest.raises(LoweringError, match="nothing to measure"):
        measure_sensitivity(model, trials, groups={"a": ["Conv_0"]})


def _note(calls: list[tuple[int, int, str]]):  # type: ignore[no-untyped-def]
    return lambda done, total, name: calls.append((done, total, name))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": ["Conv_9"]}, "Conv_9"),
        ({"a": []}, "nothing"),
        ({"a": ["Conv_1"], "b": ["Conv_1"]}, "more than one group"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: dict[str, list[str]], said: str) -> None:
    model = chain(1)
    with pytest.raises(ConfigError, match=said):
        measure_sensitivity(model, trials_of(model), groups=groups)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    model = chain(1)
    with pytest.raises(LoweringError, match="score of a quantized model is nan"):
        Trials(trials_of(model).quantize, lambda _: float("nan")).without([])
    with pytest.raises(ConfigError, match="no inputs"):
        sqnr_score(model, [])


def test_scores_do_not_change_the_model() -> None:
    model = chain(1)
    before = model.SerializeToString()
    measure_sensitivity(model, trials_of(model))
    assert model.SerializeToString() == before
    assert run_model(model, frames())
