"""The device half: bundles, sources, deadline streaming, runners, reconstruction. NumPy alone at the start.

Names are imported when first used, so that `import edge_runtime` costs nothing and needs no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.buffers import ImuBuffer, PoseBuffer
    from edge_runtime.bundle import Bundle, verify_bundle
    from edge_runtime.clock import ManualClock
    from edge_runtime.errors import (
        BundleError,
        BundleFormatError,
        BundleIntegrityError,
        BundleSignatureError,
        BundleVersionError,
        ConfigError,
        CorruptFrameError,
        EdgeError,
        GeometryError,
        InferenceError,
        InputContractError,
        MissingDependencyError,
        ModelRefusedError,
        PipelineError,
        ProviderUnavailableError,
        ReconstructionError,
        RunnerError,
        SelfTestError,
        SourceError,
        SourceFormatError,
    )
    from edge_runtime.frame import Frame, FrameGeometry, Rectangle, Sector
    from edge_runtime.geometry import Pose
    from edge_runtime.hot_swap import swap_bundle
    from edge_runtime.loading import load
    from edge_runtime.postprocess import MaskPostprocessor
    from edge_runtime.preprocess import Preprocessor, PreprocessSpec
    from edge_runtime.reconstruct import Sweep, Volume, compound
    from edge_runtime.result import Area, Result
    from edge_runtime.runners import FakeRunner, OpenVinoRunner, OrtRunner, Runner
    from edge_runtime.session import RunSettings, run_stream
    from edge_runtime.sinks import (
        CallbackSink,
        CollectSink,
        ContactSheetSink,
        JsonlSink,
        MjpegSink,
        OverlayVideoSink,
        RecorderSink,
        Sink,
        read_jsonl,
    )
    from edge_runtime.sources import (
        ArraySource,
        CameraSource,
        DicomSource,
        Fault,
        FaultSource,
        ImageFolderSource,
        LatestReader,
        PacedSource,
        PushSource,
        Reconnecting,
        SequenceSource,
        Source,
        VideoSource,
        open_source,
        read_sequence,
        write_sequence,
    )
    from edge_runtime.streaming import (
        Beside,
        Branch,
        Decision,
        ErrorPolicy,
        FixedPolicy,
        Intake,
        LadderPolicy,
        Ledger,
        Mailbox,
        Pipeline,
        Policy,
        Rung,
        Situation,
        StreamEvent,
        StreamReport,
        Watchdogs,
        astream,
    )
    from edge_runtime.telemetry import GcPauses, MetricsServer, TraceWriter

__all__ = [
    "Area",
    "ArraySource",
    "Beside",
    "Branch",
    "Bundle",
    "BundleError",
    "BundleFormatError",
    "BundleIntegrityError",
    "BundleSignatureError",
    "BundleVersionError",
    "CallbackSink",
    "CameraSource",
    "CollectSink",
    "ConfigError",
    "ContactSheetSink",
    "CorruptFrameError",
    "Decision",
    "DicomSource",
    "EdgeError",
    "ErrorPolicy",
    "FakeRunner",
    "Fault",
    "FaultSource",
    "FixedPolicy",
    "Frame",
    "FrameGeometry",
    "GcPauses",
    "GeometryError",
    "ImageFolderSource",
    "ImuBuffer",
    "InferenceError",
    "InputContractError",
    "Intake",
    "JsonlSink",
    "LadderPolicy",
    "LatestReader",
    "Ledger",
    "Mailbox",
    "ManualClock",
    "MaskPostprocessor",
    "MetricsServer",
    "MissingDependencyError",
    "MjpegSink",
    "ModelRefusedError",
    "OpenVinoRunner",
    "OrtRunner",
    "OverlayVideoSink",
    "PacedSource",
    "Pipeline",
    "PipelineError",
    "Policy",
    "Pose",
    "PoseBuffer",
    "PreprocessSpec",
    "Preprocessor",
    "ProviderUnavailableError",
    "PushSource",
    "Reconnecting",
    "ReconstructionError",
    "RecorderSink",
    "Rectangle",
    "Result",
    "RunSettings",
    "Rung",
    "Runner",
    "RunnerError",
    "Sector",
    "SelfTestError",
    "SequenceSource",
    "Sink",
    "Situation",
    "Source",
    "SourceError",
    "SourceFormatError",
    "StreamEvent",
    "StreamReport",
    "Sweep",
    "TraceWriter",
    "VideoSource",
    "Volume",
    "Watchdogs",
    "__version__",
    "astream",
    "compound",
    "load",
    "open_source",
    "read_jsonl",
    "read_sequence",
    "run_stream",
    "swap_bundle",
    "verify_bundle",
    "write_sequence",
]

__version__ = "0.1.0"

_MODULES = {
    "bundle": ("Bundle", "verify_bundle"),
    "buffers": ("ImuBuffer", "PoseBuffer"),
    "clock": ("ManualClock",),
    "errors": (
        "BundleError",
        "BundleFormatError",
        "BundleIntegrityError",
        "BundleSignatureError",
        "BundleVersionError",
        "ConfigError",
        "CorruptFrameError",
        "EdgeError",
        "GeometryError",
        "InferenceError",
        "InputContractError",
        "MissingDependencyError",
        "ModelRefusedError",
        "PipelineError",
        "ProviderUnavailableError",
        "ReconstructionError",
        "RunnerError",
        "SelfTestError",
        "SourceError",
        "SourceFormatError",
    ),
    "frame": ("Frame", "FrameGeometry", "Rectangle", "Sector"),
    "geometry": ("Pose",),
    "loading": ("load",),
    "postprocess": ("MaskPostprocessor",),
    "preprocess": ("Preprocessor", "PreprocessSpec"),
    "reconstruct": ("Sweep", "Volume", "compound"),
    "result": ("Area", "Result"),
    "runners": ("FakeRunner", "OpenVinoRunner", "OrtRunner", "Runner"),
    "session": ("RunSettings", "run_stream"),
    "sinks": (
        "CallbackSink",
        "CollectSink",
        "ContactSheetSink",
        "JsonlSink",
        "MjpegSink",
        "OverlayVideoSink",
        "RecorderSink",
        "Sink",
        "read_jsonl",
    ),
    "sources": (
        "ArraySource",
        "CameraSource",
        "DicomSource",
        "Fault",
        "FaultSource",
        "ImageFolderSource",
        "LatestReader",
        "PacedSource",
        "PushSource",
        "Reconnecting",
        "SequenceSource",
        "Source",
        "VideoSource",
        "open_source",
        "read_sequence",
        "write_sequence",
    ),
    "streaming": (
        "Beside",
        "Branch",
        "Decision",
        "ErrorPolicy",
        "FixedPolicy",
        "Intake",
        "LadderPolicy",
        "Ledger",
        "Mailbox",
        "Pipeline",
        "Policy",
        "Rung",
        "Situation",
        "StreamEvent",
        "StreamReport",
        "Watchdogs",
        "astream",
    ),
    "telemetry": ("GcPauses", "MetricsServer", "TraceWriter"),
    "hot_swap": ("swap_bundle",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_runtime' has no attribute {name!r}")
    value = getattr(import_module(f"edge_runtime.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
