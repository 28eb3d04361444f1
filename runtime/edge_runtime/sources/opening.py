"""`open_source`: which source reads a thing, decided by its content."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.frame import FrameGeometry
from edge_runtime.sources.arrays import ArraySource
from edge_runtime.sources.base import Source, with_geometry
from edge_runtime.sources.camera import CameraSource, is_network
from edge_runtime.sources.dicom import DicomSource
from edge_runtime.sources.folder import ImageFolderSource
from edge_runtime.sources.sequence import SequenceSource
from edge_runtime.sources.video import VideoSource

__all__ = ["open_source"]

READ = (
    "DICOM (with or without preamble), video (mp4, mov, avi, mpeg, webm, gif), a folder of images or one image "
    "(png, jpg, bmp, tif), tracked sweeps (.igs.mha, .seq.nrrd), recordings of RecorderSink, .npy arrays of uint8 "
    "(N, H, W) or (N, H, W, 3), and "
    "cameras (an index, /dev/video0, rtsp:// and http:// addresses, or a GStreamer pipeline)"
)
HEAD_BYTES = 256
VIDEO_STARTS = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"GIF87a", b"GIF89a")
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
IMAGE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
RECORDING_START = b"edge-recording/1"  # edge_runtime.sinks.recording.MAGIC
SEQUENCE_STARTS = (b"NRRD000", b"ObjectType", b"NDims")
DICOM_GROUPS = (0x0002, 0x0008)  # of the first element of a file without preamble


def open_source(
    spec: str | Path | int | np.ndarray[Any, Any] | Source,
    *,
    geometry: FrameGeometry | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> Source:
    """Open a path, a camera, an array, or an already open source (given back as it is).

    The kind of a file is told by its first bytes, never by the suffix. A number, a path to a device, an address (rtsp,
    http, ...) and a text with ` ! ` (a GStreamer pipeline) are cameras; so is a text of digits, unless a file has that
    name. `options` go to the source's constructor (`color`,
    `region` for DICOM; `fps` for arrays and images; ...); `geometry` replaces the millimetres of any kind.

    Raises `SourceFormatError`, listing what is read, for another kind of file; `SourceError` when there is nothing
    to open; `ConfigError` for an option that this kind of source does not have.
    """
    if isinstance(spec, Source):
        if options or clock is not None:
            raise ConfigError("the source is open already; give options and clock where it is made")
        source = spec
    elif isinstance(spec, np.ndarray):
        source = _made(ArraySource, spec, clock, options)
    elif isinstance(spec, int) or (isinstance(spec, str) and _names_camera(spec)):
        device = int(spec) if isinstance(spec, str) and spec.isdecimal() else spec
        source = _made(CameraSource, device, clock, options)
    elif isinstance(spec, (str, Path)):
        source = _from_path(Path(spec), clock, options)
    else:
        raise ConfigError(f"a {type(spec).__name__} cannot be opened; give a path, an array or a Source. Read: {READ}")
    return source if geometry is None else with_geometry(source, geometry)


def _names_camera(text: str) -> bool:
    if not text:
        raise ConfigError(f"the source is an empty text. Read: {READ}")
    return " ! " in text or is_network(text) or (text.isdecimal() and not Path(text).exists())


def _from_path(path: Path, clock: Clock | None, options: dict[str, Any]) -> Source:
    if path.is_dir():
        return _made(ImageFolderSource, path, clock, options)
    if path.is_char_device():
        return _made(CameraSource, path, clock, options)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror}") from error
    if not head:
        raise SourceFormatError(f"{path}: the file is empty. Read: {READ}")
    if head[128:132] == b"DICM" or _bare_dicom(head):
        return _made(DicomSource, path, clock, options)
    if head[:6] == b"\x93NUMPY":
        return _made(ArraySource, _npy(path), clock, {"name": path.name, **options})
    if head.startswith(RECORDING_START):
        from edge_runtime.sinks.replaying import RecordingSource  # sinks come after sources

        return _made(RecordingSource, path, clock, options)
    if head.startswith(SEQUENCE_STARTS):
        return _made(SequenceSource, path, clock, options)
    if _video(head):
        return _made(VideoSource, path, clock, options)
    if head.startswith(IMAGE_STARTS) or _bmp(head):
        return _made(ImageFolderSource, [path], clock, options)
    raise SourceFormatError(f"{path}: not a kind of file that is read. Read: {READ}")


def _made(make: Callable[..., Source], what: Any, clock: Clock | None, options: dict[str, Any]) -> Source:
    allowed = [n for n in list(inspect.signature(make).parameters)[1:] if n not in ("clock", "geometry")]
    if unknown := sorted(set(options) - set(allowed)):
        raise ConfigError(
            f"unknown option {', '.join(unknown)} for this kind of source; allowed: {', '.join(allowed) or 'none'}"
        )
    return make(what, clock=clock, **options)


def _video(head: bytes) -> bool:
    riff_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    transport = head[0] == 0x47 and len(head) > 188 and head[188] == 0x47
    return head.startswith(VIDEO_STARTS) or head[4:8] in MP4_BOXES or riff_avi or transport


def _bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and head[6:10] == bytes(4)


def _bare_dicom(head: bytes) -> bool:
    """Whether the file starts with a data element of group 2 or 8 (PS3.10 without the 132 bytes before it)."""
    if len(head) < 12:
        return False
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
        if group not in DICOM_GROUPS or element > 0x0100:
            continue
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        length = int.from_bytes(head[4:8], order)
        if explicit or length < 256:
            return True
    return False


def _npy(path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise SourceFormatError(f"{path}: not a whole .npy array of numbers") from error
