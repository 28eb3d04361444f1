"""Put verified variants into a `.edge` file, and open it again to see that it holds what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._card import ModelCard, render_card
from edge_export._graph import main_input
from edge_export._ladders import ladders
from edge_export._lower import LoweredVariant, LoweringReport
from edge_export._monai import monai_metadata
from edge_export._run import run_variant
from edge_export._sbom import Origin, bill_of_materials
from edge_export.agree import AgreementReport
from edge_export.verify import VerificationReport
from edge_runtime import loading
from edge_runtime.atomic import replacing
from edge_runtime.bundle import Bundle, npy_bytes, sign_bundle, write_bundle
from edge_runtime.bundle.manifest import (
    Evidence,
    GoldenSample,
    InputSpec,
    Manifest,
    OutputSpec,
    Variant,
    schema_version,
)
from edge_runtime.errors import ConfigError
from edge_runtime.postprocess import agreement
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.runners import create_runner

__all__ = ["Parity", "measure_parity", "package", "self_test"]

Float32 = npt.NDArray[np.float32]
BILL = "Bill of materials (CycloneDX 1.6)"  # titles of evidence
METADATA = "Metadata (MONAI vocabulary)"
Outputs = list[dict[str, Float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The bounds of the self-test: `absolute` in the output's unit, `agreement` the least share of equal decisions."""

    absolute: float
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowance:
    """Bound = max(headroom x what was measured here, relative x largest golden value); likewise for pixels."""

    headroom: float
    relative: float
    pixels: float


# Another machine computes the same file with other kernels. fp32: TF32 on a GPU keeps 10 mantissa bits, 1e-3.
# fp16: sums may be kept in FP16, 2^-7 over a few hundred terms. int8: with and without VNNI, and fused
# against simulated Q/DQ, roundings differ by a step in every layer (1e-3 to 9e-3 of full scale have been measured
# between x86 kernels on one network), hence 5e-2; the agreement of pixels is the sharper test there. The form for CPUs
# ("int8-cpu") has the same: where saturation without VNNI breaks it, its outputs are off by more, and the self-test is
# there to say so.
_ALLOWANCES = {
    "fp32": _Allowance(headroom=10.0, relative=1e-3, pixels=1e-3),
    "fp16": _Allowance(headroom=4.0, relative=2.0**-7, pixels=3e-3),
    "int8": _Allowance(headroom=3.0, relative=5e-2, pixels=1e-2),
}


def package(
    path: Path | str,
    *,
    name: str,
    version: str,
    models: Mapping[str, bytes],
    report: LoweringReport,
    output_specs: tuple[OutputSpec, ...],
    preprocess: PreprocessSpec,
    golden_inputs: Sequence[Float32],
    card: ModelCard,
    verification: VerificationReport | AgreementReport | None = None,
    evidence: Mapping[str, Any] | None = None,
    origins: Sequence[Origin] = (),
    created: datetime | None = None,
    private_key: Path | str | bytes | None = None,
) -> Path:
    """Write `models` (the files of `lower`, by variant id, "fp32" among them) as one `.edge` file at `path`.

    Golden samples are `golden_inputs` (1 to 8 float32 tensors of the input's shape; they must be free to publish) with
    the fp32 outputs. The self-test's bounds are measured per variant on them (`measure_parity`). `evidence` maps a
    title to JSON data; lowering, verification, a bill of materials (CycloneDX, with `origins`: what the model was
    made from) and metadata in MONAI's vocabulary are added. The ladders hold each variant under the targets that it is
    written for, by measured accuracy, then cost (`ladders`). With `private_key` (ed25519, PEM) the file is signed.
    `created` is stamped into the manifest (now, UTC, by default): same arguments and time, same bytes. The file is
    written whole or not at all, opened again, and self-tested. Raises `LoweringError` for a `verification` with a gate
    that is neither met nor overridden, `ConfigError`, `BundleError` and its kin, `SelfTestError`.
    """
    input_spec = _input(models, golden_inputs, verification)
    runs = {key: run_variant(data, key, golden_inputs, input_spec, output_specs) for key, data in models.items()}
    members = {f"variants/{key}.onnx": data for key, data in models.items()}
    golden = _golden(golden_inputs, runs["fp32"], members)
    stamp = _stamp(created)
    about: dict[str, Any] = {"card": card, "input_spec": input_spec, "output_specs": output_specs}
    about["verification"] = verification
    bill = bill_of_materials(name, version, stamp, models=models, report=report, origins=origins, **about)
    items = {"Lowering": report.to_dict(), BILL: bill}
    items[METADATA] = monai_metadata(name, version, preprocess=preprocess, **about)
    if verification is not None:
        items["Verification"] = verification.to_dict()
    proofs = _evidence(items, evidence or {}, members)
    members["card.md"] = render_card(name, version, card, report, verification, output_specs).encode()
    manifest = Manifest(
        schema_version=schema_version(output_specs, preprocess),
        name=name,
        version=version,
        created=stamp,
        producer=f"pocus-edge-export {_own_version()}",
        task="segmentation" if output_specs[0].kind == "mask_logits" else "other",
        intended_use=card.intended_use,
        input=input_spec,
        outputs=output_specs,
        preprocess=preprocess,
        variants=tuple(_variant(report.variant(key), runs, output_specs, verification) for key in models),
        ladders=ladders(models, report, verification),
        golden=golden,
        evidence=proofs,
    )
    _write(Path(path), manifest, members, private_key)
    return Path(path)


def _input(
    models: Mapping[str, bytes],
    golden_inputs: Sequence[Float32],
    verification: VerificationReport | AgreementReport | None,
) -> InputSpec:
    """The input of the fp32 file; raises for arguments that cannot be packaged."""
    if verification is not None:
        verification.require_passed()
    if "fp32" not in models or not 1 <= len(golden_inputs) <= 8:
        raise ConfigError(f"models {sorted(models)} must hold fp32, and {len(golden_inputs)} golden inputs be 1 to 8")
    name, shape = main_input(onnx.load_model_from_string(models["fp32"]))
    if len(shape) != 4:
        raise ConfigError(f"the input has shape {shape}; a bundle takes NCHW")
    return InputSpec(name=name, shape=(shape[0], shape[1], shape[2], shape[3]))


def _write(
    path: Path, manifest: Manifest, members: Mapping[str, bytes], private_key: Path | str | bytes | None
) -> None:
    with replacing(path) as temporary:
        write_bundle(temporary, manifest, members)
        if private_key is not None:
            sign_bundle(temporary, private_key)
        self_test(temporary)


def measure_parity(precision: str, found: Outputs, wanted: Outputs, output_specs: tuple[OutputSpec, ...]) -> Parity:
    """Bounds for the self-test of one variant, from its outputs and the golden ones on the same inputs.

    The headroom over what was measured, and a floor relative to the largest golden value, cover kernels of other
    machines;
    they are wide enough for those and narrow enough to catch a wrong engine, which is off by the size of the signal.
    """
    rule = _ALLOWANCES[precision]
    error, top = _largest_error(found, wanted), max(float(np.abs(a).max()) for o in wanted for a in o.values())
    flips = 1.0 - _agreement(found, wanted, output_specs)
    return Parity(
        absolute=max(rule.headroom * error, rule.relative * top),
        agreement=max(0.0, 1.0 - max(rule.headroom * flips, rule.pixels)),
    )


def self_test(path: Path | str) -> None:
    """Open the bundle at `path` and run every variant on the golden samples on this machine's CPU.

    Raises `SelfTestError` when one is outside its bounds, and what `Bundle.open` and the runner raise.
    """
    with Bundle.open(path) as bundle:
        bundle.verify_all()
        for variant in bundle.manifest.variants:
            loading.self_test(bundle, create_runner(bundle, variant.id))


def _largest_error(found: Outputs, wanted: Outputs) -> float:
    return max(
        float(np.abs(f[n].astype(np.float64) - w[n]).max()) for f, w in zip(found, wanted, strict=True) for n in w
    )


def _agreement(found: Outputs, wanted: Outputs, output_specs: tuple[OutputSpec, ...]) -> float:
    """The least share of equal decisions over samples and outputs; 1 where none decides."""
    return min(
        agreement(f[spec.name], w[spec.name], spec) for f, w in zip(found, wanted, strict=True) for spec in output_specs
    )


def _golden(inputs: Sequence[Float32], outputs: Outputs, members: dict[str, bytes]) -> tuple[GoldenSample, ...]:
    samples = []
    for index, (sample, found) in enumerate(zip(inputs, outputs, strict=True)):
        names = {name: f"golden/{index}.out{number}.npy" for number, name in enumerate(found)}
        members[f"golden/{index}.in.npy"] = npy_bytes(sample)
        members.update({names[name]: npy_bytes(array) for name, array in found.items()})
        samples.append(GoldenSample(input=f"golden/{index}.in.npy", outputs=names))
    return tuple(samples)


def _evidence(items: Mapping[str, Any], extra: Mapping[str, Any], members: dict[str, bytes]) -> tuple[Evidence, ...]:
    clash = sorted(set(items) & set(extra))
    if clash:
        raise ConfigError(f"evidence titles {clash} are taken; choose others")
    listed = []
    for number, (title, data) in enumerate({**items, **extra}.items()):
        member = f"evidence/{number:02d}.json"
        try:
            members[member] = json.dumps(data, indent=1, allow_nan=False, sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"evidence {title!r} is not JSON: {error}; give plain numbers, lists and texts"
            ) from error
        listed.append(Evidence(path=member, title=title))
    return tuple(listed)


def _variant(
    row: LoweredVariant,
    runs: Mapping[str, Outputs],
    output_specs: tuple[OutputSpec, ...],
    verification: VerificationReport | AgreementReport | None,
) -> Variant:
    parity = measure_parity(row.precision, runs[row.id], runs["fp32"], output_specs)
    scores: dict[str, float] = {}
    if isinstance(verification, VerificationReport):  # of several runners the worst
        scores = {"dice": verification.score(row.id).dice}
    elif verification is not None:
        scores = {"agreement": verification.score(row.id).least}
    return Variant(
        id=row.id,
        model=f"variants/{row.id}.onnx",
        precision=row.precision,
        opset=row.opset,
        macs=row.macs,
        parity_abs=parity.absolute,
        min_agreement=parity.agreement,
        scores=scores,
    )


def _stamp(created: datetime | None) -> str:
    return (created or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _own_version() -> str:
    from edge_export import __version__

    return __version__
