"""What a bundle holds in the vocabulary of MONAI bundles' `metadata.json` (schema `meta_schema_20240725`).

The words are MONAI's where they fit; the file is evidence, not a MONAI bundle: there are no configs to run.
"""

from __future__ import annotations

from typing import Any

from edge_export._card import ModelCard
from edge_export.agree import AgreementReport
from edge_export.verify import VerificationReport
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.preprocess.spec import PreprocessSpec

__all__ = ["monai_metadata"]

_FORMATS = {
    "mask_logits": "segmentation",
    "class_logits": "classification",
    "boxes": "detection",
    "image": "magnitude",
    "uncertainty": "uncertainty",
}


def monai_metadata(
    name: str,
    version: str,
    *,
    card: ModelCard,
    input_spec: InputSpec,
    output_specs: tuple[OutputSpec, ...],
    preprocess: PreprocessSpec,
    verification: VerificationReport | AgreementReport | None,
) -> dict[str, Any]:
    """JSON values: name, task, `network_data_format` with every input and output, `eval_metrics` by variant."""
    channels = input_spec.shape[1]
    frame = {
        "type": "image",
        "format": "magnitude",
        "modality": "US",
        "num_channels": channels,
        "spatial_shape": list(input_spec.shape[2:]),
        "dtype": input_spec.dtype,
        "is_patch_data": False,
        "channel_def": {str(k): f"frame {k - channels + 1}" if channels > 1 else "frame" for k in range(channels)},
        "preprocess_sha256": preprocess.sha256,
    }
    return {
        "name": name,
        "version": version,
        "task": ", ".join(dict.fromkeys(_FORMATS.get(spec.kind, spec.kind) for spec in output_specs)),
        "description": card.intended_use,
        "intended_use": card.intended_use,
        "data_source": card.training_data,
        "data_type": "ultrasound B-mode frames",
        "license": card.license,
        "eval_metrics": _scores(verification),
        "network_data_format": {
            "inputs": {input_spec.name: frame},
            "outputs": {spec.name: _output(spec) for spec in output_specs},
        },
    }


def _output(spec: OutputSpec) -> dict[str, Any]:
    planes = len(spec.shape) == 4
    return {
        "type": "image" if planes else "probabilities" if spec.kind == "class_logits" else "array",
        "format": _FORMATS.get(spec.kind, spec.kind),
        "num_channels": spec.shape[1] if len(spec.shape) > 1 else 1,
        "spatial_shape": list(spec.shape[2:]) if planes else [],
        "dtype": spec.dtype,
        "is_patch_data": False,
        "channel_def": {str(k): label for k, label in enumerate(spec.classes)},
    }


def _scores(verification: VerificationReport | AgreementReport | None) -> dict[str, float]:
    if verification is None:
        return {}
    if isinstance(verification, VerificationReport):
        return {f"mean_dice, {row.variant} on {row.runner}": row.dice for row in verification.scores}
    return {f"agreement, {row.variant} on {row.runner}": row.least for row in verification.scores}
