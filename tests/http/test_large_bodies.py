"""What is larger than one read goes where it shall lie, and most of it is there when it is asked for."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.http.harness import App, answer, heard, responses, serving
from tests.http.test_server_life import close, reset
from wfserve.http.connection import CHUNK, HEAD_CHUNK

LARGE = bytes(range(256)) * 400  # and not too large for what a socket takes before anybody reads
SMALL = b"y" * 10_000  # larger than a head
EXPECTING = b"Expect: 100-continue\r\n"


def post(path, body, more=b""):
    return b"POST /%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n" % (path, len(body), more) + body


async def send(client, data):
    while data:
        data = data[await client.send(data) :]


async def said(client):
    return [(status, body) for status, _, body in responses((await heard(client))[0])]


async def test_large_and_small_bodies_in_turn(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            for body in (LARGE, SMALL, LARGE, LARGE, b"z", SMALL):
                await send(client, post(b"direct", body))
                assert await said(client) == [(200, body)]


async def test_pipelined_behind_a_large_body(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await send(client, post(b"direct", LARGE) + post(b"direct", LARGE) + post(b"echo", b"and more"))
            assert await said(client) == [(200, LARGE), (200, LARGE), (200, b"POST and more")]


async def test_after_a_large_body_less_is_read_with_a_head(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            for path, body, expected in (
                (b"arrived", SMALL, b"whole " + SMALL),
                (b"direct", LARGE, LARGE),
                (b"arrived", SMALL, SMALL),
                (b"arrived", SMALL, b"whole " + SMALL),
            ):
                await send(client, post(path, body))
                assert await said(client) == [(200, expected)]


async def test_a_chunked_body_behind_a_large_one_is_not_read_in_small_pieces(autojump_clock):
    class Counting(App):
        async def parts(self, scope, receive, send):
            sizes, more = [], True
            while more:
                message = await receive()
                sizes.append(len(message["body"]))
                more = message["more_body"]
            await answer(send, b"%d %d" % (sum(sizes), max(sizes)))

    async with serving(Counting()) as server:
        with await server.connect() as client:
            await send(client, post(b"direct", LARGE))
            assert await said(client) == [(200, LARGE)]
            head = b"POST /parts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            await send(client, head + b"%x\r\n" % len(LARGE) + LARGE + b"\r\n0\r\n\r\n")
            ((status, body),) = await said(client)
    total, largest = map(int, body.split())
    assert (status, total) == (200, len(LARGE))
    assert largest > HEAD_CHUNK


class Waiting(App):
    """Takes a body at once when it is told to."""

    async def wait(self, scope, receive, send):
        view = bytearray(len(LARGE))
        await self.release.wait()
        taking = scope["extensions"]["wfserve.body_into"]["receive_into"](memoryview(view))
        try:
            taking.send(None)
        except StopIteration as taken:
            if taken.value is None:
                self.gone.set()
                return
        else:
            taking.close()
            raise AssertionError("it has waited")
        await answer(send, bytes(view))


async def test_what_has_arrived_is_taken_without_waiting(autojump_clock):
    async with serving(Waiting()) as server:
        with await server.connect() as client:
            await send(client, post(b"wait", LARGE))
            await wait_all_tasks_blocked()
            server.app.release.set()
            assert await said(client) == [(200, LARGE)]


async def test_a_client_that_resets_before_its_body_is_taken(autojump_clock):
    async with serving(Waiting()) as server:
        client = await server.connect()
        await send(client, post(b"wait", LARGE)[:CHUNK])  # all of which is read with the head
        await wait_all_tasks_blocked()
        reset(client)
        server.app.release.set()
        await server.app.gone.wait()


@pytest.mark.parametrize("leave", [close, reset])
async def test_a_client_that_leaves_within_its_body(leave, autojump_clock):
    async with serving() as server:
        client = await server.connect()
        await send(client, post(b"direct", LARGE)[:-1])
        await wait_all_tasks_blocked()
        leave(client)
        await server.app.gone.wait()


async def test_a_body_that_is_to_be_asked_for(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            head, _, _ = post(b"direct", LARGE, EXPECTING).partition(LARGE)
            await send(client, head)
            assert (await heard(client))[0].startswith(b"HTTP/1.1 100 ")
            with trio.fail_after(10):
                await send(client, LARGE)
            assert await said(client) == [(200, LARGE)]
