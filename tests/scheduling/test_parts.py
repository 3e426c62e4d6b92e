"""What is divided is put together in order, shared out one part a worker, and lost whole or not at all."""

import pytest
import trio

from tests.stages import kinds, sizes
from tests.support import payload, text
from wfserve.errors import InternalError, ServiceUnavailableError
from wfserve.workers.base import Done, Failed, Form, Parts
from wfserve.workers.fake import echo


def dividing(transport, pause=1.0, fails=()):
    """Work that divides "abc" into a, b and c, makes them upper case, and joins what it is given to join."""

    async def work(items):
        form = items[0].form
        if form is Form.DIVISIBLE:
            await trio.lowlevel.checkpoint()
            letters = [text(item.inputs[0][1]) for item in items]
            return [Parts(tuple(payload(transport, each.encode()) for each in word)) for word in letters]
        if form is Form.PART:
            (item,) = items
            word = text(item.inputs[0][1])
            await trio.sleep(pause)
            if word in fails:
                return [Failed(InternalError(word), splittable=False)]
            return [Done(payload(transport, word.upper().encode()))]
        if form is Form.JOINED:
            await trio.lowlevel.checkpoint()
            joined = ["".join(text(given) for _, given in item.inputs) for item in items]
            return [Done(payload(transport, each.lower().encode()), each.encode()) for each in joined]
        return echo(items)

    return work


async def test_parts_run_side_by_side_one_a_worker_and_are_joined_in_order(
    autojump_clock, run_bench, transport
):
    async def scenario(bench):
        bench.attempt("abcdef")

    bench = await run_bench(
        scenario, dividing(transport), divisible=True, replicas=3, max_workers=3, timeout=5.0
    )
    assert kinds(bench) == {"abcdef": Done}
    when, outcome = bench.outcomes["abcdef"]
    assert outcome.response == b"ABCDEF"
    assert when == pytest.approx(2.0)
    assert sizes(bench) == [1] * 8


@pytest.mark.parametrize("settings", [{"divisible": False, "max_workers": 3}, {"divisible": True}])
async def test_one_worker_alone_gets_it_whole(autojump_clock, run_bench, transport, settings):
    async def scenario(bench):
        bench.attempt("abc")

    bench = await run_bench(scenario, dividing(transport), **settings)
    assert sizes(bench) == [1]


async def test_a_part_that_fails_ends_the_others(autojump_clock, run_bench, transport):
    async def scenario(bench):
        bench.attempt("abcdef")

    bench = await run_bench(
        scenario, dividing(transport, fails="c"), divisible=True, replicas=2, max_workers=2, timeout=5.0
    )
    when, outcome = bench.outcomes["abcdef"]
    assert isinstance(outcome, Failed)
    assert outcome.error.message == "c"
    assert when == pytest.approx(2.0)


async def test_a_part_that_finds_no_place_fails_the_whole(autojump_clock, run_bench, transport):
    async def scenario(bench):
        bench.attempt("ab")
        await trio.sleep(0.5)
        bench.stage.resize(0, 0)

    bench = await run_bench(
        scenario, dividing(transport), divisible=True, replicas=2, max_workers=2, timeout=5.0
    )
    refused = bench.outcomes["ab"][1]
    assert isinstance(refused, ServiceUnavailableError) or isinstance(refused.error, ServiceUnavailableError)


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.5, 2.0])
async def test_one_that_is_given_up_leaves_nothing(autojump_clock, run_bench, transport, moment):
    async def scenario(bench):
        bench.attempt("abcdef")
        await trio.sleep(moment)
        bench.nursery.cancel_scope.cancel()

    bench = await run_bench(
        scenario, dividing(transport), divisible=True, replicas=2, max_workers=2, timeout=5.0
    )
    assert len(bench.stage.queue) == 0
