"""A safetensors file is named tensors side by side: a length (u64), a JSON header, the elements without gaps.

The format is described at https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import torch

from wfserve.child import objects
from wfserve.child.tensors import Sized, tensor_over, write_elements

if TYPE_CHECKING:
    from collections.abc import Mapping

_LENGTH: Final = struct.Struct("<Q")
_PADDING: Final = 8  # the elements start at a multiple of it
_METADATA: Final = "__metadata__"
_NAMES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_WIRE_NAMES: Final = {objects.DTYPES[name]: wire for wire, name in _NAMES.items() if name in objects.DTYPES}


def load(view: memoryview) -> dict[str, torch.Tensor]:
    """Return the tensors by name, over `view`; those that lie unaligned are copies.

    Raises `ValueError` if the header is broken, a dtype is unknown, or the tensors do not fill the rest of
    `view` one after the other.
    """
    header, elements = _split(view)
    tensors, end = {}, 0
    for start, stop, name, entry in sorted(map(_placed, header.items()), key=lambda each: each[:3]):
        if start != end:
            raise ValueError(f"The tensor {name!r} does not begin where another ends")
        tensors[name] = _tensor(name, entry, elements[start:stop])
        end = stop
    if end != elements.nbytes:
        raise ValueError(f"The tensors take {end} bytes of {elements.nbytes}")
    return tensors


def _split(view: memoryview) -> tuple[dict[str, Any], memoryview]:
    if view.nbytes < _LENGTH.size:
        raise ValueError("A safetensors file is longer than that")
    (length,) = _LENGTH.unpack_from(view)
    if length > view.nbytes - _LENGTH.size:
        raise ValueError(f"The header of {length} bytes is longer than the file")
    end = _LENGTH.size + length
    header = orjson.loads(view[_LENGTH.size : end])  # its error is a ValueError
    if not isinstance(header, dict):
        raise ValueError("The header is no JSON object")
    header.pop(_METADATA, None)
    return header, view[end:]


def _placed(item: tuple[str, Any]) -> tuple[int, int, str, dict[str, Any]]:
    name, entry = item
    match entry:
        case {"dtype": str(), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
            if all(type(dim) is int for dim in (*shape, start, stop)):
                return start, stop, name, entry
    raise ValueError(f"The entry of {name!r} lacks a dtype, a shape or offsets")


def _tensor(name: str, entry: Mapping[str, Any], elements: memoryview) -> torch.Tensor:
    dtype = _NAMES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"The tensor {name!r} is of {entry['dtype']}, which is not supported")
    try:
        return tensor_over(elements, dtype, entry["shape"])
    except ValueError as problem:
        raise ValueError(f"The tensor {name!r}: {problem}") from None


def save(value: Any) -> Sized | None:
    """Return the file of a dict of tensors or arrays by name, or of one, named `output`.

    None if `value` is something else, or the format has no such dtype.
    """
    named = value if isinstance(value, dict) else {"output": value}
    tensors = {name: _as_tensor(each) for name, each in named.items() if _may_name(name)}
    found = {name: each for name, each in tensors.items() if each is not None}
    return _saved(found) if len(found) == len(named) else None


def _may_name(name: Any) -> bool:
    return type(name) is str and name != _METADATA


def _as_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError):  # strings, dates, records; big-endian numbers
            return None
    if isinstance(value, torch.Tensor) and objects.is_plain(value) and value.dtype in _WIRE_NAMES:
        return value
    return None


def _saved(tensors: Mapping[str, torch.Tensor]) -> Sized:
    # Larger elements first, as the reference implementation does: then each tensor lies aligned.
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    entries, places, end = {}, [], 0
    for name in ordered:
        tensor = tensors[name]
        places.append((end, end + tensor.nbytes, tensor))
        entries[name] = {
            "dtype": _WIRE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": places[-1][:2],
        }
        end += tensor.nbytes
    header = orjson.dumps(entries)
    header += b" " * (-len(header) % _PADDING)
    begin = _LENGTH.size + len(header)

    def write(view: memoryview) -> None:
        view[:begin] = _LENGTH.pack(len(header)) + header
        for start, stop, tensor in places:
            write_elements(tensor, view[begin + start : begin + stop])

    return Sized(begin + end, write)
