"""The bill of materials of a bundle: CycloneDX 1.6 (ECMA-424) JSON with a machine-learning-model component.

Field names and allowed values are those of the published `bom-1.6.schema.json`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from edge_export._card import ModelCard
from edge_export._lower import LoweringReport
from edge_export.agree import AgreementReport
from edge_export.verify import VerificationReport
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError

__all__ = ["Origin", "bill_of_materials"]

_DISTRIBUTIONS = (
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pocus-edge-export",
    "pocus-edge-runtime",
    "pocus-edge-sdk",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx-cu12-libs",
    "torch",
)
_KINDS = {"data": "data", "teacher": "machine-learning-model", "student": "machine-learning-model", "recipe": "file"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Something that the model was made from, by the sha256 (64 lower-case hex digits) of its exact bytes.

    `kind`: "data" (the manifest of a data set, say), "teacher", "student" (its weights or its ONNX file) or "recipe".
    Raises `ConfigError` for a hash of another form or an empty name.
    """

    kind: Literal["data", "teacher", "student", "recipe"]
    name: str
    sha256: str
    license: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or not self.name:
            raise ConfigError(f"origin {self.name!r} is of kind {self.kind!r}; a name and one of {sorted(_KINDS)}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ConfigError(f"origin {self.name!r}: sha256 is {self.sha256!r}; 64 lower-case hex digits are needed")


def bill_of_materials(
    name: str,
    version: str,
    created: str,
    *,
    card: ModelCard,
    models: Mapping[str, bytes],
    report: LoweringReport,
    input_spec: InputSpec,
    output_specs: tuple[OutputSpec, ...],
    verification: VerificationReport | AgreementReport | None,
    origins: Sequence[Origin],
) -> Json:
    """The model, its variants, what it was made from and with which tools; `created` is an ISO 8601 time.

    The serial number follows from the content: same arguments, same document.
    """
    frames = Origin(
        kind="data",
        name=f"{report.ranges.n_inputs} preprocessed frames for quantization calibration",
        sha256=report.ranges.inputs_sha256,
    )
    sources = [_source(number, item) for number, item in enumerate((*origins, frames))]
    variants = [_variant(name, version, key, data, report) for key, data in models.items()]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": version,
        "description": card.intended_use,
        "hashes": _hashes(models["fp32"]),
        **_licences(card.license),
        "modelCard": _model_card(card, input_spec, output_specs, verification, sources),
    }
    body: Json = {
        "metadata": {"timestamp": created, "tools": {"components": _tools()}, "component": model},
        "components": [*variants, *sources],
        "dependencies": [
            {"ref": "model", "dependsOn": [item["bom-ref"] for item in sources]},
            *({"ref": item["bom-ref"], "dependsOn": ["model"]} for item in variants),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1, **body}


def _hashes(data: bytes) -> list[Json]:
    return [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}]


def _licences(name: str) -> Json:
    return {"licenses": [{"license": {"name": name}}]} if name else {}


def _source(number: int, origin: Origin) -> Json:
    kind = _KINDS[origin.kind]
    found: Json = {
        "type": kind,
        "bom-ref": f"origin-{number}",
        "name": origin.name,
        "hashes": [{"alg": "SHA-256", "content": origin.sha256}],
        **_licences(origin.license),
        "properties": [{"name": "pocus-edge:origin", "value": origin.kind}],
    }
    return {**found, "data": [{"type": "dataset", "name": origin.name}]} if kind == "data" else found


def _variant(name: str, version: str, key: str, data: bytes, report: LoweringReport) -> Json:
    row = report.variant(key)
    facts = {"precision": row.precision, "opset": row.opset, "bytes": len(data), "targets": " ".join(row.targets)}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"variant-{key}",
        "name": f"{name}:{key}",
        "version": version,
        "hashes": _hashes(data),
        "properties": [{"name": f"pocus-edge:{fact}", "value": str(value)} for fact, value in facts.items()],
    }


def _model_card(
    card: ModelCard,
    input_spec: InputSpec,
    output_specs: tuple[OutputSpec, ...],
    verification: VerificationReport | AgreementReport | None,
    sources: Sequence[Json],
) -> Json:
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": ", ".join(dict.fromkeys(spec.kind for spec in output_specs)),
            "datasets": [{"ref": item["bom-ref"]} for item in sources if item["type"] == "data"],
            "inputs": [{"format": f"{input_spec.name}: float32 {list(input_spec.shape)}"}],
            "outputs": [{"format": f"{spec.name}: {spec.kind} float32 {list(spec.shape)}"} for spec in output_specs],
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(verification)},
        "considerations": {"useCases": [card.intended_use], "technicalLimitations": [card.limits]},
    }


def _metrics(verification: VerificationReport | AgreementReport | None) -> list[Json]:
    if verification is None:
        return []
    found = []
    if isinstance(verification, VerificationReport):
        for row in verification.scores:
            found.append(_metric("dice", row.dice, f"{row.variant} on {row.runner}", row.dice_interval))
        return found
    for score in verification.scores:
        for output, share in score.agreement.items():
            slice_ = f"{output}, {score.variant} on {score.runner}, against the student"
            found.append(_metric("agreement", share, slice_, score.agreement_interval.get(output)))
    return found


def _metric(kind: str, value: float, slice_: str, interval: tuple[float, float] | None) -> Json:
    found: Json = {"type": kind, "value": f"{value:.6f}", "slice": slice_}
    if interval is not None:
        low, high = interval
        found["confidenceInterval"] = {"lowerBound": f"{low:.6f}", "upperBound": f"{high:.6f}"}
    return found


def _tools() -> list[Json]:
    """The distributions that are installed here, and Python."""
    found = [{"type": "platform", "name": "python", "version": platform.python_version()}]
    for name in _DISTRIBUTIONS:
        try:
            found.append({"type": "library", "name": name, "version": metadata.version(name)})
        except metadata.PackageNotFoundError:
            continue
    return found
