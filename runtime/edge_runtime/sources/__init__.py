"""Where frames come from: files, arrays, recordings played as if live."""

from edge_runtime.sources.arrays import ArraySource
from edge_runtime.sources.base import Source, with_geometry
from edge_runtime.sources.dicom import DicomSource
from edge_runtime.sources.folder import ImageFolderSource
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.paced import PacedSource
from edge_runtime.sources.replay import ReplaySource
from edge_runtime.sources.video import VideoSource

__all__ = [
    "ArraySource",
    "DicomSource",
    "ImageFolderSource",
    "PacedSource",
    "ReplaySource",
    "Source",
    "VideoSource",
    "open_source",
    "with_geometry",
]
