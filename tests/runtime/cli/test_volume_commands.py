"""`mesh`, `measure`, `slices`, `turntable`, `compare` and `calibrate`: what they write, and what mistakes leave."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("cv2")

from edge_runtime.calibration import read_calibration, write_calibration
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.reconstruct import Volume, read_volume, write_volume
from edge_runtime.sources.tracked import TrackedSequence, write_sequence

RADIUS = 6.0
COMMANDS = ("mesh", "measure", "slices", "turntable", "compare", "calibrate")


@pytest.fixture
def ball(tmp_path):
    """A file with a mask of a ball of 6 mm radius, 0.5 mm voxels."""
    at = (np.indices((32, 33, 34)).transpose(1, 2, 3, 0) - (15.5, 16, 16.5)) * 0.5
    mask = np.where((at**2).sum(-1) <= RADIUS**2, 255, 0).astype(np.uint8)
    T = np.eye(4)
    T[:3, 3] = 10, 20, 30
    write_volume(
        tmp_path / "ball.mha", Volume(data=mask, spacing_mm=(0.5,) * 3, T_world_volume=T, pose_origin="tracker")
    )
    return tmp_path / "ball.mha"


@pytest.mark.parametrize("suffix", ["stl", "ply", "obj"])
@pytest.mark.parametrize("mask", [True, False])
def test_mesh(call, ball, suffix, mask):
    out = ball.parent / f"m.{suffix}"
    words = ("mesh", ball, "--level", "100", "--out", out, *(["--mask"] if mask else []))
    facts = json.loads(call(*words, "--json").stdout)
    assert out.stat().st_size > 1000
    assert facts["closed"]
    assert facts["volume_mm3"] == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
    assert facts["surface_mm2"] == pytest.approx(4 * np.pi * RADIUS**2, rel=0.02 if mask else 0.12)
    assert "triangles" in call(*words).stdout


def test_measure(call, ball):
    facts = json.loads(call("measure", ball, "--json").stdout)
    assert facts["volume_mm3"]["value"] == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    assert facts["diameters_mm"][0]["value"] == pytest.approx(2 * RADIUS, rel=0.05)
    assert facts["pose_origin"] == "tracker"
    assert "mm^3" in call("measure", ball, "--label", "255").stdout


def test_pictures(call, ball):
    cv2 = pytest.importorskip("cv2")
    folder = ball.parent
    assert call("slices", ball, "--out", folder / "s.png", "--center", "18,28,38").exit_code == 0
    assert call("turntable", ball, "--out", folder / "t.png").exit_code == 0
    assert call("turntable", ball, "--out", folder / "views", "--views", "5").exit_code == 0
    for name in ("s.png", "t.png", "views/000.png", "views/004.png", "views/strip.png"):
        assert cv2.imread(str(folder / name)).max() > 200
    assert len(list((folder / "views").iterdir())) == 6


def test_compare(call, ball):
    folder = ball.parent
    volume = read_volume(ball)
    volume.data[volume.data > 0] -= 1
    volume.data[0, 0, 0] = 10
    write_volume(folder / "other.nrrd", volume)
    same = json.loads(call("compare", ball, ball, "--json", "--min-equal-pct", "100").stdout)
    assert same["parity"]["equal"] == 1
    assert same["error"]["rms"] == 0
    words = ("compare", ball, folder / "other.nrrd", "--error-map", folder / "e.nrrd", "--picture", folder / "e.png")
    found = call(*words, "--json")
    facts = json.loads(found.stdout)
    inside = int((read_volume(ball).data > 0).sum())
    assert facts["error"]["bias"] == pytest.approx((inside - 10) / read_volume(ball).data.size)
    assert facts["parity"]["worst"] == 10
    assert read_volume(folder / "e.nrrd").data.max() == 10
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")
    failed = call(*words, "--min-equal-pct", "50")
    assert failed.exit_code == 1
    assert "at least 50 % was asked" in failed.stderr
    assert "bias" in failed.stdout


def test_compare_what_is_shared(call, ball):
    folder = ball.parent
    volume = read_volume(ball)
    part = Volume(
        data=volume.data[:20], spacing_mm=volume.spacing_mm, T_world_volume=volume.T_world_volume, pose_origin="tracker"
    )
    write_volume(folder / "part.nii.gz", part)
    refused = call("compare", ball, folder / "part.nii.gz")
    assert refused.exit_code == 2
    assert "different lattices" in refused.stderr
    facts = json.loads(call("compare", ball, folder / "part.nii.gz", "--shared", "--json").stdout)
    assert facts["shape_zyx"] == [20, 33, 34]
    assert facts["parity"]["equal"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mesh", "ball.mha", "--out", "m.vtk"), "a mesh is written as .obj, .ply, .stl"),
        (("mesh", "ball.mha", "--out", "none/m.ply"), "no folder none"),
        (("mesh", "ball.mha", "--out", "m.ply", "--level", "0"), "above 0 to 255"),
        (("mesh", "ball.mha", "--out", "m.ply", "--level", "nan"), "above 0 to 255"),
        (("mesh", "none.mha", "--out", "m.ply"), "cannot read none.mha"),
        (("mesh", "cut.mha", "--out", "m.ply"), "are declared"),
        (("mesh", "ball.png", "--out", "m.ply"), "volumes are read from"),
        (("mesh", "ball.mha", "--out", "m.ply", "--mask", "--level", "255.5"), "above 0 to 255"),
        (("measure", "ball.mha", "--label", "7"), "no voxel has label 7"),
        (("measure", "ball.mha", "--label", "0"), "1 to 255 is allowed"),
        (("slices", "ball.mha", "--out", "s.jpg"), "a picture is written as .png"),
        (("slices", "ball.mha", "--out", "s.png", "--center", "1,2"), "2 numbers"),
        (("slices", "ball.mha", "--out", "s.png", "--center", "1,2,a"), "x,y,z in mm"),
        (("slices", "ball.mha", "--out", "s.png", "--center", "0,0,0"), "outside the volume"),
        (("turntable", "ball.mha", "--out", "views", "--views", "0"), "1 to 360"),
        (("turntable", "ball.mha", "--out", "views", "--axis", "w"), "x, y, z are allowed"),
        (("turntable", "ball.mha", "--out", "none/views"), "name a folder that exists"),
        (("compare", "ball.mha", "ball.mha", "--error-map", "e.png"), "a volume is written as"),
        (("compare", "ball.mha", "ball.mha", "--picture", "e.nrrd"), "a picture is written as"),
        (("compare", "ball.mha", "ball.mha", "--min-equal-pct", "101"), "0 to 100"),
        (("compare", "ball.mha", "black.mha", "--shared"), "do not coincide"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(call, ball, monkeypatch, words, said):
    monkeypatch.chdir(ball.parent)
    Path("cut.mha").write_bytes(ball.read_bytes()[:-9])
    write_volume(
        "black.mha", Volume(data=np.zeros((2, 2, 2), np.uint8), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    )
    before = sorted(Path().iterdir())
    done = call(*words)
    assert done.exit_code in (2, 4)
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert sorted(Path().iterdir()) == before


@pytest.fixture
def stylus(tmp_path):
    """A recording of a tool that is turned about its tip, one record invalid."""
    rng = np.random.default_rng(3)
    T = np.tile(np.eye(4), (40, 1, 1))
    tip, stand = np.array([1.0, -2, 150]), np.array([10.0, 20, 30])
    for one in T:
        one[:3, :3] = vector_to_rotation(rng.uniform(-0.6, 0.6, 3))
        one[:3, 3] = stand - one[:3, :3] @ tip
    T[7] = np.nan
    words = tuple("INVALID" if k == 7 else "OK" for k in range(40))
    found = TrackedSequence(
        frames=None,
        times_ns=np.arange(40, dtype=np.int64) * 10**8,
        transforms={"StylusToReference": T},
        statuses={"StylusToReference": words},
    )
    write_sequence(tmp_path / "stylus.igs.mha", found)
    return tmp_path / "stylus.igs.mha"


def test_pivot(call, stylus):
    out, plot = stylus.parent / "tip.xml", stylus.parent / "r.png"
    done = call("calibrate", "pivot", stylus, "--out", out, "--plot", plot, "--json")
    facts = json.loads(done.stdout)
    np.testing.assert_allclose(facts["tip_mm"], (1, -2, 150), atol=1e-9)
    assert facts["residuals"]["n"] == 39
    np.testing.assert_allclose(read_calibration(out, "StylusTipToStylus")[:3, 3], (1, -2, 150), atol=1e-9)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "the tip lies at (1.000, -2.000, 150.000) mm in Stylus" in call("calibrate", "pivot", stylus).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pivot", "stylus.igs.mha", "--out", "tip.txt"), "a transform is written as .xml"),
        (("pivot", "stylus.igs.mha", "--plot", "none/p.png"), "no folder none"),
        (("pivot", "stylus.igs.mha", "--transform", "Stylus"), "not the name of a transform"),
        (("pivot", "stylus.igs.mha", "--transform", "ProbeToReference", "--out", "t.xml"), "cannot be had"),
        (("pivot", "none.txt", "--out", "tip.xml"), "cannot read none.txt"),
        (("pivot", "still.txt", "--out", "tip.xml", "--plot", "p.png"), "not turned about two axes"),
        (("temporal", "stylus.igs.mha", "stylus.igs.mha"), "needs images and timestamps"),
        (("temporal", "stylus.igs.mha", "stylus.igs.mha", "--max-offset-ms", "1"), "max_offset_ms 1"),
        (("spatial", "stylus.igs.mha", "--phantom", "none.xml"), "none.xml cannot be read"),
        (("spatial", "stylus.igs.mha", "--phantom", "other.xml", "--out", "c.xml"), "no Pattern"),
    ],
)
def test_a_calibration_that_cannot_be_made_leaves_no_file(call, stylus, monkeypatch, words, said):
    monkeypatch.chdir(stylus.parent)
    Path("still.txt").write_text("".join(f"{k} 0 0 0 0 0 0 1\n" for k in range(20)))
    write_calibration("other.xml", "ImageToProbe", np.eye(4))
    before = sorted(Path().iterdir())
    done = call("calibrate", *words)
    assert done.exit_code in (2, 4)
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert sorted(Path().iterdir()) == before


def test_without_opencv_a_plot_is_refused_before_anything_is_written(call, stylus, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    out = stylus.parent / "tip.xml"
    done = call("calibrate", "pivot", stylus, "--out", out, "--plot", stylus.parent / "r.png")
    assert done.exit_code == 2
    assert "pip install" in done.stderr
    assert not out.exists()
    assert call("calibrate", "pivot", stylus, "--out", out).exit_code == 0


@pytest.mark.parametrize(
    "words", [(name,) for name in COMMANDS] + [("calibrate", n) for n in ("spatial", "temporal", "pivot")]
)
def test_every_command_has_help(call, words):
    found = call(*words, "--help")
    assert (found.exit_code, found.stderr) == (0, "")
    assert "Usage:" in found.stdout


def real():
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    return Path(data, "sweeps")


def test_a_real_calibration_serves_a_real_reconstruction(call, tmp_path):
    folder, out = real() / "plus_calibration", tmp_path / "c.xml"
    done = call(
        "calibrate", "spatial", folder / "FreehandCalibration3NWires_fCal2.0.results.xml", "--json", "--out", out,
        "--phantom", folder / "PlusDeviceSet_fCal_Sim_SpatialCalibration_2.0.xml", "--plot", tmp_path / "r.png",
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert facts["validation"]["mean_of_95"] <= 0.540
    np.testing.assert_array_equal(read_calibration(out), facts["matrix"])
    made = call(
        "reconstruct", folder / "fCal_Test_Validation_3NWires_fCal2.0.igs.mha", "--calibration", out, "--spacing", "1",
        "--out", tmp_path / "v.nrrd", "--quiet",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr


def test_a_real_offset(call, tmp_path):
    folder = real() / "plus_temporal"
    done = call(
        "calibrate", "temporal", folder / "WaterTankBottomTranslationVideoBuffer.igs.mha",
        folder / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha", "--plot", tmp_path / "r.png", "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["offset_ms"] == pytest.approx(62.6, abs=1)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
