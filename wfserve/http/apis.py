"""Each port exposes what belongs there and nothing else: one application for each set of APIs.

Nothing of them runs before the gate of the socket has let the request in. Predictions go past them: they are
what the server is for, and every microsecond of them is paid per request.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import trio

from wfserve.errors import WfserveError
from wfserve.http.application import application
from wfserve.http.cors import adding, cors_headers, is_preflight
from wfserve.http.exchange import known
from wfserve.http.gate import Gate
from wfserve.http.predict import PREFIX, predict
from wfserve.http.predictions import PREFIXES, call_node
from wfserve.http.respond import request_id, send_error, send_whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from wfserve.config import Api
    from wfserve.http.auth import Tokens
    from wfserve.http.body import Receive, Scope
    from wfserve.http.exchange import App
    from wfserve.http.respond import Send
    from wfserve.measure.counts import ResponseCounts
    from wfserve.registry.answering import Answering

_SOCKETS = 1024  # whose gates are kept; one bound to every address of a machine counts once an address


class Apis:
    """The HTTP applications of one registry, by port."""

    def __init__(self, registry: Answering, tokens: Tokens) -> None:
        self._registry = registry
        self._tokens = tokens
        self._cors = cors_headers(registry.config)
        self._answers_preflights = bool(registry.config.cors_allowed_origin)
        self._gate = lru_cache(maxsize=_SOCKETS)(self._new_gate)
        self._by_exposure: dict[frozenset[Api], App] = {}

    def _new_gate(self, server: Any, scheme: str) -> Gate:
        return Gate(self._registry.config, self._tokens, server, scheme)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one HTTP request on the APIs of the port that it came to."""
        responses = self._registry.responses
        if self._cors:
            send = adding(self._cors, send)
            if self._answers_preflights and is_preflight(scope):
                responses.count(200)
                return send_whole(send, request_id(scope["headers"]), 200, [], b"")
        gate = self._gate(scope["server"], scope["scheme"])
        endpoint = known(scope, _past_quart) if "inference" in gate.apis else None
        if endpoint is None:
            scope["wfserve.gate"] = gate
            return self._application(gate.apis)(scope, receive, _uncut(_counted(send, responses)))
        try:
            gate.admit("inference", scope["headers"])
        except WfserveError as error:
            responses.count(error.code)
            return send_error(send, request_id(scope["headers"]), error)
        return endpoint(self._registry, scope, receive, send)

    def _application(self, exposed: frozenset[Api]) -> App:
        if exposed not in self._by_exposure:
            self._by_exposure[exposed] = application(self._registry, exposed, self._tokens)
        return self._by_exposure[exposed]


def _past_quart(scope: Scope) -> Callable[[Answering, Scope, Receive, Send], Awaitable[None]] | None:
    """Return what answers a prediction, None for any other request."""
    path = scope["path"]
    if path[: len(PREFIX) + 2].lower() == f"/{PREFIX}/":
        return predict
    return call_node if path.startswith(PREFIXES) and scope["method"] != "OPTIONS" else None


def _counted(send: Send, responses: ResponseCounts) -> Send:
    """Return `send`, and have it count each response."""

    def send_counted(message: MutableMapping[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            responses.count(message["status"])
        return send(message)

    return send_counted


def _uncut(send: Send) -> Send:
    """Return `send` with its last part shielded from cancellation.

    While hypercorn ends a response it already reports the client as gone, upon which Quart-Trio cancels the
    request; the connection would lose its keep-alive timer, stay open for ever and hold up a graceful stop.
    """

    async def send_uncut(message: MutableMapping[str, Any]) -> None:
        with trio.CancelScope(shield=message["type"] == "http.response.body"):
            await send(message)

    return send_uncut
