"""Warm-up: in which order the rungs are measured, and what is taken over when they were measured elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError
from edge_runtime.runners.base import Arrays
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.streaming import Branch, FixedPolicy
from edge_runtime.streaming.branch import Measured
from edge_runtime.streaming.warmup import warm_up

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]


def test_warm_up_takes_turns_so_that_a_slower_clock_meets_every_rung(
    make_branch: MakeBranch, frames: MakeFrames
) -> None:
    called: list[str] = []

    class Slowing(FakeRunner):
        """Every call, of whichever rung, takes longer than the one before."""

        def _infer(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
            called.append(self.variant)
            clock.advance_ns(cost[self.variant] + 1_000_000 * len(called))
            return super()._infer(inputs)

    clock, cost = ManualClock(), {"big": 40_000_000, "small": 20_000_000}
    branch = make_branch(Slowing(variant="big"), Slowing(variant="small"))
    for rung in branch.rungs:
        rung.runner.__enter__()
    ladder = warm_up(branch, frames(1).read(), runs=5, clock=clock)
    assert called == ["big", "small"] * 6
    assert [(rung.variant, rung.median_ns, rung.runs) for rung in ladder.reports] == [
        ("big", 47_000_000, 5),
        ("small", 28_000_000, 5),
    ]
    again = replace(branch, measured=Measured(reports=ladder.reports, costs=ladder.costs))
    called.clear()
    assert warm_up(again, frames(1).read(), runs=5, clock=clock) == ladder
    assert called == ["big", "small"]


def test_a_policy_that_is_no_maker_of_policies_is_refused(make_branch: MakeBranch) -> None:
    with pytest.raises(ConfigError, match="give the class itself, or a function"):
        make_branch(FakeRunner(), policy=FixedPolicy())
