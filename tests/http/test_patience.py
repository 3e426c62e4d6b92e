"""A client that stops sending is answered 408, whoever waits for its body."""

import json

import pytest
import trio
from quart_trio import QuartTrio

from wfserve.errors import WfserveError
from wfserve.http.patience import with_body_timeout
from wfserve.http.respond import send_error

SECONDS = 30.0
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "https",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"x-request-id", b"mine")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
    "extensions": {},
}


async def exchange(app, *pauses):
    """Send a part of a body after each pause, the rest never; return what is answered, and when."""
    sent, began, left = [], trio.current_time(), list(pauses)

    async def receive():
        await trio.sleep(left.pop(0) if left else float("inf"))
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    await with_body_timeout(app, SECONDS)(dict(SCOPE), receive, send)
    return sent, trio.current_time() - began


async def reading(scope, receive, send):
    """An application that leaves the answer to others."""
    while (await receive())["more_body"]:
        pass


async def answering(scope, receive, send):
    """One that answers what it meets."""
    try:
        await reading(scope, receive, send)
    except WfserveError as error:
        await send_error(send, b"mine", error)


async def grouping(scope, receive, send):
    """One that reads in a nursery."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reading, scope, receive, send)


def quart():
    """An application of Quart, which reads in a task of its own."""
    app = QuartTrio(__name__)

    @app.post("/")
    async def read():
        from quart import request

        return await request.get_data()

    return app


@pytest.mark.parametrize("app", [reading, answering, grouping, quart()])
async def test_a_body_that_stops_is_answered_408(app, autojump_clock):
    (start, body), took = await exchange(app, 0, SECONDS - 1)
    assert (start["status"], json.loads(body["body"])["code"]) == (408, 408)
    assert {(b"x-request-id", b"mine"), (b"connection", b"close")} <= {*start["headers"]}
    assert took == pytest.approx(2 * SECONDS - 1)


async def test_an_application_may_take_its_time(autojump_clock):
    left = []

    async def slow(scope, receive, send):
        await receive()
        await trio.sleep(10 * SECONDS)
        left.append(await receive())

    async def receive():
        if left_to_send:
            return left_to_send.pop()
        await trio.sleep(10 * SECONDS)
        return {"type": "http.disconnect"}

    left_to_send = [{"type": "http.request", "body": b"x", "more_body": False}]
    await with_body_timeout(slow, SECONDS)(dict(SCOPE), receive, None)
    assert left == [{"type": "http.disconnect"}]


async def test_what_else_goes_wrong_is_not_answered_here(autojump_clock):
    async def failing(scope, receive, send):
        raise ValueError("a bug")

    async def late(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await reading(scope, receive, send)

    with pytest.raises(ValueError, match="a bug"):
        await exchange(failing)
    with pytest.raises(WfserveError):
        await exchange(late)
