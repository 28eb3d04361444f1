"""Preprocessing against the same steps written plainly, 1024 x 768 to 256 x 256, one thread, interleaved.

Times are the thread's CPU time, which other load on the machine disturbs less than the wall clock.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numba
import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.preprocess import (
    Clahe,
    CropToScanArea,
    Letterbox,
    Median,
    Normalize,
    Preprocessor,
    PreprocessSpec,
    Srad,
    ZScore,
)

__all__ = ["measure_preprocess_ratio"]

SHAPE, SIDE = (768, 1024), 256
AREA = Rectangle(x0=64, y0=40, x1=960, y1=728)
SRAD = Srad(iterations=20)
SRAD_ROUNDS, CHAIN_ROUNDS, FRAMES = 9, 300, 8
SMALL_OBJECTS = 4096  # bytes: views, tuples and floats of one call; a row of 256 float32 pixels alone has 1,024
Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def speckle_frames() -> list[Frame]:
    """Log-compressed Rayleigh speckle with dark discs, a new one every frame."""
    rng = np.random.default_rng(0)
    geometry = FrameGeometry(scan_area=AREA)
    frames = []
    for index in range(FRAMES):
        parts = [cv2.GaussianBlur(rng.normal(size=SHAPE), (0, 0), 2.0) for _ in range(2)]
        envelope = np.hypot(*parts)
        for _ in range(6):
            cv2.circle(envelope, tuple(int(v) for v in rng.integers(100, 700, 2)), 60, float(envelope.min()), -1)
        levels = 255 + 255 / 50 * 20 * np.log10(envelope / envelope.max())
        image = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        frames.append(Frame(image=image, index=index, arrival_ns=0, geometry=geometry))
    return frames


def plain_letterbox(values: npt.NDArray[Any], border: float) -> Floats:
    """cv2's area averaging and a constant border."""
    height, width = values.shape
    scale = min(SIDE / height, SIDE / width)
    h, w = round(height * scale), round(width * scale)
    small = cv2.resize(values, (w, h), interpolation=cv2.INTER_AREA)
    top, left = (SIDE - h) // 2, (SIDE - w) // 2
    around = (top, SIDE - h - top, left, SIDE - w - left)
    return cv2.copyMakeBorder(small, *around, cv2.BORDER_CONSTANT, value=border).astype(np.float32)


def plain_chain(frame: Frame, clahe: Any) -> Floats:
    """Crop, median, CLAHE, z-score, letterbox as one writes them with cv2 and NumPy."""
    x0, y0, x1, y1 = (int(getattr(AREA, name)) for name in ("x0", "y0", "x1", "y1"))
    image = clahe.apply(cv2.medianBlur(frame.image[y0:y1, x0:x1], 5))
    mean, std = cv2.meanStdDev(image)
    values = (image.astype(np.float32) - np.float32(mean[0, 0])) / np.float32(std[0, 0])
    return plain_letterbox(values, float(-mean[0, 0] / std[0, 0]))


def plain_srad(frame: Frame) -> Floats:
    """Yu and Acton's equations on NumPy arrays in float32, then the letterbox; grey levels.

    scikit-image has no SRAD; this is the form of the public NumPy versions: shifted copies, one array an expression.
    """
    k = SRAD.dynamic_range_db * np.log(10) / (20 * 255)
    now = np.exp(np.float32(k) * frame.image.astype(np.float32))
    for n in range(SRAD.iterations):
        q0 = np.float32(SRAD.q0 * np.exp(-SRAD.decay * SRAD.time_step * n)) ** 2
        p = np.pad(now, 1, mode="edge")
        north, south, west, east = (q - now for q in (p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]))
        gradient = (north**2 + south**2 + west**2 + east**2) / now**2
        laplace = (north + south + west + east) / now
        q = (gradient / 2 - laplace**2 / 16) / (1 + laplace / 4) ** 2
        c = np.clip(1 / (1 + (q - q0) / (q0 * (1 + q0))), 0, 1)
        c_south = np.concatenate([c[1:], c[-1:]], axis=0)
        c_east = np.concatenate([c[:, 1:], c[:, -1:]], axis=1)
        now = now + np.float32(SRAD.time_step / 4) * (c_south * south + c * north + c_east * east + c * west)
    return plain_letterbox(np.log(now) / np.float32(k), 0.0)


def measure_preprocess_ratio() -> list[Figure]:
    """SRAD and the chain: how many times as fast as written plainly, and what a frame allocates."""
    frames = speckle_frames()
    size = Letterbox(height=SIDE, width=SIDE)
    srad = Preprocessor(PreprocessSpec(steps=(SRAD, size, Normalize(scale=1.0))))
    steps = (CropToScanArea(), Median(size=5), Clahe(), ZScore(), size)
    chain = Preprocessor(PreprocessSpec(steps=steps))
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    with one_thread():
        one = compare(frames, lambda f: srad(f).tensor[0, 0], plain_srad, SRAD_ROUNDS, lambda f: 1.0)
        other = compare(
            frames, lambda f: chain(f).tensor[0, 0], lambda f: plain_chain(f, clahe), CHAIN_ROUNDS, grey_levels
        )
        peak = allocated(chain, frames)
    return [
        figure("SRAD, 20 iterations, against NumPy", one, 5.0, ">= 5 x as fast, within 1 grey level"),
        figure("crop, median, CLAHE, z-score, letterbox against cv2", other, 1.0, "not slower, within 1 grey level"),
        Figure(
            name="allocated at most at once in a frame of the chain",
            value=float(peak),
            goal=f"no array: <= {SMALL_OBJECTS} B of small objects",
            unit="B",
            n=5 * len(frames),
            met=peak <= SMALL_OBJECTS,
            spread="largest of all frames",
            detail={"by": "tracemalloc; memory that OpenCV takes inside of a call is not seen, on either side"},
        ),
    ]


def grey_levels(frame: Frame) -> float:
    """Grey levels a unit of the z-score of a frame: the deviation after median and CLAHE."""
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    x0, y0, x1, y1 = (int(getattr(AREA, name)) for name in ("x0", "y0", "x1", "y1"))
    return float(clahe.apply(cv2.medianBlur(frame.image[y0:y1, x0:x1], 5)).std())


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV and numba on one thread."""
    cv2_threads, numba_threads = cv2.getNumThreads(), numba.get_num_threads()
    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(cv2_threads)
        numba.set_num_threads(numba_threads)


Run = Callable[[Frame], Floats]


def compare(frames: list[Frame], ours: Run, plain: Run, rounds: int, unit: Callable[[Frame], float]) -> dict[str, Any]:
    """CPU ms of both on the same frames in turn, after a warm-up, and the largest difference in grey levels."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    worst = max(float(np.abs(ours(f) - plain(f)).max()) * unit(f) for f in frames)
    for k in range(rounds):
        frame = frames[k % len(frames)]
        pair = [("ours", ours), ("plain", plain)]
        for name, run in pair if k % 2 else reversed(pair):
            began = time.thread_time_ns()
            run(frame)
            times[name].append((time.thread_time_ns() - began) / 1e6)
    ratios = [plain_ms / ours_ms for ours_ms, plain_ms in zip(times["ours"], times["plain"], strict=True)]
    return {"times": times, "ratios": ratios, "worst": worst}


def allocated(prepare: Preprocessor, frames: list[Frame]) -> int:
    """Largest rise of traced memory within one call, in bytes, once the buffers stand."""
    for frame in frames:
        prepare(frame)
    peak = 0
    tracemalloc.start()
    try:
        for _ in range(5):
            for frame in frames:
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                prepare(frame)
                peak = max(peak, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return peak


def figure(name: str, found: dict[str, Any], goal: float, text: str) -> Figure:
    """The ratio of the medians; met when the goal and one grey level are kept."""
    medians = {key: statistics.median(values) for key, values in found["times"].items()}
    ratio = medians["plain"] / medians["ours"]
    low, _, high = statistics.quantiles(found["ratios"], n=4)
    return Figure(
        name=name,
        value=ratio,
        goal=text,
        unit="x",
        n=len(found["ratios"]),
        met=ratio >= goal and found["worst"] <= 1.0,
        spread=f"quartiles of rounds {low:.2f} to {high:.2f}; largest difference {found['worst']:.2f} grey levels",
        detail={
            "ours_ms": medians["ours"],
            "plain_ms": medians["plain"],
            "clock": "CPU time of the thread",
            "fastest_ms": {key: min(values) for key, values in found["times"].items()},
            "worst_grey_levels": found["worst"],
        },
    )
