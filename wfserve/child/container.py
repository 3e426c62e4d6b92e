"""A container is the zip archive that `torch.save` makes of one plain tensor; any `torch.load` reads these.

Everything but the elements and their checksum follows from dtype, shape and strides, and is made once for
each. The form is that of PyTorch's `caffe2/serialize/inline_container.cc`, format version 3: stored records
whose contents start at multiples of 64 bytes, each followed by its data descriptor (PKWARE's APPNOTE, 4.3.9).
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import pickle
import pickletools
import struct
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from isal.isal_zlib import crc32

from wfserve.child import objects
from wfserve.child.tensors import Sized, aligned, write_elements
from wfserve.transport.frame import Kind, pack_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ALIGNMENT: Final = 64
_UTF8_WITH_DESCRIPTOR: Final = 0x808
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_DESCRIPTOR: Final = struct.Struct("<4s3I")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_CENTRAL_CRC: Final = 16  # its offset
_PLACE: Final = struct.Struct("<10xH8x2I3H8xI")  # of `_CENTRAL`: method, sizes, lengths of three texts, start
_END: Final = struct.Struct("<4s4H2IH")
_CRC: Final = struct.Struct("<I")
_PADDING: Final = struct.Struct("<2sH")

_MOST_BYTES: Final = 2**31  # of elements: what is longer needs 64-bit records, which are `torch.save`'s own
_LONGEST_PICKLE: Final = 1024  # of a plain tensor: ten dimensions take half of it
_LONGEST_DIRECTORY: Final = 2048  # of the seven records that there may be
_BEFORE: Final = ((".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", b"little"))
_ELEMENTS: Final = "data/0"
_AFTER: Final = (("version", b"3\n"),)
_READ: Final = frozenset((b"data.pkl", b"byteorder", b"data/0"))

# Dtypes younger than these have no class of storage, and are named themselves.
_STORAGES: Final[dict[torch.dtype, type[Any]]] = {
    torch.bool: torch.BoolStorage,
    torch.uint8: torch.ByteStorage,
    torch.int8: torch.CharStorage,
    torch.int16: torch.ShortStorage,
    torch.int32: torch.IntStorage,
    torch.int64: torch.LongStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
    torch.complex64: torch.ComplexFloatStorage,
    torch.complex128: torch.ComplexDoubleStorage,
}
_DTYPES: Final = {
    f"torch {_STORAGES[dtype].__name__ if dtype in _STORAGES else name}": dtype
    for name, dtype in objects.DTYPES.items()
}


class Layout(NamedTuple):
    """What a container says of its tensor besides the elements; strides are in elements."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool

    def numel(self) -> int:
        """Return how many elements there are."""
        return math.prod(self.shape)

    def nbytes(self) -> int:
        """Return how many bytes the elements take."""
        return self.numel() * self.dtype.itemsize


def save(value: torch.Tensor) -> Sized:
    """Return a container of `value`; a view does not take the rest of its storage along.

    Strides stay as far as they leave no gaps. Conjugation and negation that are pending are carried out.
    What is not plain is left to `torch.save`.
    """
    if not is_plain(value):
        return _saved_by_torch(value)
    dense = None if value.is_contiguous() else torch.empty_like(value, device="meta").stride()
    layout = Layout(value.dtype, tuple(value.shape), dense or value.stride(), value.requires_grad)
    template = _template(layout)
    size = len(template.head) + value.nbytes + len(template.tail)
    return Sized(size, partial(_write, value, dense, template))


def around(elements: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> bytearray:
    """Return a container of the tensor whose elements, row-major, are these; each is copied once."""
    if elements.nbytes >= _MOST_BYTES:
        return _whole(save(objects.tensor_of(elements, objects.DTYPE_NAMES[dtype], shape)))
    head, tail, crc_at = _template(Layout(dtype, shape, _row_major(shape), False))
    checked, checksum = bytearray(tail), crc32(elements)
    for offset in crc_at:
        _CRC.pack_into(checked, offset, checksum)
    return bytearray().join((head, elements, checked))


def _whole(sized: Sized) -> bytearray:
    data = bytearray(sized.nbytes)
    sized.write(memoryview(data))
    return data


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = (max(dim, 1) for dim in reversed(shape[1:]))
    return tuple(itertools.accumulate(sizes, int.__mul__, initial=1))[::-1] if shape else ()


def load(buffer: memoryview) -> torch.Tensor | None:
    """Return the tensor of a container over its bytes, which it keeps alive; None for any other bytes.

    Only what `torch.save` or `save` writes of one plain tensor on the CPU is recognised. Nothing is
    unpickled, and as in `torch.load` no checksum is compared.
    """
    records = _records(buffer)
    found = records and _layout(bytes(records[b"data.pkl"]))
    if not records or not found or bytes(records[b"byteorder"]) != b"little":
        return None
    elements = records[b"data/0"]
    if elements.nbytes != found.nbytes():
        return None
    return _tensor(elements, found).requires_grad_(found.requires_grad)


def _tensor(elements: memoryview, layout: Layout) -> torch.Tensor:
    if not elements.nbytes:
        return torch.empty_strided(layout.shape, layout.strides, dtype=layout.dtype)
    flat = torch.frombuffer(aligned(elements, layout.dtype.itemsize), dtype=layout.dtype)
    return flat.as_strided(layout.shape, layout.strides)


def is_plain(value: torch.Tensor) -> bool:
    """Say whether `torch.save` would write dtype, shape, strides and elements, and nothing else."""
    return (
        type(value) is torch.Tensor
        and objects.is_plain(value)
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.__dict__
        and value.nbytes < _MOST_BYTES
    )


def _saved_by_torch(value: torch.Tensor) -> Sized:
    compact = value
    if value.layout is torch.strided and value.untyped_storage().nbytes() > value.nbytes:
        compact = value.detach().clone().requires_grad_(value.requires_grad)
    file = io.BytesIO()
    torch.save(compact, file)
    data = file.getbuffer()

    def write(view: memoryview) -> None:
        view[:] = data

    return Sized(data.nbytes, write)


def _write(value: torch.Tensor, strides: Sequence[int] | None, template: _Template, view: memoryview) -> None:
    head, tail, crc_at = template
    end = view.nbytes - len(tail)
    elements = view[len(head) : end]
    view[: len(head)] = head
    view[end:] = tail
    write_elements(value, elements, strides)
    checksum = crc32(elements)
    for offset in crc_at:
        _CRC.pack_into(view, end + offset, checksum)


class _Template(NamedTuple):
    head: bytes
    tail: bytes
    crc_at: tuple[int, int]  # where in the tail the checksum of the elements goes


@functools.lru_cache(maxsize=256)
def _template(layout: Layout) -> _Template:
    """Return what stands before and after the elements of a tensor."""
    nbytes = layout.nbytes()
    archive = _Archive()
    for name, content in (("data.pkl", _pickled(layout)), *_BEFORE):
        archive.add(name, content)
    archive.begin(_ELEMENTS)
    head = bytes(archive.data)
    archive.skipped = nbytes
    at = len(archive.central) + _CENTRAL_CRC
    archive.end(_ELEMENTS, 0, nbytes)
    for name, content in _AFTER:
        archive.add(name, content)
    tail = bytes(archive.data[len(head) :])
    return _Template(head, tail + archive.directory(), (_CRC.size, len(tail) + at))


class _Archive:
    """A zip archive in the making; `skipped` bytes of it are left out of `data`."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.central = bytearray()
        self.skipped = 0
        self._count = 0
        self._start = 0

    def add(self, name: str, content: bytes) -> None:
        """Add a record."""
        self.begin(name)
        self.data += content
        self.end(name, crc32(content), len(content))

    def begin(self, name: str) -> None:
        """Write a local header, padded so that the content, which comes next, is aligned."""
        path = f"archive/{name}".encode()
        self._start = len(self.data) + self.skipped
        unpadded = self._start + _LOCAL.size + len(path) + _PADDING.size
        padding = b"Z" * (-unpadded % _ALIGNMENT)
        extra = _PADDING.pack(b"FB", len(padding)) + padding
        self.data += _LOCAL.pack(
            b"PK\x03\x04", 0, _UTF8_WITH_DESCRIPTOR, 0, 0, 0, 0, 0, 0, len(path), len(extra)
        )
        self.data += path + extra

    def end(self, name: str, checksum: int, size: int) -> None:
        """Write the data descriptor behind a content."""
        path = f"archive/{name}".encode()
        self.data += _DESCRIPTOR.pack(b"PK\x07\x08", checksum, size, size)
        fixed = (0, 0, _UTF8_WITH_DESCRIPTOR, 0, 0, 0, checksum, size, size, len(path), 0, 0, 0, 0, 0)
        self.central += _CENTRAL.pack(b"PK\x01\x02", *fixed, self._start) + path
        self._count += 1

    def directory(self) -> bytes:
        """Return the central directory and the end of the archive."""
        counts = (0, 0, self._count, self._count)
        place = (len(self.central), len(self.data) + self.skipped)
        return bytes(self.central) + _END.pack(b"PK\x05\x06", *counts, *place, 0)


class _Storage(NamedTuple):
    kind: type[Any]
    numel: int


class _Stored(NamedTuple):
    layout: Layout


class _Pickler(pickle.Pickler):
    """Pickles a `_Stored` as torch pickles the tensor, and a `_Storage` as it refers to a storage."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Storage):
            return ("storage", obj.kind, "0", "cpu", obj.numel)
        return None

    def reducer_override(self, obj: Any) -> Any:
        return _reduced(obj.layout) if isinstance(obj, _Stored) else NotImplemented


def _reduced(layout: Layout) -> tuple[Any, ...]:
    """Return the function and the arguments that torch rebuilds a tensor of this layout with."""
    hooks: OrderedDict[str, Any] = OrderedDict()
    described = (0, layout.shape, layout.strides, layout.requires_grad, hooks)
    if layout.dtype in _STORAGES:
        storage = _Storage(_STORAGES[layout.dtype], layout.numel())
        return torch._utils._rebuild_tensor_v2, (storage, *described)
    storage = _Storage(torch.UntypedStorage, layout.nbytes())
    return torch._utils._rebuild_tensor_v3, (storage, *described, layout.dtype)


def _pickled(layout: Layout) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(_Stored(layout))
    return file.getvalue()


@functools.lru_cache(maxsize=256)
def _layout(pickled: bytes) -> Layout | None:
    """Return the layout whose pickle this is, byte by byte, None if there is none."""
    try:
        guess = _guess(pickled)
        if guess is None or pickled != _pickled(guess):
            return None
        pack_header(Kind.TENSOR, guess.nbytes(), objects.DTYPE_NAMES[guess.dtype], guess.shape)
        if _reach(guess) > guess.numel() or max(guess.strides, default=0) > _MOST_BYTES:
            return None
    except Exception:  # anybody's bytes are read as opcodes here, and may be any nonsense
        return None
    return guess


def _guess(pickled: bytes) -> Layout | None:
    """Return the layout that the names and numbers of a pickle would stand for if it were a tensor's."""
    if len(pickled) > _LONGEST_PICKLE:
        return None
    operations: list[tuple[str, Any]] = [
        (operation.name, argument) for operation, argument, _ in pickletools.genops(pickled)
    ]
    names = [argument for name, argument in operations if name == "GLOBAL"]
    numbers = [argument for name, argument in operations if name in ("BININT", "BININT1", "BININT2", "LONG1")]
    dtype = next((_DTYPES[name] for name in names if name in _DTYPES), None)
    if dtype is None or min(numbers, default=-1) < 0:
        return None
    rank = len(numbers) // 2 - 1
    described = numbers[2:]
    requires_grad = ("NEWTRUE", None) in operations
    return Layout(dtype, tuple(described[:rank]), tuple(described[rank:]), requires_grad)


def _reach(layout: Layout) -> int:
    """Return how many elements strides reach over."""
    if not layout.numel():
        return 0
    return 1 + sum((dim - 1) * stride for dim, stride in zip(layout.shape, layout.strides, strict=True))


def _records(buffer: memoryview) -> dict[bytes, memoryview] | None:
    """Return the contents of the records that are `_READ`, None if this is no archive that has them."""
    try:
        places = {name: place for name, place in _places(buffer) if name in _READ}
        if len(places) < len(_READ):
            return None
        return {name: _content(buffer, *place) for name, place in places.items()}
    except (ValueError, struct.error):
        return None


def _places(buffer: memoryview) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield name, and where it starts and how long it is, of each record in the directory of an archive.

    Raises `ValueError` or `struct.error` if the directory is broken.
    """
    signature, _, _, count, _, size, at, _ = _END.unpack_from(buffer, buffer.nbytes - _END.size)
    if signature != b"PK\x05\x06" or size > _LONGEST_DIRECTORY:
        raise ValueError("no archive of a tensor")
    directory, at = bytes(buffer[at : at + size]), 0
    for _ in range(count):
        method, length, stored, name, extra, note, start = _PLACE.unpack_from(directory, at)
        if method or length != stored:
            raise ValueError("a compressed record")
        at += _PLACE.size + name
        yield directory[at - name : at].partition(b"/")[2], (start, length)
        at += extra + note


def _content(buffer: memoryview, start: int, size: int) -> memoryview:
    *_, name, extra = _LOCAL.unpack_from(buffer, start)
    begin = start + _LOCAL.size + name + extra
    if begin + size > buffer.nbytes:
        raise ValueError("a record that lies outside")
    return buffer[begin : begin + size]
