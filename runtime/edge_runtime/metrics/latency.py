"""A latency histogram of fixed memory, and how many samples a percentile needs before it may be claimed.

Log-linear buckets after HdrHistogram (G. Tene): every power of two is cut into 64 equal parts, so a bucket is at
most 1/64 of its value wide and its middle at most 0.8 % away from any value inside.
"""

from __future__ import annotations

import math
from array import array
from operator import add

import numpy as np

__all__ = ["LatencyHistogram"]

_PARTS_LOG2 = 6
_PARTS = 1 << _PARTS_LOG2
_FIRST_OCTAVE = 9  # 512 ns, below 1 us
_LAST_OCTAVE = 35  # up to 68.7 s, above 60 s


class LatencyHistogram:
    """Counts of durations in ns from 1 us to 60 s; shorter and longer ones count in the end buckets.

    `record` is O(1) and keeps no sample; one thread records, others may read. `count`, `sum_ns`, `min_ns` and
    `max_ns` are exact.
    """

    def __init__(self) -> None:
        octaves = _LAST_OCTAVE - _FIRST_OCTAVE + 1
        self._counts = array("q", bytes(8 * octaves * _PARTS))  # NumPy takes several times as long for one element
        self.count = 0
        self.sum_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Count one duration; a negative one counts as 0."""
        if duration_ns < 0:
            duration_ns = 0
        self._counts[_bucket(duration_ns)] += 1
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns
        if duration_ns < self.min_ns or not self.count:
            self.min_ns = duration_ns
        self.sum_ns += duration_ns
        self.count += 1

    def merge(self, other: LatencyHistogram) -> None:
        """Add what `other` counted, as if it had been recorded here."""
        if other.count == 0:
            return
        self._counts = array("q", map(add, self._counts, other._counts))
        self.min_ns = other.min_ns if self.count == 0 else min(self.min_ns, other.min_ns)
        self.max_ns = max(self.max_ns, other.max_ns)
        self.sum_ns += other.sum_ns
        self.count += other.count

    def percentile(self, q: float) -> float:
        """The value in ns that a share `q` (0 to 1) of the samples does not exceed, within 1 %; NaN when empty.

        The smallest recorded value of rank `ceil(q * count)`, given as the middle of its bucket and never outside
        `min_ns` to `max_ns`. Ask `supports(q)` before claiming it.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a percentile is asked for as a share from 0 to 1, got {q}")
        if self.count == 0:
            return math.nan
        rank = max(1, math.ceil(q * self.count - 1e-9))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(max(_middle(bucket), float(self.min_ns)), float(self.max_ns))

    def supports(self, q: float) -> bool:
        """Whether there are the `10 / (1 - q)` samples that a tail claim at `q` needs (1000 for 0.99)."""
        return self.count * (1 - q) >= 10 - 1e-6


def _bucket(duration_ns: int) -> int:
    """Index of the bucket; `duration_ns >> shift` lies in 64..127 and its low bits are the part."""
    octave = duration_ns.bit_length() - 1
    if octave < _FIRST_OCTAVE:
        return 0
    if octave > _LAST_OCTAVE:
        return (_LAST_OCTAVE - _FIRST_OCTAVE + 1) * _PARTS - 1
    part = (duration_ns >> (octave - _PARTS_LOG2)) - _PARTS
    return (octave - _FIRST_OCTAVE) * _PARTS + part


def _middle(bucket: int) -> float:
    octave, part = divmod(bucket, _PARTS)
    width = 2.0 ** (octave + _FIRST_OCTAVE - _PARTS_LOG2)
    return (_PARTS + part + 0.5) * width
