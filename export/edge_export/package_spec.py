"""`edge-export package SPEC.yaml`: an ONNX file, its frames and its card to a `.edge` file, without writing Python.

The keys of the file are the fields of `PackageSpec`; unknown keys are errors, paths are relative to the file's folder.
`examples/recipes/package.yaml` shows every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import onnx

from edge_export._card import ModelCard
from edge_export._graph import main_input
from edge_export._labelled import labelled_pairs
from edge_export._lint import LintTarget, lint
from edge_export._lower import DEFAULT_TARGETS, PRECISIONS, Precision, lower
from edge_export._package import package
from edge_export._retype import QdqForm
from edge_export._tensors import Float32, network_tensors, prepared, speckle_frames
from edge_export.ranges import Method
from edge_export.verify import MAX_DROP_POINTS, VerificationReport, verify_variants
from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError
from edge_runtime.preprocess import Preprocessor
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.settings_file import read_yaml, to_struct

__all__ = [
    "FramesSection",
    "GoldenSection",
    "LoweringSection",
    "PackageSpec",
    "VerificationSection",
    "lint_file",
    "package_from_spec",
]

NOT_VERIFIED = "not verified: the file names no labelled images"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are refused."""


class FramesSection(_Section, frozen=True, kw_only=True):
    """Frames for quantization calibration: a path that `open_source` reads, every `every`-th frame, at most `count`.

    `scan_area` (x0, y0, x1, y1), pixels, half open, replaces what the file says about where the image proper lies.
    """

    path: str
    every: int = 1
    count: int = 64
    scan_area: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.count < 1:
            raise ConfigError(f"frames: every {self.every}, count {self.count}; 1 or more of each is needed")
        if self.scan_area is not None and not (
            self.scan_area[0] < self.scan_area[2] and self.scan_area[1] < self.scan_area[3]
        ):
            raise ConfigError(f"frames: scan_area is {self.scan_area}; x0 < x1 and y0 < y1 are needed")


class GoldenSection(_Section, frozen=True, kw_only=True):
    """The self-test's samples, which travel in the file.

    By default they are synthetic speckle from `seed`. With `from_frames` they are real frames: those must then be free
    to publish.
    """

    count: int = 2
    from_frames: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 8 or self.seed < 0:
            raise ConfigError(f"golden: count {self.count}, seed {self.seed}; 1 to 8 and zero or more are allowed")


class LoweringSection(_Section, frozen=True, kw_only=True):
    """The arguments of `edge_export.lower`, with its defaults."""

    precisions: tuple[Precision, ...] = PRECISIONS
    method: Method = "minmax"
    percentile: float = 99.99
    qdq_form: QdqForm = "opset17"
    exclude: tuple[str, ...] = ()
    targets: tuple[LintTarget, ...] = DEFAULT_TARGETS
    rtx: bool = True
    require_rtx: bool = False


class VerificationSection(_Section, frozen=True, kw_only=True):
    """Held-out images and masks of the same file names in two folders.

    `mask_values[k]` is the grey value of class k, background first. `max_drop_points` changes the gates (Dice
    percentage points by variant); `overrides` lets a variant pass a failed gate, with the reason that the card then
    carries.
    """

    images: str
    masks: str
    mask_values: tuple[int, ...] = (0, 255)
    max_drop_points: dict[str, float] = {}
    overrides: dict[str, str] = {}

    def __post_init__(self) -> None:
        values = self.mask_values
        if len(values) < 2 or len(set(values)) != len(values) or not all(0 <= value <= 255 for value in values):
            raise ConfigError(
                f"verification: mask_values is {list(values)}; two or more different values in 0..255 are needed"
            )


class PackageSpec(_Section, frozen=True, kw_only=True):
    """What to package. `model` is a float32 ONNX file, NCHW, batch 1, one input, one output of mask logits.

    `classes` names the output's channels (the background's too when there is more than one); `threshold` is the
    probability above which a pixel is set (one channel).
    """

    name: str
    version: str
    model: str
    classes: tuple[str, ...]
    intended_use: str
    training_data: str
    limits: str
    preprocess: PreprocessSpec
    frames: FramesSection
    threshold: float = 0.5
    golden: GoldenSection = GoldenSection()
    lowering: LoweringSection = LoweringSection()
    verification: VerificationSection | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold}; a probability between 0 and 1 is needed")


def package_from_spec(spec: Path, out: Path, key: Path | None) -> dict[str, Any]:
    """Lower, verify where labels are given, package to `out` and sign with the private `key` (PEM), as `spec` says.

    Returns `lowering` and `verification` (reports as JSON values; null without labels), `statement`, `sha256` and
    `bytes`. Raises `ConfigError` for the file or a path in it, `SourceError` for frames that are not read,
    `LoweringError` for a refused graph or a gate, and what `package` raises; nothing is written then.
    """
    settings = to_struct(read_yaml(spec, "package file"), PackageSpec, str(spec))
    base = spec.resolve().parent
    _check_paths(out, key)
    model = _read_model(base / settings.model)
    section = settings.frames
    tensors = network_tensors(
        base / section.path,
        settings.preprocess,
        every=section.every,
        count=section.count,
        scan_area=section.scan_area,
    )
    files, report = lower(model, tensors, **msgspec.structs.asdict(settings.lowering))
    contract = _contract(files["fp32"], settings)
    verification = _verify(files, settings, base, contract)
    package(
        out,
        name=settings.name,
        version=settings.version,
        models=files,
        report=report,
        output_specs=(contract[1],),
        preprocess=settings.preprocess,
        golden_inputs=_golden(settings, tensors),
        card=ModelCard(
            intended_use=settings.intended_use, training_data=settings.training_data, limits=settings.limits
        ),
        verification=verification,
        private_key=key,
    )
    with Bundle.open(out) as bundle:
        identity = bundle.sha256
    return {
        "schema": "edge-export.package/1",
        "lowering": report.to_dict(),
        "verification": None if verification is None else verification.to_dict(),
        "statement": NOT_VERIFIED if verification is None else f"verified on {verification.n_frames} labelled images",
        "sha256": identity,
        "bytes": out.stat().st_size,
        "signed": key is not None,
    }


def lint_file(model: Path, target: str) -> list[dict[str, str]]:
    """The findings of `lint` for the ONNX file `model`. Raises `ConfigError` for a file or target, `LoweringError`."""
    return [finding.to_dict() for finding in lint(_read_bytes(model), cast(LintTarget, target))]


def _check_paths(out: Path, key: Path | None) -> None:
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise ConfigError(f"{out}: a file name in a folder that exists is needed")
    if key is not None and not key.is_file():
        raise ConfigError(f"{key}: the key cannot be read; `edge-export keygen` makes a pair")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give an ONNX file") from error
    if not data:
        raise ConfigError(f"{path} is empty; give an ONNX file")
    return data


def _read_model(path: Path) -> onnx.ModelProto:
    data = _read_bytes(path)
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own type, by version
        raise LoweringError(f"{path} is not an ONNX model: {error}") from error


def _contract(model: bytes, settings: PackageSpec) -> tuple[InputSpec, OutputSpec]:
    """The input and output of the fp32 file; `ConfigError` where they do not fit the spec."""
    parsed = onnx.load_model_from_string(model)
    graph, (input_name, shape) = parsed.graph, main_input(parsed)
    if len(graph.output) != 1:
        raise ConfigError(f"the model has outputs {[item.name for item in graph.output]}; one, of logits, is packaged")
    found = _shape(graph.output[0])
    wanted = Preprocessor(settings.preprocess).output_shape
    if shape != wanted:
        raise ConfigError(f"the model takes {shape} and preprocess gives {wanted}; correct the size step")
    if len(found) != 4 or found[1] != len(settings.classes):
        raise ConfigError(
            f"output {graph.output[0].name!r} has shape {found} and classes names {len(settings.classes)} channels; "
            "(1, channels, H, W) and a name a channel are needed"
        )
    output = OutputSpec(
        name=graph.output[0].name,
        shape=found,
        kind="mask_logits",
        classes=settings.classes,
        threshold=settings.threshold,
    )
    return InputSpec(name=input_name, shape=wanted), output


def _shape(item: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)


def _verify(
    files: dict[str, bytes], settings: PackageSpec, base: Path, contract: tuple[InputSpec, OutputSpec]
) -> VerificationReport | None:
    section = settings.verification
    if section is None:
        return None
    foreground = max(1, len(settings.classes) - 1)
    if len(section.mask_values) != foreground + 1:
        raise ConfigError(
            f"verification: mask_values has {len(section.mask_values)} values; background and {foreground} classes "
            f"need {foreground + 1}"
        )
    inputs, labels = labelled_pairs(
        base / section.images, base / section.masks, section.mask_values, settings.preprocess
    )
    return verify_variants(
        files,
        inputs=inputs,
        labels=labels,
        student=files["fp32"],
        input_spec=contract[0],
        output_specs=(contract[1],),
        max_drop_points={**MAX_DROP_POINTS, **section.max_drop_points},
        overrides=section.overrides,
    )


def _golden(settings: PackageSpec, tensors: list[Float32]) -> list[Float32]:
    count = settings.golden.count
    if not settings.golden.from_frames:
        return prepared(speckle_frames(settings.golden.seed, count), settings.preprocess)
    if len(tensors) < count:
        raise ConfigError(f"golden: {count} samples from {len(tensors)} frames; take fewer, or give more frames")
    return tensors[:: len(tensors) // count][:count]
