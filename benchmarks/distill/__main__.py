"""`python -m benchmarks.distill`: distillation and evaluation on real data.

Trainings take hours, so the table evaluates stored weights and per-image scores (`benchmarks/stored/distill`);
`--fresh` repeats the trainings.
"""

from __future__ import annotations

import os

# torch's waiting threads must not spin while another job runs; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.distill.rows import ROWS
from benchmarks.figures import main

if __name__ == "__main__":
    main("distill", "Distillation and evaluation", ROWS)
