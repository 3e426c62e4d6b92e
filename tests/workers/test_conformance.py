"""What `workers/base.py` promises holds for the fake pool and for real processes alike."""

import pytest
import trio
import trio.testing

from tests.pools import fakes, processes
from tests.support import text
from wfserve.workers import process
from wfserve.workers.base import Done, Failed


@pytest.fixture(params=["fake", "processes"])
def run(request, tmp_path, monkeypatch):
    """Run `scenario(bench)` in a pool of either kind, on the clock that suits it, and return the bench."""
    monkeypatch.setattr(process, "STOP_GRACE", 0.05)

    def run(scenario, replicas=1):
        async def main():
            open_pool = fakes(replicas) if request.param == "fake" else processes(tmp_path, replicas)
            async with open_pool as bench:
                await scenario(bench)
            return bench

        clock = trio.testing.MockClock(autojump_threshold=0) if request.param == "fake" else None
        return trio.run(main, clock=clock)

    return run


def words(outcomes):
    return [text(outcome.payload) for outcome in outcomes]


def counts(bench):
    found = bench.pool.statistics()
    return found.idle, found.running, found.batches, found.batches_lost, found.deaths


def test_an_outcome_an_item_in_order(run):
    async def scenario(bench):
        outcomes = await bench.run("a", "raise", "c")
        assert [type(outcome) for outcome in outcomes] == [Done, Failed, Done]
        assert words([outcomes[0], outcomes[2]]) == ["a", "c"]

    run(scenario)


def test_idle_counts_replicas_that_would_take_a_batch(run):
    async def scenario(bench):
        assert bench.pool.idle == 2
        first = bench.submit("a")
        assert bench.pool.idle == 1
        second = bench.submit("b")
        assert bench.pool.idle == 0
        assert counts(bench)[1] == 2
        for batch in (first, second):
            assert isinstance((await bench.recorder.outcome(batch))[0], Done)
        assert counts(bench) == (2, 0, 2, 0, 0)

    run(scenario, replicas=2)


def test_a_replica_is_idle_when_its_batch_is_reported(run):
    """The listener may submit from its report, and nothing is reported within `submit`."""

    async def scenario(bench):
        seen = []

        def report():
            seen.append(bench.pool.idle)
            if len(seen) < 5:
                before = len(bench.recorder.done)
                bench.submit(f"again {len(seen)}")
                assert len(bench.recorder.done) == before

        bench.recorder.on_report = report
        bench.submit("first")
        await bench.recorder.until(lambda: len(bench.recorder.done) == 5)
        assert seen == [1] * 5
        assert words(bench.recorder.done[-1][1]) == ["again 4"]

    run(scenario)


def test_payloads_may_be_released_while_the_batch_runs(run):
    async def scenario(bench):
        assert words(await bench.run("still here", keep=False)) == ["still here"]

    run(scenario)


def test_items_of_a_batch_keep_their_own_payloads(run):
    """The pool owns none of what was submitted: after the batch the items can be submitted again."""

    async def scenario(bench):
        await bench.run("twice")
        (given,) = bench.items
        again = bench.pool.submit([given])
        assert words(await bench.recorder.outcome(again)) == ["twice"]

    run(scenario)


def test_a_replica_that_dies_loses_its_batch_and_is_replaced(run):
    async def scenario(bench):
        ready = bench.recorder.ready
        reason = await bench.run("die", "innocent")
        assert "died" in reason
        await bench.recorder.until(lambda: bench.recorder.ready == ready + 1)
        assert counts(bench) == (1, 0, 0, 1, 1)
        assert words(await bench.run("next")) == ["next"]

    run(scenario)


def test_a_dying_replica_takes_no_batch(run):
    """Between a death and its replacement the pool is not idle."""

    async def scenario(bench):
        seen = []
        bench.recorder.on_report = lambda: seen.append(bench.pool.idle)
        await bench.run("die")
        assert seen[0] == 0

    run(scenario)


def test_neighbours_of_a_death_do_not_see_it(run):
    async def scenario(bench):
        dying, living = bench.submit("die"), bench.submit("a", "b")
        assert words(await bench.recorder.outcome(living)) == ["a", "b"]
        assert isinstance(await bench.recorder.outcome(dying), str)

    run(scenario, replicas=2)


def test_stop_loses_the_batch_and_only_that(run):
    async def scenario(bench):
        hangs, other = bench.submit("hang"), bench.submit("a")
        bench.pool.stop(hangs)
        assert bench.recorder.reports_of(hangs) == []  # never within the call
        bench.pool.stop(hangs)
        assert isinstance(await bench.recorder.outcome(hangs), str)
        assert words(await bench.recorder.outcome(other)) == ["a"]
        await bench.recorder.until(lambda: bench.pool.idle == 2)
        assert counts(bench) == (2, 0, 1, 1, 1)

    run(scenario, replicas=2)


def test_stopping_what_has_ended_does_nothing(run):
    async def scenario(bench):
        first = bench.submit("a")
        await bench.recorder.outcome(first)
        second = bench.submit("b")
        bench.pool.stop(first)
        assert words(await bench.recorder.outcome(second)) == ["b"]
        lost = bench.submit("die")
        await bench.recorder.outcome(lost)
        bench.pool.stop(lost)
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert words(await bench.run("c")) == ["c"]
        assert counts(bench)[3:] == (1, 1)

    run(scenario)


def test_every_batch_is_reported_once(run):
    async def scenario(bench):
        batches = []
        for word in ("a", "die", "b", "raise", "die", "c"):
            await bench.recorder.until(lambda: bench.pool.idle)
            batches.append(bench.submit(word))
            await bench.recorder.outcome(batches[-1])
        await bench.recorder.until(lambda: bench.pool.idle)
        assert [len(bench.recorder.reports_of(batch)) for batch in batches] == [1] * 6
        assert counts(bench) == (1, 0, 4, 2, 2)

    run(scenario)


def test_scaling_adds_replicas_and_never_takes_any(run):
    async def scenario(bench):
        ready = bench.recorder.ready
        bench.pool.scale(3)
        await bench.recorder.until(lambda: bench.recorder.ready == ready + 2)
        assert bench.pool.idle == 3
        for fewer in (0, 1, 3):
            bench.pool.scale(fewer)
        assert bench.pool.statistics().wanted == len(bench.pool.statistics().replicas) == 3
        batches = [bench.submit(word) for word in "abc"]
        assert [words(await bench.recorder.outcome(batch)) for batch in batches] == [["a"], ["b"], ["c"]]

    run(scenario)


def test_a_pool_may_begin_with_none(run):
    async def scenario(bench):
        assert (bench.pool.idle, bench.recorder.ready) == (0, 0)
        bench.pool.scale(1)
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert words(await bench.run("a")) == ["a"]

    run(scenario, replicas=0)


def test_replicas_are_told_apart(run):
    async def scenario(bench):
        found = bench.pool.statistics().replicas
        assert len({replica.id for replica in found}) == 2
        assert {replica.state for replica in found} == {"READY"}

    run(scenario, replicas=2)


def test_closing_reports_what_runs_as_lost(run):
    """And gives back all of it: the fixtures assert that no slot and no process is left."""

    async def scenario(bench):
        bench.submit("hang")

    bench = run(scenario, replicas=2)
    assert len(bench.recorder.lost) == 1
    assert bench.pool.idle == 0


def test_a_closing_pool_takes_nothing(run):
    """Not even from a listener that would run again what it lost."""

    async def scenario(bench):
        bench.submit("hang")
        idle = []

        def report():
            bench.pool.scale(5)
            idle.append(bench.pool.idle)

        bench.recorder.on_report = report
        bench.seen = idle

    bench = run(scenario, replicas=3)
    assert bench.seen == [0]
    assert bench.pool.statistics().wanted == len(bench.pool.statistics().replicas) == 3
