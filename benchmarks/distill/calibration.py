"""Calibration of fetal-head students near the boundary, and what withholding uncertain pixels and frames is worth.

The band is measured where the truth was drawn: within 10 pixels of the mask's boundary in the image file's own pixels
(800 x 540; three pixels of the network's grid), on logits enlarged as the device enlarges them. On the network's
own grid ten pixels reach far into the head and are mostly easy; that reading stands beside in the detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.distill.calibration_train import SETTINGS, heads_set, labels_student, told_student, train_students
from benchmarks.distill.cases import HC18, larger
from benchmarks.distill.segmentation import WORK, Images, logits_of, network, settings, train
from benchmarks.distill.stored import (
    STORED,
    SeedRecord,
    check_fresh,
    load_records,
    load_weights,
    recipe_sha256,
    save_record,
    save_weights,
)
from benchmarks.figures import Figure
from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError
from edge_runtime.metrics.segmentation import dice
from edge_runtime.postprocess.masks import CERTAIN
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.uncertainty import (
    CalibrationReport,
    boundary_band,
    calibration_report,
    dice_risk,
    falls_monotonically,
    fit_temperature,
    frame_uncertainty,
    risk_coverage,
    scaled_probabilities,
    spearman,
)

__all__ = ["Answers", "answers", "boundary_items", "evaluate", "measure_calibration", "train_calibration"]

ROW = "calibration"
RADIUS_PX = 10.0
_SEEDS = (0, 1, 2)
_NEW = {"told": told_student, "labels": labels_student}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Of N frames: `logits` (N, 1, h, w) float32; `spread` (N, h, w) float32 in [0, 1] where the student tells it."""

    logits: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32] | None


def answers(module: nn.Module, images: Images) -> Answers:
    """What `module` says about every image, in one pass each."""
    logits, spread = [], []
    with torch.inference_mode():
        for frames in torch.split(heads_set(images).inputs, 8):
            found = module(frames)
            told = isinstance(found, Mapping)
            logits.append((found["mask"] if told else found).float().numpy())
            if told:
                spread.append(found["uncertainty"][:, 0].float().numpy())
    return Answers(logits=np.concatenate(logits), spread=np.concatenate(spread) if spread else None)


def boundary_items(
    logits: npt.NDArray[np.float32], images: Images
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits (M, 1) and labels (M,) of the pixels of the image files within `RADIUS_PX` of the true boundary."""
    rows, labels = [], []
    for k, plane in enumerate(logits[:, 0]):
        truth = images.labelled.masks[k]
        band = boundary_band(truth[None], RADIUS_PX)[0]
        rows.append(larger(plane, truth.shape)[band])
        labels.append(truth[band].astype(np.int64))
    return np.concatenate(rows)[:, None], np.concatenate(labels)


def evaluate(module: nn.Module, held: Images, test: Images) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Numbers over the test split, the temperature being fitted on `held`, and per-image scores."""
    found, known = answers(module, test), answers(module, held)
    fit = fit_temperature(*boundary_items(known.logits, held))
    rows, labels = boundary_items(found.logits, test)
    own_grid = heads_set(test).target("mask").numpy()
    near = boundary_band(own_grid, RADIUS_PX)
    scores = _frame_scores(found, test, fit.temperature)
    numbers: dict[str, Any] = {
        "fit": {"temperature": fit.temperature, "nll_before": fit.nll_before, "nll_after": fit.nll_after, "n": fit.n},
        "before": calibration_report(rows, labels).numbers(),
        "after": calibration_report(rows, labels, temperature=fit.temperature).numbers(),
        "network_grid_before": calibration_report(found.logits, own_grid, where=near).numbers(),
        "network_grid_after": calibration_report(
            found.logits, own_grid, where=near, temperature=fit.temperature
        ).numbers(),
    }
    loss = 1 - np.asarray(scores["dice"])
    for name, plane in _planes(found, fit.temperature).items():
        numbers[name] = _withholding(plane, found.logits[:, 0] > 0, own_grid > 0) | {
            "frames": _curve(np.asarray(scores[name]), loss),
            "spearman": spearman(np.asarray(scores[name]), loss),
            "spearman_device": spearman(np.asarray(scores[f"{name}_device"]), loss),
        }
    return numbers, scores


def _planes(found: Answers, temperature: float) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """(N, h, w) uncertainties by name: the entropy of the scaled mask, and the spread that the student tells."""
    p = scaled_probabilities(found.logits, temperature)[:, 0].astype(np.float64)
    inner = np.clip(p, 1e-12, 1 - 1e-12)
    own = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner))
    return {"entropy": own} if found.spread is None else {"entropy": own, "spread": found.spread}


def _frame_scores(found: Answers, test: Images, temperature: float) -> dict[str, list[float]]:
    masks = test.labelled.masks
    pairs = zip(found.logits[:, 0], masks, strict=True)
    scores = {"dice": [dice(larger(plane, truth.shape) > 0, truth) for plane, truth in pairs]}
    p = scaled_probabilities(found.logits, temperature)[:, 0]
    for name, plane in _planes(found, temperature).items():
        scores[name] = frame_uncertainty(plane, found.logits[:, 0] > 0).tolist()
        # the number that the runtime puts on a frame: the mean over the pixels that may be inside
        scores[f"{name}_device"] = [
            float(u[q > CERTAIN].mean()) if (q > CERTAIN).any() else 0.0 for u, q in zip(plane, p, strict=True)
        ]
    return scores


def _curve(uncertainty: npt.NDArray[Any], loss: npt.NDArray[Any]) -> dict[str, Any]:
    curve = risk_coverage(uncertainty, loss)
    return {
        "coverage": list(curve.coverage),
        "risk": list(curve.risk),
        "aurc": curve.aurc,
        "gain": curve.gain,
        "monotone": falls_monotonically(curve.risk),
    }


def _withholding(
    plane: npt.NDArray[np.floating[Any]], predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Error rate, and 1 - Dice, of the pixels that are kept, over all test frames on the network's grid."""
    pixels = _curve(plane.ravel(), (predicted != truth).ravel())
    limits = [np.quantile(plane, share) for share in pixels["coverage"]]
    risks = [dice_risk(predicted, truth, plane <= limit) for limit in limits]
    return {"pixels": pixels, "pixels_dice_risk": risks, "pixels_dice_monotone": falls_monotonically(risks)}


@cache
def _recipe() -> str:
    return recipe_sha256(ROW, SETTINGS)


def train_calibration(progress: Progress = ignore_progress) -> None:
    """Train teachers and students, evaluate them and store the records; resumable."""
    fit_part, held = HC18.read("train").halves()
    test = HC18.read("test")
    for seed, students, log in train_students(fit_part, _SEEDS, work=WORK / ROW, progress=progress):
        scores: dict[str, list[float]] = {}
        weights = {}
        for name, module in students.items():
            if seed == 0:
                weights[f"{name}.safetensors"] = save_weights(ROW, name, module)
            numbers, found = evaluate(module.eval(), held, test)
            log[name]["numbers"] = numbers
            scores.update({f"{name}.{key}": values for key, values in found.items()})
        save_record(
            SeedRecord(
                row=ROW,
                seed=seed,
                recipe_sha256=_recipe(),
                data_sha256=HC18.sha256(),
                names=test.names,
                scores=scores,
                settings=msgspec.to_builtins(SETTINGS),
                log=log,
                weights=weights,
            )
        )


def _records() -> list[SeedRecord]:
    records = load_records(ROW)
    for record in records:
        reason = check_fresh(record, _recipe(), HC18.sha256())
        if reason:
            raise ConfigError(reason)
    return records


def measure_calibration() -> list[Figure]:
    """Seed 0 from its stored weights, measured again; the other seeds as stored."""
    records = _records()
    _, held = HC18.read("train").halves()
    test = HC18.read("test")
    figures = []
    seeds: dict[str, list[dict[str, Any]]] = {}
    for name, new in _NEW.items():
        numbers, _ = evaluate(load_weights(ROW, name, new()), held, test)
        stored = records[0].log[name]["numbers"]
        off = abs(numbers["after"]["ece"] - stored["after"]["ece"])
        if off > 0.005:
            raise ConfigError(f"{ROW}: the stored weights of {name} give an ECE {off:.4f} off the stored one")
        seeds[name] = [numbers, *(record.log[name]["numbers"] for record in records[1:])]
        figures.append(_ece_figure(name, seeds[name], len(test.names)))
    told = seeds["told"]
    figures += [_risk_figure(told, what, len(test.names)) for what in ("pixels", "frames")]
    figures += [_spearman_figure(told, what, len(test.names)) for what in ("spread", "entropy")]
    return figures + _hc18_figure(test)


def _ece_figure(name: str, seeds: list[dict[str, Any]], frames: int) -> Figure:
    before = [one["before"]["ece"] for one in seeds]
    after = [one["after"]["ece"] for one in seeds]
    temperatures = ", ".join(f"{one['fit']['temperature']:.2f}" for one in seeds)
    label = {"told": "distilled student", "labels": "student from labels alone"}[name]
    return Figure(
        name=f"{label}, ECE within {RADIUS_PX:g} px of the boundary, scaled",
        value=float(np.mean(after)),
        goal="<= 0.05 and at most half of the raw one",
        unit="",
        n=len(seeds) * frames,
        met=max(after) <= 0.05 and all(a <= b / 2 for a, b in zip(after, before, strict=True)),
        spread=f"raw {_join(before)}; scaled {_join(after)}; temperature {temperatures}",
        detail={
            key: [one[key] for one in seeds]
            for key in ("fit", "before", "after", "network_grid_before", "network_grid_after")
        },
    )


def _join(values: list[float], form: str = ".3f") -> str:
    return ", ".join(format(value, form) for value in values)


def _risk_figure(seeds: list[dict[str, Any]], what: str, frames: int) -> Figure:
    curves = [one["spread"][what] for one in seeds]
    falls = [bool(curve["monotone"]) for curve in curves]
    detail: dict[str, object] = {"spread": curves, "entropy": [one["entropy"][what] for one in seeds]}
    mean = np.mean([curve["risk"] for curve in curves], axis=0).tolist()
    spread = f"kept {_join(curves[0]['coverage'], 'g')}: {_join(mean, '.4f')}"
    if what == "pixels":
        # of pixels the risk is the error rate: the Dice of what is kept means nothing once the head itself is withheld
        detail["dice_risk"] = [one["spread"]["pixels_dice_risk"] for one in seeds]
        also = sum(one["spread"]["pixels_dice_monotone"] for one in seeds)
        spread += f"; 1 - Dice of the pixels kept falls in {also} of {len(seeds)} seeds"
    loss = "error rate" if what == "pixels" else "1 - Dice"
    return Figure(
        name=f"{loss} falls monotonically as uncertain {what} are withheld",
        value=all(falls),
        goal="in every seed",
        unit="",
        n=len(seeds) * frames,
        met=all(falls),
        spread=spread,
        detail=detail,
    )


def _spearman_figure(seeds: list[dict[str, Any]], what: str, frames: int) -> Figure:
    values = [one[what]["spearman"] for one in seeds]
    label = {"spread": "spread told in the one pass", "entropy": "entropy of the scaled mask"}[what]
    return Figure(
        name=f"rank correlation of a frame's {label} with 1 - Dice",
        value=float(np.mean(values)),
        goal="none",
        unit="",
        n=len(seeds) * frames,
        met=None,
        spread=f"seeds {_join(values)}; by the device's mean {_join([one[what]['spearman_device'] for one in seeds])}",
    )


def _temperature_path() -> Any:
    return STORED / HC18.name / "temperature.json"


def store_hc18_temperature() -> float:
    """Fit the temperature of the `hc18` student's recipe and store it beside its weights.

    That student learned from the whole train split, so nothing is left to fit it on: the temperature comes from the
    run of the same settings that left a quarter of the examinations out (`segmentation hc18 student 0 choose`).
    """
    module = network(HC18, "student")
    path = train(HC18, "student", 0, choosing=True)
    module.load_state_dict(torch.load(path, weights_only=True))
    _, held = HC18.read("train").halves()
    fit = fit_temperature(*boundary_items(logits_of(module.eval(), HC18, held), held))
    facts = {"student": fit.temperature, "n": fit.n, "recipe_sha256": settings(HC18, "student")}
    write_bytes(_temperature_path(), msgspec.json.encode(facts) + b"\n")
    return fit.temperature


def _hc18_figure(test: Images) -> list[Figure]:
    """The `hc18` row's own student, where its weights and a temperature are stored."""
    path = _temperature_path()
    if not path.is_file():
        return []
    facts = msgspec.json.decode(path.read_bytes())
    if facts["recipe_sha256"] != settings(HC18, "student"):
        raise ConfigError(f"stale: {path.name} of {HC18.name} was fitted with other settings; store it again")
    module = load_weights(HC18.name, "student", network(HC18, "student"))
    rows, labels = boundary_items(logits_of(module, HC18, test), test)
    before: CalibrationReport = calibration_report(rows, labels)
    after = calibration_report(rows, labels, temperature=facts["student"])
    return [
        Figure(
            name=f"the hc18 row's student, ECE within {RADIUS_PX:g} px of the boundary, scaled",
            value=after.ece,
            goal="<= 0.05 and at most half of the raw one",
            unit="",
            n=len(test.names),
            met=after.ece <= 0.05 and after.ece <= before.ece / 2,
            spread=f"raw {before.ece:.3f}; temperature {facts['student']:.2f} of a run that left exams out",
            detail={"before": before.numbers(), "after": after.numbers()},
        )
    ]


if __name__ == "__main__":
    print(store_hc18_temperature())
