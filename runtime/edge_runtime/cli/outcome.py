"""What a finished stream means for the exit code of `run`; the report has been printed by then."""

from __future__ import annotations

import typer

from edge_runtime.cli.guard import EXIT_DEADLINE
from edge_runtime.errors import PipelineError
from edge_runtime.streaming import StreamReport

__all__ = ["judge"]


def judge(report: StreamReport, max_miss_pct: float | None) -> None:
    """End with the code that the report calls for.

    Raises `PipelineError` (exit 4) when a recording is not whole or every frame failed, and `typer.Exit(5)`, after one
    line on stderr, when more than `max_miss_pct` % of the frames of a branch missed their budget.
    """
    for name, sink in report.sinks.items():
        if sink.error:
            raise PipelineError(f"{name} was not written whole: {sink.error}")
    for branch in report.branches.values():
        if branch.ledger.arrived and sum(branch.ledger.failed.values()) == branch.ledger.arrived:
            reason = next(iter(branch.errors.values()), "see the report")
            raise PipelineError(f"all {branch.ledger.arrived} frames failed: {reason}")
    missed = max(100 * branch.miss_ratio for branch in report.branches.values())
    if max_miss_pct is not None and missed > max_miss_pct:
        typer.echo(f"error: {missed:.2f} % of the frames missed the budget; {max_miss_pct:g} % is allowed", err=True)
        raise typer.Exit(EXIT_DEADLINE)
