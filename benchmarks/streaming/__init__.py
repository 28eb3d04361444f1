"""`python -m benchmarks.streaming`: streaming under a latency budget, rivals beside it."""
