"""What the README shows runs: its Python example and its device commands, on the committed v1 bundle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that looks as after `make demo`, with the committed sample bundle as the demonstration's."""
    from pydicom import examples

    (tmp_path / "demo-out").mkdir()
    for target in ("demo-out/demo.edge", "demo.edge"):
        shutil.copy(ROOT / "tests" / "data" / "v1.edge", tmp_path / target)
    shutil.copy(ROOT / "tests" / "data" / "v1.pub.pem", tmp_path / "demo-key.pub.pem")
    shutil.copy(examples.get_path("ybr_color"), tmp_path / "cine.dcm")
    shutil.copytree(ROOT / "examples" / "fetal_head", tmp_path / "examples" / "fetal_head")
    return tmp_path


def test_python_example(place: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    done = subprocess.run([sys.executable, "-c", block], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no mm2: " in done.stdout
    assert "misses" in done.stdout


def device_commands() -> list[str]:
    return re.findall(r"^    (edge-runtime .*)$", README, re.MULTILINE)


def test_device_commands(place: Path) -> None:
    commands = device_commands()
    assert len(commands) == 5
    for command in commands:
        environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            command.split(), cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (place / "results" / "report.json").exists()


def test_make_targets_and_links_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_plain_commands_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for piece in ("-c constraints.txt -r requirements-dev.txt", "edge-sdk demo --out", "ruff check .", "mypy"):
        assert piece in README
        assert piece in makefile


def test_host_commands_name_what_is_there() -> None:
    commands = re.findall(r"^    edge-sdk (distill|evaluate) (\S+)", README, re.MULTILINE)
    assert {command for command, _ in commands} == {"distill", "evaluate"}
    for command, first in commands:
        if command == "distill":
            load_recipe(ROOT / first)
        done = subprocess.run([SCRIPTS / "edge-sdk", command, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
