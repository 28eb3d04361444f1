"""k-means on planted clusters, against SciPy's, and where the embedding is taken."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edge_export.frame_choice import bottleneck, choose_frames, embed_frames, k_means_frames
from edge_runtime.errors import ConfigError, LoweringError
from tests.export.conftest import Trained, build_model


def clusters(count: int, each: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = 100 * np.stack([np.arange(count), np.arange(count)[::-1] ** 2], axis=1)
    return (centres[:, None] + random.normal(0, 0.5, (count, each, 2))).reshape(-1, 2)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 6), each=st.integers(1, 9), seed=st.integers(0, 99))
def test_one_frame_of_each_planted_cluster_is_chosen(count: int, each: int, seed: int) -> None:
    chosen = k_means_frames(clusters(count, each, seed), count, seed=seed)
    owners = [index // each for index in chosen]
    # k-means++ may put two starts into one cluster; with clusters this far apart it is the exception
    assert len(chosen) == len(set(chosen)) == count
    assert len(set(owners)) >= count - 1


def test_the_spread_is_that_of_scipy() -> None:
    vq = pytest.importorskip("scipy.cluster.vq")
    points = np.random.default_rng(0).normal(size=(200, 5))
    ours = min(_spread(points, k_means_frames(points, 8, seed=seed)) for seed in range(5))
    white = (points - points.mean(0)) / points.std(0)
    centres, _ = vq.kmeans(white, 8, rng=np.random.default_rng(0))
    nearest = [int(((white - c) ** 2).sum(1).argmin()) for c in centres]
    assert ours <= 1.1 * _spread(points, nearest)


def _spread(points: np.ndarray, chosen: object) -> float:
    white = (points - points.mean(0)) / points.std(0)
    return float(((white[:, None] - white[list(chosen)][None]) ** 2).sum(2).min(1).mean())  # type: ignore[call-overload]


def test_the_seed_decides() -> None:
    points = np.random.default_rng(1).normal(size=(60, 3))
    assert k_means_frames(points, 6, seed=4) == k_means_frames(points, 6, seed=4)
    assert len({k_means_frames(points, 6, seed=seed) for seed in range(6)}) > 1


@pytest.mark.parametrize("points", [np.ones((9, 3)), np.repeat(np.eye(3), 3, axis=0)])
def test_frames_that_are_alike_are_still_different_frames(points: np.ndarray) -> None:
    assert len(set(k_means_frames(points, 7))) == 7


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_does_not_fit_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} frames of embeddings"):
        k_means_frames(np.ones((3, 2)), count)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        k_means_frames(np.array([[1.0], [np.nan]]), 1)


def test_the_embedding_is_the_deepest_activation(student: onnx.ModelProto, trained: Trained) -> None:
    name = bottleneck(student)
    maker = next(node for node in student.graph.node if name in node.output)
    assert maker.op_type == "Relu"
    rows = embed_frames(student, trained.inputs[:3])
    module = trained.module
    import torch

    with torch.no_grad():
        x = torch.from_numpy(np.concatenate(trained.inputs[:3]))
        wanted = module.bottom(module.pool(module.middle(module.pool(module.top(x))))).mean((2, 3)).numpy()
    np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-5)
    assert len(choose_frames(student, trained.inputs[:20], 5, seed=1)) == 5


def test_a_model_without_maps_is_refused() -> None:
    node = helper.make_node("Flatten", ["image"], ["mask"])
    model = build_model([node], {}, input_shape=(1, 4, 8, 8), output_shape=(1, 256))
    with pytest.raises(LoweringError, match="give embeddings instead"):
        bottleneck(model)
    with pytest.raises(ConfigError, match="no frames"):
        embed_frames(model, [])
