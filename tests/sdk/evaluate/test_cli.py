"""`edge-sdk evaluate` from end to end on discs: tables, files, JSON, and mistakes in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edge_sdk.cli import app

CONFIG = """
cohorts:
- {{name: home, images: {0}/images, masks: {0}/masks, manifest: {0}/manifest.csv, split: test}}
- {{name: away, images: {0}/images, masks: {0}/masks, manifest: {0}/manifest.csv, split: train}}
systems:
- {{name: teacher, path: {1}}}
- {{name: student, path: {2}}}
- {{name: exported, path: {3}}}
classes: [head]
group: exam
quantity: {{column: head_circumference_mm}}
preprocess: {{steps: [{{step: to_gray}}, {{step: resize, height: 32, width: 40}}, {{step: normalize}}]}}
audit: {{columns: [device, brightness, anatomy_size], min_group: 3, permutations: 400}}
"""


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *(str(item) for item in arguments)])


@pytest.fixture
def config(discs: Path, scripts: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.yaml"
    path.write_text(CONFIG.format(discs, scripts["teacher"], scripts["student"], scripts["onnx"]), encoding="utf-8")
    return path


def flags(discs: Path) -> list[object]:
    steps = discs / "steps.yaml"
    steps.write_text("steps: [{step: to_gray}, {step: resize, height: 32, width: 40}, {step: normalize}]\n")
    return ["--images", discs / "images", "--masks", discs / "masks", "--preprocess", steps]


def test_two_cohorts_three_systems_and_every_file(config: Path, tmp_path: Path) -> None:
    found = call(config, "--out", tmp_path / "out", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert [c["name"] for c in told["cohorts"]] == ["home", "away"]
    assert told["cohorts"][0] == {"name": "home", "images": 10, "groups": 5, "unit": "mm", "split": "test"}
    home = {s["system"]: s["metrics"] for s in told["summaries"] if s["cohort"] == "home"}
    assert home["teacher"]["dice"]["mean"] > 0.97
    assert home["teacher"]["quantity_error"]["mean"] < 1.0
    assert home["student"]["dice"]["low"] <= home["student"]["dice"]["mean"] <= home["student"]["dice"]["high"]
    assert home["exported"]["dice"]["mean"] == pytest.approx(home["student"]["dice"]["mean"], abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 12 * 3
    assert np.mean([float(r["dice"]) for r in rows if r["system"] == "teacher" and r["cohort"] == "home"]) == (
        pytest.approx(home["teacher"]["dice"]["mean"])
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    for name in ("evaluation.json", "subgroups.png", "bland_altman.png", "reliability.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    levels = {(f["column"], f["level"]) for f in told["audit"]["findings"]}
    assert {("device", "A"), ("device", "B"), ("cohort", "home"), ("cohort", "away")} <= levels


def test_the_flags_give_the_table_for_people(discs: Path, scripts: dict[str, Path], tmp_path: Path) -> None:
    systems = ["--system", f"big={scripts['teacher']}", "--system", scripts["student"]]
    found = call(*flags(discs), *systems, "--out", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "student - big" in found.stdout
    assert "HD95, px" in found.stdout
    assert "No subgroup" in found.stdout or "subgroup(s) lose" in found.stdout
    assert not (tmp_path / "out" / "bland_altman.png").exists()


def refused(found: Any, *words: str, code: int = 2) -> None:
    assert (found.exit_code, found.stdout) == (code, ""), found.output
    assert "Traceback" not in found.stderr
    error = next(line for line in found.stderr.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in error


def test_mistakes_name_the_file(discs: Path, scripts: dict[str, Path], config: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    refused(call(*out), "--images, --masks, --system missing")
    refused(call(config, *out, "--split", "test"), "leave --split out")
    base = [*flags(discs), *out]
    refused(call(*base, "--system", "none.pt"), "none.pt does not exist")
    refused(call(*base, "--system", scripts["teacher"], "--split", "test"), "without a manifest")
    refused(call(*base, "--system", scripts["teacher"], "--group", "exam"), "no manifest")
    refused(call(*base, "--system", scripts["teacher"], "--subgroup", "colour"), "no column 'colour'")
    refused(call(*base, "--system", scripts["teacher"], "--mask-values", "0,x"), "--mask-values")
    refused(call(*base, "--system", scripts["teacher"], "--reference", "x"), "reference is 'x'", "teacher")
    refused(call(*base, "--system", scripts["broken"]), "00.png, system broken", "broken.pt", "NaN", code=4)
    (discs / "masks" / "03.png").unlink()
    refused(call(*base, "--system", scripts["teacher"]), "03.png has no mask")
    assert not (tmp_path / "out").exists()


def test_a_wrong_output_shape_names_image_and_file(discs: Path, tmp_path: Path) -> None:
    path = tmp_path / "shrinking.pt"
    torch.jit.save(torch.jit.script(torch.nn.AvgPool2d(2)), str(path))
    found = call(*flags(discs), "--system", path, "--out", tmp_path / "out")
    refused(found, "00.png", "shrinking.pt", "(1, 1, 16, 20)", "(1, 1, 32, 40)", code=4)


def test_an_exam_in_two_splits_is_refused(config: Path, discs: Path, tmp_path: Path) -> None:
    text = (discs / "manifest.csv").read_text()
    (discs / "manifest.csv").write_text(text.replace("11.png,train,5", "11.png,train,0"))
    refused(call(config, "--out", tmp_path / "out"), "exam '0' is in two splits", "00.png", "11.png", "manifest.csv")
