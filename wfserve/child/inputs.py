"""Inputs are views of shared memory that a handler may keep; whoever keeps one is noticed.

Every view that a link maps has an exporter of its own, its `obj`: slices, tensors and arrays made from the
view keep that alive and nothing else does, so a weak reference to it tells whether anybody still looks.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wfserve.transport.base import Descriptor

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Ref


def address_of(buffer: Buffer) -> int:
    """Return where the bytes of a buffer lie in this process."""
    address: int = np.frombuffer(memoryview(buffer), dtype=np.uint8).__array_interface__["data"][0]
    return address


class Watched(NamedTuple):
    """A borrowed input: where it lies, and who exports it."""

    descriptor: Descriptor
    exporter: weakref.ref[Buffer]

    def alive(self) -> bool:
        """Say whether anything still looks at the input."""
        return self.exporter() is not None


class Inputs:
    """What one step of a batch was given, and where each of it lies."""

    def __init__(self, link: ChildLink, *, copied: bool = False) -> None:
        self._link = link
        self._copied = copied
        self._watched: list[Watched] = []
        self._places: list[tuple[int, int, Descriptor]] | None = None

    def read(self, ref: Ref) -> memoryview:
        """Return a view for the caller to copy from at once; nobody notices if it is kept."""
        return self._link.map(ref.descriptor)

    def borrow(self, ref: Ref) -> memoryview:
        """Return a writable view for the handler: of shared memory, or of a private copy."""
        if self._copied or not ref.descriptor.length:
            return memoryview(bytearray(self.read(ref)))
        view = self.read(ref)
        self._watched.append(Watched(ref.descriptor, weakref.ref(view.obj)))
        return view

    def locate(self, address: int, nbytes: int) -> Descriptor | None:
        """Return the descriptor of memory that lies wholly in one borrowed input, None for any other."""
        places = self._sorted_places()
        found = bisect_right(places, address, key=lambda place: place[0]) - 1
        if found < 0:
            return None
        start, end, whole = places[found]
        if not nbytes or address + nbytes > end:
            return None
        return Descriptor(whole.segment, whole.offset + address - start, nbytes)

    def _sorted_places(self) -> list[tuple[int, int, Descriptor]]:
        """Note the addresses when they are first asked for: a dead exporter's cannot be a result's."""
        if self._places is None:
            self._places = []
            for descriptor, exporter in self._watched:
                looked_at = exporter()
                if looked_at is not None:
                    start = address_of(looked_at)
                    self._places.append((start, start + descriptor.length, descriptor))
            self._places.sort(key=lambda place: place[0])
        return self._places

    def kept(self) -> list[Watched]:
        """Return the inputs that something still looks at."""
        return [watched for watched in self._watched if watched.alive()]
