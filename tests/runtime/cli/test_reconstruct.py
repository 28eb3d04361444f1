"""`edge-runtime reconstruct`: frames and poses, labels of a bundle, maps and pictures; bad input leaves no file."""

from __future__ import annotations

import errno
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cli.outputs import write_all
from edge_runtime.errors import ReconstructionError
from edge_runtime.geometry import rotation_to_quaternion_wxyz, vector_to_rotation
from edge_runtime.reconstruct import read_nrrd
from edge_runtime.sources import TrackedSequence
from edge_runtime.sources.tracked import write_sequence

for package in ("numba", "typer", "yaml", "cv2"):
    pytest.importorskip(package)

DATA = Path(__file__).parents[2] / "data"
CALIBRATION = np.diag([0.25, 0.25, 0.25, 1.0])
RADIUS, SIDE = 6.0, 80


def ball(rng, n=160):
    """Images (n, 80, 80) of a bright ball of 6 mm at the origin in random planes, and the poses of the probe."""
    y, x = np.mgrid[:SIDE, :SIDE]
    plane = np.stack([x * 0.25, y * 0.25, 0 * x], -1)
    poses, images = np.tile(np.eye(4), (n, 1, 1)), np.zeros((n, SIDE, SIDE), np.uint8)
    for k in range(n):
        poses[k, :3, :3] = vector_to_rotation(rng.normal(0, 0.8, 3))
        poses[k, :3, 3] = rng.uniform(-RADIUS, RADIUS, 3) - poses[k, :3, :3] @ plane[40, 40]
        away = np.linalg.norm(plane @ poses[k, :3, :3].T + poses[k, :3, 3], axis=-1)
        images[k] = np.clip((RADIUS - away) / 0.25 + 0.5, 0, 1) * 255
    return images, poses


@pytest.fixture(scope="module")
def shot():
    return ball(np.random.default_rng(8))


def written(path, images, poses, matrix=CALIBRATION, statuses=None, **more):
    statuses = {} if statuses is None else {"ProbeToReference": statuses}
    sequence = TrackedSequence(
        frames=images, orientation="MF", times_ns=np.arange(len(poses)) * 10**8,
        transforms={"ImageToProbe": np.tile(matrix, (len(poses), 1, 1)), "ProbeToReference": poses},
        statuses=statuses, **more,
    )  # fmt: skip
    write_sequence(path, sequence)
    return path


def floats(path, shape):
    """The float32 voxels of a packed NRRD."""
    body = path.read_bytes().split(b"\n\n", 1)[1]
    return np.frombuffer(zlib.decompress(body, 31), "<f4").reshape(shape)


def test_masks_of_a_bundle_become_a_measured_volume(call, shot, tmp_path):
    for package in ("onnxruntime", "cryptography"):
        pytest.importorskip(package)
    sweep = written(tmp_path / "ball.igs.mha", *shot)
    names = {"--out": "v.nrrd", "--out-labels": "l.nrrd", "--out-confidence": "c.nii.gz", "--out-probability": "p.nrrd"}
    files = [word for name, file in names.items() for word in (name, tmp_path / file)]
    words = (
        "reconstruct", sweep, *files, "--model", DATA / "v1.edge", "--variant", "fp32",
        "--trust", DATA / "v1.pub.pem", "--fill", "gaussian", "--spacing", "0.5",
    )  # fmt: skip
    done = call(*words, "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    (found,) = facts["labels"]
    assert found["name"] == "bright"
    assert found["volume_mm3"] == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.15)  # a mask of 16 x 16 pixels
    labels = read_nrrd(tmp_path / "l.nrrd")
    assert int((labels.data == 1).sum()) == found["voxels"]
    assert list(labels.data.shape) == facts["shape_zyx"]
    chance = floats(tmp_path / "p.nrrd", labels.data.shape)
    z, y, x = (labels.grid.to_index([0.0, 0.0, 0.0]) + 0.5).astype(int)
    assert chance[z, y, x] > 0.9  # the middle of the ball
    assert np.nanmin(chance) < 0.1
    assert np.nanmax(chance) <= 1
    assert (labels.data[chance > 0.8] == 1).mean() > 0.95
    text = call(*words)
    assert "160 of 160 masks" in text.stderr
    assert "label 1 (bright): volume" in text.stdout
    assert "mm^3, surface" in text.stdout


def test_maps_and_pictures_are_written(call, shot, tmp_path):
    images, poses = shot[0][:20], shot[1][:20]
    sweep = written(tmp_path / "ball.igs.mha", images, poses, statuses=("OK",) * 19 + ("INVALID",))
    np.save(tmp_path / "maps.npy", np.full_like(images, 255))
    out = {
        "--out": "v.mha", "--out-weight": "w.nrrd", "--out-variance": "var.nii", "--out-uncertainty": "u.nrrd",
        "--slices": "s.png", "--turntable": "t.png",
    }  # fmt: skip
    done = call(
        "reconstruct", sweep, *(word for name, file in out.items() for word in (name, tmp_path / file)),
        "--pose-sigma", "0.5,0.3", "--kernel", "nearest", "--confidence", tmp_path / "maps.npy", "--incidence",
        "--depth-halving-mm", "30", "--sector", "40,-20,10,100,-30,30", "--clip", "0,5,80,70", "--quiet", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["dropped"] == {"invalid": [19]}
    assert all((tmp_path / file).stat().st_size for file in out.values())
    turn = call("reconstruct", sweep, "--out", tmp_path / "v.nrrd", "--turntable", tmp_path / "turn", "--quiet")
    assert turn.exit_code == 0, turn.stderr
    assert (tmp_path / "turn" / "strip.png").is_file()


def test_frames_and_poses_in_one_call(call, shot, tmp_path):
    import cv2

    images, poses = shot[0][:12], shot[1][:12]
    whole = written(tmp_path / "ball.igs.mha", images, poses)
    (tmp_path / "frames").mkdir()
    lines = ["t x y z qx qy qz qw"]
    for k, (image, T) in enumerate(zip(images, poses, strict=True)):
        cv2.imwrite(str(tmp_path / "frames" / f"{k}.png"), image)
        w, *v = rotation_to_quaternion_wxyz(T[:3, :3])
        lines.append(" ".join(f"{n:.15g}" for n in (k / 10, *T[:3, 3], *v, w)))
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    common = ("--origin=-8,-8,-8", "--shape", "40,40,40", "--spacing", "0.4", "--quiet", "--out")
    assert call("reconstruct", whole, *common, tmp_path / "a.nrrd").exit_code == 0
    apart = ("--frames", tmp_path / "frames", "--poses", tmp_path / "poses.txt", "--pose-unit", "mm")
    done = call("reconstruct", *apart, "--pixel-mm", "0.25,0.25", *common, tmp_path / "b.nrrd")
    assert done.exit_code == 0, done.stderr
    a, b = read_nrrd(tmp_path / "a.nrrd"), read_nrrd(tmp_path / "b.nrrd")
    assert (a.data != b.data).mean() < 1e-3  # the text rounds positions
    assert a.spacing_mm == b.spacing_mm == (0.4, 0.4, 0.4)
    assert b.T_world_volume[:3, 3].tolist() == [-8, -8, -8]


def refused(call, folder, *words):
    """The one line of a refusal; nothing was written into `folder`."""
    before = sorted(folder.rglob("*"))
    done = call("reconstruct", *words, "--out", folder / "v.nrrd", "--quiet")
    assert done.exit_code in (2, 3, 4), done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    return done.stderr


def skewed(poses, k=slice(None)):
    found = poses.copy()
    found[k, 0, 1] += 0.05
    return found


BAD_MATRICES = {
    "sheared": (np.array([[0.25, 0.1, 0, 0], [0, 0.25, 0, 0], [0, 0, 0.25, 0], [0, 0, 0, 1.0]]), "shears by 0.400"),
    "mirrored": (np.diag([0.25, 0.25, -0.25, 1.0]), "left-handed: it mirrors"),
    "flat": (np.diag([0.25, 0.0, 0.25, 1.0]), "two axes of an image"),
}


@pytest.mark.parametrize("name", BAD_MATRICES)
def test_a_bad_calibration_is_refused(call, shot, tmp_path, name):
    matrix, said = BAD_MATRICES[name]
    sweep = written(tmp_path / "s.igs.mha", shot[0][:3], shot[1][:3])
    (tmp_path / "m.txt").write_text(" ".join(map(str, matrix.ravel())))
    assert said in refused(call, tmp_path, sweep, "--calibration", tmp_path / "m.txt")


def test_bad_poses_are_refused_or_named(call, shot, tmp_path):
    images, poses = shot[0][:3], shot[1][:3]
    path = tmp_path / "s.igs.mha"
    assert "none has a valid pose" in refused(call, tmp_path, written(path, images, skewed(poses)))
    head, body = written(path, images, poses).read_bytes().split(b"LOCAL\n", 1)
    path.write_bytes(re.sub(rb"(ProbeToReferenceTransform =) \S+", rb"\1 nan", head) + b"LOCAL\n" + body)
    assert "none has a valid pose" in refused(call, tmp_path, path)
    done = call("reconstruct", written(path, images, skewed(poses, 1)), "--out", tmp_path / "v.nrrd", "--quiet")
    assert "left out: 1 not rigid" in done.stdout
    (tmp_path / "v.nrrd").unlink()
    assert "no valid pose" in refused(call, tmp_path, path, "--invalid", "error")
    (tmp_path / "p.txt").write_text("0 nan 0 0 0 0 0 1\n")
    np.save(tmp_path / "f.npy", images[:1])
    apart = ("--frames", tmp_path / "f.npy", "--poses", tmp_path / "p.txt", "--pixel-mm", "0.2,0.2")
    assert "p.txt, line 1" in refused(call, tmp_path, *apart)
    (tmp_path / "p.txt").write_text("0 1 0 0 0 0 0 0 1 0 0 0 0 1.1 0 0 0 1\n")
    assert "line 1" in refused(call, tmp_path, *apart)


def test_damaged_files_are_refused(call, shot, tmp_path):
    images, poses = shot[0][:3], shot[1][:3]
    path = written(tmp_path / "s.igs.mha", images, poses)
    whole = path.read_bytes()
    head, body = whole.split(b"LOCAL\n", 1)
    path.write_bytes(whole[: len(head) + 6 + len(body) // 2])
    assert "s.igs.mha" in refused(call, tmp_path, path)  # zlib, cut short
    broken = bytearray(whole)
    broken[len(head) + 30] ^= 0xFF
    path.write_bytes(bytes(broken))
    assert "s.igs.mha" in refused(call, tmp_path, path)
    few = zlib.compress(images[:2].tobytes())
    fields = head.split(b"\n")
    sized = [b"CompressedDataSize = %d" % len(few) if f.startswith(b"CompressedDataSize") else f for f in fields]
    path.write_bytes(b"\n".join(sized) + b"LOCAL\n" + few)
    assert "s.igs.mha" in refused(call, tmp_path, path)  # pixels of one image are missing
    path.write_bytes(whole.replace(b"MET_UCHAR", b"MET_USHORT"))
    assert "ElementType MET_USHORT" in refused(call, tmp_path, path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--origin", "900,900,900"), "no pixel of the sweep lies beyond"),
        (("--origin", "900,900,900", "--shape", "9,9,9"), "none of the 3 frames meets the grid"),
        (("--origin", "0,0,nan"), "finite numbers"),
        (("--spacing", "0.01", "--max-mib", "64"), "mm fits"),
        (
            ("--origin", "0,0,0", "--shape", "999,999,999", "--max-mib", "64"),
            "needs 19968 MiB, max_mib is 64; a spacing",
        ),
        (("--clip", "200,200,300,300"), "holds no pixel"),
        (("--sector", "1,2,3"), "3 numbers; 6"),
        (("--sector", "40,-20,90,10,-30,30"), "0 <= inner < outer"),
        (("--sector", "detect"), "set the scan area by hand"),
        (("--average", "2", "--mode", "max"), "average 2 with mode 'max'"),
        (("--incidence",), "kernel 'nearest'"),
        (("--max-gap-ms", "50"), "the limit is 50 ms"),
        (("--fps", "10"), "--fps goes with --frames"),
        (("--frames", "x"), "and not both"),
        (("--pose-sigma", "1,1"), "go together"),
        (("--out-labels", "l.nrrd"), "--model goes with"),
        (("--model", "none.edge", "--out-labels", "l.nrrd"), "none.edge"),
        (("--confidence", "maps.npy"), "a grey map for each of the 3 frames"),
        (("--turntable", "there"), "there is there already"),
        (("--slices", "v.nrrd"), "a picture is written as .png"),
        (("--out-weight", "v.nrrd"), "two outputs have the same name"),
    ],
)
def test_what_cannot_be_is_one_line(call, shot, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    np.save("maps.npy", shot[0][:2])
    sweep = written(tmp_path / "s.igs.mha", shot[0][:3], shot[1][:3])
    assert said in refused(call, tmp_path, sweep, *words)


def test_a_damaged_bundle_leaves_no_volume(call, shot, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cryptography")
    sweep = written(tmp_path / "s.igs.mha", shot[0][:3], shot[1][:3])
    shutil.copy(DATA / "v1.edge", tmp_path / "v1.edge")
    (tmp_path / "v1.edge").write_bytes((tmp_path / "v1.edge").read_bytes()[:-100])
    words = ("--model", tmp_path / "v1.edge", "--out-labels", tmp_path / "l.nrrd")
    assert "v1.edge" in refused(call, tmp_path, sweep, *words)


def test_a_wrong_bundle_is_told_before_the_work(call, shot, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    sweep = written(tmp_path / "s.igs.mha", shot[0][:3], shot[1][:3])
    monkeypatch.setattr("edge_runtime.reconstruct.reconstruct", lambda *_, **__: pytest.fail("frames were compounded"))
    words = ("--model", tmp_path / "none.edge", "--out-labels", tmp_path / "l.nrrd")
    assert "none.edge" in refused(call, tmp_path, sweep, *words)


@pytest.mark.parametrize(
    ("words", "need"),
    [
        ((), 21),
        (("--fill", "nearest"), 22),
        (("--out-variance", "var.nrrd"), 59),
        (("--out-variance", "var.nrrd", "--out-uncertainty", "u.nrrd", "--pose-sigma", "1,1"), 78),
        (("--model", DATA / "v1.edge", "--trust", DATA / "v1.pub.pem", "--out-labels", "l.nrrd"), 37),
        (("--model", DATA / "v1.edge", "--trust", DATA / "v1.pub.pem", "--out-probability", "p.nrrd"), 52),
    ],
)
def test_the_memory_of_all_volumes_is_counted_before_the_work(call, shot, tmp_path, monkeypatch, words, need):
    for package in ("onnxruntime", "cryptography"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    sweep = written(tmp_path / "s.igs.mha", shot[0][:3], shot[1][:3])
    lattice = ("--origin", "0,0,0", "--shape", "100,100,100", "--max-mib", "20", *words)
    said = refused(call, tmp_path, sweep, *lattice)
    assert f"needs {need} MiB, max_mib is 20; a spacing of (" in said
    assert f"or raise max_mib to {need}" in said


def test_a_full_disk_leaves_every_file_as_it_was(call, shot, tmp_path, monkeypatch):
    sweep = written(tmp_path / "s.igs.mha", shot[0][:3], shot[1][:3])
    (tmp_path / "v.nrrd").write_bytes(b"from before")
    before = sorted(tmp_path.iterdir())

    def full(path, image):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge_runtime.cli.reconstruct_parts.write_png", full)
    out = ("--out", tmp_path / "v.nrrd", "--out-weight", tmp_path / "w.nrrd", "--slices", tmp_path / "s.png")
    done = call("reconstruct", sweep, *out, "--quiet")
    assert done.exit_code == 4
    assert f"{tmp_path / 's.png'} cannot be written: No space left on device; none of the 3 files" in done.stderr
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "v.nrrd").read_bytes() == b"from before"


def test_a_name_that_the_system_refuses_is_told_with_the_files_that_are_new(tmp_path):
    (tmp_path / "b" / "full").mkdir(parents=True)
    writes = [(tmp_path / name, lambda path: path.write_bytes(b"new")) for name in "abc"]
    with pytest.raises(ReconstructionError, match=rf"b cannot be replaced: .*by this command: {tmp_path / 'a'}; those"):
        write_all(writes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
