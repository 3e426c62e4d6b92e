"""What a stage does is counted where it happens: each batch once, each item's wait once."""

import pytest
import trio

from tests.support import item, release
from wfserve.errors import InternalError
from wfserve.measure.counts import NodeCounts, RequestCounts, ResponseCounts
from wfserve.scheduling.dispatch import Stage
from wfserve.scheduling.settings import StageSettings
from wfserve.transport.memory import MemoryTransport
from wfserve.workers.base import Done, Failed
from wfserve.workers.fake import FakePool, echo


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "2xx"),
        (299, "2xx"),
        (302, "5xx"),
        (400, "4xx"),
        (499, "4xx"),
        (500, "5xx"),
        (507, "5xx"),
        (999, "5xx"),
    ],
)
def test_responses_are_counted_by_class(status, outcome):
    counts = ResponseCounts()
    counts.count(status)
    assert counts.by_class == {"2xx": 0, "4xx": 0, "5xx": 0} | {outcome: 1}


def test_requests_are_counted_by_outcome():
    counts = RequestCounts()
    counts.ended("gone", 0.2)
    counts.ended("2xx", 0.1)
    assert counts.by_outcome == {"2xx": 1, "4xx": 0, "5xx": 0, "gone": 1}
    assert counts.time.count == 2


def test_a_replica_that_was_replaced_has_not_loaded(monkeypatch):
    counts = NodeCounts()
    monkeypatch.setattr("time.time", lambda: 107.0)
    counts.replica_loaded("0", 11, 100.0)
    monkeypatch.setattr("time.time", lambda: 200.0)
    counts.replica_loaded("0", 11, 100.0)
    assert counts.load_time("0", 11) == 7.0
    assert counts.load_time("0", 12) is counts.load_time("1", 11) is None


async def attempted(work, names, retry=False, **settings):
    """The measures of a stage that `names` were sent through at once, on the virtual clock."""
    with MemoryTransport(1 << 20) as transport:
        stage = Stage(
            StageSettings("w__n", timeout=10.0, **settings), lambda listener: FakePool(listener, work, 1)
        )

        async def attempt(name):
            given = item(transport, name.encode())
            outcome = await stage.attempt(given, retry=retry)
            if isinstance(outcome, Done):
                outcome.payload.release()
            release(given)

        async with trio.open_nursery() as nursery, stage.pool.running():
            nursery.start_soon(stage.serve)
            async with trio.open_nursery() as attempts:
                for name in names:
                    attempts.start_soon(attempt, name)
            nursery.cancel_scope.cancel()
        return stage


async def slow(items):
    await trio.sleep(0.5)
    return echo(items)


async def picky(items):
    await trio.sleep(0.5)
    if any(bytes(each.inputs[0][1].borrow()) == b"bad" for each in items):
        return [Failed(InternalError("bad"))] * len(items)
    return echo(items)


async def test_time_in_the_queue_and_at_work(autojump_clock):
    counts = (await attempted(slow, "ab")).measured()
    assert counts.queue_time.count == 2
    assert counts.queue_time.sum == pytest.approx(0.5)
    assert counts.run_time.count == counts.batch_size.count == 2
    assert counts.run_time.sum == pytest.approx(1.0)
    assert counts.latency == pytest.approx(0.5 + 1.0)
    assert counts.waited == pytest.approx(0.5)
    assert counts.overhead + counts.busy == pytest.approx(0.5)


async def test_a_batch_is_counted_once(autojump_clock):
    counts = (await attempted(slow, "abc", batch_size=8)).measured()
    assert (counts.run_time.count, counts.batch_size.sum, counts.queue_time.count) == (1, 3, 3)


async def test_items_that_run_again_have_waited_once(autojump_clock):
    counts = (await attempted(picky, ["good", "bad"], batch_size=8)).measured()
    assert (counts.run_time.count, counts.queue_time.count) == (3, 2)
    assert 0.99 < counts.latency < 1.51  # of the one that has a result, whichever of them ran first


async def test_retries_are_told_from_first_attempts(autojump_clock):
    assert (await attempted(slow, "a")).statistics().retries == 0
    assert (await attempted(slow, "ab", retry=True)).statistics().retries == 2
