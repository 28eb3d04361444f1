"""From a trained student to a signed `.edge` file: export, lower, verify against torch, package, sign.

The one road of every task's recipe and of the demonstration. A task says in a `Product` what its student is; an
`ExportSection` says what is to be made of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from edge_export import (
    AgreementReport,
    LoweringReport,
    ModelCard,
    Origin,
    VerificationReport,
    check_runners,
    choose_frames,
    export_torch,
    lower,
    package,
    run_variant,
    torch_parity,
    verify_agreement,
    verify_variants,
)
from edge_export.agree import MIN_AGREEMENT, MIN_SQNR_DB
from edge_export.verify import MAX_DROP_POINTS
from edge_runtime.atomic import write_bytes
from edge_runtime.bundle import Bundle, InputSpec, OutputSpec, check_outputs, private_key_id
from edge_runtime.errors import BundleFormatError, ConfigError
from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_runtime.preprocess.spec import Stack
from edge_sdk.frames import frames_of
from edge_sdk.gate import WithFeatures, fit_energy_gate, gate_scores, mahalanobis_in_folds
from edge_sdk.recipe_export import CalibrationFrames, ExportSection, GateSection
from edge_sdk.simulate import random_probe, random_scene, simulate_cine
from edge_sdk.stages import StageResult, Stages, code_sha256
from edge_sdk.teachers.identity import module_identity

__all__ = ["Product", "calibration_frames", "check_export", "export_student", "file_origin", "gated", "make_edge"]

Float32 = npt.NDArray[np.float32]
INPUT = "image"
GOLDEN_SEED = 90_417  # of the simulated frames in the file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CODE = (
    "edge_export",
    "edge_runtime.bundle",
    "edge_runtime.preprocess",
    "edge_runtime.postprocess",
    "edge_runtime.runners",
    "edge_sdk.gate",
    "edge_sdk.lowering",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """A trained student and what its file says of it.

    `student` maps (1, C, H, W) to `output`, whose name its ONNX output gets; `state` is the file of its weights.
    `trained_on` (N, C, H, W) float32 are network inputs that quantization calibration may use, `held_out` (M, C, H, W)
    those that the variants are verified on, with `labels` (M, h, w) uint8 for masks. `origins` are the data and the
    teacher; `report` (JSON values) is what training measured; `max_abs` what export may change of the output.
    A gate is fitted on the first of `trained_on`, as many as `groups` names examinations or patients, on all without;
    `features` is the student's layer whose output a Mahalanobis gate looks at.
    """

    name: str
    student: nn.Module
    state: Path
    output: OutputSpec
    preprocess: PreprocessSpec
    trained_on: Float32
    held_out: Float32
    origins: Sequence[Origin]
    report: Mapping[str, Any]
    labels: npt.NDArray[np.uint8] | None = None
    max_abs: float = 1e-4
    groups: Sequence[str] = ()
    features: nn.Module | None = None


def check_export(recipe: Any, base: Path) -> None:
    """Raise `ConfigError` for an export section that must fail: before hours of training, not after.

    Checked are the recipe's name, which becomes the file's, the runners of this machine, the key, and how a mask is
    read.
    """
    section = recipe.export
    if not isinstance(section, ExportSection):
        return
    if not _NAME.fullmatch(recipe.name):
        raise ConfigError(f"name is {recipe.name!r}; it names the file: letters, digits, '.', '_' and '-' are allowed")
    check_runners(section.runners)
    _key(section, base)
    if section.reading:
        classes = recipe.classes if len(recipe.classes) == 1 else ("background", *recipe.classes)
        mask = OutputSpec(name="mask", shape=(1, len(classes), 8, 8), kind="mask_logits", classes=classes)
        try:
            check_outputs((section.reading.of(mask),))
        except BundleFormatError as error:
            raise ConfigError(f"export: reading: {error}") from error


def export_student(product: Product, recipe: Any, *, base: Path, out_dir: Path, stages: Stages) -> dict[str, Any]:
    """Write `out_dir`/NAME.edge as the recipe's export section says; returns what the report says of it.

    The work is the stage "bundle"; `recipe.effective.yaml`, of which the bill of materials holds the hash, is written
    too. Raises as `make_edge`; then there is no new file.
    """
    from edge_sdk.recipe import effective_yaml

    section: ExportSection = recipe.export
    text = effective_yaml(recipe).encode()
    write_bytes(out_dir / "recipe.effective.yaml", text)
    made = make_edge(stages, product, section, recipe=text, key=_key(section, base))
    file = f"{product.name}.edge"
    write_bytes(out_dir / file, (made.folder / file).read_bytes())
    facts = made.record.result
    kept = ("sha256", "bytes", "signed_by", "torch_parity", "verification")
    return {"file": file, "seconds": made.record.seconds, **{name: facts[name] for name in kept}}


def make_edge(
    stages: Stages, product: Product, section: ExportSection, *, recipe: bytes, key: Path | None
) -> StageResult:
    """The stage "bundle", which holds NAME.edge; its result has every figure of lowering and verification.

    `recipe` is the effective recipe's text, `key` a private key or None. Raises `LoweringError` for a graph that a gate
    refuses, and for a variant that fails the section's gates without an override, with the tensor that diverges first;
    `ConfigError` and what `package` raises otherwise. Nothing of a file is left then.
    """
    inputs = {
        "section": section,
        "name": product.name,
        "output": product.output,
        "preprocess": product.preprocess,
        "student": module_identity(product.student),
        "origins": [[item.kind, item.name, item.sha256] for item in product.origins],
        "frames": [_sha256(array) for array in (product.trained_on, product.held_out, product.labels)],
        "groups": list(product.groups),
        "report": hashlib.sha256(msgspec.json.encode(product.report)).hexdigest(),
        "recipe": hashlib.sha256(recipe).hexdigest(),
        "key": _key_id(key),
        "code": code_sha256(*_CODE),
    }
    return stages.run("bundle", inputs, lambda folder: _make(folder, product, section, recipe, key))


def file_origin(kind: Any, path: Path, license: str = "") -> Origin:
    """The origin that is the file `path`. Raises `ConfigError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; the bill of materials names it") from error
    return Origin(kind=kind, name=path.name, sha256=sha256, license=license)


def calibration_frames(model: onnx.ModelProto, inputs: Float32, wanted: CalibrationFrames) -> tuple[int, ...]:
    """Indices, ascending, of the rows of `inputs` (N, C, H, W) that set the ranges of `model`."""
    if wanted.count >= len(inputs):
        return tuple(range(len(inputs)))
    if wanted.choice == "kmeans":
        return choose_frames(model, _tensors(inputs), wanted.count, seed=wanted.seed)
    drawn = np.random.default_rng(wanted.seed).choice(len(inputs), wanted.count, replace=False)
    return tuple(sorted(int(k) for k in drawn))


def _make(folder: Path, product: Product, section: ExportSection, recipe: bytes, key: Path | None) -> dict[str, Any]:
    held_out = _tensors(product.held_out)
    if section.reading:
        product = replace(product, output=section.reading.of(product.output))
    student, outputs = gated(product, section.gate) if section.gate else (product.student, (product.output,))
    model = export_torch(
        student,
        held_out[0].shape,
        input_name=INPUT,
        output_names=tuple(output.name for output in outputs),
        max_abs=product.max_abs,
    )
    parity = torch_parity(student, model, held_out[:4])
    chosen = calibration_frames(model, product.trained_on, section.calibration)
    asked = msgspec.to_builtins(section.calibration)
    models, report = lower(
        model,
        _tensors(product.trained_on[list(chosen)]),
        precisions=section.precisions,
        method=section.method,
        percentile=section.percentile,
        exclude=section.exclude,
        rtx=section.rtx,
    )
    verification = _verified(models, report, product, section, student, outputs)
    path = folder / f"{product.name}.edge"
    package(
        path,
        name=product.name,
        version=section.version,
        models=models,
        report=report,
        output_specs=outputs,
        preprocess=product.preprocess,
        golden_inputs=_simulated(product.preprocess, section.golden),
        card=ModelCard(**msgspec.structs.asdict(section.card)),
        verification=verification,
        evidence={
            "Training": msgspec.json.decode(msgspec.json.encode(product.report)),
            "ONNX against torch, largest difference": parity,
            "Frames for quantization calibration": {**asked, "of": len(product.trained_on), "taken": len(chosen)},
            **_beyond(models, outputs, held_out, verification),
        },
        origins=_origins(product, section, recipe),
        private_key=key,
    )
    with Bundle.open(path) as bundle:
        identity = bundle.sha256
    return {
        "sha256": identity,
        "bytes": path.stat().st_size,
        "signed_by": _key_id(key),
        "torch_parity": parity,
        "lowering": report.to_dict(),
        "verification": verification.to_dict(),
        "onnx": onnx.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _verified(
    models: Mapping[str, bytes],
    report: LoweringReport,
    product: Product,
    section: ExportSection,
    student: nn.Module,
    outputs: tuple[OutputSpec, ...],
) -> VerificationReport | AgreementReport:
    """Every variant against the student in torch, on every runner that it is written for."""
    held_out = _tensors(product.held_out)

    def answer(tensor: Float32) -> dict[str, Float32]:
        with torch.inference_mode():
            found = student(torch.from_numpy(tensor))
        each = (found,) if isinstance(found, torch.Tensor) else found
        return {output.name: part.numpy() for output, part in zip(outputs, each, strict=True)}

    common: dict[str, Any] = {
        "inputs": held_out,
        "input_spec": InputSpec(name=INPUT, shape=held_out[0].shape),
        "output_specs": outputs,
        "overrides": section.overrides,
        "runners": section.runners,
        "targets": {row.id: row.targets for row in report.variants},
    }
    if product.labels is not None:
        drops = {**MAX_DROP_POINTS, **section.max_drop_points}
        first = product.output.name
        masks, labels = lambda tensor: answer(tensor)[first], list(product.labels)
        return verify_variants(models, student=masks, labels=labels, max_drop_points=drops, **common)
    return verify_agreement(
        models,
        student=answer,
        min_agreement={**MIN_AGREEMENT, **section.min_agreement},
        min_sqnr_db={**MIN_SQNR_DB, **section.min_sqnr_db},
        **common,
    )


def gated(product: Product, section: GateSection) -> tuple[nn.Module, tuple[OutputSpec, ...]]:
    """The student that is exported and its outputs, one of them with the gate of `section`.

    Raises `ConfigError` for too few frames for its rate, or a student without the features that it is of.
    """
    inputs = product.trained_on[: len(product.groups) or None]
    over = f"{len(inputs)} frames of training"
    student: nn.Module = product.student
    if section.score == "mahalanobis":
        if product.features is None:
            raise ConfigError("a mahalanobis gate needs the student's layer of features; the product names none")
        student = WithFeatures(product.student, product.features).eval()
    found: list[Float32] = []
    with torch.inference_mode():
        for tensor in _tensors(inputs):
            answer = student(torch.from_numpy(tensor))
            found.append((answer if section.score == "energy" else answer[1]).numpy())
    values = np.concatenate(found)
    if section.score == "energy":
        energy = fit_energy_gate(values, product.output, over=over, false_alarm=section.false_alarm)
        return student, (msgspec.structs.replace(product.output, gate=energy),)
    features = OutputSpec(name="features", shape=(1, values.shape[1]), kind="features")
    groups = product.groups or [str(k) for k in range(len(inputs))]
    far = mahalanobis_in_folds(
        values, groups, features, over=f"{over}, each by the others", false_alarm=section.false_alarm
    )
    return student, (product.output, msgspec.structs.replace(features, gate=far))


def _beyond(
    models: Mapping[str, bytes],
    outputs: tuple[OutputSpec, ...],
    held_out: list[Float32],
    verification: VerificationReport | AgreementReport,
) -> dict[str, Any]:
    """Evidence of the gate: which share of the held-out frames each variant calls unlike those of training."""
    spec = next((output for output in outputs if output.gate is not None), None)
    if spec is None or spec.gate is None:
        return {}
    input_spec, rows = InputSpec(name=INPUT, shape=held_out[0].shape), []
    for score in verification.scores:
        data = models[score.variant]
        found = run_variant(data, score.variant, held_out, input_spec, outputs, runner=score.runner)
        scores = gate_scores(np.concatenate([answer[spec.name] for answer in found]), spec)
        share = float((scores > spec.gate.threshold).mean())
        rows.append({"variant": score.variant, "runner": score.runner, "beyond": share})
    gate = {name: getattr(spec.gate, name) for name in ("threshold", "false_alarm", "n", "over")}
    return {"Gate": {"output": spec.name, **gate, "held_out_frames": len(held_out), "held_out": rows}}


def _origins(product: Product, section: ExportSection, recipe: bytes) -> list[Origin]:
    text = Origin(kind="recipe", name="recipe.effective.yaml", sha256=hashlib.sha256(recipe).hexdigest())
    return [*product.origins, file_origin("student", product.state, section.card.license), text]


def _simulated(spec: PreprocessSpec, count: int) -> list[Float32]:
    """`count` network inputs (1, C, H, W), each the last frame of a simulated cine as long as the stack."""
    length = 1 + sum((step.n - 1) * step.stride for step in spec.steps if isinstance(step, Stack))
    prepare, found = Preprocessor(spec), []
    for k in range(count):
        rng = np.random.default_rng([GOLDEN_SEED, k])
        probe = random_probe(rng)
        cine = list(simulate_cine(random_scene(rng, probe), probe, length, seed=GOLDEN_SEED + k, shape=(160, 160)))
        prepare.reset()
        for frame in frames_of(np.stack([made.image for made in cine]), [made.geometry for made in cine]):
            tensor = prepare(frame).tensor
        found.append(tensor.copy())
    return found


def _tensors(inputs: Float32) -> list[Float32]:
    return [np.ascontiguousarray(sample[None], np.float32) for sample in inputs]


def _sha256(array: npt.NDArray[Any] | None) -> str:
    if array is None:
        return ""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _key(section: ExportSection, base: Path) -> Path | None:
    """The section's private key, which is tried; None without one."""
    if not section.key:
        return None
    path = base / Path(section.key).expanduser()
    if not path.is_file():
        raise ConfigError(f"export: key {path} is not a file; `edge-export keygen` makes a pair")
    _key_id(path)
    return path


def _key_id(key: Path | None) -> str:
    """Which key signs: the sha256 of its public half; empty without one."""
    return "" if key is None else private_key_id(key)
