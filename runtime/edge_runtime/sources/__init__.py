"""Where frames come from: files, arrays, cameras, the application; recordings played as if live; faults for tests."""

from edge_runtime.sources.arrays import ArraySource
from edge_runtime.sources.base import Source, with_geometry
from edge_runtime.sources.camera import CameraSource
from edge_runtime.sources.dicom import DicomSource
from edge_runtime.sources.faults import Fault, FaultSource, Injected
from edge_runtime.sources.folder import ImageFolderSource
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.paced import PacedSource
from edge_runtime.sources.push import PushSource
from edge_runtime.sources.reader import LatestFrame, LatestReader, ReaderCounts
from edge_runtime.sources.reconnecting import ReconnectCounts, ReconnectEvent, Reconnecting
from edge_runtime.sources.replay import ReplaySource
from edge_runtime.sources.scan_area import find_scan_area, with_scan_area
from edge_runtime.sources.sequence import SequenceSource
from edge_runtime.sources.tracked import (
    TrackedSequence,
    TransformGraph,
    image_poses,
    read_sequence,
    read_tum,
    write_sequence,
)
from edge_runtime.sources.video import VideoSource

__all__ = [
    "ArraySource",
    "CameraSource",
    "DicomSource",
    "Fault",
    "FaultSource",
    "ImageFolderSource",
    "Injected",
    "LatestFrame",
    "LatestReader",
    "PacedSource",
    "PushSource",
    "ReaderCounts",
    "ReconnectCounts",
    "ReconnectEvent",
    "Reconnecting",
    "ReplaySource",
    "SequenceSource",
    "Source",
    "TrackedSequence",
    "TransformGraph",
    "VideoSource",
    "find_scan_area",
    "image_poses",
    "open_source",
    "read_sequence",
    "read_tum",
    "with_geometry",
    "with_scan_area",
    "write_sequence",
]
