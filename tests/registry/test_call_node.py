"""One node of a running workflow called alone, below the HTTP server."""

import dataclasses

import orjson
import pytest
import trio

from tests.archives import chain, pack
from tests.registries import registry, running
from tests.support import payload, text
from wfserve.dag.walk import Request
from wfserve.errors import DeadlineError, InternalError, ServiceUnavailableError
from wfserve.http.predictions import call_node


def request_of(opened, body, **headers):
    return Request(
        payload(opened._transport, orjson.dumps(list(headers.items()))), payload(opened._transport, body)
    )


async def test_a_later_node_reads_what_the_client_sent(config):
    async with registry(config) as opened:
        workflow = await opened.register("two.war")
        done = await workflow.call_node("upper", request_of(opened, b"hello"))
        assert text(done.payload) == "HELLO"
        done.payload.release()


async def test_its_time_is_the_plans_or_the_callers(config):
    config = dataclasses.replace(config, response_timeout=0.3)
    async with registry(config) as opened:
        workflow = await opened.register("obey.war")
        with trio.fail_after(20):
            for timeout in (None, 0.3):
                with pytest.raises(InternalError, match=r"^Worker died\.$"):
                    await workflow.call_node("obey", request_of(opened, b"sleep 3600"), timeout)
        done = await workflow.call_node("obey", request_of(opened, b"sleep 0.5"), 20.0)
        done.payload.release()


async def test_a_client_that_leaves_a_running_call(config):
    async with registry(config) as opened:
        workflow = await opened.register("obey.war")

        async with trio.open_nursery() as client:
            client.start_soon(workflow.call_node, "obey", request_of(opened, b"sleep 0.2"))
            await running(workflow)
            client.cancel_scope.cancel()
        assert workflow.in_flight == 0


async def test_a_call_while_the_workflow_leaves(config):
    async with registry(config) as opened:
        workflow = await opened.register("echo.war")
        workflow.close()
        with pytest.raises(ServiceUnavailableError, match="is being unregistered"):
            await workflow.call_node("echo", request_of(opened, b"x"))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/predictions/echo__echo", '"echo__echo"'),
        ("/explanations/echo__echo/1.0", '"echo__echo" Version 1.0"'),
    ],
)
async def test_a_node_that_takes_no_call_says_so_in_torchserves_words(config, path, named):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async with registry(dataclasses.replace(config, job_queue_size=0)) as opened:
        await opened.register("echo.war")
        scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"x-request-id", b"mine")]}
        with trio.fail_after(20):
            await call_node(opened, scope, _hanging_after(receive), send)
    start, body = sent
    assert start["status"] == 503
    assert {(b"retry-after", b"1"), (b"x-request-id", b"mine"), (b"connection", b"close")} <= {
        *start["headers"]
    }
    assert orjson.loads(body["body"]) == {
        "code": 503,
        "type": "ServiceUnavailableException",
        "message": f"Model {named} has no worker to serve inference request. Please use scale workers API to"
        " add workers. If this is a sequence inference, please check if it is closed, or expired; or exceeds"
        " maxSequenceJobQueueSize",
    }


def _hanging_after(receive):
    """Receive the request, then nothing: the client stays."""
    given = []

    async def first_then_nothing():
        if given:
            await trio.sleep_forever()
        given.append(True)
        return await receive()

    return first_then_nothing


async def test_a_deadline_does_not_end_a_worker_that_may_still_work(config, store):
    pack(store, "short", chain("obey", settings="timeout-ms: 500"))
    async with registry(config) as opened:
        workflow = await opened.register("short.war")
        (replica,) = workflow.pools["obey"].statistics().replicas
        request = request_of(opened, b"sleep 1.5")._replace(deadline=trio.current_time() + 0.3)
        with pytest.raises(DeadlineError):
            await workflow.call_node("obey", request, 60.0)
        done = await workflow.call_node("obey", request_of(opened, b"still"), 60.0)
        done.release()
        assert [each.pid for each in workflow.pools["obey"].statistics().replicas] == [replica.pid]
