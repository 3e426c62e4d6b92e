"""What other origins' pages may do is one fixed set of headers, on every response of the applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from wfserve.config import Config
    from wfserve.http.body import Scope
    from wfserve.http.respond import Headers, Send


def cors_headers(config: Config) -> Headers:
    """Return the headers that the configuration asks for, word for word; none by default."""
    given = (
        (b"access-control-allow-origin", config.cors_allowed_origin),
        (b"access-control-allow-methods", config.cors_allowed_methods),
        (b"access-control-allow-headers", config.cors_allowed_headers),
    )
    return [(name, value.encode("latin-1")) for name, value in given if value]


def adding(headers: Headers, send: Send) -> Send:
    """Return a `send` that adds those of `headers` that a response has not set itself."""

    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            names = {name.lower() for name, _ in own}
            message = {**message, "headers": own + [each for each in headers if each[0] not in names]}
        await send(message)

    return send_with_headers


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if it may send another request, which would carry the token that this cannot.

    https://fetch.spec.whatwg.org/#cors-preflight-request
    """
    if scope["method"] != "OPTIONS":
        return False
    return {b"origin", b"access-control-request-method"} <= {name for name, _ in scope["headers"]}
