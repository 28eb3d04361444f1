"""Row `foreign_onnx`: a network that others trained and exported, packaged, verified and quantized without torch.

The carotid U-Net of ImFusion's public demos (CC BY 4.0) goes through `examples/recipes/carotid.yaml` in a process in
which torch cannot be imported. Frames are the images of usgra_nerve_vessel (CC BY 4.0) that show a vessel: calibration
on the train split, figures on the test split. Their pixel size is not known, so that the network sees them at another
scale than it was trained at: its Dice says little, the differences between variants are what is measured.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.distill.stored import data_root
from benchmarks.figures import Figure, judged

__all__ = ["measure_foreign_onnx"]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples" / "recipes" / "carotid.yaml"
# runs alone: torch is taken out before anything is imported, so that whoever wants it fails
_ALONE = """
import json, sys, time
sys.modules["torch"] = None
from pathlib import Path
from edge_export.commands import package_from_spec
from edge_runtime.loading import load
began = time.perf_counter()
facts = package_from_spec(Path("carotid.yaml"), Path("carotid.edge"), None)
seconds = time.perf_counter() - began
tests = [load("carotid.edge", target=target, runner=runner).self_tests
         for target, runner in (("ort-cpu", "onnxruntime"), ("openvino", "openvino"))]
loaded = [name for name, module in sys.modules.items() if name.split(".")[0] == "torch" and module is not None]
print(json.dumps({"facts": facts, "seconds": seconds, "torch": loaded, "self_tests": sum(map(len, tests))}))
"""


def measure_foreign_onnx() -> list[Figure]:
    """What came out of the process without torch, and how far the ONNX file is from its TorchScript twin."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _lay_out(folder)
        answer = _package(folder)
        parity = _parity(folder)
    facts = answer["facts"]
    scores = facts["verification"]["scores"]
    n = facts["verification"]["n_frames"]
    done = Figure(
        name="packaged, verified and quantized without torch",
        value=not answer["torch"] and facts["bytes"] > 0,
        goal="yes",
        unit="",
        n=len(facts["lowering"]["variants"]),
        met=not answer["torch"] and facts["bytes"] > 0,
        spread=f"{answer['seconds']:.0f} s, {answer['self_tests']} rungs self-tested",
        detail={
            "bytes": facts["bytes"],
            "sha256": facts["sha256"],
            "student_dice": facts["verification"]["student_dice"],
        },
    )
    return [done, *(_variant(score, n) for score in scores), *_files(facts["lowering"]["variants"]), parity]


def _lay_out(folder: Path) -> None:
    """The recipe's folder: the network, images that show a vessel, and masks of vessel (255) against the rest."""
    from PIL import Image

    shutil.copy(RECIPE, folder)
    shutil.copy(data_root() / "models" / "imfusion_carotid_unet" / "carotid.onnx", folder)
    source = data_root() / "segmentation" / "usgra_nerve_vessel"
    with (source / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["vessel_px"]) > 0]
    for row in rows:
        for kind in ("images", "masks"):
            (folder / row["split"] / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "images" / row["file"], folder / row["split"] / "images")
        with Image.open(source / "masks" / row["file"]) as mask:
            vessel = np.asarray(mask) == 2
        Image.fromarray(np.where(vessel, 255, 0).astype(np.uint8)).save(folder / row["split"] / "masks" / row["file"])


def _package(folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", _ALONE], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    if done.returncode != 0:
        raise RuntimeError(f"the process without torch ended with {done.returncode}: {done.stderr[-600:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _variant(score: dict[str, Any], n: int) -> Figure:
    low, high = score["drop_interval"]
    noise = "equal" if score["sqnr_db"] is None else f"SQNR {score['sqnr_db']:.1f} dB"
    return Figure(
        name=f"{score['variant']} on {score['runner']}, Dice drop",
        value=score["drop_points"],
        goal=f"<= {score['allowed_points']:g} points",
        unit="points",
        n=n,
        met=score["passed"],
        spread=f"95 % interval {low:+.3f} to {high:+.3f}; {100 * (1 - score['flips']):.3f} % of pixels equal; {noise}",
        detail={key: score[key] for key in ("dice", "dice_interval", "sqnr_db", "flips", "max_abs")},
    )


def _files(rows: list[dict[str, Any]]) -> list[Figure]:
    figures = []
    for row in rows:
        status = row["rtx"]["status"]
        asked = "tensorrt" in row["targets"]
        figures.append(
            Figure(
                name=f"{row['id']} file over fp32 file",
                value=100 * row["size_ratio"],
                goal="built by TensorRT-RTX" if asked else "",
                unit="%",
                n=1,
                met=status == "accepted" if asked and status != "not tried" else None,
                spread=f"{row['file_bytes']} bytes; TensorRT-RTX: {status} {row['rtx']['reason']}".strip(),
            )
        )
    return figures


def _parity(folder: Path) -> Figure:
    """The largest difference of the ONNX file from its TorchScript twin, over the largest logit; torch only here."""
    import torch

    from edge_export import run_model
    from edge_export._shapes import read_model, with_input_shape
    from edge_export._tensors import network_tensors
    from edge_export.package_spec import read_spec

    spec = read_spec(folder / "carotid.yaml").preprocess
    inputs = network_tensors(folder / "test" / "images", spec)
    model = with_input_shape(read_model(folder / "carotid.onnx"), inputs[0].shape)
    found = [output["logits"] for output in run_model(model, inputs)]
    torch.set_num_threads(1)
    load: Any = torch.jit.load
    twin = load(str(data_root() / "models" / "imfusion_carotid_unet" / "carotid.pt")).eval()
    with torch.inference_mode():
        wanted = [twin(torch.from_numpy(sample)).numpy() for sample in inputs]
    error = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
    top = max(float(np.abs(b).max()) for b in wanted)
    return judged(
        name="ONNX against its TorchScript twin, largest difference over largest logit",
        value=error / top,
        goal="<= 1e-4",
        unit="",
        n=len(inputs),
        spread=f"{error:.2g} of {top:.3g}",
    )
