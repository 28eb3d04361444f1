"""Trainings behind the HC18 rows: a teacher ensemble, and students of three seeds. Hours, resumable.

`python -m benchmarks.distill.hc18_train teacher 0` trains one network; `--fresh` of the table trains all of them in
turn. Every setting was chosen on examinations held out of the train split (`Heads.halves`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.distill.hc18_data import SPEC, Heads
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig, TeacherConfig
from edge_sdk.frames import grey_scale, network_inputs, network_masks
from edge_sdk.losses import dice_ce
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students import UNet, build_network
from edge_sdk.train import fit

__all__ = ["AUGMENT", "MEMBERS", "TEACHER", "ensemble_logits", "frames_of", "network_logits", "train_teacher_member"]

MEMBERS = 3
AUGMENT = AugmentConfig(
    flip=0.5, min_scale=0.7, max_scale=1.25, rotate=25, stretch=0.08, gain=0.3, gamma=0.4, noise=0.03
)
TEACHER = TeacherConfig(
    network=NetworkConfig(width=16, depth=5, max_width=256),
    optimiser=OptimiserConfig(
        epochs=140,
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=1e-3,
        schedule="cosine",
        warmup=0.05,
        ema_decay=0.99,
        precision="bf16-mixed",
        threads=1,
    ),
    augment=AUGMENT,
)


def frames_of(heads: Heads) -> TrainingSet:
    """The heads at network size with their masks."""
    return TrainingSet(
        inputs=torch.from_numpy(network_inputs(heads.labelled.frames, SPEC)),
        labelled=torch.ones(len(heads.names), dtype=torch.bool),
        targets={"mask": Field(values=torch.from_numpy(network_masks(heads.labelled, SPEC, 1)), kind="labels")},
        scale=grey_scale(SPEC),
    )


def task_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Dice and cross-entropy with the truth."""
    return dice_ce(logits.float(), batch.target("mask"))


def train_teacher_member(
    heads: Heads, seed: int, *, config: TeacherConfig = TEACHER, work: Path, progress: Progress = ignore_progress
) -> tuple[UNet, dict[str, Any]]:
    """One member of the teacher ensemble and the log of its training."""
    import msgspec

    network = build_network(config.network, seed=seed)
    optimiser = msgspec.structs.replace(config.optimiser, seed=seed)
    report = fit(
        network,
        frames_of(heads),
        task_loss,
        optimiser,
        config.augment,
        task=f"teacher {seed}",
        checkpoint=work / f"teacher_{seed}.checkpoint",
        progress=progress,
    )
    return network, {"losses": report.losses, "seconds": report.seconds}


def network_logits(network: Callable[[Tensor], Tensor], inputs: Tensor, flips: bool = False) -> Tensor:
    """(N, 1, h, w) float32 logits of `inputs`, averaged with the mirrored frame's where `flips`."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs), 16):
            frames = inputs[start : start + 16].float()
            logits = network(frames).float()
            if flips:
                logits = (logits + network(frames.flip(-1)).float().flip(-1)) / 2
            parts.append(logits)
    return torch.cat(parts).clone()


def ensemble_logits(members: list[nn.Module], inputs: Tensor, flips: bool = True) -> Tensor:
    """Logit of the members' mean probability, (N, 1, h, w)."""
    mean = torch.stack([network_logits(member, inputs, flips).sigmoid() for member in members]).mean(dim=0)
    return torch.logit(mean.clamp(1e-6, 1 - 1e-6))


def main(arguments: list[str]) -> None:
    """Train one network of the command line."""
    import time

    from benchmarks.distill.hc18_data import read_heads, score

    what, seed, choosing = arguments[0], int(arguments[1]), "choose" in arguments
    torch.set_num_threads(1)
    heads = read_heads("train")
    train, held = heads.halves() if choosing else (heads, heads)
    work = Path("build/distill/hc18" + ("-choose" if choosing else ""))
    work.mkdir(parents=True, exist_ok=True)
    began = time.time()

    def show(event: Any) -> None:
        if event.step % 10 == 0:
            print(
                f"{event.task} {event.step}/{event.total} loss {event.loss:.4f} {time.time() - began:.0f} s", flush=True
            )

    if what == "teacher":
        network, _ = train_teacher_member(train, seed, work=work, progress=show)
        torch.save(network.state_dict(), work / f"teacher_{seed}.pt")
        if choosing:
            for flips in (False, True):
                logits = network_logits(network, frames_of(held).inputs, flips)
                scores = score(logits[:, 0].numpy(), held)
                errors = np.abs(scores["hc_error_mm"])
                line = f"Dice {np.mean(scores['dice']):.4f}, worst {min(scores['dice']):.4f}"
                line += f", circumference {errors.mean():.2f} mm, median {np.median(errors):.2f}"
                print(f"{what} {seed}, flips {flips}: {line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
