"""The one contract that every runner keeps, asked of each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, InferenceError, InputContractError, RunnerError
from edge_runtime.runners import RUNNER_TARGETS, FakeRunner, Runner, available_runners, create_runner
from edge_runtime.runners.onnxruntime import OrtRunner

V1 = Path(__file__).parents[2] / "data" / "v1.edge"
Float32 = npt.NDArray[np.float32]
Make = Callable[[], Runner]


def fake() -> Runner:
    return FakeRunner(shape=(16, 16))


def shipped(runner: str, **options: Any) -> Make:
    """Makes runners of the committed bundle's fp32 variant; skips with the reason where there is no such backend."""
    if reason := available_runners()[runner]:
        pytest.skip(reason)

    def make() -> Runner:
        with Bundle.open(V1) as bundle:
            return create_runner(bundle, "fp32", runner=runner, **options)

    return make


CASES: dict[str, Callable[[], Make]] = {
    "fake": lambda: fake,
    "onnxruntime": lambda: shipped("onnxruntime"),
    "onnxruntime-limit": lambda: shipped("onnxruntime", timeout_s=60),
    "openvino": lambda: shipped("openvino"),
    "openvino-limit": lambda: shipped("openvino", timeout_s=60),
    "tensorrt": lambda: shipped("tensorrt", timeout_s=60),
}


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.gpu) if n == "tensorrt" else n for n in CASES])
def make(request: pytest.FixtureRequest) -> Make:
    return CASES[request.param]()


def image(seed: int = 0) -> Float32:
    return np.random.default_rng(seed).random((1, 1, 16, 16), np.float32)


def test_outputs_are_those_of_the_manifest(make: Make) -> None:
    with make() as runner:
        found = runner.infer({runner.input.name: image()})
        assert set(found) == {spec.name for spec in runner.outputs}
        for spec in runner.outputs:
            assert found[spec.name].shape == spec.shape
            assert found[spec.name].dtype == np.float32
            assert found[spec.name].flags.c_contiguous
            assert np.isfinite(found[spec.name]).all()


def test_outputs_last_until_the_next_call_which_writes_over_them(make: Make) -> None:
    with make() as runner:
        name = runner.outputs[0].name
        first = runner.infer({runner.input.name: image(1)})[name]
        kept = first.copy()
        second = runner.infer({runner.input.name: image(2)})[name]
        assert np.shares_memory(first, second)
        assert not np.array_equal(kept, second)


def test_the_same_input_gives_the_same_output(make: Make) -> None:
    with make() as runner:
        name = runner.outputs[0].name
        first = runner.infer({runner.input.name: image()})[name].copy()
        runner.infer({runner.input.name: image(9)})
        assert np.array_equal(first, runner.infer({runner.input.name: image()})[name])


def test_the_input_is_not_changed_and_may_be_written_over_in_place(make: Make) -> None:
    with make() as runner:
        name = runner.outputs[0].name
        buffer = image(1)
        runner.infer({runner.input.name: buffer})
        np.testing.assert_array_equal(buffer, image(1))
        np.copyto(buffer, image(2))
        again = runner.infer({runner.input.name: buffer})[name].copy()
        np.testing.assert_array_equal(again, runner.infer({runner.input.name: image(2)})[name])


def test_an_input_with_gaps_is_read_right(make: Make) -> None:
    with make() as runner:
        name = runner.outputs[0].name
        wanted = runner.infer({runner.input.name: image()})[name].copy()
        wide = np.full((1, 1, 16, 32), np.nan, np.float32)
        wide[..., ::2] = image()
        turned = np.ascontiguousarray(image().transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
        for view in (wide[..., ::2], turned):
            assert not view.flags.c_contiguous
            np.testing.assert_array_equal(runner.infer({runner.input.name: view})[name], wanted)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "inputs are"),
        ({"nonsense": image()}, "nonsense"),
        ({"IN": image(), "more": image()}, "more"),
        ({"IN": image()[0]}, r"\(1, 16, 16\)"),
        ({"IN": image()[..., :8]}, r"\(1, 1, 16, 8\)"),
        ({"IN": image().astype(np.float64)}, "float64"),
        ({"IN": image().astype(np.uint8)}, "uint8"),
    ],
)
def test_another_input_is_refused(make: Make, inputs: dict[str, Float32], told: str) -> None:
    with make() as runner:
        given = {runner.input.name if name == "IN" else name: array for name, array in inputs.items()}
        with pytest.raises(InputContractError, match=told):
            runner.infer(given)
        runner.infer({runner.input.name: image()})  # and the runner still works


def test_use_outside_the_context_is_refused(make: Make) -> None:
    runner = make()
    with pytest.raises(RunnerError, match="not active"):
        runner.infer({runner.input.name: image()})
    with runner:
        runner.infer({runner.input.name: image()})
    with pytest.raises(RunnerError, match="not active"):
        runner.infer({runner.input.name: image()})


def test_it_can_be_entered_again_and_inside_itself(make: Make) -> None:
    runner = make()
    name = runner.outputs[0].name
    with runner:
        wanted = runner.infer({runner.input.name: image()})[name].copy()
    with runner:
        with runner:
            runner.infer({runner.input.name: image(1)})
        np.testing.assert_array_equal(runner.infer({runner.input.name: image()})[name], wanted)


def test_it_can_be_restarted_while_it_is_open_in_one_place(make: Make) -> None:
    runner = make()
    name = runner.outputs[0].name
    with pytest.raises(RunnerError, match="not active"):
        runner.restart()
    with runner:
        wanted = runner.infer({runner.input.name: image()})[name].copy()
        runner.restart()
        np.testing.assert_array_equal(runner.infer({runner.input.name: image()})[name], wanted)
        with runner, pytest.raises(RunnerError, match="open in a second place"):
            runner.restart()
        np.testing.assert_array_equal(runner.infer({runner.input.name: image()})[name], wanted)


def test_an_error_inside_the_context_frees_it(make: Make) -> None:
    runner = make()
    with pytest.raises(KeyError), runner:
        raise KeyError
    with pytest.raises(RunnerError, match="not active"):
        runner.infer({runner.input.name: image()})


def test_another_thread_may_infer(make: Make) -> None:
    found: list[Float32] = []
    with make() as runner:
        name = runner.outputs[0].name
        wanted = runner.infer({runner.input.name: image()})[name].copy()

        def work() -> None:
            found.append(runner.infer({runner.input.name: image()})[name].copy())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(found[0], wanted)


def test_two_runners_in_two_threads_do_not_disturb_each_other(make: Make) -> None:
    """One runner belongs to one thread at a time; each thread with its own gets its own answers."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        with make() as runner:
            name = runner.outputs[0].name
            wanted = runner.infer({runner.input.name: image(seed)})[name].copy()
            for _ in range(50):
                if not np.array_equal(runner.infer({runner.input.name: image(seed)})[name], wanted):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_during_a_call_of_another_thread_is_refused_and_leaves_that_call_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    found: list[Float32] = []
    with make() as runner:
        name = runner.outputs[0].name
        wanted = runner.infer({runner.input.name: image(1)})[name].copy()
        plain = runner._infer

        def slow(inputs: Any) -> dict[str, Float32]:
            inside.set()
            assert go_on.wait(30)
            return plain(inputs)

        def work() -> None:
            found.append(runner.infer({runner.input.name: image(1)})[name].copy())

        monkeypatch.setattr(runner, "_infer", slow)
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(30)
        with pytest.raises(RunnerError, match=r"in a call of another thread; give each pipeline a load\(\)"):
            runner.infer({runner.input.name: image(2)})
        go_on.set()
        thread.join()
        np.testing.assert_array_equal(found[0], wanted)
        np.testing.assert_array_equal(runner.infer({runner.input.name: image(1)})[name], wanted)


def test_a_call_that_failed_leaves_the_runner_free(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(inputs: Any) -> dict[str, Float32]:
        raise InferenceError("broken")

    with make() as runner:
        with monkeypatch.context() as patch:
            patch.setattr(runner, "_infer", broken)
            with pytest.raises(InferenceError, match="broken"):
                runner.infer({runner.input.name: image()})
        runner.infer({runner.input.name: image()})


class Lost(FakeRunner):
    """Its second load fails."""

    loads = 0

    def _activate(self) -> None:
        self.loads += 1
        if self.loads == 2:
            raise RunnerError("the device was lost")
        super()._activate()


def test_a_restart_that_fails_leaves_the_runner_closed_and_it_can_be_opened_again() -> None:
    runner = Lost(shape=(16, 16))
    with runner:
        with pytest.raises(RunnerError, match="device was lost"):
            runner.restart()
        with pytest.raises(RunnerError, match="not active"):
            runner.infer({runner.input.name: image()})
    with runner:
        runner.infer({runner.input.name: image()})
    with pytest.raises(RunnerError, match="not active"):
        runner.infer({runner.input.name: image()})


def test_names_of_runners() -> None:
    assert list(available_runners()) == ["onnxruntime", "openvino", "tensorrt"] == list(RUNNER_TARGETS)
    with Bundle.open(V1) as bundle:
        with pytest.raises(ConfigError, match="'tensorflow' is not known"):
            create_runner(bundle, "fp32", runner="tensorflow")
        with pytest.raises(ConfigError, match="fp99"):
            create_runner(bundle, "fp99")
        assert isinstance(create_runner(bundle, "fp16"), OrtRunner)
