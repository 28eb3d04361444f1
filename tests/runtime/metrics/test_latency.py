from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.metrics.latency import LatencyHistogram

DURATIONS = st.integers(1_000, 60_000_000_000)


def filled(durations: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.record(duration)
    return histogram


@given(st.lists(DURATIONS, min_size=1, max_size=300), st.floats(0, 1))
def test_percentile_is_within_one_percent_of_numpy(durations: list[int], q: float) -> None:
    truth = np.percentile(np.array(durations, float), 100 * q, method="inverted_cdf")
    assert filled(durations).percentile(q) == pytest.approx(truth, rel=0.01)


def test_percentiles_of_a_long_tail_match_numpy() -> None:
    durations = np.random.default_rng(1).lognormal(16, 1.0, 20_000).astype(np.int64)
    histogram = filled(durations.tolist())
    for q in (0.5, 0.9, 0.99, 0.999):
        assert histogram.percentile(q) == pytest.approx(np.percentile(durations, 100 * q), rel=0.015)
    assert (histogram.count, histogram.max_ns) == (20_000, durations.max())
    assert histogram.sum_ns == durations.sum()


@given(st.lists(DURATIONS, max_size=50), st.lists(DURATIONS, max_size=50))
def test_merge_equals_recording_both(one: list[int], two: list[int]) -> None:
    merged, both = filled(one), filled(one + two)
    merged.merge(filled(two))
    assert np.array_equal(merged._counts, both._counts)
    assert (merged.count, merged.sum_ns, merged.min_ns, merged.max_ns) == (
        both.count,
        both.sum_ns,
        both.min_ns,
        both.max_ns,
    )


@pytest.mark.parametrize(("duration", "shown"), [(-5, 0), (0, 0), (3, 3), (10**12, 10**12)])
def test_values_out_of_range_are_counted_and_bounded_by_the_exact_extremes(duration: int, shown: int) -> None:
    histogram = filled([duration])
    assert histogram.count == 1
    assert histogram.percentile(0.5) == shown


def test_memory_is_fixed() -> None:
    histogram = LatencyHistogram()
    before = sys.getsizeof(histogram._counts)
    for duration in range(1_000, 10**9, 10**6):
        histogram.record(duration)
    assert sys.getsizeof(histogram._counts) == before < 16_384


@pytest.mark.parametrize(("q", "n"), [(0.5, 20), (0.9, 100), (0.99, 1000), (0.999, 10_000)])
def test_a_percentile_is_supported_from_ten_samples_in_its_tail(q: float, n: int) -> None:
    assert not filled([1_000] * (n - 1)).supports(q)
    assert filled([1_000] * n).supports(q)


def test_empty_and_bad_questions() -> None:
    assert math.isnan(LatencyHistogram().percentile(0.5))
    with pytest.raises(ValueError, match="share from 0 to 1"):
        LatencyHistogram().percentile(99)
