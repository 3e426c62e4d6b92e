"""Inputs are views of shared memory that a handler may keep; whoever keeps one is noticed.

Every view that a link maps has an exporter of its own, its `obj`: slices, tensors and arrays made from the
view keep that alive and nothing else does, so a weak reference to it tells whether anybody still looks.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from operator import attrgetter, is_, methodcaller
from typing import TYPE_CHECKING, NamedTuple

from wfserve._native import address_of as address_of
from wfserve.transport.base import Descriptor, new_tuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from typing_extensions import Buffer

    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Ref


_start_of, _shape_of = methodcaller("data_ptr"), attrgetter("shape")


class _View(NamedTuple):
    """Memory from `start` up to `end` that somebody has looked at."""

    start: int  # addresses
    end: int
    exporter: weakref.ref[Buffer]


class _Borrowed(NamedTuple):
    """An input that the handler was given."""

    start: int  # address
    descriptor: Descriptor
    exporter: weakref.ref[Buffer]


class Watched:
    """A borrowed input: where it lies, and whoever may look at it, by itself or with its neighbours."""

    def __init__(self, borrowed: _Borrowed, runs: list[_View]) -> None:
        self._start, self.descriptor, self._exporter = borrowed
        self._runs = runs  # of all inputs of the step
        self._same: tuple[Watched, ...] = ()

    def alive(self) -> bool:
        """Say whether anything still looks at the input."""
        if self._exporter() is not None:
            return True
        return bool(self._runs or self._same) and (
            any(self._is_part_of(run) and run.exporter() is not None for run in self._runs)
            or any(other.alive() for other in self._same)
        )

    def _is_part_of(self, run: _View) -> bool:
        return run.start < self._start + self.descriptor.length and self._start < run.end

    def stand_for(self, other: Watched) -> None:
        """Be alive as long as `other` is, too, which lies in the same place."""
        self._same += (other,)


class Inputs:
    """What one step of a batch was given, and where each of it lies."""

    def __init__(self, link: ChildLink, *, copied: bool = False) -> None:
        self.copies = 0  # made of inputs on their way to the handler
        self._map = link.map
        self._copied = copied
        self._borrowed: list[_Borrowed] = []
        self._starting: dict[int, Descriptor] = {}  # by where one begins
        self._places: list[_Borrowed] | None = None  # in order
        self._runs: list[_View] = []
        self._settled = False
        self._bases: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def look(self, ref: Ref) -> memoryview:
        """Return a view for the caller to parse at once; nobody notices if it is kept."""
        return self._map(ref.descriptor)

    def read(self, ref: Ref) -> memoryview:
        """Return a view for the caller to copy from at once, which is counted."""
        self.copies += 1
        return self.look(ref)

    def borrow(self, ref: Ref) -> memoryview:
        """Return a writable view for the handler: of shared memory, or of a private copy."""
        descriptor = ref.descriptor
        if not descriptor.length:
            return memoryview(bytearray())
        if self._copied:
            return memoryview(bytearray(self.read(ref)))
        view = self._map(descriptor)
        self._watch(descriptor, address_of(view), weakref.ref(view.obj))
        return view

    def borrow_run(self, whole: Descriptor, count: int) -> memoryview | None:
        """Return one view of `count` inputs of one size that lie one behind the other, for the handler.

        Whoever looks at a part of it looks at all of them. None where inputs are copied, or there is nothing.
        """
        if self._copied or not whole.length:
            return None
        view = self._map(whole)
        exporter, start = weakref.ref(view.obj), address_of(view)
        segment, first, length = whole
        nbytes = length // count
        for place in range(0, nbytes * count, nbytes):
            self._watch(Descriptor(segment, first + place, nbytes), start + place, exporter)
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

    def _watch(self, descriptor: Descriptor, start: int, exporter: weakref.ref[Buffer]) -> None:
        self._starting[start] = descriptor
        self._borrowed.append(new_tuple(_Borrowed, (start, descriptor, exporter)))

    def run(self, start: int, nbytes: int) -> memoryview | None:
        """Return one view of memory that lies in inputs without a gap and ends with one, None for any other.

        Whoever looks at it is taken to look at each of them. None once `kept` has been asked for.
        """
        first, origin, segment = self._reaching().get(start + nbytes, (start + nbytes, 0, 0))
        if start < first or self._settled:
            return None
        view = self._map(Descriptor(segment, start - origin, nbytes))
        self._runs.append(_View(start, start + nbytes, weakref.ref(view.obj)))
        return view

    def _reaching(self) -> dict[int, tuple[int, int, int]]:
        """Return, by where an input ends, where those begin that lie before it without a gap.

        With it come the origin of their segment and its number.
        """
        reaching: dict[int, tuple[int, int, int]] = {}
        for start, (segment, offset, length), _ in self._borrowed:
            mine = start, start - offset, segment
            before = reaching.get(start)
            reaching[start + length] = before if before is not None and before[1:] == mine[1:] else mine
        return reaching

    def locate(self, address: int, nbytes: int) -> Descriptor | None:
        """Return the descriptor of memory that lies wholly in one borrowed input, None for any other."""
        whole = self._starting.get(address)
        if whole is not None and whole.length == nbytes:
            return whole
        if self._places is None:
            self._places = sorted(self._borrowed, key=_start)
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
        return [
            watched
            for borrowed in self._borrowed
            if (self._runs or borrowed.exporter() is not None)
            and (watched := Watched(borrowed, self._runs)).alive()
        ]


def _are_as_made(base: torch.Tensor, rows: Sequence[torch.Tensor]) -> bool:
    """Whether nobody has given rows of `base` another shape or other memory since."""
    first, size = base.data_ptr(), base.nbytes // len(rows)
    starts = list(map(_start_of, rows))
    return starts == list(range(first, first + base.nbytes, size)) and (
        list(map(_shape_of, rows)).count(base.shape[1:]) == len(rows)
    )


_start = attrgetter("start")


def kept_once(steps: Iterable[Inputs]) -> list[Watched]:
    """Return what something still looks at of the inputs of several steps, each place once."""
    kept: dict[Descriptor, Watched] = {}
    for inputs in steps:
        for watched in inputs.kept():
            if kept.setdefault(watched.descriptor, watched) is not watched:
                kept[watched.descriptor].stand_for(watched)
    return list(kept.values())
