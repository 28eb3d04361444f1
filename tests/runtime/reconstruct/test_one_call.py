"""One call and one command: the user's numbers kept, real files, limits, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError, SourceFormatError
from edge_runtime.frame import Rectangle
from edge_runtime.reconstruct import Compounder, ReconstructSettings, compound, grid_of_sweep, read_nrrd, reconstruct
from edge_runtime.sources import TrackedSequence
from edge_runtime.sources.tracked import write_sequence

pytest.importorskip("numba")

CALIBRATION = np.diag([0.3, 0.3, 0.3, 1.0])


@pytest.fixture
def recording(random_pose, tmp_path):
    """A file of six frames without its calibration; one pose is invalid."""
    rng = np.random.default_rng(1)
    sequence = TrackedSequence(
        frames=rng.integers(0, 256, (6, 30, 40), np.uint8),
        orientation="MF",
        times_ns=np.arange(6) * 10**8,
        transforms={"ProbeToReference": np.stack([random_pose(rng, z=k) for k in range(6)])},
        statuses={"ProbeToReference": ("OK", "OK", "INVALID", "OK", "OK", "OK")},
    )
    path = tmp_path / "sweep.igs.mha"
    write_sequence(path, sequence)
    return path


def test_a_file_becomes_a_volume(recording):
    told = []
    made = reconstruct(recording, constants={"ImageToProbe": CALIBRATION}, progress=lambda *n: told.append(n))
    assert made.frames == 5
    assert made.dropped == {"invalid": (2,)}
    assert told[-1] == (5, 5)
    facts = json.loads(json.dumps(made.to_dict()))
    assert facts["seen_voxels"] > 0
    assert facts["settings"]["kernel"] == "linear"


def test_given_numbers_are_kept_as_they_are(noise_sweep):
    exact = ReconstructSettings(spacing_mm=(0.7, 0.8, 0.9), origin_mm=(0.123, -4.5, 1.001), shape=(11, 12, 13))
    volume = reconstruct(noise_sweep, exact).volume
    assert volume.data.shape == (11, 12, 13)
    assert volume.spacing_mm == (0.7, 0.8, 0.9)
    assert volume.T_world_volume[:3, 3].tolist() == [0.123, -4.5, 1.001]
    free = reconstruct(noise_sweep, ReconstructSettings()).volume
    start = tuple(free.T_world_volume[:3, 3] + (1.0, 0.5, 2.0))  # whole voxels further in
    cut = reconstruct(noise_sweep, ReconstructSettings(origin_mm=start)).volume
    assert tuple(cut.T_world_volume[:3, 3]) == start
    inner = tuple(slice(1, n) for n in cut.data.shape)  # the first plane loses what lies before it
    whole = free.data[4:, 1:, 2:][tuple(slice(0, n) for n in cut.data.shape)]
    off = cut.data[inner].astype(int) - whole[inner]
    assert (off != 0).mean() < 1e-3


def test_a_scan_area_replaces_the_sweeps_own(noise_sweep):
    area = Rectangle(x0=10, y0=10, x1=20, y1=20)
    settings = ReconstructSettings(kernel="nearest")
    volume = reconstruct(noise_sweep, settings, scan_area=area).volume
    assert volume.weight.sum() == 12 * 100


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@pytest.mark.parametrize("mode", ["mean", "max", "latest"])
def test_threads_change_no_bit(noise_sweep, mode, kernel):
    grid = grid_of_sweep(noise_sweep, 0.5)
    one = compound(noise_sweep, mode=mode, kernel=kernel, grid=grid)
    for threads in (2, 3, 7):
        other = compound(noise_sweep, mode=mode, kernel=kernel, grid=grid, threads=threads)
        np.testing.assert_array_equal(one.data, other.data)
        np.testing.assert_array_equal(one.weight, other.weight)
    with Compounder(grid, mode=mode, kernel=kernel, threads=2) as single:
        for k in range(len(noise_sweep)):
            single.insert(noise_sweep.image(k), noise_sweep.T_world_image[k], noise_sweep.geometry)
        np.testing.assert_array_equal(one.data, single.volume().data)


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@pytest.mark.parametrize("average", [2, 3])
def test_area_averages_equal_the_averaged_image(kernel, average):
    """On a flat image the mean is unchanged; on any, the sums are those of the squares, so no grey level is lost."""
    from edge_runtime.frame import FrameGeometry
    from edge_runtime.reconstruct import VolumeGrid

    image = np.random.default_rng(4).integers(0, 256, (25, 31), np.uint8)
    grid = VolumeGrid(shape=(3, 40, 40), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    geometry = FrameGeometry(row_mm=1.0, column_mm=1.0, origin="user", trusted=True)
    T = np.eye(4)
    T[:3, 3] = (2 - (average - 1) / 2, 2 - (average - 1) / 2, 1)  # centres of squares on centres of voxels
    target = Compounder(grid, kernel=kernel, average=average)
    target.insert(image, T, geometry)
    found = target.mean()[1, 2::average, 2::average][: 25 // average, : 31 // average]
    rows, columns = 25 // average, 31 // average
    squares = image[: rows * average, : columns * average].reshape(rows, average, columns, average)
    np.testing.assert_allclose(found, squares.mean(axis=(1, 3)), atol=1e-6)
    assert target.volume().weight.sum() == pytest.approx(rows * columns * average**2)
    target.remove(image, T, geometry)
    assert not target.volume().swept.any()


def test_too_little_memory_is_refused_with_a_proposal(noise_sweep):
    with pytest.raises(ReconstructionError, match=r"A spacing of .* mm fits"):
        reconstruct(noise_sweep, ReconstructSettings(spacing_mm=(0.05,) * 3, max_mib=8))
    huge = ReconstructSettings(origin_mm=(0, 0, 0), shape=(900, 900, 900), max_mib=100)
    with pytest.raises(ReconstructionError, match=r"needs 14600 MiB, max_mib is 100; a spacing of \(2.66"):
        reconstruct(noise_sweep, huge)


def test_bad_settings_are_refused(noise_sweep, tmp_path):
    with pytest.raises(ConfigError, match="without origin_mm"):
        ReconstructSettings(shape=(4, 4, 4))
    with pytest.raises(ConfigError, match="three finite"):
        ReconstructSettings(origin_mm=(0, np.nan, 0))
    with pytest.raises(ConfigError, match="max_mib 0"):
        ReconstructSettings(max_mib=0)
    with pytest.raises(ConfigError, match="modes are"):
        ReconstructSettings(mode="median")
    with pytest.raises(ConfigError, match="resolved already"):
        reconstruct(noise_sweep, constants={"ImageToProbe": CALIBRATION})
    with pytest.raises(ReconstructionError, match="lies beyond origin_mm"):
        reconstruct(noise_sweep, ReconstructSettings(origin_mm=(1e4, 0, 0)))
    with pytest.raises(ConfigError, match="average 2 with mode 'max'"):
        Compounder(grid_of_sweep(noise_sweep, 1.0), mode="max", average=2)
    path = tmp_path / "no.mha"
    path.write_bytes(b"no sweep")
    with pytest.raises(SourceFormatError):
        reconstruct(path)


@pytest.fixture
def call():
    pytest.importorskip("yaml")
    testing = pytest.importorskip("typer.testing")
    from edge_runtime.cli.app import app

    return lambda *words: testing.CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_writes_volume_and_preview(call, recording, tmp_path):
    pytest.importorskip("cv2")
    matrix, out, png = tmp_path / "m.txt", tmp_path / "v.nrrd", tmp_path / "v.png"
    matrix.write_text("\n".join(" ".join(map(str, row)) for row in CALIBRATION))
    words = ("reconstruct", recording, "--calibration", matrix, "--out", out, "--spacing", "0.4,0.5,0.6")
    done = call(*words, "--preview", png, "--fill", "nearest", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    volume = read_nrrd(out)
    assert facts["shape_zyx"] == list(volume.data.shape)
    assert volume.spacing_mm == (0.6, 0.5, 0.4)
    assert facts["dropped"] == {"invalid": [2]}
    assert png.read_bytes().startswith(b"\x89PNG")
    text = call(*words)
    assert "5 of 5 frames" in text.stderr
    assert "left out: 1 invalid" in text.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--spacing", "0"), "three positive numbers"),
        (("--spacing", "a"), "spacing is 'a'"),
        (("--origin", "1,2"), "2 numbers; 3"),
        (("--mode", "median"), "Invalid enum value 'median'"),
        (("--fill", "magic"), "fill 'magic'"),
        (("--max-mib", "1", "--spacing", "0.05"), "mm fits"),
        (("--out", "v.png"), "a volume is written as"),
        (("--out", "missing/v.mha"), "no folder missing"),
        (("--calibration", "none.txt"), "cannot be read"),
        (("--calibration", "bad.txt"), "holds 2 numbers"),
        (("--calibration", "bad.xml"), "has no Transform From=Image To=Probe; it has ['ProbeToTracker']"),
        (("--transform", "ImageToMoon"), "cannot be had"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(call, recording, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    Path("m.txt").write_text(" ".join(map(str, CALIBRATION.ravel())))
    Path("bad.txt").write_text("1 2")
    Path("bad.xml").write_text('<a><Transform From="Probe" To="Tracker" Matrix="1"/></a>')
    given = {"--calibration": "m.txt", "--out": "v.nrrd", **dict(zip(words[::2], words[1::2], strict=True))}
    done = call("reconstruct", recording, *(word for pair in given.items() for word in pair))
    assert done.exit_code in (2, 4)
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert {path.name for path in tmp_path.iterdir()} == {"m.txt", "bad.txt", "bad.xml", recording.name}


def test_a_real_sweep_by_command(call, tmp_path):
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    folder, out = Path(data, "sweeps", "plus_nwire"), tmp_path / "n.nrrd"
    done = call(
        "reconstruct", folder / "NwirePhantomFreehand.igs.mha", "--out", out, "--clip", "167,62,662,550",
        "--calibration", folder / "PlusDeviceSet_NwirePhantomFreehand_vtkVolumeReconstructorTest2.xml", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 97
    assert read_nrrd(out).data.max() > 200
