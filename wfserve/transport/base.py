"""The transport contract: who may touch which bytes, and what crosses between the server and a worker.

Three kinds of hold on memory, each its own type, so that misuse does not type-check:

* a `Loan` is exclusive and writable; whoever has it may fill it and publish parts of it;
* a `Payload` is sent: immutable, shared by reference count, opaque to the server;
* a borrow (`Payload.borrow()`) is a read-only view; the slot stays alive while anything looks at it.

Payloads move as a `Descriptor` and a frame header, never as bytes and never pickled. Only the owner of a
segment (the front-end process that made it) writes its metadata, so a child killed at any instruction can
leave nothing half-written: the owner drops the dead child's link, and with it every loan it had lent.

Two implementations pass `tests/transport/test_conformance.py`: `memory` (in-process) and `shm` (native).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from types import TracebackType

new_tuple = tuple.__new__  # makes a named tuple without the Python frame that its own `__new__` has


class Descriptor(NamedTuple):
    """Where bytes lie: `length` bytes at `offset` of segment number `segment`."""

    segment: int
    offset: int
    length: int


class Ref(NamedTuple):
    """A payload as it crosses: its frame header (96 bytes, unparsed) and where its bytes lie."""

    header: bytes
    descriptor: Descriptor


class MessageKind(enum.IntEnum):
    """What a ring entry means. The first group goes to the child, the second comes from it."""

    CALL = 1  # tag: batch number; descriptor: an encoded `message.Call`
    GRANT = 2  # tag: batch number; descriptor: one more extent for results, length 0 if there is no memory
    STOP = 3  # finish and exit; from a process that the child has joined: forget me
    JOIN = 4  # descriptor.segment: of one more process to hear; descriptors wait at the child's door

    READY = 16  # the handler is loaded
    FAILED = 17  # loading failed; descriptor: an encoded `message.LoadFailure` in the scratch extent
    DONE = 18  # tag: batch number; descriptor: an encoded `message.Reply` in one of the batch's extents
    GROW = 19  # tag: batch number; descriptor.length: bytes wanted beyond the lent extents
    RELEASE = 20  # descriptor: an input the child kept looking at after its batch, and now has dropped
    LEFT = 21  # the child has forgotten a process that it had joined, and touches nothing of it any more
    DROPPED = 22  # tag: number of a batch that was withdrawn before the child began with it


class Message(NamedTuple):
    """One ring entry, 32 bytes in shared memory."""

    kind: int
    tag: int
    descriptor: Descriptor


BRIEF_SPIN: Final = 20  # microseconds: about what it costs to sleep and be woken
NOWHERE = Descriptor(0, 0, 0)


@dataclass(frozen=True, slots=True)
class ArenaStatistics:
    """What an arena holds now. Bytes are of whole slots."""

    slots: int
    loaned_bytes: int
    limit_bytes: int
    resident_bytes: int
    high_water_bytes: int


class Payload(Protocol):
    """A handle on published bytes; the slot is freed when its last handle is released."""

    @property
    def header(self) -> bytes:
        """The frame header (`frame.HEADER_SIZE` bytes), which says what the bytes are."""

    @property
    def descriptor(self) -> Descriptor:
        """Where the bytes lie, for a child that maps the segment."""

    @property
    def nbytes(self) -> int:
        """Length of the bytes, without the header."""

    def share(self) -> Payload:
        """Return one more handle on the same bytes. Raises `ValueError` after `release`."""

    def part(self, header: bytes, offset: int, length: int) -> Payload:
        """Return a handle on `length` of the bytes, from `offset` on, under a header of their own.

        Raises `ValueError` if the part does not lie within the payload, or after `release`.
        """

    def borrow(self) -> memoryview:
        """Return a read-only view; the slot outlives `release` as long as the view is looked at."""

    def release(self) -> None:
        """Give the handle up; idempotent. An unreleased handle is released when it is collected."""


class Loan(Protocol):
    """A writable slot that nobody else sees yet."""

    @property
    def descriptor(self) -> Descriptor:
        """Where the slot lies; its length is the usable size, at least what was asked for."""

    @property
    def buffer(self) -> memoryview:
        """The writable bytes. Nothing may be written to a part once it is published."""

    def publish(self, header: bytes, offset: int, length: int) -> Payload:
        """Publish `length` bytes at `offset` of the loan; parts may be published one after another.

        Raises `ValueError` if the part does not lie within the loan, or after `release`.
        """

    def release(self) -> None:
        """End the loan; idempotent. The slot is free once everything published from it is released."""


class Lender(Protocol):
    """Where memory comes from that somebody wants to fill."""

    def loan(self, nbytes: int) -> Loan:
        """Return at least `nbytes`, aligned to 64 bytes where their neighbours allow it.

        Raises `ServiceUnavailableError` when the arena's limit would be exceeded.
        """

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Return a copy of `data` as a payload. Raises as `loan` and `Loan.publish` do."""


class Arena(Lender, Protocol):
    """The memory of one segment, handed out as loans by its owner; each is aligned to 64 bytes."""

    @property
    def free_bytes(self) -> int:
        """Bytes below the limit that are not lent; what `statistics` knows costs a system call."""

    def trim(self, nbytes: int) -> int:
        """Give memory that has been free for a whole round back to the system, some `nbytes` of it at most.

        Returns at how many bytes it looked; 0: the round is over, and the next one begins.
        """

    def statistics(self) -> ArenaStatistics:
        """Return what is held now."""

    def close(self) -> None:
        """Unmap and forget the segment; what is still borrowed stays readable."""


class Link(Protocol):
    """The server's end of one child's pair of rings. One task receives; any task may send.

    Raises `FrameError` where the child is found to have corrupted a ring, and `trio.ClosedResourceError`
    after `close`.
    """

    def send(self, message: Message) -> None:
        """Append to the child's ring and wake it if it sleeps; never blocks.

        Raises `BufferError` if the ring is full: the caller sends more than it may have in flight.
        """

    async def receive(self) -> list[Message]:
        """Wait for messages and return all that are there, at least one. A checkpoint, cancel-safe."""

    def drain(self) -> list[Message]:
        """Return what is there now, perhaps nothing; used once more after the child has died."""

    def close(self) -> None:
        """Free the rings; idempotent. The child must be dead, or told to stop."""


class ChildLink(Protocol):
    """The child's end. Single-threaded; waits without the GIL."""

    @property
    def pinned(self) -> memoryview | None:
        """All of the pinned segment, as this process maps it; None if there is none."""

    def receive(self, spin_us: int = BRIEF_SPIN) -> Message:
        """Block until a message is there and return it; awake for the first `spin_us` if that has paid."""

    def send(self, message: Message) -> None:
        """Append to the server's ring and ring its doorbell if it sleeps; waits while the ring is full."""

    def map(self, descriptor: Descriptor) -> memoryview:
        """Return a writable view of a part of a segment; only lent extents may be written to.

        The view's `obj` is made for this call and may be weakly referenced: it lives as long as anything
        looks at these bytes.

        Raises `ValueError` if it does not lie within a mapped segment.
        """


class Transport(Protocol):
    """A front-end process's arena and the links to its workers; a context manager."""

    @property
    def arena(self) -> Arena:
        """The segment this process owns."""

    @property
    def pinned(self) -> Arena | None:
        """A second segment, of fixed size and never given back, that devices copy from; None without one."""

    def connect(self) -> tuple[Link, object]:
        """Make a pair of rings: the server's end, and what `Process` carries to the child.

        The second is picklable while a child is being started, and `attach()` on it in the child returns
        the `ChildLink`.
        """

    def __enter__(self) -> Transport: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
