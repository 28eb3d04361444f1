"""Benchmarks: `python -m benchmarks.NAME` prints the table of one capability; `--json`, `--only KEY`."""
