"""A small pipeline, and a reader of traces that knows the rules of the format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.frame import Frame
from edge_runtime.result import Outcome
from edge_runtime.runners import FakeRunner
from edge_runtime.streaming import Branch, Pipeline, Rung


class Prepared(NamedTuple):
    tensor: npt.NDArray[np.float32]


class Ones:
    """Any frame becomes the same input."""

    def __call__(self, frame: Frame) -> Prepared:
        return Prepared(np.ones((1, 1, 8, 8), np.float32))

    def reset(self) -> None:
        return None


def make_pipeline(*, sinks: Any = None, fail_at: tuple[int, ...] = (), **options: Any) -> Pipeline:
    """One branch "seg" with a model that does next to nothing."""
    runner = FakeRunner(shape=(8, 8), fail_at=fail_at)
    rung = Rung(runner=runner, postprocess=lambda *a, **k: Outcome())
    branch = Branch(preprocess=Ones(), rungs=(rung,), budget_ms=1000.0)
    return Pipeline({"seg": branch}, sinks=sinks, warm_up_runs=0, freeze_gc=False, **options)


@pytest.fixture
def pipeline() -> Callable[..., Pipeline]:
    return make_pipeline


class Trace:
    """The events of a trace by kind; `check` holds them against the Trace Event Format."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events
        names = [e for e in events if e["ph"] == "M" and e["name"] == "thread_name"]
        self.tracks: dict[int, str] = {e["tid"]: e["args"]["name"] for e in names}
        assert len(self.tracks) == len(names)

    def slices(self, track: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["ph"] == "X" and self.tracks[e["tid"]] == track]

    def instants(self, track: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["ph"] == "i" and self.tracks.get(e["tid"]) == track]

    def check(self) -> None:
        flows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for event in self.events:
            assert event["ph"] in "XisftCM"
            assert isinstance(event["name"], str)
            assert isinstance(event["pid"], int)
            if event["ph"] == "M":
                assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
                continue
            assert isinstance(event["ts"], (int, float))
            if event["ph"] == "X":
                assert event["dur"] >= 0
            if event["ph"] == "i":
                assert event["s"] in ("g", "p", "t")
            if event["ph"] == "C":
                assert all(isinstance(value, (int, float)) for value in event["args"].values())
            if event["ph"] in "XsftT":
                assert event["tid"] in self.tracks
            if event["ph"] in "stf":
                flows[event["cat"], event["id"]].append(event)
        self._check_nesting()
        for chain in flows.values():
            self._check_flow(chain)

    def _check_nesting(self) -> None:
        """No two complete events of a track may overlap (touching is allowed, to the rounding of a double)."""
        for track in self.tracks.values():
            ends = -1e300
            for event in sorted(self.slices(track), key=lambda e: (e["ts"], e["dur"])):
                assert event["ts"] >= ends - 1e-3, (track, event)
                ends = event["ts"] + event["dur"]

    def _check_flow(self, chain: list[dict[str, Any]]) -> None:
        assert [e["ph"] for e in chain] == ["s", *["t"] * (len(chain) - 2), "f"]
        assert chain[-1]["bp"] == "e"
        assert [e["ts"] for e in chain] == sorted(e["ts"] for e in chain)
        for event in chain:  # each end binds to a slice of its track
            assert any(
                s["tid"] == event["tid"] and s["ts"] <= event["ts"] <= s["ts"] + s["dur"]
                for s in self.events
                if s["ph"] == "X"
            )


@pytest.fixture
def trace() -> type[Trace]:
    return Trace
