"""`python -m benchmarks.slam`: odometry, loops, maps and their errors, on real sweeps and on simulated ones."""

from __future__ import annotations

from benchmarks.figures import main
from benchmarks.slam.rows import ROWS

if __name__ == "__main__":
    main("slam", "SLAM", ROWS)
