"""The benchmark rows without a rival, made small: they run, and they see what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")

from benchmarks.streaming import own


def test_random_runs_balance_and_end() -> None:
    (figure,) = own.measure_ledger_property(25)
    assert (figure.value, figure.met, figure.detail) == (0, True, {"unbalanced": [], "hung": [], "left_open": []})
    assert int(figure.spread.split()[0]) > 25


def test_a_clip_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(ord(name)).integers(0, 256, (3, 96, 144), np.uint8))
    (tmp_path / "notes.txt").write_text("no clip")
    (same,) = own.measure_lossless(tmp_path)
    assert (same.value, same.met, same.n, same.spread) == (0, True, 2, "6 frames")
    streamed = own._streamed
    monkeypatch.setattr(own, "_streamed", lambda branch, source: streamed(branch, source)[: 3 - ("b" in source.name)])
    (differ,) = own.measure_lossless(tmp_path)
    assert (differ.value, differ.met, differ.detail) == (1, False, {"differ": ["b.npy"]})
    monkeypatch.delenv("POCUS_DATA", raising=False)
    (unset,) = own.measure_lossless()
    assert (unset.value, unset.reason) == (None, "POCUS_DATA is not set")


def test_endurance_counts_every_frame() -> None:
    figures = own.measure_endurance(300)
    assert [figure.n for figure in figures] == [300] * 3
    assert figures[2].value is True
