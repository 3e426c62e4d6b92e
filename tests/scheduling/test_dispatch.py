"""Every attempt gets one outcome; what is cancelled leaves the queue at once and the arena with its batch."""

import math

import pytest
import trio
import trio.testing

from tests.stages import hang, kinds, quick, sizes, slow
from tests.support import item, release, text
from wfserve.errors import InternalError, NoWorkerError, ServiceUnavailableError
from wfserve.scheduling.policy import LONELY
from wfserve.scheduling.scaling import STANDING
from wfserve.workers.base import Done, Failed
from wfserve.workers.fake import ReplicaDeath, echo


async def test_attempts_of_one_moment_leave_in_one_batch(autojump_clock, run_bench):
    async def scenario(bench):
        for name in "abc":
            bench.attempt(name)

    bench = await run_bench(scenario, quick)
    assert sizes(bench) == [3]
    assert set(kinds(bench).values()) == {Done}


async def test_after_many_who_were_alone_the_next_is_not_kept_for_others_of_its_moment(
    autojump_clock, run_bench
):
    async def scenario(bench):
        for number in range(LONELY):
            bench.attempt(f"alone {number}")
            await trio.sleep(1)
        for pair in ("ab", "cd"):
            for name in pair:
                bench.attempt(name)
            await trio.sleep(1)

    bench = await run_bench(scenario, quick)
    assert sizes(bench) == [*[1] * LONELY, 1, 1, 2]


async def test_who_had_somebody_behind_was_not_alone(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("first")
        await trio.sleep(0.1)
        for number in range(LONELY):  # one waits whenever one has been answered
            bench.attempt(f"behind {number}")
            await trio.sleep(0.5)
        await trio.sleep(1)
        for name in "ab":
            bench.attempt(name)

    bench = await run_bench(scenario, slow)
    assert sizes(bench) == [*[1] * LONELY, 1, 2]


async def test_what_comes_while_a_batch_runs_is_the_next_batch(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("first")
        await trio.sleep(0.1)
        for name in "abc":
            bench.attempt(name)
            await trio.sleep(0.1)

    bench = await run_bench(scenario, slow)
    assert sizes(bench) == [1, 3]


async def test_a_batch_is_never_larger_than_its_size(autojump_clock, run_bench):
    async def scenario(bench):
        for name in "abcde":
            bench.attempt(name)

    bench = await run_bench(scenario, quick, batch_size=2)
    assert sizes(bench) == [2, 2, 1]


async def test_one_by_one_cheap_calls_share_a_hop_and_slow_ones_do_not(autojump_clock, run_bench):
    pace = 0.0001

    async def work(items):
        await trio.sleep(pace * len(items))
        return echo(items)

    async def scenario(bench):
        nonlocal pace
        bench.attempt("first")
        await trio.sleep(1)
        for name in "abcd":
            bench.attempt(name)
        await trio.sleep(1)
        pace = 0.5
        bench.attempt("slow")
        await trio.sleep(1)
        for name in "ef":
            bench.attempt(name)

    bench = await run_bench(scenario, work, one_by_one=True, batch_size=1, timeout=5.0)
    assert sizes(bench) == [1, 4, 1, 1, 1]


async def test_a_full_queue_refuses_at_once(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("runs")
        await trio.testing.wait_all_tasks_blocked()
        for name in "ab":
            bench.attempt(name)

    bench = await run_bench(scenario, slow, queue_size=1, timeout=5.0)
    assert sorted(kind.__name__ for kind in kinds(bench).values()) == [
        "Done",
        "Done",
        "ServiceUnavailableError",
    ]
    (refusal,) = (o for _, o in bench.outcomes.values() if isinstance(o, ServiceUnavailableError))
    assert refusal.retry_after == 1


async def test_an_attempt_that_times_out_in_the_queue_stops_nothing(autojump_clock, run_bench):
    async def work(items):
        await trio.sleep(0.9)
        return echo(items)

    async def scenario(bench):
        bench.attempt("first")
        await trio.sleep(0.1)
        bench.attempt("second")
        await trio.sleep(0.3)
        bench.attempt("third")

    bench = await run_bench(scenario, work, batch_size=1)
    assert bench.pool.deaths == 0
    assert bench.outcomes["first"][0] == pytest.approx(0.9)
    assert bench.outcomes["second"][0] == pytest.approx(1.1)  # while it ran: abandoned
    assert bench.outcomes["third"][0] == pytest.approx(1.4)  # while it was queued: withdrawn
    assert kinds(bench) == {"first": Done, "second": Failed, "third": Failed}
    assert sizes(bench) == [1, 1]


async def test_a_lone_attempt_that_hangs_stops_its_worker(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("hangs")

    bench = await run_bench(scenario, hang)
    when, outcome = bench.outcomes["hangs"]
    assert when == pytest.approx(1.0)
    assert isinstance(outcome, Failed)
    assert bench.pool.deaths == 1


async def test_the_neighbours_of_one_that_hangs_are_run_again_and_succeed(autojump_clock, run_bench):
    async def work(items):
        if any(text(i.inputs[0][1]) == "hangs" for i in items):
            await trio.sleep(math.inf)
        return await quick(items)

    async def scenario(bench):
        for name in ("a", "hangs", "b"):
            bench.attempt(name)

    bench = await run_bench(scenario, work)
    assert kinds(bench) == {"a": Done, "b": Done, "hangs": Failed}
    assert sizes(bench) == [3, 1, 1, 1]
    assert bench.pool.deaths == 2
    ends = {round(when, 6) for when, _ in bench.outcomes.values()}
    assert ends <= {1.0, 2.0}  # whoever comes behind the one that hangs: its timer waited


async def test_what_was_given_up_beside_one_that_hangs_is_tried_again_alone(autojump_clock, run_bench):
    """All waited so long that they time out before their batch does; only the one that hangs fails."""

    async def work(items):
        if any(text(i.inputs[0][1]) == "hangs" for i in items):
            await trio.sleep(math.inf)
        await trio.sleep(0.3)
        return echo(items)

    async def scenario(bench):
        bench.attempt("before")
        await trio.testing.wait_all_tasks_blocked()
        for name in ("a", "hangs", "b"):
            bench.attempt(name, attempts=2)

    bench = await run_bench(scenario, work)
    assert kinds(bench) == {"before": Done, "a": Done, "b": Done, "hangs": Failed}
    assert sizes(bench) == [1, 3, 1, 1, 1]


async def test_a_worker_that_dies_costs_its_neighbours_nothing(autojump_clock, run_bench):
    async def work(items):
        if any(text(i.inputs[0][1]) == "poison" for i in items):
            raise ReplicaDeath
        return await quick(items)

    async def scenario(bench):
        for name in ("a", "poison", "b", "c"):
            bench.attempt(name)

    bench = await run_bench(scenario, work)
    assert kinds(bench) == {"a": Done, "b": Done, "c": Done, "poison": Failed}
    assert bench.pool.deaths == 2


async def test_a_batch_that_raises_is_split_until_the_culprit_stands_alone(autojump_clock, run_bench):
    async def work(items):
        await trio.lowlevel.checkpoint()
        if any(text(i.inputs[0][1]) == "x" for i in items):
            return [Failed(InternalError("Prediction failed"))] * len(items)
        return echo(items)

    async def scenario(bench):
        for name in ("a", "b", "c", "x", "d", "e", "f", "g"):
            bench.attempt(name)

    bench = await run_bench(scenario, work)
    assert [name for name, kind in kinds(bench).items() if kind is Failed] == ["x"]
    assert len(bench.outcomes) == 8
    assert sorted(sizes(bench), reverse=True) == [8, 4, 4, 2, 2, 1, 1]


async def test_what_is_run_again_gives_up_on_workers_that_do_not_come_back(autojump_clock, run_bench):
    async def work(items):
        raise ReplicaDeath

    async def scenario(bench):
        bench.pool._restart = math.inf
        for name in "ab":
            bench.attempt(name)

    bench = await run_bench(scenario, work, startup_timeout=9.0)
    assert kinds(bench) == {"a": Failed, "b": Failed}
    assert sorted(when for when, _ in bench.outcomes.values()) == pytest.approx([10.0, 20.0])


async def test_isolate_off_runs_nothing_again(autojump_clock, run_bench):
    async def work(items):
        await trio.lowlevel.checkpoint()
        return [Failed(InternalError("Prediction failed"))] * len(items)

    async def scenario(bench):
        for name in "abc":
            bench.attempt(name)

    bench = await run_bench(scenario, work, isolate=False)
    assert sizes(bench) == [3]
    assert set(kinds(bench).values()) == {Failed}


async def test_a_result_of_one_item_does_not_touch_the_others(autojump_clock, run_bench):
    async def work(items):
        await trio.lowlevel.checkpoint()
        done = echo(items)
        done[1].payload.release()
        done[1] = Failed(InternalError("Prediction failed"), splittable=False)
        return done

    async def scenario(bench):
        for name in "abc":
            bench.attempt(name)

    bench = await run_bench(scenario, work)
    assert sorted(kind.__name__ for kind in kinds(bench).values()) == ["Done", "Done", "Failed"]
    assert sizes(bench) == [3]


async def test_the_pool_grows_while_requests_wait(autojump_clock, run_bench):
    async def scenario(bench):
        for name in "abcdef":
            bench.attempt(name)
            await trio.sleep(0.01)

    bench = await run_bench(scenario, slow, batch_size=1, max_workers=3)
    assert bench.pool.statistics().wanted == 3


async def test_a_deserted_batch_that_hangs_is_stopped_all_the_same(autojump_clock, run_bench):
    async def work(items):
        if text(items[0].inputs[0][1]) == "hangs":
            await trio.sleep(math.inf)
        return echo(items)

    async def scenario(bench):
        with trio.move_on_after(0.5):
            given = item(bench.transport, b"hangs")
            try:
                await bench.stage.attempt(given)
            finally:
                release(given)
        bench.attempt("next")

    bench = await run_bench(scenario, work)
    assert bench.pool.deaths == 1
    assert bench.outcomes["next"][0] == pytest.approx(1.0)
    assert kinds(bench) == {"next": Done}


@pytest.mark.parametrize("moment", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("work", [quick, slow, hang])
async def test_a_cancelled_attempt_leaves_nothing(autojump_clock, run_bench, work, moment):
    async def scenario(bench):
        async def leave(after):
            given = item(bench.transport, b"leaves")
            try:
                with trio.move_on_after(after):
                    outcome = await bench.stage.attempt(given)
                    outcome.payload.release()
            finally:
                release(given)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, moment)
            nursery.start_soon(leave, moment / 2)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(leave, moment)
        assert len(bench.stage.queue) == 0

    await run_bench(scenario, work, batch_size=2)  # the fixture asserts that no slot is left


async def test_a_result_that_comes_with_the_cancellation_is_not_lost(autojump_clock, run_bench):
    """Both in one scheduler tick: the batch ends at 0.5, and so does the client's patience."""

    async def scenario(bench):
        for delay in (0.5, 0.5 + 1e-12, 0.5 - 1e-12):
            given = item(bench.transport, b"late")
            with trio.move_on_after(delay):
                outcome = await bench.stage.attempt(given)
                outcome.payload.release()
            release(given)
            await trio.sleep(1)

    await run_bench(scenario, slow)


async def test_a_deserted_batch_is_stopped_once_however_long_its_death_takes(autojump_clock, run_bench):
    """A stage that asked again and again would keep the virtual clock from ever moving on."""
    stops = []

    async def unwilling(items):
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return echo(items)

    async def scenario(bench):
        stop = bench.pool.stop

        def noted(batch):
            stops.append(trio.current_time() - bench.opened)
            stop(batch)

        bench.pool.stop = noted
        with trio.move_on_after(0.5):
            given = item(bench.transport)
            try:
                await bench.stage.attempt(given)
            finally:
                release(given)
        await trio.sleep(10)

    await run_bench(scenario, unwilling, timeout=1.0)
    assert stops == [pytest.approx(1.0)]


async def test_one_that_waits_long_grows_the_pool_though_nothing_else_happens(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("runs")
        await trio.testing.wait_all_tasks_blocked()
        bench.attempt("waits")

    async def long(items):
        await trio.sleep(8)
        return echo(items)

    bench = await run_bench(scenario, long, timeout=10.0, max_workers=3)
    assert bench.pool.statistics().wanted == 2
    assert bench.outcomes["waits"][0] == pytest.approx(8 + STANDING, abs=0.1)


async def test_a_stage_without_workers_refuses_what_waits_and_what_comes(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("runs")
        await trio.testing.wait_all_tasks_blocked()
        bench.attempt("waits")
        await trio.testing.wait_all_tasks_blocked()
        bench.stage.resize(0, 0)
        bench.attempt("comes")

    bench = await run_bench(scenario, slow)
    assert kinds(bench) == {"runs": Done, "waits": Failed, "comes": NoWorkerError}
    assert [round(bench.outcomes[name][0], 6) for name in ("runs", "waits", "comes")] == [0.5, 0, 0]
    waited, came = bench.outcomes["waits"][1].error, bench.outcomes["comes"][1]
    assert waited.message == came.message
    assert came.message.startswith('Model "w__n" has no worker to serve inference request.')
    assert bench.pool.statistics().replicas == []


async def test_what_has_to_run_again_is_refused_where_there_is_no_worker_left(autojump_clock, run_bench):
    async def work(items):
        await trio.sleep(0.5)
        raise ReplicaDeath

    async def scenario(bench):
        for name in "ab":
            bench.attempt(name)
        await trio.testing.wait_all_tasks_blocked()
        bench.stage.resize(0, 0)

    bench = await run_bench(scenario, work)
    assert {when for when, _ in bench.outcomes.values()} == {0.5}
    assert all("no worker" in outcome.error.message for _, outcome in bench.outcomes.values())


async def test_a_stage_that_may_have_workers_gets_one_when_it_needs_one(autojump_clock, run_bench):
    async def scenario(bench):
        bench.stage.resize(0, 0)
        bench.stage.resize(0, 2)
        assert bench.pool.statistics().wanted == 0
        bench.attempt("a")

    bench = await run_bench(scenario, quick)
    assert kinds(bench) == {"a": Done}
    assert bench.pool.statistics().wanted == 1


@pytest.mark.parametrize(
    ("bounds", "expected"), [((2, 2), 2), ((3, 5), 3), ((1, 1), 1), ((0, 1), 1), ((0, 0), 0)]
)
async def test_resizing_keeps_as_many_replicas_as_it_can(autojump_clock, run_bench, bounds, expected):
    async def scenario(bench):
        bench.stage.resize(*bounds)
        await bench.pool.settled()
        assert bench.pool.statistics().wanted == expected
        settings = bench.stage.settings
        assert (settings.min_workers, settings.max_workers) == bounds

    await run_bench(scenario, quick, min_workers=2, max_workers=2, replicas=2)


async def test_a_stage_that_grew_by_load_keeps_growing_within_its_new_bounds(autojump_clock, run_bench):
    async def scenario(bench):
        bench.stage.resize(1, 2)
        for name in "abcdef":
            bench.attempt(name)
            await trio.sleep(0.01)

    bench = await run_bench(scenario, slow, batch_size=1, max_workers=5, timeout=9.0)
    assert bench.pool.statistics().wanted == 2
