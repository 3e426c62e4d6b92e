"""Whatever is asked for, filled, given up and released, in any order: rows are apart, and nothing stays."""

from __future__ import annotations

import gc
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from wfserve.errors import ServiceUnavailableError
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.shm import ShmTransport
from wfserve.transport.slab import BATCHES, MOST_FILLING, SHARE, Row, Slabs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.transport.base import Loan, Payload
    from wfserve.transport.shm import ShmArena

LIMIT = 1 << 20
SIZE = 400  # of a row


@pytest.fixture
def arena() -> Iterator[ShmArena]:
    with ShmTransport(LIMIT) as transport:
        yield transport.arena
        assert transport.arena.statistics().slots == 0, "the test left a slot behind"


def publish(loan: Loan, data: bytes) -> Payload:
    loan.buffer[: len(data)] = data
    payload = loan.publish(pack_header(Kind.BYTES, len(data)), 0, len(data))
    loan.release()
    return payload


def learned(arena: ShmArena, size: int = SIZE, batch_size: int = 4) -> Slabs:
    """Slabs that have seen `size` once."""
    slabs = Slabs(arena, batch_size)
    slabs.loan(size).release()
    return slabs


def steps(loans: list[Loan]) -> list[int]:
    starts = [loan.descriptor.offset for loan in loans]
    return [later - earlier for earlier, later in itertools.pairwise(starts)]


def release(slabs: Slabs, *held: Loan | Payload) -> None:
    for each in held:
        each.release()
    slabs.rest()


def test_what_comes_twice_running_gets_rows_that_are_neighbours(arena: ShmArena) -> None:
    slabs = Slabs(arena, 4)
    loans = [slabs.loan(SIZE) for _ in range(6)]
    assert [isinstance(loan, Row) for loan in loans] == [False, *[True] * 5]
    assert steps(loans[1:]) == [SIZE] * 4
    assert arena.statistics().slots == 2
    release(slabs, *loans)


def test_what_is_published_at_once_lies_in_the_rows_between_those_that_are_lent(arena: ShmArena) -> None:
    slabs, header = learned(arena), pack_header(Kind.BYTES, SIZE)
    first, row = slabs.publish(header, b"a" * SIZE), slabs.loan(SIZE)
    last = slabs.publish(header, b"c" * SIZE)
    places = [each.descriptor.offset for each in (first, row, last)]
    assert places == [places[0], places[0] + SIZE, places[0] + 2 * SIZE]
    assert (bytes(first.borrow()), bytes(last.borrow())) == (b"a" * SIZE, b"c" * SIZE)
    assert arena.statistics().slots == 1
    release(slabs, first, row, last)


def test_a_slab_that_was_published_row_by_row_is_held_by_its_payloads_alone(arena: ShmArena) -> None:
    slabs = learned(arena, batch_size=1)
    payloads = [slabs.publish(pack_header(Kind.BYTES, SIZE), bytes(SIZE)) for _ in range(BATCHES)]
    assert arena.statistics().slots == 1
    release(slabs, *payloads[1:])
    assert arena.statistics().slots == 1
    payloads[0].release()
    assert arena.statistics().slots == 0


def test_sizes_that_take_turns_get_slots(arena: ShmArena) -> None:
    slabs = learned(arena)
    row = slabs.loan(SIZE)
    others = [slabs.loan(size) for size in (64, SIZE, 64, SIZE, 128)]
    assert [isinstance(loan, Row) for loan in others] == [False, True, False, True, False]
    assert steps([row, others[1], others[3]]) == [SIZE, SIZE]
    release(slabs, row, *others)


def test_rows_follow_a_new_size(arena: ShmArena) -> None:
    slabs = learned(arena)
    old = slabs.loan(SIZE)
    new = [slabs.loan(2 * SIZE) for _ in range(3)]
    assert [isinstance(loan, Row) for loan in new] == [False, True, True]
    release(slabs, old, *new)


def test_of_a_declared_size_the_first_is_a_row_and_no_other_size_is_learned(arena: ShmArena) -> None:
    slabs = Slabs(arena, 4, declared=SIZE + 1)
    loans = [slabs.loan(size) for size in (SIZE + 1, SIZE, SIZE, SIZE + 1)]
    assert [isinstance(loan, Row) for loan in loans] == [True, False, False, True]
    assert steps([loans[0], loans[3]]) == [SIZE + 1]
    release(slabs, *loans)


@pytest.mark.parametrize("size", [0, 1, 401, 402, LIMIT // SHARE // 2 + 4, LIMIT // 2])
def test_what_is_no_whole_words_or_too_large_for_several_gets_slots(arena: ShmArena, size: int) -> None:
    slabs = learned(arena, size)
    loan = slabs.loan(size)
    assert not isinstance(loan, Row)
    release(slabs, loan)


def test_a_slab_has_a_few_batches_and_a_part_of_the_arena_at_most(arena: ShmArena) -> None:
    for batch_size, size, rows in ((2, 64, 2 * BATCHES), (64, 4096, LIMIT // SHARE // 4096)):
        slabs = learned(arena, size, batch_size)
        loans = [slabs.loan(size) for _ in range(rows + 1)]
        assert arena.statistics().slots == 2
        assert steps(loans[:-1]) == [size] * (rows - 1)
        release(slabs, *loans)


def test_a_slab_that_is_used_up_lives_as_long_as_what_was_published(arena: ShmArena) -> None:
    slabs = learned(arena, batch_size=1)
    payloads = [publish(slabs.loan(SIZE), bytes([number]) * SIZE) for number in range(BATCHES)]
    for payload in payloads[1:]:
        payload.release()
    assert arena.statistics().slots == 1
    assert bytes(payloads[0].borrow()) == bytes(SIZE)
    payloads[0].release()
    assert arena.statistics().slots == 0


def test_at_rest_nothing_is_held(arena: ShmArena) -> None:
    slabs = learned(arena)
    publish(slabs.loan(SIZE), bytes(SIZE)).release()
    assert arena.statistics().slots == 1
    slabs.rest()
    slabs.rest()
    assert arena.statistics().slots == 0
    row = slabs.loan(SIZE)
    assert isinstance(row, Row)
    slabs.rest()
    payload = publish(row, bytes(SIZE))
    assert arena.statistics().slots == 1
    payload.release()


def test_a_client_that_leaves_while_it_sends_leaves_nothing(arena: ShmArena) -> None:
    slabs = learned(arena)
    first, second = slabs.loan(SIZE), slabs.loan(SIZE)
    first.release()
    assert arena.statistics().slots == 1
    second.release()
    assert arena.statistics().slots == 0
    again = slabs.loan(SIZE)
    assert isinstance(again, Row)
    del again
    gc.collect()
    assert arena.statistics().slots == 0


def test_slow_senders_keep_a_few_slabs_then_slots(arena: ShmArena) -> None:
    slabs = learned(arena, batch_size=1)
    slow, others = [], []
    for _ in range(MOST_FILLING):
        slow.append(slabs.loan(SIZE))
        others += [slabs.loan(SIZE) for _ in range(BATCHES - 1)]
    for loan in others:
        publish(loan, bytes(SIZE)).release()
    assert arena.statistics().slots == MOST_FILLING
    plain = slabs.loan(SIZE)
    assert not isinstance(plain, Row)
    slow.pop().release()
    row = slabs.loan(SIZE)
    assert isinstance(row, Row)
    release(slabs, plain, row, *slow)


def test_a_crowded_arena_lends_no_slabs(arena: ShmArena) -> None:
    slabs = learned(arena)
    crowd = arena.loan(LIMIT // 2)
    plain = slabs.loan(SIZE)
    assert not isinstance(plain, Row)
    crowd.release()
    row = slabs.loan(SIZE)
    assert isinstance(row, Row)
    release(slabs, plain, row)


def test_a_full_arena_is_the_arenas_own_refusal(arena: ShmArena) -> None:
    slabs = learned(arena)
    crowd = arena.loan(LIMIT)
    with pytest.raises(ServiceUnavailableError):
        slabs.loan(SIZE)
    crowd.release()


class Lending(RuleBasedStateMachine):
    """Loans are filled with a number of their own, and read again whenever."""

    loans = Bundle("loans")
    payloads = Bundle("payloads")

    def __init__(self) -> None:
        super().__init__()
        self.transport = ShmTransport(LIMIT)
        self.slabs = Slabs(self.transport.arena, batch_size=2)
        self.number = 0
        self.lent: dict[int, tuple[int, int]] = {}  # where loans and payloads lie

    @rule(target=loans, size=st.sampled_from([64, 100, SIZE]))
    def loan(self, size: int) -> tuple[int, Loan]:
        loan = self.slabs.loan(size)
        self.number += 1
        _, start, length = loan.descriptor
        assert length >= size
        assert all(start + length <= first or last <= start for first, last in self.lent.values())
        self.lent[self.number] = start, start + length
        loan.buffer[:] = bytes([self.number % 256]) * length
        return self.number, loan

    @rule(target=payloads, made=consumes(loans), cut=st.integers(0, 64))
    def publish(self, made: tuple[int, Loan], cut: int) -> tuple[int, Payload]:
        number, loan = made
        length = loan.descriptor.length - cut
        payload = loan.publish(pack_header(Kind.BYTES, length), cut, length)
        loan.release()
        self.lent[number] = payload.descriptor.offset, payload.descriptor.offset + length
        return number, payload

    @rule(target=payloads, size=st.sampled_from([64, 100, SIZE]))
    def publish_at_once(self, size: int) -> tuple[int, Payload]:
        self.number += 1
        payload = self.slabs.publish(pack_header(Kind.BYTES, size), bytes([self.number % 256]) * size)
        start = payload.descriptor.offset
        assert all(start + size <= first or last <= start for first, last in self.lent.values())
        self.lent[self.number] = start, start + size
        return self.number, payload

    @rule(made=consumes(loans))
    def give_up(self, made: tuple[int, Loan]) -> None:
        made[1].release()
        del self.lent[made[0]]

    @rule(made=consumes(payloads))
    def read_and_release(self, made: tuple[int, Payload]) -> None:
        number, payload = made
        assert bytes(payload.borrow()) == bytes([number % 256]) * payload.nbytes
        payload.release()
        del self.lent[number]

    @rule()
    def rest(self) -> None:
        self.slabs.rest()

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        if not self.lent:
            self.slabs.rest()
            assert self.transport.arena.statistics().slots == 0

    def teardown(self) -> None:
        self.transport.arena.close()


TestLending = Lending.TestCase


def test_who_comes_alone_time_after_time_gets_no_rows_until_there_are_two(arena: ShmArena) -> None:
    slabs = learned(arena)
    release(slabs, slabs.loan(SIZE))
    kinds = []
    for together in (1, 1, 2, 2, 1, 1):
        loans = [slabs.loan(SIZE) for _ in range(together)]
        kinds.append([isinstance(loan, Row) for loan in loans])
        release(slabs, *loans)
    assert kinds == [[True], [False], [False, True], [True, True], [True], [False]]
