"""Dark discs on a bright ground, and networks that find them by their grey value."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, ToGray

PIXEL_MM = 0.5


class Dark(nn.Module):
    """Logit `slope` (level - grey); a lower level finds less."""

    def __init__(self, level: float = 0.5, slope: float = 20.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.conv.weight.fill_(-slope)
            self.conv.bias.fill_(slope * level)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


def write_discs(folder: Path, n: int = 12) -> Path:
    """images/, masks/ and manifest.csv of `n` discs, two to an exam, with their true circumference."""
    rng = np.random.default_rng(0)
    rows = ["file,split,exam,pixel_size_mm,head_circumference_mm,device"]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:64, :80]
    for k in range(n):
        radius = 10 + k % 6 * 2
        inside = (x - rng.uniform(30, 50)) ** 2 + (y - rng.uniform(28, 36)) ** 2 <= radius**2
        image = np.where(inside, 50, 160 + 4 * k) + rng.normal(0, 5, inside.shape)
        cv2.imwrite(str(folder / "images" / f"{k:02}.png"), np.clip(image, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{k:02}.png"), inside.astype(np.uint8) * 255)
        side = "test" if k < n - 2 else "train"
        length = 2 * np.pi * radius * PIXEL_MM
        rows.append(f"{k:02}.png,{side},{k // 2},{PIXEL_MM},{length:.4f},{'AB'[k // 2 % 2]}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def steps() -> PreprocessSpec:
    """What every network here takes."""
    return PreprocessSpec(steps=(ToGray(), Resize(height=32, width=40), Normalize()))


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "discs")


@pytest.fixture
def scripts(tmp_path: Path) -> dict[str, Path]:
    """TorchScript files: a teacher, a student that finds a little less, and one that gives NaN."""
    found = {}
    for name, level in (("teacher", 0.5), ("student", 0.42), ("broken", float("nan"))):
        found[name] = tmp_path / f"{name}.pt"
        torch.jit.save(torch.jit.script(Dark(level)), str(found[name]))
    found["onnx"] = tmp_path / "exported.onnx"
    found["onnx"].write_bytes(dark_onnx(0.42))
    return found


def dark_onnx(level: float, slope: float = 20.0, size: tuple[int, int] = (32, 40)) -> bytes:
    """`Dark` as ONNX."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [-slope])
    bias = helper.make_tensor("b", TensorProto.FLOAT, [1], [slope * level])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, *size]) for name in ("x", "y")]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    graph = helper.make_graph([node], "dark", ends[:1], ends[1:], [weight, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
