"""Nodes that share a stage share its workers and its line, and nothing else."""

import math

import trio
import trio.testing

from tests.scheduling.test_urgency import ENOUGH, steady
from tests.stages import hang, quick, slow
from tests.support import item, release
from wfserve.errors import NoWorkerError, ServiceUnavailableError
from wfserve.scheduling.desk import Desk
from wfserve.scheduling.policy import Coming
from wfserve.scheduling.tally import Tally
from wfserve.workers.base import Done, Failed, Terms

PLACE = b"place"


def desk_of(bench, name):
    settings = bench.stage.settings
    return Desk(bench.stage, type(settings)(name, batch_size=settings.batch_size), PLACE, Tally())


class Clerk:
    """Makes attempts at a desk, and keeps what became of them."""

    def __init__(self, bench, name):
        self.bench = bench
        self.desk = desk_of(bench, name)
        self.outcomes = []

    def attempt(self, deadline=math.inf, asked=math.inf):
        given = item(self.bench.transport)
        given.terms = Terms(deadline, (deadline, 0), asked)
        self.bench.nursery.start_soon(self._attempt, given)

    async def _attempt(self, given):
        try:
            outcome = await self.desk.attempt(given)
        except ServiceUnavailableError as error:
            outcome = error
        self.outcomes.append(outcome)
        if isinstance(outcome, Done):
            outcome.payload.release()
        release(given)


def served(bench):
    return [(batch.items[0].tenant.name, len(batch.items)) for batch in bench.pool.batches]


async def test_batches_are_of_one_node_and_the_most_urgent_is_first(autojump_clock, run_bench):
    async def scenario(bench):
        a, b = Clerk(bench, "a"), Clerk(bench, "b")
        a.attempt()
        await trio.testing.wait_all_tasks_blocked()
        for clerk, deadline in ((a, 20.0), (b, 10.0), (a, 5.0), (b, 30.0)):
            clerk.attempt(deadline)
            await trio.testing.wait_all_tasks_blocked()
        assert [each.desk.statistics().queued for each in (a, b)] == [2, 2]
        assert [each.desk.statistics().running for each in (a, b)] == [1, 0]
        await trio.sleep(0.25)
        b.attempt(40.0)
        assert [each.desk.statistics().queue_delay_seconds for each in (a, b)] == [0.25, 0.25]

    bench = await run_bench(scenario, slow, timeout=5.0)
    assert served(bench) == [("a", 1), ("a", 2), ("b", 3)]


async def test_each_counts_its_own(autojump_clock, run_bench):
    clerks = []

    async def scenario(bench):
        clerks[:] = Clerk(bench, "a"), Clerk(bench, "b")
        for clerk, attempts in zip(clerks, (1, 3), strict=True):
            for _ in range(attempts):
                clerk.attempt()

    bench = await run_bench(scenario, quick)
    assert [each.desk.statistics().attempts for each in clerks] == [1, 3]
    assert [each.desk.measured().batch_size.count for each in clerks] == [1, 1]
    assert bench.stage.statistics().attempts == 0


async def test_a_full_queue_is_full_for_who_filled_it(autojump_clock, run_bench):
    async def scenario(bench):
        greedy, modest = Clerk(bench, "greedy"), Clerk(bench, "modest")
        for _ in range(4):
            greedy.attempt()
            await trio.testing.wait_all_tasks_blocked()
        (refusal,) = greedy.outcomes
        assert isinstance(refusal, ServiceUnavailableError)
        assert refusal.message == "The queue of greedy is full, 2 requests wait."
        modest.attempt()
        await trio.sleep(5)
        assert [type(each) for each in modest.outcomes] == [Done]

    await run_bench(scenario, slow, batch_size=1, queue_size=2, timeout=5.0)


async def test_errors_name_the_node(autojump_clock, run_bench):
    async def scenario(bench):
        clerk = Clerk(bench, "a")
        clerk.attempt()
        await trio.sleep(2)
        (failed,) = clerk.outcomes
        assert isinstance(failed, Failed)
        bench.stage.resize(0, 0)
        clerk.attempt()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(clerk.outcomes[1], NoWorkerError)
        assert 'Model "a" has no worker' in clerk.outcomes[1].message

    await run_bench(scenario, hang, timeout=1.0)


async def test_what_is_coming_to_one_does_not_hold_up_another(autojump_clock, run_bench):
    class Source:
        def coming(self, now):
            return Coming(1, now + 0.02)

    async def scenario(bench):
        busy, other = Clerk(bench, "busy"), Clerk(bench, "other")
        for number in range(ENOUGH):
            for _ in range(1 + number % 2):
                busy.attempt()
            await trio.sleep(1)
        busy.desk.sources = (Source(),)
        for clerk, held in ((other, False), (busy, True)):
            began = trio.current_time()
            clerk.attempt()
            await trio.sleep(0.04)
            assert clerk.desk.coming(began).items == 1
            assert (bench.pool.batches[-1].started > began) == held
            await trio.sleep(1)
            assert clerk.desk.coming(began) == Coming()

    await run_bench(scenario, steady, timeout=5.0, batch_delay=0.03)


async def test_what_leaves_one_does_not_come_to_another(autojump_clock, run_bench):
    async def scenario(bench):
        a, b = Clerk(bench, "a"), Clerk(bench, "b")
        for number in range(ENOUGH):
            for _ in range(1 + number % 2):
                a.attempt()
            await trio.sleep(1)
        a.attempt()
        await trio.testing.wait_all_tasks_blocked()
        now = trio.current_time()
        assert (a.desk.coming(now).items, b.desk.coming(now).items) == (1, 0)

    await run_bench(scenario, steady, timeout=5.0)
