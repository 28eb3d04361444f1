"""Several runners on one ladder: what is tried, what is measured, what is left out, and that it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime import loading
from edge_runtime.bundle import Bundle, Manifest, write_bundle
from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, MissingDependencyError, ProviderUnavailableError, SelfTestError
from edge_runtime.loading import accuracy_ranks, load
from edge_runtime.runners import FakeRunner, available_runners
from edge_runtime.session import BRANCH, RunSettings, run_stream
from edge_runtime.sources import ArraySource
from edge_runtime.streaming.warmup import synthetic_frame, warm_up

pytest.importorskip("cv2")

V1 = Path(__file__).parents[1] / "data" / "v1.edge"
BOTH = {"ort-cpu": ("fp32", "fp16"), "openvino": ("fp32", "fp16")}


def bundle_with(path: Path, ladders: Any, **scores: float) -> Path:
    with Bundle.open(V1) as bundle:
        members = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
        manifest = msgspec.structs.replace(bundle.manifest, members=(), ladders=ladders)
    variants = tuple(
        msgspec.structs.replace(variant, scores={"dice": scores[variant.id]} if scores else {})
        for variant in manifest.variants
    )
    write_bundle(path, msgspec.structs.replace(manifest, variants=variants), members)
    return path


class Costly(FakeRunner):
    """A runner under another name that reproduces the committed bundle's outputs at a scripted cost."""

    def __init__(self, clock: ManualClock, name: str, variant: str, ms: float) -> None:
        super().__init__(shape=(16, 16), variant=variant)
        self.name = name
        self._moved, self._ms = clock, ms
        with Bundle.open(V1) as bundle:
            self.input, self.outputs = bundle.manifest.input, bundle.manifest.outputs
            self._golden = [(x.copy(), y["y"].copy()) for x, y in bundle.golden()]
        self._wrong = 0.0

    def _infer(self, inputs: Any) -> dict[str, Any]:
        self._moved.advance_ns(round(self._ms * 1e6))
        for given, wanted in self._golden:
            if np.array_equal(given, inputs["x"]):
                return {"y": wanted + np.float32(self._wrong)}
        return {"y": self._golden[0][1]}


Costs = dict[tuple[str, str], Any]  # (runner, variant) -> milliseconds, or what activation raises


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ManualClock, Costs], None]]:
    """Puts a machine of scripted runners in the place of this one."""

    def put(clock: ManualClock, costs: Costs) -> None:
        def create(bundle: Bundle, name: str, *, runner: str, **options: Any) -> FakeRunner:
            cost = costs[runner, name]
            made = Costly(clock, runner, name, cost if isinstance(cost, (int, float)) else 1.0)
            if isinstance(cost, Exception):
                made._activate = lambda: (_ for _ in ()).throw(cost)  # type: ignore[method-assign]
            if cost == "wrong":
                made._wrong = 1.0
            return made

        usable = {runner for runner, _ in costs}
        reasons = {name: None if name in usable else f"no {name} here" for name in available_runners()}
        monkeypatch.setattr(loading, "create_runner", create)
        monkeypatch.setattr(loading, "available_runners", lambda: reasons)

    return put


def ladder(path: Path, clock: ManualClock) -> list[tuple[str, bool, float | None]]:
    """Reports of the warmed-up ladder: name, whether it is a rung, milliseconds."""
    branch = load(path, runner="auto").branch()
    with ExitStack() as active:
        for rung in branch.rungs:
            active.enter_context(rung.runner)
        made = warm_up(branch, synthetic_frame(clock), runs=3, clock=clock)
    assert [rung.name for rung in made.rungs] == [report.name for report in made.reports if report.kept]
    return [(r.name, r.kept, None if r.median_ns is None else r.median_ns / 1e6) for r in made.reports]


@pytest.mark.parametrize(
    ("ms", "wanted"),
    [
        # ms of ORT fp32, fp16, OpenVINO fp32, fp16. The most accurate variant stands first, on its fastest runner;
        # then what is at least 5 % cheaper
        ((5, 4.5, 4, 2), ["fp32 on openvino", "fp16 on openvino"]),
        ((4, 2, 5, 3), ["fp32 on onnxruntime", "fp16 on onnxruntime"]),
        ((9, 2, 5, 3), ["fp32 on openvino", "fp16 on onnxruntime"]),
        ((4, 3.9, 4.1, 9), ["fp32 on onnxruntime"]),
    ],
)
def test_the_first_rung_is_the_most_accurate_variant_where_it_is_fastest(
    machine: Any, tmp_path: Path, ms: tuple[float, ...], wanted: list[str]
) -> None:
    pairs = [(on, name) for on in ("onnxruntime", "openvino") for name in ("fp32", "fp16")]
    costs: Costs = dict(zip(pairs, ms, strict=True))
    clock = ManualClock()
    machine(clock, costs)
    found = ladder(bundle_with(tmp_path / "both.edge", BOTH), clock)
    assert [name for name, kept, _ in found if kept] == wanted
    assert {name: cost for name, _, cost in found} == {f"{name} on {on}": cost for (on, name), cost in costs.items()}


def test_scores_decide_what_is_accurate_and_equal_ones_are_alternatives(machine: Any, tmp_path: Path) -> None:
    clock = ManualClock()
    machine(clock, {("onnxruntime", "fp32"): 4, ("onnxruntime", "fp16"): 3})
    only = {"ort-cpu": ("fp32", "fp16")}
    worse16 = bundle_with(tmp_path / "a.edge", only, fp32=0.90, fp16=0.89)
    assert [name for name, kept, _ in ladder(worse16, clock) if kept] == [
        "fp32 on onnxruntime",
        "fp16 on onnxruntime",
    ]
    for name, score in (("b", 0.90), ("c", 0.8999), ("d", 0.91)):  # within 0.05 points, or better by chance
        alike = bundle_with(tmp_path / f"{name}.edge", only, fp32=0.90, fp16=score)
        assert [(rung, kept) for rung, kept, _ in ladder(alike, clock)] == [
            ("fp16 on onnxruntime", True),
            ("fp32 on onnxruntime", False),
        ]


def test_ranks() -> None:
    def manifest(*scores: dict[str, float], first_is: str = "int8") -> Manifest:
        with Bundle.open(V1) as bundle:
            first = bundle.manifest.variants[0]
            variants = tuple(
                msgspec.structs.replace(first, id=name, scores=score, precision=first_is if name == "a" else "int8")
                for name, score in zip("abc", scores, strict=True)
            )
            return msgspec.structs.replace(bundle.manifest, variants=variants)

    assert accuracy_ranks(manifest({}, {}, {})) == {"a": 0, "b": 1, "c": 2}
    assert accuracy_ranks(manifest({"dice": 0.9}, {"dice": 0.95}, {"dice": 0.9})) == {"a": 1, "b": 0, "c": 1}
    chance = manifest({"dice": 0.97360}, {"dice": 0.97397}, {"dice": 0.97300}, first_is="fp32")
    assert accuracy_ranks(chance) == {"a": 0, "b": 0, "c": 2}, "better than the model by chance"
    assert accuracy_ranks(manifest({"dice": 0.9}, {"dice": 0.95}, {})) == {"a": 0, "b": 1, "c": 2}
    assert accuracy_ranks(manifest(*({"mm": 1.0, "agreement": a} for a in (0.5, 0.6, 0.7)))) == {"a": 2, "b": 1, "c": 0}


def test_what_cannot_be_used_is_left_out_and_said(machine: Any, tmp_path: Path) -> None:
    path = bundle_with(tmp_path / "three.edge", {**BOTH, "tensorrt": ("fp16",)})
    costs: Costs = {
        ("onnxruntime", "fp32"): 3,
        ("onnxruntime", "fp16"): "wrong",
        ("openvino", "fp32"): ProviderUnavailableError("no such device"),
        ("openvino", "fp16"): 1,
    }
    machine(ManualClock(), costs)
    model = load(path, runner="auto")
    assert [(test.variant, test.runner) for test in model.self_tests] == [
        ("fp32", "onnxruntime"),
        ("fp16", "openvino"),
    ]
    told = {report.name: report.note for report in model.left_out}
    assert set(told) == {"fp16 on onnxruntime", "fp32 on openvino", "fp16 on tensorrt"}
    assert told["fp32 on openvino"] == "no such device"
    assert told["fp16 on tensorrt"] == "no tensorrt here"
    assert "variant fp16 on onnxruntime differs from the golden samples" in told["fp16 on onnxruntime"]
    assert str(tmp_path) not in " ".join(told.values())
    assert not any(report.kept for report in model.branch().left_out)


def test_nothing_usable_is_the_first_reason(machine: Any, tmp_path: Path) -> None:
    path = bundle_with(tmp_path / "both.edge", BOTH)
    machine(ManualClock(), {("onnxruntime", "fp32"): "wrong", ("onnxruntime", "fp16"): "wrong"})
    with pytest.raises(SelfTestError, match="fp32 on onnxruntime"):
        load(path, runner="auto")
    machine(ManualClock(), {})
    with pytest.raises(MissingDependencyError, match="no onnxruntime here"):
        load(path, runner="auto")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runner": "auto", "target": "ort-cpu"}, "leave them out with runner 'auto'"),
        ({"runner": "auto", "provider": "CPU"}, "leave them out with runner 'auto'"),
        ({"runner": "auto", "variant": "int4"}, "variant 'int4' stands in no ladder"),
        ({"runner": "openvino"}, "no ladder for 'openvino'.*'ort-cpu'.*Name one of these as the target"),
        ({"runner": "tensorflow"}, "'tensorflow' is not known.*'auto'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(V1, **options)


def test_a_stream_on_every_runner_of_this_machine(tmp_path: Path) -> None:
    """The real runners: each pair is measured, one reason for each that is no rung."""
    if any(available_runners()[name] for name in ("onnxruntime", "openvino")):
        pytest.skip("needs onnxruntime and openvino")
    path = bundle_with(tmp_path / "both.edge", BOTH)
    source = ArraySource(np.zeros((4, 64, 64), np.uint8), fps=30.0)
    report = run_stream(path, source, RunSettings(runner="auto", pace="lossless"))
    found = report.branches[BRANCH].ladder
    assert {rung.name for rung in found} == {
        f"{name} on {on}" for name in ("fp32", "fp16") for on in ("onnxruntime", "openvino")
    }
    assert found[0].kept
    assert found[0].variant == "fp32"
    assert all(rung.median_ns for rung in found)
    assert all("is not cheaper than the rung above" in rung.note for rung in found if not rung.kept)
    assert f"rung {found[0].name}" in report.to_text()
    assert report.branches[BRANCH].ledger.fresh == 4


def test_one_runner_on_another_runners_ladder() -> None:
    if available_runners()["openvino"]:
        pytest.skip("needs openvino")
    model = load(V1, runner="openvino", target="ort-cpu")
    assert [(test.variant, test.runner) for test in model.self_tests] == [("fp32", "openvino"), ("fp16", "openvino")]
