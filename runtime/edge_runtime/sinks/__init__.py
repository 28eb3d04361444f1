"""Where results go: the program, a record, an overlay as video, as live view, as contact sheet."""

from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.memory import CallbackSink, CollectSink
from edge_runtime.sinks.mjpeg import MjpegSink
from edge_runtime.sinks.overlay import draw_overlay
from edge_runtime.sinks.record import JsonlSink, Record, read_jsonl
from edge_runtime.sinks.recording import RecorderSink
from edge_runtime.sinks.video import ContactSheetSink, OverlayVideoSink, contact_sheet, write_png

__all__ = [
    "CallbackSink",
    "CollectSink",
    "ContactSheetSink",
    "JsonlSink",
    "MjpegSink",
    "OverlayVideoSink",
    "Record",
    "RecorderSink",
    "Sink",
    "contact_sheet",
    "draw_overlay",
    "read_jsonl",
    "write_png",
]
