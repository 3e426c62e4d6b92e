"""Under hypercorn, answers are those of our own server: what it does before the application is done here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfserve.http.refusal import ExpectationError
from wfserve.http.respond import request_id, send_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, MutableMapping

    from wfserve.http.body import Receive, Scope
    from wfserve.http.exchange import App
    from wfserve.http.respond import Headers, Send

_KEEP_ALIVE = (b"connection", b"keep-alive")


def under_hypercorn(app: App) -> App:
    """Return `app` for hypercorn: unknown expectations are refused, and answers say `keep-alive`."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if _is_unmet(scope["headers"]):
                await send_error(send, request_id(scope["headers"]), ExpectationError())
                return
            if scope["http_version"] == "1.1":
                send = _keeping_alive(send)
        await app(scope, receive, send)

    return served


def _is_unmet(headers: Headers) -> bool:
    return any(name == b"expect" and value.lower() != b"100-continue" for name, value in headers)


def _keeping_alive(send: Send) -> Send:
    """Return `send`, and have it say `keep-alive`; hypercorn makes it `close` where it closes."""

    def send_kept(message: MutableMapping[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if not any(name == b"connection" for name, _ in headers):
                message = {**message, "headers": [*headers, _KEEP_ALIVE]}
        return send(message)

    return send_kept
