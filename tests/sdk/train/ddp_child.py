"""Run by torchrun, or by itself, in `test_distributed.py`: trains with DEVICES processes and writes what each saw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.losses import LossTerm, compose
from edge_sdk.progress import ProgressEvent
from edge_sdk.train import LoopConfig, fit


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    # no bias before the normalisation: its gradient is rounding noise, which AdamW would blow up to full steps
    student = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 1))
    teacher = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 1, 1))
    return student, teacher


def train(folder: Path, devices: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # 21 samples in batches of 8: the last batch of 5 is shared unequally, 3 and 2
    inputs = torch.rand((21, 1, 16, 16), generator=generator)
    labels = (nn.functional.avg_pool2d(inputs, 3, 1, 1)[:, 0] > 0.5).to(torch.uint8)
    data = TrainingSet(
        inputs=inputs,
        labelled=torch.ones(21, dtype=torch.bool),
        targets={"mask": Field(values=labels, kind="labels")},
    )
    student, teacher = networks()

    def right(module: nn.Module) -> float:
        logits: Tensor = module(inputs)
        return float(((logits[:, 0] > 0) == labels.bool()).float().mean())

    events: list[ProgressEvent] = []
    config = OptimiserConfig(
        epochs=6, batch_size=8, learning_rate=0.02, ema_decay=0.8, threads=1, devices=devices, seed=2
    )
    terms = [
        LossTerm(kind="cross_entropy"),
        LossTerm(kind="hint", weight=0.5, student_layer="2", teacher_layer="1"),
    ]
    with compose(terms, student=student, teacher=teacher, example=inputs[:1]) as loss:
        report = fit(
            student,
            data,
            loss,
            config,
            AugmentConfig(),
            loop=LoopConfig(accumulate=int(os.environ.get("ACCUMULATE", "1"))),
            validate=right,
            logs=folder / "logs",
            checkpoint=folder / "c.pt",
            progress=events.append,
        )
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    torch.save({"student": student.state_dict(), "loss": loss.state_dict()}, folder / f"weights{rank}.pt")
    batch = Batch(inputs=inputs, labelled=data.labelled, targets=data.targets)
    told = {
        "losses": report.losses,
        "terms": report.terms,
        "metrics": report.metrics,
        "grad_norms": report.grad_norms,
        "events": len(events),
        "samples": len(batch.inputs),
    }
    (folder / f"report{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
