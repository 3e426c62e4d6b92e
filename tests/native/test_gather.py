"""Rows of any buffers become one, in order, and what does not fit is refused before a byte is written."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve import _native

MIB = 1 << 20
SLOT = 64


@pytest.fixture
def segment() -> _native.SegmentMap:
    """A mapped segment in which every byte is the number of its slot."""
    fd = os.memfd_create("rows")
    os.ftruncate(fd, 256 * SLOT)
    made = _native.SegmentMap(fd)
    os.close(fd)
    made.view(0, 256 * SLOT)[:] = bytes(number for number in range(256) for _ in range(SLOT))
    return made


def slots(segment: _native.SegmentMap, *numbers: int) -> list[memoryview]:
    return [segment.view(SLOT * number, SLOT) for number in numbers]


@given(
    st.integers(0, 40).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=20)),
    st.data(),
)
def test_rows_lie_one_behind_the_other(rows: list[bytes], data: st.DataObject) -> None:
    kinds = st.sampled_from([bytes, bytearray, memoryview, lambda row: np.frombuffer(row, "u1")])
    destination = bytearray(sum(map(len, rows)))
    _native.gather(destination, [data.draw(kinds)(row) for row in rows])
    assert destination == b"".join(rows)


def test_arrays_of_any_shape_are_rows() -> None:
    rows = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype("f4")
    batch = np.empty_like(rows)
    _native.gather(batch, [rows[number] for number in (4, 2, 3, 0, 1)])
    np.testing.assert_array_equal(batch, rows[[4, 2, 3, 0, 1]])


def test_rows_of_a_segment(segment: _native.SegmentMap) -> None:
    rows = slots(segment, 7, 8, 9, 3, 200)
    destination = bytearray(5 * SLOT)
    _native.gather(destination, rows)
    assert destination == b"".join(rows)


def test_a_row_in_its_place_is_left_there(segment: _native.SegmentMap) -> None:
    expected = b"".join(slots(segment, 10, 40, 12))
    _native.gather(segment.view(10 * SLOT, 3 * SLOT), slots(segment, 10, 40, 12))
    assert segment.view(10 * SLOT, 3 * SLOT) == expected


@pytest.mark.parametrize("number", [9.5, 10.5, 11, 12.5])
def test_a_row_elsewhere_in_the_destination_is_refused(segment: _native.SegmentMap, number: float) -> None:
    destination = segment.view(10 * SLOT, 3 * SLOT)
    before = bytes(destination)
    rows = [*slots(segment, 1), *slots(segment, 2), segment.view(int(number * SLOT), SLOT)]
    with pytest.raises(ValueError, match="in its place"):
        _native.gather(destination, rows)
    assert destination == before


@pytest.mark.parametrize("size", [0, 5, 7, 12])
def test_the_destination_is_exactly_as_large(size: int) -> None:
    destination = bytearray(size)
    with pytest.raises(ValueError, match="as large"):
        _native.gather(destination, [b"abc", b"def"])
    assert destination == bytes(size)


def test_rows_are_of_one_size() -> None:
    with pytest.raises(ValueError, match="differ"):
        _native.gather(bytearray(6), [b"ab", b"cdef"])


def test_nothing_is_written_to_what_may_only_be_read() -> None:
    with pytest.raises(BufferError):
        _native.gather(bytes(3), [b"abc"])


@pytest.mark.parametrize("row", [memoryview(b"abcdef")[::2], np.zeros((4, 4), "u1")[:, 0]])
def test_rows_are_contiguous(row: memoryview) -> None:
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        _native.gather(bytearray(len(row)), [row])


@pytest.mark.parametrize("rows", [[3], ["abc"], [None]])
def test_rows_are_buffers(rows: list[object]) -> None:
    with pytest.raises(TypeError):
        _native.gather(bytearray(3), rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("destination", [bytearray(6), bytearray(5)])
def test_no_buffer_is_held_longer_than_the_call(destination: bytearray) -> None:
    rows = [bytearray(b"abc"), bytearray(b"def")]
    try:
        _native.gather(destination, rows)
    except ValueError:
        assert len(destination) == 5
    for each in (destination, *rows):
        each.append(1)  # a BufferError where somebody still looks at it


def test_others_run_while_rows_are_copied() -> None:
    row = bytes(32 * MIB)
    seen = False
    while not seen:  # the machine may have had something else to do; what holds the GIL comes here for ever
        spans: list[float] = []

        def copy(spans: list[float] = spans) -> None:
            destination = bytearray(2 * len(row))
            spans.append(time.perf_counter())
            _native.gather(destination, [row, row])
            spans.append(time.perf_counter())

        moments = []
        copier = threading.Thread(target=copy)
        copier.start()
        while len(spans) < 2:
            moments.append(time.perf_counter())
        copier.join()
        third = (spans[1] - spans[0]) / 3
        seen = any(spans[0] + third < moment < spans[1] - third for moment in moments)


def test_neighbours_are_adjacent(segment: _native.SegmentMap) -> None:
    assert _native.adjacent(slots(segment, 5, 6, 7))
    assert _native.adjacent(slots(segment, 5))
    assert _native.adjacent([])


@pytest.mark.parametrize("numbers", [(5, 7), (6, 5), (5, 6, 8), (5, 5)])
def test_others_are_not(segment: _native.SegmentMap, numbers: tuple[int, ...]) -> None:
    assert not _native.adjacent(slots(segment, *numbers))


def test_neighbours_of_different_sizes_are_no_batch(segment: _native.SegmentMap) -> None:
    assert not _native.adjacent([segment.view(0, 2 * SLOT), segment.view(2 * SLOT, SLOT)])
    assert not _native.adjacent([segment.view(0, SLOT), segment.view(SLOT, 2 * SLOT)])
