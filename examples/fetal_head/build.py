"""Build fetal_head.edge from the stored student: lower, verify on the test split, package, sign.

    POCUS_DATA=... python examples/fetal_head/build.py --key private.pem

The student was distilled on the train split alone (`python -m benchmarks.distill --fresh --only hc18_student`). What is
made of it, its gates and its card are the `export:` section of examples/recipes/hc18.yaml, and the road is that of
`edge-sdk distill`. Golden samples are simulated frames and the evidence holds numbers only, so no image of the data set
is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from benchmarks.distill.calibration import RADIUS_PX, boundary_items
from benchmarks.distill.cases import HC18
from benchmarks.distill.segmentation import logits_of, network, settings
from benchmarks.distill.stored import STORED, SeedRecord, data_root, load_records, load_weights
from edge_runtime.atomic import write_bytes
from edge_runtime.bundle import OutputSpec
from edge_sdk.frames import network_inputs, network_masks
from edge_sdk.lowering import Product, file_origin, make_edge
from edge_sdk.recipe import effective_yaml, load_recipe
from edge_sdk.stages import Stages
from edge_sdk.uncertainty import calibration_report, manifest_calibration

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "hc18.yaml"
WEIGHTS = STORED / HC18.name


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
    facts = json.loads((WEIGHTS / "temperature.json").read_text(encoding="utf-8"))
    if facts["recipe_sha256"] != settings(HC18, "student"):
        raise SystemExit("the stored temperature was fitted with other settings; run store_hc18_temperature()")
    return float(facts["student"])


def product(recipe: Any) -> Product:
    """The stored student with its fitted temperature, the frames that it learned from and the test split."""
    student = load_weights(HC18.name, "student", network(HC18, "student"))
    train, test = HC18.read("train"), HC18.read("test")
    temperature = stored_temperature()
    rows, truth = boundary_items(logits_of(student, HC18, test), test)
    held_out = network_inputs(test.labelled.frames, HC18.spec)
    return Product(
        name=recipe.name,
        student=student,
        state=WEIGHTS / "student.safetensors",
        output=OutputSpec(
            name="mask",
            shape=(1, 1, *held_out.shape[2:]),
            kind="mask_logits",
            classes=recipe.classes,
            threshold=recipe.export.threshold,
            temperature=temperature,
            calibration=manifest_calibration(
                calibration_report(rows, truth),
                calibration_report(rows, truth, temperature=temperature),
                over=f"pixels of the image files within {RADIUS_PX:g} px of the true boundary, test split",
            ),
        ),
        preprocess=HC18.spec,
        trained_on=network_inputs(train.labelled.frames, HC18.spec),
        held_out=held_out,
        labels=network_masks(test.labelled, HC18.spec, len(recipe.classes)),
        origins=[
            file_origin("data", data_root() / recipe.data.manifest, "cc-by-4.0"),
            file_origin("teacher", WEIGHTS / "member.safetensors"),  # one of three
        ],
        report={"HC18 test split, all seeds": numbers(load_records(HC18.name))},
        groups=train.groups,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--key", type=Path, help="private key (PEM) to sign with; `edge-export keygen` makes one")
    parser.add_argument("--out", type=Path, default=HERE / "fetal_head.edge")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        text = effective_yaml(recipe).encode()
        made = make_edge(Stages(Path(folder)), product(recipe), recipe.export, recipe=text, key=options.key)
        write_bytes(options.out, (made.folder / f"{recipe.name}.edge").read_bytes())
    found = made.record.result["verification"]
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, student's Dice {found['student_dice']:.4f}")
    for score in found["scores"]:
        print(f"  {score['variant']} on {score['runner']}: loses {score['drop_points']:.3f} points")


if __name__ == "__main__":
    main()
