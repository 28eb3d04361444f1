"""Models for the export tests: a small U-Net trained for a few seconds on discs in noise, and a graph builder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

SIDE = 48


class Block(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class TinyUNet(nn.Module):
    """Two levels with skips; `transposed` chooses ConvTranspose or nearest Resize + convolution going up."""

    def __init__(self, width: int = 8, transposed: bool = False) -> None:
        super().__init__()
        self.top = nn.Sequential(Block(1, width), Block(width, width))
        self.middle = nn.Sequential(Block(width, 2 * width), Block(2 * width, 2 * width))
        self.bottom = nn.Sequential(Block(2 * width, 4 * width), Block(4 * width, 4 * width))
        self.pool = nn.MaxPool2d(2)
        self.up_middle = _up(4 * width, 2 * width, transposed)
        self.join_middle = Block(4 * width, 2 * width)
        self.up_top = _up(2 * width, width, transposed)
        self.join_top = Block(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (N, 1, H, W) of images (N, 1, H, W)."""
        top = self.top(image)
        middle = self.middle(self.pool(top))
        bottom = self.bottom(self.pool(middle))
        middle = self.join_middle(torch.cat([self.up_middle(bottom), middle], 1))
        return self.head(self.join_top(torch.cat([self.up_top(middle), top], 1)))


def _up(inputs: int, outputs: int, transposed: bool) -> nn.Module:
    if transposed:
        return nn.ConvTranspose2d(inputs, outputs, 2, 2)
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 1))


def discs(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Dark discs in speckle: images (N, 1, S, S) in about [0, 1], labels (N, S, S)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    centre, radius = generator.uniform(12, SIDE - 12, (2, count, 1, 1)), generator.uniform(5, 11, (count, 1, 1))
    labels = (np.hypot(y - centre[0], x - centre[1]) < radius).astype(np.uint8)
    speckle = generator.rayleigh(0.25, (count, SIDE, SIDE))
    images = np.clip(speckle * np.where(labels, 0.35, 1.0), 0, 1).astype(np.float32)
    return images[:, None], labels


@dataclass(frozen=True)
class Trained:
    """A module in eval mode and held-out data: calibration inputs, test inputs (1, 1, S, S) each, labels (S, S)."""

    module: nn.Module
    calibration: list[npt.NDArray[np.float32]]
    inputs: list[npt.NDArray[np.float32]]
    labels: list[npt.NDArray[np.uint8]]

    def logits(self, sample: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The module's answer to one input."""
        with torch.no_grad():
            return self.module(torch.from_numpy(sample)).numpy()


def train(transposed: bool) -> Trained:
    """About 60 steps on one thread."""
    torch.set_num_threads(1)  # for the session: spinning threads cost more than they bring at this size
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = TinyUNet(transposed=transposed).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        images, labels = discs(256, seed=0)
        for step in range(60):
            batch = slice(16 * step % 256, 16 * step % 256 + 16)
            logits = module(torch.from_numpy(images[batch]))[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[batch]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    held, truth = discs(136, seed=1)
    inputs = [held[i : i + 1] for i in range(136)]
    return Trained(module=module.eval(), calibration=inputs[:16], inputs=inputs[16:], labels=list(truth[16:]))


@pytest.fixture(scope="session")
def trained() -> Trained:
    """The resize + convolution student."""
    return train(transposed=False)


@pytest.fixture(scope="session")
def trained_transposed() -> Trained:
    """The ConvTranspose student."""
    return train(transposed=True)


@pytest.fixture(scope="session")
def student(trained: Trained) -> onnx.ModelProto:
    """`trained` as float32 ONNX at opset 18."""
    from edge_export import export_torch

    return export_torch(trained.module, (1, 1, SIDE, SIDE))


@pytest.fixture(scope="session")
def contract() -> dict[str, object]:
    """`input_spec` and `output_specs` of both students."""
    from edge_runtime.bundle.manifest import InputSpec, OutputSpec

    mask = OutputSpec(name="mask", shape=(1, 1, SIDE, SIDE), kind="mask_logits", classes=("disc",))
    return {"input_spec": InputSpec(name="image", shape=(1, 1, SIDE, SIDE)), "output_specs": (mask,)}


@pytest.fixture(scope="session")
def lowered(student: onnx.ModelProto, trained: Trained) -> tuple[dict[str, bytes], object]:
    """`lower` of the student with every gate."""
    from edge_export import lower

    return lower(student, trained.calibration)


@pytest.fixture(scope="session")
def student_transposed(trained_transposed: Trained) -> onnx.ModelProto:
    """`trained_transposed` as float32 ONNX at opset 18."""
    from edge_export import export_torch

    return export_torch(trained_transposed.module, (1, 1, SIDE, SIDE))


Build = Callable[..., onnx.ModelProto]


@pytest.fixture(scope="session")
def build() -> Build:
    """`build(nodes, {constant: array}, output_shape=..., input_shape=..., opset=18)` -> a model image -> mask."""
    return build_model


def build_model(
    nodes: Sequence[NodeProto],
    constants: dict[str, npt.NDArray[np.generic]],
    *,
    input_shape: Sequence[int | str | None] = (1, 4, 8, 8),
    output_shape: Sequence[int | str | None] | None = None,
    output_type: int = TensorProto.FLOAT,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model from `image` to `mask`; nodes without a name get one from their output."""
    for node in nodes:
        node.name = node.name or f"n_{node.output[0]}"
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("mask", output_type, output_shape or input_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
