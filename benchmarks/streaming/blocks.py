"""Blocks: one system for some seconds in a process of its own, the systems in turn, round after round."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.peers.feed import Delivered, Job
from benchmarks.peers.install import PEERS, ROOT, NotInstalledError, environment, interpreter

__all__ = ["OURS", "SYSTEMS", "Blocks", "System", "interleaved"]

_TAIL_S = 0.5  # run but not counted: the last frame, which no newer one replaces, waits longer than any in a stream
_GRACE_S = 45.0  # start, drain and end of a driver


@dataclass(frozen=True, kw_only=True)
class System:
    """A contestant: the module that drives it and the settings it is driven with."""

    label: str
    driver: str
    mode: str = ""

    def python(self) -> str:
        """Its interpreter. Raises `NotInstalledError`."""
        return str(interpreter(self.driver)) if self.driver in PEERS else sys.executable


OURS = System(label="ours", driver="ours")
SYSTEMS = {
    system.label: system
    for system in (
        OURS,
        System(label="streamvision", driver="streamvision"),
        System(label="Holoscan POP/event", driver="holoscan", mode="pop"),
        System(label="Holoscan default", driver="holoscan", mode="default"),
        System(label="FAST newest", driver="fast", mode="newest"),
        System(label="FAST all", driver="fast", mode="all"),
        System(label="GStreamer leaky", driver="gstreamer"),
    )
}


@dataclass(kw_only=True)
class Blocks:
    """All blocks of one system: frames delivered and facts told, round by round; `missing` says why there is none."""

    system: System
    job: Job
    rounds: list[list[Delivered]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    missing: str = ""

    def ages_ms(self, part: int | None = None) -> npt.NDArray[np.float64]:
        """Arrival to sink of every frame delivered, all rounds or one."""
        rounds = self.rounds if part is None else [self.rounds[part]]
        return np.array([(one.delivered_ns - one.arrival_ns) / 1e6 for frames in rounds for one in frames])

    def age_ms(self, percent: float) -> float:
        """Percentile of the ages over all rounds; infinite when nothing was delivered."""
        ages = self.ages_ms()
        return float(np.percentile(ages, percent, method="inverted_cdf")) if len(ages) else float("inf")

    def due_age_ms(self, percent: float) -> float:
        """Percentile of the ages of all frames that were due; one never delivered is infinitely old.

        Frames that a system leaves out when it is late are missing among those it delivers, and make them look young.
        """
        ages = np.append(self.ages_ms(), np.full(self.due - self.delivered, np.inf))
        return float(np.percentile(ages, percent, method="inverted_cdf")) if len(ages) else float("inf")

    def spread(self, percent: float) -> str:
        """The same percentile of each round: least to greatest."""
        each = [self.ages_ms(k) for k in range(len(self.rounds))]
        found = [float(np.percentile(ages, percent, method="inverted_cdf")) for ages in each if len(ages)]
        return f"{min(found):.4g} to {max(found):.4g} over {len(found)} rounds" if found else "nothing delivered"

    def service_ms(self) -> float:
        """Median time of the work itself; NaN when none was done."""
        spent = [ns for facts in self.facts for ns in facts["service_ns"]]
        return float(np.median(spent)) / 1e6 if spent else float("nan")

    @property
    def due(self) -> int:
        """Frames that were due, delivered or not."""
        return sum(facts["due"] for facts in self.facts)

    @property
    def delivered(self) -> int:
        """Frames that reached the sink."""
        return sum(map(len, self.rounds))

    def miss_ratio(self, deadline_ms: float, part: int | None = None) -> float:
        """Share of the frames due without a fresh or degraded result within `deadline_ms` of arrival."""
        rounds = range(len(self.rounds)) if part is None else (part,)
        due = sum(self.facts[k]["due"] for k in rounds)
        good = sum(
            one.state in ("fresh", "degraded") and one.delivered_ns - one.arrival_ns <= deadline_ms * 1e6
            for k in rounds
            for one in self.rounds[k]
        )
        return float((due - good) / due)


def interleaved(
    contestants: Mapping[str, tuple[System, Job]], rounds: int, *, say: Callable[[str], None] | None = None
) -> dict[str, Blocks]:
    """Each contestant for one block in turn, `rounds` times; the order is turned by one place every round.

    A rival that is not installed has no blocks and `missing` set. A driver that fails is an error.
    """
    tell = say or (lambda text: typer.echo(text, err=True))
    found = {name: Blocks(system=system, job=job) for name, (system, job) in contestants.items()}
    for blocks in found.values():
        try:
            blocks.system.python()
        except NotInstalledError as error:
            blocks.missing = str(error)
    names = [name for name, blocks in found.items() if not blocks.missing]
    for part in range(rounds):
        for name in names[part % len(names) :] + names[: part % len(names)]:
            blocks = found[name]
            delivered, facts = _block(blocks.system, blocks.job)
            blocks.rounds.append(delivered)
            blocks.facts.append(facts)
            line = f"{len(delivered)} of {facts['due']} delivered, age p50 {_middle(blocks):.1f} ms"
            tell(f"  round {part + 1}/{rounds} {name}: {line}")
    return found


def _middle(blocks: Blocks) -> float:
    ages = blocks.ages_ms(-1)
    return float(np.median(ages)) if len(ages) else float("nan")


def _block(system: System, job: Job) -> tuple[list[Delivered], dict[str, Any]]:
    """Run one driver; its output is shown when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "job.json"), Path(folder, "out.jsonl")
        given.write_text(json.dumps(asdict(replace(job, mode=job.mode or system.mode))))
        command = [system.python(), "-m", f"benchmarks.peers.{system.driver}", str(given), str(out)]
        with Path(folder, "log").open("w+") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(system.driver), stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(job.seconds + _GRACE_S)
            except BaseException:
                process.send_signal(signal.SIGKILL)
                process.wait()
                raise
            log.seek(0)
            if code or not out.exists():
                raise RuntimeError(f"{system.label} ended with {code}:\n{log.read()[-3000:]}")
        *lines, last = out.read_text().splitlines()
    facts = json.loads(last)
    facts["due"] = max(1, facts["due"] - round(_TAIL_S * job.fps))
    delivered = [Delivered(**json.loads(line)) for line in lines]
    return [one for one in delivered if one.id < facts["due"]], facts


def pooled(values: Sequence[float]) -> str:
    """Least to greatest."""
    return f"{min(values):.4g} to {max(values):.4g} over {len(values)} rounds"
