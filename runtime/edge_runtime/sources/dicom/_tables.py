"""Tables that bring stored values to 8 bits: grey scale (PS3.3 C.11.2) and palette (PS3.3 C.7.6.3.1.5, C.7.9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SourceFormatError
from edge_runtime.optional import require
from edge_runtime.sources.dicom._header import EXPLICIT_BE, DicomHeader, number_of, numbers_of, text_of, value_of

__all__ = ["colour_table", "grey_table"]

Image = npt.NDArray[np.uint8]
FULL = 255.0


def grey_table(header: DicomHeader, path: Path) -> Image:
    """uint8 for every stored value, lowest first.

    Up to 8 bits stored: the whole range of the stored bits goes to 0..255 (8 bits: unchanged), because such an
    image is ready for display. More bits: rescale slope and intercept, then the first window if there is one
    (PS3.3 C.11.2.1.2), else the whole range of the stored bits. Never the range found in a frame, which would
    flicker. MONOCHROME1 is inverted at the end.
    """
    bits, dataset = header.bits_stored, header.dataset
    low = -(1 << bits - 1) if header.signed else 0
    values = np.arange(low, low + (1 << bits), dtype=np.float64)
    grey = (values - low) * (FULL / ((1 << bits) - 1))
    if bits > 8:
        if "ModalityLUTSequence" in dataset or "VOILUTSequence" in dataset:
            raise SourceFormatError(f"{path}: {bits}-bit grey with a lookup table sequence is not read; apply it first")
        slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept")
        values = values * (1.0 if slope is None else slope) + (intercept or 0.0)
        center, width = number_of(dataset, "WindowCenter"), number_of(dataset, "WindowWidth")
        if center is not None and width is not None:
            grey = _window(values, center, width, text_of(dataset, "VOILUTFunction") or "LINEAR", path)
    table = np.clip(np.rint(grey), 0, FULL).astype(np.uint8)
    return 255 - table if header.photometric == "MONOCHROME1" else table


def _window(
    values: npt.NDArray[np.float64], center: float, width: float, function: str, path: Path
) -> npt.NDArray[np.float64]:
    if (width < 1 and function == "LINEAR") or width <= 0:
        raise SourceFormatError(f"{path}: window width {width} cannot be used; at least 1 is needed")
    if function == "SIGMOID":
        return FULL / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return FULL * ((values - center) / width + 0.5)
    if function != "LINEAR":
        raise SourceFormatError(f"{path}: VOI LUT function {function!r}; LINEAR, LINEAR_EXACT, SIGMOID are read")
    return FULL * ((values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5)


def colour_table(header: DicomHeader, path: Path) -> Image:
    """(2**bits, 3) RGB for every stored value; values outside the palette take its first or last entry.

    Of 16-bit entries the high byte is taken; where no entry of the three tables exceeds 255 the writer has filled
    the low byte, and that is taken. Raises `SourceFormatError` when the palette is missing or damaged.
    """
    if header.signed:
        raise SourceFormatError(f"{path}: signed indices into a colour palette are not read")
    indices = np.arange(1 << header.bits_stored)
    if "RedPaletteColorLookupTableData" in header.dataset:
        entries = [_entries(header, name, path) for name in ("Red", "Green", "Blue")]
        first = numbers_of(header.dataset, "RedPaletteColorLookupTableDescriptor")[1]
        at = np.clip(indices - int(first), 0, min(len(e) for e in entries) - 1)
        colours = np.stack([e[at] for e in entries], axis=-1)
    else:
        colours = _segmented(header, indices, path)
    if colours.dtype != np.uint8 and colours.max() > 255:
        colours = colours >> 8
    return np.ascontiguousarray(colours, np.uint8)


def _entries(header: DicomHeader, name: str, path: Path) -> npt.NDArray[Any]:
    """One channel's entries in their own bits.

    Parsed here because pydicom 3.0 takes 16-bit entries of a big-endian file in the wrong byte order.
    """
    descriptor = numbers_of(header.dataset, f"{name}PaletteColorLookupTableDescriptor")
    data = value_of(header.dataset, f"{name}PaletteColorLookupTableData")
    if len(descriptor) != 3 or not isinstance(data, bytes):
        raise SourceFormatError(f"{path}: the {name.lower()} colour palette is missing or damaged")
    count = int(descriptor[0]) or 1 << 16  # 0 stands for 65536
    kind = np.dtype(np.uint8) if len(data) < 2 * count else np.dtype(">u2" if header.syntax == EXPLICIT_BE else "<u2")
    if len(data) < count * kind.itemsize:
        raise SourceFormatError(f"{path}: the {name.lower()} palette has {len(data)} bytes for {count} entries")
    return np.frombuffer(data, kind, count).astype(kind.newbyteorder("="))


def _segmented(header: DicomHeader, indices: npt.NDArray[np.intp], path: Path) -> npt.NDArray[Any]:
    processing = require("pydicom.pixels.processing", "to expand a segmented colour palette")
    kind = np.uint8 if header.bits_stored <= 8 else np.uint16
    try:
        colours: npt.NDArray[Any] = processing.apply_color_lut(indices.astype(kind)[None], header.dataset)
    except Exception as error:  # palettes are parsed from free bytes; any kind is raised
        raise SourceFormatError(f"{path}: the colour palette is missing or damaged ({type(error).__name__})") from error
    return colours[0, :, :3]
