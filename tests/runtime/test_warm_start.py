"""After a warm-up nothing compiles: not in a process that uses every kernel as files and streams would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

pytest.importorskip("numba")
pytest.importorskip("cv2")

from edge_runtime.warm_start import machine_code, warm_everything

USE = """
import json, sys
import numpy as np
from edge_runtime.preprocess import Srad
from edge_runtime.preprocess._filters import make_filter
from edge_runtime.frame import FrameGeometry, Rectangle, Sector
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.reconstruct import *
from edge_runtime.reconstruct import depth_weights, mask_surface
from edge_runtime.warm_start import machine_code, _counts

rng = np.random.default_rng(0)
packed = rng.integers(0, 255, (6, 40, 50), np.uint8).tobytes()
poses = np.tile(np.eye(4), (6, 1, 1))
for k, T in enumerate(poses):
    T[:3, :3], T[2, 3] = vector_to_rotation(np.array([0.1, 0.02 * k, 0.3])), 1.5 * k
areas = (None, Rectangle(x0=3, y0=2, x1=40, y1=30))
for frames in (np.frombuffer(packed, np.uint8).reshape(6, 40, 50), np.zeros((6, 80, 100), np.uint8)[:, ::2, ::2]):
    for area in areas:
        geometry = FrameGeometry(row_mm=0.5, column_mm=0.4, origin="user", trusted=True, scan_area=area)
        sweep = Sweep(frames=frames, T_world_image=poses, geometry=geometry)
        grid = grid_of_sweep(sweep, 1.0)
        for mode in ("mean", "max", "latest"):
            for kernel in ("nearest", "linear"):
                for threads in (1, 3):
                    volume = compound(sweep, mode=mode, kernel=kernel, grid=grid, threads=threads)
                live = LiveCompounder(1.0, mode=mode, kernel=kernel, max_mib=64)
                for k in range(6):
                    live.insert(frames[k], poses[k], geometry)
        for side in (2, 4):
            Compounder(grid, average=side, kernel="linear").insert(frames[0], poses[0], geometry)
        heavy = WeightedCompounder(grid)
        heavy.insert(frames[0], poses[0], geometry, depth_weights((40, 50), geometry, 10.0))
        heavy.remove(frames[0], poses[0], geometry)
        fuse_labels(Sweep(frames=frames % 3, T_world_image=poses, geometry=geometry), frames % 3, grid, classes=2)
        pose_uncertainty(sweep, np.eye(6) * 1e-4, grid)
        for method in ("gaussian", "nearest", "inverse-distance", "stick"):
            full = fill_holes(volume, method)
            fill_holes(volume, method, region=(slice(0, 5), slice(2, 9), slice(3, 9)))
        data = np.frombuffer(volume.data.tobytes(), np.uint8).reshape(volume.data.shape)
        stored = Volume(data=data + 90 * (len(packed) == 0), spacing_mm=(1, 1, 1), T_world_volume=np.eye(4))
        for one in (volume, full, stored):
            if one.data.any():
                isosurface(one, 1)
                isosurface(one, 1.5)
                measure_volume(one, level=1)
                mask_surface(one.data > 0, one.grid)
                turntable(one, views=3, axis="x")
image = np.frombuffer(packed, np.uint8)[:2000].reshape(40, 50)
make_filter(Srad(iterations=3, dynamic_range_db=50), (40, 50))(image, np.empty_like(image), True)
print(json.dumps({"compiled": _counts()[0], "code": machine_code()}))
"""


def test_a_process_compiles_nothing_after_a_warm_up(tmp_path):
    """With the warm-up of this process on disk, a fresh one that uses all of it makes no machine code."""
    found = warm_everything()
    assert not [one.name for one in found if one.skipped]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout.splitlines()[-1])
    warmed = machine_code()
    extra = {name: set(code) - set(warmed.get(name, ())) for name, code in used["code"].items()}
    assert not {name: sorted(code) for name, code in extra.items() if code}
    assert used["compiled"] == 0


def test_every_module_of_kernels_is_warmed():
    """A module of the runtime that no group uses would compile at its first use."""
    root = Path(edge_runtime.__file__).parent
    files = [path for path in root.rglob("*.py") if "from edge_runtime.compiled import" in path.read_text()]
    assert len(files) >= 8
    wanted = {".".join(("edge_runtime", *path.relative_to(root).with_suffix("").parts)) for path in files}
    code = "import sys\nfrom edge_runtime.warm_start import warm_everything\nwarm_everything()\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert wanted <= set(done.stdout.split())


def test_the_command_reports_what_it_compiled_and_in_what_time():
    pytest.importorskip("yaml")
    testing = pytest.importorskip("typer.testing")
    from edge_runtime.cli.app import app

    facts = json.loads(testing.CliRunner().invoke(app, ["warmup", "--json"]).stdout)
    names = set(facts["seconds"])
    assert {"nearest mean", "linear latest", "averaging", "labels", "holes stick", "mesh", "speckle reduction"} <= names
    assert set(facts["compiled"]) == set(facts["loaded"]) == names
    assert facts["total_compiled"] == sum(facts["compiled"].values())
    assert facts["skipped"] == {}
    text = testing.CliRunner().invoke(app, ["warmup"]).stdout
    assert "turntable" in text
    assert text.splitlines()[-1].startswith("all")


def test_a_group_whose_package_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    skipped = {one.name: one.skipped for one in warm_everything() if one.skipped}
    assert list(skipped) == ["speckle reduction"]
    assert "pip install" in skipped["speckle reduction"]


@pytest.mark.slow
def test_a_fresh_folder_is_filled_by_the_command(tmp_path):
    """Nothing cached: the command compiles all, once more it compiles nothing."""
    pytest.importorskip("typer")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", "from edge_runtime.cli import main; main()", "warmup", "--json"]
    totals = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        totals.append(json.loads(done.stdout)["total_compiled"])
    assert totals[0] > 20
    assert totals[1] == 0
