"""Quantization-calibration frames chosen by k-means against frames drawn at random."""

from __future__ import annotations

import numpy as np

from benchmarks.distill.cases import HC18
from benchmarks.figures import Figure
from benchmarks.lowering.cases import student, tensors
from benchmarks.lowering.mixed import dice_points
from edge_export import collect_ranges, to_int8
from edge_export.frame_choice import embed_frames, k_means_frames

__all__ = ["measure_calibration_frames"]

_COUNT, _SEEDS, _DRAWS = 16, 5, 20


def measure_calibration_frames() -> list[Figure]:
    """Mean Dice drop of the TensorRT int8 form on the test split, by the frames its ranges come from."""
    model = student("hc18").model
    frames, test = tensors(HC18, HC18.read("train")), HC18.read("test")
    inputs = tensors(HC18, test)
    embeddings = embed_frames(model, frames)
    reference = dice_points(model, inputs, test).mean()

    def drop(chosen: object) -> float:
        ranges = collect_ranges(model, [frames[k] for k in chosen])  # type: ignore[attr-defined]
        return float(reference - dice_points(to_int8(model, ranges=ranges), inputs, test).mean())

    clustered = [drop(k_means_frames(embeddings, _COUNT, seed=seed)) for seed in range(_SEEDS)]
    random = [
        drop(np.random.default_rng(seed).choice(len(frames), _COUNT, replace=False).tolist()) for seed in range(_DRAWS)
    ]
    value, median = float(np.mean(clustered)), float(np.median(random))
    return [
        Figure(
            name=f"mean drop of {_SEEDS} k-means sets of {_COUNT} frames",
            value=value,
            goal=f"<= median of {_DRAWS} random sets",
            unit="points",
            n=len(inputs),
            met=value <= median,
            spread=f"k-means {min(clustered):.4f} to {max(clustered):.4f}; random: median {median:.4f}, "
            f"{min(random):.4f} to {max(random):.4f}",
            detail={"k_means": clustered, "random": random},
        )
    ]
