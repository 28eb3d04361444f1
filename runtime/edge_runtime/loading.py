"""From a `.edge` file to a branch that a pipeline can run, self-tested on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import Manifest, Target
from edge_runtime.bundle.reader import Key
from edge_runtime.errors import ConfigError, SelfTestError
from edge_runtime.postprocess import OutputsPostprocessor, agreement
from edge_runtime.preprocess import Preprocessor
from edge_runtime.runners import Runner, create_runner
from edge_runtime.streaming import Branch, LadderPolicy, Policy, Rung

__all__ = ["LoadedModel", "SelfTest", "load", "self_test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """One variant on the golden samples: worst difference, least share of equal decisions, and the bounds."""

    variant: str
    worst: float
    agreement: float
    allowed: float
    min_agreement: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A bundle's ladder for one target, ready to run: runners are not activated yet, `branch()` does the rest."""

    manifest: Manifest
    sha256: str
    signed_by: str
    runners: tuple[Runner, ...]
    self_tests: tuple[SelfTest, ...]

    def branch(
        self, *, budget_ms: float | None = None, cadence: int = 1, policy: type[Policy] = LadderPolicy
    ) -> Branch:
        """A `Branch` with this model's preprocessing, ladder and postprocessing."""
        outputs, preprocess = self.manifest.outputs, self.manifest.preprocess
        return Branch(
            preprocess=Preprocessor(preprocess),
            rungs=tuple(
                Rung(runner=runner, postprocess=OutputsPostprocessor(outputs, preprocess)) for runner in self.runners
            ),
            cadence=cadence,
            budget_ms=budget_ms,
            policy=policy,
            bundle_sha256=self.sha256,
            preprocess_sha256=preprocess.sha256,
        )


def load(
    path: Path | str,
    *,
    target: Target = "ort-cpu",
    variant: str | None = None,
    runner: str = "onnxruntime",
    threads: int = 1,
    trust: Sequence[Key] = (),
    require_signature: bool = False,
    verify: bool = True,
    timeout_s: float | None = None,
) -> LoadedModel:
    """Open a bundle and make its ladder for `target` (or the one `variant`) ready.

    With `verify` every member's hash is checked and every rung reproduces the golden samples, or `SelfTestError` is
    raised. Raises what `Bundle.open` raises, and `ConfigError` for a target or variant that the bundle does not have.
    """
    with Bundle.open(path, trust=trust, require_signature=require_signature) as bundle:
        manifest = bundle.manifest
        chosen = (variant,) if variant is not None else manifest.ladders.get(target, ())
        if not chosen:
            raise ConfigError(f"{path} has no ladder for {target!r}; it has {sorted(manifest.ladders)}")
        runners = tuple(
            create_runner(bundle, name, runner=runner, threads=threads, timeout_s=timeout_s) for name in chosen
        )
        tests: tuple[SelfTest, ...] = ()
        if verify:
            bundle.verify_all()
            tests = tuple(self_test(bundle, item) for item in runners)
        signed_by = bundle.signature.key_id if bundle.signature is not None and bundle.signature.trusted else ""
        return LoadedModel(
            manifest=manifest, sha256=bundle.sha256, signed_by=signed_by, runners=runners, self_tests=tests
        )


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
        worst=worst,
        agreement=alike,
        allowed=variant.parity_abs,
        min_agreement=variant.min_agreement,
    )


def _difference(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max())
