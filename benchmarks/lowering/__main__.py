"""`python -m benchmarks.lowering`: what lowering keeps and gains, on stored students and real data."""

from __future__ import annotations

import os

# torch's waiting threads must not spin while another job runs; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.figures import main
from benchmarks.lowering.rows import ROWS

if __name__ == "__main__":
    main("lowering", "Lowering", ROWS)
