"""What `workers/base.py` promises holds for the fake pool, real processes, and borrowed ones alike."""

import random

import pytest
import trio
import trio.testing

from tests.pools import PATIENCE, Bench, borrowed, fakes, lending, processes
from tests.support import text
from wfserve.errors import ServiceUnavailableError
from wfserve.workers import process
from wfserve.workers.base import Done, Failed

OPEN = {
    "fake": lambda _, replicas: fakes(replicas),
    "processes": processes,
    "borrowed": borrowed,
}


@pytest.fixture(params=["fake", "processes", "borrowed"])
def run(request, tmp_path, monkeypatch):
    """Run `scenario(bench)` in a pool of each kind, on the clock that suits it, and return the bench."""
    monkeypatch.setattr(process, "STOP_GRACE", 0.05)

    def run(scenario, replicas=1):
        async def main():
            async with OPEN[request.param](tmp_path, replicas) as bench:
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


def test_scaling_up_adds_replicas(run):
    async def scenario(bench):
        ready = bench.recorder.ready
        bench.pool.scale(3)
        await settled(bench)
        assert bench.recorder.ready == ready + 2
        assert bench.pool.idle == 3
        assert sizes(bench) == (3, 3)
        batches = [bench.submit(word) for word in "abc"]
        assert [words(await bench.recorder.outcome(batch)) for batch in batches] == [["a"], ["b"], ["c"]]

    run(scenario)


async def settled(bench):
    with trio.fail_after(PATIENCE):
        await bench.pool.settled()


def sizes(bench):
    found = bench.pool.statistics()
    return found.wanted, len(found.replicas)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_idle_replicas_leave_at_once(run, left):
    async def scenario(bench):
        bench.pool.scale(left)
        assert (bench.pool.idle, bench.pool.statistics().wanted) == (left, left)
        await settled(bench)
        assert sizes(bench) == (left, left)
        batches = [bench.submit("still") for _ in range(left)]
        for batch in batches:
            assert words(await bench.recorder.outcome(batch)) == ["still"]
        assert counts(bench) == (left, 0, left, 0, 0)

    run(scenario, replicas=3)


@pytest.mark.parametrize("left", [0, 1])
def test_busy_replicas_leave_when_their_batches_have_been_reported(run, left):
    async def scenario(bench):
        batches = [bench.submit(word) for word in "abc"]
        bench.pool.scale(left)
        seen = []
        bench.recorder.on_report = lambda: seen.append(bench.pool.idle)
        assert [words(await bench.recorder.outcome(batch)) for batch in batches] == [["a"], ["b"], ["c"]]
        assert max(seen) == left  # none that leaves would take a batch, not even as it reports
        await settled(bench)
        assert sizes(bench) == (left, left)
        assert counts(bench) == (left, 0, 3, 0, 0)

    run(scenario, replicas=3)


def test_those_that_do_least_leave_first(run):
    async def scenario(bench):
        batch = bench.submit("a")
        bench.pool.scale(1)
        assert bench.pool.idle == 0
        assert words(await bench.recorder.outcome(batch)) == ["a"]
        assert bench.pool.idle == 1
        await settled(bench)
        assert sizes(bench) == (1, 1)

    run(scenario, replicas=2)


def test_a_replica_that_was_to_leave_may_stay(run):
    async def scenario(bench):
        before = [replica.id for replica in bench.pool.statistics().replicas]
        batches = [bench.submit(word) for word in "ab"]
        bench.pool.scale(0)
        bench.pool.scale(2)
        for batch in batches:
            await bench.recorder.outcome(batch)
        await settled(bench)
        assert [replica.id for replica in bench.pool.statistics().replicas] == before
        assert counts(bench) == (2, 0, 2, 0, 0)

    run(scenario, replicas=2)


def test_a_replica_that_dies_when_it_is_to_leave_is_not_replaced(run):
    async def scenario(bench):
        dies, hangs = bench.submit("die"), bench.submit("hang")
        ready = bench.recorder.ready
        bench.pool.scale(0)
        bench.pool.stop(hangs)
        for batch in (dies, hangs):
            assert isinstance(await bench.recorder.outcome(batch), str)
        await settled(bench)
        assert sizes(bench) == (0, 0)
        assert counts(bench) == (0, 0, 0, 2, 2)
        assert bench.recorder.ready == ready

    run(scenario, replicas=2)


def test_of_two_scales_the_last_holds(run):
    """Whatever the first had begun: replicas that start leave, too."""

    async def scenario(bench):
        async with trio.open_nursery() as nursery:
            for wanted in (4, 0, 2, 1):
                bench.pool.scale(wanted)
                nursery.start_soon(settled, bench)
        assert sizes(bench) == (1, 1)
        assert words(await bench.run("a")) == ["a"]

    run(scenario)


def test_a_pool_may_be_scaled_from_a_report(run):
    """The replica that reports leaves all the same, and another comes."""

    async def scenario(bench):
        batch = bench.submit("a")
        bench.pool.scale(0)
        bench.recorder.on_report = lambda: bench.pool.scale(1)
        await bench.recorder.outcome(batch)
        bench.recorder.on_report = lambda: None
        await settled(bench)
        assert sizes(bench) == (1, 1)
        assert words(await bench.run("b")) == ["b"]

    run(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_last_scale_holds_and_no_batch_is_lost_twice(run, seed):
    async def scenario(bench):
        chance = random.Random(seed)
        batches = []
        for _ in range(40):
            bench.pool.scale(chance.randrange(4))
            while bench.pool.idle and chance.random() < 0.7:
                batches.append(bench.submit(chance.choice(["a", "b", "raise", "die"])))
            if batches and chance.random() < 0.5:
                await bench.recorder.outcome(chance.choice(batches))
        bench.pool.scale(2)
        for batch in batches:
            await bench.recorder.outcome(batch)
        await settled(bench)
        await bench.recorder.until(lambda: bench.pool.idle == 2)
        assert sizes(bench) == (2, 2)
        assert [len(bench.recorder.reports_of(batch)) for batch in batches] == [1] * len(batches)

    run(scenario)


def test_a_pool_that_closes_does_not_settle(run):
    refusals = []

    async def scenario(bench):
        async def wait():
            with trio.CancelScope(shield=True), pytest.raises(ServiceUnavailableError) as refusal:
                await settled(bench)
            refusals.append(refusal)

        bench.submit("hang")
        bench.pool.scale(0)
        bench.nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()

    run(scenario)
    assert len(refusals) == 1


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


@pytest.fixture
def keep_alone(run, request):
    """The same, of the kinds whose workers nobody else uses: those take a batch ahead."""
    if "borrowed" in request.node.callspec.params.values():
        pytest.skip("others would have to wait")
    return run


def test_a_batch_waits_behind_another_and_begins_by_itself(keep_alone):
    async def scenario(bench):
        first = bench.submit("a")
        assert first.begun
        assert bench.pool.takes_another(first)
        second = bench.submit("b", "raise", behind=first)
        assert (first.next, second.begun, second.behind) == (second, False, True)
        assert not bench.pool.takes_another(first)
        assert not bench.pool.takes_another(second)
        seen = []
        bench.recorder.on_report = lambda: seen.append((second.begun, bench.pool.idle))
        assert words(await bench.recorder.outcome(first)) == ["a"]
        done, failed = await bench.recorder.outcome(second)
        assert words([done]) == ["b"]
        assert isinstance(failed, Failed)
        assert seen == [(True, 0), (True, 1)]
        assert first.started <= second.started
        assert counts(bench) == (1, 0, 2, 0, 0)
        assert not bench.pool.takes_another(second)

    keep_alone(scenario)


def test_one_after_another_waits(keep_alone):
    async def scenario(bench):
        batches = [bench.submit("0")]
        batches.append(bench.submit("1", behind=batches[0]))

        def report():
            last = len(batches)
            if last < 20:
                batches.append(bench.submit(str(last), behind=batches[-1]))

        bench.recorder.on_report = report
        await bench.recorder.until(lambda: len(bench.recorder.done) == 20)
        assert [text(outcome.payload) for _, (outcome,) in bench.recorder.done] == list(map(str, range(20)))

    keep_alone(scenario)


def test_what_waits_is_not_to_blame_for_a_death(keep_alone):
    async def scenario(bench):
        first = bench.submit("die")
        second = bench.submit("innocent", behind=first)
        await bench.recorder.outcome(second)
        assert [batch for batch, _ in bench.recorder.lost] == [first, second]
        assert (first.begun, second.begun) == (True, False)
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert counts(bench) == (1, 0, 0, 2, 1)
        assert words(await bench.run("next")) == ["next"]

    keep_alone(scenario)


def test_a_batch_that_has_waited_is_to_blame_once_it_runs(keep_alone):
    async def scenario(bench):
        first = bench.submit("a")
        second = bench.submit("hang", behind=first)
        await bench.recorder.outcome(first)
        bench.pool.stop(second)
        assert isinstance(await bench.recorder.outcome(second), str)
        assert second.begun

    keep_alone(scenario)


def test_stopping_a_batch_loses_what_waits_behind_it(keep_alone):
    async def scenario(bench):
        first = bench.submit("hang")
        second = bench.submit("innocent", behind=first)
        bench.pool.stop(second)  # nothing yet: others would suffer
        bench.pool.withdraw(second)
        await trio.lowlevel.checkpoint()
        assert bench.recorder.lost == []
        bench.pool.stop(first)
        await bench.recorder.outcome(second)
        assert [batch.begun for batch, _ in bench.recorder.lost] == [True, False]

    keep_alone(scenario)


def test_what_is_withdrawn_while_it_waits_does_not_begin(keep_alone):
    async def scenario(bench):
        first = bench.submit("nap")
        second = bench.submit("die", behind=first)
        bench.pool.withdraw(second)
        assert words(await bench.recorder.outcome(first)) == ["nap"]
        assert await bench.recorder.outcome(second) == "withdrawn"
        assert not second.begun
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert words(await bench.run("next")) == ["next"]
        assert counts(bench)[-1] == 0

    keep_alone(scenario)


def test_a_replica_that_is_to_leave_takes_no_more(keep_alone):
    async def scenario(bench):
        first = bench.submit("a")
        second = bench.submit("b", behind=first)
        bench.pool.scale(0)
        assert words(await bench.recorder.outcome(first)) == ["a"]
        assert not bench.pool.takes_another(second)
        assert words(await bench.recorder.outcome(second)) == ["b"]
        await settled(bench)
        assert sizes(bench) == (0, 0)

    keep_alone(scenario)


def test_closing_loses_what_waits_as_well(keep_alone):
    async def scenario(bench):
        bench.submit("b", behind=bench.submit("hang"))

    bench = keep_alone(scenario)
    assert [batch.begun for batch, _ in bench.recorder.lost] == [True, False]


def test_borrowed_workers_take_one_at_a_time(tmp_path):
    async def main():
        async with lending(tmp_path) as office, office.front() as bench:
            batch = bench.submit("a")
            assert not bench.pool.takes_another(batch)
            await bench.recorder.outcome(batch)
            own = Bench(office.transport, office.recorder, office.pool, office.nursery)
            batch = own.submit("b")
            assert not office.pool.takes_another(batch)
            await own.recorder.outcome(batch)
            own.finish()

    trio.run(main)


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
