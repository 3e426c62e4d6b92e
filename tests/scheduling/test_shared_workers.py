"""A batch may wait at its worker for batches of other processes: that is neither its time nor its fault."""

import math

import pytest
import trio

from tests.stages import kinds, sizes
from wfserve.workers.base import Done, Failed, Whereabouts
from wfserve.workers.fake import ReplicaDeath, echo

OTHERS = 5.0  # seconds that the worker is busy with batches of others first


async def test_a_batch_that_had_not_begun_is_run_again_as_it_was(autojump_clock, run_bench):
    async def work(items):
        await trio.sleep(0.1)
        if len(benches[0].pool.batches) == 1:
            benches[0].pool.batches[0].begun = False
            raise ReplicaDeath
        return echo(items)

    async def scenario(bench):
        benches.append(bench)
        for name in "abc":
            bench.attempt(name)

    benches = []
    bench = await run_bench(scenario, work, isolate=False)  # which may not be run twice, once it has begun
    assert sizes(bench) == [3, 3]
    assert set(kinds(bench).values()) == {Done}


async def run_behind_others(run_bench, seconds):
    async def work(items):
        await trio.sleep(OTHERS + seconds)
        return echo(items)

    def whereabouts(batch):
        waited = min(OTHERS, trio.current_time() - batch.started)
        return Whereabouts(0, trio.current_time() - batch.started - waited, waited)

    async def scenario(bench):
        bench.pool.whereabouts = whereabouts
        bench.attempt("a")

    return await run_bench(scenario, work, timeout=1.0)


async def test_what_it_waited_for_others_is_not_part_of_its_time(autojump_clock, run_bench):
    bench = await run_behind_others(run_bench, 0.9)
    assert kinds(bench) == {"a": Done}


async def test_its_time_begins_when_it_does(autojump_clock, run_bench):
    bench = await run_behind_others(run_bench, 2.0)
    assert kinds(bench) == {"a": Failed}
    assert OTHERS + 1.0 <= bench.outcomes["a"][0] < OTHERS + 2.0


async def test_what_nobody_waits_for_is_withdrawn(autojump_clock, run_bench):
    """Once the last has left; it is lost then, and what waits behind it goes at once."""
    withdrawn = []

    def withdraw(batch):
        withdrawn.append((trio.current_time() - bench.opened, batch))
        batch.begun = False
        bench.pool.stop(batch)

    async def work(items):
        await trio.sleep(math.inf if len(bench.pool.batches) == 1 else 0.1)
        return echo(items)

    async def leave_after(seconds, *names):
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                bench.nursery, before = nursery, bench.nursery
                for name in names:
                    bench.attempt(name)
                bench.nursery = before

    async def scenario(made):
        nonlocal bench
        bench = made
        bench.pool.withdraw = withdraw
        async with trio.open_nursery() as clients:
            clients.start_soon(leave_after, 0.2, "a")
            clients.start_soon(leave_after, 0.3, "b", "c")
            await trio.sleep(0.1)
            bench.attempt("d")

    bench = None
    await run_bench(scenario, work, timeout=100.0)
    assert withdrawn == [(0.3, bench.pool.batches[0])]
    assert sizes(bench) == [3, 1]
    assert set(bench.outcomes) == {"d"}
    assert bench.outcomes["d"][0] == pytest.approx(0.4)
