"""Runners: one loaded variant of one model on one backend."""

from __future__ import annotations

from edge_runtime.runners.base import Arrays, Runner
from edge_runtime.runners.choice import available_runners, create_runner
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.runners.onnxruntime import OrtRunner

__all__ = ["Arrays", "FakeRunner", "OrtRunner", "Runner", "available_runners", "create_runner"]
