"""Assignment and losses of a detector: by hand, by brute force, and against MONAI's boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.box_utils import box_pair_giou

from edge_runtime.errors import ConfigError
from edge_sdk.students.detector import DenseBoxes, Detector
from edge_sdk.tasks.detection.assign import Assignment, assign, centreness
from edge_sdk.tasks.detection.losses import box_loss, dense_kd, giou

SIDES = st.lists(st.floats(0.5, 100), min_size=4, max_size=4)


@pytest.fixture(scope="module")
def grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Points of strides 8, 16 and 32 on 64 x 96."""
    return Detector(1, 2, width=2, max_width=2, pyramid=2).points(64, 96)


def boxes_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def brute_force(boxes: torch.Tensor, points: torch.Tensor, strides: torch.Tensor) -> list[int]:
    """The box that each point learns, by the sentences of the docstring, without the rule for lonely boxes."""
    chosen = []
    for (x, y), stride in zip(points.tolist(), strides.tolist(), strict=True):
        best, smallest = -1, np.inf
        for k, (label, x0, y0, x1, y1) in enumerate(boxes.tolist()):
            farthest = max(x - x0, y - y0, x1 - x, y1 - y)
            low = 0 if stride == 8 else 2 * stride
            high = np.inf if stride == 32 else 4 * stride
            inside = x0 < x < x1 and y0 < y < y1
            central = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < 1.5 * stride
            area = (x1 - x0) * (y1 - y0)
            if label >= 0 and inside and central and low < farthest <= high and area < smallest:
                best, smallest = k, area
        chosen.append(best)
    return chosen


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_assignment_is_what_the_sentences_say(seed):
    points, strides = Detector(1, 2, width=2, max_width=2, pyramid=2).points(64, 96)
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, (70, 40), (4, 2))
    high = np.minimum(low + rng.uniform(4, 60, (4, 2)), (96, 64))
    boxes = torch.tensor(np.column_stack([rng.integers(-1, 2, 4), low, high]), dtype=torch.float32)
    wanted = brute_force(boxes, points, strides)
    found = assign(boxes[None], points, strides)
    plain = torch.tensor([-1 if k < 0 else int(boxes[k, 0]) for k in wanted])
    lonely = [k for k in range(4) if boxes[k, 0] >= 0 and k not in _candidates(boxes, points, strides)]
    differs = found.label[0] != plain
    # only points given to boxes that no point would learn may differ
    assert int(differs.sum()) <= len(lonely)
    for p in torch.nonzero((found.label[0] >= 0) & ~differs)[:, 0].tolist():
        if wanted[p] >= 0 and not lonely:
            x0, y0, x1, y1 = boxes[wanted[p], 1:].tolist()
            x, y = points[p].tolist()
            sides = torch.tensor([x - x0, y - y0, x1 - x, y1 - y]) / strides[p]
            torch.testing.assert_close(found.distances[0, p], sides.clamp(min=0.01))


def _candidates(boxes: torch.Tensor, points: torch.Tensor, strides: torch.Tensor) -> set[int]:
    """Boxes that at least one point would learn if they were alone."""
    return {k for k in range(len(boxes)) if max(brute_force(boxes[k : k + 1], points, strides)) >= 0}


def test_every_box_gets_a_point_however_small(grid):
    tiny = boxes_of((1, 15.5, 15.5, 16.5, 16.5), (0, 0, 0, 2, 2), (-1, 0, 0, 0, 0))
    found = assign(tiny, *grid)
    labels = found.label[0]
    assert sorted(labels[labels >= 0].tolist()) == [0, 1]
    assert bool((found.distances > 0).all())
    assert set(grid[1][labels >= 0].tolist()) == {8}


def test_size_decides_the_level(grid):
    points, strides = grid
    for box, stride in (((0, 40, 20, 60, 40), 8), ((0, 20, 8, 74, 56), 16), ((0, 0, 0, 96, 64), 32)):
        labels = assign(boxes_of(box), points, strides).label[0]
        assert stride in strides[labels >= 0].unique().tolist()
        middle = (points[labels >= 0] - torch.tensor([(box[1] + box[3]) / 2, (box[2] + box[4]) / 2])).abs().amax(-1)
        assert bool((middle < 1.5 * strides[labels >= 0]).all())


def test_no_boxes_is_background(grid):
    found = assign(boxes_of((-1, 0, 0, 0, 0)), *grid)
    assert bool((found.label == -1).all())
    assert bool((found.centre == 0).all())


def test_centreness_by_hand():
    assert float(centreness(torch.tensor([1.0, 1, 1, 1]))) == 1
    assert float(centreness(torch.tensor([1.0, 2, 4, 2]))) == pytest.approx(0.5)
    assert float(centreness(torch.tensor([1.0, 1, 4, 4]))) == pytest.approx(0.25)


@given(SIDES, SIDES)
def test_giou_is_monais(first, second):
    a, b = torch.tensor([first]), torch.tensor([second])
    sign = torch.tensor([-1.0, -1, 1, 1])
    wanted = box_pair_giou(a * sign, b * sign)
    torch.testing.assert_close(giou(a, b), wanted, atol=1e-4, rtol=1e-4)
    assert float(giou(a, a)) == pytest.approx(1)


def perfect(boxes: torch.Tensor, grid: tuple[torch.Tensor, torch.Tensor], classes: int = 2) -> DenseBoxes:
    """What a network would say that has learned `boxes` by heart."""
    target: Assignment = assign(boxes, *grid)
    hot = torch.nn.functional.one_hot(target.label.clamp(min=0), classes) * (target.label >= 0)[..., None]
    return DenseBoxes(
        classes=torch.where(hot > 0, 12.0, -12.0),
        distances=target.distances.clamp(min=1e-3).log(),
        centre=torch.logit(target.centre.clamp(1e-4, 1 - 1e-4)),
    )


BOXES = ((0, 10, 8, 42, 30), (1, 50, 20, 90, 60))


def test_perfect_answer_costs_only_the_entropy_of_the_centreness(grid):
    boxes = boxes_of(*BOXES)
    dense = perfect(boxes, grid)
    target = assign(boxes, *grid)
    c = target.centre[target.label >= 0].clamp(1e-4, 1 - 1e-4)
    entropy = float(-(c * c.log() + (1 - c) * (1 - c).log()).mean())
    assert float(box_loss(dense, boxes, *grid)) == pytest.approx(entropy, abs=1e-3)


@pytest.mark.parametrize("part", ["classes", "distances", "centre"])
def test_each_part_counts(grid, part):
    boxes = boxes_of(*BOXES)
    dense = perfect(boxes, grid)
    worse = dense._replace(**{part: getattr(dense, part) * 0.05})
    assert float(box_loss(worse, boxes, *grid)) > float(box_loss(dense, boxes, *grid)) + 1e-3
    assert float(dense_kd(worse, dense)) > float(dense_kd(dense, dense)) + 1e-4


def test_a_student_that_agrees_with_its_teacher_has_nothing_to_learn(grid):
    dense = DenseBoxes(*(part.clone().requires_grad_() for part in perfect(boxes_of(*BOXES), grid)))
    teacher = DenseBoxes(*(part.detach() for part in dense))
    loss = dense_kd(dense, teacher)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    for gradient in torch.autograd.grad(loss, tuple(dense)):
        assert float(gradient.abs().max()) < 1e-4


def test_background_of_the_teacher_moves_no_side(grid):
    """Where the teacher sees nothing, its sides and centreness are noise and must not count."""
    dense = perfect(boxes_of(*BOXES), grid)
    empty = (dense.classes.amax(-1) < 0)[..., None]
    noise = dense.distances + empty * torch.randn(dense.distances.shape, generator=torch.Generator().manual_seed(0))
    assert float(dense_kd(dense._replace(distances=noise), dense)) == pytest.approx(0, abs=5e-3)


def test_losses_of_no_boxes_and_extreme_values_are_finite(grid):
    n = len(grid[0])
    for scale in (0.0, 100.0, -100.0):
        dense = DenseBoxes(
            classes=torch.full((2, n, 2), scale, requires_grad=True),
            distances=torch.full((2, n, 4), scale, requires_grad=True),
            centre=torch.full((2, n), scale, requires_grad=True),
        )
        nothing = torch.tensor([-1.0, 0, 0, 0, 0]).expand(2, 1, 5)
        for loss in (
            box_loss(dense, nothing, *grid),
            box_loss(dense, boxes_of(*BOXES).expand(2, -1, -1), *grid),
            dense_kd(dense, DenseBoxes(*(-part.detach() for part in dense))),
        ):
            assert bool(torch.isfinite(loss))
            gradients = torch.autograd.grad(loss, tuple(dense), retain_graph=True, allow_unused=True)
            assert all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)


def test_wrong_labels_and_points(grid):
    dense = perfect(boxes_of(*BOXES), grid)
    with pytest.raises(ConfigError, match="label 2; 0 to 1"):
        box_loss(dense, boxes_of((2, 0, 0, 8, 8)), *grid)
    with pytest.raises(ConfigError, match="same strides and classes"):
        dense_kd(dense, DenseBoxes(*(part[:, :-1] for part in dense)))
