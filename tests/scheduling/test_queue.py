"""Nothing is lost or served twice, parts go first and whole, and what is removed leaves no trace."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.scheduling.policy import urgency
from wfserve.scheduling.queue import StageQueue, Ticket
from wfserve.workers.base import Item, Terms


def new_ticket(arrived, first=0, last=0):
    return Ticket(Item("", None, (), first, last), float(arrived))


def take(queue, limit):
    """Take out what a stage would that waits for nothing."""
    if part := queue.take_part():
        return part
    found = queue.look(limit, lambda item: item.route)
    queue.take_out(found)
    return found


def tickets(count):
    return [new_ticket(number) for number in range(count)]


def test_tickets_of_one_batch_begin_and_end_alike():
    queue = StageQueue(10)
    a, b, c, d, e = (
        new_ticket(n, *route) for n, route in enumerate([(0, 2), (1, 1), (0, 2), (1, 2), (0, 2)])
    )
    for each in (a, b, c, d, e):
        queue.append(each)
    assert [take(queue, 2) for _ in range(5)] == [[a, c], [b], [d], [e], []]


def test_new_tickets_in_order_of_arrival():
    queue, waiting = StageQueue(10), tickets(5)
    for ticket in waiting:
        queue.append(ticket)
    assert (take(queue, 2), take(queue, 9), take(queue, 9)) == (waiting[:2], waiting[2:], [])


def test_a_part_goes_first_and_whole_whatever_the_limit():
    queue, (new, *part) = StageQueue(10), tickets(4)
    queue.append(new)
    queue.put_back(part)
    assert queue.first is part[0]
    assert queue.oldest == new.arrived
    assert (take(queue, 1), take(queue, 1)) == (part, [new])
    assert (queue.first, queue.oldest) == (None, math.inf)


def test_only_new_tickets_fill_it():
    queue, (new, *part) = StageQueue(1), tickets(3)
    queue.put_back(part)
    assert not queue.full()
    queue.append(new)
    assert queue.full()


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
            taken = take(queue, random.randint(1, 4))
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


def urgent(arrived, deadline, priority=5, *, asked_for=True):
    terms = Terms(deadline, urgency(deadline, priority, asked_for=asked_for))
    return Ticket(Item("", None, (), terms=terms), float(arrived))


def test_the_earliest_deadline_goes_first_then_the_highest_priority_then_what_came_first():
    queue = StageQueue(10)
    late, soon, equal, dear, default = (
        urgent(0, 9.0),
        urgent(1, 3.0),
        urgent(2, 9.0),
        urgent(3, 9.0, 7),
        urgent(4, 3.7, asked_for=False),
    )
    for each in (late, soon, equal, dear, default):
        queue.append(each)
    assert queue.ahead_of(urgent(5, 9.0).item) == 5
    assert queue.ahead_of(urgent(5, 9.0, 6).item) == 3
    assert queue.first is soon
    assert queue.oldest == 0
    assert take(queue, 9) == [soon, default, dear, late, equal]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=30),
    st.integers(1, 5),
)
def test_what_is_taken_is_never_less_urgent_than_what_is_left(arrivals, limit):
    queue, waiting = StageQueue(100), []
    for number, (deadline, priority, takes) in enumerate(arrivals):
        waiting.append(urgent(number, float(deadline), priority))
        queue.append(waiting[-1])
        if takes:
            taken = take(queue, limit)
            expected = sorted(waiting, key=lambda t: (t.item.terms.order, t.arrived))
            assert taken == expected[:limit]
            waiting = [each for each in waiting if each not in taken]
    assert queue.empty() == sorted(waiting, key=lambda t: (t.item.terms.order, t.arrived))
    assert len(queue) == 0
