"""Distil a network that the SDK has never seen into a light U-Net. See the README beside this file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_runtime.preprocess import CropToScanArea, Letterbox, Normalize, PreprocessSpec, ToGray
from edge_sdk.batch import Field, TrainingSet
from edge_sdk.config import AugmentConfig, DistillConfig, NetworkConfig, OptimiserConfig
from edge_sdk.distill import distill_student
from edge_sdk.evaluate import predict_masks, score_masks
from edge_sdk.frames import LabelledFrames, network_inputs, network_masks
from edge_sdk.losses import dice_ce
from edge_sdk.progress import ProgressEvent
from edge_sdk.simulate import training_set
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.teachers import save_state_dict, teacher_from_module
from edge_sdk.train import fit

SIDE = 64
SPEC = PreprocessSpec(steps=(CropToScanArea(), ToGray(), Letterbox(height=SIDE, width=SIDE), Normalize()))


class MyNetwork(nn.Module):
    """Your network: here a stack of dilated convolutions. (N, 1, H, W) -> (N, 1, H, W) logits."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k, dilation in enumerate((1, 1, 2, 4, 8, 1)):
            layers += [
                nn.Conv2d(1 if k == 0 else width, width, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.layers(frames)
        return logits


def labelled_frames(seed: int, n: int) -> LabelledFrames:
    """Your images and masks; here simulated ones."""
    return LabelledFrames.from_arrays(*training_set(seed, n, (96, 96)))


def train_my_network(frames: LabelledFrames, epochs: int) -> MyNetwork:
    """Stands for the weights that you already have."""
    torch.manual_seed(0)
    network = MyNetwork()
    inputs = torch.from_numpy(network_inputs(frames.frames, SPEC))
    data = TrainingSet(
        inputs=inputs,
        targets={"mask": Field(values=torch.from_numpy(network_masks(frames, SPEC, classes=1)), kind="labels")},
        labelled=torch.ones(len(inputs), dtype=torch.bool),
    )
    config = OptimiserConfig(epochs=epochs, batch_size=8)
    fit(
        network,
        data,
        lambda logits, batch: dice_ce(logits, batch.target("mask")),
        config,
        AugmentConfig(),
        progress=show,
    )
    return network


def show(event: ProgressEvent) -> None:
    """One line for every fifth step."""
    if event.step % 5 == 0 or event.step == event.total:
        loss = "" if event.loss is None else f"  loss {event.loss:.3f}"
        print(f"{event.task}: {event.step}/{event.total}{loss}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for student.pt and report.json")
    parser.add_argument("--frames", type=int, default=120, help="frames to train on")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the teacher; the student has twice as many")
    arguments = parser.parse_args()

    train, held_out = labelled_frames(1, arguments.frames), labelled_frames(2, 40)
    network = train_my_network(train, arguments.epochs)
    teacher = teacher_from_module(network, classes=1, name="my network")

    config = DistillConfig(
        network=NetworkConfig(width=8, depth=3, stem_stride=2),
        optimiser=OptimiserConfig(epochs=2 * arguments.epochs, batch_size=8),
    )
    trained = distill_student(teacher, spec=SPEC, labelled=train, config=config, progress=show)

    inputs = torch.from_numpy(network_inputs(held_out.frames, SPEC))
    truth = network_masks(held_out, SPEC, classes=1)
    scores = {
        "teacher": score_masks(predict_masks(teacher, inputs), truth, classes=1).mean,
        "student": score_masks(predict_masks(trained.network, inputs), truth, classes=1).mean,
    }
    shape = (1, 1, SIDE, SIDE)
    report = {
        "dice": scores,
        "dice_drop_points": 100 * (scores["teacher"] - scores["student"]),
        "macs": {"teacher": count_macs(network, shape), "student": count_macs(trained.network, shape)},
        "parameters": {"teacher": count_parameters(network), "student": count_parameters(trained.network)},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_state_dict(trained.network, arguments.out / "student.pt")
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
