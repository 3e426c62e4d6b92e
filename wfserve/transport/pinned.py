"""Memory that a device copies from stays where it is: a stretch of fixed size, lent in parts that lie close.

A device finds pinned memory by the addresses of its pages, and those are given to a driver once. So nothing
of it goes back to the system, as free memory of the other arena does: that would leave the device old pages.
What is lent is cut from the first gap that is large enough; what is free grows together again.
"""

from __future__ import annotations

import ctypes
import weakref
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from wfserve.errors import ServiceUnavailableError
from wfserve.transport.base import ArenaStatistics, Descriptor
from wfserve.transport.frame import ALIGNMENT, HEADER_SIZE
from wfserve.transport.publish import published

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wfserve.transport.base import Lender, Loan, Payload, Transport

PINNED_SEGMENT = 2  # no `Final`: what is compiled would keep the value it was compiled with

_Slot = ctypes.Array[ctypes.c_char]  # exports its bytes; while anything refers to it, it is held


class Gaps:
    """What is free of `nbytes` bytes: stretches in order, no two of which touch."""

    def __init__(self, nbytes: int) -> None:
        self._starts = [0] if nbytes else []
        self._ends = [nbytes] if nbytes else []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def take(self, nbytes: int) -> int | None:
        """Cut `nbytes` off the first stretch that is as long, and return where; None if no stretch is."""
        for index, (start, end) in enumerate(self):
            if end - start >= nbytes:
                self._starts[index] += nbytes
                if end - start == nbytes:
                    del self._starts[index], self._ends[index]
                return start
        return None

    def give(self, start: int, nbytes: int) -> None:
        """Add a stretch that was taken."""
        index, end = bisect_left(self._starts, start), start + nbytes
        if index < len(self._starts) and self._starts[index] == end:
            end = self._ends.pop(index)
            del self._starts[index]
        if index and self._ends[index - 1] == start:
            self._ends[index - 1] = end
        else:
            self._starts.insert(index, start)
            self._ends.insert(index, end)


class _Handle:
    """A part of a slot, which it holds until it is released or collected."""

    def __init__(self, slot: _Slot, begin: int, descriptor: Descriptor) -> None:
        self._slot: _Slot | None = slot
        self._begin = begin
        self.descriptor = descriptor

    def release(self) -> None:
        """Give the handle up; idempotent."""
        self._slot = None

    def _held_slot(self) -> _Slot:
        if self._slot is None:
            raise ValueError("The handle has been released")
        return self._slot

    def _view(self) -> memoryview:
        return memoryview(self._held_slot()).cast("B")[self._begin :][: self.descriptor.length]

    def _publish(self, header: bytes, offset: int, length: int) -> PinnedPayload:
        slot, (segment, start, whole) = self._held_slot(), self.descriptor
        if len(header) != HEADER_SIZE:
            raise ValueError(f"A frame header has {HEADER_SIZE} bytes")
        if offset < 0 or length < 0 or offset + length > whole:
            raise ValueError("The part does not lie within the memory")
        return PinnedPayload(slot, self._begin + offset, Descriptor(segment, start + offset, length), header)


class PinnedPayload(_Handle):
    """Published bytes."""

    def __init__(self, slot: _Slot, begin: int, descriptor: Descriptor, header: bytes) -> None:
        super().__init__(slot, begin, descriptor)
        self.header = header

    @property
    def nbytes(self) -> int:
        """Length of the bytes."""
        return self.descriptor.length

    def share(self) -> PinnedPayload:
        """Return one more handle; raises `ValueError` after `release`."""
        return self._publish(self.header, 0, self.nbytes)

    def part(self, header: bytes, offset: int, length: int) -> PinnedPayload:
        """Return a handle on a part; raises `ValueError` if it does not lie within, or after `release`."""
        return self._publish(header, offset, length)

    def borrow(self) -> memoryview:
        """Return a read-only view, which holds the slot; raises `ValueError` after `release`."""
        return self._view().toreadonly()


class PinnedLoan(_Handle):
    """A writable slot that nobody else sees yet."""

    @property
    def buffer(self) -> memoryview:
        """The writable bytes; a view holds the slot. Raises `ValueError` after `release`."""
        return self._view()

    def publish(self, header: bytes, offset: int, length: int) -> PinnedPayload:
        """Publish a part; raises `ValueError` if it does not lie within the loan, or after `release`."""
        return self._publish(header, offset, length)


class PinnedArena:
    """All of `memory` (writable bytes), which lies at `start` of the segment; all bookkeeping is private."""

    def __init__(self, memory: memoryview, start: int = 0, segment: int = PINNED_SEGMENT) -> None:
        self._memory = memory
        self.place = Descriptor(segment, start, memory.nbytes)
        self._gaps = Gaps(memory.nbytes)
        self._slots = self._loaned = self._high_water = 0
        # A slot may be dropped at any moment and in any thread, so that it is taken back later.
        self._dropped: deque[tuple[int, int]] = deque()
        self._closed = False

    def loan(self, nbytes: int) -> PinnedLoan:
        """Return a slot of at least `nbytes`; raises `ServiceUnavailableError` if no gap is as large."""
        self._take_back()
        size = max(-(-nbytes // ALIGNMENT), 1) * ALIGNMENT
        offset = None if self._closed else self._gaps.take(size)
        if offset is None:
            raise ServiceUnavailableError(f"There is no pinned memory for {nbytes} more bytes", retry_after=1)
        self._slots += 1
        self._loaned += size
        self._high_water = max(self._high_water, self._loaned)
        slot = (ctypes.c_char * size).from_buffer(self._memory, offset)
        weakref.finalize(slot, self._dropped.append, (offset, size)).atexit = False
        return PinnedLoan(slot, 0, Descriptor(self.place.segment, self.place.offset + offset, size))

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Return a copy of `data` as a payload; raises `ServiceUnavailableError` if no gap is as large."""
        return published(self.loan(len(data)), header, data)

    def _take_back(self) -> None:
        while self._dropped:
            offset, size = self._dropped.popleft()
            self._gaps.give(offset, size)
            self._slots -= 1
            self._loaned -= size

    def view(self, descriptor: Descriptor) -> memoryview:
        """Return what a child in this process sees; raises `ValueError` if it does not lie within."""
        _, offset, length = descriptor
        start = offset - self.place.offset
        if start < 0 or length < 0 or start + length > self.place.length:
            raise ValueError(f"{descriptor} does not lie within pinned memory")
        return memoryview((ctypes.c_char * length).from_buffer(self._memory, start)).cast("B")

    @property
    def free_bytes(self) -> int:
        """Bytes that are not lent."""
        self._take_back()
        return self.place.length - self._loaned

    def trim(self, nbytes: int) -> int:
        """Return 0: pinned memory is never given back."""
        return 0

    def statistics(self) -> ArenaStatistics:
        """Return what is held now; all of it is resident once a device has been told of it."""
        self._take_back()
        size = self.place.length
        return ArenaStatistics(self._slots, self._loaned, size, size, self._high_water)

    def close(self) -> None:
        """Lend no more; what is held stays readable. Idempotent."""
        self._closed = True


class FirstWithRoom:
    """Lends from the first of some arenas that has room."""

    def __init__(self, lenders: Sequence[Lender]) -> None:
        *self._preferred, self._last = lenders

    def loan(self, nbytes: int) -> Loan:
        """Return a slot of at least `nbytes`; raises what the last arena raises if none has room."""
        for lender in self._preferred:
            try:
                return lender.loan(nbytes)
            except ServiceUnavailableError:
                continue
        return self._last.loan(nbytes)

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Return a copy of `data` as a payload; raises as `loan` does."""
        return published(self.loan(len(data)), header, data)


def pinned_first(transport: Transport) -> Lender:
    """Return what lends pinned memory while there is some, else of the arena."""
    arenas = (transport.pinned, transport.arena)
    return FirstWithRoom([arena for arena in arenas if arena is not None])
