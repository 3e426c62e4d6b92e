"""A `.npy` file (numpy's NEP 1) is one array; nothing in it is ever unpickled."""

from __future__ import annotations

import functools
import io
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy_format

from wfserve.child import objects
from wfserve.child.tensors import Sized, tensor_over, write_elements

_MAGIC_LENGTH = 8
_LONGEST_HEADER = 10_000  # bytes, as numpy has it


class _Header(NamedTuple):
    length: int  # bytes before the elements
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool


def load(view: memoryview) -> torch.Tensor:
    """Return the array as a tensor over `view`; a copy if it is big-endian or lies unaligned.

    Raises `ValueError` if this is no `.npy` file of version 1 or 2, if torch has no such dtype, or if the
    elements do not take exactly the rest of `view`.
    """
    header = _header(bytes(view[: _MAGIC_LENGTH + _LONGEST_HEADER + 4]))
    shape = header.shape[::-1] if header.is_fortran else header.shape
    elements = view[header.length :]
    if header.dtype.byteorder == ">":
        elements = _flipped(elements, header.dtype)
    tensor = tensor_over(elements, header.dtype.name, shape)
    return tensor.permute(*reversed(range(tensor.dim()))) if header.is_fortran else tensor


def _flipped(elements: memoryview, dtype: np.dtype[Any]) -> memoryview:
    # A complex number is two, each with its bytes in order.
    size = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return np.frombuffer(elements, dtype=f">u{size}").astype(f"<u{size}").view(np.uint8).data


def _header(start: bytes) -> _Header:
    end = _MAGIC_LENGTH
    major, _ = npy_format.read_magic(io.BytesIO(start))
    width = 2 if major == 1 else 4
    length = int.from_bytes(start[end : end + width], "little")
    return _parsed(start[: end + width + length])


@functools.lru_cache(maxsize=64)
def _parsed(start: bytes) -> _Header:
    """Return what the bytes before the elements say. Raises `ValueError` if they say nothing."""
    file = io.BytesIO(start)
    version = npy_format.read_magic(file)
    read = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"A .npy file of version {version[0]}.{version[1]} cannot be a tensor")
    try:
        shape, is_fortran, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except Exception as problem:  # it evaluates a literal, and makes a dtype of what it finds there
        raise ValueError(f"The header of the .npy file cannot be read: {problem}") from None
    return _Header(file.tell(), dtype, shape, is_fortran)


def save(value: Any) -> Sized | None:
    """Return the `.npy` file of a tensor or an array; None if it is neither, or numpy has no such dtype."""
    if isinstance(value, torch.Tensor):
        return _saved_tensor(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _saved_array(np.asarray(value))
    return None


def _saved_tensor(value: torch.Tensor) -> Sized | None:
    dtype = _numpy_dtype(value.dtype)
    if dtype is None or not objects.is_plain(value):
        return None
    header = _written_header(dtype, tuple(value.shape))

    def write(view: memoryview) -> None:
        view[: len(header)] = header
        write_elements(value, view[len(header) :])

    return Sized(len(header) + value.nbytes, write)


def _saved_array(value: np.ndarray[Any, Any]) -> Sized | None:
    if value.dtype.hasobject:
        return None
    header = _written_header(value.dtype, value.shape)
    return Sized(len(header) + value.nbytes, partial(_write_array, value, header))


def _write_array(value: np.ndarray[Any, Any], header: bytes, view: memoryview) -> None:
    view[: len(header)] = header
    np.ndarray(value.shape, value.dtype, view[len(header) :])[...] = value


@functools.lru_cache(maxsize=64)
def _written_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    described = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(file, described)
    return file.getvalue()


@functools.cache
def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    try:
        return np.dtype(objects.DTYPE_NAMES[dtype])
    except (KeyError, TypeError):  # torch's alone
        return None
