"""Everything that is the same in every response: the JSON's form, TorchServe's headers, how errors look.

A `WfserveError` says its own status and message. Anything else is our fault: the log gets the traceback and
the request id, the client the id alone.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any

import orjson

from wfserve.errors import InternalError, WfserveError
from wfserve.identity import new_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)
Headers = list[tuple[bytes, bytes]]
MAX_REQUEST_ID = 200
_ALWAYS: Headers = [
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]
_PRINTABLE = re.compile(rb"[ -~]+")
_CLOSE = (b"connection", b"close")
_JSON = (b"content-type", b"application/json")


def pretty(value: Any) -> bytes:
    """Return JSON as TorchServe writes it: two spaces, one value, a newline."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the client's own `x-request-id` if it can stand in a header, else a new UUID."""
    return own_request_id(headers) or new_uuid().encode()


def own_request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the client's own `x-request-id` if it can stand in a header."""
    for name, value in headers:
        if name == b"x-request-id" and len(value) <= MAX_REQUEST_ID and _PRINTABLE.fullmatch(value):
            return value
    return None


def common_headers(status: int, identity: bytes) -> Headers:
    """Return the headers every response has; a failed request also ends its connection."""
    headers = [(b"x-request-id", identity), *_ALWAYS]
    if status >= 400:
        headers.append(_CLOSE)
    return headers


def as_wfserve_error(error: BaseException, identity: bytes) -> WfserveError:
    """Return what the client is told; what is not a `WfserveError`, alone in its groups, is logged."""
    alone = error
    while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1:
        alone = alone.exceptions[0]
    if isinstance(alone, WfserveError):
        return alone
    log.error("request %s failed", identity.decode(), exc_info=error)
    return InternalError(f"Internal error; the server's log has more under request {identity.decode()}.")


async def send_error(send: Send, identity: bytes, error: WfserveError) -> None:
    """Answer an ASGI request with `error`."""
    await send_whole(send, identity, error.code, [_JSON, *error_headers(error)], pretty(error.body()))


async def send_whole(send: Send, identity: bytes, status: int, headers: Headers, body: bytes) -> None:
    """Answer an ASGI request with a response whose body is all there."""
    length = (b"content-length", str(len(body)).encode())
    headers = [*headers, length, *common_headers(status, identity)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_headers(error: WfserveError) -> Headers:
    """Return the headers that an error adds."""
    if error.retry_after is None:
        return []
    return [(b"retry-after", str(math.ceil(error.retry_after)).encode())]
