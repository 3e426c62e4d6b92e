"""Inputs are views of shared memory that a handler may keep; whoever keeps one is noticed.

Every view that a link maps has an exporter of its own, its `obj`: slices, tensors and arrays made from the
view keep that alive and nothing else does, so a weak reference to it tells whether anybody still looks.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from operator import is_
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wfserve.transport.base import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from typing_extensions import Buffer

    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Ref


def address_of(buffer: Buffer) -> int:
    """Return where the bytes of a buffer lie in this process."""
    address: int = np.frombuffer(memoryview(buffer), dtype=np.uint8).__array_interface__["data"][0]
    return address


class _View(NamedTuple):
    """Memory from `start` up to `end` that somebody has looked at."""

    start: int  # addresses
    end: int
    exporter: weakref.ref[Buffer]


class Watched:
    """A borrowed input: where it lies, and whoever may look at it, by itself or with its neighbours."""

    __slots__ = ("_own", "_runs", "_same", "descriptor")

    def __init__(self, descriptor: Descriptor, own: _View, runs: list[_View]) -> None:
        self.descriptor = descriptor
        self._own = own
        self._runs = runs  # of all inputs of the step
        self._same: list[Watched] = []

    @property
    def start(self) -> int:
        """Where the input lies in this process."""
        return self._own.start

    def alive(self) -> bool:
        """Say whether anything still looks at the input."""
        return (
            self._own.exporter() is not None
            or any(self._is_part_of(run) and run.exporter() is not None for run in self._runs)
            or any(other.alive() for other in self._same)
        )

    def _is_part_of(self, run: _View) -> bool:
        return run.start < self._own.end and self._own.start < run.end

    def stand_for(self, other: Watched) -> None:
        """Be alive as long as `other` is, too, which lies in the same place."""
        self._same.append(other)


class Inputs:
    """What one step of a batch was given, and where each of it lies."""

    def __init__(self, link: ChildLink, *, copied: bool = False) -> None:
        self.copies = 0  # made of inputs on their way to the handler
        self._link = link
        self._copied = copied
        self._watched: list[Watched] = []
        self._places: list[Watched] | None = None
        self._runs: list[_View] = []
        # By where an input ends: where those begin that lie before it without a gap, and their segment.
        self._reaching: dict[int, tuple[int, int, int]] = {}
        self._settled = False
        self._bases: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def look(self, ref: Ref) -> memoryview:
        """Return a view for the caller to parse at once; nobody notices if it is kept."""
        return self._link.map(ref.descriptor)

    def read(self, ref: Ref) -> memoryview:
        """Return a view for the caller to copy from at once, which is counted."""
        self.copies += 1
        return self.look(ref)

    def borrow(self, ref: Ref) -> memoryview:
        """Return a writable view for the handler: of shared memory, or of a private copy."""
        if not ref.descriptor.length:
            return memoryview(bytearray())
        if self._copied:
            return memoryview(bytearray(self.read(ref)))
        view = self.look(ref)
        self._watch(ref.descriptor, view)
        return view

    def borrow_run(self, whole: Descriptor, count: int) -> memoryview | None:
        """Return one view of `count` inputs of one size that lie one behind the other, for the handler.

        Whoever looks at a part of it looks at all of them. None where inputs are copied, or there is nothing.
        """
        if self._copied or not whole.length:
            return None
        view = self._link.map(whole)
        nbytes = whole.length // count
        for number in range(count):
            self._watch(whole._replace(offset=whole.offset + number * nbytes, length=nbytes), view)
        return view

    def remember(self, base: torch.Tensor, rows: list[torch.Tensor]) -> None:
        """Take note that `rows` are those of `base`."""
        self._bases.append((base, rows))

    def base_of(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Return the tensor whose rows these are, all of them and in order; None if there is none."""
        for base, rows in self._bases:
            if len(rows) == len(tensors) and all(map(is_, rows, tensors)):
                return base.view(base.shape) if _are_as_made(base, rows) else None
        return None

    def _watch(self, descriptor: Descriptor, view: memoryview) -> None:
        segment, offset, length = descriptor
        origin = self._link.origin(descriptor)
        start, end = origin + offset, origin + offset + length
        self._watched.append(Watched(descriptor, _View(start, end, weakref.ref(view.obj)), self._runs))
        before = self._reaching.get(start)
        joined = before is not None and before[1:] == (origin, segment)
        self._reaching[end] = before if before is not None and joined else (start, origin, segment)

    def run(self, start: int, nbytes: int) -> memoryview | None:
        """Return one view of memory that lies in inputs without a gap and ends with one, None for any other.

        Whoever looks at it is taken to look at each of them. None once `kept` has been asked for.
        """
        first, origin, segment = self._reaching.get(start + nbytes, (start + nbytes, 0, 0))
        if start < first or self._settled:
            return None
        view = self._link.map(Descriptor(segment, start - origin, nbytes))
        self._runs.append(_View(start, start + nbytes, weakref.ref(view.obj)))
        return view

    def locate(self, address: int, nbytes: int) -> Descriptor | None:
        """Return the descriptor of memory that lies wholly in one borrowed input, None for any other."""
        if self._places is None:
            self._places = sorted(self._watched, key=_start)
        found = bisect_right(self._places, address, key=_start) - 1
        if found < 0 or not nbytes:
            return None
        (segment, offset, length), start = self._places[found].descriptor, self._places[found].start
        if address + nbytes > start + length:
            return None
        return Descriptor(segment, offset + address - start, nbytes)

    def kept(self) -> list[Watched]:
        """Return the inputs that something still looks at, once the handler has been called."""
        self._settled = True
        self._bases.clear()
        return [watched for watched in self._watched if watched.alive()]


def _are_as_made(base: torch.Tensor, rows: Sequence[torch.Tensor]) -> bool:
    """Whether nobody has given rows of `base` another shape or other memory since."""
    shape, size = base.shape[1:], base.nbytes // len(rows)
    first = base.data_ptr()
    starts = [row.data_ptr() for row in rows]
    return starts == list(range(first, first + base.nbytes, size)) and all(r.shape == shape for r in rows)


def _start(watched: Watched) -> int:
    return watched.start


def kept_once(steps: Iterable[Inputs]) -> list[Watched]:
    """Return what something still looks at of the inputs of several steps, each place once."""
    kept: dict[Descriptor, Watched] = {}
    for inputs in steps:
        for watched in inputs.kept():
            if kept.setdefault(watched.descriptor, watched) is not watched:
                kept[watched.descriptor].stand_for(watched)
    return list(kept.values())
