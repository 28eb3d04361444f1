"""Build fetal_head.edge from the stored student: lower, verify on the test split, package, sign.

    POCUS_DATA=... python examples/fetal_head/build.py --key private.pem

The student was distilled on the train split alone (`python -m benchmarks.distill --fresh --only hc18_student`). Golden
samples are simulated frames and the evidence holds numbers only, so no image of the data set is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from benchmarks.distill.calibration import RADIUS_PX, boundary_items
from benchmarks.distill.cases import HC18
from benchmarks.distill.segmentation import logits_of, network, settings
from benchmarks.distill.stored import STORED, SeedRecord, load_records, load_weights
from edge_export import ModelCard, export_torch, lower, package, torch_parity, verify_variants
from edge_runtime.bundle import InputSpec, OutputSpec
from edge_sdk.frames import frames_of, network_inputs, network_masks
from edge_sdk.simulate import training_frame
from edge_sdk.uncertainty import calibration_report, manifest_calibration

HERE = Path(__file__).parent
CARD = ModelCard(
    intended_use="Research: outlines the fetal head in a standard-plane B-mode frame, to measure its circumference.",
    training_data=(
        "161 images of the HC18 training set (T. L. A. van den Heuvel, D. de Bruijn, C. L. de Korte, B. van Ginneken, "
        "'Automated measurement of fetal head circumference using 2D ultrasound images', Zenodo record 1327317, "
        "doi:10.5281/zenodo.1327317, CC BY 4.0; a subset of its images, split by examination, masks as filled by the "
        "public repository safwankdb/Automated-measurement-of-Fetal-head-circumference). Changes made: resized to 240 "
        "x 160 and augmented for training. Teacher: three U-Nets on the same images. Scores are of 55 other images; "
        "the set does not say which examinations belong to one woman, so a woman may be on both sides."
    ),
    limits=(
        "Two GE Voluson machines of one hospital; no handheld probe was seen in training. The whole image is squeezed "
        "to 240 x 160. Needs a trusted pixel size for millimetres. Masks lie 1.36 pixels of an 800 x 540 image outside "
        "the line on which the published circumference was measured."
    ),
)


def numbers(records: list[SeedRecord]) -> dict[str, Any]:
    """Mean scores of every seed; no image and no file name."""
    found: dict[str, Any] = {"images": len(records[0].names), "seeds": [record.seed for record in records]}
    for name in sorted(records[0].scores):
        values = np.array([record.array(name) for record in records])
        found[name] = {
            "mean_by_seed": values.mean(axis=1).round(5).tolist(),
            "mean_absolute_by_seed": np.abs(values).mean(axis=1).round(5).tolist(),
        }
    return found


def stored_temperature() -> float:
    """The temperature of the student's settings, fitted on examinations that a run of them left out."""
    facts = json.loads((STORED / HC18.name / "temperature.json").read_text(encoding="utf-8"))
    if facts["recipe_sha256"] != settings(HC18, "student"):
        raise SystemExit("the stored temperature was fitted with other settings; run store_hc18_temperature()")
    return float(facts["student"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--key", type=Path, help="private key (PEM) to sign with; `edge-export keygen` makes one")
    parser.add_argument("--out", type=Path, default=HERE / "fetal_head.edge")
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = load_weights(HC18.name, "student", network(HC18, "student"))
    train, test = HC18.read("train"), HC18.read("test")
    inputs = list(network_inputs(test.labelled.frames, HC18.spec)[:, None])
    model = export_torch(student, inputs[0].shape)
    calibration = network_inputs(train.labelled.frames, HC18.spec)[::2, None]
    models, report = lower(model, list(calibration))
    temperature = stored_temperature()
    rows, truth = boundary_items(logits_of(student, HC18, test), test)
    output = OutputSpec(
        name="mask",
        shape=(1, 1, *inputs[0].shape[2:]),
        kind="mask_logits",
        classes=("head",),
        temperature=temperature,
        calibration=manifest_calibration(
            calibration_report(rows, truth),
            calibration_report(rows, truth, temperature=temperature),
            over=f"pixels of the image files within {RADIUS_PX:g} px of the true boundary, test split",
        ),
    )

    def logits(tensor: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
        with torch.inference_mode():
            return student(torch.from_numpy(tensor)).numpy()

    verification = verify_variants(
        models,
        inputs=inputs,
        labels=list(network_masks(test.labelled, HC18.spec, 1)),
        student=logits,
        input_spec=InputSpec(name="image", shape=inputs[0].shape),
        output_specs=(output,),
    )
    made = [training_frame(7, k) for k in range(2)]
    frames = frames_of(np.stack([m.image for m in made]), [m.geometry for m in made])
    package(
        options.out,
        name="fetal-head",
        version="1.0.0",
        models=models,
        report=report,
        output_specs=(output,),
        preprocess=HC18.spec,
        golden_inputs=list(network_inputs(frames, HC18.spec)[:, None]),
        card=CARD,
        verification=verification,
        evidence={
            "HC18 test split, all seeds": numbers(load_records(HC18.name)),
            "ONNX against torch": torch_parity(student, model, inputs[:4]),
        },
        private_key=options.key,
    )
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, student's Dice {verification.student_dice:.4f}")


if __name__ == "__main__":
    main()
