"""An Exchange is one request and its answer on a connection: the ASGI side of the server.

The application runs in the connection's own task, and nothing watches the client beside it. It is told that
the client has left if it asks to be: by calling `receive` once more when it has the body, as ASGI has it, or
by the extension `wfserve.gone`, which needs no task that waits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from wfserve.errors import InternalError, TooLargeError, WfserveError
from wfserve.http.chunked import Chunks
from wfserve.http.connection import CHUNK, HEAD_CHUNK
from wfserve.http.refusal import GoneError, RequestTimeoutError, WaitExpiredError
from wfserve.http.respond import as_wfserve_error, common_headers, error_headers, pretty, request_id
from wfserve.http.response import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from wfserve.http.connection import Connection
    from wfserve.http.head import Head
    from wfserve.http.response import Bytes
    from wfserve.http.server import Server

    Message = MutableMapping[str, Any]
    App = Callable[[Any, Any, Any], Awaitable[None]]

BODY_INTO = "wfserve.body_into"  # an ASGI extension: see `Exchange.receive_into`
GONE = "wfserve.gone"  # an ASGI extension: `["call"](callback)` has it called if the client leaves
KNOWN = "wfserve.known"  # an ASGI extension: a dictionary that requests with equal heads share
T = TypeVar("T")
log = logging.getLogger(__name__)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def known(scope: MutableMapping[str, Any], work: Callable[[MutableMapping[str, Any]], T]) -> T:
    """Return `work(scope)`, which follows from the head alone: it is kept for requests that repeat it."""
    try:
        kept = scope["extensions"][KNOWN]
    except KeyError:
        return work(scope)
    if work not in kept:
        kept[work] = work(scope)
    found: T = kept[work]
    return found


class Exchange:
    """One request: `receive` and `send` are what the application gets."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_done",
        "_expects",
        "_head",
        "_left",
        "_over",
        "_received",
        "_response",
        "_server",
        "_start",
        "_started",
    )

    def __init__(self, connection: Connection, head: Head, server: Server) -> None:
        self._connection = connection
        self._head = head
        self._server = server
        self._expects = head.expects_continue
        self._chunks = Chunks() if head.length is None else None
        self._left = head.length or 0  # bytes of the body that the application has not got yet
        self._received = False  # it has got all of it
        self._start: Message | None = None  # `http.response.start`, which waits for a part of the body
        self._response = Response(head.method, head.http_version, keep_alive=head.keep_alive)
        self._over: trio.Event | None = None  # set when nobody has to wait for the client's leaving any more
        connection.may_ask = head.http_version != "1.0"
        self._started = False  # something of the response may have left
        self._done = False  # all of it has

    async def run(self, app: App) -> bool:
        """Have `app` answer; return whether the connection can carry another request."""
        if self._left > self._server.settings.max_body_bytes:
            await self._fail(self._too_large())
            return False
        try:
            await app(self._scope(), self.receive, self.send)
        except Exception as error:
            if self._connection.gone:
                log.debug("a request was given up, its client has gone", exc_info=True)
            else:
                await self._fail(error)
        else:
            if not self._done and not self._connection.gone:
                await self._fail(InternalError("The application has not answered."))
        return self._done and self._response.keep_alive and self._skip_body()

    def _scope(self) -> dict[str, Any]:
        head, connection = self._head, self._connection
        extensions: dict[str, Any] = {GONE: {"call": connection.call_when_gone}, KNOWN: head.known}
        if self._left:
            extensions[BODY_INTO] = {"receive_into": self.receive_into, "arrived": self.arrived}
        scope = head.scope.copy()
        scope["client"], scope["server"] = connection.client, connection.server
        scope["extensions"] = extensions
        return scope

    async def _fail(self, error: Exception) -> None:
        """Answer with `error`, or where an answer has begun, leave it cut off, which the client can see."""
        identity = request_id(self._head.headers)
        shown = as_wfserve_error(error, identity)
        if self._started:
            return
        self._start = None
        headers = [(b"content-type", b"application/json"), *error_headers(shown)]
        await self._answer(shown, headers, identity)

    async def _answer(self, error: WfserveError, headers: list[tuple[bytes, bytes]], identity: bytes) -> None:
        own = self._server.own
        own.counted(error.code)
        headers += [*common_headers(error.code, identity), *own.headers]
        try:
            await self.send({"type": "http.response.start", "status": error.code, "headers": headers})
            await self.send({"type": "http.response.body", "body": pretty(error.body())})
        except GoneError:
            pass

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The request body is over {self._server.settings.max_body_bytes} bytes.")

    # What the client sends

    async def receive(self) -> Message:
        """Return the next part of the body; after the last, wait until the client has gone.

        Raises `BadMessageError`, `TooLargeError` or `RequestTimeoutError` where the body is at fault.
        """
        connection = self._connection
        if not self._received and not connection.gone:
            body = self._take() if self._chunks is None else self._decode()
            while not body and not self._complete():
                if not await self._fill():
                    return {"type": "http.disconnect"}
                body = self._take() if self._chunks is None else self._decode()
            self._received = self._complete()
            return {"type": "http.request", "body": body, "more_body": not self._received}
        await self._until_over()
        return {"type": "http.disconnect"}

    async def _until_over(self) -> None:
        """Wait until the client has gone, or the response is complete."""
        if self._over is None:
            self._over = trio.Event()
            self._connection.call_when_gone(self._over.set)
        if self._done:
            self._over.set()
        await self._over.wait()

    def arrived(self) -> bytes | None:
        """Return the body if all of it has arrived already, else None: for who would call `receive_into`."""
        if self._left > len(self._connection.buffer):
            return None
        self._received = True
        return self._take()

    async def receive_into(self, view: memoryview) -> int | None:
        """Receive the body into `view`, a writable buffer of bytes, until either ends: the ASGI extension.

        Offered where the body's length was declared, as
        `scope["extensions"]["wfserve.body_into"]["receive_into"]`. Returns the number of bytes written, None
        if the client has gone. What had arrived with the head is copied, the rest is read from the socket
        where it shall lie. Who has sent a large body may do so again: less of it is read with the next head.
        Raises as `receive`.
        """
        connection = self._connection
        size = min(self._left, len(view))
        connection.at_once = HEAD_CHUNK if size > CHUNK else CHUNK
        early, connection.buffer = connection.buffer[:size], connection.buffer[size:]
        filled = len(early)
        view[:filled] = early
        try:
            if filled < size and not self._expects:  # most of it has come while the head was read
                filled += connection.take_into(view[filled:size])
        except GoneError:
            return None
        self._left -= filled
        while filled < size:
            count = await self._read_into(view[filled:size])
            if not count:
                return None
            filled += count
            self._left -= count
        self._received = not self._left
        return size

    async def _read_into(self, view: memoryview) -> int:
        try:
            await self._encourage()
            count = await self._connection.read_into(view, self._server.settings.body_timeout)
        except GoneError:
            return 0
        except WaitExpiredError:
            raise RequestTimeoutError from None
        self._connection.gone |= not count
        return count

    def _take(self) -> bytes:
        """Take what the buffer has of a body of known length."""
        buffer = self._connection.buffer
        body, self._connection.buffer = buffer[: self._left], buffer[self._left :]
        self._left -= len(body)
        return body

    def _decode(self) -> bytes:
        """Take what the buffer has of a chunked body."""
        assert self._chunks is not None
        body, self._connection.buffer = self._chunks.decode(self._connection.buffer)
        self._left += len(body)  # of a chunked body, what has been received
        if self._left > self._server.settings.max_body_bytes:
            raise self._too_large()
        return body

    def _complete(self) -> bool:
        return not self._left if self._chunks is None else self._chunks.done

    async def _fill(self) -> bool:
        """Wait for more of the body; False if the client has gone."""
        connection = self._connection
        unfinished = connection.buffer  # of a chunk's framing
        try:
            await self._encourage()
            more = await connection.fill(self._server.settings.body_timeout)
        except GoneError:
            return False
        except WaitExpiredError:
            raise RequestTimeoutError from None
        connection.buffer = unfinished + connection.buffer
        connection.gone |= not more
        return more

    async def _encourage(self) -> None:
        """Say 100 Continue to a client that waits for it, once the body is wanted."""
        if self._expects and not self._started and not self._connection.buffer:
            await self._connection.write((_CONTINUE,), self._server.settings.send_timeout)
        self._expects = False

    def _skip_body(self) -> bool:
        """Drop what the application did not read, if it has all arrived; tell whether it had."""
        if self._chunks is None and 0 < self._left <= len(self._connection.buffer):
            self._take()
        return self._complete()

    @property
    def unfinished(self) -> bool:
        """Whether the client may still be sending, though it will get no other answer."""
        return not self._connection.gone and (not self._complete() or bool(self._connection.buffer))

    # What the application sends

    async def send(self, message: Message) -> None:
        """Send a part of the response, and wait for a client that reads slowly.

        Raises `GoneError`, an `OSError`, when nobody reads it any more; `ValueError` where it breaks HTTP,
        `RuntimeError` where it breaks ASGI.
        """
        if message["type"] == "http.response.start" and self._start is None:
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None and not self._done:
            body, more = message.get("body", b""), message.get("more_body", False)
            parts = self._response.part(body, more=more) if self._started else self._first(body, more=more)
            if parts:
                await self._connection.write(parts, self._server.settings.send_timeout)
            if more:
                await self._server.breathe()
            else:
                self._end()
        else:
            raise RuntimeError(f"the application may not send {message['type']} now")

    def _end(self) -> None:
        """Note that the response is complete, for whoever waits for that."""
        self._done = True
        if self._over is not None:
            self._over.set()

    def _first(self, body: Bytes, *, more: bool) -> tuple[Bytes, ...]:
        """Return the response's head with the first part of its body."""
        assert self._start is not None
        response = self._response
        response.keep_alive &= not self._server.stopping and self._body_arrived()
        head = response.head(
            self._start["status"],
            self._start.get("headers", ()),
            None if more else len(body),
            self._server.date,
        )
        parts = (head, *response.part(body, more=more))
        self._started = True
        self._connection.may_ask = False
        return parts

    def _body_arrived(self) -> bool:
        """Whether what is left of the body can be dropped without waiting."""
        return self._complete() or (self._chunks is None and self._left <= len(self._connection.buffer))
