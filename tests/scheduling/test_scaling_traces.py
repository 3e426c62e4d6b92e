"""Over recorded arrivals a pool is large soon enough, no longer than it pays, and does not flap."""

import csv
import itertools
from pathlib import Path

import pytest
import trio

from tests.support import item, release
from wfserve.scheduling.scaling import SLICE
from wfserve.workers.base import Done
from wfserve.workers.fake import echo

TRACES = Path(__file__).parent / "traces"
WINDOW = 8.0  # seconds
START = 0.2  # seconds that a replica takes to load
MOST = 4


async def work(items):
    """Ten items a second, in batches of four."""
    await trio.sleep(0.04 + 0.09 * len(items))
    return echo(items)


class Run:
    """How many replicas were wanted when, and how long each item took (seconds)."""

    def __init__(self):
        self.wanted = [(0.0, 1)]
        self.times = []
        self.outcomes = set()

    def starts(self):
        return sum(max(0, b - a) for (_, a), (_, b) in itertools.pairwise(self.wanted))

    def stops(self):
        return sum(max(0, a - b) for (_, a), (_, b) in itertools.pairwise(self.wanted))

    def replica_seconds(self, until):
        ends = [when for when, _ in self.wanted[1:]] + [until]
        return sum((end - begin) * count for (begin, count), end in zip(self.wanted, ends, strict=True))

    def first(self, count):
        """When so many were wanted for the first time."""
        return next(when for when, wanted in self.wanted if wanted >= count)

    def at(self, second):
        return [wanted for when, wanted in self.wanted if when <= second][-1]

    def took(self, percent):
        return sorted(self.times)[len(self.times) * percent // 100]


@pytest.fixture
def replay(run_bench):
    """Send the arrivals of a trace through a stage, wait for its pool to shrink, and say what happened."""

    async def replay(name, **settings):
        run = Run()

        async def scenario(bench):
            _record(bench, run)
            with (TRACES / f"{name}.csv").open() as file:
                for row in csv.DictReader(file):
                    await trio.sleep_until(bench.opened + float(row["second"]))
                    for _ in range(int(row["arrivals"])):
                        bench.nursery.start_soon(_attempt, bench, run)
            await trio.sleep(2 * WINDOW)

        settings = {"timeout": 60.0, "batch_size": 4, "queue_size": 1000, "max_workers": MOST} | settings
        await run_bench(scenario, work, idle_timeout=WINDOW, **settings)
        assert run.outcomes == {Done}
        return run

    return replay


async def _attempt(bench, run):
    given = item(bench.transport, b"x")
    begun = trio.current_time()
    outcome = await bench.stage.attempt(given)
    run.times.append(trio.current_time() - begun)
    run.outcomes.add(type(outcome))
    outcome.payload.release()
    release(given)


def _record(bench, run):
    """Write down what is wanted, and have replicas take `START` to come."""
    scale = bench.pool.scale

    async def come(wanted):
        await trio.sleep(START)
        scale(min(wanted, run.wanted[-1][1]))

    def recorded(wanted):
        grows = wanted > run.wanted[-1][1]
        run.wanted.append((trio.current_time() - bench.opened, wanted))
        if grows:
            bench.nursery.start_soon(come, wanted)
        else:
            scale(wanted)

    bench.pool.scale = recorded


async def test_a_step_is_answered_within_a_second_and_undone_after_the_window(autojump_clock, replay):
    run = await replay("step")
    assert 10 <= run.first(2) <= 10.6
    assert run.first(MOST) <= 12
    assert run.took(50) <= 1.0
    assert run.at(30) == MOST
    assert run.at(30 + 2 * WINDOW) == 1
    assert run.starts() <= MOST
    assert run.replica_seconds(60) <= 60 + (MOST - 1) * (20 + 1.75 * WINDOW)


async def test_a_day_is_followed(autojump_clock, replay):
    run = await replay("day")
    assert run.first(3) > 20  # not at night
    assert run.at(80) >= 3
    assert run.at(120 + WINDOW + 2 * SLICE) == 1
    assert run.starts() <= 8
    assert run.replica_seconds(120) <= 0.65 * MOST * 120
    assert run.took(99) <= 2.0


async def test_a_load_that_flaps_starts_each_replica_once(autojump_clock, replay):
    run = await replay("flapping")
    assert run.first(2) < 4
    assert run.starts() <= MOST - 1
    assert run.at(60) == 1 + run.starts()  # nothing has been stopped meanwhile
    assert run.stops() == run.starts()


@pytest.mark.parametrize("name", ["bursts", "below"])
async def test_what_one_replica_can_take_starts_no_other(autojump_clock, replay, name):
    run = await replay(name)
    assert run.starts() == 0


async def test_to_zero_and_back_without_a_failure(autojump_clock, replay):
    run = await replay("bursts", min_workers=0)
    assert run.starts() == 0  # the pause is shorter than the window
    assert run.wanted[-1][1] == 0


async def test_while_memory_is_scarce_nothing_is_added(autojump_clock, replay):
    run = await replay("step", pressure=lambda now: True)
    assert run.starts() == 0


async def test_what_is_idle_goes_at_once_when_memory_becomes_scarce(autojump_clock, replay):
    run = await replay("step", pressure=lambda now: now >= 31)
    assert run.at(30) == MOST
    assert run.at(36) == 1  # what waited at 30 has been served
