"""docs/targets.md claims no version whose names are not recorded, and leaves none out."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
NAMES = Path(__file__).with_name("names")
STATES = ("executed", "built, never executed", "names checked, never executed", "not tried")


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


def test_the_versions_of_the_table_are_those_recorded() -> None:
    claimed = {row[1] for row in rows() if re.search(r"\d+\.\d+\.", row[1])}
    recorded = {path.stem for path in NAMES.glob("*.json")}
    assert claimed == recorded


def test_every_row_has_one_of_the_four_states() -> None:
    assert {row[2] for row in rows()} == set(STATES)
    for _, version, state, basis in rows():
        if state.startswith(("names", "built")):
            assert f"tests/runtime/engines/names/{version}.json" in basis


def test_every_file_named_exists() -> None:
    text = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[^`]+)`", text):
        assert (ROOT / name).exists(), name


def test_each_table_is_of_the_version_in_its_name() -> None:
    for path in NAMES.glob("*.json"):
        head = json.loads(path.read_text())
        assert path.stem.removeprefix("rtx-") == head["version"]
        assert ("rtx" in path.stem) == ("rtx" in head["package"])
        assert head["wheel_sha256"] or "rtx" in path.stem
