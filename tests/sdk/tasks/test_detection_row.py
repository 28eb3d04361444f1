"""The detection row measures what is stored, and says why when it cannot."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from benchmarks.distill import detection, stored
from edge_sdk.frames import frames_of
from edge_sdk.tasks.detection.data import BoxedFrames


@pytest.fixture
def row(tmp_path, monkeypatch):
    """Eight frames with boxes in place of the real ones, records beside them, no network run."""
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(8):
        low = rng.uniform(0, 40, (3, 2))
        boxes.append(np.column_stack([[0, 1, 1], low, low + 20]).astype(np.float32))
    names = tuple(f"{k}.png" for k in range(8))
    data = BoxedFrames(
        frames=frames_of(rng.integers(0, 255, (8, 64, 64), np.uint8)), boxes=boxes, names=names, groups=names
    )
    train = data.part([0, 1, 2])
    test = data.part([3, 4, 5, 6, 7])
    exact = [np.insert(rows, 1, 0.9, axis=1) for rows in test.boxes]
    missed = [rows[:2] for rows in exact]
    monkeypatch.setattr(stored, "STORED", tmp_path)
    monkeypatch.setattr(detection, "_data", lambda: (train, test))
    monkeypatch.setattr(detection, "_hashes", lambda: ("r", "d"))
    monkeypatch.setattr(detection, "_rerun", lambda: (exact, missed))
    record = stored.SeedRecord(
        row=detection.ROW,
        seed=0,
        recipe_sha256="r",
        data_sha256="d",
        names=list(test.names),
        scores={},
        log={"found": {"teacher": [r.tolist() for r in exact], "student": [r.tolist() for r in missed]}},
    )
    for seed in range(3):
        stored.save_record(msgspec.structs.replace(record, seed=seed))
    return record


def test_figures_from_stored_boxes(row):
    teacher, student, gap = detection.measure_usgra_detection()
    assert teacher.value == pytest.approx(100)
    assert teacher.met
    assert student.value == pytest.approx(50 * (1 + 51 / 101))  # half the vessels are never found: recall 0 to 0.5
    assert gap.value == pytest.approx(teacher.value - student.value, abs=1e-9)
    assert gap.met is False
    assert {len(f.detail["trivial"]) for f in (teacher, student)} == {7}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"recipe_sha256": "x"}, "stale: .*other settings"), ({"data_sha256": "x"}, "stale: .*other data"),
     ({"names": ["a", "b", "c", "d", "e"]}, "stale: .*other images")],
)  # fmt: skip
def test_a_stale_record_is_no_figure(row, change, reason):
    stored.save_record(msgspec.structs.replace(row, seed=1, **change))
    (figure,) = detection.measure_usgra_detection()
    assert figure.value is None
    assert re.match(reason, figure.reason)


def test_without_data_or_records_the_reason_is_given(row, monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "STORED", tmp_path / "none")
    (figure,) = detection.measure_usgra_detection()
    assert (figure.value, "--fresh" in figure.reason) == (None, True)
    monkeypatch.undo()
    monkeypatch.delenv("POCUS_DATA", raising=False)
    detection._data.cache_clear()
    (figure,) = detection.measure_usgra_detection()
    assert (figure.value, "POCUS_DATA" in figure.reason) == (None, True)
