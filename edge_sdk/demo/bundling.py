"""The demonstration's signed `.edge` file, by the road of every recipe, and the key that signs it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.bundle import generate_key
from edge_sdk.demo.config import DemoConfig
from edge_sdk.lowering import make_edge
from edge_sdk.recipe import effective_yaml
from edge_sdk.recipe_export import CalibrationFrames, CardSection, ExportSection
from edge_sdk.recipe_run import RecipeOutcome, product
from edge_sdk.stages import StageResult, Stages

__all__ = ["BUNDLE", "make_bundle", "signing_key"]

NAME = "demo"
BUNDLE = f"{NAME}.edge"


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


def make_bundle(stages: Stages, config: DemoConfig, outcome: RecipeOutcome, private_key: Path) -> StageResult:
    """The stage that writes `demo.edge`; its result holds every figure of lowering and verification."""
    section = ExportSection(
        card=_card(outcome),
        version="1",
        precisions=("fp32", "fp16", "int8", "int8-cpu"),
        calibration=CalibrationFrames(count=config.calibration_frames, choice="kmeans"),
    )
    made = msgspec.structs.replace(config.recipe, name=NAME)
    return make_edge(
        stages,
        product(made, outcome, section, base=Path.cwd()),
        section,
        recipe=effective_yaml(config.recipe).encode(),
        key=private_key,
    )


def _card(outcome: RecipeOutcome) -> CardSection:
    real = outcome.report["trained_on_real"]
    files = "; ".join(f"{entry['source']} ({len(entry['indices'])} frames, unlabelled)" for entry in real) or "none"
    frames = outcome.report["frames"]["train"]
    return CardSection(
        intended_use="Demonstration of the toolchain: marks anechoic regions in B-mode frames. Research use only.",
        training_data=(
            f"Simulated: {frames} B-mode frames with masks, for teacher and student. Real, for the student alone, with "
            f"the teacher's outputs as the only target: {files}."
        ),
        limits=(
            "Never compared with a person's contours on real frames. Simulated targets do not touch other structures "
            "or lie in shadow. Areas need a trusted pixel size. The signing key was made by the run itself."
        ),
        held_out="simulated frames of another seed",
    )
