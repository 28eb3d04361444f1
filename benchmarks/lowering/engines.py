"""Engines on a GPU: the precision that was asked for is read back from them, and they are faster than torch."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.gpu import GOAL, STUDENTS, compare, figures, missing, student
from edge_runtime.engines import EngineReport

__all__ = ["measure_gpu_engines", "proven"]

PROVEN = "every engine computes in the precision asked for"


def measure_gpu_engines() -> list[Figure]:
    """Read-back of the fp16 and int8 engines of the students, then their latency beside torch's."""
    reason = missing()
    if reason:
        labels = {PROVEN: ("yes", ""), "TensorRT against torch": (GOAL, "times")}
        return [
            Figure(name=label, value=None, goal=goal, unit=unit, n=0, met=None, reason=reason)
            for label, (goal, unit) in labels.items()
        ]
    reports: dict[str, EngineReport] = {}
    refused: dict[str, str] = {}
    latency: list[Figure] = []
    for name in STUDENTS:
        times, reasons, found = compare(student(name))
        reports |= {f"{name}, {form}": report for form, report in found.items()}
        refused |= {f"{name}, {contestant}": text for contestant, text in reasons.items() if "TensorRT" in contestant}
        latency += figures(name, times, reasons)
    return [proven(reports, refused), *latency]


def proven(reports: dict[str, EngineReport], refused: dict[str, str]) -> Figure:
    """Whether every engine was built and read back in the precision asked for."""
    shares = {name: report.shares(weighted=True) for name, report in reports.items()}
    met = bool(reports) and not refused
    return Figure(
        name=PROVEN, value=met, goal="yes", unit="", n=len(reports) + len(refused), met=met,
        spread="; ".join(f"{name}: {_shares(found)}" for name, found in shares.items()),
        detail={"refused": refused, "shares": shares, "reformats": {n: len(r.reformats) for n, r in reports.items()}},
    )  # fmt: skip


def _shares(found: dict[str, float]) -> str:
    return ", ".join(f"{100 * share:.0f} % {precision}" for precision, share in found.items())
