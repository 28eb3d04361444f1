"""Sources under a pipeline: what they do to frames shows in the ledger, which balances."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.errors import SourceError
from edge_runtime.frame import Frame
from edge_runtime.runners import FakeRunner
from edge_runtime.sources import (
    ArraySource,
    Fault,
    FaultSource,
    PushSource,
    Reconnecting,
    SequenceSource,
    Source,
    TrackedSequence,
)
from edge_runtime.streaming import Branch, LedgerSnapshot, Pipeline, Rung


class Prepared(NamedTuple):
    tensor: npt.NDArray[np.float32]


class Ones:
    """Any frame becomes the same input."""

    def __call__(self, frame: Frame) -> Prepared:
        return Prepared(np.ones((1, 1, 8, 8), np.float32))

    def reset(self) -> None:
        return None


class Nothing(NamedTuple):
    mask: npt.NDArray[np.uint8] | None = None
    probability: npt.NDArray[np.float32] | None = None
    areas: tuple[Any, ...] = ()
    uncertainty: float | None = None


def run(source: Source) -> tuple[LedgerSnapshot, BaseException | None]:
    """The ledger of a stream over `source`, and the error that ended it."""
    branch = Branch(
        preprocess=Ones(), rungs=(Rung(runner=FakeRunner(shape=(8, 8)), postprocess=lambda *a, **k: Nothing()),)
    )
    pipeline = Pipeline({"b": branch}, warm_up_runs=0, freeze_gc=False)
    error: BaseException | None = None
    try:
        pipeline.run(source)
    except SourceError as caught:
        error = caught
    return pipeline.report.branches["b"].ledger, error


def array(count: int = 30) -> ArraySource:
    return ArraySource(np.zeros((count, 6, 8), np.uint8), fps=30)


@pytest.mark.parametrize("seed", range(10))
def test_faults_show_in_the_ledger(seed: int) -> None:
    faults = [Fault(kind=kind, probability=0.2, ms=1) for kind in ("corrupt", "duplicate", "resolution", "colour")]
    source = FaultSource(array(), faults, seed=seed)
    ledger, error = run(source)
    copies = sum(i.kind == "duplicate" and i.at < 30 for i in source.injected)
    assert error is None
    assert ledger.balances
    assert (ledger.arrived, ledger.in_flight) == (30 + copies, 0)
    assert ledger.fresh == ledger.arrived - sum(ledger.failed.values())
    assert set(ledger.failed) <= {"corrupt"}
    assert (sum(ledger.failed.values()) > 0) == any(i.kind == "corrupt" and i.at < 30 for i in source.injected)


def test_a_loss_keeps_what_came_before_and_reconnecting_goes_on() -> None:
    ledger, error = run(FaultSource(array(), [Fault(kind="lost", at=12)]))
    assert isinstance(error, SourceError)
    assert (ledger.balances, ledger.fresh) == (True, 12)
    plans = [[Fault(kind="lost", at=12)], [Fault(kind="dead")], []]
    source = Reconnecting(lambda: FaultSource(array(), plans.pop(0)), first_s=0.0)
    ledger, error = run(source)
    assert error is None
    assert (ledger.balances, ledger.fresh, source.counts().reconnected) == (True, 42, 1)


def test_pushed_frames_are_all_accounted_for() -> None:
    source = PushSource(capacity=2, policy="drop_oldest", live=False)

    def push() -> None:
        for _ in range(200):
            source.push(np.zeros((6, 8), np.uint8))
        source.end()

    thread = threading.Thread(target=push)
    thread.start()
    ledger, error = run(source)
    thread.join()
    counts = source.counts()
    assert error is None
    assert ledger.balances
    assert ledger.arrived == counts.taken
    assert counts.put == 200 == counts.taken + counts.dropped.get("replaced", 0)


def test_a_recording_fails_the_records_that_are_marked() -> None:
    words = tuple("INVALID" if k % 3 == 0 else "OK" for k in range(9))
    sequence = TrackedSequence(frames=np.zeros((9, 6, 8), np.uint8), orientation="MF", image_statuses=words)
    ledger, _ = run(SequenceSource(sequence))
    assert (ledger.balances, ledger.fresh, ledger.failed) == (True, 6, {"corrupt": 3})
