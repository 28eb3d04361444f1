"""`python -m benchmarks.compounding`: tracked reconstruction against the reference, exact truth and real phantoms."""

from __future__ import annotations

from benchmarks.compounding.rows import ROWS
from benchmarks.figures import main

if __name__ == "__main__":
    main("compounding", "Compounding", ROWS)
