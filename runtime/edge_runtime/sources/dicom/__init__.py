"""DICOM ultrasound as a frame source."""

from edge_runtime.sources.dicom._source import DicomSource

__all__ = ["DicomSource"]
