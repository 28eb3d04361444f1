"""Hand-made networks in three precisions, and their value by definition. Needs no onnx."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
import edge_craft as craft

Float32 = npt.NDArray[np.float32]
CHANNELS = 16


def weights(seed: int = 0) -> list[Float32]:
    """Kernels of three 3 x 3 convolutions, 1 to 16 to 16 to 1 channels, (out, in, 3, 3)."""
    rng = np.random.default_rng(seed)
    shapes = [(CHANNELS, 1), (CHANNELS, CHANNELS), (1, CHANNELS)]
    return [(rng.normal(size=(o, i, 3, 3)) / np.sqrt(9 * i)).astype(np.float32) for o, i in shapes]


def convolve(x: Float32, w: Float32) -> Float32:
    """(1, C, H, W) with (O, C, 3, 3) and a border of zeros, in float64: the definition, term by term."""
    _, _, height, width = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((1, w.shape[0], height, width))
    for r in range(3):
        for c in range(3):
            out += np.einsum(
                "oc,nchw->nohw", w[:, :, r, c].astype(np.float64), padded[:, :, r : r + height, c : c + width]
            )
    return out.astype(np.float32)


def three_convolutions(x: Float32) -> Float32:
    first, second, third = weights()
    hidden = np.maximum(convolve(x, first), 0)
    return convolve(np.maximum(convolve(hidden, second), 0), third)


def conv(x: str, w: str, y: str) -> bytes:
    return craft.node("Conv", [x, w], [y], pads=[1, 1, 1, 1], kernel_shape=[3, 3])


def fp32_net() -> bytes:
    kernels = [craft.tensor(f"w{k}", w.shape, 1, w.tobytes()) for k, w in enumerate(weights())]
    nodes = [conv("x", "w0", "a"), craft.node("Relu", ["a"], ["b"]), conv("b", "w1", "c")]
    nodes += [craft.node("Relu", ["c"], ["d"]), conv("d", "w2", "y")]
    return craft.net(*nodes, initializers=kernels)


def fp16_net() -> bytes:
    """The same between two Casts, weights in float16."""
    kernels = [craft.tensor(f"w{k}", w.shape, 10, w.astype(np.float16).tobytes()) for k, w in enumerate(weights())]
    nodes = [craft.node("Cast", ["x"], ["h"], to=10), conv("h", "w0", "a"), craft.node("Relu", ["a"], ["b"])]
    nodes += [conv("b", "w1", "c"), craft.node("Relu", ["c"], ["d"]), conv("d", "w2", "e")]
    return craft.net(*nodes, craft.node("Cast", ["e"], ["y"], to=1), initializers=kernels)


STEP = 1 / 64  # of activations; of weights 1 / 127 of the largest of all


def int8_net() -> bytes:
    """The same with the middle convolution between Q/DQ pairs: int8 activations and weights, zero points 0."""
    first, second, third = weights()
    step = float(np.abs(second).max() / 127)
    whole = np.round(second / step).astype(np.int8)
    initializers = [
        craft.tensor("w0", first.shape, 1, first.tobytes()),
        craft.tensor("w1q", whole.shape, 3, whole.tobytes()),
        craft.tensor("w2", third.shape, 1, third.tobytes()),
        craft.tensor("sx", (), 1, np.float32(STEP).tobytes()),
        craft.tensor("sw", (), 1, np.float32(step).tobytes()),
        craft.tensor("z", (), 3, b"\0"),
    ]
    nodes = [
        conv("x", "w0", "a"),
        craft.node("Relu", ["a"], ["b"]),
        craft.node("QuantizeLinear", ["b", "sx", "z"], ["bq"]),
        craft.node("DequantizeLinear", ["bq", "sx", "z"], ["bd"]),
        craft.node("DequantizeLinear", ["w1q", "sw", "z"], ["w1"]),
        conv("bd", "w1", "c"),
        craft.node("Relu", ["c"], ["d"]),
        craft.node("QuantizeLinear", ["d", "sx", "z"], ["dq"]),
        craft.node("DequantizeLinear", ["dq", "sx", "z"], ["dd"]),
        conv("dd", "w2", "y"),
    ]
    return craft.net(*nodes, initializers=initializers)


def slow_net(size: int, layers: int) -> bytes:
    """Many convolutions of 16 channels at `size` x `size`: far more than a millisecond."""
    kernel = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
    nodes = [conv(f"t{k}" if k else "x", "w", f"t{k + 1}" if k < layers - 1 else "y") for k in range(layers)]
    ends = {"inputs": [craft.value_info("x", (1, CHANNELS, size, size))]}
    ends["outputs"] = [craft.value_info("y", (1, CHANNELS, size, size))]
    return craft.model(craft.graph(nodes, [craft.tensor("w", kernel.shape, 1, kernel.tobytes())], **ends))
