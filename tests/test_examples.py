"""Every example runs as its README says, in a fresh folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cv2")
pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.parent.name for path in EXAMPLES.glob("*/run.py"))
SHORT = {"02_distill_your_own_module": ("--out", "out", "--frames", "16", "--epochs", "1")}
EXPECTED = {
    "01_run_a_bundle": r"no pixel size given[\s\S]* 0 failed[\s\S]*misses",
    "02_distill_your_own_module": r'"dice_drop_points"',
    "03_stream_with_a_budget": r"d[\s\S]*balances: True",
    "04_reconstruct_a_sweep": r"mean absolute error [0-2]\.\d\d grey levels",
    "05_twenty_lines": r"Dice 0\.[89]",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """`outputs(name)` -> (folder it ran in, what it printed); each example is run once."""
    done: dict[str, tuple[Path, str]] = {}

    def run(name: str) -> tuple[Path, str]:
        if name not in done:
            folder = tmp_path_factory.mktemp("example")
            command = [sys.executable, str(EXAMPLES / name / "run.py"), *SHORT.get(name, ())]
            environment = {**os.environ, "TMPDIR": str(folder)}
            found = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            assert found.returncode == 0, found.stderr
            done[name] = folder, found.stdout
        return done[name]

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_runs(outputs, name):
    assert re.search(EXPECTED[name], outputs(name)[1])


def test_the_student_of_example_02_is_smaller_than_its_teacher(outputs):
    folder, _ = outputs("02_distill_your_own_module")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert (folder / "out" / "student.pt").stat().st_size > 0
    assert report["macs"]["teacher"] > 10 * report["macs"]["student"]
    assert set(report["dice"]) == {"teacher", "student"}


def test_example_05_has_twenty_lines():
    lines = (EXAMPLES / "05_twenty_lines" / "run.py").read_text().splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith('"""')]) <= 20


def test_example_04_writes_what_it_names(outputs):
    folder, printed = outputs("04_reconstruct_a_sweep")
    for path in map(Path, printed.splitlines()[-1].split(", ")):
        assert path.is_relative_to(folder)
        assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_is_listed_and_explained(name):
    assert f"`{name}`" in (EXAMPLES / "README.md").read_text()
    assert f"python examples/{name}/run.py" in (EXAMPLES / name / "README.md").read_text()


def test_every_recipe_is_listed():
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`recipes/{path.name}`" in listed for path in (EXAMPLES / "recipes").iterdir())
