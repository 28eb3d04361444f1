"""From a `.edge` file to a branch that a pipeline can run, self-tested on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest, Target
from edge_runtime.bundle.reader import Key
from edge_runtime.errors import (
    ConfigError,
    EdgeError,
    MissingDependencyError,
    ModelRefusedError,
    RunnerError,
    SelfTestError,
)
from edge_runtime.postprocess import OutputsPostprocessor, agreement
from edge_runtime.preprocess import Preprocessor
from edge_runtime.result import Result
from edge_runtime.runners import RUNNER_TARGETS, Runner, available_runners, create_runner
from edge_runtime.streaming import Branch, ErrorPolicy, LadderPolicy, Policy, Rung
from edge_runtime.streaming.branch import RungReport

__all__ = ["LoadedModel", "SelfTest", "accuracy_ranks", "every_pair", "load", "runner_ladder", "self_test"]

Pair = tuple[str, str]  # runner and variant
_SCORES = ("dice", "agreement")  # higher is better
_SAME_SCORE = 0.0005  # shares that differ by less are equal: 0.05 points


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """One variant on the golden samples: worst difference, least share of equal decisions, and the bounds."""

    variant: str
    runner: str
    worst: float
    agreement: float
    allowed: float
    min_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A bundle's ladder, ready to run: runners are not activated yet, `branch()` does the rest.

    `ranks` holds the place of each runner's variant by accuracy, 0 first, when several runners share the ladder
    (`runner="auto"`), else None. `left_out` says what could not be used on this machine, and why.
    """

    manifest: Manifest
    sha256: str
    signed_by: str
    runners: tuple[Runner, ...]
    self_tests: tuple[SelfTest, ...]
    ranks: tuple[int | None, ...]
    left_out: tuple[RungReport, ...] = ()

    def branch(
        self,
        *,
        budget_ms: float | None = None,
        cadence: int = 1,
        policy: Callable[[], Policy] = LadderPolicy,
        errors: ErrorPolicy | None = None,
        refine: Callable[[Result], None] | None = None,
    ) -> Branch:
        """A `Branch` with this model's preprocessing, ladder and postprocessing."""
        preprocess = self.manifest.preprocess
        read = OutputsPostprocessor(self.manifest.outputs, preprocess)  # one for all rungs: its averages go on
        return Branch(
            preprocess=Preprocessor(preprocess),
            rungs=tuple(
                Rung(runner=runner, postprocess=read, rank=rank)
                for runner, rank in zip(self.runners, self.ranks, strict=True)
            ),
            cadence=cadence,
            budget_ms=budget_ms,
            policy=policy,
            bundle_sha256=self.sha256,
            preprocess_sha256=preprocess.sha256,
            left_out=self.left_out,
            errors=errors or ErrorPolicy(),
            refine=refine,
        )


def load(
    path: Path | str,
    *,
    target: Target | None = None,
    variant: str | None = None,
    runner: str = "onnxruntime",
    provider: str | None = None,
    threads: int = 1,
    trust: Sequence[Key] = (),
    require_signature: bool = False,
    verify: bool = True,
    timeout_s: float | None = None,
) -> LoadedModel:
    """Open a bundle and make its ladder (or the one `variant`) ready.

    `runner` is one of `RUNNER_TARGETS`, and its own ladder is taken unless `target` names another; or "auto": every
    variant on every runner whose ladder has it and that this machine can use. Warm-up then measures them all, and the
    most accurate variant on its fastest runner is the first rung (see `docs/runners.md`). `provider` as in
    `create_runner`.

    With `verify` every member's hash is checked and every rung reproduces the golden samples on the runner that it will
    run on, or `SelfTestError` is raised; with "auto" what does not is left out, and the first reason is raised when
    nothing is left. Raises what `Bundle.open` raises, and `ConfigError` for a target, variant, runner or provider that
    cannot be had.
    """
    if runner == "auto" and (target is not None or provider is not None):
        raise ConfigError("target and provider belong to one runner; leave them out with runner 'auto', or name one")
    with Bundle.open(path, trust=trust, require_signature=require_signature) as bundle:
        make = partial(create_runner, bundle, provider=provider, threads=threads, timeout_s=timeout_s)
        pairs = every_pair(bundle, variant) if runner == "auto" else runner_ladder(bundle, runner, target, variant)
        if verify:
            bundle.verify_all()
        if runner == "auto":
            rungs, left_out = _usable(bundle, pairs, make, verify)
        else:
            made = [make(name, runner=on) for on, name in pairs]
            rungs, left_out = [(item, None, self_test(bundle, item) if verify else None) for item in made], ()
        return LoadedModel(
            manifest=bundle.manifest,
            sha256=bundle.sha256,
            signed_by=bundle.signature.key_id if bundle.signature is not None and bundle.signature.trusted else "",
            runners=tuple(item for item, _, _ in rungs),
            self_tests=tuple(test for _, _, test in rungs if test is not None),
            ranks=tuple(rank for _, rank, _ in rungs),
            left_out=left_out,
        )


def runner_ladder(bundle: Bundle, runner: str, target: Target | None = None, variant: str | None = None) -> list[Pair]:
    """Pairs of one runner with the variants of its ladder, or of `target`'s; `ConfigError` when there is none."""
    if runner not in RUNNER_TARGETS:
        raise ConfigError(f"runner {runner!r} is not known; there is {[*RUNNER_TARGETS, 'auto']}")
    wanted = target or RUNNER_TARGETS[runner]
    names = (variant,) if variant is not None else bundle.manifest.ladders.get(wanted, ())
    if not names:
        raise ConfigError(
            f"{bundle.path} has no ladder for {wanted!r}; it has {sorted(bundle.manifest.ladders)}. "
            "Name one of these as the target, or a variant"
        )
    return [(runner, name) for name in names]


def every_pair(bundle: Bundle, variant: str | None = None) -> list[Pair]:
    """Pairs of each runner with the variants of its ladder; `ConfigError` when there is none."""
    ladders = bundle.manifest.ladders
    pairs = [
        (runner, name)
        for runner, target in RUNNER_TARGETS.items()
        for name in ladders.get(target, ())
        if variant in (None, name)
    ]
    if not pairs:
        raise ConfigError(f"{bundle.path}: variant {variant!r} stands in no ladder; the ladders are {ladders}")
    return pairs


def _usable(
    bundle: Bundle, pairs: list[Pair], make: Callable[..., Runner], verify: bool
) -> tuple[list[tuple[Runner, int | None, SelfTest | None]], tuple[RungReport, ...]]:
    """The pairs that run on this machine, each with its rank, and those that do not with the reason."""
    reasons, ranks = available_runners(), accuracy_ranks(bundle.manifest)
    rungs: list[tuple[Runner, int | None, SelfTest | None]] = []
    errors: list[tuple[Pair, EdgeError]] = []
    for on, name in pairs:
        if (reason := reasons[on]) is not None:
            errors.append(((on, name), MissingDependencyError(reason)))
            continue
        runner = make(name, runner=on)
        try:
            with runner:
                rungs.append((runner, ranks[name], self_test(bundle, runner) if verify else None))
        except (RunnerError, MissingDependencyError, ModelRefusedError, SelfTestError) as error:
            errors.append(((on, name), error))
    if not rungs:
        raise errors[0][1]
    folder = str(bundle.path.parent) + "/"  # a report names no folder
    return rungs, tuple(
        RungReport(variant=name, runner=on, median_ns=None, runs=0, kept=False, note=str(error).replace(folder, ""))
        for (on, name), error in errors
    )


def accuracy_ranks(manifest: Manifest) -> dict[str, int]:
    """Place of each variant by accuracy, 0 first: by the score that all have, else as the manifest lists them.

    What counts is the loss against fp32 (the best, where there is none), in steps of 0.05 points: a variant that is
    better than the model it came from is so by chance. Variants of one loss share a place.
    """
    names = [variant.id for variant in manifest.variants]
    for score in _SCORES:
        if all(score in variant.scores for variant in manifest.variants):
            values = {variant.id: variant.scores[score] for variant in manifest.variants}
            model = [values[variant.id] for variant in manifest.variants if variant.precision == "fp32"]
            top = max(model or values.values())
            losses = {name: round(max(0.0, top - value) / _SAME_SCORE) for name, value in values.items()}
            return {name: sum(other < losses[name] for other in losses.values()) for name in names}
    return {name: place for place, name in enumerate(names)}


def self_test(bundle: Bundle, runner: Runner) -> SelfTest:
    """Run the golden samples through `runner` (activated for the purpose if it is not).

    Raises `SelfTestError` naming the variant, the output, the worst difference and what is allowed, or for a bundle
    without golden samples: nothing was tested then.
    """
    variant = bundle.variant(runner.variant)
    worst, where, alike = 0.0, runner.outputs[0].name, 1.0
    samples = bundle.golden()
    if not samples:
        raise SelfTestError(f"{bundle.path} has no golden samples to test with; package it with some, or do not verify")
    with runner:
        for sample, wanted in samples:
            found = runner.infer({runner.input.name: sample})
            for output in runner.outputs:
                difference = _difference(found[output.name], wanted[output.name])
                worst, where = max((worst, where), (difference, output.name))
                if difference < float("inf"):
                    alike = min(alike, agreement(found[output.name], wanted[output.name], output))
    if not (worst <= variant.parity_abs and alike >= variant.min_agreement):
        raise SelfTestError(
            f"{bundle.path}: variant {variant.id} on {runner.name} differs from the golden samples by {worst:.3g} "
            f"(output {where!r}) with {alike:.5f} of the decisions (mask pixels, classes, boxes) equal; allowed are "
            f"{variant.parity_abs:.3g} and {variant.min_agreement:.5f}. Do not use it here: get the file again, or "
            "package it for this machine"
        )
    return SelfTest(
        variant=variant.id,
        runner=runner.name,
        worst=worst,
        agreement=alike,
        allowed=variant.parity_abs,
        min_agreement=variant.min_agreement,
    )


def _difference(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max())
