"""The demonstration: teacher to student to signed file to streaming to a volume."""

from edge_sdk.demo.config import DemoConfig, read_config
from edge_sdk.demo.run import run_demo
from edge_sdk.demo.text import summary_text

__all__ = ["DemoConfig", "read_config", "run_demo", "summary_text"]
