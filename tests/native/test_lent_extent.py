"""Pieces of a lent extent never overlap, begin aligned, and equal tensors lie one behind the other."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve import _native
from wfserve.transport.base import Descriptor
from wfserve.transport.frame import ALIGNMENT, Kind, pack_header
from wfserve.transport.message import Ref

SEGMENT, OFFSET = 3, 2**40
TEXT = pack_header(Kind.TEXT, 5)


def extent_of(memory: Any) -> _native.LentExtent:
    return _native.LentExtent(memory, SEGMENT, OFFSET)


def row_of(nbytes: int) -> bytes:
    return pack_header(Kind.TENSOR, nbytes, "uint8", (nbytes,))


def aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


pieces = st.lists(
    st.tuples(st.integers(0, 150), st.sampled_from(("row", "row", "bytes", "none"))).map(
        lambda each: (each[0] if each[1] != "row" else each[0] % 3 * 50, each[1])
    ),
    max_size=12,
)


@given(pieces, st.integers(0, 1000))
def test_where_pieces_lie(wanted: list[tuple[int, str]], size: int) -> None:
    extent, end, last = extent_of(bytearray(size)), 0, b""
    for nbytes, kind in wanted:
        header = {"row": row_of(nbytes), "bytes": pack_header(Kind.BYTES, nbytes), "none": b""}[kind]
        start = end if kind == "row" and header == last else aligned(end)
        assert extent.fits(nbytes) == (aligned(end) + nbytes <= size)
        place = extent.place(nbytes, header)
        if start + nbytes > size:
            assert place is None
        else:
            assert place == Descriptor(SEGMENT, OFFSET + start, nbytes)
            end, last = start + nbytes, header


@given(st.binary(max_size=100), st.integers(0, 2))
def test_what_is_put_lies_there(data: bytes, rows: int) -> None:
    memory, header = bytearray(500), row_of(len(data))
    extent = extent_of(memory)
    for number in range(rows):
        kept = np.frombuffer(data, np.uint8)
        source = data if number else kept.ctypes.data if data else data
        start = number * len(data)
        assert extent.put(header, len(data), source) == Ref(
            header, Descriptor(SEGMENT, OFFSET + start, len(data))
        )
        assert memory[start : start + len(data)] == data


def test_what_does_not_fit_is_not_written() -> None:
    memory = bytearray(70)
    extent = extent_of(memory)
    assert extent.put(TEXT, 5, b"first") is not None
    assert extent.put(pack_header(Kind.TEXT, 7), 7, b"too far") is None
    assert extent.put(TEXT, 5, memoryview(b"again")) is not None
    assert memory == b"first".ljust(64, b"\0") + b"again\0"


@pytest.mark.parametrize("nbytes", [4, 6, 2**64 - 1])
def test_a_source_is_as_large_as_its_frame(nbytes: int) -> None:
    with pytest.raises(ValueError, match="as large"):
        extent_of(bytearray(100)).put(TEXT, nbytes, b"12345")


@pytest.mark.parametrize("nbytes", [2**64 - 1, 2**64 - 63, 2**63])
def test_sizes_do_not_wrap(nbytes: int) -> None:
    extent = extent_of(bytearray(100))
    extent.place(1)
    assert not extent.fits(nbytes)
    assert extent.place(nbytes) is None


@pytest.mark.parametrize("header", [bytes(95), bytes(97)])
def test_a_header_has_its_size(header: bytes) -> None:
    with pytest.raises(ValueError, match="96 bytes"):
        extent_of(bytearray(100)).place(1, header)


def test_memory_has_to_be_writable() -> None:
    with pytest.raises(BufferError):
        extent_of(b"read only")


def test_memory_stays_as_long_as_the_extent() -> None:
    memory = np.zeros(100, np.uint8)
    alive, extent = weakref.ref(memory), extent_of(memory)
    del memory
    gc.collect()
    assert alive() is not None
    del extent
    assert alive() is None


def test_addresses() -> None:
    source, target = np.arange(10, dtype=np.uint8), bytearray(4)
    assert _native.address_of(source) == source.ctypes.data
    assert _native.address_of(memoryview(source)[3:]) == source.ctypes.data + 3
    _native.copy_from(target, source.ctypes.data + 5)
    assert target == bytes([5, 6, 7, 8])
    _native.copy_from(bytearray(), 0)
    with pytest.raises(BufferError):
        _native.copy_from(bytes(4), source.ctypes.data)
    with pytest.raises(BufferError):
        _native.address_of(memoryview(source)[::2])
