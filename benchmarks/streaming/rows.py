"""The rows of `python -m benchmarks.streaming`."""

from __future__ import annotations

from benchmarks.figures import Row
from benchmarks.streaming.overhead import measure_overhead
from benchmarks.streaming.overload import measure_ladder, measure_light_load, measure_overload
from benchmarks.streaming.own import measure_endurance, measure_ledger_property, measure_lossless, measure_stall
from benchmarks.streaming_preprocess import measure_preprocess_ratio

__all__ = ["ROWS"]

ROWS = (
    Row(key="overhead", what="the pipeline against a bare loop of OpenCV and ONNX Runtime", measure=measure_overhead),
    Row(key="light_load", what="60 frames a second, no model: arrival to sink", measure=measure_light_load),
    Row(key="overload", what="a model of 100 ms at 30 frames a second, rivals beside it", measure=measure_overload),
    Row(key="ladder", what="the same with cheaper rungs under a deadline", measure=measure_ladder),
    Row(key="stall", what="age after one stall of 500 ms", measure=measure_stall),
    Row(key="endurance", what="100,000 frames: memory, files and threads", measure=measure_endurance),
    Row(
        key="preprocess_ratio",
        what="speckle filter and chain of steps against the same written plainly",
        measure=measure_preprocess_ratio,
    ),
    Row(key="lossless", what="lossless mode against the sequential loop", measure=measure_lossless),
    Row(key="ledger_property", what="the ledger under random abuse", measure=measure_ledger_property),
)
