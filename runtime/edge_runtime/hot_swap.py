"""Exchange the bundle of a running stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleIntegrityError, ConfigError
from edge_runtime.loading import LoadedModel
from edge_runtime.rehearsal import LoadOptions, Rehearsal, rehearse
from edge_runtime.runners import create_runner
from edge_runtime.streaming import Branch, Pipeline
from edge_runtime.streaming.branch import Measured

__all__ = ["swap_bundle"]


def swap_bundle(
    pipeline: Pipeline,
    branch: str,
    path: Path | str,
    *,
    trial_frames: int = 30,
    timeout_s: float = 30.0,
    rehearsal_s: float = 120.0,
    infer_timeout_s: float | None = None,
    **options: Any,
) -> LoadedModel:
    """Rehearse the bundle at `path` with the `options` of `load`, and put it in the place of `branch`.

    A process of its own checks every byte, reproduces the golden samples and measures the ladder on the newest frame of
    the stream (`rehearse`, at most `rehearsal_s`). Here the same bytes, by their hashes, become the runners of the
    rungs that are worth having, one call each. Budget, cadence, policy, optional stage and error policy stay. Returns
    what was loaded, once the trial of `trial_frames` frames is over, at the latest after `timeout_s`. Blocks in
    the calling thread, which must not be one of the stream's. `infer_timeout_s` is the `timeout_s` of `load`.

    Raises what `load` raises (hash, signature, self-test, ...) and warm-up raises, and `PipelineError` for a rehearsal
    that hangs or dies: nothing has changed then. Raises `PipelineError` when the new bundle failed a frame of its
    trial: the old one is back.
    """
    old = pipeline.branches.get(branch)
    if old is None:
        raise ConfigError(f"there is no branch {branch!r} to exchange; there is {sorted(pipeline.branches)}")
    wanted = LoadOptions.of(timeout_s=infer_timeout_s, **options)
    loaded: list[LoadedModel] = []

    def make() -> Branch:
        frame = pipeline.newest_frame(branch)
        found = rehearse(path, wanted, frame, runs=pipeline.warm_up_runs, timeout_s=rehearsal_s)
        model = _load_again(path, wanted, found)
        loaded.append(model)
        made = model.branch(policy=old.policy, errors=old.errors, refine=old.refine)
        return replace(made, measured=Measured(reports=found.reports, costs=found.costs))

    pipeline.swap(branch, make, trial_frames=trial_frames, timeout_s=timeout_s)
    return loaded[0]


def _load_again(path: Path | str, options: LoadOptions, found: Rehearsal) -> LoadedModel:
    """The rungs that a rehearsal found worth having, from the same bytes; `BundleIntegrityError` when the file is
    another one by now."""
    with Bundle.open(
        path, trust=(*options.trust, *options.keys), require_signature=options.require_signature
    ) as bundle:
        if bundle.sha256 != found.sha256:
            raise BundleIntegrityError(
                f"{path}: the file changed while it was rehearsed, from {found.sha256[:12]} to {bundle.sha256[:12]}; "
                "exchange it once it is written whole"
            )
        runners = tuple(
            create_runner(
                bundle,
                rung.variant,
                runner=rung.runner,
                provider=options.provider,
                threads=options.threads,
                timeout_s=options.timeout_s,
                inspected=True,  # by the rehearsal: the same manifest, so the same hashes
            )
            for rung in found.rungs
        )
        return LoadedModel(
            manifest=bundle.manifest,
            sha256=bundle.sha256,
            signed_by=found.signed_by,
            runners=runners,
            self_tests=found.self_tests,
            ranks=tuple(rung.rank for rung in found.rungs),
        )
