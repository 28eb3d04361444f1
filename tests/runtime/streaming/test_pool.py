from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.streaming.pool import ResultPool


def test_the_last_holder_returns_the_slot() -> None:
    pool = ResultPool(1)
    slot = pool.lease()
    assert slot is not None
    slot.fit((4, 6), (2, 3))
    assert (slot.mask.shape, slot.mask.dtype, slot.probability.shape) == ((4, 6), np.uint8, (2, 3))
    slot.retain()
    slot.release()
    assert pool.lease() is None
    assert (pool.exhausted, pool.leased) == (1, 1)
    slot.release()
    assert pool.leased == 0
    assert pool.lease() is slot
    assert slot.given_mask.shape == (4, 6)
    assert not slot.given_mask.flags.writeable
    assert not slot.given_probability.flags.writeable


def test_buffers_are_reused_and_grow_only_when_they_must() -> None:
    pool = ResultPool(1)
    addresses = []
    for shape in [(8, 8), (4, 4), (8, 8), (2, 32)]:
        slot = pool.lease()
        assert slot is not None
        slot.fit(shape, shape)
        assert slot.mask.shape == slot.probability.shape == shape
        addresses.append((slot.mask.ctypes.data, slot.probability.ctypes.data))
        slot.release()
    assert len(set(addresses)) == 1
    slot = pool.lease()
    assert slot is not None
    slot.fit((9, 9), (9, 9))
    slot.mask[:] = 1
    slot.probability[:] = 1


def test_one_release_too_many_is_an_error() -> None:
    slot = ResultPool(1).lease()
    assert slot is not None
    slot.release()
    for misuse in (slot.release, slot.retain):
        with pytest.raises(PipelineError, match="released before"):
            misuse()


def test_no_leak_with_many_holders_in_threads() -> None:
    pool = ResultPool(3)

    def hold() -> None:
        for _ in range(300):
            slot = pool.lease()
            if slot is not None:
                slot.retain()
                slot.release()
                slot.release()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert pool.leased == 0
    assert len({id(pool.lease()) for _ in range(3)}) == 3


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 slots"):
        ResultPool(0)
