"""What a batch costs is learned; when one goes, with what, and what is refused follows from that alone."""

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wfserve.scheduling.arrivals import Arrivals
from wfserve.scheduling.cost import ENOUGH, MOST_SHAPES, Cost, Costs
from wfserve.scheduling.forecast import Forecast
from wfserve.scheduling.policy import (
    LATENESS,
    NEGLIGIBLE,
    PROBE_SECONDS,
    Coming,
    Decision,
    Waiting,
    expected_end,
    next_batch,
    refused,
    urgency,
)
from wfserve.scheduling.settings import StageSettings
from wfserve.workers.base import Batch, Done, Item

seconds = st.floats(1e-4, 10)
NOTHING = Coming()


def learned(alpha, beta, sizes=(1, 4), batches=ENOUGH, now=0.0):
    cost = Cost()
    for number in range(batches):
        size = sizes[number % len(sizes)]
        cost.observe(size, alpha + beta * size, now)
    return cost


@given(st.floats(0, 1), st.floats(0, 0.1), st.sets(st.integers(1, 64), min_size=2, max_size=9))
def test_a_line_is_found_from_any_two_sizes(alpha, beta, sizes):
    cost = learned(alpha, beta, sorted(sizes), 40)
    assume(max(sizes) > 1.3 * min(sizes))
    assert (cost.alpha, cost.beta) == pytest.approx((alpha, beta), rel=1e-3, abs=1e-3)


@given(st.lists(st.tuples(st.integers(1, 100), seconds), min_size=1, max_size=50))
def test_no_batch_is_ever_expected_to_take_less_than_a_smaller_one(seen):
    cost = Cost()
    for size, took in seen:
        cost.observe(size, took, 0.0)
    assert cost.alpha >= -1e-9
    assert cost.beta >= 0
    assert cost.of(1) <= cost.of(2) <= cost.of(100)


def test_batches_of_one_size_tell_what_others_cost_in_proportion():
    assert learned(0.0, 0.5, [8]).of(2) == pytest.approx(1.0)


def test_what_was_slow_once_is_forgotten():
    cost = Cost()
    cost.observe(1, 100.0, 0.0)
    for _ in range(500):
        cost.observe(1, 0.01, 0.0)
    assert cost.of(1) < 0.02


@given(st.floats(0, 0.5), st.floats(1e-4, 0.1), st.floats(1e-3, 5))
def test_the_largest_batch_within_some_time_is_within_it_and_the_next_is_not(alpha, beta, within):
    cost = learned(alpha, beta)
    most = cost.most_within(within)
    assert most == 0 or cost.of(most) <= within * (1 + 1e-9)
    assert cost.of(most + 1) >= within * (1 - 1e-9)


def test_shapes_are_told_apart_and_those_not_seen_for_long_forgotten():
    costs = Costs()
    first = costs.of("a")
    assert costs.of("a") is first
    for shape in range(MOST_SHAPES):
        costs.of(shape)
    assert costs.of("a") is not first


def test_an_idle_worker_takes_what_waits_at_once_if_nothing_comes():
    waiting = Waiting(3, oldest=10.0, deadline=math.inf)
    assert next_batch(waiting, NOTHING, learned(0.1, 0.01), 10.0, limit=8, delay=5.0) == Decision(3)


def test_it_waits_for_what_comes_soon_if_a_batch_costs_much_and_an_item_little():
    waiting, coming = Waiting(1, 10.0, math.inf), Coming(7, 10.01)
    decision = next_batch(waiting, coming, learned(0.1, 0.001), 10.0, limit=8, delay=5.0)
    assert decision.size == 0
    assert decision.until == pytest.approx(10 + 0.01 * LATENESS)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [(0.0, 0.01, 8), (0.1, 0.01, 16), (0.003, 0.01, 10), (0.001, 0.01, 8), (0.1, 0.0, 16)],
)
def test_a_batch_is_no_larger_than_pays(alpha, beta, expected):
    waiting = Waiting(16, 10.0, math.inf)
    assert next_batch(waiting, NOTHING, learned(alpha, beta), 10.0, limit=32, delay=1.0).size == expected


def test_as_long_as_nothing_tells_what_a_batch_saves_all_goes():
    waiting = Waiting(2, 10.0, math.inf)
    assert next_batch(waiting, NOTHING, learned(0.0, 0.1, [1]), 10.0, limit=8, delay=1.0).size == 2


@pytest.mark.parametrize(
    ("coming", "cost", "limit", "delay", "why"),
    [
        (Coming(7, 10.01), learned(0.0, 0.1), 8, 5.0, "nothing is saved"),
        (Coming(7, 19.0), learned(0.1, 0.001), 8, 50.0, "it comes too late"),
        (Coming(7, 10.01), learned(0.1, 0.001), 1, 5.0, "it is full"),
        (Coming(7, 10.01), learned(0.1, 0.001), 8, 0.0, "nobody may wait"),
        (Coming(7, 10.01), learned(0.1, 0.001, batches=ENOUGH - 1), 8, 5.0, "too little is known"),
    ],
)
def test_it_goes_at_once(coming, cost, limit, delay, why):
    waiting = Waiting(1, 10.0, math.inf)
    assert next_batch(waiting, coming, cost, 10.0, limit=limit, delay=delay) == Decision(1), why


def test_what_is_overdue_is_expected_to_take_as_long_again():
    waiting, coming = Waiting(1, 10.0, math.inf), Coming(7, 9.99)
    decision = next_batch(waiting, coming, learned(0.1, 0.001), 10.0, limit=8, delay=5.0)
    assert decision.until == pytest.approx(10 + 0.01 * LATENESS)


def test_a_deadline_bounds_the_batch_but_one_item_always_goes():
    cost = learned(0.1, 0.1)
    tight, hopeless = Waiting(8, 0.0, deadline=0.55), Waiting(8, 0.0, deadline=0.05)
    assert next_batch(tight, NOTHING, cost, 0.0, limit=8, delay=1.0) == Decision(4)
    assert next_batch(hopeless, NOTHING, cost, 0.0, limit=8, delay=1.0) == Decision(1)


@given(
    st.integers(1, 40),
    st.floats(0, 1),
    st.floats(0, 5) | st.just(math.inf),
    st.integers(0, 40),
    st.floats(-1, 3),
    st.floats(0, 0.3),
    st.floats(1e-4, 0.3),
    st.integers(1, 32),
    st.floats(0, 2),
)
def test_every_decision_is_sound(items, waited, left, more, due, alpha, beta, limit, delay):
    now, cost = 100.0, learned(alpha, beta)
    waiting = Waiting(items, now - waited, now + left)
    coming = Coming(more, now + due) if more else NOTHING
    size, until = next_batch(waiting, coming, cost, now, limit=limit, delay=delay)
    assert 0 <= size <= min(items, limit)
    if size == 0:
        assert more
        assert now < until <= waiting.oldest + delay
        assert until + cost.of(items) <= waiting.deadline + 1e-9
        assert items < limit
    else:
        assert size == 1 or now + cost.of(size) <= waiting.deadline + 1e-9
        late = now + cost.of(size + 1) > waiting.deadline - 1e-9
        enough = size >= cost.alpha / (NEGLIGIBLE * cost.beta) and 2 * size >= min(items, limit)
        assert size == min(items, limit) or late or enough or 2 * size >= cost.most_within(left)


def test_the_expected_end_counts_whole_batches_of_all_workers_and_the_last_as_full_as_it_will_be():
    cost = learned(1.0, 0.5)
    assert expected_end(0, 10.0, cost, 10.0, workers=1, limit=4) == pytest.approx(11.5)
    assert expected_end(2, 12.0, cost, 10.0, workers=1, limit=4) == pytest.approx(12 + 2.5)
    assert expected_end(9, 12.0, cost, 10.0, workers=2, limit=4) == pytest.approx(12 + 3 + 2)
    assert expected_end(9, 12.0, cost, 10.0, workers=0, limit=4) == pytest.approx(12 + 6 + 2)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.1)), min_size=1, max_size=4),
    st.integers(0, 200),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(0, 4),
)
def test_nothing_is_expected_to_end_later_than_the_longest_that_it_may_take(lines, ahead, size, run, workers):
    forecast, costs = Forecast(StageSettings("w", batch_size=64)), []
    for alpha, beta in lines:
        for number in range(ENOUGH):
            batch = Batch([Item("", None, ())] * (1 + number % 5), 0.0, kind=(alpha, beta))
            done = [Done(None)] * len(batch.items)
            forecast.learn(batch, done, alpha + beta * len(done))
        costs.append(forecast._costs.of((alpha, beta)))
    for cost, running in itertools.product(costs, repeat=2):
        end = expected_end(ahead, running.of(run), cost, 0.0, workers=workers, limit=size)
        assert end <= forecast.longest(ahead) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("end", "batches", "age", "expected"),
    [
        (11.0, ENOUGH, 0.0, True),
        (10.0, ENOUGH, 0.0, False),
        (11.0, ENOUGH - 1, 0.0, False),
        (11.0, ENOUGH, PROBE_SECONDS, False),
    ],
)
def test_what_cannot_end_in_time_is_refused_on_good_and_fresh_grounds_only(end, batches, age, expected):
    cost = learned(1.0, 1.0, batches=batches, now=5.0)
    assert refused(end, 10.0, cost, 5.0 + age) is expected


def test_deadlines_then_priorities_and_those_nobody_asked_for_are_equal_within_a_second():
    assert urgency(7.2, 5, asked_for=True) < urgency(7.3, 9, asked_for=True)
    assert urgency(7.2, 9, asked_for=False) < urgency(7.1, 5, asked_for=False)
    assert urgency(8.0, 5, asked_for=False) < urgency(8.1, 9, asked_for=False)
    assert urgency(7.9, 5, asked_for=True) < urgency(7.1, 9, asked_for=False)
    assert urgency(math.inf, 6, asked_for=False) < urgency(math.inf, 5, asked_for=False)


def test_bodies_under_way_are_expected_when_the_oldest_has_taken_as_long_as_they_do():
    arrivals = Arrivals()
    for _ in range(100):
        arrivals.end(arrivals.begin(0.0), 2.0)
    assert arrivals.coming(0.0) == NOTHING
    first, second = arrivals.begin(10.0), arrivals.begin(11.0)
    assert arrivals.coming(11.0) == (2, pytest.approx(12.0, abs=0.01))
    arrivals.end(first, 12.0)
    assert arrivals.coming(12.0) == (1, pytest.approx(13.0, abs=0.01))
    arrivals.end(second, 12.0)
    assert arrivals.coming(12.0) == NOTHING
