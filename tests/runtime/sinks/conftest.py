"""Results for the tests of the sinks, and a disk that is full."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from edge_runtime.frame import Frame
from edge_runtime.result import Area, Result, State


def result(index: int = 0, shape: tuple[int, ...] = (240, 320), state: State = "fresh") -> Result:
    """Frame `index`, grey 90, with a square mask and one area."""
    mask = np.zeros(shape[:2], np.uint8)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 1
    return Result(
        frame=Frame(image=np.full(shape, 90, np.uint8), index=index, arrival_ns=1_000_000 * index),
        branch="seg",
        state=state,
        reason="" if state == "fresh" else "budget",
        mask=mask,
        areas=(Area(label="cyst", pixels=int(mask.sum()), mm2=12.5),),
        outputs_from=index,
        done_ns=1_000_000 * index + 13_500_000,
        variant="int8",
        runner="onnxruntime",
        bundle_sha256="ab",
        preprocess_sha256="cd",
    )


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def limit() -> Callable[[int], AbstractContextManager[None]]:
    return limited
