"""What each kind of output must be, and what each schema version can say of it."""

from __future__ import annotations

from typing import Any

from edge_runtime.bundle._manifest_reading import check_reading
from edge_runtime.bundle.manifest import (
    FIELDS_SINCE,
    KINDS_SINCE,
    STEPS_SINCE,
    Manifest,
    OutputSpec,
    schema_version,
)
from edge_runtime.errors import BundleFormatError
from edge_runtime.preprocess.spec import NEW_STEPS

__all__ = ["check_of_version", "check_outputs", "without_newer_fields"]


def check_outputs(outputs: tuple[OutputSpec, ...]) -> None:
    """Raise `BundleFormatError` naming the first output whose shape, classes or numbers do not fit its kind."""
    for output in outputs:
        where = f"output {output.name!r}"
        _need(bool(output.name), "outputs have a name")
        _need(0 < output.threshold < 1, f"{where} has threshold {output.threshold}; between 0 and 1")
        _need(output.temperature > 0, f"{where} has temperature {output.temperature}; above 0")
        _need(0 < output.nms_iou <= 1, f"{where} has nms_iou {output.nms_iou}; above 0 and at most 1")
        _need(1 <= output.max_boxes <= 10_000, f"{where} has max_boxes {output.max_boxes}; 1 to 10000")
        _check_kind(output, where)
        _check_calibration(output, where)
        if output.kind in ("uncertainty", "border"):
            _check_belonging(output, outputs, where)
        else:
            _need(
                not output.of,
                f"{where} is {output.kind} and belongs to {output.of!r}; only uncertainty has `of`, and border",
            )
        check_reading(output)


def _check_kind(output: OutputSpec, where: str) -> None:
    shape, n = output.shape, len(output.classes)
    seen = f"{where} is {output.kind} of shape {list(shape)}"
    if output.kind == "mask_logits":
        _need(len(shape) == 4, f"{seen}; N, C, H, W is needed")
        _need(n in (0, shape[1]), f"{where} names {n} classes for {shape[1]} channels")
    elif output.kind == "class_logits":
        _need(len(shape) == 2 and shape[0] == 1, f"{seen}; 1, K is needed")
        _need(n == shape[1], f"{where} names {n} classes for {shape[1]} logits")
        enough = n > 1 or output.activation == "sigmoid"
        _need(enough, f"{where} has one class, which is always certain by softmax; its activation must be sigmoid")
    elif output.kind == "boxes":
        _need(len(shape) == 3 and shape[0] == 1 and shape[2] > 4, f"{seen}; 1, N, 4 + K is needed")
        _need(n == shape[2] - 4, f"{where} names {n} classes for {shape[2] - 4} logits a box")
    elif output.kind in ("image", "uncertainty", "border"):
        _need(len(shape) == 4 and shape[:2] == (1, 1), f"{seen}; 1, 1, H, W is needed")
    elif output.kind == "features":
        _need(len(shape) in (2, 4) and shape[0] == 1, f"{seen}; 1, D or 1, D, H, W is needed")


def _check_belonging(output: OutputSpec, outputs: tuple[OutputSpec, ...], where: str) -> None:
    masks = {other.name: other for other in outputs if other.kind == "mask_logits"}
    _need(output.of in masks, f"{where} belongs to {output.of!r}; the mask outputs are {sorted(masks)}")
    size, wanted = output.shape[2:], masks[output.of].shape[2:]
    _need(size == wanted, f"{where} is {list(size)} and its mask {output.of!r} {list(wanted)}; equal sizes are needed")


def _check_calibration(output: OutputSpec, where: str) -> None:
    facts = output.calibration
    if facts is None:
        return
    _need(facts.n >= 1 and facts.bins >= 1, f"{where} is calibrated over {facts.n} in {facts.bins} bins; 1 or more")
    for name in ("ece_before", "ece_after"):
        value = getattr(facts, name)
        _need(0 <= value <= 1, f"{where} has {name} {value}; 0 to 1")
    for name in ("brier_before", "brier_after"):
        value = getattr(facts, name)
        _need(value is None or 0 <= value <= 2, f"{where} has {name} {value}; 0 to 2")


def check_of_version(raw: dict[str, Any], version: int) -> None:
    """Raise `BundleFormatError` when a manifest of schema `version`, as plain values, uses what a later one added."""
    outputs = raw.get("outputs")
    for i, output in enumerate(outputs if isinstance(outputs, list) else ()):
        if not isinstance(output, dict):
            continue
        newer = sorted(_later(FIELDS_SINCE, version) & set(output))
        _need(not newer, f"outputs[{i}] has the fields {newer}, which schema version {version} does not have")
        kind = output.get("kind")
        _need(
            not (isinstance(kind, str) and kind in _later(KINDS_SINCE, version)),
            f"outputs[{i}] is of kind {kind!r}, which schema version {version} does not have",
        )
    preprocess = raw.get("preprocess")
    steps = preprocess.get("steps") if isinstance(preprocess, dict) else None
    for i, step in enumerate(steps if isinstance(steps, list) else ()):
        tag = step.get("step") if isinstance(step, dict) else None
        known = version >= STEPS_SINCE or not isinstance(tag, str) or tag not in NEW_STEPS
        _need(known, f"preprocess.steps[{i}] is {tag!r}, which schema version {version} does not have")


def without_newer_fields(plain: dict[str, Any], manifest: Manifest) -> None:
    """Take the fields of later versions out of `plain`, which is `manifest`; `BundleFormatError` if they say
    anything."""
    needed, version = schema_version(manifest.outputs, manifest.preprocess), manifest.schema_version
    _need(
        needed <= version,
        f"outputs and preprocess need schema_version {needed} and it says {version}; set it with "
        "`schema_version(outputs, preprocess)`",
    )
    for output in plain["outputs"]:
        for name in _later(FIELDS_SINCE, version):
            del output[name]


def _later(since: dict[int, frozenset[str]], version: int) -> frozenset[str]:
    return frozenset().union(*(names for number, names in since.items() if number > version))


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BundleFormatError(f"manifest.json: {otherwise}")
