"""A batch may wait at its replica already, where that makes no difference but in speed."""

import pytest
import trio
import trio.testing

from tests.stages import kinds, sizes
from tests.support import item, release
from wfserve.scheduling.cost import ENOUGH, Cost
from wfserve.scheduling.policy import AHEAD, Occupied, Waiting, ahead
from wfserve.workers.base import Done, Failed, Terms
from wfserve.workers.fake import echo

PACE = 0.001  # seconds a batch
NEVER = float("inf")


def obeying(pace=PACE):
    async def work(items):
        words = [bytes(each.inputs[0][1].borrow()).decode() for each in items]
        await trio.sleep(NEVER if "hang" in words else pace)
        return echo(items)

    return work


async def learned(bench, apart=1.0):
    """Attempt one after another until what they take is known."""
    for number in range(ENOUGH):
        bench.attempt(f"known {number}")
        await trio.sleep(apart)


def at_replicas(bench):
    return bench.stage.statistics().running, bench.stage.statistics().queued


async def test_the_next_of_cheap_calls_waits_at_the_replica(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        for name in "abc":
            bench.attempt(name)
        await trio.sleep(PACE / 2)
        assert at_replicas(bench) == (2, 1)
        began = trio.current_time() - bench.opened - PACE / 2
        await trio.sleep(1)
        ends = sorted(bench.outcomes[name][0] - began for name in "abc")
        assert ends == pytest.approx([PACE, 2 * PACE, 3 * PACE])
        assert set(kinds(bench).values()) == {Done}
        assert at_replicas(bench) == (0, 0)

    await run_bench(scenario, obeying(), batch_size=1)


@pytest.mark.parametrize(
    ("pace", "more"),
    [(PACE, {"replicas": 2, "min_workers": 2, "max_workers": 2}), (2 * AHEAD, {})],
    ids=["several could take it", "it takes long"],
)
async def test_else_it_waits_in_the_queue(pace, more, autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        replicas = bench.pool.idle
        for number in range(replicas + 2):
            bench.attempt(str(number))
        await trio.sleep(pace / 2)
        assert at_replicas(bench) == (replicas, 2)

    await run_bench(scenario, obeying(pace), batch_size=1, **more)


async def test_nothing_is_sent_ahead_before_enough_is_known(autojump_clock, run_bench):
    async def scenario(bench):
        for name in "abc":
            bench.attempt(name)
        await trio.sleep(PACE / 2)
        assert at_replicas(bench) == (1, 2)

    await run_bench(scenario, obeying(), batch_size=1)


async def test_what_waited_behind_one_that_hangs_is_run_again_uncharged(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        bench.attempt("hang")
        await trio.sleep(PACE / 2)
        bench.attempt("a")
        await trio.sleep(PACE / 4)
        assert at_replicas(bench) == (2, 0)

    bench = await run_bench(scenario, obeying(), batch_size=1)
    assert kinds(bench)["hang"] is Failed
    assert kinds(bench)["a"] is Done
    found = bench.stage.statistics()
    assert (found.timeouts, found.reruns) == (0, 1)  # the hanging one was stopped
    assert bench.pool.deaths == 1


async def test_a_wait_at_the_replica_is_timed_as_one_in_the_queue(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        for name in ("first", "hang", "a"):
            bench.attempt(name)
            await trio.sleep(PACE / 4)
        await trio.sleep(PACE / 2)
        assert at_replicas(bench) == (2, 0)

    bench = await run_bench(scenario, obeying(), batch_size=1)
    assert kinds(bench)["hang"] is kinds(bench)["a"] is Failed
    ends = {name: at for name, (at, _) in bench.outcomes.items()}
    assert ends["a"] - ends["first"] == pytest.approx(1.0 - PACE / 2, abs=1e-6)  # a second after it came
    assert ends["hang"] - ends["first"] == pytest.approx(1.0, abs=1e-6)
    found = bench.stage.statistics()
    assert (found.timeouts, found.reruns) == (1, 0)


async def test_the_time_of_what_waited_runs_from_when_it_begins(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        for name in ("a", "hang"):
            bench.attempt(name)
            await trio.sleep(PACE / 4)
        assert at_replicas(bench) == (2, 0)

    bench = await run_bench(scenario, obeying(), batch_size=1)
    ends = {name: at for name, (at, _) in bench.outcomes.items()}
    assert ends["hang"] - ends["a"] == pytest.approx(1.0)
    assert kinds(bench)["hang"] is Failed


async def test_what_nobody_waits_for_any_more_is_stopped_if_it_hangs(autojump_clock, run_bench):
    """It was given up before it had begun; nothing of it is left in the arena, as the fixture asserts."""

    async def scenario(bench):
        await learned(bench)
        bench.attempt("a")
        await trio.sleep(PACE / 4)
        given = item(bench.transport, b"hang")
        with trio.move_on_after(PACE / 2):
            await bench.stage.attempt(given)
        release(given)
        assert at_replicas(bench) == (2, 0)
        await trio.sleep(0.9)
        assert bench.pool.deaths == 0
        await trio.sleep(0.2)
        assert bench.pool.deaths == 1
        bench.attempt("b")

    bench = await run_bench(scenario, obeying(), batch_size=1)
    assert kinds(bench)["a"] is kinds(bench)["b"] is Done


async def test_what_is_refused_while_it_would_wait_there(autojump_clock, run_bench):
    """A deadline that the batch before puts in danger is left to the queue, which refuses in time."""

    async def scenario(bench):
        await learned(bench, apart=PACE)
        soon = trio.current_time() + 1.5 * PACE
        bench.attempt("a")
        await trio.sleep(PACE / 4)
        bench.attempt("late", terms=Terms(deadline=soon, order=(soon, 0), asked=soon))
        await trio.sleep(PACE / 2)
        assert at_replicas(bench)[0] == 1

    await run_bench(scenario, obeying(), batch_size=1)


async def test_full_batches_go_ahead(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        for number in range(10):
            bench.attempt(str(number))
        await trio.sleep(PACE / 2)
        assert at_replicas(bench) == (5, 5)

    bench = await run_bench(scenario, obeying(), batch_size=4)
    assert sizes(bench)[ENOUGH:] == [1, 4, 4, 1]  # the first came as so many did who were alone


def cost(alpha, beta, sizes=(1, 4), batches=ENOUGH):
    made = Cost()
    for number in range(batches):
        size = sizes[number % len(sizes)]
        made.observe(size, alpha + beta * size, 0.0)
    return made


MS = 1e-3


@pytest.mark.parametrize(
    ("expected", "items", "until", "gap", "work"),
    [
        (8, 8, 1 * MS, 0.0, cost(1 * MS, 0.1 * MS)),  # full
        (8, 9, 1 * MS, 0.0, cost(1 * MS, 0.1 * MS)),
        (0, 7, 1 * MS, 0.0, cost(1 * MS, 0.1 * MS)),  # one more might come, and costs little
        (0, 7, 1 * MS, 0.9 * MS, cost(1 * MS, 0.5 * MS)),  # as above: α is more than the gap
        (7, 7, 1 * MS, 1.1 * MS, cost(1 * MS, 0.5 * MS)),
        (0, 1, 1 * MS, 1.1 * MS, cost(1 * MS, 0.5 * MS)),  # α is most of it
        (1, 1, 1 * MS, 0.1 * MS, cost(0.0, 0.5 * MS)),
        (0, 8, 6 * MS, 0.0, cost(1 * MS, 0.1 * MS)),  # not soon
        (0, 8, -6 * MS, 0.0, cost(1 * MS, 0.1 * MS)),  # overdue for too long: who knows when it ends
        (8, 8, -1 * MS, 0.0, cost(1 * MS, 0.1 * MS)),
        (0, 8, 1 * MS, 0.0, cost(1 * MS, 1 * MS)),  # it takes long itself
        (0, 8, 1 * MS, 0.0, cost(1 * MS, 0.1 * MS, batches=ENOUGH - 1)),
        (0, 4, 1 * MS, 1 * MS, cost(0.0, 0.5 * MS, sizes=(4,))),  # what α is has not been seen
    ],
)
def test_how_many_go_ahead(expected, items, until, gap, work):
    waiting, known = Waiting(items, 0.0, NEVER), cost(1 * MS, 0.0)
    assert ahead(waiting, Occupied(until, gap), known, work, 0.0, limit=8) == expected


@pytest.mark.parametrize(("deadline", "expected"), [(2.1 * MS, 8), (1.9 * MS, 0)])
def test_no_deadline_is_put_in_danger(deadline, expected):
    waiting, known = Waiting(8, 0.0, deadline), cost(1 * MS, 0.0)
    assert ahead(waiting, Occupied(1 * MS, 0.0), known, known, 0.0, limit=8) == expected
