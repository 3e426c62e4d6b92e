"""A tensor's elements fill a buffer exactly: read where they lie, or written where they will be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from wfserve._native import copy_from
from wfserve.child import objects
from wfserve.child.inputs import address_of
from wfserve.transport.frame import Kind, pack_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Sized(NamedTuple):
    """Bytes that are not written yet: how many, and what writes them into a buffer of that length."""

    nbytes: int
    write: Callable[[memoryview], None]


def tensor_over(view: memoryview, dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """Return a tensor of torch's `dtype` over all bytes of `view`, row-major; a copy if they lie unaligned.

    Raises `ValueError` if dtype and shape do not take exactly these bytes, or if one of them is no bool.
    """
    pack_header(Kind.TENSOR, view.nbytes, dtype, shape)
    tensor = objects.tensor_of(aligned(view, objects.DTYPES[dtype].itemsize), dtype, shape)
    if dtype == "bool" and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise ValueError("A bool is a byte of 0 or 1")
    return tensor


def aligned(view: memoryview, itemsize: int) -> memoryview:
    """Return `view` if elements of `itemsize` bytes may be read where it lies, else a copy of it."""
    if view.nbytes and address_of(view) % itemsize:
        return memoryview(bytearray(view))
    return view


def lies_row_major(value: torch.Tensor) -> bool:
    """Say whether memory of this process holds the elements of a plain tensor as a frame does."""
    return value.is_cpu and value.is_contiguous() and not (value.is_conj() or value.is_neg())


def write_elements(value: torch.Tensor, view: memoryview, strides: Sequence[int] | None = None) -> None:
    """Write the elements of a plain tensor once, from whatever device and strides it has.

    They are laid out row-major, or by `strides` (in elements) that leave no gaps. Raises `ValueError` if
    they do not fill the view, `TypeError` if it is read-only.
    """
    if not value.numel():
        return
    if strides is None and lies_row_major(value) and (address := value.data_ptr()):
        if view.nbytes != value.nbytes:
            raise ValueError(f"A tensor of {value.nbytes} bytes does not fill {view.nbytes}")
        # Not `copy_`, which shares even this out among threads, and waits for the last of them.
        copy_from(view, address)
        return
    bits = objects.bits_of(value)
    flat = torch.frombuffer(view, dtype=bits.dtype)
    (flat.view(bits.shape) if strides is None else flat.as_strided(bits.shape, strides)).copy_(bits)
