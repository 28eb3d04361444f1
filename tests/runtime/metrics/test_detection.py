"""Average precision by hand, by its properties, and against pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.detection import Boxes, evaluate_detections, iou_matrix, match_greedily

Floats = npt.NDArray[np.float64]


def boxes(rows: Sequence[Sequence[float]], labels: Sequence[int] = (), scores: Sequence[float] | None = None) -> Boxes:
    return Boxes(
        boxes=np.array(rows, float).reshape(-1, 4),
        labels=np.array(labels or [0] * len(rows), int),
        scores=None if scores is None else np.array(scores, float),
    )


def test_overlaps_by_hand() -> None:
    found = iou_matrix(np.array([[0, 0, 2, 2], [5, 5, 5, 5]]), np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 5, 5]]))
    assert found == pytest.approx(np.array([[1 / 7, 1, 0], [0, 0, 0]]))
    assert iou_matrix(np.empty((0, 4)), np.empty((3, 4))).shape == (0, 3)


def test_greedy_matching() -> None:
    ious = np.array([[0.6, 0.8], [0.7, 0.9], [0.55, 0.2]])
    assert match_greedily(ious, (0.5, 0.65, 0.95)).tolist() == [[1, 0, -1], [1, 0, -1], [-1, -1, -1]]
    ignored = np.array([False, True])
    assert match_greedily(ious, (0.5,), ignored).tolist() == [[0, 1, -1]]


SQUARE = [10.0, 10.0, 30.0, 30.0]
HALF_OFF = [10.0, 10.0, 30.0, 42.0]  # overlap 0.625


@pytest.mark.parametrize(
    ("detected", "truth", "ap", "ap50", "ar"),
    [
        (boxes([SQUARE], scores=[0.3]), boxes([SQUARE]), 1.0, 1.0, 1.0),
        (boxes([HALF_OFF], scores=[0.3]), boxes([SQUARE]), 0.3, 1.0, 0.3),
        (boxes([], scores=[]), boxes([SQUARE]), 0.0, 0.0, 0.0),
        (boxes([SQUARE], [1], [0.9]), boxes([SQUARE]), 0.0, 0.0, 0.0),
        (boxes([SQUARE, SQUARE], scores=[0.9, 0.8]), boxes([SQUARE]), 1.0, 1.0, 1.0),
        (boxes([[60, 60, 80, 80], SQUARE], scores=[0.9, 0.8]), boxes([SQUARE]), 0.5, 0.5, 1.0),
        (boxes([SQUARE], scores=[0.9]), boxes([]), math.nan, math.nan, math.nan),
        (boxes([], scores=[]), boxes([]), math.nan, math.nan, math.nan),
    ],
)
def test_by_hand(detected: Boxes, truth: Boxes, ap: float, ap50: float, ar: float) -> None:
    found = evaluate_detections([detected], [truth])
    assert (found.ap, found.ap50, found.ar) == pytest.approx((ap, ap50, ar), nan_ok=True)
    assert (found.n_truth, found.n_detected) == (len(truth.boxes), len(detected.boxes))


def scene(rng: np.random.Generator, *, ties: bool) -> tuple[Boxes, Boxes]:
    n, extra = int(rng.integers(0, 8)), int(rng.integers(0, 6))
    low = rng.uniform(0, 150, (n, 2))
    wanted = np.concatenate([low, low + rng.uniform(4, 110, (n, 2))], axis=1)
    labels = rng.integers(0, 3, n)
    kept = rng.random(n) < 0.8
    moved = wanted[kept] + rng.normal(0, 4, (int(kept.sum()), 4))
    corner = rng.uniform(0, 150, (extra, 2))
    found = np.concatenate([moved, np.concatenate([corner, corner + rng.uniform(4, 90, (extra, 2))], axis=1)])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.concatenate([labels[kept], rng.integers(0, 3, extra)])
    scores = rng.random(len(found)).round(1 if ties else 9)
    return Boxes(boxes=found, labels=guessed, scores=scores), Boxes(boxes=wanted, labels=labels)


def by_pycocotools(pairs: list[tuple[Boxes, Boxes]], area: tuple[float, float], limit: int) -> tuple[float, ...]:
    reason = "pycocotools is not installed: pip install pycocotools"
    coco_module = pytest.importorskip("pycocotools.coco", reason=reason)
    evaluation = pytest.importorskip("pycocotools.cocoeval", reason=reason)

    def entries(which: int) -> list[dict[str, Any]]:
        rows = []
        for image, pair in enumerate(pairs):
            one = pair[which]
            for k, (x0, y0, x1, y1) in enumerate(one.boxes.tolist()):
                row = {"image_id": image, "category_id": int(one.labels[k]), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                row |= {"id": len(rows) + 1, "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                rows.append(row if one.scores is None else {**row, "score": float(one.scores[k])})
        return rows

    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        images, categories = [{"id": i} for i in range(len(pairs))], [{"id": k} for k in range(3)]
        coco.dataset = {"images": images, "categories": categories, "annotations": entries(1)}
        coco.createIndex()
        found = coco_module.COCO()
        found.dataset = {"images": images, "categories": categories, "annotations": entries(0)}
        found.createIndex()
        peer = evaluation.COCOeval(coco, found, "bbox")
        peer.params.areaRng, peer.params.areaRngLbl, peer.params.maxDets = [list(area)], ["all"], [limit]
        peer.evaluate()
        peer.accumulate()
    precision, recall = peer.eval["precision"], peer.eval["recall"]
    kept = precision > -1
    at_half = precision[0][precision[0] > -1]
    if not kept.any():
        return math.nan, math.nan, math.nan
    return float(precision[kept].mean()), float(at_half.mean()), float(recall[recall > -1].mean())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("area", [(0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0)])
@pytest.mark.parametrize("limit", [100, 3])
def test_pycocotools_agrees(ties: bool, area: tuple[float, float], limit: int) -> None:
    rng = np.random.default_rng(7)
    for _ in range(6):
        pairs = [scene(rng, ties=ties) for _ in range(6)]
        found = evaluate_detections(*zip(*pairs, strict=True), area=area, max_detections=limit)  # type: ignore[misc]
        peer = by_pycocotools(pairs, area, limit)
        assert (found.ap, found.ap50, found.ar) == pytest.approx(peer, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boxes([[3, 0, 1, 1]]), "ends before it begins"),
        (lambda: boxes([[0, 0, 1, math.inf]]), "1 box coordinates"),
        (lambda: boxes([[0, 0, 1, 1]], [0, 1]), "with labels"),
        (lambda: boxes([[0, 0, 1, 1]], scores=[math.nan]), "finite"),
        (lambda: iou_matrix(np.ones((2, 3)), np.ones((2, 4))), r"\(N, 4\)"),
        (lambda: evaluate_detections([boxes([], scores=[])], []), "1 images and true boxes of 0"),
        (lambda: evaluate_detections([boxes([SQUARE])], [boxes([SQUARE])]), "without scores"),
        (lambda: evaluate_detections([], [], thresholds=()), "at least one"),
        (lambda: evaluate_detections([], [], thresholds=(1.5,)), "at least one"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
