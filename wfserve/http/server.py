"""A Trio HTTP/1.1 server for one ASGI application: when `serve` returns, no connection of it is open.

A task a connection, none a request: `connection.py` has the socket, `head.py` and `chunked.py` parse,
`exchange.py` is the ASGI side, `response.py` frames. An empty request costs about 15 µs of one core: Trio's
wait with its epoll 6, the kernel's `recv` and `send` 3, finding and parsing the head 2.5, scope and exchange
1.5, framing the response 2. What was saved to get there: a task and a cancel scope per request, a timer per
wait, a second `send`, the parser's pass over bodies, the date. `bench/server.py` measures it beside hypercorn
and uvicorn.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import trio

from wfserve.errors import ServiceUnavailableError, WfserveError
from wfserve.http.connection import Connection
from wfserve.http.exchange import Exchange
from wfserve.http.head import parse
from wfserve.http.refusal import GoneError, OwnAnswers
from wfserve.http.respond import common_headers, pretty, request_id
from wfserve.http.response import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.http.connection import Peer
    from wfserve.http.exchange import App

log = logging.getLogger(__name__)
TICK = 1.0  # seconds; timeouts last up to two ticks longer than they are set
_RETRY_ACCEPT = 0.1  # seconds, while the process has no file descriptor left
_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits of a server. Times are seconds, sizes bytes."""

    backlog: int = 2048  # connections that the kernel keeps until they are accepted
    max_connections: int = 20_000  # 503 beyond
    max_head_bytes: int = 32_768  # of request line and headers; 431 beyond
    max_headers: int = 100  # 431 beyond
    max_body_bytes: int = 1 << 30  # 413 beyond; for applications that set no limit of their own
    header_timeout: float = 10.0  # for a whole head; 408 beyond
    body_timeout: float = 30.0  # without a byte of a body; 408 beyond
    send_timeout: float = 60.0  # without the client's taking a byte
    keep_alive_timeout: float = 75.0  # between two requests
    linger_timeout: float = 5.0  # for the rest of a request that was answered before it had arrived
    stop_timeout: float = 30.0  # for accepted requests, when the server is told to stop


async def serve(
    app: App,
    listeners: Sequence[socket.socket],
    settings: ServerSettings,
    *,
    stop: trio.Event,
    own: OwnAnswers = OwnAnswers(),  # noqa: B008 - it cannot be changed
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on `listeners`, which are bound (TCP or Unix), and close them.

    Returns when `stop` is set and every accepted request has been answered, or cancelled after
    `settings.stop_timeout` seconds. Idle connections are closed at once, the others after their answer.
    """
    await Server(app, settings, own).serve(listeners, stop=stop, task_status=task_status)


class Server:
    """What the connections of one `serve` share."""

    def __init__(self, app: App, settings: ServerSettings, own: OwnAnswers) -> None:
        self._app = app
        self.settings = settings
        self.own = own
        self.stopping = False
        self.soon = 0.0
        self.date = b""  # the header line
        self._connections: dict[int, Connection] = {}  # by the descriptors of their sockets
        self._leaving = select.epoll()
        self._empty = trio.Event()
        self._look()

    async def serve(
        self,
        listeners: Sequence[socket.socket],
        *,
        stop: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve once, as the function `serve` does."""
        try:
            for listener in listeners:
                listener.setblocking(False)
                listener.listen(self.settings.backlog)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.tick)
                    connections.start_soon(self.hear_of_leaving)
                    for listener in listeners:
                        nursery.start_soon(self.accept, listener, connections)
                    task_status.started()
                    await stop.wait()
                    nursery.cancel_scope.cancel()
                for listener in listeners:
                    listener.close()
                await self.drain(connections)
        finally:
            for listener in listeners:
                listener.close()
            self._leaving.close()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def _look(self) -> None:
        """Look at the clocks, for everybody, and end the waits that have lasted too long."""
        now = trio.current_time()
        self.soon = now + TICK
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode("ascii")
        for connection in list(self._connections.values()):
            if connection.deadline <= now:
                connection.expire()
            if connection.half_closed:
                connection.ask()

    async def tick(self) -> None:
        """Look at the clocks once a second, until cancelled."""
        while True:
            self._look()
            await trio.sleep(TICK)

    async def hear_of_leaving(self) -> None:
        """Tell connections that their clients have ended their side, until cancelled.

        One epoll for all, edge-triggered: a socket is entered once, and a request costs nothing.
        """
        while True:
            await trio.lowlevel.wait_readable(self._leaving)
            for number, events in self._leaving.poll(0):
                if (connection := self._connections.get(number)) is not None:
                    connection.hung_up(events)

    async def breathe(self) -> None:
        """Let other tasks run; for whoever could go on without ever waiting."""
        await trio.lowlevel.checkpoint()

    async def accept(self, listener: socket.socket, connections: trio.Nursery) -> None:
        """Accept connections and run each in a task of `connections`, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, address = listener.accept()
            except OSError as error:  # the client has left already, or it was another process's
                if error.errno in _LACKING:
                    log.error("cannot accept a connection: %s", error.strerror)
                    await trio.sleep(_RETRY_ACCEPT)
                continue
            self._adopt(sock, address, connections)

    def _adopt(self, sock: socket.socket, address: Any, connections: trio.Nursery) -> None:
        try:
            connection = Connection(sock, *_peers(sock, address), self)
            if len(self._connections) >= self.settings.max_connections:
                self._turn_away(sock)
                return
            self._leaving.register(sock, select.EPOLLRDHUP | select.EPOLLET)
        except OSError:
            sock.close()
            return
        self._connections[sock.fileno()] = connection
        connections.start_soon(self._run, connection, sock.fileno())

    def _turn_away(self, sock: socket.socket) -> None:
        """Answer 503 without a task and without waiting, or not at all."""
        with sock:
            try:
                sock.send(self._refusal(ServiceUnavailableError("The server has too many connections.")))
            except OSError:
                log.debug("a connection over the limit has left before its answer")

    async def _run(self, connection: Connection, number: int) -> None:
        """Answer a connection's requests, one after the other."""
        settings = self.settings
        first_within = settings.header_timeout
        try:
            while await self._answer_next(connection, first_within):
                first_within = settings.keep_alive_timeout
        except GoneError:
            log.debug("a client has gone")
        except Exception:  # a defect of this server costs one connection, not all of them
            log.exception("a connection has failed")
        finally:
            connection.close()
            del self._connections[number]
            if not self._connections:
                self._empty.set()

    async def _answer_next(self, connection: Connection, first_within: float) -> bool:
        settings = self.settings
        if connection.buffer:  # a client that pipelines may not keep the others waiting
            await self.breathe()
        elif self.stopping:
            return False
        try:
            raw = await connection.head(first_within, settings.header_timeout, settings.max_head_bytes)
            head = None if raw is None else parse(raw, settings.max_headers)
        except WfserveError as error:
            await connection.write((self._refusal(error),), settings.send_timeout)
            await connection.linger(settings.linger_timeout)
            return False
        if head is None:
            return False
        exchange = Exchange(connection, head, self)
        connection.answering = True
        reusable = await exchange.run(self._app)
        connection.answering = False
        connection.forget_callers()
        if reusable:
            return True
        if exchange.unfinished:
            await connection.linger(settings.linger_timeout)
        return False

    def _refusal(self, error: WfserveError) -> bytes:
        """Return the whole response to what is no request."""
        self.own.counted(error.code)
        common = common_headers(error.code, request_id(()))
        headers = [(b"content-type", b"application/json"), *common, *self.own.headers]
        body = pretty(error.body())
        response = Response("GET", "1.1", keep_alive=False)
        return response.head(error.code, headers, len(body), self.date) + body

    async def drain(self, connections: trio.Nursery) -> None:
        """Let the requests under way end, and cancel those that take too long."""
        self.stopping = True
        for connection in self._connections.values():
            if not connection.answering:
                connection.wake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tick)
            with trio.move_on_after(self.settings.stop_timeout):
                while self._connections:
                    self._empty = trio.Event()
                    await self._empty.wait()
            nursery.cancel_scope.cancel()
        connections.cancel_scope.cancel()


def _peers(sock: socket.socket, address: Any) -> tuple[Peer, Peer]:
    """Prepare an accepted socket; return the addresses of client and server as ASGI has them."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return None, (str(sock.getsockname()), None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return address[:2], sock.getsockname()[:2]
