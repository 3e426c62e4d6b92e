"""Every row of the tables in `policy`, and the properties of what is computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.scheduling.policy import (
    LONELY,
    Expiry,
    Failure,
    after_error,
    after_loss,
    after_timeout,
    at_once,
    calls_per_hop,
    rerun_deadline,
    running_deadline,
    split,
)


@pytest.mark.parametrize(
    ("size", "splittable", "isolate", "expected"),
    [
        (1, True, True, Failure.FAIL),
        (1, False, True, Failure.FAIL),
        (2, True, True, Failure.SPLIT),
        (2, True, False, Failure.FAIL),
        (2, False, True, Failure.FAIL),
    ],
)
def test_after_error(size, splittable, isolate, expected):
    assert after_error(size, splittable=splittable, isolate=isolate) is expected


@pytest.mark.parametrize(
    ("size", "isolate", "expected"),
    [(1, True, Failure.FAIL), (2, True, Failure.ALONE), (2, False, Failure.FAIL)],
)
def test_after_loss(size, isolate, expected):
    assert after_loss(size, isolate=isolate) is expected


@pytest.mark.parametrize(
    ("started", "expected"),
    [(None, Expiry.WITHDRAW), (9.5, Expiry.ABANDON), (9.0, Expiry.STOP), (1.0, Expiry.STOP)],
)
def test_after_timeout(started, expected):
    assert after_timeout(started, now=10.0, timeout=1.0) is expected


def test_an_attempt_that_hardly_waited_ends_with_its_batch():
    assert running_deadline(deadline=1.0, started=0.05, timeout=1.0, afresh=False) == 1.05


def test_an_attempt_that_waited_keeps_its_deadline():
    assert running_deadline(deadline=1.0, started=0.5, timeout=1.0, afresh=False) == 1.0


def test_an_uncharged_run_starts_afresh():
    assert running_deadline(deadline=99.0, started=7.0, timeout=1.0, afresh=True) == 8.0


def test_what_is_run_again_does_not_wait_for_ever():
    assert rerun_deadline(now=5.0, ahead=0, timeout=1.0, startup=9.0) == 15.0
    assert rerun_deadline(now=5.0, ahead=2, timeout=1.0, startup=9.0) == 35.0


@pytest.mark.parametrize(
    ("seconds", "calls"), [(None, 1), (1.0, 1), (0.002, 1), (0.001, 2), (0.0001, 20), (1e-5, 32), (0.0, 32)]
)
def test_cheap_calls_share_a_hop(seconds, calls):
    assert calls_per_hop(seconds) == calls


@pytest.mark.parametrize(
    ("seconds", "further", "calls"), [(0.01, 0.001, 2), (0.01, 0.0, 32), (0.0005, 0.01, 4), (1.0, 0.5, 1)]
)
def test_a_call_counts_for_what_it_adds(seconds, further, calls):
    assert calls_per_hop(seconds, further) == calls


@given(st.integers(2, 1000))
def test_halves_make_a_whole(size):
    first, second = split(size)
    assert first + second == size
    assert 0 <= first - second <= 1


@pytest.mark.parametrize(
    ("waiting", "idle", "lonely", "expected"),
    [
        (1, 1, LONELY, True),
        (1, 2, LONELY + 1, True),
        (2, 1, LONELY, False),
        (1, 0, LONELY, False),
        (1, 1, LONELY - 1, False),
    ],
)
def test_at_once(waiting, idle, lonely, expected):
    assert at_once(waiting, idle, lonely) is expected
