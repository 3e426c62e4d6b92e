"""Values become frames and frames values; a frame says by its kind what it is, whichever mode wrote it.

              bytes mode                        native mode               native mode, leaf
    encode    raw, TEXT, JSON, TENSOR (leaf:    TENSOR, TEXT, BYTES,      BYTES, TEXT, JSON, or what the
              as torch.save)                    OBJECT                    client accepts: the server
                                                                          never unpickles
    decode    bytearray, always                 what the parent returned

Native inputs are views of shared memory, and an output that is a part of an input is handed on where it lies.
Between nodes a tensor is a tensor in either mode: the container that `torch.save` makes of it is written
where it is read, into the bytearray that a handler in bytes mode is owed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson
import torch

from wfserve.child import container, media, objects
from wfserve.child.fault import UNSUPPORTED, NodeError
from wfserve.child.inputs import address_of
from wfserve.child.tensors import Sized, lies_row_major, write_elements
from wfserve.transport.base import Descriptor, new_tuple
from wfserve.transport.frame import MAX_RANK, REMEMBERED, Kind, object_layout, pack_header, parse_header
from wfserve.transport.message import MAX_RESPONSE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.handler import Answer
    from wfserve.child.headers import Headers
    from wfserve.child.inputs import Inputs
    from wfserve.transport.message import Ref


_FLAT: Final = frozenset((bytes, bytearray, memoryview, str))
_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


class Encoded(NamedTuple):
    """A frame that is ready to be written into `nbytes`, or already lies at `place`."""

    header: bytes
    nbytes: int
    write: Callable[[memoryview], None]
    place: Descriptor | None = None
    source: Any = None  # what holds the bytes as they are, or their address, which `write` keeps alive


Encoder = Callable[[Any, "Inputs"], Encoded]


def encoder_for(data_format: str, leaf: bool, archive: objects.Archive) -> Encoder:
    """Return what encodes a node's results. An encoder raises `NodeError` for what cannot be sent."""
    if data_format == "bytes":
        return encode_bytes if leaf else encode_bytes_between
    return encode_leaf if leaf else partial(encode_native, archive=archive)


def encode_bytes(value: Any, inputs: Inputs | None = None) -> Encoded:
    """Encode as TorchServe does: bytes raw, str UTF-8, a tensor as `torch.save`, the rest indented JSON."""
    if isinstance(value, (bytes, bytearray)):
        return _raw(Kind.BYTES, value)
    if isinstance(value, torch.Tensor):
        return _sized(container.save(value))
    try:
        if isinstance(value, str):
            return _raw(Kind.TEXT, _utf8(value))
        return _raw(Kind.JSON, json.dumps(value, indent=2).encode())
    except (TypeError, ValueError, RecursionError):
        raise NodeError(UNSUPPORTED) from None


def encode_bytes_between(value: Any, inputs: Inputs) -> Encoded:
    """Encode for the next node, where a tensor becomes what `torch.save` makes of it, if it has to.

    One that requires a gradient already does here: a frame could not say so.
    """
    if isinstance(value, torch.Tensor) and _fits_a_frame(value):
        return _tensor(value, inputs)
    return encode_bytes(value)


def _fits_a_frame(value: torch.Tensor) -> bool:
    return container.is_plain(value) and not value.requires_grad and value.dim() <= MAX_RANK


def encode_native(value: Any, inputs: Inputs, archive: objects.Archive) -> Encoded:
    """Encode for a node that reads it as it is."""
    if type(value) in _FLAT:
        return _flat(value, inputs)
    if isinstance(value, torch.Tensor) and objects.is_plain(value) and value.dim() <= MAX_RANK:
        return _tensor(value, inputs)
    pickled = objects.dump(value, archive)
    layout = object_layout(len(pickled.pickle), [buffer.nbytes for buffer in pickled.buffers])
    header = pack_header(Kind.OBJECT, layout.size)
    return Encoded(header, layout.size, partial(objects.write, pickled, layout))


def encode_leaf(value: Any, inputs: Inputs) -> Encoded:
    """Encode what leaves the server: bytes, text, or JSON with tensors and arrays as nested lists."""
    if isinstance(value, (bytes, bytearray, memoryview, str)):
        return _flat(value, inputs)
    try:
        return _raw(Kind.JSON, _json(value))
    except (TypeError, ValueError, RuntimeError) as problem:
        raise NodeError(f"{UNSUPPORTED} {problem}") from None


def as_it_leaves(value: Any) -> Any:
    """Return what a client that reads JSON sees of a value. Raises `NodeError` if it cannot be written so."""
    try:
        return orjson.loads(_json(value))
    except (TypeError, ValueError, RuntimeError) as problem:
        raise NodeError(f"{UNSUPPORTED} {problem}") from None


def encode_accepted(answer: Answer, headers: Headers, inputs: Inputs) -> tuple[Encoded, bytes]:
    """Encode what leaves as the client accepts it; with what is said of the response, which names the type.

    Bytes and text leave as they are, as does the result of a handler that set a content type or a status.
    Raises `NodeError`, 406 if the client accepts none of what the value can be written in.
    """
    value, said = answer.value, orjson.loads(answer.response) if answer.response else {}
    accept = headers.find("accept")
    is_ready = isinstance(value, (bytes, bytearray, memoryview, str))
    if not accept or is_ready or "content_type" in said or "status" in said:
        return encode_leaf(value, inputs), answer.response
    mime, written = media.write(value, accept)
    if written is None:
        return encode_leaf(value, inputs), answer.response
    response = orjson.dumps({**said, "content_type": mime})
    if len(response) > MAX_RESPONSE_BYTES:
        raise NodeError(f"The response headers are limited to {MAX_RESPONSE_BYTES} bytes.")
    return _sized(written), response


def _utf8(text: Any) -> bytes:
    """Encode a text as it says itself: one of a class of its own may do so in its own way."""
    encoded: bytes = text.encode()
    return encoded


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_listed, option=_JSON_OPTIONS)
    except TypeError:  # integers beyond 64 bits, among others
        return json.dumps(value, default=_listed).encode()


def _listed(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is not JSON")


def _raw(kind: Kind, data: bytes | bytearray | memoryview) -> Encoded:
    size = len(data)
    return new_tuple(Encoded, (pack_header(kind, size), size, partial(_copy, data), None, data))


def _sized(sized: Sized) -> Encoded:
    return Encoded(pack_header(Kind.BYTES, sized.nbytes), sized.nbytes, sized.write)


def _copy(data: bytes | bytearray | memoryview, view: memoryview) -> None:
    view[:] = data


def _flat(value: str | bytes | bytearray | memoryview, inputs: Inputs) -> Encoded:
    if isinstance(value, str):
        try:
            return _raw(Kind.TEXT, _utf8(value))
        except UnicodeEncodeError:
            raise NodeError(UNSUPPORTED) from None
    if isinstance(value, memoryview):
        return _view(value, inputs)
    return _raw(Kind.BYTES, value)


def _view(value: memoryview, inputs: Inputs) -> Encoded:
    if not value.c_contiguous or not value.nbytes:
        return _raw(Kind.BYTES, value.tobytes())
    flat = value.cast("B")
    place = inputs.locate(address_of(flat), flat.nbytes)
    header = _bytes_header(flat.nbytes)
    return new_tuple(Encoded, (header, flat.nbytes, partial(_copy, flat), place, flat))


def _tensor(value: torch.Tensor, inputs: Inputs) -> Encoded:
    nbytes = value.nbytes
    header = _tensor_header(value.dtype, value.shape, nbytes)
    if not lies_row_major(value):
        return Encoded(header, nbytes, partial(write_elements, value))
    address = value.data_ptr()
    place = inputs.locate(address, nbytes)
    return new_tuple(Encoded, (header, nbytes, partial(write_elements, value), place, address or None))


@lru_cache(REMEMBERED)
def _bytes_header(nbytes: int) -> bytes:
    return pack_header(Kind.BYTES, nbytes)


@lru_cache(REMEMBERED)  # spares the look at the name and a copy of the shape
def _tensor_header(dtype: torch.dtype, shape: torch.Size, nbytes: int) -> bytes:
    return pack_header(Kind.TENSOR, nbytes, objects.DTYPE_NAMES[dtype], shape)


def decode_bytes(ref: Ref, inputs: Inputs) -> bytearray:
    """Return an input as the bytes a bytes-mode parent would have sent, whatever its mode."""
    header, view = parse_header(ref.header), inputs.read(ref)
    if header.kind == Kind.TENSOR:
        return container.around(view, objects.DTYPES[header.dtype], header.shape)
    if header.kind == Kind.OBJECT:
        return _written(encode_bytes(objects.load(memoryview(bytearray(view)))))
    return bytearray(view)


def _written(encoded: Encoded) -> bytearray:
    data = bytearray(encoded.nbytes)
    encoded.write(memoryview(data))
    return data


def decode_run(
    refs: Sequence[Ref], inputs: Inputs, dtype: str = "", shape: tuple[int, ...] | None = None
) -> list[torch.Tensor] | None:
    """Return inputs of one kind that lie one behind the other as rows of one tensor, None if they do not.

    They are tensors, or raw bytes that are said to be of `dtype` and `shape`.
    """
    header, (segment, start, nbytes) = refs[0]
    if shape is None and header[1] != Kind.TENSOR:
        return None
    places = range(start, start + nbytes * len(refs), nbytes or 1)
    in_a_row = zip(repeat(header), zip(repeat(segment), places, repeat(nbytes)))
    if [*refs] != [*in_a_row]:
        return None
    parsed = parse_header(header)
    if parsed.kind == Kind.TENSOR:
        dtype, shape = parsed.dtype, parsed.shape
    if parsed.kind not in (Kind.TENSOR, Kind.BYTES) or shape is None:
        return None
    if parsed.kind == Kind.BYTES and dtype == "bool":  # each byte would have to be looked at
        return None
    if math.prod(shape) * objects.DTYPES[dtype].itemsize != nbytes:
        return None
    view = inputs.borrow_run(Descriptor(segment, start, nbytes * len(refs)), len(refs))
    if view is None or address_of(view) % objects.DTYPES[dtype].itemsize:
        return None
    base = objects.tensor_of(view, dtype, (len(refs), *shape))
    rows = list(base.unbind())
    inputs.remember(base, rows)
    return rows


def decode_native(ref: Ref, inputs: Inputs) -> Any:
    """Return an input as its parent returned it; bytes are a writable memoryview."""
    kind, dtype, shape, _ = parse_header(ref.header)
    if kind is Kind.TENSOR:
        return objects.tensor_of(inputs.borrow(ref), dtype, shape)
    if kind is Kind.BYTES:
        return inputs.borrow(ref)
    if kind is Kind.OBJECT:
        return objects.load(inputs.borrow(ref))
    text = str(inputs.look(ref), "utf-8")
    return text if kind is Kind.TEXT else json.loads(text)
