"""Nothing is lost or served twice, parts go first and whole, and what is removed leaves no trace."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.scheduling.queue import StageQueue, Ticket
from wfserve.workers.base import Item


def new_ticket(arrived, first=0, last=0):
    return Ticket(Item("", None, (), first, last), float(arrived))


def tickets(count):
    return [new_ticket(number) for number in range(count)]


def test_tickets_of_one_batch_begin_and_end_alike():
    queue = StageQueue(10)
    a, b, c, d, e = (
        new_ticket(n, *route) for n, route in enumerate([(0, 2), (1, 1), (0, 2), (1, 2), (0, 2)])
    )
    for each in (a, b, c, d, e):
        queue.append(each)
    assert [queue.take(2) for _ in range(5)] == [[a, c], [b], [d], [e], []]


def test_new_tickets_in_order_of_arrival():
    queue, waiting = StageQueue(10), tickets(5)
    for ticket in waiting:
        queue.append(ticket)
    assert (queue.take(2), queue.take(9), queue.take(9)) == (waiting[:2], waiting[2:], [])


def test_a_part_goes_first_and_whole_whatever_the_limit():
    queue, (new, *part) = StageQueue(10), tickets(4)
    queue.append(new)
    queue.put_back(part)
    assert queue.oldest == part[0].arrived
    assert (queue.take(1), queue.take(1)) == (part, [new])
    assert queue.oldest == math.inf


def test_only_new_tickets_fill_it():
    queue, (new, *part) = StageQueue(1), tickets(3)
    queue.put_back(part)
    assert not queue.full
    queue.append(new)
    assert queue.full


@pytest.mark.parametrize("removed", [1, 2])
def test_a_part_that_is_removed_is_no_part_any_more(removed):
    queue, (first, second) = StageQueue(1), tickets(2)
    queue.put_back([first, second])
    for ticket in (first, second)[:removed]:
        assert queue.remove(ticket)
        assert not queue.remove(ticket)
    assert (queue.parts, len(queue)) == ((1, 1) if removed == 1 else (0, 0))


@given(st.lists(st.sampled_from(["append", "put_back", "take", "remove"]), max_size=60), st.randoms())
def test_every_ticket_leaves_once(steps, random):
    queue, waiting, left = StageQueue(1000), [], []
    for step in steps:
        fresh = [new_ticket(0) for _ in range(random.randint(0, 3))]
        if step == "append":
            for ticket in fresh:
                queue.append(ticket)
            waiting += fresh
        elif step == "put_back":
            queue.put_back(fresh)
            waiting += fresh
        elif step == "take":
            taken = queue.take(random.randint(1, 4))
            assert bool(taken) is bool(waiting)
            left += taken
        elif waiting:
            ticket = random.choice(waiting)
            assert queue.remove(ticket)
            left.append(ticket)
        waiting = [ticket for ticket in waiting if ticket not in left]
        assert len(queue) == len(waiting)
        assert queue.parts <= len(queue)
    assert len(set(left)) == len(left)
