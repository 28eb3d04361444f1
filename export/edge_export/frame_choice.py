"""Frames for quantization calibration, chosen so that they differ: k-means on the model's own embedding of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edge_export._graph import GraphView, main_input
from edge_export.gate import open_session
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["bottleneck", "choose_frames", "embed_frames", "k_means_frames"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_ITERATIONS = 100


def bottleneck(model: onnx.ModelProto) -> str:
    """The computed float tensor (1, C, h, w) of the smallest area above one pixel and, of these, the most channels.

    The last one made, where several are alike: it is behind the activation. Raises `LoweringError` without any.
    """
    view = GraphView(model)
    found: list[tuple[int, int, int, str]] = []
    for position, node in enumerate(view.nodes):
        for name in node.output:
            shape = view.types[name].shape if name in view.types and view.is_float(name) else ()
            sizes = [size for size in shape if size is not None]
            if len(shape) == len(sizes) == 4 and sizes[2] * sizes[3] > 1:
                found.append((sizes[2] * sizes[3], -sizes[1], -position, name))
    if not found:
        raise LoweringError("no tensor (1, C, h, w) of a fixed size lies within the model; give embeddings instead")
    return min(found)[3]


def embed_frames(model: onnx.ModelProto, inputs: Sequence[Float32]) -> Float32:
    """(N, C) float32 means over the pixels of `bottleneck(model)`, one row for each of `inputs` (the model's shape)."""
    if len(inputs) == 0:
        raise ConfigError("no frames to choose from")
    name, feed = bottleneck(model), main_input(model)[0]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    if name not in [item.name for item in model.graph.output]:
        probed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = open_session(probed)
    rows = [session.run([name], {feed: sample})[0].mean(axis=(0, 2, 3)) for sample in inputs]
    return np.asarray(rows, np.float32)


def choose_frames(model: onnx.ModelProto, inputs: Sequence[Float32], count: int, *, seed: int = 0) -> tuple[int, ...]:
    """Indices, ascending, of the `count` frames of `inputs` nearest to the centres of as many clusters.

    The clusters are those of `k_means_frames` on `embed_frames`. The same arguments give the same frames. Raises
    `ConfigError` when there are fewer frames than `count`, or none.
    """
    return k_means_frames(embed_frames(model, inputs), count, seed=seed)


def k_means_frames(embeddings: npt.NDArray[np.floating], count: int, *, seed: int = 0) -> tuple[int, ...]:
    """Indices, ascending, of the `count` rows of `embeddings` (N, C) nearest to the centres of `count` clusters.

    Every column is scaled to unit variance first. k-means of Lloyd (1982) from the start of k-means++ (Arthur and
    Vassilvitskii, SODA 2007). A row that two centres are nearest to is taken by the first; the other takes its next.
    Raises `ConfigError` for embeddings that are not finite, or not (N, C) with N >= `count` >= 1.
    """
    points = np.asarray(embeddings, np.float64)
    if points.ndim != 2 or not 1 <= count <= len(points):
        raise ConfigError(f"{count} frames of embeddings {points.shape}; (frames, channels) with as many are needed")
    if not np.isfinite(points).all():
        raise ConfigError("an embedding is not finite; the model gives NaN or infinity on one of the frames")
    spread = points.std(axis=0)
    points = (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    centres = _lloyd(points, _plus_plus(points, count, np.random.default_rng(seed)))
    distances = _squared(points, centres)
    chosen: list[int] = []
    for column in distances.T:
        free = column.copy()
        free[chosen] = np.inf
        chosen.append(int(free.argmin()))
    return tuple(sorted(chosen))


def _squared(points: Float64, centres: Float64) -> Float64:
    """(N, K) squared distances."""
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(axis=2))


def _plus_plus(points: Float64, count: int, random: np.random.Generator) -> Float64:
    """Start centres: each next one drawn with the probability of its squared distance to those before."""
    chosen = [int(random.integers(len(points)))]
    nearest = _squared(points, points[chosen])[:, 0]
    while len(chosen) < count:
        total = nearest.sum()
        share = nearest / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(int(random.choice(len(points), p=share)))
        nearest = np.minimum(nearest, _squared(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _lloyd(points: Float64, centres: Float64) -> Float64:
    """Centres after the clusters stopped changing; a cluster that lost all its points keeps its centre."""
    before = np.full(len(points), -1)
    for _ in range(_ITERATIONS):
        owner = _squared(points, centres).argmin(axis=1)
        if (owner == before).all():
            break
        before = owner
        centres = np.array(
            [points[owner == k].mean(axis=0) if (owner == k).any() else centres[k] for k in range(len(centres))]
        )
    return centres
