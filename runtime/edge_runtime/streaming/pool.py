"""`ResultPool`: the buffers of results, leased by the compute thread and returned by the last holder."""

from __future__ import annotations

import threading
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, PipelineError

__all__ = ["ResultPool", "Slot"]

Shape = tuple[int, int]
Scalar = TypeVar("Scalar", bound=np.generic)


class Slot:
    """One mask and one probability buffer with a count of holders, and the views of them that results get."""

    __slots__ = ("_holders", "_mask", "_pool", "_probability", "given_mask", "given_probability", "mask", "probability")

    def __init__(self, pool: ResultPool) -> None:
        self._pool = pool
        self._holders = 0
        self._mask = np.empty(0, np.uint8)
        self._probability = np.empty(0, np.float32)
        self.mask: npt.NDArray[np.uint8] = self._mask.reshape(0, 0)
        self.probability: npt.NDArray[np.float32] = self._probability.reshape(0, 0)
        self.given_mask, self.given_probability = _read_only(self.mask), _read_only(self.probability)

    def fit(self, mask: Shape, probability: Shape) -> None:
        """Make the two views of these shapes (rows, columns); memory is only taken when they grow."""
        if self._mask.size < mask[0] * mask[1]:
            self._mask = np.empty(mask[0] * mask[1], np.uint8)
        if self._probability.size < probability[0] * probability[1]:
            self._probability = np.empty(probability[0] * probability[1], np.float32)
        if self.mask.shape != mask or self.mask.base is not self._mask:
            self.mask = self._mask[: mask[0] * mask[1]].reshape(mask)
            self.given_mask = _read_only(self.mask)
        if self.probability.shape != probability or self.probability.base is not self._probability:
            self.probability = self._probability[: probability[0] * probability[1]].reshape(probability)
            self.given_probability = _read_only(self.probability)

    def retain(self) -> None:
        """One holder more. Raises `PipelineError` when the slot has been returned already."""
        self._pool._count(self, +1)

    def release(self) -> None:
        """One holder less; the last returns the slot. Raises `PipelineError` when there is no holder left."""
        self._pool._count(self, -1)


class ResultPool:
    """A fixed number of slots. An empty pool is not an error: the frame is dropped and accounted for."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ConfigError(f"a result pool of {slots} slots holds nothing; at least 1 is needed")
        self.slots = slots
        self.exhausted = 0
        self._lock = threading.Lock()
        self._free = [Slot(self) for _ in range(slots)]

    @property
    def leased(self) -> int:
        """Slots that somebody holds."""
        return self.slots - len(self._free)

    def lease(self) -> Slot | None:
        """A slot with one holder, its buffers as they were last made to `fit`; None when all are held."""
        with self._lock:
            if not self._free:
                self.exhausted += 1
                return None
            slot = self._free.pop()
            slot._holders = 1
            return slot

    def _count(self, slot: Slot, change: int) -> None:
        with self._lock:
            if slot._holders <= 0:
                raise PipelineError("the result was released before; call release() once for each retain()")
            slot._holders += change
            if slot._holders == 0:
                self._free.append(slot)


def _read_only(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    view = array.view()
    view.flags.writeable = False
    return view
