"""From the student to a signed `.edge` file: export, lower, gate, verify, package, sign."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edge_export import ModelCard, export_torch, lower, package, torch_parity, verify_variants
from edge_runtime.bundle import Bundle, InputSpec, OutputSpec, generate_key
from edge_runtime.preprocess import Preprocessor
from edge_sdk.demo.config import DemoConfig
from edge_sdk.frames import frames_of, network_inputs, network_masks
from edge_sdk.recipe import Recipe
from edge_sdk.recipe_run import RecipeOutcome
from edge_sdk.simulate import training_frame
from edge_sdk.stages import StageResult, Stages, code_sha256

__all__ = ["BUNDLE", "make_bundle", "output_spec", "signing_key"]

BUNDLE = "demo.edge"
GOLDEN = 2


def signing_key(folder: Path) -> tuple[Path, Path]:
    """(private, public) PEM files of this demonstration's own key, made on the first run.

    It vouches for nothing but "made by this run"; a product's private key stays off such a machine.
    """
    private, public = folder / "demo-key.private.pem", folder / "demo-key.pub.pem"
    if not (private.exists() and public.exists()):
        private.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        generate_key(private, public)
    return private, public


def output_spec(outcome: RecipeOutcome, recipe: Recipe) -> OutputSpec:
    """The student's one output: mask logits at network size."""
    size = Preprocessor(recipe.preprocess).output_shape[2:]
    shape = (1, outcome.student.classes, *size)
    return OutputSpec(name="mask", shape=shape, kind="mask_logits", classes=recipe.classes)


def make_bundle(
    stages: Stages, config: DemoConfig, outcome: RecipeOutcome, private_key: Path, public_key: Path
) -> StageResult:
    """The stage that writes `demo.edge`; its result holds every figure of lowering and verification."""
    inputs = {
        "student": outcome.student_stage.sha256,
        "data": outcome.data.sha256,
        "calibration_frames": config.calibration_frames,
        "key": public_key.read_text(),
        "code": code_sha256("edge_export", "edge_runtime.bundle", "edge_runtime.preprocess", "edge_sdk.demo.bundling"),
    }
    return stages.run("bundle", inputs, lambda folder: _make(folder, config, outcome, private_key))


def _make(folder: Path, config: DemoConfig, outcome: RecipeOutcome, private_key: Path) -> dict[str, Any]:
    recipe = config.recipe
    spec = output_spec(outcome, recipe)
    held_out = outcome.data.held_out
    tensors = list(network_inputs(held_out.frames, recipe.preprocess)[:, None])
    model = export_torch(outcome.student, tensors[0].shape)
    parity = torch_parity(outcome.student, model, tensors[:4])
    models, report = lower(model, _calibration_inputs(config, outcome))
    labels = list(network_masks(held_out, recipe.preprocess, len(recipe.classes)))
    verification = verify_variants(
        models,
        inputs=tensors,
        labels=labels,
        student=lambda x: _torch_logits(outcome.student, x),
        input_spec=InputSpec(name="image", shape=tensors[0].shape),
        output_specs=(spec,),
    )
    package(
        folder / BUNDLE,
        name="demo-anechoic",
        version="1",
        models=models,
        report=report,
        output_specs=(spec,),
        preprocess=recipe.preprocess,
        golden_inputs=_golden_inputs(config),
        card=_card(outcome),
        verification=verification,
        evidence={"Training": outcome.report},
        private_key=private_key,
    )
    with Bundle.open(folder / BUNDLE) as bundle:
        identity = bundle.sha256
    return {
        "sha256": identity,
        "bytes": (folder / BUNDLE).stat().st_size,
        "torch_parity": parity,
        "lowering": report.to_dict(),
        "verification": verification.to_dict(),
        "onnx": onnx.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _torch_logits(student: torch.nn.Module, tensor: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    with torch.inference_mode():
        return student(torch.from_numpy(tensor)).numpy()


def _calibration_inputs(config: DemoConfig, outcome: RecipeOutcome) -> list[Any]:
    """Quantization calibration: simulated training frames spread over the set, and every second real frame."""
    frames = outcome.data.train.frames
    step = max(1, len(frames) // config.calibration_frames)
    chosen = list(frames[::step][: config.calibration_frames])
    for source in outcome.data.unlabelled:
        chosen += list(source.frames[::2])
    return list(network_inputs(chosen, config.recipe.preprocess)[:, None])


def _golden_inputs(config: DemoConfig) -> list[Any]:
    made = [training_frame(config.seed, k) for k in range(GOLDEN)]
    frames = frames_of(np.stack([m.image for m in made]), [m.geometry for m in made])
    return list(network_inputs(frames, config.recipe.preprocess)[:, None])


def _card(outcome: RecipeOutcome) -> ModelCard:
    real = outcome.report["trained_on_real"]
    files = "; ".join(f"{entry['source']} ({len(entry['indices'])} frames, unlabelled)" for entry in real) or "none"
    frames = outcome.report["frames"]["train"]
    return ModelCard(
        intended_use="Demonstration of the toolchain: marks anechoic regions in B-mode frames. Research use only.",
        training_data=(
            f"Simulated: {frames} B-mode frames with masks, for teacher and student. Real, for the student alone, with "
            f"the teacher's outputs as the only target: {files}."
        ),
        limits=(
            "Never compared with a person's contours on real frames. Simulated targets do not touch other structures "
            "or lie in shadow. Areas need a trusted pixel size. The signing key was made by the run itself."
        ),
    )
