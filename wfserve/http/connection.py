"""A Connection is one client's socket: bytes in, bytes out, and whoever waits for it can be woken.

What a request costs here is one wait, one `recv` and one `send`; nothing else enters the kernel. Times are
kept without a cancel scope each: a wait notes until when it may last, and the server looks at the notes once
a second; they end by `trio.lowlevel.notify_closing`. And nobody waits for a client's leaving: the server has
one epoll for that, which tells the connection (`hung_up`), which tells whoever asked to be called.
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
from typing import TYPE_CHECKING, Protocol

import trio

from wfserve.http.head import END, unsound
from wfserve.http.refusal import (
    BadMessageError,
    GoneError,
    HeadTooLargeError,
    RequestTimeoutError,
    WaitExpiredError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from wfserve.http.response import Bytes

    Peer = tuple[str, int | None] | None

CHUNK = 65_536  # bytes read at once, and the most that is read ahead of the request that is being answered
HEAD_CHUNK = 4096  # … with a head that a large body may follow, which is not to come with it
JOINED = 65_536  # up to here copying is cheaper than a second system call's setup
ASK_INTERVAL = 5.0  # seconds
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")  # before a request they mean nothing: RFC 9112, section 2.2
_ARE_YOU_THERE = b"HTTP/1.1 102 Processing\r\n\r\n"


class Clock(Protocol):
    """What a connection knows of its server."""

    @property
    def soon(self) -> float:
        """The time at the next tick, or earlier, on the trio clock."""

    @property
    def stopping(self) -> bool:
        """Whether idle connections are to end."""


class Connection:
    """The socket of one client, non-blocking, and what has been read from it ahead."""

    __slots__ = (
        "_ask_next",
        "_callers",
        "_clock",
        "_expired",
        "_sock",
        "answering",
        "at_once",
        "buffer",
        "client",
        "deadline",
        "gone",
        "half_closed",
        "idle",
        "may_ask",
        "server",
        "torn",
    )

    def __init__(self, sock: socket.socket, client: Peer, server: Peer, clock: Clock) -> None:
        self._sock = sock
        self._clock = clock
        self._expired = False
        self._callers: list[Callable[[], object]] = []
        self._ask_next = -math.inf
        self.client, self.server = client, server
        self.buffer = b""  # read, but not yet used
        self.at_once = CHUNK  # bytes that are read with a head
        self.deadline = math.inf  # of the wait under way
        self.idle = False  # nothing of a request has arrived
        self.answering = False  # a whole head has: the server owes an answer
        self.half_closed = False  # the client has ended its sending
        self.may_ask = False  # an interim response may be sent
        self.gone = False  # nothing can reach the client any more
        self.torn = False  # a part of a message has been sent, and its rest not

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def expire(self) -> None:
        """End the wait under way, whose deadline has passed."""
        self._expired = True
        trio.lowlevel.notify_closing(self._sock)

    def wake(self) -> None:
        """Have a connection that waits for a request see that its server stops."""
        trio.lowlevel.notify_closing(self._sock)

    async def head(self, first_within: float, rest_within: float, limit: int) -> bytes | None:
        """Return the next head, at most `limit` bytes; None if the client leaves or is idle for too long.

        The first byte must come within `first_within` seconds, the others `rest_within` seconds later. Raises
        `BadMessageError`, `HeadTooLargeError` or `RequestTimeoutError`.
        """
        seen, until = 0, self._clock.soon + first_within
        self.idle = True
        while True:
            if self.buffer.startswith(b"\r\n"):
                self.buffer = _EMPTY_LINES.sub(b"", self.buffer, count=1)
            if self.buffer:
                if self.idle:
                    self.idle, until = False, self._clock.soon + rest_within
                if (raw := self._cut_head(seen, limit)) is not None:
                    return raw
            seen = len(self.buffer)
            try:
                data = await self.read(until, self.at_once)
            except WaitExpiredError:
                if not seen:
                    return None
                raise RequestTimeoutError from None
            if not data:
                return None
            self.buffer = self.buffer + data if seen else data

    def _cut_head(self, seen: int, limit: int) -> bytes | None:
        buffer = self.buffer
        end = buffer.find(END, max(0, seen - len(END)))
        if 0 <= end <= limit - len(END):
            end += len(END)
            raw, self.buffer = buffer[:end], buffer[end:]
            return raw
        if unsound(buffer[:limit], max(0, seen - 2)):
            raise BadMessageError
        if len(buffer) >= limit:
            raise HeadTooLargeError(f"{limit} bytes")
        return None

    async def fill(self, seconds: float) -> bool:
        """Read into the buffer, which is empty; False if the client has sent its last."""
        self.buffer = await self.read(self._clock.soon + seconds)
        return bool(self.buffer)

    async def read(self, until: float, nbytes: int = CHUNK) -> bytes:
        """Return what the client sends, b"" at its end. Raises `WaitExpiredError`, `GoneError`."""
        while True:
            await self._wait(trio.lowlevel.wait_readable, until)
            try:
                return self._sock.recv(nbytes)
            except BlockingIOError:
                if self._clock.stopping and not self.answering:
                    return b""
            except OSError:
                raise self._lost() from None

    async def read_into(self, view: memoryview, seconds: float) -> int:
        """Read straight into `view`; return the number of bytes, 0 at the client's end. Raises as `read`."""
        while True:
            await self._wait(trio.lowlevel.wait_readable, self._clock.soon + seconds)
            try:
                return self._sock.recv_into(view)
            except BlockingIOError:
                continue
            except OSError:
                raise self._lost() from None

    def take_into(self, view: memoryview) -> int:
        """Read what is there already, perhaps nothing, straight into `view`; return the number of bytes.

        Raises `GoneError`. That the client has sent its last is seen by whoever waits for more.
        """
        try:
            return self._sock.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError:
            raise self._lost() from None

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]], until: float) -> None:
        self.deadline, self._expired = until, False
        try:
            await ready(self._sock)
        except trio.ClosedResourceError:
            if self._expired:
                raise WaitExpiredError from None
        finally:
            self.deadline = math.inf

    def _lost(self) -> GoneError:
        self.gone = True
        callers, self._callers = self._callers, []
        for callback in callers:
            callback()
        return GoneError("the client has gone")

    async def write(self, parts: Sequence[Bytes], seconds: float) -> None:
        """Send `parts`, as far as possible in one call; each wait for the client takes at most `seconds`.

        Raises `GoneError`. Where it is cancelled, the connection is `torn` and of no more use.
        """
        if self.gone or self.torn:
            raise GoneError("the client has gone")
        total = sum(map(len, parts))
        try:
            if total <= JOINED:
                data: Bytes = b"".join(parts)
                sent = self._sock.send(data)
            else:
                sent = self._sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise self._lost() from None
        if sent < total:
            await self._write_rest(parts, sent, seconds)

    async def _write_rest(self, parts: Sequence[Bytes], sent: int, seconds: float) -> None:
        self.torn = True
        for part in parts:
            view = memoryview(part)[sent:]
            sent = max(0, sent - len(part))
            while view:
                try:
                    await self._wait(trio.lowlevel.wait_writable, self._clock.soon + seconds)
                    view = view[self._sock.send(view) :]
                except BlockingIOError:
                    continue
                except (OSError, WaitExpiredError):
                    raise self._lost() from None
        self.torn = False

    def call_when_gone(self, callback: Callable[[], object]) -> None:
        """Have `callback` called as soon as the client has gone, unless `forget_callers` comes first."""
        if self.gone:
            callback()
            return
        self._callers.append(callback)
        if self.half_closed:
            self.ask()

    def forget_callers(self) -> None:
        """Call nobody: the request that they cared for has been answered."""
        self._callers.clear()

    def hung_up(self, events: int) -> None:
        """Take note of what the kernel says of the client's side: `EPOLLRDHUP`, `EPOLLHUP`, `EPOLLERR`."""
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self._lost()
        else:
            self.half_closed = True
            self.ask()

    def ask(self) -> None:
        """Ask a client that sends no more whether it is still there, if somebody cares, now and then.

        It may have left, or only have said that it has no more requests, and TCP does not tell which until
        something is sent to it: an interim response (102), which every client of HTTP/1.1 has to skip. One
        that has left answers with a reset, and `hung_up` is told.
        """
        now = trio.current_time()
        if self._callers and self.may_ask and now >= self._ask_next:
            self._ask_next = now + ASK_INTERVAL
            try:
                self._sock.send(_ARE_YOU_THERE)
            except BlockingIOError:
                pass  # what was sent before serves as well
            except OSError:
                self._lost()

    async def linger(self, seconds: float) -> None:
        """End the sending side and drop what still comes, so that no reset overtakes the last answer.

        RFC 9112, section 9.6. The client has `seconds` to end its side.
        """
        until = self._clock.soon + seconds
        with contextlib.suppress(WaitExpiredError, OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while await self.read(until):
                pass
