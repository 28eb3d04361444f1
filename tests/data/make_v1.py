"""Build `v1.edge`, the file that every later version must read, and the public key that signed it.

Run once, with the host packages: `python tests/data/make_v1.py`. It refuses to run again: the point of the file is that
it stays. The private key lives only while this runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

from edge_runtime.bundle import (
    Evidence,
    GoldenSample,
    InputSpec,
    Manifest,
    OutputSpec,
    Variant,
    generate_key,
    npy_bytes,
    sign_bundle,
    write_bundle,
)
from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, ToGray

HERE = Path(__file__).parent
SIDE = 16
SHAPE = (1, 1, SIDE, SIDE)
# a smoothing kernel, then a threshold at one half; every number is exact in float16
KERNEL = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16 * 8
BIAS = np.float32(-4)


def truth(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The logits by plain shifts and sums, independent of any runtime."""
    padded = np.pad(image[0, 0], 1)
    terms = [KERNEL[i, j] * padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)]
    return (np.sum(terms, axis=0, dtype=np.float32) + BIAS)[None, None]


def model(precision: type[np.floating[Any]]) -> bytes:
    """The convolution as ONNX, float32 at the border, `precision` inside."""
    half = precision is np.float16
    weights = numpy_helper.from_array(KERNEL[None, None].astype(precision), "w")
    bias = numpy_helper.from_array(BIAS.astype(precision).reshape(1), "b")
    conv = helper.make_node("Conv", ["xi" if half else "x", "w", "b"], ["yi" if half else "y"], pads=[1, 1, 1, 1])
    into = helper.make_node("Cast", ["x"], ["xi"], to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", ["yi"], ["y"], to=TensorProto.FLOAT)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph([into, conv, back] if half else [conv], "v1", ends[:1], ends[1:], [weights, bias])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made.SerializeToString()


def manifest() -> Manifest:
    macs = 9 * SIDE * SIDE
    return Manifest(
        schema_version=1,
        name="v1-sample",
        version="1.0.0",
        created="2026-01-31T12:00:00Z",
        producer="tests/data/make_v1.py",
        task="segmentation",
        intended_use="Reading test of the format. Not for any image.",
        input=InputSpec(name="x", shape=SHAPE),
        outputs=(OutputSpec(name="y", shape=SHAPE, kind="mask_logits", classes=("bright",)),),
        preprocess=PreprocessSpec(steps=(ToGray(), Resize(height=SIDE, width=SIDE), Normalize())),
        variants=(
            Variant(id="fp32", model="variants/fp32.onnx", precision="fp32", opset=17, macs=macs, parity_abs=1e-5),
            Variant(
                id="fp16",
                model="variants/fp16.onnx",
                precision="fp16",
                opset=17,
                macs=macs,
                parity_abs=0.02,
                min_agreement=0.99,
                scores={"dice": 1.0},
            ),
        ),
        ladders={"ort-cpu": ("fp32", "fp16"), "tensorrt": ("fp16", "fp32")},
        golden=tuple(GoldenSample(input=f"golden/{i}_x.npy", outputs={"y": f"golden/{i}_y.npy"}) for i in range(2)),
        evidence=(Evidence(path="evidence/parity.json", title="Parity"),),
    )


def main() -> None:
    if (HERE / "v1.edge").exists():
        sys.exit("v1.edge exists and stays as it is; later formats get files of their own")
    members = {
        "card.md": b"# v1-sample\n\nA 3 x 3 convolution. Shows that version 1 is read.\n",
        "evidence/parity.json": b'{"max_abs": 0.0}',
        "variants/fp32.onnx": model(np.float32),
        "variants/fp16.onnx": model(np.float16),
    }
    rng = np.random.default_rng(1)
    for i in range(2):
        image = (rng.integers(0, 256, SHAPE) / 256).astype(np.float32)
        members |= {f"golden/{i}_x.npy": npy_bytes(image), f"golden/{i}_y.npy": npy_bytes(truth(image))}
    with tempfile.TemporaryDirectory() as folder:
        generate_key(Path(folder) / "private.pem", HERE / "v1.pub.pem")
        write_bundle(Path(folder) / "v1.edge", manifest(), members)
        sign_bundle(Path(folder) / "v1.edge", Path(folder) / "private.pem", HERE / "v1.edge")


if __name__ == "__main__":
    main()
