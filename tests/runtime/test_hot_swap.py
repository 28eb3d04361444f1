"""A real bundle exchanged under a stream of a real runner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import BundleIntegrityError, ConfigError, EdgeError
from edge_runtime.hot_swap import swap_bundle
from edge_runtime.loading import load
from edge_runtime.streaming import Pipeline

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

V1 = Path(__file__).parents[1] / "data" / "v1.edge"
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)


def test_a_bundle_is_exchanged_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    model = load(V1, variant="fp32")
    damaged = tmp_path / "damaged.edge"
    content = bytearray(V1.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    pipeline = Pipeline({"seg": model.branch(budget_ms=5000.0, cadence=1)}, warm_up_runs=1, freeze_gc=False)
    with pipeline:
        pipeline.start()
        pipeline.push(IMAGE)
        first = pipeline.poll(20_000.0)
        assert first is not None
        assert first.variant == "fp32"
        with pytest.raises(EdgeError) as caught:
            swap_bundle(pipeline, "seg", damaged)
        assert isinstance(caught.value, BundleIntegrityError) or "damaged.edge" in str(caught.value)
        with pytest.raises(ConfigError, match="no branch 'liver'"):
            swap_bundle(pipeline, "liver", V1)
        loaded = swap_bundle(pipeline, "seg", V1, variant="fp16", trial_frames=0)
        pipeline.push(IMAGE)
        second = pipeline.poll(20_000.0)
        assert second is not None
        assert (second.variant, second.bundle_sha256) == ("fp16", loaded.sha256)
        report = pipeline.drain()
    assert report.event_counts == {"swap_failed": 1, "swapped": 1}
    assert report.branches["seg"].budget_ms == 5000.0
