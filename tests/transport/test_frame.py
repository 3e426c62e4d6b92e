"""A header that parses describes its bytes exactly, and nothing else parses."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wfserve import _native
from wfserve.errors import FrameError
from wfserve.transport.frame import (
    ALIGNMENT,
    DTYPES,
    HEADER_SIZE,
    MAX_RANK,
    Header,
    Kind,
    object_layout,
    pack_header,
    parse_header,
    parse_object,
)

shapes = st.lists(st.integers(0, 1000), max_size=MAX_RANK).map(tuple)


def tensor_header(dtype: str = "float32", shape: tuple[int, ...] = (2, 3)) -> bytearray:
    return bytearray(pack_header(Kind.TENSOR, math.prod(shape) * DTYPES[dtype], dtype, shape))


def test_the_layout_is_the_native_one() -> None:
    assert HEADER_SIZE == _native.FRAME_HEADER_SIZE == 96


def test_fields_lie_where_the_format_says() -> None:
    version, kind, dtype, rank, flags, length = struct.unpack_from("<BBBBIQ", tensor_header())
    assert (version, kind, rank, flags, length) == (1, Kind.TENSOR, 2, 0, 24)
    assert list(DTYPES)[dtype - 1] == "float32"
    assert struct.unpack_from("<10q", tensor_header(), 16) == (2, 3, *[0] * 8)


@pytest.mark.parametrize("name", DTYPES)
def test_names_and_item_sizes_are_torchs(name: str) -> None:
    assert getattr(torch, name).itemsize == DTYPES[name]


def test_every_dtype_with_arithmetic_is_there() -> None:
    known = {
        str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)
    }
    shells = {name for name in known if name.startswith(("q", "bits")) or name[-1] in "1234567"}
    assert known - shells - {"int4", "uint4"} <= DTYPES.keys() | {"bits8", "bits16"}


@given(st.sampled_from(sorted(DTYPES)), shapes)
def test_tensor_headers_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    length = math.prod(shape) * DTYPES[dtype]
    if math.prod(max(dim, 1) for dim in shape) * DTYPES[dtype] < 2**63:
        assert parse_header(pack_header(Kind.TENSOR, length, dtype, shape)) == Header(
            Kind.TENSOR, dtype, shape, length
        )
    else:
        with pytest.raises(ValueError, match=r"overflows|out of range"):
            pack_header(Kind.TENSOR, length, dtype, shape)


@given(st.sampled_from([kind for kind in Kind if kind != Kind.TENSOR]), st.integers(0, 2**63 - 1))
def test_other_headers_round_trip(kind: Kind, length: int) -> None:
    assert parse_header(pack_header(kind, length)) == Header(kind, "", (), length)


@pytest.mark.parametrize(
    ("kind", "length", "dtype", "shape"),
    [
        (Kind.TENSOR, 24, "float32", (2, 4)),
        (Kind.TENSOR, 24, "float33", (2, 3)),
        (Kind.TENSOR, 24, "", (2, 3)),
        (Kind.TENSOR, 4, "float32", (1,) * (MAX_RANK + 1)),
        (Kind.TENSOR, 8, "float32", (-1, -2)),
        (Kind.BYTES, 24, "float32", ()),
        (Kind.JSON, 24, "", (24,)),
        (Kind.TEXT, -1, "", ()),
        (Kind.TEXT, 2**63, "", ()),
    ],
)
def test_what_would_not_parse_is_not_packed(
    kind: Kind, length: int, dtype: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        pack_header(kind, length, dtype, shape)


@pytest.mark.parametrize(
    ("offset", "field", "value"),
    [
        (0, "B", 0),
        (0, "B", 2),
        (1, "B", 0),
        (1, "B", Kind.BYTES),
        (1, "B", 99),
        (2, "B", 0),
        (2, "B", 200),
        (3, "B", 1),
        (3, "B", 3),
        (3, "B", 255),
        (4, "<I", 1),
        (8, "<Q", 23),
        (8, "<Q", 2**64 - 1),
        (16, "<q", -2),
        (24, "<q", 2**62),
        (88, "<q", 1),
    ],
)
def test_each_broken_field_is_refused(offset: int, field: str, value: int) -> None:
    header = tensor_header()
    struct.pack_into(field, header, offset, value)
    with pytest.raises(FrameError):
        parse_header(header)


def test_a_zero_does_not_hide_an_overflow() -> None:
    header = tensor_header(shape=(0, 1, 1))
    struct.pack_into("<3q", header, 16, 0, 2**62, 2**62)
    with pytest.raises(FrameError, match="overflows"):
        parse_header(header)


@given(st.binary(max_size=2 * HEADER_SIZE) | st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_garbage_is_refused_or_means_what_it_says(data: bytes) -> None:
    try:
        header = parse_header(data)
    except FrameError:
        return
    assert pack_header(*header[:1], header.length, header.dtype, header.shape) == data


@given(st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=6))
def test_objects_round_trip(pickle: bytes, buffers: list[bytes]) -> None:
    layout = object_layout(len(pickle), [len(buffer) for buffer in buffers])
    body = bytearray(layout.size)
    body[: len(layout.table)] = layout.table
    for offset, part in zip((layout.pickle, *layout.buffers), (pickle, *buffers), strict=True):
        assert not any(body[offset : offset + len(part)])
        body[offset : offset + len(part)] = part
    found, parts = parse_object(memoryview(body))
    assert (bytes(found), [bytes(part) for part in parts]) == (pickle, buffers)
    assert len(body) == layout.size
    assert all(offset % ALIGNMENT == 0 for offset in layout.buffers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 0),
        struct.pack("<Q", 1),
        struct.pack("<Q", 2**64 - 1) + b"\0" * 64,
        struct.pack("<QQQ", 1, 24, 1),
        struct.pack("<QQQ", 1, 25, 0),
        struct.pack("<QQQ", 1, 2**64 - 1, 2**64 - 1),
    ],
)
def test_broken_objects_are_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        parse_object(memoryview(body))


@given(st.binary(max_size=200))
def test_garbage_objects_never_crash(body: bytes) -> None:
    try:
        pickle, parts = parse_object(memoryview(body))
    except FrameError:
        return
    assert all(part.nbytes <= len(body) for part in (pickle, *parts))
