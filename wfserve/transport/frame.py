"""A frame is a 96-byte header and the bytes it describes; a header that parses describes them exactly.

The header travels in call and reply messages, not beside the bytes, so that rows of a slab stay contiguous:

    offset  0        1     2      3     4           8            16
            version  kind  dtype  rank  flags(u32)  length(u64)  shape(i64 × 10), little-endian

`native/frame.hpp` pins the same layout with `static_assert`. Data types are known by name (`wfserve.dtypes`).
"""

from __future__ import annotations

import enum
import math
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from wfserve.dtypes import DTYPES as DTYPES
from wfserve.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 1
MAX_RANK: Final = 10
ALIGNMENT: Final = 64  # bytes; a cache line, and enough for every vector instruction
_HEADER: Final = struct.Struct(f"<BBBBIQ{MAX_RANK}q")
HEADER_SIZE: Final = _HEADER.size

_MAX_BYTES: Final = 2**63 - 1
REMEMBERED: Final = 1024  # headers: those of a workflow's tensors are few, and come again with each request


class Kind(enum.IntEnum):
    """What the bytes of a frame are. Zeroed memory is no frame, so there is no kind 0."""

    BYTES = 1
    TEXT = 2  # UTF-8
    JSON = 3  # UTF-8
    TENSOR = 4  # contiguous elements, row-major
    OBJECT = 5  # a pickle (protocol 5) with its buffers out of band, see `object_layout`


_SHAPED: Final = frozenset((Kind.BYTES, Kind.TENSOR))
_KINDS: Final = frozenset(kind.value for kind in Kind)

_CODES: Final = {name: code for code, name in enumerate(DTYPES, start=1)}
_NAMES: Final = {code: name for name, code in _CODES.items()}


class Header(NamedTuple):
    """A parsed header; `dtype` and `shape` are empty unless `kind` is `TENSOR`."""

    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    length: int  # bytes


def pack_header(kind: Kind, length: int, dtype: str = "", shape: Sequence[int] = ()) -> bytes:
    """Return the header of `length` bytes of `kind`.

    Raises `ValueError` if it would not parse: an unknown dtype, more than `MAX_RANK` dimensions, or a shape
    that does not take `length` bytes.
    """
    return _packed(kind, length, dtype, tuple(shape))


@lru_cache(REMEMBERED)
def _packed(kind: Kind, length: int, dtype: str, shape: tuple[int, ...]) -> bytes:
    if problem := _problem(kind, length, dtype, shape):
        raise ValueError(problem)
    padding = (0,) * (MAX_RANK - len(shape))
    return _HEADER.pack(VERSION, kind, _CODES.get(dtype, 0), len(shape), 0, length, *shape, *padding)


def parse_header(data: bytes | bytearray | memoryview) -> Header:
    """Return what the header in `data` (`HEADER_SIZE` bytes) says, or raise `FrameError` if it is not one."""
    return _parsed(bytes(data))


@lru_cache(REMEMBERED)
def _parsed(data: bytes) -> Header:
    try:
        version, code, dtype_code, rank, flags, length, *dims = _HEADER.unpack(data)
    except struct.error:
        raise FrameError(f"A frame header has {HEADER_SIZE} bytes") from None
    if version != VERSION or flags:
        raise FrameError(f"Unknown frame version {version} or flags {flags:#x}")
    if code not in _KINDS or (dtype_code and dtype_code not in _NAMES):
        raise FrameError(f"Unknown frame kind {code} or dtype {dtype_code}")
    if rank > MAX_RANK or any(dims[rank:]):
        raise FrameError(f"Broken frame shape of rank {rank}")
    header = Header(Kind(code), _NAMES.get(dtype_code, ""), tuple(dims[:rank]), length)
    if problem := _problem(header.kind, length, header.dtype, header.shape):
        raise FrameError(problem)
    return header


def shape_key(header: bytes) -> bytes:
    """Return what is equal for tensors of equal dtype and shape, and the same for all that are no tensors."""
    return header if header[1] == Kind.TENSOR else b""


def likeness_key(header: bytes) -> bytes:
    """Return what is equal for tensors of equal dtype and shape, and for bytes of equal length.

    What a client sent may hold tensors, of which its length is all that is known here.
    """
    return header if header[1] in _SHAPED else b""


def _problem(kind: Kind, length: int, dtype: str, shape: Sequence[int]) -> str:
    """Say what is wrong with a header, or nothing."""
    if not 0 <= length <= _MAX_BYTES:
        return f"Frame length {length} is out of range"
    if kind != Kind.TENSOR:
        return f"A frame of kind {kind.name} has no dtype and no shape" if dtype or len(shape) else ""
    if dtype not in DTYPES:
        return f"Unknown tensor dtype {dtype!r}"
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        return f"Tensor shape {list(shape)} is negative or has more than {MAX_RANK} dimensions"
    # A dimension of zero must not hide the others' overflow: strides are computed from them.
    if math.prod(max(dim, 1) for dim in shape) * DTYPES[dtype] > _MAX_BYTES:
        return f"Tensor shape {list(shape)} overflows"
    if math.prod(shape) * DTYPES[dtype] != length:
        return f"Tensor shape {list(shape)} of {dtype} does not take {length} bytes"
    return ""


_COUNT: Final = struct.Struct("<Q")
_PART: Final = struct.Struct("<QQ")


class ObjectLayout(NamedTuple):
    """Where the parts of an object's body go: the table at offset 0, the rest at the offsets given here."""

    size: int  # of the whole body, bytes
    table: bytes
    pickle: int
    buffers: tuple[int, ...]  # multiples of `ALIGNMENT`


def object_layout(pickle_length: int, buffer_lengths: Sequence[int]) -> ObjectLayout:
    """Lay out a body: a count (u64), that many (offset, length) pairs, the pickle's first, then the parts."""
    lengths = (pickle_length, *buffer_lengths)
    table = bytearray(_COUNT.pack(len(lengths)))
    end = _COUNT.size + _PART.size * len(lengths)
    offsets: list[int] = []
    for length in lengths:
        offsets.append(end if not offsets else _align(end))
        end = offsets[-1] + length
        table += _PART.pack(offsets[-1], length)
    return ObjectLayout(end, bytes(table), offsets[0], tuple(offsets[1:]))


def parse_object(view: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Return views of the pickle and of its buffers in a body.

    Raises `FrameError` if the table is broken or a part lies outside the body.
    """
    size = view.nbytes
    if size < _COUNT.size:
        raise FrameError("An object's table is cut short")
    (count,) = _COUNT.unpack_from(view)
    table = view[_COUNT.size :]
    if not 1 <= count <= table.nbytes // _PART.size:
        raise FrameError(f"An object's table cannot have {count} parts in {size} bytes")
    parts = []
    for offset, length in _PART.iter_unpack(table[: count * _PART.size]):
        if offset > size or length > size - offset:
            raise FrameError("A part of an object lies outside its body")
        parts.append(view[offset : offset + length])
    return parts[0], parts[1:]


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
