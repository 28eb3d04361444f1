"""The figures of the stream report, and their plain-text tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.streaming.ledger import LedgerSnapshot

__all__ = ["LatencySummary", "latency_table", "ledger_line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Milliseconds over `n` results; percentiles are None when there is none.

    `too_few` names the percentiles that `n` is too small to claim (10 / (1 - q) samples are needed); `p999` is not even
    given then (below 10,000).
    """

    n: int
    mean: float
    p50: float | None
    p99: float | None
    max: float
    too_few: tuple[str, ...]
    p999: float | None = None

    @classmethod
    def of(cls, histogram: LatencyHistogram) -> LatencySummary:
        """The summary of a histogram."""
        n, shares = histogram.count, {"p50": 0.5, "p99": 0.99}
        return cls(
            n=n,
            mean=histogram.sum_ns / n / 1e6 if n else 0.0,
            p50=histogram.percentile(0.5) / 1e6 if n else None,
            p99=histogram.percentile(0.99) / 1e6 if n else None,
            max=histogram.max_ns / 1e6,
            too_few=tuple(name for name, q in shares.items() if not histogram.supports(q)),
            p999=histogram.percentile(0.999) / 1e6 if histogram.supports(0.999) else None,
        )


def ledger_line(ledger: LedgerSnapshot) -> str:
    """One line that adds up: arrived = fresh + degraded + stale + dropped + failed + in flight."""
    parts = [f"{ledger.fresh} fresh", f"{ledger.degraded} degraded", f"{ledger.stale} stale"]
    parts += [_with_reasons("dropped", ledger.dropped), _with_reasons("failed", ledger.failed)]
    return f"{ledger.arrived} arrived = " + " + ".join(parts) + f" + {ledger.in_flight} in flight"


def _with_reasons(what: str, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return f"0 {what}"
    return f"{sum(reasons.values())} {what} (" + ", ".join(f"{n} {reason}" for reason, n in reasons.items()) + ")"


def latency_table(title: str, latency: Mapping[str, LatencySummary]) -> list[str]:
    """Lines of a table, one row a stage; a percentile with too few samples behind it is marked."""
    rows = [(title, "n", "mean", "p50", "p99", "max")]
    rows += [
        (name, f"{s.n}", f"{s.mean:.2f}", _percentile(s, "p50", s.p50), _percentile(s, "p99", s.p99), f"{s.max:.2f}")
        for name, s in latency.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "  ".join(_align(text, i, widths[i]) for i, text in enumerate(row)).rstrip() for row in rows]
    marked = any(summary.too_few for summary in latency.values())
    return lines + (["  * too few samples to be quoted (10 / (1 - q) are needed)"] if marked else [])


def _percentile(summary: LatencySummary, name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" + ("*" if name in summary.too_few else " ")


def _align(text: str, column: int, width: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
