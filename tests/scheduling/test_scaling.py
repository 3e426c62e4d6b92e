"""A pool is as large as its load asks for: within its bounds, and not changed by the same load again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.scheduling.scaling import (
    DRAIN,
    LONGEST_TARGET,
    SLICE,
    STANDING,
    TARGET,
    Load,
    Scaling,
    Standing,
    Use,
    replicas_kept,
    replicas_wanted,
    too_long,
)
from wfserve.scheduling.settings import StageSettings

WAITS = Load(batches=1, busy=1, peak=1)
loads = st.builds(
    Load,
    st.integers(0, 9),
    st.floats(0, 99),
    st.floats(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
)
counts = st.integers(0, 9)


@pytest.mark.parametrize(
    ("load", "present", "expected"),
    [
        (WAITS, 1, 1),
        (WAITS._replace(stood=STANDING), 1, 2),
        (WAITS._replace(stood=STANDING, idle=1), 1, 1),
        (WAITS._replace(stood=STANDING, busy=0), 1, 1),  # it is still starting
        (WAITS._replace(stood=STANDING, busy=4), 4, 4),
        (WAITS._replace(work=99.0), 1, 1),  # the next batch takes all
        (WAITS._replace(work=2.1 * DRAIN, batches=9), 1, 3),
        (WAITS._replace(work=99.0, batches=9), 1, 4),
        (Load(batches=1), 0, 1),
        (Load(peak=1), 0, 0),
        (Load(peak=1, idle=3), 3, 1),
        (Load(peak=0, idle=3), 3, 0),
        (Load(peak=0, busy=2, idle=1), 3, 2),
        (Load(peak=0, busy=1, batches=1, idle=1), 3, 3),  # something is held back
    ],
)
def test_replicas_wanted(load, present, expected):
    assert replicas_wanted(load, present, 0, 4) == expected


@pytest.mark.parametrize(
    ("load", "present", "expected"),
    [
        (WAITS._replace(stood=9.0), 1, 1),
        (Load(peak=3, idle=3), 3, 1),
        (Load(peak=3, busy=2, idle=1), 3, 2),
        (Load(peak=3, busy=1), 3, 1),  # two were starting
        (Load(peak=3, busy=9), 3, 4),  # some are leaving
    ],
)
def test_while_memory_is_scarce(load, present, expected):
    assert replicas_wanted(load, present, 1, 4, scarce=True) == expected


def test_the_first_comes_even_if_memory_is_scarce():
    assert replicas_wanted(Load(batches=3, work=99.0), 0, 0, 4, scarce=True) == 1
    assert replicas_wanted(Load(batches=3), 0, 0, 0, scarce=True) == 0


@given(loads, counts, counts, counts, st.booleans())
def test_whatever_the_load_is_there_are_neither_too_few_nor_too_many(load, present, least, more, scarce):
    assert least <= replicas_wanted(load, present, least, least + more, scarce=scarce) <= least + more


@given(loads, counts, counts, counts, st.floats(0, 99), st.floats(0, 9))
def test_a_longer_delay_never_asks_for_fewer(load, present, least, more, work, stood):
    longer = load._replace(work=load.work + work, stood=load.stood + stood)
    few, many = (replicas_wanted(each, present, least, least + more) for each in (load, longer))
    assert few <= many


@given(loads, counts, counts, counts)
def test_scarce_memory_never_asks_for_more(load, present, least, more):
    scarce, plenty = (
        replicas_wanted(load, present, least, least + more, scarce=each) for each in (True, False)
    )
    assert scarce <= plenty


@pytest.mark.parametrize(
    ("minimum", "maximum", "expected"), [(1, 4, 3), (0, 0, 0), (1, 2, 2), (5, 5, 5), (0, 9, 3)]
)
def test_new_bounds_change_as_little_as_they_can(minimum, maximum, expected):
    assert replicas_kept(3, minimum, maximum) == expected


def test_what_waits_too_long():
    assert [too_long(each) for each in (0.0, 0.1, 60.0)] == [TARGET, 0.05, LONGEST_TARGET / 2]


def test_a_queue_stands_as_long_as_most_have_waited_too_long():
    standing = Standing()
    assert standing.took(4, 10.0, 0.02, 10.1)
    assert standing.since(10.12) == 10.0
    assert not standing.took(2, 10.135, 0.02, 10.14)
    assert standing.since(10.15) == 10.0
    assert not standing.took(4, 10.175, 0.02, 10.18)
    assert standing.since(10.19) == 10.19


def test_what_was_long_ago_does_not_count():
    standing = Standing()
    standing.took(99, 10.0, 0.02, 10.1)
    standing.took(1, 12.0, 0.02, 12.0)
    standing.took(1, 12.0, 0.02, 12.02)
    standing.took(2, 12.03, 0.02, 12.03)
    assert standing.since(12.04) == 12.04


def test_a_queue_that_has_been_empty_stands_from_then_on():
    standing = Standing()
    standing.took(1, 10.0, 0.02, 10.1)
    assert standing.since(10.16) == 10.16
    standing.took(1, 10.16, 0.02, 10.2)
    assert standing.since(10.2) == 10.16


def test_a_window_remembers_its_peak():
    use = Use(window=4.0)
    use.observe(3, 10.0)
    assert [use.observe(0, moment) for moment in (11.0, 12.0, 14.9, 15.1, 16.2)] == [3, 3, 3, 0, 0]


def test_those_that_were_hardly_busy_would_not_be_missed():
    use = Use(window=4.0)
    use.observe(0, 10.0)
    for moment in (10.1, 10.3, 10.5):
        use.observe(2, moment)
        use.observe(0, moment + 0.05)
    assert use.observe(0, 11.0) == 1


def test_what_was_asked_for_is_as_good_as_used():
    use = Use(window=4.0)
    use.observe(0, 10.0)
    use.ask(2)
    assert [use.observe(0, moment) for moment in (10.5, 11.0, 14.0, 15.5)] == [2, 2, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 3)), max_size=40), st.floats(0, 9))
def test_no_window_asks_for_more_than_were_busy_in_it(moments, window):
    use, now, seen = Use(window), 100.0, []
    for busy, pause in moments:
        now += pause
        seen.append((now, busy))
        recent = [each for when, each in seen if when >= now - window - 2 * SLICE - 3]
        assert busy <= use.observe(busy, now) <= max(recent)


def opened(least=1, most=3, window=4.0, scarce=lambda now: False):
    return Scaling(StageSettings("w__n", min_workers=least, max_workers=most, idle_timeout=window), scarce)


@given(st.floats(0, 5), counts, st.floats(0, 9), counts, counts, st.booleans())
def test_the_same_load_at_the_same_moment_changes_nothing(waited, batches, work, busy, idle, scarce):
    scaling, now = opened(least=0, scarce=lambda _: scarce), 100.0
    oldest = now - waited if batches else math.inf
    once, again = (scaling.look(oldest, batches, work, busy=busy, idle=idle, now=now) for _ in range(2))
    assert once == again or (once, again) == (0, 1)  # whoever has none gets one, whatever the load


def test_one_more_at_a_time_and_none_while_it_starts():
    scaling = opened()
    assert scaling.look(10.0, 2, 0.0, busy=1, idle=0, now=10.0) == 1
    assert scaling.next == pytest.approx(10.0 + STANDING, abs=0.01)
    assert scaling.look(10.0, 2, 0.0, busy=1, idle=0, now=scaling.next) == 2
    assert scaling.look(10.0, 2, 0.0, busy=1, idle=0, now=12.0) == 2
    scaling.came(12.0)
    assert scaling.look(10.0, 2, 0.0, busy=2, idle=0, now=12.1) == 2
    assert scaling.look(10.0, 2, 0.0, busy=2, idle=0, now=scaling.next) == 3


def test_one_that_was_added_stays_for_the_window_though_nobody_needs_it():
    scaling = opened(window=4.0)
    scaling.look(10.0, 1, 0.0, busy=1, idle=0, now=10.0)
    assert scaling.look(10.0, 1, 0.0, busy=1, idle=0, now=10.3) == 2
    now, counts = 10.3, {}
    while scaling.next < math.inf:
        counts[now] = scaling.look(math.inf, 0, 0.0, busy=0, idle=2, now=now)
        now = scaling.next
    assert {count for moment, count in counts.items() if moment < 14.3} == {2}
    assert [*counts.values()][-1] == 1


def test_none_goes_as_long_as_something_waits_too_long():
    scaling = opened(window=4.0)
    scaling.look(10.0, 1, 0.0, busy=1, idle=0, now=10.0)
    assert scaling.look(10.0, 1, 0.0, busy=1, idle=0, now=10.3) == 2
    for moment in range(11, 21):
        scaling.took(1, moment - 0.1, 0.05, moment)
        assert scaling.look(math.inf, 0, 0.0, busy=1, idle=1, now=moment) == 2
        scaling.look(math.inf, 0, 0.0, busy=0, idle=2, now=moment + 0.05)
    assert scaling.look(math.inf, 0, 0.0, busy=0, idle=2, now=26.0) == 1


def test_new_bounds_are_as_good_as_a_need():
    scaling = opened(least=3)
    scaling.look(math.inf, 0, 0.0, busy=0, idle=3, now=10.0)
    assert scaling.resize(0, 3) == 3
    assert scaling.look(math.inf, 0, 0.0, busy=0, idle=3, now=13.0) == 3
    assert scaling.look(math.inf, 0, 0.0, busy=0, idle=3, now=18.0) == 0
