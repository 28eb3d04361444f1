"""What the commands of `edge-export` do, as functions from files to JSON values; `say` gets a line per step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from edge_export._card import ModelCard
from edge_export._graph import main_input
from edge_export._labelled import labelled_pairs
from edge_export._lint import LintTarget, lint
from edge_export._lower import LoweringReport, lower
from edge_export._package import package
from edge_export._run import check_runners
from edge_export._sbom import Origin
from edge_export._shapes import read_bytes, read_model, with_input_shape
from edge_export._tensors import Float32, network_tensors, prepared, speckle_frames
from edge_export.agree import MIN_AGREEMENT, MIN_SQNR_DB, AgreementReport, verify_agreement
from edge_export.package_spec import (
    FramesSection,
    LoweringSection,
    PackageSpec,
    VerificationSection,
    output_specs,
    read_spec,
)
from edge_export.verify import MAX_DROP_POINTS, VerificationReport, verify_variants
from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import Preprocessor
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.settings_file import read_yaml, to_struct

__all__ = ["NOT_VERIFIED", "lint_file", "lower_file", "package_from_spec", "verify_file"]

NOT_VERIFIED = "not verified: the file names no frames to verify on"
Report = VerificationReport | AgreementReport
Say = Callable[[str], None]


def package_from_spec(spec: Path, out: Path, key: Path | None, *, say: Say = lambda _: None) -> dict[str, Any]:
    """Lower, verify as `spec` says, package to `out` and sign with the private `key` (PEM).

    Returns `lowering` and `verification` (reports as JSON values; null without it), `statement`, `sha256` and `bytes`.
    Raises `ConfigError` for the file or a path in it, `SourceError` for frames that are not read, `LoweringError` for
    a refused graph or a gate, and what `package` raises; nothing is written then.
    """
    settings = read_spec(spec)
    base = spec.resolve().parent
    _check_paths(out, key)
    origins = _origins(settings, spec, base)
    files, report, contract, tensors = _lowered(settings, base, say)
    verification: Report | None = None
    if settings.verification is not None:
        verification = _verified(
            files, _targets(report), settings.verification, base, settings.preprocess, contract, say
        )
    say(f"packaging {', '.join(files)}")
    package(
        out,
        name=settings.name,
        version=settings.version,
        models=files,
        report=report,
        output_specs=contract[1],
        preprocess=settings.preprocess,
        golden_inputs=_golden(settings, tensors),
        card=_card(settings),
        verification=verification,
        origins=origins,
        private_key=key,
    )
    with Bundle.open(out) as bundle:
        identity = bundle.sha256
    return {
        "schema": "edge-export.package/1",
        "lowering": report.to_dict(),
        "verification": None if verification is None else verification.to_dict(),
        "statement": _statement(verification),
        "sha256": identity,
        "bytes": out.stat().st_size,
        "signed": key is not None,
    }


def verify_file(
    path: Path,
    *,
    images: Path | None = None,
    masks: Path | None = None,
    frames: Path | None = None,
    mask_values: Sequence[int] = (0, 255),
    runners: Sequence[str] = (),
    gates: Mapping[str, float] | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Hold the variants of a bundle, or those that a package file makes, against labels or against their fp32 form.

    `images` and `masks` (folders) or `frames` replace those of a package file, a bundle needs them; `runners` and
    `gates` (largest drop in points, with masks; least agreement, with frames; by variant) replace the defaults.
    Returns the report as JSON values, `metric` ("dice" or "agreement") and `failed`, the ids of variants that fail a
    gate without an override: nothing is raised for these. Raises `ConfigError`, `SourceError`, `BundleError`,
    `LoweringError`.
    """
    given = _section(images, masks, frames, mask_values)
    if path.suffix in (".yaml", ".yml"):
        settings = read_spec(path)
        base, preprocess = path.resolve().parent, settings.preprocess
        section = given or settings.verification
        if section is None:
            raise ConfigError(f"{path} has no verification; give --images and --masks, or --frames")
        check_runners(runners or section.runners)
        quick = msgspec.structs.replace(settings.lowering, rtx=False, require_rtx=False)
        files, report, contract, _ = _lowered(msgspec.structs.replace(settings, lowering=quick), base, say)
        targets, precisions = _targets(report), {row.id: str(row.precision) for row in report.variants}
    else:
        if given is None:
            raise ConfigError("a bundle brings no frames to verify on; give --images and --masks, or --frames")
        section, base = given, Path.cwd()
        with Bundle.open(path) as bundle:
            manifest = bundle.manifest
            files = {variant.id: bundle.model(variant.id) for variant in manifest.variants}
        if "fp32" not in files:
            raise ConfigError(
                f"{path} has the variants {sorted(files)}; fp32 is needed, the others are held against it"
            )
        contract, preprocess = (manifest.input, manifest.outputs), manifest.preprocess
        targets = {name: tuple(t for t, ids in manifest.ladders.items() if name in ids) for name in files}
        precisions = {variant.id: str(variant.precision) for variant in manifest.variants}
    section = _with_gates(section, precisions, gates or {}, runners)
    found = _verified(files, targets, section, base, preprocess, contract, say, refuse=False)
    return {
        "schema": "edge-export.verify/1",
        "file": str(path),
        "metric": "dice" if isinstance(found, VerificationReport) else "agreement",
        **found.to_dict(),
        "failed": sorted({score.variant for score in found.failed}),
    }


def lower_file(
    model: Path,
    frames: Path,
    out: Path,
    *,
    preprocess: Path | None = None,
    count: int = 64,
    settings: LoweringSection | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Write the variants of an ONNX file and `report.json` into the folder `out`, which must be new or empty.

    `frames` is a path that `open_source` reads, with `preprocess` (YAML: a `steps` list) between it and the network;
    or, without, a `.npy` of network inputs, (N, C, H, W) float32. Nothing is written unless every variant passes its
    gates. Raises `ConfigError`, `SourceError`, `LoweringError`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder; name a new one")
    if preprocess is None:
        tensors = _tensors(frames)[:count]
    else:
        tensors = network_tensors(
            frames, to_struct(read_yaml(preprocess, "preprocess file"), PreprocessSpec, str(preprocess)), count=count
        )
    chosen = settings or LoweringSection()
    say(f"lowering to {', '.join(chosen.precisions)} with {len(tensors)} frames")
    fixed = with_input_shape(read_model(model), tensors[0].shape)
    files, report = lower(fixed, tensors, **msgspec.structs.asdict(chosen))
    make_folder(out)
    for name, data in files.items():
        write_bytes(out / f"{name}.onnx", data)
    facts = {"schema": "edge-export.lower/1", "model": str(model), "out": str(out), "lowering": report.to_dict()}
    write_bytes(out / "report.json", msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return facts


def lint_file(model: Path, target: str) -> list[dict[str, str]]:
    """The findings of `lint` for the ONNX file `model`. Raises `ConfigError` for a file or target, `LoweringError`."""
    return [finding.to_dict() for finding in lint(read_bytes(model), cast(LintTarget, target))]


Contract = tuple[InputSpec, tuple[OutputSpec, ...]]


def _lowered(
    settings: PackageSpec, base: Path, say: Say
) -> tuple[dict[str, bytes], LoweringReport, Contract, list[Float32]]:
    shape = Preprocessor(settings.preprocess).output_shape
    model = with_input_shape(read_model(base / settings.model), shape)
    outputs = output_specs(settings, model)
    tensors = _frames(base, settings.frames, settings.preprocess)
    say(f"lowering to {', '.join(settings.lowering.precisions)} with {len(tensors)} frames")
    files, report = lower(model, tensors, **msgspec.structs.asdict(settings.lowering))
    return files, report, (InputSpec(name=main_input(model)[0], shape=shape), outputs), tensors


def _verified(
    files: dict[str, bytes],
    targets: Mapping[str, Sequence[str]],
    section: VerificationSection,
    base: Path,
    preprocess: PreprocessSpec,
    contract: Contract,
    say: Say,
    *,
    refuse: bool = True,
) -> Report:
    common: dict[str, Any] = {
        "student": files["fp32"],
        "input_spec": contract[0],
        "output_specs": contract[1],
        "overrides": section.overrides,
        "runners": section.runners,
        "targets": targets,
        "refuse": refuse,
    }
    if section.frames is not None:
        inputs = _frames(base, section.frames, preprocess)
        say(f"verifying {', '.join(files)} on {len(inputs)} frames with {', '.join(section.runners)}")
        least, noise = {**MIN_AGREEMENT, **section.min_agreement}, {**MIN_SQNR_DB, **section.min_sqnr_db}
        return verify_agreement(files, inputs=inputs, min_agreement=least, min_sqnr_db=noise, **common)
    _check_mask_values(section, contract[1])
    inputs, labels = labelled_pairs(base / section.images, base / section.masks, section.mask_values, preprocess)
    say(f"verifying {', '.join(files)} on {len(inputs)} labelled images with {', '.join(section.runners)}")
    drops = {**MAX_DROP_POINTS, **section.max_drop_points}
    return verify_variants(files, inputs=inputs, labels=labels, max_drop_points=drops, **common)


def _check_mask_values(section: VerificationSection, outputs: tuple[OutputSpec, ...]) -> None:
    if outputs[0].kind != "mask_logits":
        raise ConfigError(
            f"verification: the first output, {outputs[0].name!r}, is {outputs[0].kind}; put the mask output first, or "
            "verify on frames alone (agreement with the fp32 file)"
        )
    foreground = max(1, outputs[0].shape[1] - 1)
    if len(section.mask_values) != foreground + 1:
        raise ConfigError(
            f"verification: mask_values has {len(section.mask_values)} values; background and {foreground} classes "
            f"need {foreground + 1}"
        )


def _section(
    images: Path | None, masks: Path | None, frames: Path | None, mask_values: Sequence[int]
) -> VerificationSection | None:
    """What the command line says to verify on, paths made absolute; None when it says nothing."""
    if images is None and masks is None and frames is None:
        return None
    return VerificationSection(
        images="" if images is None else str(images.resolve()),
        masks="" if masks is None else str(masks.resolve()),
        frames=None if frames is None else FramesSection(path=str(frames.resolve())),
        mask_values=tuple(mask_values),
    )


def _with_gates(
    section: VerificationSection, precisions: Mapping[str, str], gates: Mapping[str, float], runners: Sequence[str]
) -> VerificationSection:
    """`section` with a gate for every variant, an id of one's own taking its precision's."""
    strange = sorted(set(gates) - set(precisions))
    if strange:
        raise ConfigError(f"gates are given for {strange}; the variants are {sorted(precisions)}")

    def filled(own: Mapping[str, float], defaults: Mapping[str, float]) -> dict[str, float]:
        by_id = {name: defaults.get(name, defaults[kind]) for name, kind in precisions.items()}
        return {**by_id, **own}

    drops, least = dict(section.max_drop_points), dict(section.min_agreement)
    (drops if section.frames is None else least).update(gates)
    return msgspec.structs.replace(
        section,
        runners=tuple(runners) or section.runners,
        max_drop_points=filled(drops, MAX_DROP_POINTS),
        min_agreement=filled(least, MIN_AGREEMENT),
        min_sqnr_db=filled(section.min_sqnr_db, MIN_SQNR_DB),
    )


def _targets(report: LoweringReport) -> dict[str, tuple[str, ...]]:
    return {row.id: row.targets for row in report.variants}


def _statement(verification: Report | None) -> str:
    if verification is None:
        return NOT_VERIFIED
    if isinstance(verification, VerificationReport):
        return f"verified on {verification.n_frames} labelled images"
    return f"compared with the fp32 file on {verification.n_frames} frames without labels"


def _card(settings: PackageSpec) -> ModelCard:
    names = ("intended_use", "training_data", "limits", "license", "tags", "held_out")
    return ModelCard(**{name: getattr(settings, name) for name in names})


def _origins(settings: PackageSpec, spec: Path, base: Path) -> list[Origin]:
    """What the file names, the model file and the file itself."""

    def of(kind: Any, name: str, path: Path, license: str = "") -> Origin:
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"origins: {path} cannot be read: {error.strerror}") from error
        return Origin(kind=kind, name=name, sha256=sha256, license=license)

    model = base / settings.model
    found = [of("student", model.name, model, settings.license), of("recipe", spec.name, spec)]
    for item in settings.origins:
        if item.path:
            found.append(of(item.kind, item.name, base / item.path, item.license))
        else:
            found.append(Origin(kind=item.kind, name=item.name, sha256=item.sha256, license=item.license))
    return found


def _frames(base: Path, section: FramesSection, preprocess: PreprocessSpec) -> list[Float32]:
    return network_tensors(
        base / section.path, preprocess, every=section.every, count=section.count, scan_area=section.scan_area
    )


def _golden(settings: PackageSpec, tensors: list[Float32]) -> list[Float32]:
    count = settings.golden.count
    if not settings.golden.from_frames:
        return prepared(speckle_frames(settings.golden.seed, count), settings.preprocess)
    if len(tensors) < count:
        raise ConfigError(f"golden: {count} samples from {len(tensors)} frames; take fewer, or give more frames")
    return tensors[:: len(tensors) // count][:count]


def _tensors(path: Path) -> list[Float32]:
    """Network inputs (1, C, H, W) from a `.npy` of (N, C, H, W) float32."""
    try:
        with path.open("rb") as file:
            stack = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"{path} is not an .npy file of network inputs: {error}; give one, or --preprocess for frames"
        ) from error
    if stack.dtype != np.float32 or stack.ndim != 4 or not len(stack):
        raise ConfigError(
            f"{path} holds {stack.dtype} {stack.shape}; (N, C, H, W) float32 network inputs are needed, or give "
            "--preprocess"
        )
    return [np.ascontiguousarray(sample[None]) for sample in stack]


def _check_paths(out: Path, key: Path | None) -> None:
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise ConfigError(f"{out}: a file name in a folder that exists is needed")
    if key is not None and not key.is_file():
        raise ConfigError(f"{key}: the key cannot be read; `edge-export keygen` makes a pair")
