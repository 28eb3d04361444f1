"""Metric parity: `edge_runtime.metrics` against MONAI, scikit-image and pycocotools, on random cases and edge cases.

Every figure is the largest difference of any metric of its family over all cases, both not-a-number or both infinite
counting as equal: absolute, and for values above 1 relative to the peer's, since MONAI gives distances of many pixels
in float32. What MONAI leaves undefined (one mask empty or both) is compared by its own value where it
has one, and is otherwise held to the rules that the module states.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from edge_runtime.metrics import classification, image, segmentation
from edge_runtime.metrics.detection import Boxes, evaluate_detections

__all__ = ["measure_metric_parity"]

GOAL = 1e-6
Masks = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
Differences = list[tuple[str, float]]


def measure_metric_parity() -> list[Figure]:
    """One figure a family of metrics."""
    families: list[tuple[str, str, Callable[[], tuple[int, Differences]]]] = [
        ("overlap", "monai", _overlap),
        ("contour distance", "monai", _distances),
        ("class scores", "monai", _scores),
        ("images", "skimage", _images),
        ("detection", "pycocotools", _detections),
    ]
    return [_figure(name, peer, compare) for name, peer, compare in families]


def _figure(name: str, peer: str, compare: Callable[[], tuple[int, Differences]]) -> Figure:
    title, goal = f"{name}, against {peer}", f"<= {GOAL:g}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI warns of every empty mask
            n, found = compare()
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed; pip install {error.name}"
        return Figure(name=title, value=None, goal=goal, unit="", n=0, met=None, reason=reason)
    worst: dict[str, float] = {}
    for metric, difference in found:
        worst[metric] = max(worst.get(metric, 0.0), difference)
    value = max(worst.values())
    detail: dict[str, object] = {"largest difference by metric": worst}
    spread = "; ".join(f"{metric} {difference:.1g}" for metric, difference in worst.items())
    return Figure(name=title, value=value, goal=goal, unit="", n=n, met=value <= GOAL, spread=spread, detail=detail)


def _apart(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    return abs(a - b) / max(1.0, abs(b)) if math.isfinite(a) and math.isfinite(b) else math.inf


def _masks(n: int = 200) -> Iterator[Masks]:
    """Random blobs and noise, then every pair of: empty, full, one pixel, one pixel in a corner, a frame."""
    rng = np.random.default_rng(0)
    for i in range(n):
        shape = tuple(rng.integers(8, 40, 2))
        pair = rng.normal(size=(2, *shape))
        if i % 2:  # smooth, like a segmentation
            for _ in range(3):
                pair = (pair + np.roll(pair, 1, 1) + np.roll(pair, -1, 1) + np.roll(pair, 1, 2)) / 2
        a, b = pair > rng.uniform(-0.8, 1.2)
        yield a, b
    shape = (17, 23)
    empty, full, one, corner, frame = (np.zeros(shape, bool) for _ in range(5))
    full[:], one[8, 11], corner[0, 0], frame[:] = True, True, True, True
    frame[2:-2, 2:-2] = False
    special = (empty, full, one, corner, frame)
    yield from ((a, b) for a in special for b in special)


def _overlap() -> tuple[int, Differences]:
    import torch
    from monai import metrics as monai

    found: Differences = []
    cases = list(_masks())
    for a, b in cases:
        x, y = (torch.from_numpy(mask[None, None].astype(np.float64)) for mask in (a, b))
        # where nothing is to be found or said, MONAI is told which of our rules to follow or gives NaN
        peers = {
            "dice": float(monai.DiceHelper(include_background=True, get_not_nans=False, ignore_empty=False)(x, y)),
            "jaccard": float(monai.compute_iou(x, y, include_background=True, ignore_empty=False)),
        }
        counts = monai.get_confusion_matrix(x, y, include_background=True)
        for name in ("precision", "recall"):
            peers[name] = float(monai.compute_confusion_matrix_metric(name, counts))
        for name, peer in peers.items():
            ours: float = getattr(segmentation, name)(a, b)
            if math.isnan(peer):  # 0 / 0, for which the module's rule stands
                peer = float(not a.any() and not b.any())
            found.append((name, _apart(ours, peer)))
    return len(cases), found


def _distances() -> tuple[int, Differences]:
    import torch
    from monai import metrics as monai

    found: Differences = []
    cases = [(a, b) for a, b in _masks()]
    spacings = ((1.0, 1.0), (0.31, 0.12))
    for a, b in cases:
        x, y = (torch.from_numpy(mask[None, None]) for mask in (a, b))
        for spacing in spacings:
            options: dict[str, Any] = {"include_background": True, "spacing": spacing}
            peers = {
                "hausdorff95": _hausdorff95(x[0, 0], y[0, 0], spacing),
                "assd": float(monai.compute_average_surface_distance(x, y, symmetric=True, **options)),
            }
            for name, peer in peers.items():
                ours: float = getattr(segmentation, name)(a, b, spacing)
                if not (a.any() and b.any()):  # MONAI: NaN or infinite
                    peer = 0.0 if not a.any() and not b.any() else math.inf
                found.append((name, _apart(ours, peer)))
    return len(cases) * len(spacings), found


def _hausdorff95(x: Any, y: Any, spacing: tuple[float, float]) -> float:
    """MONAI's contours and distances, and their percentile in float64: `torch.quantile` finds the place between two
    distances in float32, which alone is worth up to 1e-5 pixels.
    """
    from monai.metrics.utils import get_edge_surface_distance

    _, distances, _ = get_edge_surface_distance(x, y, spacing=spacing, symmetric=True)
    return max(float(np.percentile(each.numpy().astype(np.float64), 95)) if len(each) else 0.0 for each in distances)


def _scores(n: int = 300) -> tuple[int, Differences]:
    import torch
    from monai import metrics as monai

    rng = np.random.default_rng(1)
    found: Differences = []
    for i in range(n):
        scores = rng.random(int(rng.integers(2, 60)))
        if i % 3 == 0:
            scores = scores.round(1)  # ties
        positive = rng.random(len(scores)) < rng.uniform(0.1, 0.9)
        positive[0], positive[1] = True, False
        x, y = torch.from_numpy(scores), torch.from_numpy(positive.astype(np.int64))
        ours = classification.auroc(scores, positive)
        found.append(("auroc", _apart(ours, float(monai.compute_roc_auc(x, y)))))
        ours = classification.average_precision(scores, positive)
        found.append(("average precision", _apart(ours, float(monai.compute_average_precision(x, y)))))
    return n, found


def _images(n: int = 200) -> tuple[int, Differences]:
    from skimage import metrics as peer

    rng = np.random.default_rng(2)
    found: Differences = []
    settings: dict[str, Any] = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": 1.5}
    for i in range(n):
        shape = tuple(rng.integers(11, 60, 2))
        clean = rng.integers(0, 256, shape, dtype=np.uint8)
        noisy = np.clip(clean + rng.normal(0, rng.uniform(0, 60), shape), 0, 255).astype(np.uint8)
        if i < 3:  # edge cases: equal, all black, black against white
            clean = np.full(shape, 255 if i == 2 else 0, np.uint8)
            noisy = np.zeros(shape, np.uint8)
        with np.errstate(divide="ignore"):
            wanted = float(peer.peak_signal_noise_ratio(clean, noisy, data_range=255))
        found.append(("psnr", _apart(image.psnr(noisy, clean), wanted)))
        wanted = float(peer.structural_similarity(clean, noisy, data_range=255, **settings))
        found.append(("ssim", _apart(image.ssim(noisy, clean), wanted)))
        wanted = float(np.sqrt(peer.mean_squared_error(clean, noisy)))
        ours = 255 / 10 ** (image.psnr(noisy, clean) / 20)
        found.append(("root mean square from psnr", _apart(ours, wanted)))
    return n, found


def _scene(rng: np.random.Generator, kind: int) -> tuple[Boxes, Boxes]:
    """One image: boxes and noisy detections of three classes; kind 1 without truth, 2 without detections, 3 ties."""
    n, extra = (0 if kind == 1 else int(rng.integers(1, 9))), (0 if kind == 2 else int(rng.integers(0, 8)))
    low = rng.uniform(0, 150, (n, 2))
    truth = np.concatenate([low, low + rng.uniform(4, 110, (n, 2))], axis=1)
    labels = rng.integers(0, 3, n)
    kept = (rng.random(n) < 0.85) & (kind != 2)
    low = rng.uniform(0, 150, (extra, 2))
    moved = truth[kept] + rng.normal(0, 5, (int(kept.sum()), 4))
    boxes = np.concatenate([moved, np.concatenate([low, low + rng.uniform(4, 90, (extra, 2))], axis=1)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    if kind == 3:
        boxes[: len(moved)] = truth[kept]  # overlap exactly 1
    scores = rng.random(len(boxes)).round(1 if kind == 3 else 6)
    guessed = np.concatenate([labels[kept], rng.integers(0, 3, extra)])
    return Boxes(boxes=boxes, labels=guessed, scores=scores), Boxes(boxes=truth, labels=labels)


def _detections(sets: int = 60, images: int = 6) -> tuple[int, Differences]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    found: Differences = []
    areas = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
    for i in range(sets):
        pairs = [_scene(rng, i % 5 if i % 2 else int(rng.integers(0, 4))) for _ in range(images)]
        area, limit = areas[i % 4], (100, 1, 10)[i % 3]
        with contextlib.redirect_stdout(io.StringIO()):
            truth, mine = (_as_coco(COCO(), pairs, which) for which in (1, 0))
            peer = COCOeval(truth, mine, "bbox")
            peer.params.areaRng, peer.params.areaRngLbl, peer.params.maxDets = [list(area)], ["all"], [limit]
            peer.evaluate()
            peer.accumulate()
        precision, recall = peer.eval["precision"], peer.eval["recall"]
        detected, wanted = [one for one, _ in pairs], [one for _, one in pairs]
        ours = evaluate_detections(detected, wanted, area=area, max_detections=limit)
        for name, values in (("ap", precision), ("ap50", precision[0]), ("ap75", precision[5]), ("ar", recall)):
            kept = values[values > -1]
            found.append((name, _apart(getattr(ours, name), float(kept.mean()) if kept.size else math.nan)))
    return sets * images, found


def _as_coco(coco: Any, pairs: list[tuple[Boxes, Boxes]], which: int) -> Any:
    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        one = pair[which]
        for k, (x0, y0, x1, y1) in enumerate(one.boxes.tolist()):
            row: dict[str, Any] = {"image_id": number, "category_id": int(one.labels[k]), "id": len(rows) + 1}
            row |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            rows.append(row if one.scores is None else {**row, "score": float(one.scores[k])})
    categories = [{"id": k} for k in range(3)]
    coco.dataset = {"images": [{"id": i} for i in range(len(pairs))], "categories": categories, "annotations": rows}
    coco.createIndex()
    return coco
