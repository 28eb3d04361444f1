"""Losses between features: brute-force forms of the papers' equations, invariances, and the adapter's shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError
from edge_sdk.losses import (
    Adapter,
    attention_transfer,
    hint,
    relation_angle,
    relation_distance,
    similarity_preserving,
)


def _maps(seed: int, shape: tuple[int, ...] = (4, 6, 5, 7)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _huber(a: float, b: float) -> float:
    d = abs(a - b)
    return 0.5 * d * d if d < 1 else d - 0.5


def test_hint_is_the_mean_square() -> None:
    student, teacher = _maps(0), _maps(1)
    assert hint(student, teacher).item() == pytest.approx((student - teacher).square().mean().item())
    with pytest.raises(ConfigError, match="Adapter"):
        hint(student, teacher[:, :3])


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 6, 6), (9, 6, 6)), ((4, 8, 8), (9, 3, 4)), ((4, 2, 3), (9, 8, 6)), ((5,), (11,))]
)
def test_an_adapter_gives_the_teachers_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    adapter = Adapter(student, teacher)
    out = adapter(torch.randn(2, *student, dtype=torch.bfloat16))
    assert tuple(out.shape) == (2, *teacher)
    assert out.dtype == torch.float32


def test_an_adapter_refuses_a_map_for_a_vector() -> None:
    with pytest.raises(ConfigError, match=r"\(4,\)"):
        Adapter((3, 8, 8), (4,))


def test_attention_transfer_by_hand() -> None:
    student, teacher = _maps(0), _maps(1, (4, 3, 5, 7))

    def attention(x: Tensor) -> Tensor:
        q = x.double().abs().pow(3).sum(1).flatten(1)
        return torch.as_tensor(q / q.norm(dim=1, keepdim=True))

    expected = (attention(student) - attention(teacher)).square().sum(1).mean()
    assert attention_transfer(student, teacher, 3.0).item() == pytest.approx(expected.item(), rel=1e-5)
    # neither the scale nor the order of channels matters
    same = attention_transfer(student, student.flip(1) * -70)
    assert same.item() == pytest.approx(0.0, abs=1e-10)


def test_attention_of_different_sizes_is_averaged_down() -> None:
    fine = _maps(2, (2, 3, 8, 8))
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    assert attention_transfer(fine, coarse).item() == pytest.approx(0.0, abs=1e-10)
    assert attention_transfer(coarse, fine).item() == pytest.approx(0.0, abs=1e-10)


def test_relation_distance_by_hand() -> None:
    student, teacher = _maps(0, (5, 4)), _maps(1, (5, 7))

    def table(x: Tensor) -> list[list[float]]:
        rows = x.tolist()
        d = [[math.dist(a, b) for b in rows] for a in rows]
        mean = sum(map(sum, d)) / 20
        return [[v / mean for v in row] for row in d]

    own, other = table(student), table(teacher)
    expected = sum(_huber(own[i][j], other[i][j]) for i in range(5) for j in range(5)) / 25
    assert relation_distance(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_relation_angle_by_hand() -> None:
    student, teacher = _maps(0, (4, 3)), _maps(1, (4, 6))

    def cosine(x: Tensor, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        return float(torch.dot(a, b) / (a.norm() * b.norm())) if i != j and k != j else 0.0

    triples = [(i, j, k) for i in range(4) for j in range(4) for k in range(4)]
    expected = sum(_huber(cosine(student, *t), cosine(teacher, *t)) for t in triples) / 64
    assert relation_angle(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_similarity_preserving_by_hand() -> None:
    student, teacher = _maps(0), _maps(1, (4, 2, 3, 3))

    def gram(x: Tensor) -> Tensor:
        q = x.flatten(1).double()
        g = q @ q.T
        return torch.as_tensor(g / g.norm(dim=1, keepdim=True))

    expected = (gram(student) - gram(teacher)).square().sum() / 16
    assert similarity_preserving(student, teacher).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("loss", [relation_distance, relation_angle, similarity_preserving])
def test_relations_survive_a_rotation_and_a_scale(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    features = _maps(3, (6, 5))
    rotation, _ = torch.linalg.qr(_maps(4, (5, 5)))
    assert loss(features, features @ rotation * 12).item() == pytest.approx(0.0, abs=1e-6)
    assert loss(features, _maps(5, (6, 5))).item() > 1e-3


@pytest.mark.parametrize("loss", [relation_distance, relation_angle, similarity_preserving, attention_transfer])
def test_batches_of_one_and_of_equal_samples_have_finite_slopes(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    for features in (_maps(6, (1, 2, 3, 3)), torch.ones(4, 2, 3, 3), torch.zeros(4, 2, 3, 3)):
        own = features.clone().requires_grad_()
        value = loss(own, _maps(7, tuple(features.shape)))
        value.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        assert torch.isfinite(own.grad).all()
        if len(features) == 1 and loss is not attention_transfer:
            assert value.item() == 0.0


def test_wrong_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="same samples"):
        relation_distance(_maps(0), _maps(1)[:2])
    with pytest.raises(ConfigError, match="layers before pooling"):
        attention_transfer(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="power"):
        attention_transfer(_maps(0), _maps(1), 0.5)
