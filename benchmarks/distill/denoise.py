"""`denoise`: added speckle and noise taken off recorded frames; PSNR and SSIM against the recorded frame.

The recorded frames hold speckle of their own, so a network is scored for what was added, not for what a reader would
like removed. Settings were chosen on examinations of the train split.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.distill import stored
from benchmarks.figures import Figure, judged
from edge_runtime.errors import ConfigError
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.recipe import load_recipe
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.tasks.restoration.data import read_clean
from edge_sdk.tasks.restoration.recipe import RestorationRecipe
from edge_sdk.tasks.restoration.run import run
from edge_sdk.tasks.restoration.scores import TRIVIAL, network_scores, trivial_scores
from edge_sdk.tasks.restoration.training import build_restorer, degraded_set
from edge_sdk.teachers import load_state_dict

__all__ = ["measure_denoise", "train_denoise"]

ROW = "denoise"
SEEDS = (0, 1, 2)
_ROOT = Path(__file__).resolve().parents[2]


def _recipe(seed: int = 0) -> RestorationRecipe:
    """The recipe without its export section, which is no part of the training."""
    recipe: RestorationRecipe = load_recipe(_ROOT / "examples" / "recipes" / "denoise.yaml")
    distill = msgspec.structs.replace(
        recipe.distill, optimiser=msgspec.structs.replace(recipe.distill.optimiser, seed=seed)
    )
    return msgspec.structs.replace(recipe, distill=distill, export=msgspec.UNSET)


@cache
def _data_sha256() -> str:
    folder = stored.data_root() / "segmentation" / "hc18_fetal_head"
    return stored.data_sha256([folder / "manifest.csv", *(folder / "images").iterdir()])


def train_denoise(progress: Progress = ignore_progress) -> None:
    """One teacher, students of three seeds; the records and the student of seed 0 are stored."""
    root = stored.data_root()
    for seed in SEEDS:
        recipe = _recipe(seed)
        out = _ROOT / "build" / "distill" / ROW
        report = run(recipe, base=root, out_dir=out, progress=progress)
        _, test = read_clean(recipe.data, root)
        held_out = degraded_set(test.frames, recipe.preprocess, recipe.degrade, draws=1, seed=recipe.seed + 1)
        scores = {f"{name}.{key}": v for name in ("teacher", "student") for key, v in report[name]["per_frame"].items()}
        for name, values in trivial_scores(held_out).items():
            scores.update({f"{name}.{key}": v for key, v in values.items()})
        weights = {}
        if seed == 0:
            network = build_restorer(recipe.distill.network, scale=recipe.degrade.scale)
            network.load_state_dict(load_state_dict(out / "student.pt"))
            weights["student.safetensors"] = stored.save_weights(ROW, "student", network)
        stored.save_record(
            stored.SeedRecord(
                row=ROW,
                seed=seed,
                recipe_sha256=stored.recipe_sha256(_recipe()),
                data_sha256=_data_sha256(),
                names=test.names,
                scores=scores,
                log={name: report[name]["losses"] for name in ("teacher", "student")},
                weights=weights,
            )
        )


def _check_again(records: list[stored.SeedRecord]) -> None:
    """The stored weights give the stored scores (float16: 0.02 dB)."""
    recipe, root = _recipe(), stored.data_root()
    for record in records:
        if reason := stored.check_fresh(record, stored.recipe_sha256(recipe), _data_sha256()):
            raise ConfigError(reason)
    _, test = read_clean(recipe.data, root)
    held_out = degraded_set(test.frames, recipe.preprocess, recipe.degrade, draws=1, seed=recipe.seed + 1)
    network = build_restorer(recipe.distill.network, scale=recipe.degrade.scale)
    found = network_scores(stored.load_weights(ROW, "student", network), held_out)
    worst = float(np.abs(np.asarray(found["psnr"]) - records[0].array("student.psnr")).max())
    if worst > 0.02:
        raise ConfigError(f"{ROW}: the stored weights score {worst:.3f} dB off the stored scores")


def measure_denoise() -> list[Figure]:
    """PSNR gained over the best filter that needs no training, and the student against its teacher."""
    records = stored.load_records(ROW)
    _check_again(records)
    best = max(TRIVIAL, key=lambda name: records[0].array(f"{name}.psnr").mean())
    noisy = np.stack([record.array("as it is.psnr") for record in records])
    trivial = np.stack([record.array(f"{best}.psnr") for record in records])
    student = np.stack([record.array("student.psnr") for record in records])
    teacher = np.stack([record.array("teacher.psnr") for record in records])
    like = 100 * np.stack([record.array("teacher.ssim") - record.array("student.ssim") for record in records])
    return [
        Figure(
            name="PSNR gained over the degraded frame",
            value=float((student - noisy).mean()),
            goal="none",
            unit="dB",
            n=student.size,
            met=None,
            spread=f"{noisy.mean():.2f} to {student.mean():.2f} dB; teacher {teacher.mean():.2f} dB",
        ),
        _figure(
            f"PSNR gained over the best trivial filter ({best})", student - trivial, "> 0, interval without 0", "dB"
        ),
        _figure("SSIM below the teacher, points", like, "<= 2 points", "points", most=2.0),
        _figure("PSNR below the teacher", teacher - student, "none", "dB"),
        *_cost(),
    ]


def _figure(name: str, values: Any, goal: str, unit: str, most: float | None = None) -> Figure:
    low, high = stored.paired_bootstrap(values)
    met = None if goal == "none" else low > 0 if most is None else bool(values.mean() <= most)
    seeds = ", ".join(f"{mean:+.2f}" for mean in values.mean(axis=1))
    spread = f"95 % {low:+.2f} to {high:+.2f}; seeds {seeds}"
    return Figure(name=name, value=float(values.mean()), goal=goal, unit=unit, n=values.size, met=met, spread=spread)


def _cost() -> list[Figure]:
    recipe = _recipe()
    small = build_restorer(recipe.distill.network, scale=recipe.degrade.scale)
    large = build_restorer(recipe.teacher.train.network, scale=recipe.degrade.scale)
    shape = (1, 1, 96, 144)
    ratio = count_macs(large, shape) / count_macs(small, shape)
    parameters = count_parameters(small)
    return [
        judged(
            name="multiply-adds, teacher over student",
            value=ratio,
            goal=">= 10",
            unit="x",
            n=1,
            spread=f"student {parameters} parameters",
        )
    ]
