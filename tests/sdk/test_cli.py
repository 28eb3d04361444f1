"""`edge-sdk`: help, the two programs that it carries, and `distill` with a tiny recipe; mistakes in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_sdk import __version__
from edge_sdk.cli import app

V1 = Path(__file__).parents[1] / "data" / "v1.edge"
HEAVY = ("numpy", "onnx", "torch", "onnxruntime", "cv2", "pydicom", "monai", "lightning_fabric", "scipy", "matplotlib")
RECIPE = """
name: tiny
data: {kind: folder, images: images, masks: masks, hold_out_every: 4}
classes: [disc]
unlabelled: []
preprocess:
  steps: [{step: to_gray}, {step: resize, height: 16, width: 16}, {step: normalize}]
teacher: {train: {network: {width: 4, depth: 2}, optimiser: {epochs: 1, threads: 1}}}
distill: {network: {width: 2, depth: 2}, optimiser: {epochs: 1, threads: 1}}
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(item) for item in arguments])


def refused(found, code: int, *words: str) -> None:
    assert (found.exit_code, found.stdout) == (code, ""), found.stderr
    assert "Traceback" not in found.stderr
    assert any(line.startswith("error: ") for line in found.stderr.splitlines()), found.stderr
    for word in words:
        assert word in found.stderr


@pytest.fixture
def folder(tmp_path):
    """recipe.yaml and eight images with masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24]
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for k in range(8):
        mask = (x - rng.uniform(8, 16)) ** 2 + (y - 12) ** 2 < 30
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), np.where(mask, 40, 180).astype(np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{k}.png"), mask.astype(np.uint8) * 255)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


COMMANDS = [
    (), ("demo",), ("distill",), ("export",), ("export", "package"), ("export", "lint"), ("export", "keygen"),
    ("export", "sign"), ("runtime",), ("runtime", "doctor"), ("runtime", "inspect"), ("runtime", "verify"),
    ("runtime", "run"), ("evaluate",),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    found = call(*command, "--help")
    assert found.exit_code == 0
    assert "Usage:" in found.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom edge_sdk.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        f"    print('LOADED', [m for m in {HEAVY!r} if m in sys.modules], end.code)"
    )
    command = [sys.executable, "-c", code, "--help"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.splitlines()[-1] == "LOADED [] 0", found.stderr


def test_version():
    assert call("--version").stdout == f"{__version__}\n"


def test_the_other_programs_answer_as_sub_commands():
    facts = json.loads(call("runtime", "inspect", V1, "--json").stdout)
    assert facts["manifest"]["name"] == "v1-sample"
    refused(call("export", "lint", V1), 1, "not an ONNX model")
    refused(call("runtime", "verify", "none.edge"), 3, "none.edge")


def test_distill(folder):
    found = call("distill", folder / "recipe.yaml", "--out", folder / "out")
    assert found.exit_code == 0, found.stderr
    assert "student: Dice" in found.stdout
    assert "teacher: Dice" in found.stdout
    assert (folder / "out" / "student.pt").stat().st_size > 0
    assert "hold_out_every: 4" in found.stderr  # the effective recipe
    assert "learning_rate:" in found.stderr
    again = call("distill", folder / "recipe.yaml", "--out", folder / "out", "--json")
    assert json.loads(again.stdout)["student"]["dice"]["n"] == 2


def test_distill_to_a_file(folder):
    section = "export:\n  rtx: false\n  precisions: [fp32]\n  card: {intended_use: a, training_data: b, limits: c}\n"
    (folder / "recipe.yaml").write_text(RECIPE + section)
    found = call("distill", folder / "recipe.yaml", "--out", folder / "out")
    assert found.exit_code == 0, found.stderr
    assert "fp32 on onnxruntime: loses" in found.stdout
    assert "tiny.edge: " in found.stdout
    assert found.stdout.endswith("student.onnx, tiny.edge and report.json written\n")
    facts = json.loads(call("runtime", "inspect", folder / "out" / "tiny.edge", "--json").stdout)
    assert facts["manifest"]["name"] == "tiny"
    (folder / "recipe.yaml").write_text(RECIPE + section.replace("rtx: false", "key: none.pem"))
    refused(call("distill", folder / "recipe.yaml", "--out", folder / "two"), 2, "none.pem is not a file")
    assert not (folder / "two").exists()


def test_mistakes_in_a_recipe(folder):
    def recipe(text: str) -> Path:
        path = folder / "bad.yaml"
        path.write_text(text)
        return path

    out = folder / "out"
    refused(call("distill", folder / "none.yaml", "--out", out), 2, "none.yaml cannot be read")
    refused(call("distill", folder, "--out", out), 2, "cannot be read")
    refused(call("distill", recipe("clases: [a]\n"), "--out", out), 2, "unknown key 'clases'; did you mean 'classes'?")
    refused(call("distill", recipe("- 1\n"), "--out", out), 2, "bad.yaml")
    refused(call("distill", recipe("name: [\n"), "--out", out), 2, "not valid YAML")
    assert not out.exists()
    missing = RECIPE.replace("images: images", "images: none")
    refused(call("distill", recipe(missing), "--out", out), 2, "none is not a folder")
    refused(call("distill", folder / "recipe.yaml", "--out", folder / "recipe.yaml"), 2, "cannot be made a folder")
    assert call("distill", folder / "recipe.yaml").exit_code == 2


def test_mistakes_of_the_demonstration(folder):
    bad = folder / "demo.yaml"
    bad.write_text("stream: 20\n")
    refused(call("demo", "--out", folder / "out", "--config", bad), 2, "unknown key 'stream'; did you mean 'stream_s'?")
    bad.write_text("stream_s: 0\n")
    refused(call("demo", "--out", folder / "out", "--config", bad), 2, "stream_s is 0")
    refused(call("demo", "--out", folder / "out", "--config", folder / "none.yaml"), 2, "cannot be read")
    assert not (folder / "out").exists()
    refused(call("demo", "--out", folder / "recipe.yaml"), 2, "cannot be made a folder")


def test_a_bug_is_exit_70(folder, monkeypatch):
    monkeypatch.setattr("edge_sdk.recipe.load_recipe", lambda path: 1 / 0)
    found = call("distill", folder / "recipe.yaml", "--out", folder / "out")
    assert found.exit_code == 70
    assert "ZeroDivisionError" in found.stderr
    assert "report it" in found.stderr
