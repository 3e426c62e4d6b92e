"""A Python value becomes a pickle with its tensors and arrays out of band, or an error that names a class.

Pickle protocol 5 (PEP 574). Only children of one workflow read these; the server never does. A class or a
function travels by reference, so it must be one that any child can import: never one of the node's archive.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from wfserve.child.fault import NodeError
from wfserve.transport import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in frame.DTYPES if hasattr(torch, name)}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PLAIN_TYPES, _STRIDED = frozenset({torch.Tensor, torch.nn.Parameter}), torch.strided
# Elements are copied as integers of their size: float8 and its like have no copy of their own.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def tensor_of(buffer: Any, dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """Return a tensor over `buffer` (whole elements, row-major), which it keeps alive."""
    if 0 in shape:
        return torch.empty(shape, dtype=DTYPES[dtype])
    elements = torch.frombuffer(buffer, dtype=DTYPES[dtype])
    return elements if elements.shape == shape else elements.reshape(tuple(shape))


def is_plain(tensor: torch.Tensor) -> bool:
    """Say whether dtype, shape and elements are all there is: not sparse, nested, quantized, a subclass."""
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.layout is _STRIDED
        and not tensor.is_nested
        and tensor.dtype in DTYPE_NAMES
        and not tensor.is_meta
    )


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of a plain tensor, of the same shape, whose dtype can be copied bit for bit."""
    return tensor.detach().resolve_conj().resolve_neg().view(_BITS[tensor.itemsize])


class Pickled(NamedTuple):
    """A pickle and the buffers it refers to, in order."""

    pickle: bytes
    buffers: list[memoryview]


class Archive:
    """The directory whose modules nobody else can import."""

    def __init__(self, directory: str) -> None:
        self._root = os.path.join(os.path.realpath(directory), "")
        self._verdicts: dict[str, bool] = {}

    def owns(self, module: str) -> bool:
        """Say whether `module` comes from this archive, or from nowhere another process could find it."""
        if module not in self._verdicts:
            self._verdicts[module] = self._look(module)
        return self._verdicts[module]

    def _look(self, module: str) -> bool:
        loaded = sys.modules.get(module)
        if loaded is None or module in ("__main__", "__mp_main__"):
            return True
        path = getattr(loaded, "__file__", None)
        return path is not None and os.path.realpath(path).startswith(self._root)


class _Pickler(pickle.Pickler):
    def __init__(
        self, file: io.BytesIO, archive: Archive, callback: Callable[[pickle.PickleBuffer], Any]
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=callback)
        self._archive = archive

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return _reduce_tensor(obj) if is_plain(obj) else NotImplemented
        if isinstance(obj, (type, types.FunctionType)):
            self._check(obj)
        return NotImplemented

    def _check(self, obj: type | types.FunctionType) -> None:
        if "<" in obj.__qualname__:
            raise _cannot(obj, "it is a lambda or defined inside a function")
        if self._archive.owns(obj.__module__):
            raise _cannot(obj, "it belongs to this node's archive and no other node can import it")


def _cannot(obj: type | types.FunctionType, why: str) -> NodeError:
    return NodeError(f"{obj.__module__}.{obj.__qualname__} cannot be handed to another node, because {why}")


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    elements = bits_of(tensor).cpu().contiguous().numpy().data
    return tensor_of, (pickle.PickleBuffer(elements), DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def dump(value: Any, archive: Archive) -> Pickled:
    """Pickle `value`. Raises `NodeError` naming the class that cannot be rebuilt elsewhere."""
    buffers: list[memoryview] = []
    file = io.BytesIO()
    try:
        _Pickler(file, archive, lambda buffer: buffers.append(buffer.raw())).dump(value)
    except NodeError:
        raise
    except Exception as problem:  # a __reduce__ may raise anything
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        raise NodeError(f"a value of {name} cannot be handed to another node: {problem}") from None
    return Pickled(file.getvalue(), buffers)


def load(body: memoryview) -> Any:
    """Rebuild a value over its body: tensors and arrays are views of it.

    Raises `NodeError` if this process lacks what the value is made of.
    """
    pickled, buffers = frame.parse_object(body)
    try:
        return pickle.loads(pickled, buffers=buffers)
    except Exception as problem:
        raise NodeError(f"an input cannot be rebuilt here: {type(problem).__name__}: {problem}") from None


def write(pickled: Pickled, layout: frame.ObjectLayout, view: memoryview) -> None:
    """Write a body laid out for `pickled` into `view`."""
    parts: list[tuple[int, bytes | memoryview]] = [(0, layout.table), (layout.pickle, pickled.pickle)]
    parts += zip(layout.buffers, pickled.buffers, strict=True)
    for offset, part in parts:
        view[offset : offset + len(part)] = part
