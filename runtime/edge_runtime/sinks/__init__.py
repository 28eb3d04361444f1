"""Where results go: the program, a record, an overlay video, a contact sheet."""

from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.memory import CallbackSink, CollectSink
from edge_runtime.sinks.overlay import draw_overlay
from edge_runtime.sinks.record import JsonlSink, Record, read_jsonl
from edge_runtime.sinks.video import ContactSheetSink, OverlayVideoSink, contact_sheet, write_png

__all__ = [
    "CallbackSink",
    "CollectSink",
    "ContactSheetSink",
    "JsonlSink",
    "OverlayVideoSink",
    "Record",
    "Sink",
    "contact_sheet",
    "draw_overlay",
    "read_jsonl",
    "write_png",
]
