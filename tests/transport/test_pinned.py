"""Pinned memory never moves, is never given back, and grows together again; children see all of it."""

from __future__ import annotations

import gc
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.errors import ServiceUnavailableError
from wfserve.transport.frame import ALIGNMENT, Kind, pack_header
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.pinned import FirstWithRoom, Gaps, PinnedArena
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.transport.base import Transport

MIB = 1 << 20
both = pytest.mark.parametrize("make", [MemoryTransport, ShmTransport], ids=["memory", "shm"])


@given(st.lists(st.integers(1, 40) | st.tuples(st.integers(0, 10**6)), max_size=80))
def test_gaps_are_what_is_not_taken(steps: list[Any]) -> None:
    gaps, free, taken = Gaps(100), set(range(100)), []
    for step in steps:
        if isinstance(step, tuple):  # give something back
            if taken:
                start, size = taken.pop(step[0] % len(taken))
                gaps.give(start, size)
                free |= set(range(start, start + size))
        elif (found := gaps.take(step)) is not None:
            part = set(range(found, found + step))
            assert part <= free
            free -= part
            taken.append((found, step))
        else:
            assert not any(set(range(at, at + step)) <= free for at in range(101 - step))
        stretches = [*gaps]
        assert {byte for start, end in stretches for byte in range(start, end)} == free
        assert all(end < start for (_, end), (start, _) in pairwise(stretches))


def test_nothing_has_no_gaps() -> None:
    assert [*Gaps(0)] == []
    assert Gaps(0).take(1) is None


def test_rows_of_one_size_are_neighbours() -> None:
    arena = PinnedArena(memoryview(bytearray(MIB)), start=4096)
    loans = [arena.loan(6 * ALIGNMENT) for _ in range(8)]
    places = [loan.descriptor.offset for loan in loans]
    assert places == [4096 + 6 * ALIGNMENT * row for row in range(8)]


def test_what_was_lent_in_pieces_is_lent_as_one_again() -> None:
    arena = PinnedArena(memoryview(bytearray(MIB)))
    loans = [arena.loan(MIB // 8) for _ in range(8)]
    with pytest.raises(ServiceUnavailableError):
        arena.loan(1)
    for loan in loans[1::2] + loans[::2]:
        loan.release()
    arena.loan(MIB).release()
    assert arena.statistics().high_water_bytes == MIB


def test_what_another_thread_drops_is_lent_again() -> None:
    arena = PinnedArena(memoryview(bytearray(MIB)))
    held = [arena.loan(MIB)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    arena.loan(MIB).release()


def test_what_a_collection_drops_while_another_is_lent_is_lent_again() -> None:
    arena = PinnedArena(memoryview(bytearray(MIB)))
    cycle: list[Any] = [arena.loan(MIB // 2)]
    cycle.append(cycle)
    del cycle
    other = arena.loan(MIB // 2)
    gc.collect()
    assert arena.statistics().slots == 1
    arena.loan(MIB // 2).release()
    other.release()


@both
def test_a_child_sees_all_of_it(make: Callable[..., Transport]) -> None:
    with make(MIB, pinned_bytes=MIB) as transport:
        link, port = transport.connect()
        child = port.attach()  # type: ignore[attr-defined]
        assert transport.pinned is not None
        loan = transport.pinned.loan(100)
        payload = loan.publish(pack_header(Kind.BYTES, 10), 50, 10)
        child.map(loan.descriptor)[50:60] = b"0123456789"
        assert bytes(payload.borrow()) == b"0123456789"
        assert child.pinned.nbytes == MIB
        assert bytes(child.pinned[:64][50:60]) == b"0123456789"
        loan.release()
        payload.release()
        link.close()


@both
def test_a_transport_has_none_unless_it_is_asked_for(make: Callable[..., Transport]) -> None:
    with make(MIB) as transport:
        link, port = transport.connect()
        assert transport.pinned is None
        assert port.attach().pinned is None  # type: ignore[attr-defined]
        link.close()


@pytest.mark.parametrize("size", [1, 4096, MIB + 1, 3 * MIB])
def test_any_size_can_be_had_to_the_byte(size: int) -> None:
    with ShmTransport(MIB, pinned_bytes=size) as transport:
        assert transport.pinned is not None
        assert transport.pinned.statistics().limit_bytes == size
        if size >= ALIGNMENT:
            loan = transport.pinned.loan(size // ALIGNMENT * ALIGNMENT)
            loan.buffer[-1:] = b"x"
            loan.release()


def test_more_than_the_address_space_cannot_be_had() -> None:
    with pytest.raises(OSError, match="memory"):
        ShmTransport(MIB, pinned_bytes=1 << 50)


def test_pages_of_what_is_free_stay() -> None:
    with ShmTransport(MIB, pinned_bytes=MIB) as transport:
        assert transport.pinned is not None
        loan = transport.pinned.loan(MIB)
        loan.buffer[:] = b"x" * MIB
        loan.release()
        assert transport.pinned.trim(MIB) == 0
        again = transport.pinned.loan(MIB)
        assert bytes(again.buffer[-4:]) == b"xxxx"
        again.release()


async def test_it_reaches_a_process_that_is_started(start: Any, children: Any) -> None:
    with ShmTransport(MIB, pinned_bytes=MIB) as transport:
        link, port = transport.connect()
        assert transport.pinned is not None
        loan = transport.pinned.loan(8)
        loan.buffer[:8] = b"question"
        with start(children.answer_in_pinned, port, loan.descriptor):
            (message,) = await link.receive()
        assert message.tag == MIB
        assert bytes(loan.buffer[:8]) == b"noitseuq"
        loan.release()
        link.close()


def test_the_first_with_room_lends() -> None:
    small, large = (PinnedArena(memoryview(bytearray(size)), segment=size) for size in (128, 1024))
    lender = FirstWithRoom([small, large])
    loans = [lender.loan(size) for size in (128, 64, 960)]
    assert [loan.descriptor.segment for loan in loans] == [128, 1024, 1024]
    with pytest.raises(ServiceUnavailableError):
        lender.loan(1)
