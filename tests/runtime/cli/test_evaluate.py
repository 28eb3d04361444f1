"""`edge-runtime evaluate-sweep`: a recording, text, and a folder of the challenge; what mistakes say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.trajectory import challenge_errors
from edge_runtime.slam import se3
from edge_runtime.sources.tracked import TrackedSequence, write_sequence

SHAPE = (12, 16)
FRAMES = 9
SCALE = np.diag([0.25, 0.2, 1, 1])
GEOMETRY = FrameGeometry(column_mm=0.25, row_mm=0.2, origin="user", trusted=True, reason="")


def walk(seed):
    rng = np.random.default_rng(seed)
    steps = rng.normal([0, 0, 0, 0, 0, 0.5], [0.01] * 3 + [0.1] * 3, (FRAMES - 1, 6))
    T = [se3.exp(np.array([0.1, 0.2, 0.3, 100, -50, 20]))]
    for xi in steps:
        T.append(T[-1] @ se3.exp(xi))
    return np.stack(T)


def write_text(path, T, mm_per_unit=1.0):
    scaled = T.copy()
    scaled[:, :3, 3] /= mm_per_unit
    lines = [f"{k / 20} " + " ".join(repr(float(n)) for n in pose.ravel()) for k, pose in enumerate(scaled)]
    path.write_text("# time and a matrix\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def texts(tmp_path):
    """Truth and two estimates as text in mm, and the options that go with them."""
    files = [write_text(tmp_path / f"{name}.txt", walk(k)) for k, name in enumerate(("truth", "ours", "theirs"))]
    return files, ("--pixel-mm", "0.25,0.2", "--size", "16,12", "--pose-unit", "mm")


def test_text_against_text(call, texts) -> None:
    (truth, ours, theirs), options = texts
    done = call("evaluate-sweep", truth, ours, theirs, *options, "--json")
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    expected = challenge_errors(walk(0), walk(1), GEOMETRY, SHAPE)
    found = facts["estimates"]["ours"]
    assert (found["gpe_mm"], found["lpe_mm"]) == pytest.approx((expected.gpe, expected.lpe), rel=1e-9)
    assert found["gle_mm"] is None
    assert "landmarks" in found["not_reported"]["score_2025"]
    assert facts["schema"] == "edge-runtime.evaluate-sweep/1"
    assert facts["frames"] == FRAMES
    spoken = call("evaluate-sweep", truth, ours, theirs, *options).stdout
    assert "16 x 12 pixels of 0.2500 x 0.2000 mm" in spoken
    assert "final drift / path length, %" in spoken
    assert "GLE" not in spoken.split("not reported")[0]


def test_metres_are_the_unit_of_text(call, texts, tmp_path) -> None:
    (truth, ours, _), options = texts
    in_mm = json.loads(call("evaluate-sweep", truth, ours, *options, "--json").stdout)
    files = [write_text(tmp_path / f"{n}_m.txt", walk(k), 1000.0) for k, n in enumerate(("truth", "ours"))]
    in_m = json.loads(call("evaluate-sweep", *files, *options[:4], "--json").stdout)
    assert in_m["estimates"]["ours_m"]["gpe_mm"] == pytest.approx(in_mm["estimates"]["ours"]["gpe_mm"], rel=1e-9)


def test_the_truth_has_no_error(call, texts) -> None:
    (truth, *_), options = texts
    found = json.loads(call("evaluate-sweep", truth, truth, *options, "--json").stdout)["estimates"]["truth"]
    known = {key: value for key, value in found.items() if isinstance(value, float)}
    assert max(known.values()) < 1e-9
    assert len(known) == 11


def test_a_picture(call, texts, tmp_path) -> None:
    cv2 = pytest.importorskip("cv2")
    (truth, ours, theirs), options = texts
    out = tmp_path / "paths.png"
    assert call("evaluate-sweep", truth, ours, theirs, *options, "--picture", out).exit_code == 0
    assert cv2.imread(str(out)).max() > 200


def test_a_recording(call, tmp_path) -> None:
    T = walk(0)
    pixels = np.random.default_rng(0).integers(0, 255, (FRAMES, *SHAPE), dtype=np.uint8)
    recording = TrackedSequence(
        frames=pixels,
        transforms={"ProbeToReference": T, "ImageToProbe": np.tile(SCALE, (FRAMES, 1, 1))},
        times_ns=np.arange(FRAMES, dtype=np.int64) * 50_000_000,
        orientation="MF",
    )
    write_sequence(tmp_path / "sweep.igs.mha", recording)
    ours = write_text(tmp_path / "ours.txt", walk(1))
    done = call("evaluate-sweep", tmp_path / "sweep.igs.mha", ours, "--pose-unit", "mm", "--json")
    assert done.exit_code == 0, done.stderr
    expected = challenge_errors(walk(0), walk(1), GEOMETRY, SHAPE)
    assert json.loads(done.stdout)["estimates"]["ours"]["gpe_mm"] == pytest.approx(expected.gpe, rel=1e-6)


@pytest.fixture
def challenge(tmp_path):
    """A folder as the challenge's validation data, and two folders of estimates: its own form and text."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: the files of the challenge cannot be written")
    root = tmp_path / "val"
    T_tool_mm = se3.exp(np.array([0.4, -1.1, 2.0, 12.0, 30.0, -117.0]))
    first = np.eye(4)
    first[:3, 3] = 0.25, 0.2, 0  # the centre of pixel (1, 1)
    blocks = zip(
        (
            "scaling_from_pixel_to_mm",
            "spatial_calibration_from_image_coordinate_system_to_tracking_tool_coordinate_system",
        ),
        (SCALE, T_tool_mm),
        strict=True,
    )
    root.mkdir()
    rows = [[head, *(",".join(repr(float(n)) for n in row) for row in matrix)] for head, matrix in blocks]
    (root / "calib_matrix.csv").write_text("\n".join(line for block in rows for line in block))
    marks = np.array([(1, 1, 1), (8, 16, 12), (4, 3, 2)])
    for k, name in enumerate(("050/LH_rotation", "051/RH_rotation")):
        for folder in ("val/frames", "val/transfs", "val/landmarks", "tools", "text"):
            (tmp_path / folder / name[:3]).mkdir(parents=True, exist_ok=True)
        with h5py.File(root / f"frames/{name}.h5", "w") as file:
            file["frames"] = np.zeros((FRAMES, *SHAPE), np.uint8)
        with h5py.File(root / f"transfs/{name}.h5", "w") as file:
            file["tforms"] = walk(10 + k)
        with h5py.File(root / f"landmarks/landmark_{name[:3]}.h5", "w") as file:
            file[name[4:]] = marks
        with h5py.File(tmp_path / f"tools/{name}.h5", "w") as file:
            file["tforms"] = walk(20 + k)
        write_text(tmp_path / f"text/{name}.txt", walk(20 + k) @ T_tool_mm @ first)
    return tmp_path


def test_the_evaluation_of_the_challenge_in_one_command(call, challenge) -> None:
    words = ("evaluate-sweep", challenge / "val", challenge / "tools", challenge / "text", "--pose-unit", "mm")
    done = call(*words, "--json")
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [scan["truth"] for scan in facts["scans"]] == ["050/LH_rotation", "051/RH_rotation"]
    for scan in facts["scans"]:  # the same poses, of the tool and of the image
        tools, text = scan["estimates"]["tools"], scan["estimates"]["text"]
        for key in ("gpe_mm", "gle_mm", "lpe_mm", "lle_mm", "score_2025"):
            assert tools[key] == pytest.approx(text[key], rel=1e-6)
        assert scan["landmarks"] == 3
    values = [scan["estimates"]["tools"]["score_2025"] for scan in facts["scans"]]
    assert facts["mean"]["tools"]["score_2025"] == pytest.approx(np.mean(values))
    spoken = call(*words).stdout
    assert "mean over 2 scans" in spoken
    assert "score as TUS-REC 2025" in spoken


def test_one_scan_of_the_challenge(call, challenge) -> None:
    name = "050/LH_rotation"
    val = challenge / "val"
    words = ["evaluate-sweep", val / f"transfs/{name}.h5", challenge / f"tools/{name}.h5", "--json"]
    assert "give --calibration calib_matrix.csv" in call(*words).stderr
    words += ["--calibration", val / "calib_matrix.csv"]
    assert "no dataset 'frames'" in call(*words).stderr
    words += ["--frames", val / f"frames/{name}.h5"]
    whole = json.loads(call(*words, "--landmarks", val / "landmarks/landmark_050.h5").stdout)
    assert whole["estimates"]["LH_rotation"]["score_2025"] is not None
    other = call(*words, "--landmarks", val / "landmarks/landmark_050.h5", "--scan", "RH_rotation")
    assert "no dataset 'RH_rotation'" in other.stderr
    (challenge / "tools/051/RH_rotation.h5").unlink()
    missing = call("evaluate-sweep", val, challenge / "tools")
    assert missing.exit_code == 4
    assert "051/RH_rotation" in missing.stderr


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ((), "give --pixel-mm x,y and --size W,H", 2),
        (("--pixel-mm", "0.25", "--size", "16,12"), "2 with commas between", 2),
        (("--pixel-mm", "0.25,0.2", "--size", "16,12", "--pose-unit", "cm"), "m or mm is allowed", 2),
        (("--landmarks", "a.h5"), "--landmarks does not go with", 2),
        (("--pixel-mm", "0.25,0.2", "--size", "16,12", "--picture", "a.jpg"), "a picture is written as .png", 2),
    ],
)
def test_mistakes(call, texts, words, told, code) -> None:
    (truth, ours, _), _ = texts
    done = call("evaluate-sweep", truth, ours, *words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert told in done.stderr


def test_unequal_counts_and_names(call, texts, tmp_path) -> None:
    (truth, ours, _), options = texts
    short = write_text(tmp_path / "short.txt", walk(1)[:5])
    done = call("evaluate-sweep", truth, short, *options)
    assert done.exit_code == 4
    assert "5 poses for the 9 frames" in done.stderr
    assert "named twice" in call("evaluate-sweep", truth, ours, ours, *options).stderr
    assert call("evaluate-sweep", tmp_path / "none.txt", ours, *options).exit_code == 4
    assert "no motion" not in call("evaluate-sweep", truth, ours, *options).stderr


def test_volumes_of_a_recording(call, tmp_path) -> None:
    pytest.importorskip("numba")
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(1, 255, (FRAMES, *SHAPE), dtype=np.uint8)
    recording = TrackedSequence(
        frames=pixels,
        transforms={"ProbeToReference": walk(0), "ImageToProbe": np.tile(SCALE, (FRAMES, 1, 1))},
        times_ns=np.arange(FRAMES, dtype=np.int64) * 50_000_000,
        orientation="MF",
    )
    write_sequence(tmp_path / "sweep.igs.mha", recording)
    files = [write_text(tmp_path / f"{name}.txt", walk(k)) for k, name in enumerate(("same", "other"))]
    words = ("evaluate-sweep", tmp_path / "sweep.igs.mha", *files, "--pose-unit", "mm", "--spacing", "0.4")
    done = call(*words, "--slices", tmp_path / "s.png", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["estimates"]
    assert found["same"]["volume_ncc"] == pytest.approx(1, abs=1e-3)
    assert found["same"]["swept_overlap"] == pytest.approx(1, abs=1e-3)
    assert found["other"]["volume_ncc"] < 0.9
    assert cv2.imread(str(tmp_path / "s.png")).max() > 200
    assert "correlation of the volumes" in call(*words).stdout


def test_volumes_need_images(call, texts, tmp_path) -> None:
    (truth, ours, _), options = texts
    assert "needs images" in call("evaluate-sweep", truth, ours, *options, "--spacing", "0.5").stderr
    out = tmp_path / "s.png"
    assert "goes with --spacing" in call("evaluate-sweep", truth, ours, *options, "--slices", out).stderr
