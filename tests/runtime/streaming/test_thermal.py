"""Caps by heat and power mode: the readers on a machine of files, and what a cap does to a ladder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.streaming import Branch, Cap, Decision, FixedPolicy, LadderPolicy, Pipeline, PowerMode, ThermalZones
from edge_runtime.streaming.deadline import DeadlineController
from edge_runtime.streaming.policy import Policy, Situation

MS = 1_000_000


def zone(root: Path, number: int, kind: str, temp: str) -> Path:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "type").write_text(kind + "\n")
    (folder / "temp").write_text(temp + "\n")
    return folder


def test_the_hottest_zone_decides_with_hysteresis(tmp_path: Path) -> None:
    hot = zone(tmp_path, 0, "cpu-thermal", "45000")
    zone(tmp_path, 1, "gpu-thermal", "44000")
    zone(tmp_path, 2, "off", "")
    zones = ThermalZones(((80.0, 1), (90.0, 2)), hysteresis_c=5.0, root=tmp_path)
    rungs = []
    for celsius in (45, 79.9, 80, 91, 86, 85, 84.9, 76, 75, 74.9, 79):
        (hot / "temp").write_text(f"{round(celsius * 1000)}\n")
        cap = zones()
        rungs.append(cap.rung if cap else 0)
    assert rungs == [0, 0, 1, 2, 2, 2, 1, 1, 1, 0, 0]
    (hot / "temp").write_text("83000")
    assert zones() == Cap(1, "thermal zone cpu-thermal at 83 C")
    assert ThermalZones(zones=["gpu-thermal"], root=tmp_path).hottest() == (44.0, "gpu-thermal")


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no thermal zone can be read"):
        ThermalZones(root=tmp_path)
    folder = zone(tmp_path, 0, "cpu", "50000")
    with pytest.raises(ConfigError, match=r"\['npu'\] is not there; this machine has \['cpu'\]"):
        ThermalZones(zones=["npu"], root=tmp_path)
    for steps in ((), ((80.0, 0),), ((80.0, 2), (90.0, 1)), ((80.0, 1), (90.0, 1))):
        with pytest.raises(ConfigError, match="rungs from 1"):
            ThermalZones(steps, root=tmp_path)
    zones = ThermalZones(root=tmp_path)
    (folder / "temp").unlink()
    with pytest.raises(ConfigError, match="not known"):
        zones()
    with pytest.raises(ConfigError, match="power mode cannot be read"):
        PowerMode({"7W": 1}, root=tmp_path)


def test_a_power_mode_caps_by_name_or_number(tmp_path: Path) -> None:
    for path, text in {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
        "var/lib/nvpmodel/status": "pmode:0002",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=7W >\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert PowerMode({"7W": 2}, root=tmp_path)() == Cap(2, "power mode 2 (7W)")
    assert PowerMode({"2": 1}, root=tmp_path)() == Cap(1, "power mode 2 (7W)")
    assert PowerMode({"MAXN": 1}, root=tmp_path)() is None
    with pytest.raises(ConfigError, match="at least one mode"):
        PowerMode({}, root=tmp_path)


def controller(policy: Policy, rungs: int = 3) -> DeadlineController:
    made = DeadlineController(policy=policy, rungs=rungs, budget_ns=30 * MS, clock=ManualClock())
    for rung, cost in enumerate((20, 10, 5)[:rungs]):
        made.record("infer", rung, cost * MS)
    return made


def decide(made: DeadlineController, frame: int = 0) -> Decision:
    decision = made.decide("preprocess", frame=frame, deadline_ns=30 * MS, rung=0, can_reuse=False)
    made.settle(missed=False, lost=0)
    return decision


@pytest.mark.parametrize("policy", [LadderPolicy, FixedPolicy])
def test_a_cap_holds_any_policy_and_is_on_record(policy: Callable[[], Policy]) -> None:
    made = controller(policy())
    assert decide(made).rung == 0
    assert made.set_cap(Cap(1, "hot"))
    assert not made.set_cap(Cap(1, "hotter"))
    held = decide(made, 1)
    assert (held.rung, held.reason) == (1, "capped: hotter")
    assert made.set_cap(Cap(9, "very hot"))
    assert decide(made, 2).rung == 2  # never below the last rung
    assert made.set_cap(None)
    assert decide(made, 3).rung == 0
    caps = [(record.rung, record.reason, record.frame) for record in made.log if record.point == "cap"]
    assert caps == [(1, "hot", -1), (2, "very hot", -1), (0, "no longer: very hot", -1)]


def test_no_trial_goes_above_the_cap() -> None:
    policy = LadderPolicy(down_after=1, up_after=2)
    made = controller(policy)
    made.set_cap(Cap(1, "hot"))
    rungs = [decide(made, k).rung for k in range(200)]
    assert set(rungs) == {1}
    made.set_cap(None)
    assert decide(made).rung == 0


class Nightly:
    """A policy in ten lines: the cheap rung at night, and never wait for a late frame."""

    def __init__(self, is_night: Callable[[], bool]) -> None:
        self.is_night = is_night

    def decide(self, situation: Situation) -> Decision:
        rung = len(situation.rest_ns) - 1 if self.is_night() else situation.rung
        late = situation.slack_ns is not None and situation.slack_ns <= 0
        return Decision(action="drop" if late else "run", rung=rung, reason="night" if rung else "day")

    def settle(self, *, missed: bool, lost: int) -> None: ...


def test_a_policy_of_the_users_own_decides(make_branch: Callable[..., Branch], frames: Callable[..., Any]) -> None:
    sink = CollectSink()
    branch = make_branch(
        FakeRunner(variant="large"), FakeRunner(variant="small"), policy=lambda: Nightly(lambda: len(sink.results) >= 3)
    )
    sink.capacity = 1
    report = Pipeline({"seg": branch}, sinks={"s": sink}, warm_up_runs=0, freeze_gc=False, queue=1).run(frames(12))
    used = report.branches["seg"].variants
    assert used["large"] >= 3
    assert used["small"] >= 3
    assert report.branches["seg"].policy == "Nightly"
    assert report.branches["seg"].decisions["preprocess, run: night"] == used["small"]


def test_caps_of_a_running_stream_are_told_and_obeyed(
    make_branch: Callable[..., Branch], frames: Callable[..., Any]
) -> None:
    """A hook caps the ladder until it raises; its last cap then holds."""
    asked = iter(range(10**6))

    def hook() -> Cap | None:
        if next(asked) >= 1:
            raise OSError("sensor gone")
        return Cap(1, "power saving")

    sink = CollectSink()
    branch = make_branch(FakeRunner(variant="large"), FakeRunner(variant="small", latency_ms=1))
    from edge_runtime.streaming import Watchdogs

    pipeline = Pipeline(
        {"seg": branch},
        sinks={"s": sink},
        warm_up_runs=0,
        freeze_gc=False,
        caps=[hook],
        watchdogs=Watchdogs(every_ms=5),
    )
    report = pipeline.run(
        frames(60, before=lambda index: _until(lambda: pipeline.report.event_counts) if index == 1 else None)
    )
    assert {result.variant for result in sink.results[5:]} == {"small"}
    assert {result.state for result in sink.results[5:]} == {"degraded"}
    assert sink.results[-1].reason == "rung 1: capped: power saving"
    assert report.event_counts == {"cap": 1, "hook_failed": 1}
    assert any("its last cap holds (rung 1, power saving)" in event.message for event in report.events)


def _until(what: Callable[[], object]) -> None:
    import time

    end = time.monotonic() + 20
    while not what() and time.monotonic() < end:
        time.sleep(0.001)
