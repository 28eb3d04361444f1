"""The form of the benchmarks: every key is there, a broken row is said, a goal is never printed as a value."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import typer

from benchmarks import figures, main_job
from benchmarks.distill.rows import ROWS as DISTILL_ROWS
from benchmarks.figures import Figure, Row, judged, run
from edge_runtime.errors import ConfigError

KEYS = (
    "setup",
    "import_s",
    "device_only_install",
    "student_vs_teacher",
    "variant_drop",
    "jpeg_decode_ratio",
    "stream_misses",
    "area_error",
    "volume_error",
)


def figure(value: float | None, met: bool | None, reason: str = "") -> Figure:
    return Figure(name="f", value=value, goal="<= 3", unit="ms", n=5, met=met, spread="1 to 2", reason=reason)


def row(key: str, *found: Figure) -> Row:
    return Row(key=key, what="what", measure=lambda: found)


def broken() -> list[Figure]:
    raise RuntimeError("no such thing")


DISTILL_KEYS = (
    "hc18_teacher",
    "hc18_student",
    "kd_gain",
    "ultra_light",
    "usgra_student",
    "label_free_gain",
    "usgra_detection",
    "lung_clips",
    "denoise",
    "audit_power",
    "explanation_check",
    "calibration",
    "metric_parity",
    "resume",
)


def test_every_key_is_there() -> None:
    assert tuple(row.key for row in main_job.ROWS) == KEYS
    assert tuple(row.key for row in DISTILL_ROWS) == DISTILL_KEYS


def test_rows_that_share_a_training_train_once(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []

    def train() -> None:
        calls.append("trained")

    rows = [Row(key=key, what="", measure=lambda: [figure(2.0, True)], fresh=train) for key in ("one", "two")]
    rows.append(row("three", figure(2.0, True)))
    assert run("t", "T", rows, only=(), as_json=True, write=False, fresh=True) == 0
    assert calls == ["trained"]
    assert run("t", "T", rows, only=("three",), as_json=True, write=False, fresh=True) == 0
    assert calls == ["trained"]
    assert capsys.readouterr().out


def test_json_has_an_entry_per_key(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("one", figure(2.0, True)), row("two", figure(1.0, True), figure(2.5, True))]
    assert run("t", "T", rows, only=(), as_json=True, write=False) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"value", "goal", "unit", "n", "spread"} <= set(found["one"])
    assert [entry["value"] for entry in found["two"]] == [1.0, 2.5]


def test_a_missed_goal_and_a_broken_row_end_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("t", "T", [row("one", figure(9.0, False))], only=(), as_json=False, write=False) == 1
    assert "| NO |" in capsys.readouterr().out
    rows = [Row(key="bad", what="", measure=broken), row("one", figure(2.0, True))]
    assert run("t", "T", rows, only=(), as_json=True, write=False) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["bad"]["value"] is None
    assert "no such thing" in found["bad"]["reason"]
    assert found["one"]["value"] == 2.0


def test_only_one_row_and_unknown_keys(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("one", figure(2.0, True)), row("two", figure(2.0, True))]
    run("t", "T", rows, only=("two",), as_json=True, write=False)
    assert "one" not in json.loads(capsys.readouterr().out)
    with pytest.raises(typer.BadParameter, match="three"):
        run("t", "T", rows, only=("three",), as_json=True, write=False)


def test_results_are_rewritten_section_by_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "RESULTS.md")
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 2.5)):
        run(name, name.upper(), [row("k", figure(value, True))], only=(), as_json=False, write=True)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("## A") == text.count("## B") == 1
    assert "2.5 ms" in text
    assert "| 1 ms |" not in text
    run("a", "A", [row("k", figure(1.5, True))], only=("k",), as_json=False, write=True)
    assert "1.5 ms" in (tmp_path / "RESULTS.md").read_text()


def test_rows_alone_are_put_into_the_table_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "RESULTS.md")
    rows = [row("one", figure(1.5, True)), row("two", figure(2.5, True)), row("three", figure(2.75, True))]
    run("t", "T", rows, only=(), as_json=False, write=True)
    rows[1] = row("two", figure(2.0, True), figure(1.25, True))
    run("t", "T", rows, only=("two",), as_json=False, write=True)
    text = (tmp_path / "RESULTS.md").read_text()
    keys = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert keys == ["one", "two", "two", "three"]
    assert "| 2.5 ms |" not in text
    assert "| 1.25 ms |" in text
    assert text.count("Machine:") == 1
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [("<= 0.540 mm", 0.54, True), ("<= 0.540 mm", 0.5401, False), ("< 300 s", 300, False), (">= 10", 10, True),
     ("> 6 times", 6, False), ("<= 1e-4", 2e-4, False), (">= -0.5 dB", -0.4, True), (">= 10", math.nan, False)],
)  # fmt: skip
def test_a_figure_is_held_to_the_bound_that_its_goal_says(goal: str, value: float, met: bool) -> None:
    figure = judged(name="a", value=value, goal=goal, unit="", n=1)
    assert (figure.met, figure.goal) == (met, goal)


@pytest.mark.parametrize("goal", ["yes", "size < 0.001", "<= five", ">= 6x", "> 0.5.1", "<=3"])
def test_a_goal_without_a_bound_is_refused(goal: str) -> None:
    with pytest.raises(ConfigError, match="does not begin with"):
        judged(name="a", value=1.0, goal=goal, unit="", n=1)
