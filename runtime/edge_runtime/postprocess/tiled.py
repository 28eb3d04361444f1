"""Frames larger than the model: overlapping tiles, joined again."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, InputContractError
from edge_runtime.runners.base import Arrays, Runner

__all__ = ["TiledRunner", "tile_starts"]

_JOINED = ("mask_logits", "border", "image", "uncertainty")
Float32 = npt.NDArray[np.float32]


class TiledRunner(Runner):
    """`runner` on tiles of an input of `size` (H, W): its own input and outputs, but that large.

    A preprocessing whose size step gives `size` goes before it, `OutputsPostprocessor(tiled.outputs, ...)` behind it.
    Neighbouring tiles share at least `overlap` pixels; of each tile the `margin` pixels next to an edge inside the
    frame are thrown away and what is left of the overlap is blended linearly. The weights sum to 1, so where the model
    is a local filter whose reach is at most `margin`, the answer is that of the whole frame (to float32 rounding). A
    model that looks further, or normalizes over its input, answers another question tile by tile: check its scores.
    One inference a tile: `tiles` says how many. The inner runner is entered and left with this one.

    Raises `ConfigError` for a size below the model's, an overlap that is not above twice the margin and below the tile,
    or outputs other than masks, borders, uncertainties and pictures of the input's size.
    """

    def __init__(self, runner: Runner, size: tuple[int, int], *, overlap: int = 32, margin: int = 8) -> None:
        batch, channels, *tile = runner.input.shape
        if not 0 <= 2 * margin < overlap < min(tile):
            raise ConfigError(
                f"overlap {overlap} and margin {margin} for tiles of {tuple(tile)}; 2 margin < overlap < tile is needed"
            )
        for output in runner.outputs:
            if output.kind not in _JOINED or output.shape[2:] != tuple(tile):
                raise ConfigError(
                    f"output {output.name!r} is {output.kind} {output.shape}; tiles can be joined for {list(_JOINED)} "
                    f"of the input's size {tuple(tile)}"
                )
        self._rows, self._columns = (tile_starts(whole, part, overlap) for whole, part in zip(size, tile, strict=True))
        super().__init__(
            name=runner.name,
            variant=runner.variant,
            input=InputSpec(name=runner.input.name, shape=(batch, channels, *size)),
            outputs=tuple(_enlarged(output, size) for output in runner.outputs),
        )
        self.runner, self.tiles = runner, len(self._rows) * len(self._columns)
        self._tile = np.empty(runner.input.shape, np.float32)
        self._down = _weights(self._rows, tile[0], size[0], overlap, margin)
        self._across = _weights(self._columns, tile[1], size[1], overlap, margin)
        self._joined = {output.name: np.empty(output.shape, np.float32) for output in self.outputs}
        self._part = {output.name: np.empty(output.shape, np.float32) for output in runner.outputs}

    def _activate(self) -> None:
        self.runner.__enter__()

    def _deactivate(self) -> None:
        self.runner.__exit__(None, None, None)

    def _infer(self, inputs: Arrays) -> dict[str, Float32]:
        image, (height, width) = inputs[self.input.name], self._tile.shape[2:]
        for joined in self._joined.values():
            joined.fill(0)
        for row, down in zip(self._rows, self._down, strict=True):
            for column, across in zip(self._columns, self._across, strict=True):
                place = (..., slice(row, row + height), slice(column, column + width))
                np.copyto(self._tile, image[place])
                found = self.runner.infer({self.input.name: self._tile})
                for name, part in self._part.items():
                    if found[name].shape != part.shape:
                        raise InputContractError(f"output {name!r} is {found[name].shape}; {part.shape} is needed")
                    np.multiply(found[name], down[:, None], out=part)
                    part *= across
                    self._joined[name][place] += part
        return dict(self._joined)


def tile_starts(whole: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First pixels of the fewest tiles that cover `whole` pixels and share at least `overlap` with their neighbours.

    Raises `ConfigError` when the whole is smaller than a tile.
    """
    if whole < tile:
        raise ConfigError(f"{whole} pixels for tiles of {tile}; use the model's own size where the frame is smaller")
    count = max(1, math.ceil((whole - overlap) / (tile - overlap)))
    return tuple((whole - tile) * k // max(1, count - 1) for k in range(count))


def _weights(starts: tuple[int, ...], tile: int, whole: int, overlap: int, margin: int) -> list[Float32]:
    """The share that each tile has in its pixels (tile,), along one axis; the shares of a pixel sum to 1."""
    ramps = []
    for start in starts:
        near = np.full(tile, np.inf)
        if start > 0:
            near = np.minimum(near, np.arange(tile) + 1)
        if start + tile < whole:
            near = np.minimum(near, np.arange(tile)[::-1] + 1)
        ramps.append(np.clip(near - margin, 0, overlap - 2 * margin))
    total = np.zeros(whole)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + tile] += ramp
    return [(ramp / total[start : start + tile]).astype(np.float32) for start, ramp in zip(starts, ramps, strict=True)]


def _enlarged(output: OutputSpec, size: tuple[int, int]) -> OutputSpec:
    return msgspec.structs.replace(output, shape=(*output.shape[:2], *size))
