"""What the self-test says: which output was worst, and that without samples nothing was tested."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import Bundle, OutputSpec, write_bundle
from edge_runtime.errors import SelfTestError
from edge_runtime.loading import load, self_test
from edge_runtime.runners import FakeRunner

V1 = Path(__file__).parents[1] / "data" / "v1.edge"
Array = npt.NDArray[np.float32]


class TwoOutputs:
    """As much of a bundle as the self-test reads: two outputs, two samples of zeros."""

    path = Path("two.edge")

    def __init__(self, parity_abs: float) -> None:
        with Bundle.open(V1) as bundle:
            self._variant = msgspec.structs.replace(bundle.variant("fp32"), parity_abs=parity_abs)

    def variant(self, name: str) -> object:
        return self._variant

    def golden(self) -> list[tuple[Array, dict[str, Array]]]:
        zeros = np.zeros((1, 1, 4, 4), np.float32)
        return [(zeros, {"a": zeros, "b": zeros})] * 2


def runner_giving(a: float, b: float) -> FakeRunner:
    runner = FakeRunner(shape=(4, 4), variant="fp32")
    runner.outputs = tuple(OutputSpec(name=name, shape=(1, 1, 4, 4), kind="raw") for name in "ab")
    arrays = {"a": np.full((1, 1, 4, 4), a, np.float32), "b": np.full((1, 1, 4, 4), b, np.float32)}
    runner._infer = lambda inputs: arrays  # type: ignore[method-assign]
    return runner


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (0.5, 0.0, "by 0.5 (output 'a')"),
        (0.5, -0.75, "by 0.75 (output 'b')"),
        (np.nan, 3.0, "by inf (output 'a')"),
        (0.0, -np.inf, "by inf (output 'b')"),
    ],
)
def test_the_worst_output_is_named_with_what_is_allowed(a: float, b: float, said: str) -> None:
    with pytest.raises(SelfTestError) as caught:
        self_test(TwoOutputs(0.25), runner_giving(a, b))  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "variant fp32 on fake" in str(caught.value)
    assert "allowed are 0.25" in str(caught.value)


def test_the_bound_itself_is_allowed() -> None:
    report = self_test(TwoOutputs(0.25), runner_giving(0.25, -0.25))  # type: ignore[arg-type]
    assert (report.worst, report.agreement, report.allowed) == (0.25, 1.0, 0.25)


def test_a_bundle_without_golden_samples_does_not_pass(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with Bundle.open(V1) as bundle:
        members = {m.path: bundle.read(m.path) for m in bundle.manifest.members if not m.path.startswith("golden/")}
        manifest = msgspec.structs.replace(bundle.manifest, members=(), golden=())
    write_bundle(tmp_path / "bare.edge", manifest, members)
    with pytest.raises(SelfTestError, match="has no golden samples to test with"):
        load(tmp_path / "bare.edge")
    assert load(tmp_path / "bare.edge", verify=False).self_tests == ()
