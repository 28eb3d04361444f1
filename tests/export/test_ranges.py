"""Ranges against what NumPy sees."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from scipy import stats

from edge_export import collect_ranges
from edge_export.ranges import _clip_share
from edge_runtime.errors import ConfigError, LoweringError

RNG = np.random.default_rng(2)
INPUTS = [RNG.standard_normal((1, 4, 8, 8)).astype(np.float32) for _ in range(5)]


@pytest.fixture
def doubled(build):
    nodes = [helper.make_node("Mul", ["image", "k"], ["x"]), helper.make_node("Relu", ["x"], ["mask"])]
    return build(nodes, {"k": np.float32([-2.0])})


def test_minmax_is_the_largest_magnitude(doubled):
    ranges = collect_ranges(doubled, INPUTS)
    values = np.stack(INPUTS)
    assert ranges.absmax["image"] == np.abs(values).max()
    assert ranges.absmax["x"] == 2 * np.abs(values).max()
    assert ranges.absmax["mask"] == -2 * values.min()
    assert ranges.clip == ranges.absmax
    assert ranges.n_inputs == 5
    assert set(ranges.to_dict()) == {"method", "n_inputs", "inputs_sha256", "absmax", "clip", "low", "high"}


@pytest.mark.parametrize("percentile", [60.0, 95.0, 99.9, 100.0])
def test_percentile_is_right_to_one_bin(doubled, percentile):
    ranges = collect_ranges(doubled, INPUTS, method="percentile", percentile=percentile)
    wanted = np.percentile(np.abs(np.stack(INPUTS)), percentile, method="inverted_cdf")
    assert abs(ranges.clip["image"] - wanted) <= ranges.absmax["image"] / 2048 + 1e-6


def test_mse_clips_an_outlier_and_keeps_a_flat_distribution(doubled):
    flat = [RNG.uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32) for _ in range(5)]
    assert collect_ranges(doubled, flat, method="mse").clip["image"] == pytest.approx(1.0, abs=0.05)
    spiked = [RNG.normal(0, 0.01, (1, 4, 8, 8)).astype(np.float32) for _ in range(200)]
    spiked[0][0, 0, 0, 0] = 1.0
    ranges = collect_ranges(doubled, spiked, method="mse")
    assert ranges.clip["image"] < 0.8 * ranges.absmax["image"]


@pytest.mark.parametrize(
    ("distribution", "top"),
    [(stats.laplace(), 20.0), (stats.norm(), 8.0), (stats.t(4), 60.0), (stats.uniform(-1, 2), 1.0)],
)
def test_entropy_is_what_onnx_runtime_finds(distribution, top):
    """Its calibrator has signed bins and 255 levels, ours magnitudes and 128; the clips agree to a tenth."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="onnxruntime is not installed")
    edges = np.linspace(-top, top, 2 * 2048 + 2)
    signed = np.rint(1e7 * np.diff(distribution.cdf(edges))).astype(np.int64)
    collector = calibrate.HistogramCollector("entropy", True, 4097, 255, 99.99, None)
    wanted = collector.get_entropy_threshold((signed, edges, np.float64(-top), np.float64(top)), 255)[1] / top
    counts = np.rint(2e7 * np.diff(distribution.cdf(np.linspace(0, top, 2049)))).astype(np.int64)
    assert _clip_share(counts, "entropy", 100.0) == pytest.approx(float(wanted), rel=0.1)


def test_entropy_keeps_a_flat_distribution_and_a_dead_tensor(doubled):
    flat = [RNG.uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32) for _ in range(40)]
    assert collect_ranges(doubled, flat, method="entropy").clip["image"] == pytest.approx(1.0, abs=0.1)
    dead = [np.abs(sample) for sample in flat]
    ranges = collect_ranges(doubled, dead, method="entropy")
    assert (ranges.clip["mask"], ranges.high["mask"], ranges.low["x"] < -1.9) == (0.0, 0.0, True)


def test_signed_ends_hold_zero_and_lie_within_the_clip(doubled):
    positive = [np.abs(sample) + 1 for sample in INPUTS]
    ranges = collect_ranges(doubled, positive)
    assert ranges.low["image"] == 0.0
    assert ranges.high["image"] == np.stack(positive).max()
    assert ranges.interval("x") == (-2 * np.stack(positive).max(), 0.0)
    clipped = collect_ranges(doubled, INPUTS, method="percentile", percentile=90)
    low, high = clipped.interval("image")
    assert -low == high == clipped.clip["image"]


def test_order_and_content_change_the_hash(doubled):
    hashes = {collect_ranges(doubled, chosen).inputs_sha256 for chosen in (INPUTS, INPUTS[::-1], INPUTS[:3])}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("inputs", "options", "match"),
    [
        ([], {}, "never random numbers"),
        (INPUTS, {"method": "kl"}, "choose minmax"),
        (INPUTS, {"percentile": 10.0}, r"\(50, 100\]"),
        ([INPUTS[0].astype(np.float64)], {}, "float64"),
        ([INPUTS[0][:, :2]], {}, r"\(1, 2, 8, 8\)"),
    ],
)
def test_bad_arguments(doubled, inputs, options, match):
    with pytest.raises(ConfigError, match=match):
        collect_ranges(doubled, inputs, **options)


def test_values_that_are_not_finite_are_refused(build):
    model = build([helper.make_node("Log", ["image"], ["mask"])], {})
    with pytest.raises(LoweringError, match="not finite"):
        collect_ranges(model, INPUTS[:1])
