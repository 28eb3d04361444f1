"""Average precision of found boxes with intervals, and what answers without a network are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.detection import Boxes, evaluate_detections, iou_matrix, match_greedily
from edge_sdk.tasks.detection.data import BoxedFrames

__all__ = [
    "MatchedBoxes",
    "average_precision",
    "gap_interval",
    "match_boxes",
    "nearest_detections",
    "trivial_answers",
    "trivial_detections",
]

Rows = npt.NDArray[np.float32]
_RECALLS = np.linspace(0, 1, 101)
_THUMBNAIL = 24


def average_precision(found: Sequence[Rows], truth: Sequence[Rows], iou: float = 0.5) -> tuple[float, dict[int, float]]:
    """AP at one overlap by COCO's rules: the mean over the classes of the truth, and that of every class.

    `found` rows are (label, score, x0, y0, x1, y1), `truth` rows (label, x0, y0, x1, y1), one array a frame.
    """
    detected = [Boxes(boxes=r[:, 2:], labels=r[:, 0].astype(np.int64), scores=r[:, 1]) for r in found]
    wanted = [Boxes(boxes=r[:, 1:], labels=r[:, 0].astype(np.int64)) for r in truth]
    scores = evaluate_detections(detected, wanted, thresholds=(iou,))
    return scores.ap, scores.ap_by_class


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchedBoxes:
    """One class in N frames, matched at one overlap: what a resampled average precision needs.

    `scores` (D,), `hit` (D,) bool and `frame` (D,) of the detections, best first; `truths` (N,) true boxes a frame.
    """

    scores: npt.NDArray[np.float64]
    hit: npt.NDArray[np.bool_]
    frame: npt.NDArray[np.intp]
    truths: npt.NDArray[np.int64]

    def precision(self, times: npt.NDArray[np.int64]) -> float:
        """Average precision when frame k is taken `times[k]` times; NaN without a true box."""
        wanted = int(times @ self.truths)
        if not wanted:
            return float("nan")
        weight = times[self.frame]
        hits, seen = np.cumsum(weight * self.hit), np.cumsum(weight)
        precision = np.divide(hits, seen, out=np.zeros(len(hits)), where=seen > 0)
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits / wanted, _RECALLS, side="left")
        return float(falling[at[at < len(hits)]].sum() / len(_RECALLS))


def match_boxes(found: Sequence[Rows], truth: Sequence[Rows], label: int, iou: float = 0.5) -> MatchedBoxes:
    """The detections of class `label` in every frame, matched greedily by falling score as COCO does."""
    scores, hits, frames = [], [], []
    for k, (rows, wanted) in enumerate(zip(found, truth, strict=True)):
        own = rows[rows[:, 0] == label]
        own = own[np.argsort(-own[:, 1], kind="stable")]
        taken = match_greedily(iou_matrix(own[:, 2:], wanted[wanted[:, 0] == label, 1:]), (iou,))[0]
        scores.append(own[:, 1].astype(np.float64))
        hits.append(taken >= 0)
        frames.append(np.full(len(own), k))
    values = np.concatenate(scores)
    order = np.argsort(-values, kind="stable")
    return MatchedBoxes(
        scores=values[order],
        hit=np.concatenate(hits)[order],
        frame=np.concatenate(frames)[order],
        truths=np.array([(rows[:, 0] == label).sum() for rows in truth], np.int64),
    )


def gap_interval(
    first: Sequence[Sequence[Rows]],
    second: Sequence[Sequence[Rows]],
    truth: Sequence[Rows],
    labels: Sequence[int],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean AP50 of the systems `first` minus that of `second`, and its 95 % interval: (gap, low, high).

    Each is a sequence of seeds, of which each holds the rows of all frames; a `second` of one seed stands for all.
    Frames and seeds are drawn again together for both (percentile bootstrap, Efron 1979): the pairing removes what
    makes frames hard for everyone. A draw in which a class has no true box counts the other classes.
    """
    if not first or len(second) not in (1, len(first)) or not labels:
        raise ConfigError(
            f"{len(first)} and {len(second)} seeds, {len(labels)} classes; equal numbers or one, and a class are needed"
        )
    systems = [[[match_boxes(rows, truth, label) for label in labels] for rows in seeds] for seeds in (first, second)]

    def mean(seeds: list[list[MatchedBoxes]], times: npt.NDArray[np.int64], rows: npt.NDArray[np.intp]) -> float:
        values = [[one.precision(times) for one in seeds[row % len(seeds)]] for row in np.unique(rows)]
        return float(np.average(np.nanmean(values, axis=1), weights=np.unique(rows, return_counts=True)[1]))

    def gap(times: npt.NDArray[np.int64], rows: npt.NDArray[np.intp]) -> float:
        return mean(systems[0], times, rows) - mean(systems[1], times, rows)

    rng, n = np.random.default_rng(seed), len(truth)
    found = np.empty(draws)
    for k in range(draws):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        found[k] = gap(times, rng.integers(0, len(first), len(first)))
    low, high = np.percentile(found, (2.5, 97.5))
    return gap(np.ones(n, np.int64), np.arange(len(first))), float(low), float(high)


def trivial_detections(train: BoxedFrames, frames: BoxedFrames, boxes_per_class: int = 1) -> list[Rows]:
    """The answer of someone who saw the training boxes and looks at no frame: the same boxes, always.

    Boxes are shares of the frame's sides. With `boxes_per_class` 1 every class has its mean box; with more, as many
    training boxes are picked one by one, each time the one that covers most training boxes of the class which no
    earlier one covers (IoU above 0.5), scored by the share of frames that it covers.
    """
    known = np.concatenate([_shares(train, k) for k in range(len(train.frames))])
    rows = []
    for label in np.unique(known[:, 0]):
        own = known[known[:, 0] == label, 1:]
        if boxes_per_class == 1:
            rows.append([label, len(own) / len(known), *own.mean(0)])
            continue
        covers = iou_matrix(own, own) > 0.5
        left = np.ones(len(own), bool)
        for _ in range(min(boxes_per_class, len(own))):
            best = int(covers[:, left].sum(1).argmax())
            rows.append([label, covers[best, left].sum() / len(train.frames), *own[best]])
            left &= ~covers[best]
    fixed = np.array(rows)
    return [_rows(fixed, frame.shape) for frame in frames.frames]


def nearest_detections(train: BoxedFrames, frames: BoxedFrames, neighbours: int = 1) -> list[Rows]:
    """The boxes of the training frames that look most alike (correlation of grey thumbnails), nearest first."""
    theirs, ours = _thumbnails(train), _thumbnails(frames)
    found = []
    for thumbnail, frame in zip(ours, frames.frames, strict=True):
        alike = theirs @ thumbnail
        rows = [np.zeros((0, 6))]
        for k in np.argsort(-alike, kind="stable")[:neighbours]:
            shares = _shares(train, int(k))
            rows.append(np.insert(shares, 1, (1 + alike[k]) / 2, axis=1))
        found.append(_rows(np.concatenate(rows), frame.shape))
    return found


def trivial_answers(train: BoxedFrames, frames: BoxedFrames) -> dict[str, list[Rows]]:
    """Answers without a network, by what they are; a detector has to beat the best of them."""
    answers = {"mean box a class": trivial_detections(train, frames)}
    for n in (3, 10, 30):
        answers[f"{n} commonest boxes a class"] = trivial_detections(train, frames, n)
    for n in (1, 3, 10):
        answers[f"boxes of the {n} most alike training frames"] = nearest_detections(train, frames, n)
    return answers


def _shares(frames: BoxedFrames, k: int) -> npt.NDArray[np.float64]:
    """Rows (label, x0, y0, x1, y1) of frame `k`, coordinates as shares of its sides."""
    boxes = frames.boxes[k].astype(np.float64)
    boxes[:, 1:] /= np.tile(frames.frames[k].shape[::-1], 2)
    return boxes


def _rows(fixed: npt.NDArray[np.float64], shape: tuple[int, int]) -> Rows:
    rows = fixed[np.argsort(-fixed[:, 1], kind="stable")].copy()
    rows[:, 2:] *= np.tile(shape[::-1], 2)
    return rows.astype(np.float32)


def _thumbnails(frames: BoxedFrames) -> npt.NDArray[np.float64]:
    """(N, T) of zero mean and unit norm."""
    small = []
    for frame in frames.frames:
        grey = frame.image.astype(np.float64)
        grey = grey.mean(axis=2) if grey.ndim == 3 else grey
        rows = np.array_split(np.arange(grey.shape[0]), _THUMBNAIL)
        columns = np.array_split(np.arange(grey.shape[1]), _THUMBNAIL)
        bands = np.stack([grey[part].mean(axis=0) for part in rows])
        small.append(np.stack([bands[:, part].mean(axis=1) for part in columns], axis=1).ravel())
    values = np.array(small)
    values -= values.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norm, 1e-12))
