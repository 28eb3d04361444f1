"""`Preprocessor`: the one implementation of a `PreprocessSpec`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, ScanArea, Sector
from edge_runtime.optional import require
from edge_runtime.preprocess._filters import Chain
from edge_runtime.preprocess._gray import GrayPreparer
from edge_runtime.preprocess._order import Layout, check_steps
from edge_runtime.preprocess._resample import Resampler
from edge_runtime.preprocess._values import ValueTable
from edge_runtime.preprocess.pixel_map import Box, PixelMap
from edge_runtime.preprocess.polar_map import PolarMap, PolarResampler
from edge_runtime.preprocess.spec import Letterbox, PreprocessSpec, Resize, Srad, ToPolar

__all__ = ["Prepared", "Preprocessor"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A network input and its way back to the source.

    `tensor` (1, C, H, W) float32, C-contiguous, belongs to the `Preprocessor` and is valid until its next
    call. `geometry` holds for pixels of the network image.
    """

    tensor: npt.NDArray[np.float32]
    map: PixelMap
    geometry: FrameGeometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What depends on a frame's shape and geometry alone, with the buffers of that shape."""

    shape: tuple[int, ...]
    source_geometry: FrameGeometry
    map: PixelMap
    geometry: FrameGeometry
    prepare: GrayPreparer
    before: Chain
    resample: Resampler | PolarResampler
    after: Chain
    images: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


class Preprocessor:
    """`preprocessor(frame) -> Prepared`; buffers are allocated once per frame shape and geometry.

    Not for more than one thread at a time. With a `Stack`, the images before the first are copies of the first;
    a gap in `frame.index`, or a change of shape or geometry, starts a new stack. So on a live stream every dropped
    frame begins a stack of copies, and on a branch with a cadence above 1 every frame does: give stacks a lossless
    source, or a budget that is kept. The same holds for the average of `Persistence`. Raises
    `ConfigError` for steps that do not fit together, and for a colour frame without a `ToGray` step;
    `GeometryError` for a scan area without one pixel inside the image, and for `ToPolar` without a scan area;
    `MissingDependencyError` without OpenCV, for `Srad` without numba.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self._layout: Layout = check_steps(spec.steps)
        self.spec = spec
        self.sha256 = spec.sha256
        self._cv2: Any = require("cv2", "to prepare frames")
        if any(isinstance(step, Srad) for step in spec.steps):
            require("numba", "for the preprocessing step srad")
        size, stack = self._layout.size, self._layout.stack
        self._values = ValueTable(self._layout.value)
        self._history = np.empty(((stack.n - 1) * stack.stride + 1, size.height, size.width), np.float32)
        self._tensor = self._history[None] if stack.n == 1 else np.empty(self.output_shape, np.float32)
        self._plan: _Plan | None = None
        self._last_index: int | None = None
        self._newest = 0

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W) of every tensor; C is the number of stacked images."""
        return 1, self._layout.stack.n, self._layout.size.height, self._layout.size.width

    def reset(self) -> None:
        """Forget earlier frames: the next one starts a new stack and a new average."""
        self._last_index = None

    def __call__(self, frame: Frame) -> Prepared:
        """The network input of `frame`; valid until the next call."""
        plan = self._plan_for(frame)
        fresh = self._last_index is None or frame.index != self._last_index + 1
        self._last_index = None  # what fails half-way leaves no state to follow
        image = plan.before(plan.prepare(frame.image), fresh)
        if self._layout.value_first:
            self._values.measure(image)
        content = plan.after.buffers[0]
        plan.resample(image, content)
        content = plan.after(content, fresh)
        if not self._layout.value_first:
            self._values.measure(content)
        self._push(plan.images[content is plan.after.buffers[1]], fresh)
        self._last_index = frame.index
        return Prepared(tensor=self._tensor, map=plan.map, geometry=plan.geometry)

    def _push(self, image: npt.NDArray[np.uint8], fresh: bool) -> None:
        """The image's values into the ring; gather the stack when there is one."""
        depth, stack = len(self._history), self._layout.stack
        self._newest = (self._newest + 1) % depth
        self._cv2.LUT(image, self._values.table, dst=self._history[self._newest])
        if stack.n == 1:
            return
        if fresh:
            self._history[:] = self._history[self._newest]
        for channel in range(stack.n):
            age = (stack.n - 1 - channel) * stack.stride
            np.copyto(self._tensor[0, channel], self._history[(self._newest - age) % depth])

    def _plan_for(self, frame: Frame) -> _Plan:
        """The plan of the last frame if it fits, else a new one (which also starts a new stack)."""
        plan = self._plan
        known = plan is not None and (plan.source_geometry is frame.geometry or plan.source_geometry == frame.geometry)
        if plan is None or not known or plan.shape != frame.image.shape:
            plan = self._plan = self._make_plan(frame)
            self.reset()
        return plan

    def _make_plan(self, frame: Frame) -> _Plan:
        layout = self._layout
        if frame.image.ndim == 3 and not layout.gray:
            raise ConfigError(
                f"frame {frame.index} is colour {frame.image.shape} and the preprocessing has no to_gray step; "
                "put to_gray before the size step"
            )
        pixels, geometry = self._place(frame)
        crop, content, size = pixels.crop, pixels.content, layout.size
        images = tuple(np.full((size.height, size.width), getattr(size, "fill", 0), np.uint8) for _ in range(2))
        interpolation = size.interpolation if isinstance(size, (Resize, Letterbox)) else "area"
        buffers = tuple(np.empty((crop.height, crop.width), np.uint8) for _ in range(2))
        return _Plan(
            shape=frame.image.shape,
            source_geometry=frame.geometry,
            map=pixels,
            geometry=geometry,
            prepare=GrayPreparer(layout, frame, crop, buffers[0]),
            before=Chain(layout.before, (buffers[0], buffers[1])),
            resample=PolarResampler(pixels) if isinstance(pixels, PolarMap) else Resampler(interpolation),
            after=Chain(layout.after, (images[0][content.slices], images[1][content.slices])),
            images=(images[0], images[1]),
        )

    def _place(self, frame: Frame) -> tuple[PixelMap, FrameGeometry]:
        """The pixel map and the geometry of the network image."""
        crop, area, size = self._crop(frame), frame.geometry.scan_area, self._layout.size
        content, network = self._content(crop), (size.height, size.width)
        if isinstance(size, ToPolar) and isinstance(area, Sector):
            place = PolarMap(source_shape=frame.shape, network_shape=network, crop=crop, content=content, sector=area)
            return place, _polar_geometry(frame.geometry, place)
        pixels = PixelMap(source_shape=frame.shape, network_shape=network, crop=crop, content=content)
        (sx, sy), (bx, by) = pixels.scale, pixels.offset
        return pixels, frame.geometry.moved(-bx / sx, -by / sy, 1 / sx, 1 / sy)

    def _crop(self, frame: Frame) -> Box:
        height, width = frame.shape
        polar = isinstance(self._layout.size, ToPolar)
        area = frame.geometry.scan_area if self._layout.crop or polar else None
        if polar:
            _check_polar(area, frame.index)
        if area is None:
            return Box(x0=0, y0=0, width=width, height=height)
        left, top, right, bottom = _bounds(area)
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise GeometryError(f"frame {frame.index}: the scan area {area} is not made of finite numbers")
        x0, y0 = max(0, math.ceil(left)), max(0, math.ceil(top))
        x1, y1 = min(width, math.floor(right) + 1), min(height, math.floor(bottom) + 1)
        if x1 <= x0 or y1 <= y0:
            raise GeometryError(
                f"frame {frame.index}: the scan area (x {left:.1f} to {right:.1f}, y {top:.1f} to {bottom:.1f}) "
                f"has no pixel inside the image of {width} x {height}; correct the geometry, or leave scan_area None"
            )
        return Box(x0=x0, y0=y0, width=x1 - x0, height=y1 - y0)

    def _content(self, crop: Box) -> Box:
        size = self._layout.size
        if not isinstance(size, Letterbox):
            return Box(x0=0, y0=0, width=size.width, height=size.height)
        scale = min(size.height / crop.height, size.width / crop.width)
        width = min(size.width, max(1, round(crop.width * scale)))
        height = min(size.height, max(1, round(crop.height * scale)))
        return Box(x0=(size.width - width) // 2, y0=(size.height - height) // 2, width=width, height=height)


def _check_polar(area: ScanArea | None, index: int) -> None:
    if area is None:
        raise GeometryError(
            f"frame {index} has no scan area, which to_polar needs: give its geometry one (detect_scan_area finds it "
            "in screen captures), or use resize"
        )
    if isinstance(area, Sector) and not (area.angle_max > area.angle_min and area.radius_max > area.radius_min >= 0):
        raise GeometryError(
            f"frame {index}: the sector has angles {area.angle_min} to {area.angle_max} rad and radii "
            f"{area.radius_min} to {area.radius_max} px; both must grow, from a radius of at least 0"
        )


def _polar_geometry(geometry: FrameGeometry, place: PolarMap) -> FrameGeometry:
    """Rows have a length, columns are angles: no millimetres in a polar image."""
    return replace(
        geometry,
        row_mm=None if geometry.row_mm is None else geometry.row_mm * place.step[1],
        column_mm=None,
        scan_area=None,
        trusted=False,
        reason="the columns of a polar image are angles; measure the mask that was brought back to source pixels",
    )


def _bounds(area: ScanArea) -> tuple[float, float, float, float]:
    """Smallest and largest centre positions (left, top, right, bottom) inside an area, in pixels, ends included."""
    if isinstance(area, Rectangle):
        return area.x0, area.y0, np.nextafter(area.x1, -np.inf), np.nextafter(area.y1, -np.inf)
    return _sector_bounds(area)


def _sector_bounds(sector: Sector) -> tuple[float, float, float, float]:
    """Closed form: a ring sector's extremes lie at its four corners or where an arc crosses an axis."""
    quarter_turns = (k * math.pi / 2 for k in range(-2, 3))
    angles = [sector.angle_min, sector.angle_max]
    angles += [angle for angle in quarter_turns if sector.angle_min < angle < sector.angle_max]
    radii = (sector.radius_min, sector.radius_max)
    xs = [sector.apex_x + radius * math.sin(angle) * sector.aspect for radius in radii for angle in angles]
    ys = [sector.apex_y + radius * math.cos(angle) for radius in radii for angle in angles]
    return min(xs), min(ys), max(xs), max(ys)
