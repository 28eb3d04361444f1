"""Exchange the bundle of a running stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.loading import LoadedModel, load
from edge_runtime.streaming import Branch, Pipeline

__all__ = ["swap_bundle"]


def swap_bundle(
    pipeline: Pipeline,
    branch: str,
    path: Path | str,
    *,
    trial_frames: int = 30,
    timeout_s: float = 30.0,
    **options: Any,
) -> LoadedModel:
    """Load the bundle at `path` with the `options` of `load`, self-test it, and put it in the place of `branch`.

    Budget, cadence, policy, optional stage and error policy stay. Returns what was loaded, once the trial of
    `trial_frames` frames is over. Blocks in the calling thread, which must not be one of the stream's.

    Raises what `load` raises (hash, signature, self-test, ...) and warm-up raises: nothing has changed then. Raises
    `PipelineError` when the new bundle failed a frame of its trial: the old one is back.
    """
    old = pipeline.branches.get(branch)
    if old is None:
        raise ConfigError(f"there is no branch {branch!r} to exchange; there is {sorted(pipeline.branches)}")
    loaded: list[LoadedModel] = []

    def make() -> Branch:
        model = load(path, **options)
        loaded.append(model)
        return model.branch(policy=old.policy, errors=old.errors, refine=old.refine)

    pipeline.swap(branch, make, trial_frames=trial_frames, timeout_s=timeout_s)
    return loaded[0]
