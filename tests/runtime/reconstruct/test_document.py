"""The page on reconstruction: its Python runs, and its commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.geometry import rotation_to_quaternion_wxyz
from edge_runtime.sources import TrackedSequence
from edge_runtime.sources.tracked import write_sequence

for package in ("numba", "cv2", "onnxruntime", "cryptography", "typer", "yaml"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reconstruction.md"
MATRIX = np.diag([0.3, 0.3, 0.3, 1.0])


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch, random_pose):
    """What the page names: a recording, images with poses, a calibration and a bundle."""
    import cv2

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    frames, times = rng.integers(0, 256, (8, 40, 40), np.uint8), np.arange(8) * 10**8
    frames[:, 10:30, 10:30] = 255
    T = np.stack([random_pose(rng, angle=0.05, shift=0.3, z=0.4 * k) for k in range(8)])
    write_sequence("sweep.igs.mha", TrackedSequence(
        frames=frames, orientation="MF", times_ns=times, transforms={"ProbeToReference": T}
    ))  # fmt: skip
    Path("images").mkdir()
    lines = ["time,x,y,z,qx,qy,qz,qw"]
    for k in range(8):
        cv2.imwrite(f"images/{k}.png", frames[k])
        w, *v = rotation_to_quaternion_wxyz(T[k, :3, :3])
        lines.append(",".join(map(str, (times[k] / 1e9, *T[k, :3, 3] / 1000, *v, w))))
    Path("poses.csv").write_text("\n".join(lines))
    Path("ImageToProbe.txt").write_text(" ".join(map(str, MATRIX.ravel())))
    shutil.copy(ROOT / "tests" / "data" / "v1.edge", "student.edge")
    return tmp_path


def test_the_python_runs_from_top_to_bottom(folder):
    names = {"matrix": MATRIX}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), names)
    assert {"volume.nrrd", "sigma.nrrd"} <= {path.name for path in folder.iterdir()}
    assert names["measure"].volume_mm3.value > 0
    assert len(names["editable"].frames) == 7


def test_the_commands_run(folder):
    from typer.testing import CliRunner

    from edge_runtime.cli.app import app

    lines = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("edge-runtime reconstruct")
    ]
    assert len(lines) == 3
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, done.stderr
