"""A batch may wait at its replica already, where that makes no difference but in speed."""

import pytest
import trio
import trio.testing

from tests.stages import kinds, sizes
from tests.support import item, release
from wfserve.scheduling.cost import ENOUGH, Cost
from wfserve.scheduling.forecast import Forecast
from wfserve.scheduling.policy import AHEAD, Occupied, Waiting, ahead
from wfserve.scheduling.settings import StageSettings
from wfserve.workers.base import Batch, Done, Failed, Item, Ran
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
    """How many items replicas have, and how many wait in the queue."""
    return sum(len(batch.items) for batch in bench.stage._running.batches), len(bench.stage.queue)


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
    [
        (PACE, {"replicas": 2, "min_workers": 2, "max_workers": 2}),
        (PACE, {"max_workers": 2}),
        (2 * AHEAD, {}),
    ],
    ids=["several could take it", "another may come", "it takes long"],
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


async def test_who_leaves_while_it_waits_there_is_not_computed(autojump_clock, run_bench):
    ran = []

    async def work(items):
        ran.extend(bytes(each.inputs[0][1].borrow()).decode() for each in items)
        await trio.sleep(PACE)
        return echo(items)

    async def scenario(bench):
        await learned(bench)
        bench.attempt("a")
        await trio.sleep(PACE / 4)
        given = item(bench.transport, b"left")
        with trio.move_on_after(PACE / 4):
            await bench.stage.attempt(given)
        release(given)
        bench.attempt("b")
        await trio.sleep(1)
        assert at_replicas(bench) == (0, 0)

    bench = await run_bench(scenario, work, batch_size=1)
    assert ran[ENOUGH:] == ["a", "b"]
    assert kinds(bench)["b"] is Done


async def test_nothing_waits_behind_what_is_not_known(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        bench.attempt("odd", shape=(3,))
        await trio.sleep(PACE / 4)
        bench.attempt("a")
        await trio.sleep(PACE / 4)
        assert at_replicas(bench) == (1, 1)

    await run_bench(scenario, obeying(), batch_size=1)


async def test_a_stage_that_may_grow_does_for_two_that_always_ask(autojump_clock, run_bench):
    async def scenario(bench):
        async def client():
            while trio.current_time() < bench.opened + 5:
                given = item(bench.transport, b"x")
                (await bench.stage.attempt(given)).release()
                release(given)

        for _ in range(2):
            bench.nursery.start_soon(client)

    bench = await run_bench(scenario, obeying(0.9 * AHEAD), batch_size=1, max_workers=2)
    assert bench.pool.statistics().wanted == 2


async def test_metrics_say_that_it_waits(autojump_clock, run_bench):
    async def scenario(bench):
        await learned(bench)
        for name in ("hang", "a"):
            bench.attempt(name)
            await trio.sleep(PACE / 4)
        await trio.sleep(0.5)
        found = bench.stage.statistics()
        assert (found.running, found.queued) == (1, 1)
        assert found.queue_delay_seconds == pytest.approx(0.5, abs=PACE)

    await run_bench(scenario, obeying(), batch_size=1)


@pytest.mark.parametrize(("behind", "gap"), [(False, 0.05), (True, 0.0)])
def test_the_gap_is_learned_from_batches_that_did_not_wait(behind, gap):
    forecast = Forecast(StageSettings("w__n", batch_size=4))
    batch = Batch([Item("", b"", ())], 0.0, behind=behind, ran=(Ran(busy=1.0, items=1),))
    forecast.learn(batch, [Done(b"")], 2.0)
    assert forecast.gap == pytest.approx(gap)
    batch.ran = (Ran(busy=1e9, items=1),)  # of a worker that lies
    for _ in range(100):
        forecast.learn(batch, [Done(b"")], 2.0)
    assert forecast.gap >= 0


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


@pytest.mark.parametrize(
    ("until", "deadline", "expected"),
    [(1 * MS, 2.1 * MS, 8), (1 * MS, 1.9 * MS, 0), (-4 * MS, 1.1 * MS, 8), (-4 * MS, 0.9 * MS, 0)],
)
def test_no_deadline_is_put_in_danger(until, deadline, expected):
    waiting, known = Waiting(8, 0.0, deadline), cost(1 * MS, 0.0)
    assert ahead(waiting, Occupied(until, 0.0), known, known, 0.0, limit=8) == expected


def test_nothing_goes_of_which_the_cost_is_not_known():
    waiting, work = Waiting(8, 0.0, NEVER), cost(1 * MS, 0.0)
    assert ahead(waiting, Occupied(1 * MS, 0.0), Cost(), work, 0.0, limit=8) == 0
