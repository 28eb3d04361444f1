"""Plain-text tables of the stream report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from edge_runtime.streaming.ledger import LedgerSnapshot

__all__ = ["latency_rows", "ledger_line", "table"]


class _Summary(Protocol):
    @property
    def n(self) -> int: ...
    @property
    def mean(self) -> float: ...
    @property
    def p50(self) -> float | None: ...
    @property
    def p99(self) -> float | None: ...
    @property
    def max(self) -> float: ...


def ledger_line(ledger: LedgerSnapshot) -> str:
    """One line that adds up: arrived = fresh + degraded + stale + dropped + failed + in flight."""
    parts = [f"{ledger.fresh} fresh", f"{ledger.degraded} degraded", f"{ledger.stale} stale"]
    parts += [_with_reasons("dropped", ledger.dropped), _with_reasons("failed", ledger.failed)]
    return f"{ledger.arrived} arrived = " + " + ".join(parts) + f" + {ledger.in_flight} in flight"


def _with_reasons(what: str, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return f"0 {what}"
    return f"{sum(reasons.values())} {what} (" + ", ".join(f"{n} {reason}" for reason, n in reasons.items()) + ")"


def latency_rows(latency: Mapping[str, _Summary]) -> list[tuple[str, ...]]:
    """Cells of one row a stage; `n<20` or `n<1000` where there are too few samples for p50 or p99."""
    return [
        (
            name,
            str(summary.n),
            f"{summary.mean:.2f}",
            "n<20" if summary.p50 is None else f"{summary.p50:.2f}",
            "n<1000" if summary.p99 is None else f"{summary.p99:.2f}",
            f"{summary.max:.2f}",
        )
        for name, summary in latency.items()
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right, two blanks in front."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  " + "  ".join(_align(text, i, widths[i]) for i, text in enumerate(row)).rstrip() for row in cells]


def _align(text: str, column: int, width: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
