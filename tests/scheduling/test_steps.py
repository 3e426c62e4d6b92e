"""A stage of several nodes charges the one that fails, times the one that runs, and goes on where it was."""

import pytest
import trio
import trio.testing

from tests.support import item, payload, text
from wfserve.errors import InternalError, WorkerDiedError
from wfserve.scheduling.dispatch import Stage
from wfserve.scheduling.settings import StageSettings, StepSettings
from wfserve.workers.base import Done, Failed, Ran
from wfserve.workers.fake import FakePool, ReplicaDeath

A, B, C = (f"w__{node}" for node in "abc")


class Bench:
    """A stage of three steps on a fake pool, whose work is told which step each batch begins with."""

    def __init__(self, transport, nursery, work, timeouts=(1.0, 1.0, 1.0), isolate=True, **settings):
        self.transport = transport
        self.nursery = nursery
        self.log = []  # (first step, bodies) of every batch
        self.outcomes = {}
        self.news = trio.Event()

        async def recorded(items):
            self.log.append((items[0].first, [text(each.inputs[0][1]) for each in items]))
            return await work(self, items)

        steps = [
            StepSettings(name, timeout, isolate=isolate)
            for name, timeout in zip((A, B, C), timeouts, strict=True)
        ]
        self.stage = Stage(
            StageSettings(
                A, timeouts[0], isolate=isolate, following=tuple(steps[1:]), **{"batch_size": 8} | settings
            ),
            lambda listener: FakePool(listener, recorded),
        )
        self.pool = self.stage.pool

    @property
    def batch(self):
        return self.pool.batches[-1]

    def put(self, words):
        return payload(self.transport, words.encode())

    def attempt(self, name, first=0, last=2):
        self.nursery.start_soon(self._attempt, name, first, last)

    async def _attempt(self, name, first, last):
        given = item(self.transport, name.encode())
        (_, own), given.first, given.last = given.inputs[0], first, last
        outcome = await self.stage.attempt(given)
        self.outcomes[name] = outcome, trio.current_time(), given.first
        self.news.set()
        self.news = trio.Event()
        if isinstance(outcome, Done):
            outcome.payload.release()
        given.forget()
        given.headers.release()
        own.release()

    def failure(self, name):
        outcome, _, first = self.outcomes[name]
        return outcome.step, outcome.error.message, first


@pytest.fixture
def running(transport):
    """Run a bench until its work is done, with attempts that were made before."""

    async def run(work, *names, seconds=100.0, **settings):
        async with trio.open_nursery() as nursery:
            bench = Bench(transport, nursery, work, **settings)
            async with bench.pool.running():
                for name in names:
                    bench.attempt(name)
                    await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(bench.stage.serve)
                with trio.fail_after(seconds):
                    while len(bench.outcomes) < len(names):
                        await bench.news.wait()
                nursery.cancel_scope.cancel()
        return bench

    return run


def handed_on(bench, items):
    return [Done(each.inputs[0][1].share()) for each in items]


async def test_what_fails_in_the_middle_is_charged_there_and_goes_on_there(running, autojump_clock):
    async def work(bench, items):
        await trio.lowlevel.checkpoint()
        if items[0].first == 0:
            error = InternalError("Prediction failed")
            return [Failed(error, splittable=False, step=1, reached=bench.put("half")) for _ in items]
        return handed_on(bench, items)

    bench = await running(work, "x")
    assert bench.failure("x") == (1, "Prediction failed", 1)
    assert [bench.stage.statistics(step).attempts for step in range(3)] == [1, 0, 0]


async def test_a_step_that_fails_for_its_batch_is_split_there(running, autojump_clock):
    async def work(bench, items):
        await trio.lowlevel.checkpoint()
        words = [text(each.inputs[0][1]) for each in items]
        if not any("x" in word for word in words):
            return handed_on(bench, items)
        error = InternalError("Prediction failed")
        reached = [None] * len(items) if items[0].first else [bench.put(f"{word} half") for word in words]
        return [Failed(error, len(items) > 1, 1, payload) for payload in reached]

    bench = await running(work, "a", "b", "x", "c")
    assert bench.failure("x") == (1, "Prediction failed", 1)
    assert all(isinstance(bench.outcomes[name][0], Done) for name in "abc")
    assert bench.log == [
        (0, ["a", "b", "x", "c"]),
        (1, ["a half", "b half"]),
        (1, ["x half", "c half"]),
        (1, ["x half"]),
        (1, ["c half"]),
    ]
    assert bench.stage.statistics(1).reruns == 6


async def test_without_isolation_nothing_is_run_again(running, autojump_clock):
    async def work(bench, items):
        await trio.lowlevel.checkpoint()
        return [Failed(InternalError("no"), step=2, reached=bench.put("half")) for _ in items]

    bench = await running(work, "a", "b", isolate=False)
    assert len(bench.log) == 1
    assert bench.failure("a") == (2, "no", 2)


async def test_a_lost_batch_goes_on_one_by_one_where_it_was(running, autojump_clock):
    async def work(bench, items):
        await trio.lowlevel.checkpoint()
        if len(items) > 1:
            raise ReplicaDeath(2, {0: bench.put("a half"), 2: bench.put("c half")})
        return handed_on(bench, items)

    bench = await running(work, "a", "b", "c")
    assert sorted(bench.log[1:]) == [(0, ["b"]), (2, ["a half"]), (2, ["c half"])]


async def test_a_lone_item_of_a_lost_batch_is_charged_where_it_was(running, autojump_clock):
    async def work(bench, items):
        await trio.lowlevel.checkpoint()
        raise ReplicaDeath(1, {0: bench.put("half")})

    bench = await running(work, "x")
    outcome, _, first = bench.outcomes["x"]
    assert isinstance(outcome.error, WorkerDiedError)
    assert (outcome.step, first) == (1, 1)


@pytest.mark.parametrize(
    ("timeouts", "entered", "expected"),
    [
        ((1.0, 5.0, 1.0), 0.5, 5.5),  # the first step was in time, the second has its own
        ((10.0, 0.7, 0.7), 0.1, 0.8),  # a shorter one behind a longer one is noticed in time
        ((1.0, 1.0, 30.0), 0.9, 1.9),
        ((0.3, 0.3, 0.3), 0.2, 0.5),
    ],
)
async def test_a_step_that_hangs_is_stopped_when_its_own_time_is_up(
    running, autojump_clock, timeouts, entered, expected
):
    async def work(bench, items):
        await trio.sleep(entered)
        bench.pool.at(bench.batch, 1)
        await trio.sleep_forever()

    began = trio.current_time()
    bench = await running(work, "x", timeouts=timeouts)
    outcome, when, _ = bench.outcomes["x"]
    assert outcome.step == 1
    assert when - began == pytest.approx(expected, abs=0.01)


async def test_steps_in_time_may_take_longer_together_than_each(running, autojump_clock):
    async def work(bench, items):
        for step in range(3):
            bench.pool.at(bench.batch, step)
            await trio.sleep(0.9)
        return handed_on(bench, items)

    bench = await running(work, "x")
    assert isinstance(bench.outcomes["x"][0], Done)


async def test_who_waits_for_a_slow_step_has_its_time(running, autojump_clock):
    """The queue of the stage is the slow node's: the first node's timeout is not for waiting there."""

    async def work(bench, items):
        bench.pool.at(bench.batch, 1)
        await trio.sleep(0.7)
        return handed_on(bench, items)

    bench = await running(work, *"abcdefgh", timeouts=(1.0, 60.0, 1.0), batch_size=1)
    assert all(isinstance(outcome, Done) for outcome, _, _ in bench.outcomes.values())


async def test_a_first_step_that_hangs_is_stopped_at_its_time(running, autojump_clock):
    async def work(bench, items):
        await trio.sleep_forever()

    began = trio.current_time()
    bench = await running(work, "x", timeouts=(1.0, 0.2, 0.2))
    assert bench.outcomes["x"][0].step == 0
    assert bench.outcomes["x"][1] - began == pytest.approx(1.0, abs=0.01)


async def test_what_each_step_did_is_counted_for_it(running, autojump_clock):
    class Pool(FakePool):
        def _report(self, batch, outcomes):
            batch.ran = (Ran(0.1, 2), Ran(0.2, 2), Ran(0.3, 2))
            super()._report(batch, outcomes)

    async def work(bench, items):
        bench.pool.__class__ = Pool
        await trio.sleep(0.6)
        return handed_on(bench, items)

    stage = (await running(work, "a", "b")).stage
    assert [stage.statistics(step).batched_items for step in range(3)] == [2, 2, 2]
    assert [stage.measured(step).busy for step in range(3)] == [0.1, 0.2, 0.3]
    assert [stage.measured(step).run_time.sum for step in range(3)] == pytest.approx(
        [0.1, 0.2, 0.3], abs=0.01
    )
    assert [stage.measured(step).latency for step in (1, 2)] == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("moment", [0.05, 0.3, 0.8])
async def test_cancelled_anywhere_nothing_stays(transport, autojump_clock, moment):
    async def work(bench, items):
        await trio.sleep(0.1)
        if items[0].first == 0:
            error = InternalError("Prediction failed")
            return [Failed(error, len(items) > 1, 1, bench.put("half")) for _ in items]
        await trio.sleep(1)
        return handed_on(bench, items)

    async with trio.open_nursery() as nursery:
        bench = Bench(transport, nursery, work)
        async with bench.pool.running():
            nursery.start_soon(bench.stage.serve)
            async with trio.open_nursery() as clients:
                for name in "abc":
                    clients.start_soon(_guarded, bench, name)
                await trio.sleep(moment)
                clients.cancel_scope.cancel()
            assert len(bench.stage.queue) == 0
            await trio.sleep(10)
        nursery.cancel_scope.cancel()


async def _guarded(bench, name):
    given = item(bench.transport, name.encode())
    (_, own), given.last = given.inputs[0], 2
    try:
        while True:
            outcome = await bench.stage.attempt(given)
            if isinstance(outcome, Done):
                outcome.payload.release()
    finally:
        given.forget()
        given.headers.release()
        own.release()
