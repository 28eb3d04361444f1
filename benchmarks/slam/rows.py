"""The keys of the table; what measures them is imported when it runs."""

from __future__ import annotations

from benchmarks.figures import row_of

__all__ = ["ROWS"]

ROWS = [
    row_of("benchmarks.slam.odometry", "bone", "image odometry on tissue, one half learnt, the other scored"),
    row_of("benchmarks.slam.odometry", "spine_refusal", "a sweep too fast for images alone is refused"),
    row_of("benchmarks.slam.compression", "compression", "tissue pressed by the probe, and deformed between sweeps"),
    row_of("benchmarks.slam.metric_parity", "metric_parity", "trajectory errors against brute force"),
    row_of("benchmarks.slam.imu", "imu_rotation", "simulated: orientation by gyro and gravity after a minute"),
    row_of("benchmarks.slam.registration", "sweep_registration", "simulated: two sweeps of a liver, one moved, joined"),
    row_of("benchmarks.slam.loops", "false_loops", "simulated: pose graphs whose loops are partly false"),
    row_of("benchmarks.slam.loops", "graph_step", "simulated: the pose graph's part of a live step"),
]
