"""Folds and splits that keep an exam on one side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_sdk.evaluate import check_split, grouped_folds


@settings(max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=6, max_size=80), st.integers(2, 6), st.integers(0, 99))
def test_every_image_is_held_out_once_and_no_group_is_divided(numbers: list[int], k: int, seed: int) -> None:
    groups = [f"exam {n}" for n in numbers]
    if len(set(groups)) < k:
        with pytest.raises(ConfigError, match="folds"):
            grouped_folds(groups, k, seed)
        return
    folds = grouped_folds(groups, k, seed)
    assert len(folds) == k
    assert all(len(fold) for fold in folds)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(groups)))
    sides = [{groups[i] for i in fold} for fold in folds]
    assert sum(map(len, sides)) == len(set(groups))
    assert all(np.array_equal(a, b) for a, b in zip(folds, grouped_folds(groups, k, seed), strict=True))


def test_folds_are_of_about_equal_size_and_strata() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 120)
    groups = [f"e{g}" for g, n in enumerate(sizes) for _ in range(n)]
    strata = [("small", "large")[g % 4 == 0] for g, n in enumerate(sizes) for _ in range(n)]
    folds = grouped_folds(groups, 5, 3, strata)
    counts = np.array([len(fold) for fold in folds])
    large = np.array([sum(strata[i] == "large" for i in fold) for fold in folds])
    assert np.ptp(counts) <= 4
    assert np.ptp(large) <= 4
    other = grouped_folds(groups, 5, 4, strata)
    assert any(not np.array_equal(a, b) for a, b in zip(folds, other, strict=True))


def test_strata_are_as_even_as_those_of_scikit_learn() -> None:
    peer = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(1)
    groups = [f"e{n}" for n in rng.integers(0, 40, 200)]
    strata = [f"s{n % 3}" for n in rng.integers(0, 9, 200)]
    theirs = [t for _, t in peer.StratifiedGroupKFold(5, shuffle=True, random_state=0).split(groups, strata, groups)]

    def unevenness(folds: list[np.ndarray]) -> float:
        table = np.array([[sum(strata[i] == s for i in fold) for s in sorted(set(strata))] for fold in folds])
        return float((table / table.sum(axis=0)).std(axis=0).mean())

    assert unevenness(grouped_folds(groups, 5, 0, strata)) <= unevenness(theirs) + 0.02


def test_bad_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 folds of 3 groups; 2 to 3"):
        grouped_folds(["a", "b", "c"], 4, 0)
    with pytest.raises(ConfigError, match="1 folds"):
        grouped_folds(["a", "b", "c"], 1, 0)
    with pytest.raises(ConfigError, match="group 1 has no name"):
        grouped_folds(["a", " ", "c"], 2, 0)
    with pytest.raises(ConfigError, match="3 groups and 1 strata"):
        grouped_folds(["a", "b", "c"], 2, 0, ["x"])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_split_that_divides_an_exam_is_refused_with_both_files(tmp_path: Path) -> None:
    good = write(tmp_path / "good.csv", "file,split,exam\na.png,train,1\nb.png,train,1\nc.png,test,2\n")
    check_split(good, group="exam")
    bad = write(tmp_path / "bad.csv", "file,split,exam\na.png,train,1\nb.png,test,2\nc.png,test,1\n")
    with pytest.raises(ConfigError, match=r"bad\.csv: exam '1' is in two splits, a\.png in 'train' and c\.png in 'te"):
        check_split(bad, group="exam")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,split\na,train\n", "column file"),
        ("file,split\na.png,train\n", "no column 'exam'"),
        ("file,split,exam\na.png,train,\n", "a.png has no exam"),
        ("file,split,exam\na.png,train,1\na.jpg,train,1\n", "line 3: a.jpg is in line 2 already"),
        ("file,split,exam\na.png,train\n", "line 2"),
        ("file,split,exam\na.png,train,1,2\n", "line 2"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check_split(write(tmp_path / "m.csv", text), group="exam")


def test_a_missing_or_binary_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        check_split(tmp_path / "none.csv", group="exam")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"b\.csv"):
        check_split(tmp_path / "b.csv", group="exam")
