"""The effective settings of a pipeline as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edge_runtime.sinks.base import Sink
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.run import RunSettings

__all__ = ["describe"]


def describe(
    branches: Mapping[str, Branch], sinks: Mapping[str, Sink], settings: RunSettings, *, warm_up_runs: int
) -> dict[str, Any]:
    """JSON-ready: branches, sinks, and the settings of a run, defaults included."""
    return {
        "branches": {name: _branch(branch) for name, branch in branches.items()},
        "sinks": {
            name: {"kind": type(sink).__name__, "branch": sink.branch, "capacity": sink.capacity}
            for name, sink in sinks.items()
        },
        "warm_up_runs": warm_up_runs,
        "queue": settings.queue,
        "intake": msgspec.to_builtins(settings.intake),
        "watchdogs": msgspec.to_builtins(settings.watchdogs),
        "scheduling": msgspec.to_builtins(settings.scheduling),
        "caps": [getattr(hook, "__qualname__", type(hook).__name__) for hook in settings.caps],
    }


def _branch(branch: Branch) -> dict[str, Any]:
    return {
        "bundle_sha256": branch.bundle_sha256,
        "preprocess_sha256": branch.preprocess_sha256,
        "rungs": [rung.name for rung in branch.rungs],
        "cadence": branch.cadence,
        "budget_ms": branch.budget_ms,
        "policy": type(branch.policy()).__name__,
        "refine": branch.refine is not None,
        "errors": msgspec.to_builtins(branch.errors),
    }
