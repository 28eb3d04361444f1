"""Runners: one loaded variant of one model on one backend. `runners.tensorrt` is imported by itself."""

from __future__ import annotations

from edge_runtime.runners.base import Arrays, Runner
from edge_runtime.runners.choice import RUNNER_TARGETS, available_runners, create_runner, open_runner
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.runners.onnxruntime import OrtRunner
from edge_runtime.runners.openvino import OpenVinoRunner

__all__ = [
    "RUNNER_TARGETS",
    "Arrays",
    "FakeRunner",
    "OpenVinoRunner",
    "OrtRunner",
    "Runner",
    "available_runners",
    "create_runner",
    "open_runner",
]
