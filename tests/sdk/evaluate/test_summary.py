"""Intervals against SciPy's bootstrap and the normal theory; clusters, pairs, folds and cohorts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_sdk.evaluate import (
    AuditConfig,
    ClusterBootstrap,
    CohortConfig,
    EvaluateConfig,
    ImageScores,
    SystemConfig,
    evaluate,
    load_config,
)
from edge_sdk.evaluate.cases import read_cohort
from edge_sdk.evaluate.config import QuantityConfig
from edge_sdk.evaluate.summary import differences, summaries

RNG = np.random.default_rng(3)


def test_the_interval_is_scipys_where_every_image_is_its_own_cluster() -> None:
    values = RNG.gamma(2, 1, 80)
    found = ClusterBootstrap([str(k) for k in range(80)], draws=20_000).interval(values)
    peer = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert found == pytest.approx((peer.low, peer.high), abs=0.02)


def test_whole_clusters_are_drawn() -> None:
    values = np.repeat(RNG.normal(0, 1, 40), 5)
    names = [str(k // 5) for k in range(200)]
    low, high = ClusterBootstrap(names, draws=8000).interval(values) or (0, 0)
    wanted = 2 * 1.96 * values.std(ddof=1) / np.sqrt(40)
    assert high - low == pytest.approx(wanted, rel=0.08)
    assert ClusterBootstrap(["one"] * 5).interval(np.ones(5)) is None
    with_gaps = np.where(np.arange(200) < 100, np.nan, values)
    assert ClusterBootstrap(names).interval(with_gaps) is not None


def rows(system: str, values: np.ndarray, **more: str) -> list[ImageScores]:
    return [
        ImageScores(
            image=f"{k}.png", cohort=more.get("cohort", "c"), group="", system=system, missed=False,
            values={"dice": float(v), "hd95": None}, columns={},
        )
        for k, v in enumerate(values)
    ]  # fmt: skip


def test_differences_are_paired_and_metrics_that_are_not_defined_are_left_out() -> None:
    hard = RNG.normal(0.8, 0.1, 60)
    both = rows("teacher", hard) + rows("student", hard - 0.01 + RNG.normal(0, 0.001, 60))
    (found,) = differences(both, draws=2000, seed=0)
    assert found.mean == pytest.approx(-0.01, abs=1e-3)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low < 0.001, "hard images cancel"
    teacher, student = summaries(both, draws=2000, seed=0)
    assert teacher.metrics["dice"].mean == pytest.approx(hard.mean())
    assert teacher.metrics["dice"].worst == hard.min()
    assert set(student.metrics) == {"dice"}
    with pytest.raises(ConfigError, match="different images"):
        differences(rows("a", hard) + rows("b", hard[:5]), draws=200, seed=0)


def test_folds_score_every_image_by_the_network_that_has_not_seen_its_exam(
    discs: Path, scripts: dict[str, Path], steps: PreprocessSpec, tmp_path: Path
) -> None:
    for fold, name in enumerate(("teacher", "student")):
        (tmp_path / f"m{fold}.pt").write_bytes(scripts[name].read_bytes())
    config = EvaluateConfig(
        cohorts=(CohortConfig(images="images", masks="masks", manifest="manifest.csv"),),
        systems=(
            SystemConfig(name="folds", path=str(tmp_path / "m{fold}.pt")),
            SystemConfig(name="teacher", path=str(scripts["teacher"])),
        ),
        classes=("head",),
        group="exam",
        preprocess=steps,
        folds=2,
        bootstrap=200,
        audit=None,
    )
    (discs / "manifest.csv").write_text((discs / "manifest.csv").read_text().replace(",test,", ",train,"))
    found = evaluate(config, base=discs)
    assert [row.image for row in found.images if row.system == "folds"] == [f"{k:02}.png" for k in range(12)]
    mine, other = (np.array(found.scores("dice", name)) for name in ("folds", "teacher"))
    by_exam = {row.group: [] for row in found.images}
    for row, a, b in zip([r for r in found.images if r.system == "folds"], mine, other, strict=True):
        by_exam[row.group].append(bool(a == b))
    assert all(len(set(same)) == 1 for same in by_exam.values()), "an exam is held out in one fold"
    assert 0 < sum(same[0] for same in by_exam.values()) < len(by_exam)


def test_settings_are_checked_and_unknown_keys_named(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("cohorts: [{images: a, masks: b}]\nsystems: [{path: c.pt}]\nbootstraps: 3\n")
    with pytest.raises(ConfigError, match="did you mean 'bootstrap'"):
        load_config(path)
    path.write_text("cohorts: []\nsystems: [{path: c.pt}]\n")
    with pytest.raises(ConfigError, match=r"e\.yaml: cohorts"):
        load_config(path)
    with pytest.raises(ConfigError, match="mask_values has 3"):
        EvaluateConfig(
            cohorts=(CohortConfig(images="", masks="", mask_values=(0, 1, 2)),), systems=(SystemConfig(path="a.pt"),)
        )
    for bad in ({"min_group": 2}, {"alpha": 0.5}, {"metric": "speed"}, {"bands": 1}, {"margin": -1.0}, {"power": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            AuditConfig(**bad)


def test_a_cohorts_bad_input_names_the_file(discs: Path) -> None:
    config = CohortConfig(images="images", masks="masks", manifest="manifest.csv", split="test")
    assert len(read_cohort(config, discs, group="exam")) == 10
    text = (discs / "manifest.csv").read_text()

    def broken(old: str, new: str, match: str) -> None:
        (discs / "manifest.csv").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=match):
            read_cohort(config, discs, group="exam", quantity=QuantityConfig(column="head_circumference_mm"))

    broken("03.png", "99.png", "no row for 03.png")
    broken("00.png", "77.png,test,9,0.5,1,A\n00.png", r"names 77\.png, which is not in")
    broken("03.png,test,1,0.5", "03.png,test,1,x", r"03\.png: pixel_size_mm is 'x'")
    broken("03.png,test,1,0.5", "03.png,test,1,-1", r"03\.png: pixel_size_mm is '-1'")
    broken("head_circumference_mm", "hc", "no column 'head_circumference_mm'")
    broken(",test,", ",val,", "no row with split 'test'")
