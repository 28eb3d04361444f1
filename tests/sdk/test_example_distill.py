"""The example of one's own module runs as its README says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cv2")

SCRIPT = Path(__file__).parents[2] / "examples" / "02_distill_your_own_module" / "run.py"


def test_the_example_writes_a_student_and_a_report(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--frames", "16", "--epochs", "1"]
    subprocess.run([sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "student.pt").stat().st_size > 0
    assert report["macs"]["teacher"] > 10 * report["macs"]["student"]
    assert set(report["dice"]) == {"teacher", "student"}
