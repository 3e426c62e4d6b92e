"""Payloads are never pickled, the server never blocks: one segment, and two rings and a doorbell a child.

A second segment, of fixed size, is for what a device copies from.

The work is done by `wfserve._native`; this module gives it the contract's errors, waits on Trio, and carries
the file descriptors to a child that is being started.
"""

from __future__ import annotations

import errno
import os
from mmap import PAGESIZE
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import trio

from wfserve import _native
from wfserve.errors import FrameError, ServiceUnavailableError
from wfserve.transport.base import BRIEF_SPIN, ArenaStatistics
from wfserve.transport.pinned import PINNED_SEGMENT, PinnedArena

if TYPE_CHECKING:
    from types import TracebackType

    from wfserve.transport.base import Descriptor, Message

RESERVATION_BYTES: Final = 2**40  # of address space; memory is taken as it is touched
REGIONS: Final = 32  # of a segment, one for each size of slots


class ShmArena:
    """A memfd, handed out in slots. Free ones keep up to a quarter of the limit: reuse does not fault."""

    def __init__(self, limit_bytes: int, segment: int) -> None:
        self.segment = segment
        self._native = _native.Arena(segment, limit_bytes, limit_bytes // 4, RESERVATION_BYTES)

    @property
    def fd(self) -> int:
        """The memfd; it stays the arena's."""
        return self._native.fd

    def loan(self, nbytes: int) -> _native.Loan:
        """Return a slot of at least `nbytes`; raises `ServiceUnavailableError` beyond the limit."""
        loan = self._native.loan(nbytes)
        if loan is None:
            raise _no_memory(nbytes)
        return loan

    def publish(self, header: bytes, data: bytes | bytearray) -> _native.Payload:
        """Return a copy of `data` as a payload; raises `ServiceUnavailableError` beyond the limit."""
        payload = self._native.publish(header, data)
        if payload is None:
            raise _no_memory(len(data))
        return payload

    @property
    def free_bytes(self) -> int:
        """Bytes below the limit that are not lent."""
        return self._native.free_bytes

    def trim(self, nbytes: int) -> int:
        """Give memory that has been free for a whole round back; returns at how many bytes it looked."""
        return self._native.trim(nbytes)

    def statistics(self) -> ArenaStatistics:
        """Return what is held now."""
        return ArenaStatistics(*self._native.statistics())

    def close(self) -> None:
        """Lend no more; the segment goes with the last slot that is held. Idempotent."""
        self._native.close()


def _no_memory(nbytes: int) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"There is no shared memory for {nbytes} more bytes", retry_after=1)


class ShmPinned(PinnedArena):
    """The only slot of a memfd, as large as the limit. Raises `OSError` if it cannot be had."""

    def __init__(self, nbytes: int) -> None:
        reservation = REGIONS << (max(nbytes, PAGESIZE) - 1).bit_length()  # a slot may be as large, then
        self._segment = _native.Arena(PINNED_SEGMENT, reservation, reservation, reservation)
        loan = self._segment.loan(nbytes)
        if loan is None:
            raise OSError(errno.ENOMEM, f"{nbytes} bytes of pinned memory: {os.strerror(errno.ENOMEM)}")
        super().__init__(loan.buffer[:nbytes], loan.descriptor.offset)
        loan.release()  # a view of it holds the slot

    @property
    def fd(self) -> int:
        """The memfd; it stays the arena's."""
        return self._segment.fd

    def close(self) -> None:
        """Lend no more; the segment goes with the last part that is held. Idempotent."""
        super().close()
        self._memory = memoryview(b"")
        self._segment.close()


class ShmLink:
    """The server's end of one child's rings; what finds them corrupted by the child raises `FrameError`."""

    def __init__(self, end: _native.ServerEnd | None = None) -> None:
        """Make rings, unless there is an `end` of some already."""
        self._end: _native.ServerEnd | None = end or _native.ServerEnd()
        self._waiting = False

    @property
    def fds(self) -> tuple[int, int]:
        """The rings' memfd and the doorbell; they stay the link's."""
        end = self._open_end()
        return end.memory_fd, end.doorbell_fd

    def send(self, message: Message) -> None:
        """Append to the child's ring; raises `BufferError` if it is full."""
        try:
            sent = self._open_end().send(message)
        except ValueError as error:
            raise FrameError(str(error)) from None
        if not sent:
            raise BufferError("The child's ring is full")

    async def receive(self) -> list[Message]:
        """Wait for messages; raises `trio.ClosedResourceError` if the link is closed meanwhile."""
        # Every checkpoint comes before the drain that it guards: a cancelled task has taken nothing.
        await trio.lowlevel.checkpoint_if_cancelled()
        messages = self.drain()
        if messages:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not messages:
            await self._doorbell()
            messages = self.drain()
        return messages

    async def _doorbell(self) -> None:
        end = self._open_end()
        if not end.fall_asleep():
            await trio.lowlevel.checkpoint()
            return
        self._waiting = True
        try:
            await trio.lowlevel.wait_readable(end.doorbell_fd)
        finally:
            self._waiting = False
        end.wake_up()

    def drain(self) -> list[Message]:
        """Return what is there now, perhaps nothing."""
        try:
            return self._open_end().drain()
        except ValueError as error:
            raise FrameError(str(error)) from None

    def close(self) -> None:
        """Unmap the rings; whoever waits in `receive` gets `trio.ClosedResourceError`."""
        if self._end is not None and self._waiting:
            trio.lowlevel.notify_closing(self._end.doorbell_fd)
        self._end = None

    def _open_end(self) -> _native.ServerEnd:
        if self._end is None:
            raise trio.ClosedResourceError("The link is closed")
        return self._end


class Places(NamedTuple):
    """What a child has to know of the segments: the number of the arena's, and which part is pinned."""

    segment: int
    pinned: Descriptor | None


class ShmPort:
    """What a `Process` carries to its child: the file descriptors, duplicated when it is pickled for that.

    They are those of the rings, the doorbell, the arena and, if there is one, the pinned segment.
    """

    def __init__(self, places: Places, fds: tuple[int, ...]) -> None:
        self._places = places
        self._fds = fds

    def __reduce__(self) -> tuple[object, ...]:
        return _carry, (self._places, *carried_fds(self._fds))

    def attach(self) -> ShmChildLink:
        """Map the segments and the rings; in the process that made the port, or once in the child."""
        memory, doorbell, *segments = self._fds
        numbers = (self._places.segment, PINNED_SEGMENT)  # the second only if it is there
        maps = {number: _native.SegmentMap(fd) for number, fd in zip(numbers, segments, strict=False)}
        return ShmChildLink(maps, _native.ChildEnd(memory, doorbell), self._places.pinned)


def carried_fds(fds: tuple[int, ...]) -> list[object]:
    """Return what duplicates `fds` while it is pickled for a child that is being started."""
    return [DupFd(fd) for fd in fds]


class _CarriedPort(ShmPort):
    """A port that has arrived: the descriptors are its own, and closed once they are mapped."""

    def attach(self) -> ShmChildLink:
        try:
            return super().attach()
        finally:
            for fd in self._fds:
                os.close(fd)


class CarriedFd(Protocol):
    """What `DupFd` made has become in the child."""

    def detach(self) -> int:
        """Return the descriptor, now the caller's."""


def _carry(places: Places, *fds: CarriedFd) -> ShmPort:
    return _CarriedPort(places, tuple(fd.detach() for fd in fds))


class ShmChildLink:
    """The child's end; each segment is mapped once, whole."""

    def __init__(
        self, segments: dict[int, _native.SegmentMap], end: _native.ChildEnd, pinned: Descriptor | None
    ) -> None:
        self.segments = segments
        self.end = end
        self.pinned_place = pinned
        self._views = {number: segment.view for number, segment in segments.items()}

    @property
    def pinned(self) -> memoryview | None:
        """All of the pinned segment that is ever lent, None if there is none."""
        return None if self.pinned_place is None else self.map(self.pinned_place)

    def receive(self, spin_us: int = BRIEF_SPIN) -> Message:
        """Wait for a message, without the GIL, and return it; at first awake, where that has paid."""
        return self.end.receive(spin_us)

    def send(self, message: Message) -> None:
        """Append to the server's ring and wake the server if it sleeps; waits while the ring is full."""
        self.end.send(message)

    def map(self, descriptor: Descriptor) -> memoryview:
        """Return a writable view; its `obj` lives as long as anything looks at these bytes."""
        number, offset, length = descriptor
        if number not in self._views:
            raise ValueError(f"Segment {number} is not mapped")
        return self._views[number](offset, length)


class ShmTransport:
    """The segments and the links of one front-end process's workers.

    `pinned_bytes` is the size of the pinned one, which is not there if it is 0. Raises `OSError`.
    """

    def __init__(self, limit_bytes: int, segment: int = 1, *, pinned_bytes: int = 0) -> None:
        self.arena = ShmArena(limit_bytes, segment)
        self.pinned = ShmPinned(pinned_bytes) if pinned_bytes else None

    def connect(self) -> tuple[ShmLink, ShmPort]:
        """Make a pair of rings; the link must stay open until the child has started."""
        link = ShmLink()
        return link, ShmPort(*self.places(link))

    def places(self, link: ShmLink) -> tuple[Places, tuple[int, ...]]:
        """Return what a port tells a child, and the descriptors that it carries."""
        if self.pinned is None:
            return Places(self.arena.segment, None), (*link.fds, self.arena.fd)
        places = Places(self.arena.segment, self.pinned.place)
        return places, (*link.fds, self.arena.fd, self.pinned.fd)

    def __enter__(self) -> ShmTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for arena in (self.arena, self.pinned):
            if arena is not None:
                arena.close()
