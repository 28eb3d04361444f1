"""Where results go: the program, a record, an overlay video, a contact sheet."""

from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.memory import CallbackSink, CollectSink

__all__ = ["CallbackSink", "CollectSink", "Sink"]
