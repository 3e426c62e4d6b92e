"""Shared memory between the server and its workers: arena, rings, doorbells, batches."""

from collections.abc import Sequence
from typing import overload

from typing_extensions import Buffer

import wfserve.transport.base
import wfserve.transport.message
import wfserve.workers.base

class Payload:
    """Published bytes: immutable, and freed with their last handle and view."""

    @property
    def header(self) -> bytes:
        """The frame header, 96 bytes."""

    @property
    def descriptor(self) -> wfserve.transport.base.Descriptor:
        """Where the bytes lie."""

    @property
    def nbytes(self) -> int:
        """Length of the bytes."""

    def part(self, header: bytes, offset: int, length: int) -> Payload:
        """Return a handle on a part. Raises `ValueError` if it does not lie within, or after `release`."""

    def share(self) -> Payload:
        """Return one more handle. Raises `ValueError` after `release`."""

    def borrow(self) -> memoryview:
        """Return a read-only view, which holds the slot. Raises `ValueError` after `release`."""

    def release(self) -> None:
        """Give the handle up; idempotent."""

class Loan:
    """A writable slot that nobody else sees yet."""

    @property
    def descriptor(self) -> wfserve.transport.base.Descriptor:
        """Where the slot lies."""

    @property
    def buffer(self) -> memoryview:
        """The writable bytes; a view holds the slot. Raises `ValueError` after `release`."""

    def publish(self, header: bytes, offset: int, length: int) -> Payload:
        """Publish a part. Raises `ValueError` if it does not lie within the loan, or after `release`."""

    def release(self) -> None:
        """End the loan; idempotent."""

class Arena:
    """A segment, handed out in slots of powers of two; all of its state is private."""

    def __init__(self, segment: int, limit_bytes: int, retain_bytes: int, reservation_bytes: int) -> None:
        """Reserve address space; memory is taken as it is touched. Raises `OSError` if that is refused."""

    def loan(self, nbytes: int) -> Loan | None:
        """Return a slot of at least `nbytes`, or None if the limit would be exceeded."""

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload | None:
        """Return a copy of `data` as a payload, or None if the limit would be exceeded."""

    def trim(self, nbytes: int) -> int:
        """Give back what was free for a whole round, `nbytes` or so; 0 is returned when it is over."""

    def close(self) -> None:
        """Lend no more; the segment goes with its last slot."""

    def statistics(self) -> tuple[int, int, int, int, int]:
        """Return slots held and loaned, limit, resident and high-water bytes."""

    @property
    def free_bytes(self) -> int:
        """Bytes below the limit that are not lent."""

    @property
    def fd(self) -> int:
        """The memfd, -1 once the segment is gone."""

class View:
    """What a mapped part's memoryviews look at (their `obj`)."""

class SegmentMap:
    """Another process's segment, mapped whole."""

    def __init__(self, fd: int) -> None:
        """Map all of `fd`, which may be closed afterwards. Raises `OSError`."""

    def view(self, offset: int, length: int) -> memoryview:
        """Return a writable view of a part. Raises `ValueError` if it does not lie within the segment."""

class ServerEnd:
    """The server's end of a child's two rings."""

    @overload
    def __init__(self, first_fd: int | None = None) -> None:
        """
        Make empty rings and a doorbell, for a child whose first rings are `first_fd`, or these.

        Raises `OSError` or `ValueError`.
        """

    @overload
    def __init__(self, memory_fd: int, doorbell_fd: int, first_fd: int | None = None) -> None:
        """
        Go on with rings that another process has made, or has left behind.

        All descriptors may be closed afterwards. Raises `OSError` or `ValueError`.
        """

    def send(self, message: wfserve.transport.base.Message) -> bool:
        """
        Append a message and wake the child if it sleeps; False if the ring is full.

        Raises `ValueError` if the child corrupted the ring.
        """

    def drain(self) -> list[wfserve.transport.base.Message]:
        """Return all messages there are. Raises `ValueError` if the child corrupted the ring."""

    def fall_asleep(self) -> bool:
        """Ask for the doorbell to be rung; False if there is something to drain instead."""

    def wake_up(self) -> None:
        """Clear the doorbell."""

    @property
    def memory_fd(self) -> int:
        """The rings' memfd."""

    @property
    def doorbell_fd(self) -> int:
        """The eventfd that the child rings."""

    @property
    def child_sleeps(self) -> bool:
        """Whether the child waits for messages."""

    @property
    def written(self) -> int:
        """How many messages the child says it has ever sent."""

class ChildEnd:
    """The child's end; used by one thread."""

    def __init__(self, memory_fd: int, doorbell_fd: int, first_fd: int | None = None) -> None:
        """
        Map the rings; a child of several has those of the first at `first_fd`.

        All descriptors may be closed afterwards. Raises `OSError` or `ValueError`.
        """

    def receive(self, spin_us: int) -> wfserve.transport.base.Message:
        """
        Wait for a message, without the GIL, and return it. Signal handlers run meanwhile.

        The first `spin_us` of the wait are spent awake, where that has paid.
        """

    def send(self, message: wfserve.transport.base.Message) -> None:
        """Append a message and ring the server's doorbell if it sleeps; waits while the ring is full."""

class ChildEnds:
    """A child's ends, which take turns."""

    def __init__(self) -> None: ...
    def add(self, number: int, end: ChildEnd) -> None:
        """Hear another end; it is the first, or was made with the first's `first_fd`."""

    def remove(self, number: int) -> None:
        """Hear an end no more; not the first."""

    def receive(self, spin_us: int) -> tuple[int, wfserve.transport.base.Message]:
        """Wait for a message, as `ChildEnd.receive` does, and return the number of its end, and it."""

def gather(destination: Buffer, sources: Sequence[Buffer]) -> None:
    """
    Copy `sources`, contiguous and of one size, one behind the other, without the GIL.

    `destination` is writable, contiguous and exactly as large; a row that lies in its place
    there is left alone. One that is reused is filled many times faster than fresh memory,
    whose pages fault. Raises `ValueError` if sizes do not fit or a row lies elsewhere in it.
    """

def adjacent(sources: Sequence[Buffer]) -> bool:
    """
    Tell whether the sources are of one size and each begins where the one before it ends.

    Within one mapping they then are one view, and nothing has to be gathered.
    """

def encode_passed(passed: Sequence[tuple[int, wfserve.transport.base.Ref]]) -> bytes:
    """Return which items of a call have reached a step, and its input of each, encoded."""

def encode_values(
    results: Sequence[wfserve.transport.message.Result],
    longest: int,
    value: type[wfserve.transport.message.Value],
) -> tuple[bytes, int]:
    """
    Return the results of a reply up to the first that is no value, encoded, and how many those are.

    Raises `ValueError` if a response has more than `longest` bytes.
    """

def decode_items(
    data: bytes, start: int, count: int, item: type[wfserve.transport.message.CallItem]
) -> tuple[wfserve.transport.message.CallItem, ...]:
    """
    Return the items of an encoded call, which begin at `start`, as named tuples.

    An item is made of its id, the ref of its headers, and pairs of an index and a ref; a ref
    of a frame header and a descriptor. Raises `ValueError` if the data are not exactly that.
    """

def address_of(buffer: Buffer) -> int:
    """Return where the bytes of a contiguous buffer lie in this process."""

def copy_from(destination: Buffer, address: int) -> None:
    """
    Fill a contiguous buffer with what lies at an address of this process.

    The caller answers for it that as many bytes lie there.
    """

def note_progress(memory: Buffer, tag: int, step: int, item: int) -> None:
    """Write the first word of a worker's progress, which begins with `item` of `step` now."""

class LentExtent:
    """
    Lent memory that is filled from its start; pieces begin at multiples of 64 bytes,
    but equal tensors lie one behind the other.
    """

    def __init__(self, memory: Buffer, segment: int, offset: int) -> None:
        """Fill `memory`, as it is mapped, which lies at `offset` of `segment`."""

    def fits(self, nbytes: int) -> bool:
        """Whether a piece of `nbytes` fits for certain."""

    def place(self, nbytes: int, header: bytes = b"") -> wfserve.transport.base.Descriptor | None:
        """Take a piece, for the frame with `header` if it is one; None if there is no room."""

    def put(self, header: bytes, nbytes: int, source: Buffer | int) -> wfserve.transport.message.Ref | None:
        """
        Take a piece and copy a frame into it: a contiguous buffer of `nbytes`, or as many bytes at an
        address of this process, for which the caller answers. None if there is no room.
        """

def encode_items(
    items: Sequence[wfserve.workers.base.Item],
    inputs: list[wfserve.transport.base.Payload],
    headers: list[wfserve.transport.base.Payload],
) -> tuple[bytes, list[int]]:
    """
    Return the items of a call, encoded in the order in which their inputs lie, and that order.

    Each payload is shared, and `inputs` or `headers` have the new handles, whatever is raised then:
    `ValueError` where an id is no UUID or a handle has been released.
    """

def decode_values(
    data: bytes, start: int, count: int, longest: int, value: type[wfserve.transport.message.Value]
) -> tuple[list[wfserve.transport.message.Value], int]:
    """
    Return the results of a reply, from `start` on, up to the first that is no value, and where it
    begins.

    Raises `ValueError` if the data are cut short or a response has more than `longest` bytes.
    """

def decode_ran(
    data: bytes, start: int, count: int, longest: int, ran: type[wfserve.transport.message.Ran]
) -> tuple[list[wfserve.transport.message.Ran], int]:
    """
    Return what a reply says of `count` steps, from `start` on, and where that ends.

    Raises `ValueError` if the data are cut short or metrics have more than `longest` bytes.
    """

def publish_values(
    results: Sequence[wfserve.transport.message.Result],
    loans: list[wfserve.transport.base.Loan],
    payloads: list[wfserve.transport.base.Payload],
    value: type[wfserve.transport.message.Value],
    done: type[wfserve.workers.base.Done],
) -> list[wfserve.workers.base.Done]:
    """
    Return the results of a reply, published as `publish_part` does each, up to the first that is no
    value or lies in nothing that was lent or given.
    """

def publish_part(
    ref: wfserve.transport.base.Ref,
    loans: list[wfserve.transport.base.Loan],
    payloads: list[wfserve.transport.base.Payload],
) -> wfserve.transport.base.Payload | None:
    """Return what a ref names as a part of the first loan, else payload, that it lies in, else None."""

FRAME_HEADER_SIZE: int = 96

RING_CAPACITY: int = 256

def watch_parent(pidfd: int) -> None:
    """
    End this process, and its group if it leads one, as soon as the process behind `pidfd` is gone.

    Works while the GIL is held. Raises `OSError` if `pidfd` is not open.
    """
