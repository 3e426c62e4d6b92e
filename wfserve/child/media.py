"""Tensors come in and go out by media type, and nothing is guessed from what the bytes look like.

application/x-npy           one tensor                      also application/x.npy
application/x-safetensors   tensors by name                 also application/safetensors
application/x-pytorch       one tensor, as `torch.save` has it
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import torch

from wfserve.child import container, npy, objects, safetensors
from wfserve.child.fault import NodeError
from wfserve.child.tensors import tensor_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wfserve.child.tensors import Sized

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
DTYPE_HEADER: Final = "x-tensor-dtype"
SHAPE_HEADER: Final = "x-tensor-shape"


def _load_container(view: memoryview) -> torch.Tensor:
    tensor = container.load(view)
    if tensor is None:
        raise ValueError("torch.save writes otherwise one tensor on the CPU that is no view")
    return tensor


def _save_container(value: Any) -> Sized | None:
    return container.save(value) if isinstance(value, torch.Tensor) and objects.is_plain(value) else None


_READERS: Final[dict[str, Callable[[memoryview], Any]]] = {
    "application/x-npy": npy.load,
    "application/x.npy": npy.load,
    "application/x-safetensors": safetensors.load,
    "application/safetensors": safetensors.load,
    "application/x-pytorch": _load_container,
}
_WRITERS: Final[dict[str, Callable[[Any], Sized | None]]] = {
    "application/x-npy": npy.save,
    "application/x.npy": npy.save,
    "application/x-safetensors": safetensors.save,
    "application/safetensors": safetensors.save,
    "application/x-pytorch": _save_container,
}
OFFERED: Final = (JSON, *_WRITERS)  # the first for whoever does not mind


def carries_tensors(mime: str) -> bool:
    """Say whether `read` knows this media type."""
    return mime in _READERS


def may_be_described(mime: str) -> bool:
    """Say whether a request's headers may make a tensor of a body of this media type."""
    return mime in ("", BINARY, JSON)


def read(mime: str, view: memoryview) -> Any:
    """Return the tensor, or the tensors by name, that a body of this media type holds, over `view`.

    Raises `NodeError` (400) if it holds none.
    """
    try:
        return _READERS[mime](view)
    except ValueError as problem:
        raise _bad(f"The body is not {mime}: {problem}.") from None


def described(dtype: str, shape: str | None, value: Any) -> torch.Tensor:
    """Return the tensor that a raw body (a memoryview) or a parsed JSON one is by its headers.

    Of a raw body it is a view, and `shape` is needed. Raises `NodeError` (400) if dtype, shape and body do
    not fit together.
    """
    name, dims = dtype.strip().lower(), _dims(shape)
    try:
        if isinstance(value, memoryview):
            if dims is None:
                raise ValueError(f"it has no {SHAPE_HEADER}")
            return tensor_over(value, name, dims)
        if name not in objects.DTYPES:
            raise ValueError(f"unknown tensor dtype {name!r}")
        tensor = torch.tensor(value, dtype=objects.DTYPES[name])
    except (ValueError, TypeError, RuntimeError, OverflowError) as problem:
        raise _bad(f"The body is no tensor of {DTYPE_HEADER} {dtype!r}: {problem}.") from None
    if dims is not None and tuple(tensor.shape) != dims:
        raise _bad(f"The body has the shape {list(tensor.shape)}, not that of {SHAPE_HEADER}.")
    return tensor


def _dims(shape: str | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    if not re.fullmatch(r"\s*(\d{1,18}\s*(,\s*\d{1,18}\s*)*)?", shape, re.ASCII):
        raise _bad(f"{SHAPE_HEADER} is a list of sizes such as 3,224,224, not {shape!r}.")
    return tuple(int(dim) for dim in shape.split(",")) if shape.strip() else ()


def _bad(message: str) -> NodeError:
    return NodeError(message, 400, "BadRequestException")


def write(value: Any, accept: str) -> tuple[str, Sized | None]:
    """Return the media type that an `Accept` header (RFC 9110, 12.5.1) prefers, and `value` in it.

    For JSON, which is what everything else is about, the second is None. Raises `NodeError` (406) if the
    header admits no type that `value` can be written in.
    """
    for mime in preferred(accept):
        if mime == JSON:
            return JSON, None
        written = _WRITERS[mime](value)
        if written is not None:
            return mime, written
    raise NodeError(
        f"This result cannot be sent as {accept!r}. Offered are {JSON}; for a tensor or an array"
        " application/x-npy; for a tensor application/x-pytorch; for tensors by name, or one,"
        " application/x-safetensors.",
        406,
        "BadRequestException",
    )


def preferred(accept: str) -> list[str]:
    """Return the offered media types that an `Accept` header admits, the preferred first.

    Of equal quality those come first that the header names more exactly, then those that we prefer.
    """
    ranges = list(_ranges(accept)) or [("*/*", 1.0)]
    ranked = []
    for position, mime in enumerate(OFFERED):
        matches = [(_exactness(pattern, mime), quality) for pattern, quality in ranges]
        exactness, quality = max(matches, key=lambda match: match[0])
        if exactness >= 0 and quality > 0:
            ranked.append((-quality, -exactness, position, mime))
    return [mime for *_, mime in sorted(ranked)]


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        pattern, *parameters = (each.strip().lower() for each in part.split(";"))
        if pattern:
            yield pattern, _quality(parameters)


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(float(value), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def _exactness(pattern: str, mime: str) -> int:
    """Say how closely a media range fits a type: 2, 1 or 0 for `a/b`, `a/*` or `*/*`, -1 if not at all."""
    if pattern == mime:
        return 2
    if pattern == "*/*":
        return 0
    return 1 if pattern == f"{mime.partition('/')[0]}/*" else -1
