"""Decoders: one function a file, `decode(index) -> image`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import CorruptFrameError, MissingDependencyError
from edge_runtime.optional import require
from edge_runtime.sources._jpeg import as_rgb_samples, checked_jpeg
from edge_runtime.sources._jpeg_codec import jpeg_decode
from edge_runtime.sources.dicom._codestream import check_codestream, check_jpeg_size
from edge_runtime.sources.dicom._encapsulated import DELIMITER, ITEM, index_frames, read_frame
from edge_runtime.sources.dicom._header import JPEG_HUFFMAN, DicomHeader, number_of
from edge_runtime.sources.dicom._tables import colour_table, grey_table

__all__ = ["Color", "Decode", "make_decoder"]

Image = npt.NDArray[np.uint8]
Color = Literal["native", "gray"]
Decode = Callable[[int], Image]
PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls", "gdcm", "pillow")  # names of pydicom's, best first


def make_decoder(file: BinaryIO, header: DicomHeader, path: Path, color: Color) -> Decode:
    """`decode(index)` for the frames of an open file: libjpeg-turbo for 8-bit JPEG, else pydicom and its plugins.

    Raises `MissingDependencyError` when no plugin for the transfer syntax is installed.
    """
    if header.syntax in JPEG_HUFFMAN:
        return _jpeg_decoder(file, header, path, color)
    return _plugin_decoder(file, header, path, color)


def _jpeg_decoder(file: BinaryIO, header: DicomHeader, path: Path, color: Color) -> Decode:
    extents = index_frames(file, header, path)
    decode_jpeg = jpeg_decode(f"to decode the JPEG frames of {path.name}", grey=color == "gray" or header.samples == 1)
    size = (header.rows, header.columns)
    labelled_rgb = header.photometric == "RGB"
    inverted = header.photometric == "MONOCHROME1"
    table = colour_table(header, path) if header.photometric == "PALETTE COLOR" else None
    if table is not None and color == "gray":
        table = _luma(table[None])[0]

    def decode(index: int) -> Image:
        data = read_frame(file, extents[index], index)
        info = checked_jpeg(data, index)
        check_jpeg_size(info, header, index)
        data = as_rgb_samples(data, info, labelled_rgb)
        image = decode_jpeg(data)
        if isinstance(image, str):
            raise CorruptFrameError(f"frame {index}: its {len(data)} bytes of JPEG cannot be decoded ({image})", index)
        if image.shape[:2] != size:
            raise CorruptFrameError(f"frame {index}: the JPEG is {image.shape}, the file announces {size}", index)
        if table is not None:
            return table[image]
        return 255 - image if inverted else image

    return decode


def _plugin_decoder(file: BinaryIO, header: DicomHeader, path: Path, color: Color) -> Decode:
    uid = require("pydicom.uid", "to decode DICOM pixel data")
    pixels = require("pydicom.pixels", "to decode DICOM pixel data")
    decoder = pixels.get_decoder(header.syntax)
    if not decoder.is_available:
        missing = "; ".join(decoder.missing_dependencies)
        raise MissingDependencyError(
            f"{path}: no decoder for transfer syntax {header.syntax} is installed ({missing}). Install it: "
            "pip install 'pocus-edge-runtime[dicom]'"
        )
    options: dict[str, Any] = {
        "transfer_syntax_uid": uid.UID(header.syntax),
        "rows": header.rows,
        "columns": header.columns,
        "samples_per_pixel": header.samples,
        "photometric_interpretation": header.photometric,
        "planar_configuration": int(number_of(header.dataset, "PlanarConfiguration") == 1),
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
    }
    options.update(
        pixel_keyword="PixelData",
        pixel_vr=header.pixel_vr,
        number_of_frames=1 if header.encapsulated else header.frames,
    )
    extents = index_frames(file, header, path) if header.encapsulated else None
    # one plugin, the first of the list: a second try on damaged data makes GDCM end the process
    plugin = next((p for p in PLUGINS if p in decoder.available_plugins), "") if header.encapsulated else ""
    finish = _finisher(header, path, color)

    def decode(index: int) -> Image:
        try:
            if extents is None:
                file.seek(header.pixel_start)
                samples, _ = decoder.as_array(file, index=index, **options)
            else:
                coded = read_frame(file, extents[index], index)
                check_codestream(coded, header, index)
                samples, _ = decoder.as_array(_one_frame(coded), index=0, decoding_plugin=plugin, **options)
        except CorruptFrameError:
            raise
        except Exception as error:  # plugins wrap C libraries and raise any kind
            raise CorruptFrameError(f"frame {index}: cannot be decoded ({type(error).__name__})", index) from error
        if samples.shape[:2] != (header.rows, header.columns):
            raise CorruptFrameError(f"frame {index}: decoded to {samples.shape}, another size than announced", index)
        return finish(samples)

    return decode


def _one_frame(coded: bytes) -> bytes:
    """Encapsulated pixel data of one frame: empty offset table, one item, delimiter."""
    padded = coded + b"\0" * (len(coded) % 2)
    return ITEM + bytes(4) + ITEM + struct.pack("<L", len(padded)) + padded + DELIMITER + bytes(4)


def _finisher(header: DicomHeader, path: Path, color: Color) -> Callable[[npt.NDArray[Any]], Image]:
    """From decoded samples to (H, W) or (H, W, 3) uint8."""
    if header.samples == 3:
        shift = header.bits_stored - 8

        def finish_colour(samples: npt.NDArray[Any]) -> Image:
            image = np.ascontiguousarray(samples if samples.dtype == np.uint8 else samples >> max(0, shift), np.uint8)
            return _luma(image) if color == "gray" else image

        return finish_colour
    low = -(1 << header.bits_stored - 1) if header.signed else 0
    if header.photometric != "PALETTE COLOR":
        table = grey_table(header, path)
    else:
        table = colour_table(header, path)
        table = _luma(table[None])[0] if color == "gray" else table

    def finish_table(samples: npt.NDArray[Any]) -> Image:
        return table.take(samples.astype(np.intp) - low, axis=0, mode="clip")

    def finish_bytes(samples: npt.NDArray[Any]) -> Image:
        return np.ascontiguousarray(samples)

    identity = table.ndim == 1 and header.bits_allocated == 8 and np.array_equal(table, np.arange(256))
    return finish_bytes if identity else finish_table


def _luma(image: Image) -> Image:
    """(H, W) luma of RGB (H, W, 3) by ITU-R BT.601, the Y of a JPEG."""
    cv2 = require("cv2", "to turn colour frames grey")
    gray: Image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return gray
