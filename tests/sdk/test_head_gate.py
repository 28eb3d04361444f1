"""The gate of the shipped fetal-head bundle: heads that it never saw, and pictures of other kinds, on two variants."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest_reading import EnergyGate
from edge_runtime.errors import SourceError
from edge_runtime.frame import Frame
from edge_runtime.loading import load
from edge_runtime.postprocess import GateReader
from edge_runtime.preprocess import Preprocessor
from edge_runtime.sources import open_source

BUNDLE = Path(__file__).parents[2] / "examples" / "fetal_head" / "fetal_head.edge"
OTHERS = {  # folder or pattern below the data, frames of each file
    "nerve and vessel (usgra)": ("segmentation/usgra_nerve_vessel/images/*", 1),
    "lung and chest (pocus_lung)": ("classification/pocus_lung/**/*.*", 4),
    "handhelds: eye, phantoms (devices)": ("devices/*.*", 8),
    "heart, abdomen, phantoms (dicom)": ("dicom/*.dcm", 8),
    "spine, bone, prostate, wires, liver (sweeps)": ("sweeps/**/*.mha", 8),
}


def test_the_bundle_has_a_gate_of_all_training_images() -> None:
    with Bundle.open(BUNDLE) as bundle:
        gate = bundle.manifest.outputs[0].gate
        assert isinstance(gate, EnergyGate)
        assert gate.n == 161
        assert gate.false_alarm <= 0.02
        assert f"{gate.threshold:.4g}" in bundle.card()


@pytest.mark.slow
@pytest.mark.skipif("POCUS_DATA" not in os.environ, reason="POCUS_DATA is not set; it holds the pictures")
@pytest.mark.parametrize("variant", ["fp32", "int8-cpu"])
def test_heads_pass_and_other_pictures_do_not(variant: str) -> None:
    """`docs/postprocessing.md` and the card have these figures: run with -s to print them."""
    from benchmarks.distill.cases import HC18

    data = Path(os.environ["POCUS_DATA"])
    alarms = beyond(variant, list(HC18.read("test").labelled.frames))
    print(f"{variant}: alarms on the test split {alarms.sum()} of {len(alarms)}")
    assert alarms.mean() <= 0.15
    for name, (pattern, count) in OTHERS.items():
        found = beyond(variant, list(frames_of(data, pattern, count)))
        print(f"  {name}: {found.sum()} of {len(found)}, {100 * found.mean():.1f} %")
        assert found.mean() > 0.9
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (540, 800), np.uint8) for _ in range(40)]
    noise = beyond(variant, [Frame(image=image, index=0, arrival_ns=0) for image in images])
    print(f"  noise: {noise.sum()} of {len(noise)}")
    assert noise.all()


def frames_of(data: Path, pattern: str, count: int) -> Iterator[Frame]:
    """`count` frames, evenly spread, of every file that a source reads; volumes and tables are left out."""
    for path in sorted(data.glob(pattern)):
        try:
            with open_source(path) as source:
                frames = list(source)
        except SourceError:
            continue
        yield from frames[:: max(1, len(frames) // count)][:count]


def beyond(variant: str, frames: list[Frame]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(N,) whether each frame lies beyond the bundle's gate, by the device's own road."""
    loaded = load(BUNDLE, variant=variant)
    (rung,) = loaded.branch().rungs
    output, prepare = loaded.manifest.outputs[0], Preprocessor(loaded.manifest.preprocess)
    read, found = GateReader(output), []
    with rung.runner as runner:
        for frame in frames:
            answer = runner.infer({loaded.manifest.input.name: prepare(frame).tensor})
            found.append(read(answer[output.name]).beyond)
    return np.array(found)
