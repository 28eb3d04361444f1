"""A bundle without training, so that the example runs at once: it marks what stays dark after smoothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edge_export import ModelCard, export_torch, lower, package
from edge_runtime.bundle import OutputSpec
from edge_runtime.preprocess import CropToScanArea, Letterbox, Normalize, Preprocessor, PreprocessSpec, ToGray
from edge_runtime.sources import Source

SIDE = 128
STEPS = (CropToScanArea(), ToGray(), Letterbox(height=SIDE, width=SIDE, fill=255), Normalize())
SPEC = PreprocessSpec(steps=STEPS)


def dark_regions() -> nn.Module:
    """Two box filters, then logits that are positive where the mean grey is below 8 % of full scale."""
    network = nn.Sequential(*(nn.Conv2d(1, 1, 5, padding=2) for _ in range(2)), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        for layer, (weight, bias) in zip(network, ((1 / 25, 0.0), (1 / 25, 0.0), (-100.0, 8.0)), strict=True):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    return network


def build(path: Path, frames: Source) -> Path:
    """Lower the network to fp32, fp16 and int8 on `frames`, and package it; `edge-export package` does the same."""
    prepare = Preprocessor(SPEC)
    tensors = [prepare(frame).tensor.copy() for frame in frames]  # a tensor is valid until the next call only
    models, report = lower(export_torch(dark_regions(), (1, 1, SIDE, SIDE)), tensors)
    mask = OutputSpec(name="mask", shape=(1, 1, SIDE, SIDE), kind="mask_logits", classes=("dark",))
    return package(
        path,
        name="dark-regions",
        version="1",
        models=models,
        report=report,
        output_specs=(mask,),
        preprocess=SPEC,
        golden_inputs=tensors[:2],  # they travel in the file: this cine is free to publish
        card=ModelCard(intended_use="An example.", training_data="None.", limits="It knows nothing but grey levels."),
    )
