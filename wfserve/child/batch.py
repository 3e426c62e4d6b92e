"""A Batch is the list of rows that a native handler gets, and makes one tensor of what they hold.

neighbours in shared memory      a view over all of them: no copy
others of some size              gathered in one call, into memory that is used again
small ones, and what has to be   `torch.stack`
"""

from __future__ import annotations

import mmap
import weakref
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from wfserve import _native
from wfserve.child import objects
from wfserve.child.device import to_device
from wfserve.child.inputs import address_of
from wfserve.child.tensors import tensor_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wfserve.child.inputs import Inputs
    from wfserve.child.spec import WorkerSpec

CPU: Final = torch.device("cpu")
SMALL: Final = 1 << 20  # bytes; what `torch.stack` takes of them is less than a call to gather them
HUGE_PAGE: Final = 1 << 21
SPARE_ROOMS: Final = 4
_DTYPE, _SHAPE = attrgetter("dtype"), attrgetter("shape")
_IS_CPU, _REQUIRES_GRAD = attrgetter("is_cpu"), attrgetter("requires_grad")


class Rooms:
    """Memory for batches that are gathered; none is used again while anything still looks at it."""

    def __init__(self) -> None:
        self._rooms: list[_Room] = []

    def take(self, nbytes: int) -> memoryview:
        """Return exactly `nbytes`, which begin a page, from a room that has been used before if one is free.

        Of the free ones those that were used last stay, up to `SPARE_ROOMS`.
        """
        free = [room for room in self._rooms if room.is_free]
        room = next((room for room in free if room.fits(nbytes)), None) or _Room(nbytes)
        spare = [each for each in free if each is not room][: SPARE_ROOMS - 1]
        self._rooms = [room, *spare, *(each for each in self._rooms if not each.is_free)]
        return room.lend(nbytes)


class _Room:
    """Private memory of whole pages, of large ones if the system has them."""

    def __init__(self, nbytes: int) -> None:
        unit = HUGE_PAGE if nbytes >= HUGE_PAGE else mmap.PAGESIZE
        self._size = -(-nbytes // unit) * unit
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory seldom gets large pages
        memory = mmap.mmap(-1, self._size + unit - mmap.PAGESIZE, private)
        if unit == HUGE_PAGE:
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._start = -address_of(memory) % unit
        self._memory = memory
        self._lent: weakref.ref[Any] | None = None

    @property
    def is_free(self) -> bool:
        return self._lent is None or self._lent() is None

    def fits(self, nbytes: int) -> bool:
        """Whether `nbytes` fit, and would not leave most of the room empty."""
        return nbytes <= self._size <= max(2 * nbytes, HUGE_PAGE)

    def lend(self, nbytes: int) -> memoryview:
        exporter = np.frombuffer(self._memory, np.uint8, nbytes, self._start)
        self._lent = weakref.ref(exporter)
        return exporter.data


class Batch(list[Any]):
    """The rows of a batch, one a request; the handler's own, as any list."""

    __slots__ = ("_inputs", "_rooms", "_spec")

    def __init__(self, rows: Iterable[Any], inputs: Inputs, rooms: Rooms, spec: WorkerSpec) -> None:
        super().__init__(rows)
        self._inputs = inputs
        self._rooms = rooms
        self._spec = spec

    def tensor(
        self,
        key: str = "body",
        *,
        dtype: torch.dtype | None = None,
        shape: Sequence[int] | None = None,
        device: torch.device = CPU,
    ) -> torch.Tensor:
        """Return what the rows hold under `key`, tensors or raw buffers, as one tensor [B, *shape].

        Where the rows lie one behind the other it is a view of them, which must not be written to. `dtype`
        and `shape` (of one row) say what raw buffers hold, by default as `input-dtype` and `input-shape` do.
        On another `device` it may still be arriving, behind which work on the current stream comes.

        Raises `ValueError` if a row has nothing there, or the rows are not all of one dtype and shape.
        """
        values = self._values(key)
        if dtype is None and shape is None and (base := self._inputs.base_of(values)) is not None:
            return to_device(base, device)
        if set(map(type, values)) != {torch.Tensor}:
            name = self._spec.input_dtype if dtype is None else objects.DTYPE_NAMES[dtype]
            raw = _Raw(key, name, self._spec.input_shape if shape is None else tuple(shape))
            values = [raw.tensor(number, value) for number, value in enumerate(values)]
        return self.stack(values, device)

    def _values(self, key: str) -> list[Any]:
        try:
            return [row[key] for row in self]
        except (LookupError, TypeError):  # an envelope's rows may be tensors themselves
            return [row.get(key) if isinstance(row, dict) else row for row in self]

    def stack(self, tensors: Sequence[torch.Tensor], device: torch.device = CPU) -> torch.Tensor:
        """Return tensors, one a row, as one [B, …]: what `torch.stack` does, but without a copy if possible.

        A view of the rows must not be written to. Raises `ValueError` if they are not of one dtype and shape.
        """
        base = self._inputs.base_of(tensors)
        return to_device(self._stacked(tensors) if base is None else base, device)

    def _stacked(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        _check_alike(tensors)
        if len(tensors) == 1:
            return tensors[0].unsqueeze(0)
        plain = _are_plain(tensors)
        if plain and (view := self._run(tensors)) is not None:
            return _over(view, tensors)
        self._inputs.copies += len(tensors)
        nbytes = tensors[0].nbytes * len(tensors) if plain and all(map(_IS_CPU, tensors)) else 0
        if nbytes < SMALL:
            return torch.stack(list(tensors))
        room = self._rooms.take(nbytes)
        _native.gather(room, _buffers(tensors))
        return _over(room, tensors)

    def _run(self, tensors: Sequence[torch.Tensor]) -> memoryview | None:
        """Return a view over all tensors, if they lie as neighbours among the inputs."""
        if tensors[0].is_complex() and any(map(torch.Tensor.is_conj, tensors)):
            return None
        starts, nbytes = list(map(torch.Tensor.data_ptr, tensors)), tensors[0].nbytes
        whole = nbytes * len(tensors)
        if not nbytes or starts != list(range(starts[0], starts[0] + whole, nbytes)):
            return None
        return self._inputs.run(starts[0], whole)

    def __reduce__(self) -> tuple[Any, ...]:  # elsewhere it is a list like any other
        return list, (list(self),)


class _Raw(NamedTuple):
    """What raw buffers hold."""

    key: str
    dtype: str
    shape: tuple[int, ...] | None

    def tensor(self, number: int, value: Any) -> torch.Tensor:
        """Return the value of a row as a tensor. Raises `ValueError` that names the row if it is none."""
        if isinstance(value, torch.Tensor):
            return value
        if not isinstance(value, (memoryview, bytearray)):
            raise ValueError(f"row {number} has no tensor under {self.key!r}, but {type(value).__name__}")
        if self.shape is None:
            raise ValueError(f"row {number} holds raw bytes, and no shape is given or declared")
        try:
            return tensor_over(memoryview(value).cast("B"), self.dtype, self.shape)
        except ValueError as problem:
            raise ValueError(f"row {number} does not hold what it should: {problem}") from None


def _over(view: memoryview, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return objects.tensor_of(view, objects.DTYPE_NAMES[tensors[0].dtype], (len(tensors), *tensors[0].shape))


def _buffers(tensors: Sequence[torch.Tensor]) -> list[Any]:
    try:
        return list(map(torch.Tensor.numpy, tensors))
    except (RuntimeError, TypeError):  # numpy has no such type, or a conjugate is not written out yet
        return [objects.bits_of(each).numpy() for each in tensors]


# All that is asked of each tensor is asked by `map`: with a line of Python for each, it would take as long as
# a copy of small ones.


def _check_alike(tensors: Sequence[torch.Tensor]) -> None:
    dtypes, shapes = list(map(_DTYPE, tensors)), list(map(_SHAPE, tensors))
    first = dtypes[0], shapes[0]
    if dtypes.count(first[0]) == shapes.count(first[1]) == len(tensors):
        return
    number, other = next(each for each in enumerate(zip(dtypes, shapes, strict=True)) if each[1] != first)
    raise ValueError(f"row {number} is {other[0]} {list(other[1])}, but row 0 is {first[0]} {list(first[1])}")


def _are_plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Say whether tensors of one dtype are nothing but their elements, which lie row-major."""
    return (
        set(map(type, tensors)) == {torch.Tensor}
        and tensors[0].dtype in objects.DTYPE_NAMES
        and all(map(torch.Tensor.is_contiguous, tensors))
        and not any(map(_REQUIRES_GRAD, tensors))
    )
