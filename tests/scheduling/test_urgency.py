"""Urgent items overtake, hopeless ones are refused, and a batch waits for what is known to be coming."""

import pytest
import trio

from tests.stages import kinds, sizes, slow
from tests.support import text
from wfserve.errors import InternalError, TooLateError
from wfserve.scheduling.cost import ENOUGH
from wfserve.scheduling.policy import Coming, urgency
from wfserve.workers.base import Done, Failed, Terms
from wfserve.workers.fake import echo


def by(deadline, priority=5):
    when = trio.current_time() + deadline
    return Terms(when, urgency(when, priority, asked_for=True), when)


async def steady(items):
    """Take 0.1 s a batch and 0.01 s an item."""
    await trio.sleep(0.1 + 0.01 * len(items))
    return echo(items)


async def learn(bench, names="ab"):
    """Send enough batches, of two sizes, for the stage to know what they cost."""
    for number in range(ENOUGH):
        for name in names[: 1 + number % 2]:
            bench.attempt(f"{name}{number}")
        await trio.sleep(0.5)


def ends(bench, *names):
    return [round(bench.outcomes[name][0] - min(bench.outcomes[n][0] for n in names), 3) for name in names]


async def test_the_earliest_deadline_runs_first(autojump_clock, run_bench):
    async def scenario(bench):
        bench.attempt("runs")
        await trio.testing.wait_all_tasks_blocked()
        bench.attempt("late", terms=by(9.0))
        bench.attempt("soon", terms=by(8.0))
        bench.attempt("dear", terms=by(9.0, 6))

    bench = await run_bench(scenario, slow, batch_size=1, timeout=5.0)
    assert ends(bench, "soon", "dear", "late") == [0, 0.5, 1.0]


async def test_what_cannot_end_in_time_is_refused_when_it_comes(autojump_clock, run_bench):
    async def scenario(bench):
        await learn(bench)
        for name in "xyz":
            bench.attempt(name, terms=by(0.3))
            await trio.testing.wait_all_tasks_blocked()

    bench = await run_bench(scenario, steady, batch_size=2, timeout=5.0)
    assert [kinds(bench)[name] for name in "xyz"] == [Done, Done, Done]  # 0.11, then 0.12 for both
    bench = await run_bench(scenario, steady, batch_size=1, timeout=5.0)
    assert [kinds(bench)[name] for name in "xyz"] == [Done, Done, TooLateError]
    refusal = bench.outcomes["z"][1]
    assert refusal.retry_after == 1
    assert bench.stage.statistics().refused == 1


async def test_what_a_slower_batch_has_made_late_is_not_computed(autojump_clock, run_bench):
    extra = 0.0

    async def work(items):
        await trio.sleep(extra)
        return await steady(items)

    async def scenario(bench):
        nonlocal extra
        await learn(bench)
        extra = 1.0
        bench.attempt("slow")
        await trio.testing.wait_all_tasks_blocked()
        extra = 0.0
        bench.attempt("late", terms=by(0.5))
        bench.attempt("patient", terms=by(5.0))

    bench = await run_bench(scenario, work, batch_size=1, timeout=5.0)
    assert kinds(bench)["late"] is Failed
    assert isinstance(bench.outcomes["late"][1].error, TooLateError)
    assert kinds(bench)["patient"] is Done
    assert sum(sizes(bench)) == len(bench.outcomes) - 1


async def test_one_slow_time_does_not_refuse_for_ever(autojump_clock, run_bench):
    pace = 2.0

    async def work(items):
        await trio.sleep(pace)
        return echo(items)

    async def scenario(bench):
        nonlocal pace
        for number in range(ENOUGH):
            bench.attempt(f"slow{number}")
            await trio.sleep(2.1)
        pace = 0.01
        for number in range(100):
            bench.attempt(f"quick{number}", terms=by(1.0))
            await trio.sleep(0.2)

    bench = await run_bench(scenario, work, batch_size=1, timeout=5.0)
    made = [kind for name, kind in kinds(bench).items() if name.startswith("quick")]
    assert made.count(TooLateError) > 0
    assert made[-20:] == [Done] * 20


async def test_a_batch_waits_for_what_a_source_says_is_coming(autojump_clock, run_bench):
    class Source:
        def coming(self, now):
            return self.expected

    async def scenario(bench):
        await learn(bench)
        source = Source()
        source.expected, bench.stage.sources = Coming(1, trio.current_time() + 0.02), (source,)
        bench.attempt("first")
        await trio.sleep(0.02)
        source.expected = Coming()
        bench.attempt("second")
        await trio.sleep(1)
        source.expected = Coming(1, trio.current_time() + 0.02)
        bench.attempt("lonely")
        await trio.sleep(1)

    bench = await run_bench(scenario, steady, timeout=5.0, batch_delay=0.03)
    assert sizes(bench)[-2:] == [2, 1]
    learned = bench.outcomes[f"a{ENOUGH - 1}"][0]
    assert bench.outcomes["lonely"][0] > learned


async def test_a_batch_waits_no_longer_than_its_delay(autojump_clock, run_bench):
    class Source:
        def coming(self, now):
            return Coming(7, now + 0.01)

    async def scenario(bench):
        await learn(bench)
        bench.stage.sources = (Source(),)
        self_opened = trio.current_time() - bench.opened
        bench.attempt("held")
        await trio.sleep(1)
        assert bench.outcomes["held"][0] - self_opened == pytest.approx(0.04 + 0.11)

    await run_bench(scenario, steady, timeout=5.0, batch_delay=0.04)


async def test_a_stage_says_what_will_leave_it_and_when(autojump_clock, run_bench):
    async def scenario(bench):
        assert bench.stage.coming(0.0) == Coming()
        await learn(bench)
        now = trio.current_time()
        bench.attempt("x")
        bench.attempt("y")
        await trio.testing.wait_all_tasks_blocked()
        assert bench.stage.coming(now) == (2, pytest.approx(now + 0.12))

    await run_bench(scenario, steady, timeout=5.0)


async def test_calls_that_are_dear_to_begin_with_come_to_share_a_hop(autojump_clock, run_bench):
    async def work(items):
        await trio.sleep(0.004 + 0.00021 * len(items))
        return echo(items)

    async def scenario(bench):
        for number in range(20):
            for name in range(40):
                bench.attempt(f"{number} {name}")
            await trio.sleep(1)
        before = len(bench.pool.batches)
        for name in range(40):
            bench.attempt(f"last {name}")
        await trio.sleep(1)
        assert [len(batch.items) for batch in bench.pool.batches[before:]] == [9, 9, 9, 9, 4]

    await run_bench(scenario, work, one_by_one=True, batch_size=1, timeout=5.0)


async def stacking(items):
    """Fail as one where shapes differ, as `torch.stack` does."""
    await trio.lowlevel.checkpoint()
    if len({item.shapes for item in items}) > 1:
        return [Failed(InternalError("ragged")) for _ in items]
    return echo(items)


async def test_ragged_inputs_are_run_again_by_shape_and_kept_apart_from_then_on(autojump_clock, run_bench):
    async def scenario(bench):
        for name, shape in (("ab", (2,)), ("c", (1,)), ("de", (2, 1)), ("fg", (2,))):
            bench.attempt(name, shape=shape)
        await trio.sleep(1)
        for name, shape in (("hi", (2,)), ("j", (1,)), ("kl", (2,))):
            bench.attempt(name, shape=shape)

    bench = await run_bench(scenario, stacking)
    assert set(kinds(bench).values()) == {Done}
    assert sizes(bench)[0] == 4
    assert sorted(sizes(bench)[1:4]) == [1, 1, 2]
    assert sorted(sizes(bench)[4:]) == [1, 2]
    assert bench.stage.statistics().attempts == 7


async def test_one_that_fails_among_several_shapes_is_no_proof_that_shapes_must_agree(
    autojump_clock, run_bench
):
    async def picky(items):
        await trio.lowlevel.checkpoint()
        if any(text(item.inputs[0][1]) == "x" for item in items):
            return [Failed(InternalError("poison")) for _ in items]
        return echo(items)

    async def scenario(bench):
        for name in ("x", "ab", "cd"):
            bench.attempt(name, shape=(len(name),))
        await trio.sleep(1)
        for name in ("e", "fg"):
            bench.attempt(name, shape=(len(name),))

    bench = await run_bench(scenario, picky)
    assert [name for name, kind in kinds(bench).items() if kind is Failed] == ["x"]
    assert sizes(bench)[-1] == 2


async def test_what_may_not_be_run_twice_is_kept_apart_from_the_start(autojump_clock, run_bench):
    async def scenario(bench):
        for name in ("ab", "c", "de"):
            bench.attempt(name, shape=(len(name),))

    bench = await run_bench(scenario, stacking, isolate=False)
    assert set(kinds(bench).values()) == {Done}
    assert sorted(sizes(bench)) == [1, 2]


async def test_what_is_held_back_when_a_batch_ends_goes_when_it_has_waited_enough(autojump_clock, run_bench):
    class Source:
        expected = Coming()

        def coming(self, now):
            return self.expected

    async def scenario(bench):
        await learn(bench)
        source = Source()
        bench.stage.sources = (source,)
        bench.attempt("runs")
        await trio.testing.wait_all_tasks_blocked()
        source.expected = Coming(7, trio.current_time() + 0.13)  # and never comes
        bench.attempt("held")
        began = trio.current_time() - bench.opened
        await trio.sleep(3)
        assert bench.outcomes["held"][0] - began < 0.11 + 0.1 + 0.11

    await run_bench(scenario, steady, timeout=5.0, batch_delay=0.15, batch_size=4)


async def test_raw_bodies_of_several_lengths_are_told_apart_too(autojump_clock, run_bench):
    async def picky(items):
        await trio.lowlevel.checkpoint()
        if len({len(text(item.inputs[0][1])) for item in items}) > 1:
            return [Failed(InternalError("ragged")) for _ in items]
        return echo(items)

    async def scenario(bench):
        for name in ("aa", "bb", "c", "d"):
            bench.attempt(name)
        await trio.sleep(1)
        for name in ("ee", "f", "gg", "h"):
            bench.attempt(name)

    bench = await run_bench(scenario, picky)
    assert set(kinds(bench).values()) == {Done}
    assert sizes(bench) == [4, 2, 2, 2, 2]
    bench = await run_bench(scenario, picky, isolate=False)
    assert sizes(bench) == [2, 2, 2, 2]
