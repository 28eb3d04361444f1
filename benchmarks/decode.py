"""DICOM JPEG-baseline decoding: this runtime against pydicom with Pillow, same file, interleaved rounds.

Run: `python -m benchmarks.decode [FILE ...]`; without a file the cine of pydicom's wheel, and the whole clip of the
data folder where POCUS_DATA is set.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_runtime.optional import require
from edge_runtime.sources import DicomSource

__all__ = ["default_files", "measure_jpeg_decode"]

Reader = Literal["ours", "pydicom"]
MODES = ("color", "gray")
PRIMARY = "color3d_jpeg_baseline.dcm"


def measure_jpeg_decode(path: str | Path, rounds: int = 5) -> dict[str, Any]:
    """How many times faster `DicomSource` gives the frames of `path` than pydicom with its Pillow plugin.

    Each reader runs in a process of its own, as its user would run it, because what one leaves behind in the heap
    changes the page faults, and so the time, of the other. They take turns: in every round each reads the whole
    file once in colour and once in grey, one of them at a time. pydicom's grey is its RGB frame through OpenCV's
    RGB2GRAY; ours is decoded as luma. Of every frame the least time over the rounds counts; the ratio is the median
    over frames. `same_process` is the same with both readers alternating frame by frame in one process.

    Returns a JSON-able dict: for "color" and "gray" `value` (ratio), `n` (frames times rounds), `spread` (5th and
    95th percentile of the ratio over frames), `ms` (median of the least times, and of all times, for each reader).
    """
    path = Path(path)
    times: dict[tuple[str, str], list[list[int]]] = {}
    with _Worker("ours", path) as ours, _Worker("pydicom", path) as theirs:
        for worker in (ours, theirs):
            worker.round("color")  # warm: imports, file cache
        for _ in range(rounds):
            for mode in MODES:
                for worker in (ours, theirs):
                    times.setdefault((worker.reader, mode), []).append(worker.round(mode))
    report: dict[str, Any] = {"file": path.name, "rounds": rounds}
    for mode in MODES:
        report[mode] = _compared(times["ours", mode], times["pydicom", mode])
    report["same_process"] = _same_process(path, rounds)
    return report


def default_files() -> list[Path]:
    """The whole SonoSite clip where POCUS_DATA has it, then the cine that pydicom's wheel ships."""
    data = os.environ.get("POCUS_DATA")
    found = [Path(data, "dicom", PRIMARY)] if data else []
    cine = require("pydicom.examples", "for the cine of its wheel").get_path("ybr_color")
    return [*(p for p in found if p.exists()), Path(cine)]


def _compared(ours: list[list[int]], theirs: list[list[int]]) -> dict[str, Any]:
    mine, other = np.array(ours) / 1e6, np.array(theirs) / 1e6  # (rounds, frames), ms
    ratio = other.min(axis=0) / mine.min(axis=0)
    low, high = np.percentile(ratio, (5, 95))
    return {
        "value": round(float(np.median(ratio)), 2),
        "n": int(mine.size),
        "spread": [round(float(low), 2), round(float(high), 2)],
        "ms": {
            name: {"least": round(float(np.median(t.min(axis=0))), 3), "median": round(float(np.median(t)), 3)}
            for name, t in (("ours", mine), ("pydicom", other))
        },
    }


def _frames(reader: Reader, path: Path, mode: str) -> Iterator[Any]:
    if reader == "ours":
        with DicomSource(path, color="gray" if mode == "gray" else "native") as source:
            for frame in source:
                yield frame.image
        return
    cv2 = require("cv2", "to turn frames grey")
    iter_pixels = require("pydicom.pixels", "as the peer").iter_pixels
    for image in iter_pixels(path, decoding_plugin="pillow"):
        yield image if mode == "color" or image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _timed(reader: Reader, path: Path, mode: str) -> list[int]:
    """Nanoseconds of each frame, the opening of the file left out of the first."""
    times = []
    frames = _frames(reader, path, mode)
    next(frames)
    before = time.perf_counter_ns()
    for _ in frames:
        after = time.perf_counter_ns()
        times.append(after - before)
        before = after
    return times


def _same_process(path: Path, rounds: int) -> dict[str, Any]:
    """Ratio with both readers alternating frame by frame in this process."""
    times: dict[tuple[str, str], list[list[int]]] = {}
    for _ in range(rounds):
        for mode in MODES:
            pair = {r: _frames(r, path, mode) for r in ("ours", "pydicom")}
            row: dict[str, list[int]] = {r: [] for r in pair}
            ended = False
            while not ended:
                for name, frames in pair.items():
                    before = time.perf_counter_ns()
                    ended = next(frames, None) is None
                    row[name].append(time.perf_counter_ns() - before)
            for name, one in row.items():
                times.setdefault((name, mode), []).append(one[1:-1])
    return {mode: _compared(times["ours", mode], times["pydicom", mode]) for mode in MODES}


class _Worker:
    """One reader in a process of its own; `round` reads the file once and gives the time of each frame."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self.reader = reader
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, reader, path), daemon=True)
        self._process.start()
        far.close()

    def round(self, mode: str) -> list[int]:
        self._pipe.send(mode)
        times: list[int] = self._pipe.recv()
        return times

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(10)
        self._pipe.close()


def _serve(pipe: Connection, reader: Reader, path: Path) -> None:
    while (mode := pipe.recv()) is not None:
        pipe.send(_timed(reader, path, mode))


def main(arguments: list[str]) -> None:
    """Print one JSON object a file, then one line with the medians."""
    for path in [Path(a) for a in arguments] or default_files():
        report = measure_jpeg_decode(path, 5)
        print(json.dumps(report, indent=1))
        both = [report[mode]["value"] for mode in MODES]
        print(f"{path.name}: {both[0]} times faster in colour, {both[1]} in grey")


if __name__ == "__main__":
    main(sys.argv[1:])
