"""What the contract promises holds in process and in shared memory alike."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from wfserve.errors import ServiceUnavailableError
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.frame import ALIGNMENT, HEADER_SIZE, Kind, pack_header
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.shm import ShmTransport
from wfserve.transport.slab import Row, Slabs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wfserve.transport.base import Arena, ChildLink, Lender, Link, Loan, Payload, Transport

LIMIT = 1 << 20
CAPACITY = 256


class OnPinned:
    """A transport that lends of its pinned segment alone."""

    def __init__(self, make: Callable[..., Any], limit: int) -> None:
        self._made = make(limit, pinned_bytes=limit)
        self.arena = self.pinned = self._made.pinned
        self.connect = self._made.connect

    def __enter__(self) -> OnPinned:
        return self

    def __exit__(self, *error: object) -> None:
        self._made.__exit__(None, None, None)


MADE = {
    "memory": MemoryTransport,
    "shm": ShmTransport,
    "memory pinned": partial(OnPinned, MemoryTransport),
    "shm pinned": partial(OnPinned, ShmTransport),
}


@pytest.fixture(params=MADE.values(), ids=MADE)
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    make: Callable[[int], Transport] = request.param
    with make(LIMIT) as made:
        yield made
        assert made.arena.statistics().slots == 0, "the test left a slot behind"
        assert made.arena.statistics().loaned_bytes == 0


@pytest.fixture
def ends(transport: Transport) -> Iterator[tuple[Link, ChildLink]]:
    link, port = transport.connect()
    yield link, port.attach()  # type: ignore[attr-defined]
    link.close()


class Rows:
    """Lends nothing but rows, each of a slab of its own."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def loan(self, nbytes: int) -> Loan:
        slabs = Slabs(self._arena, batch_size=1, declared=nbytes)
        first, row = slabs.loan(nbytes), slabs.loan(nbytes)
        first.release()
        slabs.rest()
        assert isinstance(row, Row)
        return row

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        slabs = Slabs(self._arena, batch_size=1, declared=len(data))
        payload = slabs.publish(header, data)
        slabs.rest()
        return payload


@pytest.fixture(params=[lambda arena: arena, Rows], ids=["slots", "rows"])
def lender(request: pytest.FixtureRequest, transport: Transport) -> Lender:
    made: Lender = request.param(transport.arena)
    return made


def publish(lender: Lender, data: bytes) -> Payload:
    loan = lender.loan(len(data))
    loan.buffer[: len(data)] = data
    payload = loan.publish(pack_header(Kind.BYTES, len(data)), 0, len(data))
    loan.release()
    return payload


def message(tag: int) -> Message:
    return Message(MessageKind.DONE, tag, Descriptor(1, 64 * tag, tag))


class TestArena:
    @pytest.mark.parametrize("nbytes", [0, 1, 64, 65, 4095, 4096, 4097, 100_000, LIMIT])
    def test_a_loan_is_aligned_and_large_enough(self, transport: Transport, nbytes: int) -> None:
        loan = transport.arena.loan(nbytes)
        assert loan.descriptor.length == loan.buffer.nbytes >= nbytes
        assert loan.descriptor.offset % ALIGNMENT == 0
        assert not loan.buffer.readonly
        assert loan.buffer.format == "B"
        loan.release()

    def test_loans_do_not_overlap(self, transport: Transport) -> None:
        loans = [transport.arena.loan(nbytes) for nbytes in [1, 64, 100, 5000, 5000, 100, 64, 1]]
        for number, loan in enumerate(loans):
            loan.buffer[:] = bytes([number]) * loan.buffer.nbytes
        assert all(set(loan.buffer) == {number} for number, loan in enumerate(loans))
        for loan in loans:
            loan.release()

    def test_the_limit_is_a_clear_503(self, transport: Transport) -> None:
        loans = [transport.arena.loan(LIMIT // 4) for _ in range(4)]
        with pytest.raises(ServiceUnavailableError) as raised:
            transport.arena.loan(1)
        assert raised.value.code == 503
        loans.pop().release()
        loans.append(transport.arena.loan(LIMIT // 4))
        assert transport.arena.statistics().high_water_bytes == LIMIT
        for loan in loans:
            loan.release()

    @pytest.mark.parametrize("nbytes", [LIMIT + 1, 2**40, 2**50, 2**63])
    def test_what_never_fits_is_refused(self, transport: Transport, nbytes: int) -> None:
        with pytest.raises(ServiceUnavailableError):
            transport.arena.loan(nbytes)

    def test_free_memory_serves_every_size(self, transport: Transport) -> None:
        for nbytes in [64, 1000, 4096, 10_000, LIMIT // 2, LIMIT, 64]:
            loans = [transport.arena.loan(nbytes) for _ in range(min(LIMIT // nbytes, 100) // 2 or 1)]
            for loan in loans:
                loan.buffer[:] = bytes(loan.buffer.nbytes)
                loan.release()
        while transport.arena.trim(LIMIT):
            pass

    def test_statistics_follow(self, transport: Transport) -> None:
        before = transport.arena.statistics()
        assert (before.slots, before.loaned_bytes, before.limit_bytes) == (0, 0, LIMIT)
        loan = transport.arena.loan(5000)
        during = transport.arena.statistics()
        assert (during.slots, during.loaned_bytes) == (1, loan.descriptor.length)
        loan.release()
        after = transport.arena.statistics()
        assert (after.slots, after.loaned_bytes, after.high_water_bytes) == (0, 0, loan.descriptor.length)

    def test_after_close_nothing_is_lent_and_what_is_borrowed_stays(self, transport: Transport) -> None:
        payload = publish(transport.arena, b"still here")
        view = payload.borrow()
        payload.release()
        transport.arena.close()
        transport.arena.close()
        with pytest.raises(ServiceUnavailableError):
            transport.arena.loan(1)
        assert bytes(view) == b"still here"
        del view
        assert transport.arena.statistics().slots == 0


class TestPublishing:
    @pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"x" * 5000)])
    def test_what_is_published_at_once_is_a_copy(self, lender: Lender, data: bytes | bytearray) -> None:
        header, expected = pack_header(Kind.BYTES, len(data)), bytes(data)
        payload = lender.publish(header, data)
        if isinstance(data, bytearray):
            data[:] = bytes(len(data))
        assert bytes(payload.borrow()) == expected
        assert (payload.header, payload.nbytes) == (header, len(expected))
        payload.release()

    def test_beyond_the_limit_it_is_the_503_of_a_loan(self, transport: Transport) -> None:
        before = transport.arena.free_bytes
        with pytest.raises(ServiceUnavailableError):
            transport.arena.publish(pack_header(Kind.BYTES, LIMIT + 1), bytes(LIMIT + 1))
        assert transport.arena.free_bytes == before == LIMIT

    def test_a_broken_header_takes_nothing(self, lender: Lender, transport: Transport) -> None:
        with pytest.raises(ValueError, match="96 bytes"):
            lender.publish(b"", b"abc")
        gc.collect()
        assert transport.arena.statistics().slots == 0

    def test_what_is_lent_is_not_free(self, transport: Transport) -> None:
        loan = transport.arena.loan(1000)
        assert transport.arena.free_bytes == LIMIT - transport.arena.statistics().loaned_bytes < LIMIT
        loan.release()


class TestHandles:
    def test_a_payload_is_what_was_published(self, lender: Lender) -> None:
        payload = publish(lender, b"abc")
        assert bytes(payload.borrow()) == b"abc"
        assert payload.borrow().readonly
        assert payload.nbytes == payload.descriptor.length == 3
        assert payload.header == pack_header(Kind.BYTES, 3)
        payload.release()

    def test_parts_are_published_one_after_another(self, lender: Lender) -> None:
        loan = lender.loan(300)
        loan.buffer[:300] = bytes(range(100)) * 3
        parts = [loan.publish(pack_header(Kind.BYTES, 100), offset, 100) for offset in (0, 100, 200)]
        starts = [part.descriptor.offset - loan.descriptor.offset for part in parts]
        assert starts == [0, 100, 200]
        assert all(bytes(part.borrow()) == bytes(range(100)) for part in parts)
        for handle in (loan, *parts):
            handle.release()

    def test_a_part_of_a_payload_is_a_payload(self, lender: Lender) -> None:
        whole = publish(lender, bytes(range(100)))
        middle = whole.part(pack_header(Kind.TENSOR, 50, "uint8", (5, 10)), 20, 50)
        inner = middle.part(pack_header(Kind.BYTES, 10), 40, 10)
        assert inner.descriptor.offset == whole.descriptor.offset + 60
        assert middle.header == pack_header(Kind.TENSOR, 50, "uint8", (5, 10))
        for outside in ((41, 10), (50, 1), (-1, 1), (0, 2**64)):
            with pytest.raises(ValueError, match="within"):
                middle.part(pack_header(Kind.BYTES, 10), *outside)
        whole.release()
        middle.release()
        assert bytes(inner.borrow()) == bytes(range(60, 70))
        inner.release()
        with pytest.raises(ValueError, match="released"):
            inner.part(pack_header(Kind.BYTES, 1), 0, 1)

    @pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
    def test_the_last_handle_frees_the_slot(
        self, transport: Transport, lender: Lender, order: tuple[int, ...]
    ) -> None:
        loan = lender.loan(10)
        payload = loan.publish(pack_header(Kind.BYTES, 10), 0, 10)
        handles: list[Any] = [loan, payload, payload.share(), loan.publish(pack_header(Kind.BYTES, 0), 10, 0)]
        for number in order:
            assert transport.arena.statistics().slots == 1
            handles[number].release()
            handles[number].release()
        assert transport.arena.statistics().slots == 0

    def test_a_handle_that_is_collected_is_released(self, transport: Transport, lender: Lender) -> None:
        payload = publish(lender, b"x")
        shared = payload.share()
        del payload
        assert transport.arena.statistics().slots == 1
        del shared
        assert transport.arena.statistics().slots == 0

    def test_a_view_keeps_the_slot(self, transport: Transport, lender: Lender) -> None:
        payload = publish(lender, bytes(range(200)))
        tail = payload.borrow()[100:]
        payload.release()
        other = publish(lender, bytes(200))
        assert bytes(tail) == bytes(range(100, 200))
        other.release()
        tail.release()
        del tail
        assert transport.arena.statistics().slots == 0

    def test_a_view_of_a_loan_keeps_the_slot(self, transport: Transport, lender: Lender) -> None:
        loan = lender.loan(10)
        view = loan.buffer
        loan.release()
        assert transport.arena.statistics().slots == 1
        del view
        assert transport.arena.statistics().slots == 0

    def test_after_release_there_is_nothing_to_use(self, lender: Lender) -> None:
        loan = lender.loan(10)
        payload = loan.publish(pack_header(Kind.BYTES, 10), 0, 10)
        loan.release()
        payload.release()
        for use in (
            payload.share,
            payload.borrow,
            lambda: loan.buffer,
            lambda: loan.publish(bytes(96), 0, 1),
        ):
            with pytest.raises(ValueError, match="released"):
                use()

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 65), (64, 1), (65, 0), (-1, 1), (0, -1), (2**64, 1), (1, 2**64 - 1), (2**63, 2**63)],
    )
    def test_only_parts_of_the_loan_are_published(self, lender: Lender, offset: int, length: int) -> None:
        loan = lender.loan(64)
        with pytest.raises(ValueError, match="within"):
            loan.publish(bytes(HEADER_SIZE), offset, length)
        loan.release()

    @pytest.mark.parametrize("header", [b"", bytes(HEADER_SIZE - 1), bytes(HEADER_SIZE + 1)])
    def test_a_header_has_its_size(self, lender: Lender, header: bytes) -> None:
        loan = lender.loan(64)
        with pytest.raises(ValueError, match="96 bytes"):
            loan.publish(header, 0, 1)
        loan.release()


class TestMapping:
    def test_a_child_reads_payloads_and_writes_extents(
        self, lender: Lender, ends: tuple[Link, ChildLink]
    ) -> None:
        _, child = ends
        payload, loan = publish(lender, b"question"), lender.loan(100)
        assert bytes(child.map(payload.descriptor)) == b"question"
        segment, offset, _ = loan.descriptor
        child.map(Descriptor(segment, offset + 10, 6))[:] = b"answer"
        answer = loan.publish(pack_header(Kind.BYTES, 6), 10, 6)
        assert bytes(answer.borrow()) == b"answer"
        for handle in (payload, loan, answer):
            handle.release()

    @pytest.mark.parametrize(
        "moved", [(1, 0, 0), (0, 2**62, 0), (0, 0, 2**62), (0, -(2**62), 0), (0, 2**64, 0)]
    )
    def test_only_mapped_segments_are_seen(
        self, lender: Lender, ends: tuple[Link, ChildLink], moved: tuple[int, int, int]
    ) -> None:
        _, child = ends
        loan = lender.loan(10)
        place = Descriptor(*(a + b for a, b in zip(loan.descriptor, moved, strict=True)))
        with pytest.raises(ValueError, match=r"\w"):
            child.map(place)
        loan.release()

    def test_whether_anybody_still_looks_can_be_told(
        self, lender: Lender, ends: tuple[Link, ChildLink]
    ) -> None:
        _, child = ends
        payload = publish(lender, b"0123456789")
        view = child.map(payload.descriptor)
        looked_at = weakref.ref(view.obj)
        part = view[2:4].toreadonly()
        del view
        assert looked_at() is not None
        assert bytes(part) == b"23"
        del part
        assert looked_at() is None
        payload.release()


class TestRings:
    def test_messages_arrive_whole_and_in_order(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends
        sent = [message(tag) for tag in range(CAPACITY)]
        for one in sent:
            link.send(one)
            child.send(one)
        assert [child.receive() for _ in sent] == sent
        received = link.drain()
        assert received == sent
        assert all(isinstance(one, Message) and isinstance(one.descriptor, Descriptor) for one in received)
        assert link.drain() == []

    def test_the_largest_values_cross(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends
        largest = Message(2**32 - 1, 2**64 - 1, Descriptor(2**32 - 1, 2**64 - 1, 2**64 - 1))
        link.send(largest)
        assert child.receive() == largest

    def test_a_full_ring_is_refused_until_there_is_room(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends
        for round_ in range(3):
            for tag in range(CAPACITY):
                link.send(message(round_ * CAPACITY + tag))
            with pytest.raises(BufferError):
                link.send(message(0))
            assert [child.receive().tag % CAPACITY for _ in range(CAPACITY)] == list(range(CAPACITY))

    async def test_receive_returns_all_there_is(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends
        for tag in range(3):
            child.send(message(tag))
        with trio.testing.assert_checkpoints():
            assert await link.receive() == [message(0), message(1), message(2)]

    async def test_a_cancelled_receive_loses_nothing(
        self, ends: tuple[Link, ChildLink], autojump_clock: trio.testing.MockClock
    ) -> None:
        link, child = ends
        child.send(message(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.receive()
        assert scope.cancelled_caught
        assert await link.receive() == [message(1)]
        with trio.move_on_after(1) as waiting:
            await link.receive()
        assert waiting.cancelled_caught
        child.send(message(2))
        child.send(message(3))
        assert await link.receive() == [message(2), message(3)]

    async def test_a_sleeping_server_is_woken(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends
        for tag in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, link, [message(tag)])
                await trio.testing.wait_all_tasks_blocked()
                child.send(message(tag))

    async def test_two_threads_answer_each_other(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends

        def echo() -> None:
            for _ in range(500):
                child.send(child.receive())

        thread = threading.Thread(target=echo)
        thread.start()
        for tag in range(500):
            link.send(message(tag))
            assert await link.receive() == [message(tag)]
        thread.join()

    async def test_a_child_waits_while_its_ring_is_full(self, ends: tuple[Link, ChildLink]) -> None:
        link, child = ends
        sent = [message(tag) for tag in range(5 * CAPACITY)]
        thread = threading.Thread(target=lambda: [child.send(one) for one in sent])
        thread.start()
        received: list[Message] = []
        while len(received) < len(sent):
            received += await link.receive()
        assert received == sent
        thread.join()

    async def test_a_closed_link_says_so(self, ends: tuple[Link, ChildLink]) -> None:
        link, _ = ends
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, link)
            await trio.testing.wait_all_tasks_blocked()
            link.close()
        link.close()
        await expect_closed(link)
        with pytest.raises(trio.ClosedResourceError):
            link.send(Message(MessageKind.STOP, 0, NOWHERE))
        with pytest.raises(trio.ClosedResourceError):
            link.drain()


async def expect(link: Link, messages: list[Message]) -> None:
    assert await link.receive() == messages


async def expect_closed(link: Link) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await link.receive()
