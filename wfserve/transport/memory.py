"""The contract within one process, for tests: a slot is a bytearray, and nothing waits on the system.

The server's side runs on any Trio clock, autojump included. A `MemoryChildLink` may be used by a thread,
where it blocks, or by the server's own task, where waiting would be for ever and raises instead.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from wfserve.errors import ServiceUnavailableError
from wfserve.transport.base import ArenaStatistics, Descriptor
from wfserve.transport.frame import ALIGNMENT, HEADER_SIZE
from wfserve.transport.pinned import PINNED_SEGMENT, PinnedArena
from wfserve.transport.publish import published

if TYPE_CHECKING:
    from types import TracebackType

    from wfserve.transport.base import Message, Payload

RING_CAPACITY: Final = 256


class _Slot:
    """Bytes at an offset that is never used again, and a count of who holds them."""

    def __init__(self, arena: MemoryArena, offset: int, size: int) -> None:
        self.data = bytearray(size)
        self.offset = offset
        self._arena = arena
        self._holds = 0

    def hold(self) -> None:
        self._holds += 1

    def drop(self) -> None:
        self._holds -= 1
        if self._holds == 0:
            self._arena.forget(self)

    def export(self, offset: int, length: int) -> memoryview:
        """Return a view of a part; its `obj` is made for it, and lives as long as anything looks."""
        exporter = (ctypes.c_char * length).from_buffer(self.data, offset)
        return memoryview(exporter).cast("B")

    def export_held(self, offset: int, length: int) -> memoryview:
        view = self.export(offset, length)
        self.hold()
        weakref.finalize(view.obj, self.drop).atexit = False
        return view


class _Handle:
    """A part of a slot, held until it is released or collected."""

    def __init__(self, slot: _Slot, segment: int, start: int, length: int) -> None:
        self._slot = slot
        self._start = start
        self.descriptor = Descriptor(segment, slot.offset + start, length)
        slot.hold()
        self._release = weakref.finalize(self, slot.drop)
        self._release.atexit = False

    def release(self) -> None:
        self._release()

    def _held_slot(self) -> _Slot:
        if not self._release.alive:
            raise ValueError("The handle has been released")
        return self._slot

    def _publish(self, header: bytes, offset: int, length: int) -> MemoryPayload:
        slot = self._held_slot()
        if len(header) != HEADER_SIZE:
            raise ValueError(f"A frame header has {HEADER_SIZE} bytes")
        if offset < 0 or length < 0 or offset + length > self.descriptor.length:
            raise ValueError("The part does not lie within the memory")
        return MemoryPayload(slot, self.descriptor.segment, self._start + offset, length, header)


class MemoryPayload(_Handle):
    """Published bytes."""

    def __init__(self, slot: _Slot, segment: int, start: int, length: int, header: bytes) -> None:
        super().__init__(slot, segment, start, length)
        self.header = header

    @property
    def nbytes(self) -> int:
        """Length of the bytes."""
        return self.descriptor.length

    def share(self) -> MemoryPayload:
        """Return one more handle; raises `ValueError` after `release`."""
        return self._publish(self.header, 0, self.nbytes)

    def part(self, header: bytes, offset: int, length: int) -> MemoryPayload:
        """Return a handle on a part; raises `ValueError` if it does not lie within, or after `release`."""
        return self._publish(header, offset, length)

    def borrow(self) -> memoryview:
        """Return a read-only view, which holds the slot; raises `ValueError` after `release`."""
        return self._held_slot().export_held(self._start, self.nbytes).toreadonly()


class MemoryLoan(_Handle):
    """A writable slot that nobody else sees yet."""

    @property
    def buffer(self) -> memoryview:
        """The writable bytes; a view holds the slot. Raises `ValueError` after `release`."""
        return self._held_slot().export_held(self._start, self.descriptor.length)

    def publish(self, header: bytes, offset: int, length: int) -> MemoryPayload:
        """Publish a part; raises `ValueError` if it does not lie within the loan, or after `release`."""
        return self._publish(header, offset, length)


class MemoryArena:
    """Slots of any multiple of 64 bytes; what is free takes no memory, so there is nothing to trim."""

    def __init__(self, limit_bytes: int, segment: int) -> None:
        self._limit = limit_bytes
        self._segment = segment
        self._slots: dict[int, _Slot] = {}
        self._end = 0
        self._loaned = 0
        self._high_water = 0
        self._closed = False

    def loan(self, nbytes: int) -> MemoryLoan:
        """Return a slot of at least `nbytes`; raises `ServiceUnavailableError` beyond the limit."""
        size = max(-(-nbytes // ALIGNMENT), 1) * ALIGNMENT
        if self._closed or self._loaned + size > self._limit:
            raise ServiceUnavailableError(f"There is no shared memory for {nbytes} more bytes", retry_after=1)
        slot = self._slots[self._end] = _Slot(self, self._end, size)
        self._end += size
        self._loaned += size
        self._high_water = max(self._high_water, self._loaned)
        return MemoryLoan(slot, self._segment, 0, size)

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Return a copy of `data` as a payload; raises `ServiceUnavailableError` beyond the limit."""
        return published(self.loan(len(data)), header, data)

    def forget(self, slot: _Slot) -> None:
        """Note that nobody holds `slot` any more."""
        del self._slots[slot.offset]
        self._loaned -= len(slot.data)

    def view(self, descriptor: Descriptor) -> memoryview:
        """Return what a child sees at `descriptor`; raises `ValueError` unless it lies within a held slot."""
        segment, offset, length = descriptor
        for start, slot in list(self._slots.items()):  # other threads lend and free meanwhile
            if segment == self._segment and start <= offset and offset + length <= start + len(slot.data):
                return slot.export(offset - start, length)
        raise ValueError(f"{descriptor} does not lie within a held slot")

    @property
    def free_bytes(self) -> int:
        """Bytes below the limit that are not lent."""
        return self._limit - self._loaned

    def trim(self, nbytes: int) -> int:
        """Return 0: free slots take no memory."""
        return 0

    def statistics(self) -> ArenaStatistics:
        """Return what is held now."""
        return ArenaStatistics(len(self._slots), self._loaned, self._limit, self._loaned, self._high_water)

    def close(self) -> None:
        """Lend no more; what is held stays readable. Idempotent."""
        self._closed = True


class _Rings:
    """Both rings of a child. The condition guards them, and tells of messages, of room and of the end."""

    def __init__(self) -> None:
        self.to_child: deque[Message] = deque()
        self.to_server: deque[Message] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.sleeper: tuple[trio.lowlevel.TrioToken, trio.Event] | None = None

    def wake_server(self) -> None:
        """Ring the doorbell, from whichever thread."""
        sleeper, self.sleeper = self.sleeper, None
        if sleeper is None:
            return
        token, event = sleeper
        if trio.lowlevel.in_trio_run():
            event.set()
        else:
            token.run_sync_soon(event.set)

    def wait_in_thread(self) -> None:
        """Wait until something changes; in a Trio task nothing ever would."""
        if self.closed:
            raise EOFError("The link is closed")
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("A child in the server's own task would wait for ever")
        self.changed.wait()


class MemoryLink:
    """The server's end of a child's rings."""

    def __init__(self, rings: _Rings) -> None:
        self._rings = rings

    def send(self, message: Message) -> None:
        """Append to the child's ring; raises `BufferError` if it is full."""
        with self._rings.changed:
            self._check_open()
            if len(self._rings.to_child) == RING_CAPACITY:
                raise BufferError("The child's ring is full")
            self._rings.to_child.append(message)
            self._rings.changed.notify_all()

    async def receive(self) -> list[Message]:
        """Wait for messages; raises `trio.ClosedResourceError` if the link is closed meanwhile."""
        await trio.lowlevel.checkpoint_if_cancelled()
        messages = self.drain()
        if messages:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not messages:
            await self._doorbell()
            messages = self.drain()
        return messages

    async def _doorbell(self) -> None:
        event = trio.Event()
        with self._rings.changed:
            if self._rings.to_server:
                event.set()
            else:
                self._rings.sleeper = trio.lowlevel.current_trio_token(), event
        await event.wait()

    def drain(self) -> list[Message]:
        """Return what is there now, perhaps nothing."""
        with self._rings.changed:
            self._check_open()
            messages = list(self._rings.to_server)
            self._rings.to_server.clear()
            self._rings.changed.notify_all()
        return messages

    def close(self) -> None:
        """End both rings: a child in a thread gets `EOFError`. Idempotent."""
        with self._rings.changed:
            self._rings.closed = True
            self._rings.wake_server()
            self._rings.changed.notify_all()

    def _check_open(self) -> None:
        if self._rings.closed:
            raise trio.ClosedResourceError("The link is closed")


class MemoryChildLink:
    """The child's end, in a thread or in the server's task."""

    def __init__(self, arena: MemoryArena, pinned: PinnedArena | None, rings: _Rings) -> None:
        self._arena = arena
        self._pinned = pinned
        self._rings = rings

    @property
    def pinned(self) -> memoryview | None:
        """All of the pinned segment, None if there is none."""
        return None if self._pinned is None else self._pinned.view(self._pinned.place)

    def receive(self, spin_us: int = 0) -> Message:
        """Return the next message; a thread's wait is never spent awake.

        Raises `EOFError` once the link is closed, and `RuntimeError` in a task when there is none.
        """
        with self._rings.changed:
            while not self._rings.to_child:
                self._rings.wait_in_thread()
            return self._rings.to_child.popleft()

    def send(self, message: Message) -> None:
        """Append to the server's ring; waits while it is full, with the errors of `receive`."""
        with self._rings.changed:
            while len(self._rings.to_server) == RING_CAPACITY:
                self._rings.wait_in_thread()
            self._rings.to_server.append(message)
            self._rings.wake_server()

    def map(self, descriptor: Descriptor) -> memoryview:
        """Return a writable view; its `obj` lives as long as anything looks at these bytes."""
        if self._pinned is not None and descriptor.segment == PINNED_SEGMENT:
            return self._pinned.view(descriptor)
        return self._arena.view(descriptor)


class MemoryPort:
    """What stands for the other end of a link."""

    def __init__(self, arena: MemoryArena, pinned: PinnedArena | None, rings: _Rings) -> None:
        self._arena = arena
        self._pinned = pinned
        self._rings = rings

    def attach(self) -> MemoryChildLink:
        """Return the child's end."""
        return MemoryChildLink(self._arena, self._pinned, self._rings)


class MemoryTransport:
    """Arenas and links to children in the same process."""

    def __init__(self, limit_bytes: int, segment: int = 1, *, pinned_bytes: int = 0) -> None:
        self.arena = MemoryArena(limit_bytes, segment)
        self.pinned = PinnedArena(memoryview(bytearray(pinned_bytes))) if pinned_bytes else None

    def connect(self) -> tuple[MemoryLink, MemoryPort]:
        """Make a pair of rings."""
        rings = _Rings()
        return MemoryLink(rings), MemoryPort(self.arena, self.pinned, rings)

    def __enter__(self) -> MemoryTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for arena in (self.arena, self.pinned):
            if arena is not None:
                arena.close()
