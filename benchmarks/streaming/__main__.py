"""`python -m benchmarks.streaming`: streaming under a latency budget, rivals beside it.

Each rival runs in an environment of its own: `python -m benchmarks.peers.install streamvision holoscan fast gstreamer`
makes them. The whole table takes about half an hour, on a machine that does nothing else.
"""

from __future__ import annotations

import os

# waiting threads must not spin while another contestant runs; read when the libraries are imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.figures import main
from benchmarks.streaming.rows import ROWS

if __name__ == "__main__":
    main("streaming", "Streaming under a latency budget", ROWS)
