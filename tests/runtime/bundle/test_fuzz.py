"""Whatever the bytes: a `BundleError` or a good reading, never another exception, never much memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import edge_craft as craft
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import inspect_model, verify_bundle
from edge_runtime.bundle._npy import parse_npy
from edge_runtime.errors import BundleError, ModelRefusedError

GOOD = craft.edge()
LOOP = craft.endless_loop()
NPY = craft.zeros_npy()
QUICK = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
MEMORY = 8 << 20  # bytes; the files are a few kB


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with a few bytes replaced, cut out, repeated or inserted."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        new = draw(st.binary(max_size=12) | st.just(bytes(data[at : at + length]) * 2) | st.just(b"\xff" * 8))
        data[at : at + length] = new
    return bytes(data)


def bounded(read: Callable[[], object], error: type[BundleError]) -> None:
    tracemalloc.start()
    try:
        read()
    except error:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY


@QUICK
@given(data=st.binary(max_size=200) | damaged(LOOP) | damaged(craft.relu_net()))
@example(data=b"\x3a\xff\xff\xff\xff\x0f")
def test_walker(data: bytes) -> None:
    bounded(lambda: inspect_model(data), ModelRefusedError)


@QUICK
@given(data=st.binary(max_size=100) | damaged(GOOD))
def test_archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.edge"
        path.write_bytes(data)
        bounded(lambda: verify_bundle(path), BundleError)


@QUICK
@given(data=damaged(craft.parts()[0].data))
def test_manifest(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.edge"
        path.write_bytes(craft.edge(document=data))
        bounded(lambda: verify_bundle(path), BundleError)


@QUICK
@given(data=st.binary(max_size=100) | damaged(NPY))
def test_array(data: bytes) -> None:
    bounded(lambda: parse_npy(data), BundleError)


def test_declared_sizes_are_not_allocated(tmp_path: Path) -> None:
    """200 MiB said in every place that says a size."""
    huge = 200 << 20
    path = tmp_path / "f.edge"
    cases = [
        craft.lying("card.md", both={"size": huge, "packed": huge}),
        craft.zipped(craft.parts(), size=huge),
        craft.edge(members=[{"path": "card.md", "size": huge, "sha256": "0" * 64}]),
        craft.with_model(craft.net(initializers=[craft.tensor("w", (huge // 4,), raw=b"")])),
        craft.edge(craft.CONTENT | {"golden/0_in.npy": NPY.replace(b"(1, 1, 4, 4)", b"(52428800,)")}),
    ]
    for data in cases:
        path.write_bytes(data)
        bounded(lambda: verify_bundle(path), BundleError)
