"""A walk answers, fails or is cancelled as a whole: siblings end, retries count, nothing stays behind."""

import math
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.support import payload, text
from wfserve.dag.graph import Graph
from wfserve.dag.walk import Call, Request, Route, Walk, patience, walk
from wfserve.errors import (
    BadRequestError,
    InternalError,
    NoWorkerError,
    OutOfMemoryError,
    PredictionError,
    ServiceUnavailableError,
)
from wfserve.scheduling.dispatch import Stage
from wfserve.scheduling.policy import urgency
from wfserve.scheduling.settings import StageSettings
from wfserve.transport.memory import MemoryTransport
from wfserve.workers.base import Done, Failed
from wfserve.workers.fake import FakePool

DIAMOND = {"pre": ["a", "b"], "a": ["post"], "b": ["post"]}


@pytest.fixture
def transport():
    with MemoryTransport(1 << 20) as made:
        yield made
        assert made.arena.statistics().slots == 0


@pytest.fixture
def serving(transport):
    """Open a route whose nodes append their name to each input; `works` replaces some of them."""

    def named(node):
        async def work(items):
            await trio.lowlevel.checkpoint()
            joined = [" ".join(f"{p}:{text(given)}" for p, given in i.inputs) for i in items]
            return [Done(payload(transport, f"({each}){node}".encode())) for each in joined]

        return work

    @asynccontextmanager
    async def serve(dag, works=None, **settings):
        graph = Graph.from_edges(dag)
        stages = {}
        async with trio.open_nursery() as nursery:
            for node in graph.nodes:
                work = (works or {}).get(node, named(node))
                stages[node] = Stage(
                    StageSettings(node, **settings), lambda listener, work=work: FakePool(listener, work)
                )
                await nursery.start(keep, stages[node])
            yield Route(graph, stages)
            await trio.testing.wait_all_tasks_blocked()
            assert not any(len(stage.queue) for stage in stages.values())
            nursery.cancel_scope.cancel()

    async def keep(stage, *, task_status):
        async with stage.pool.running():
            task_status.started()
            await stage.serve()

    return serve


@pytest.fixture
def request_(transport):
    return Request(payload(transport, b"[]"), payload(transport, b"in"))


async def hang(items):
    await trio.sleep(math.inf)


def failing(error, times=math.inf):
    calls = []

    async def work(items):
        await trio.lowlevel.checkpoint()
        calls.append(len(items))
        if len(calls) <= times:
            return [Failed(error) for _ in items]
        return [Done(i.inputs[0][1].share()) for i in items]

    work.calls = calls
    return work


async def answer_of(route, request):
    answer = await walk(route, request)
    texts = {leaf: text(done.payload) for leaf, done in answer.leaves.items()}
    answer.release()
    return texts


async def test_chain(autojump_clock, serving, request_):
    async with serving({"a": ["b"], "b": ["c"]}) as route:
        assert await answer_of(route, request_) == {"c": "(0:(0:(0:in)a)b)c"}


async def test_diamond_joins_both_parents_in_order_of_arrival(autojump_clock, serving, request_, transport):
    async def late(items):
        await trio.sleep(1)
        return [Done(payload(transport, b"late")) for _ in items]

    async with serving(DIAMOND, {"a": late}) as route:
        assert await answer_of(route, request_) == {"post": "(1:(0:(0:in)pre)b 0:late)post"}


async def test_several_leaves_in_order_of_completion(autojump_clock, serving, request_, transport):
    async def late(items):
        await trio.sleep(1)
        return [Done(payload(transport, b"late")) for _ in items]

    async with serving({"pre": ["a", "b"]}, {"a": late}) as route:
        assert list(await answer_of(route, request_)) == ["b", "a"]


async def test_one_node_alone(autojump_clock, serving, request_):
    async with serving({"a": []}) as route:
        assert await answer_of(route, request_) == {"a": "(0:in)a"}


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_a_node_is_tried_once_more_than_it_is_retried(autojump_clock, serving, request_, retries):
    work = failing(InternalError("Prediction failed"))
    async with serving({"a": ["bad"]}, {"bad": work}, retry_attempts=retries) as route:
        with pytest.raises(InternalError, match=r"^Error executing bad$"):
            await walk(route, request_)
    assert len(work.calls) == retries + 1


async def test_the_last_attempt_counts(autojump_clock, serving, request_):
    work = failing(InternalError("Prediction failed"), times=1)
    async with serving({"a": ["flaky"]}, {"flaky": work}, retry_attempts=1) as route:
        assert await answer_of(route, request_) == {"flaky": "(0:in)a"}


async def test_a_node_that_hangs_fails_after_its_attempts(autojump_clock, serving, request_):
    async with serving({"a": []}, {"a": hang}, timeout=0.7, retry_attempts=1) as route:
        began = trio.current_time()
        with pytest.raises(InternalError, match="Error executing a"):
            await walk(route, request_)
        assert trio.current_time() - began == pytest.approx(1.4)


async def test_the_handlers_own_error_reaches_the_client(autojump_clock, serving, request_):
    work = failing(PredictionError("too dark", code=422))
    async with serving({"a": []}, {"a": work}) as route:
        with pytest.raises(PredictionError, match="too dark") as raised:
            await walk(route, request_)
    assert raised.value.code == 422


async def test_a_failure_cancels_the_siblings(autojump_clock, serving, request_):
    async def later(items):
        await trio.sleep(0.1)
        return [Failed(InternalError("no")) for _ in items]

    async with serving({"pre": ["a", "b"]}, {"a": later, "b": hang}, timeout=60, retry_attempts=0) as route:
        began = trio.current_time()
        with pytest.raises(InternalError, match="Error executing a"):
            await walk(route, request_)
        assert trio.current_time() - began == pytest.approx(0.1)
        route.stages["b"].pool.stop(route.stages["b"].pool.batches[0])


async def test_a_refusal_is_not_retried(autojump_clock, serving, request_):
    async with serving({"a": ["b"]}, queue_size=0) as route:
        with pytest.raises(ServiceUnavailableError):
            await walk(route, request_)
        assert route.stages["a"].statistics().refused == 1


@pytest.mark.parametrize("where", ["pre", "a", "post"])
@pytest.mark.parametrize("queued", [True, False])
async def test_a_client_that_leaves_takes_its_request_along(
    autojump_clock, serving, request_, transport, where, queued
):
    """At every node of the diamond, queued behind another batch or running."""
    async with serving(DIAMOND, {where: hang}, timeout=60) as route:
        pool = route.stages[where].pool
        if queued:
            pool.idle = 0
        began = trio.current_time()
        with trio.move_on_after(5) as client:
            await walk(route, request_)
        assert client.cancelled_caught
        assert trio.current_time() - began == pytest.approx(5)
        assert not any(len(stage.queue) for stage in route.stages.values())
        for batch in pool.batches:
            pool.stop(batch)
        pool.idle = max(pool.idle, 1)


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0, 1.5, 2.5])
async def test_cancelled_from_outside_at_any_stage(autojump_clock, serving, request_, transport, moment):
    async def second(items):
        await trio.sleep(1)
        return [Done(payload(transport, b"x")) for _ in items]

    async with serving(DIAMOND, dict.fromkeys(DIAMOND, second)) as route:
        with trio.move_on_after(moment):
            await walk(route, request_)
        assert not any(len(stage.queue) for stage in route.stages.values())
        await trio.sleep(5)  # the batches that run end by themselves


async def test_a_call_is_direct_and_made_once(autojump_clock, serving, request_):
    seen = []

    async def work(items):
        seen.extend((item.direct, text(item.inputs[0][1])) for item in items)
        return [Failed(InternalError("Prediction failed", code=503)) for _ in items]

    async with serving({"a": []}, {"a": work}, retry_attempts=3) as route:
        with pytest.raises(InternalError, match="Prediction failed") as raised:
            await Call(route, "a", request_).run()
    assert raised.value.code == 503
    assert seen == [(True, "in")]


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (PredictionError("no", code=418), 418, "InternalServerException"),
        (OutOfMemoryError("Out of resources"), 507, "InternalServerException"),
        (BadRequestError("no end"), 400, "BadRequestException"),
        (ServiceUnavailableError("no memory"), 503, "ServiceUnavailableException"),
    ],
)
async def test_a_calls_error_is_the_nodes_own(autojump_clock, serving, request_, error, code, kind):
    async with serving({"a": []}, {"a": failing(error)}) as route:
        with pytest.raises(type(error) if code != 507 else InternalError) as raised:
            await Call(route, "a", request_).run()
    assert raised.value.body() == {"code": code, "type": kind, "message": error.message}


@pytest.mark.parametrize("wait", [0.0, 2.0])
async def test_a_call_may_wait_and_then_run_as_long_as_it_was_given(autojump_clock, serving, request_, wait):
    """Whatever the stage allows an attempt; then its worker is killed."""
    async with serving({"a": []}, {"a": hang}, timeout=0.5) as route:
        pool = route.stages["a"].pool
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            if wait:
                pool.idle = 0
                nursery.start_soon(_free, route.stages["a"], wait)
            with pytest.raises(InternalError, match=r"^Worker died\.$"):
                await Call(route, "a", request_, 3.0).run()
        assert trio.current_time() - began == pytest.approx(wait + 3.0)


async def _free(stage, seconds):
    await trio.sleep(seconds)
    stage.pool.idle = 1
    stage.replica_ready()


async def test_a_call_that_waited_too_long_is_out_of_the_queue(autojump_clock, serving, request_):
    async with serving({"a": []}) as route:
        route.stages["a"].pool.idle = 0
        with pytest.raises(InternalError, match="timed out"):
            await Call(route, "a", request_, 3.0).run()
        assert len(route.stages["a"].queue) == 0
        route.stages["a"].pool.idle = 1


async def test_a_call_that_finds_no_place(autojump_clock, serving, request_):
    async with serving({"a": []}, queue_size=0) as route:
        with pytest.raises(NoWorkerError) as raised:
            await Call(route, "a", request_).run()
    assert raised.value.retry_after == 1


@pytest.mark.parametrize("queued", [True, False])
async def test_a_client_that_leaves_takes_its_call_along(autojump_clock, serving, request_, queued):
    async with serving({"a": []}, {"a": hang}, timeout=60) as route:
        pool = route.stages["a"].pool
        if queued:
            pool.idle = 0
        with trio.move_on_after(5) as client:
            await Call(route, "a", request_, 60).run()
        assert client.cancelled_caught
        assert len(route.stages["a"].queue) == 0
        for batch in pool.batches:
            pool.stop(batch)
        pool.idle = max(pool.idle, 1)


async def test_items_know_by_when_and_how_urgently(autojump_clock, serving, transport):
    seen = []

    async def noting(items):
        await trio.lowlevel.checkpoint()
        seen.extend(item.terms for item in items)
        return [Done(item.inputs[0][1].share()) for item in items]

    async with serving({"a": ["b"]}, {"a": noting, "b": noting}, timeout=2.0, retry_attempts=1) as route:
        route = route._replace(patience=patience(route.graph, route.stages, route.step))
        assert route.patience == 8.0
        now = trio.current_time()
        await answer_of(route, Request(payload(transport, b"[]"), payload(transport, b"in"), now + 3, 7))
        await answer_of(route, Request(payload(transport, b"[]"), payload(transport, b"in")))
    asked_for = (now + 3, urgency(now + 3, 7, asked_for=True), now + 3)
    default = (now + 8.0, (math.ceil(now + 8.0), -5), math.inf)
    assert seen == [asked_for, asked_for, default, default]


async def test_patience_is_that_of_the_longest_path(autojump_clock, serving):
    async with serving(DIAMOND, timeout=1.0, retry_attempts=2) as route:
        assert patience(route.graph, route.stages, route.step) == 9.0


@pytest.mark.parametrize("early", [True, False])
async def test_a_walk_that_is_given_up_has_no_answer_and_leaves_nothing(
    autojump_clock, serving, request_, early
):
    async with serving({"a": ["b"]}, {"b": hang}) as route:
        visit = Walk(route, request_)
        async with trio.open_nursery() as nursery:
            if early:
                visit.give_up()
            else:
                nursery.start_soon(_give_up_soon, visit)
            assert await visit.run() is None
        visit.give_up()


async def _give_up_soon(visit):
    await trio.sleep(1)
    visit.give_up()


async def test_a_deadline_ends_a_walk_wherever_it_is(autojump_clock, serving, transport):
    async with serving({"a": ["b"]}, {"b": hang}) as route:
        began = trio.current_time()
        request = Request(payload(transport, b"[]"), payload(transport, b"in"), began + 2)
        assert await Walk(route, request).run() is None
        assert trio.current_time() == began + 2
        request = Request(payload(transport, b"[]"), payload(transport, b"in"), began + 3)
        assert await Call(route, "b", request).run() is None
        assert trio.current_time() == began + 3


async def test_a_call_waits_in_line_like_any_request(autojump_clock, serving, transport):
    async def slow(items):
        await trio.sleep(1)
        return [Done(item.inputs[0][1].share()) for item in items]

    def request():
        return Request(payload(transport, b"[]"), payload(transport, b"in"))

    async with serving({"a": []}, {"a": slow}, timeout=30.0) as route:
        route = route._replace(patience=patience(route.graph, route.stages, route.step))
        ended = {}

        async def called():
            done = await Call(route, "a", request(), 60.0).run()
            done.release()
            ended["call"] = trio.current_time()

        async def walked(number):
            (await Walk(route, request()).run()).release()
            ended[number] = trio.current_time()

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(walked, number)
                await trio.testing.wait_all_tasks_blocked()
                if number == 1:
                    nursery.start_soon(called)
                    await trio.testing.wait_all_tasks_blocked()
        assert ended["call"] < ended[3]
