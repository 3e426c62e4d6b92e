"""A body that stops arriving is answered 408, where the server under the application would wait for ever."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from wfserve.http.refusal import RequestTimeoutError
from wfserve.http.respond import request_id, send_error

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from wfserve.http.body import Receive, Scope
    from wfserve.http.exchange import App
    from wfserve.http.respond import Send

    Message = MutableMapping[str, Any]


def with_body_timeout(app: App, seconds: float) -> App:
    """Return `app`, which gets a `RequestTimeoutError` if a part of a body takes longer than `seconds`.

    Where it does not answer that itself it is answered here.
    """

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(receive, send, seconds).run(app, scope)
        else:
            await app(scope, receive, send)

    return served


class _Exchange:
    """One request, and how far it is."""

    def __init__(self, receive: Receive, send: Send, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._patience = seconds
        self._expired = False
        self._started = False

    async def run(self, app: App, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception:  # perhaps in the groups of nurseries
            if self._started or not self._expired:
                raise
            await send_error(self._send, request_id(scope["headers"]), RequestTimeoutError())

    async def receive(self) -> Message:
        with trio.move_on_after(self._patience):
            message = await self._receive()
            if not message.get("more_body"):
                self._patience = math.inf  # what follows is the client's leaving
            return message
        self._expired = True
        raise RequestTimeoutError

    async def send(self, message: Message) -> None:
        self._started = True
        await self._send(message)
