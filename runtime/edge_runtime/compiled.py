"""Functions compiled by numba. Imported only by modules of kernels: it needs numba."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled", "inlined"]

F = TypeVar("F", bound=Callable[..., object])

log = logging.getLogger(__name__)


def compiled(function: F) -> F:
    """`function` compiled without the GIL and without tests for a zero divisor, which would keep loops scalar.

    A division by zero gives what NumPy gives, not an error. The machine code is cached on disk where a folder can be
    written.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError as error:
        log.warning("compiled code is not cached and costs seconds at each start (%s); set NUMBA_CACHE_DIR", error)
        return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


def inlined(function: F) -> F:
    """As `compiled`, and written out wherever a compiled function calls it: for a few lines at the heart of a loop."""
    return cast(F, numba.njit(nogil=True, error_model="numpy", inline="always")(function))
