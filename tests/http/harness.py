"""The server of `wfserve serve` in the test's own event loop, an application, and clients made of bytes."""

import os
import re
import socket
from contextlib import asynccontextmanager
from functools import partial

import h11
import trio
from trio.testing import wait_all_tasks_blocked

from wfserve.http.refusal import OwnAnswers
from wfserve.http.server import Server, ServerSettings

NOTHING = OwnAnswers()


class App:
    """Does what the path says, and remembers what it saw."""

    def __init__(self):
        self.scopes = []
        self.gone = trio.Event()
        self.waiting = trio.Event()
        self.release = trio.Event()
        self.ended = trio.Event()

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await getattr(self, scope["path"].strip("/*") or "echo", self.echo)(scope, receive, send)

    async def echo(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body += message["body"]
            more = message["more_body"]
        await answer(send, b"%b %b" % (scope["method"].encode(), body))

    async def direct(self, scope, receive, send):
        length = int(dict(scope["headers"])[b"content-length"])
        view = bytearray(length)
        into = scope["extensions"]["wfserve.body_into"]["receive_into"]
        if await into(memoryview(view)) is None:
            self.gone.set()
        else:
            await answer(send, bytes(view))

    async def known(self, scope, receive, send):
        """Answer how many requests have had this head."""
        seen = scope["extensions"]["wfserve.known"]
        seen[App] = seen.get(App, 0) + 1
        await answer(send, b"%d" % seen[App])

    async def arrived(self, scope, receive, send):
        """Answer with the body if it has come with the head."""
        body = scope["extensions"]["wfserve.body_into"]["arrived"]()
        await (self.direct(scope, receive, send) if body is None else answer(send, b"whole " + body))

    async def hasty(self, scope, receive, send):
        """Read for a second, then answer with what is there."""
        view = bytearray(10)
        with trio.move_on_after(1):
            await scope["extensions"]["wfserve.body_into"]["receive_into"](memoryview(view))
        await answer(send, bytes(view))

    async def ignore(self, scope, receive, send):
        await answer(send, b"ignored")

    async def silent(self, scope, receive, send):
        pass

    async def error(self, scope, receive, send):
        raise RuntimeError("secret")

    async def split(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1\r\nx-b: 2")]})
        await send({"type": "http.response.body", "body": b"x"})

    async def late(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise RuntimeError("secret")

    async def parts(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one ", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async def empty(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def wait(self, scope, receive, send):
        """Answer once released; the client may leave first."""
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery)
            self.waiting.set()
            await self.release.wait()
            nursery.cancel_scope.cancel()
        if not self.gone.is_set():
            await answer(send, b"waited")

    async def _watch(self, receive, nursery):
        assert await receive() == {"type": "http.disconnect"}
        self.gone.set()
        nursery.cancel_scope.cancel()

    async def flood(self, scope, receive, send):
        """More than sockets buffer."""
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.waiting.set()
        try:
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
        finally:
            self.ended.set()
        await send({"type": "http.response.body"})
        self.release.set()


async def answer(send, body):
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Running:
    """A server under test."""

    def __init__(self, app, listener, stop, server):
        self.app, self.stop, self._server = app, stop, server
        self.address = listener.getsockname()
        self.family = listener.family

    async def connect(self):
        client = trio.socket.socket(self.family)
        await client.connect(self.address)
        if self.family == socket.AF_INET:
            # or the kernel keeps bytes back until the last have been acknowledged
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    @property
    def connections(self):
        return self._server.connections

    async def talk(self, *pieces):
        """Send pieces, each when the server is idle; return all it says, and whether it closed."""
        with await self.connect() as client:
            for piece in pieces:
                try:
                    await client.send(piece)
                except OSError:
                    break
                await wait_all_tasks_blocked()
            return await heard(client)


async def heard(client):
    """Return what has been sent to `client` by now, and whether the connection has ended."""
    said = b""
    while True:
        await wait_all_tasks_blocked()
        try:
            data = os.read(client.fileno(), 1 << 20)  # trio's sockets do not block
        except BlockingIOError:
            return said, False
        except OSError:
            return said, True
        if not data:
            return said, True
        said += data


@asynccontextmanager
async def serving(app=None, *, listener=None, own=NOTHING, **settings):
    """A running server; when the block ends it has stopped, and no connection is left."""
    app = app or App()
    if listener is None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    stop, server = trio.Event(), Server(app, ServerSettings(**settings), own)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, [listener], stop=stop))
            yield Running(app, listener, stop, server)
            stop.set()
    finally:
        assert server.connections == 0
        assert listener.fileno() == -1


def responses(raw, methods=("GET",) * 100):
    """Return the (status, headers, body) of each response, as h11 reads them; raise where it cannot."""
    found, rest, methods = [], raw, list(methods)
    while rest:
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=methods.pop(0), target="/", headers=[("host", "x")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(rest)
        status, headers, body = None, [], b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(b"")  # the server has closed here
            elif isinstance(event, h11.InformationalResponse):
                found.append((event.status_code, [], b""))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        found.append((status, headers, body))
        rest = reader.trailing_data[0]
    return found


def without_changing(raw):
    """Return a response without what differs between any two."""
    return re.sub(rb"(date: |x-request-id: )[^\r]*", rb"\1", raw)
