"""Row `label_free_gain`: the fetal-head student on a device it never saw, and what unlabelled frames win back.

The stored student and one stored member of its teacher are taken as they are. Three devices (seeds) of the held-out
shift of `benchmarks.distill.shift` are played: the train frames, shifted and without their masks, adapt the student;
the shifted test frames score it. The severity is the first of `SEVERITIES` at which the student loses `FALL` of mean
Dice on shifted *train* frames; the test split chooses nothing. `python -m benchmarks.distill.adapt choose` compares
ways of adapting on a held-out part of the train split, with networks that were trained without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.distill.cases import HC18, larger
from benchmarks.distill.segmentation import WORK, HalfPrecision, Images, logits_of, network, settings
from benchmarks.distill.shift import DeviceShift, shift_frame, shift_mask
from benchmarks.distill.stored import (
    SeedRecord,
    check_fresh,
    load_records,
    load_weights,
    paired_bootstrap,
    recipe_sha256,
    save_record,
    save_weights,
)
from benchmarks.figures import Figure
from edge_runtime.errors import ConfigError
from edge_runtime.metrics.segmentation import dice
from edge_sdk.adapt import AdaptConfig, adapt_student, reestimate_batchnorm
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.frames import LabelledFrames, grey_scale, network_inputs
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.teachers import Teacher, load_state_dict, teacher_from_module

__all__ = ["CONFIG", "FALL", "SEVERITIES", "measure_label_free_gain", "play", "train_label_free_gain"]

ROW = "label_free_gain"
SEVERITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
FALL = 0.08
SEEDS = range(3)
CONFIG = AdaptConfig(
    rounds=1,
    optimiser=OptimiserConfig(
        epochs=12,
        batch_size=16,
        learning_rate=1e-3,
        schedule="cosine",
        warmup=0.05,
        ema_decay=0.98,
        precision="bf16-mixed",
        threads=1,
    ),
    augment=AugmentConfig(flip=0.5, min_scale=0.7, max_scale=1.25, rotate=20, gain=0.3, gamma=0.4, noise=0.03),
    threshold=0.7,
)

Scores = dict[str, list[float]]


def _recipe() -> str:
    """Settings of this row and of the networks it starts from."""
    return recipe_sha256(settings(HC18), DeviceShift(), SEVERITIES, FALL, CONFIG)


def _device(seed: int, severity: float) -> DeviceShift:
    return DeviceShift(seed=7 + seed, severity=severity)


def _shifted(images: Images, shift: DeviceShift) -> Images:
    frames, masks = images.labelled.frames, images.labelled.masks
    return replace(
        images,
        labelled=LabelledFrames(
            frames=[
                replace(f, image=shift_frame(f.image, shift, n)) for f, n in zip(frames, images.names, strict=True)
            ],
            masks=[shift_mask(m, shift, n) for m, n in zip(masks, images.names, strict=True)],
        ),
    )


def _dice(module: Callable[[Tensor], Tensor], images: Images) -> list[float]:
    """Dice per image in the file's own pixels; millimetres mean nothing here, the shift changes the scale."""
    planes = logits_of(module, HC18, images)[:, 0]
    return [dice(larger(p, m.shape) > 0, m > 0) for p, m in zip(planes, images.labelled.masks, strict=True)]


def _severity(student: nn.Module, train: Images, seed: int) -> float:
    """The first severity at which the student loses `FALL` of mean Dice on the train frames."""
    clean = float(np.mean(_dice(student, train)))
    for severity in SEVERITIES:
        if clean - float(np.mean(_dice(student, _shifted(train, _device(seed, severity))))) >= FALL:
            return severity
    raise ConfigError(
        f"the student loses less than {FALL} of Dice even at severity {SEVERITIES[-1]}; extend SEVERITIES"
    )


def play(
    student: nn.Module,
    teacher: nn.Module,
    train: Images,
    scored: Images,
    seed: int,
    progress: Progress = ignore_progress,
) -> tuple[nn.Module, Scores, dict[str, object]]:
    """One device: the adapted student, Dice per image of `scored`, and a log.

    `student` and `teacher` are networks of `HC18`; `teacher` is changed (it gets the device's statistics). The masks
    of `train` choose the severity and are not used after that.
    """
    began = time.process_time()
    severity = _severity(student, train, seed)
    shift = _device(seed, severity)
    inputs = torch.from_numpy(network_inputs(_shifted(train, shift).labelled.frames, HC18.spec))
    target = _shifted(scored, shift)
    scores = {"student.clean": _dice(student, scored), "student.shifted": _dice(student, target)}
    scores["teacher.shifted"] = _dice(HalfPrecision(teacher), target)
    reestimate_batchnorm(teacher, inputs, passes=1)
    scores["teacher_statistics.shifted"] = _dice(HalfPrecision(teacher), target)
    common = {"scale": grey_scale(HC18.spec), "progress": progress}
    config = msgspec.structs.replace(CONFIG, optimiser=msgspec.structs.replace(CONFIG.optimiser, seed=seed))
    alone = msgspec.structs.replace(config, rounds=0)
    scores["statistics.shifted"] = _dice(adapt_student(student, None, inputs, config=alone).network, target)
    adapted = adapt_student(student, _answering(teacher), inputs, config=config, **common)  # type: ignore[arg-type]
    scores["adapted.shifted"] = _dice(adapted.network, target)
    log: dict[str, object] = {
        "severity": severity,
        "losses": [report.losses for report in adapted.rounds],
        "cpu_s": round(time.process_time() - began, 1),
    }
    return adapted.network, scores, log


def _answering(teacher: nn.Module) -> Teacher:
    return teacher_from_module(HalfPrecision(teacher), classes=1, name="hc18 member on the new device")


def _stored() -> tuple[nn.Module, nn.Module]:
    """The stored student and the stored member of its teacher."""
    student = load_weights("hc18", "student", network(HC18, "student"))
    return student, load_weights("hc18", "member", network(HC18, "teacher"))


def train_label_free_gain(progress: Progress = ignore_progress) -> None:
    """Adapt the stored student to three devices and store scores and the first network; minutes."""
    torch.set_num_threads(1)
    train, test = HC18.read("train"), HC18.read("test")
    for seed in SEEDS:
        student, teacher = _stored()
        adapted, scores, log = play(student, teacher, train, test, seed, progress)
        weights = {"adapted.safetensors": save_weights(ROW, "adapted", adapted)} if seed == 0 else {}
        save_record(
            SeedRecord(
                row=ROW,
                seed=seed,
                recipe_sha256=_recipe(),
                data_sha256=HC18.sha256(),
                names=test.names,
                scores=scores,
                settings={"config": msgspec.to_builtins(CONFIG), "device": msgspec.to_builtins(_device(seed, 1.0))},
                log=log,
                weights=weights,
            )
        )


def _check_weights(record: SeedRecord) -> None:
    """The stored networks must give the stored scores on the test split; float16 may turn a pixel at the border."""
    severity = record.log["severity"]
    target = _shifted(HC18.read("test"), _device(record.seed, float(severity)))
    for row, name in ((ROW, "adapted"), ("hc18", "student")):
        found = np.asarray(_dice(load_weights(row, name, network(HC18, "student")), target))
        worst = float(np.abs(found - record.array(f"{name}.shifted")).max())
        if worst > 0.01:
            raise ConfigError(f"{ROW}: the stored weights of {name} score up to {worst:.4f} Dice off the stored scores")


def _share_interval(lost: npt.NDArray[np.float64], won: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of sum(won) / sum(lost) over seeds x images."""
    rng, shares = np.random.default_rng(0), np.empty(4000)
    for k in range(len(shares)):
        rows = rng.integers(0, len(lost), len(lost))
        columns = rng.integers(0, lost.shape[1], lost.shape[1])
        picked = np.ix_(rows, columns)
        shares[k] = won[picked].sum() / lost[picked].sum()
    low, high = np.percentile(shares, (2.5, 97.5))
    return float(low), float(high)


def measure_label_free_gain() -> list[Figure]:
    """Share of the lost Dice that comes back, and the points it is, over test images x devices."""
    records = load_records(ROW)
    for record in records:
        if reason := check_fresh(record, _recipe(), HC18.sha256()):
            raise ConfigError(reason)
    _check_weights(records[0])

    def points(name: str) -> npt.NDArray[np.float64]:
        return 100 * np.stack([record.array(name) for record in records])

    clean, shifted, adapted = (points(n) for n in ("student.clean", "student.shifted", "adapted.shifted"))
    lost, won = clean - shifted, adapted - shifted
    low, high = paired_bootstrap(won)
    s_low, s_high = _share_interval(lost, won)
    share = float(won.sum() / lost.sum())
    detail: dict[str, object] = {name: float(points(name).mean()) for name in records[0].scores}
    detail["severity"] = [record.log["severity"] for record in records]
    return [
        Figure(
            name="lost Dice won back without labels",
            value=share,
            goal=">= 0.5, gain's interval excludes 0",
            unit="",
            n=won.size,
            met=bool(share >= 0.5 and low > 0),
            spread=f"95 % {s_low:.2f} to {s_high:.2f}; devices "
            + ", ".join(f"{w / g:.2f}" for w, g in zip(won.sum(1), lost.sum(1), strict=True)),
            detail=detail,
        ),
        Figure(
            name="gain over the unadapted student",
            value=float(won.mean()),
            goal="interval excludes 0",
            unit="points",
            n=won.size,
            met=bool(low > 0),
            spread=f"95 % {low:.2f} to {high:.2f}; clean {clean.mean():.2f}, shifted {shifted.mean():.2f}",
        ),
    ]


def _chosen(name: str) -> nn.Module:
    """A network that was trained without the held-out part of the train split."""
    path = WORK / "hc18-choose" / f"{name}_0-{settings(HC18, name)[:8]}.pt"
    module = network(HC18, name)
    module.load_state_dict(load_state_dict(path))
    return module.eval()


def _choose() -> None:
    """Compare on a held-out part of the train split; needs `segmentation hc18 teacher|student 0 choose` before."""
    torch.set_num_threads(1)
    train, held = HC18.read("train").halves()
    for seed in SEEDS:
        student, teacher = _chosen("student"), _chosen("teacher")
        _, scores, log = play(student, teacher, train, held, seed)
        print(seed, log["severity"], log["cpu_s"], {k: round(100 * float(np.mean(v)), 2) for k, v in scores.items()})


if __name__ == "__main__":
    if sys.argv[1:] != ["choose"]:
        raise SystemExit("usage: python -m benchmarks.distill.adapt choose")
    _choose()
