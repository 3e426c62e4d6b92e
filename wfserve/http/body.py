"""A request's body is received into payload memory: if its length is declared, with at most one copy.

One that has arrived with its head is published at once, in a third of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfserve.errors import BadRequestError, TooLargeError
from wfserve.http.exchange import BODY_INTO
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.publish import publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from wfserve.transport.base import Lender, Payload

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    ReceiveInto = Callable[[memoryview], Awaitable[int | None]]


class Gone(Exception):  # noqa: N818 - no error of ours
    """The client disconnected while it sent its request."""


def arrived_body(scope: Scope, declared: int | None, lender: Lender, limit: int) -> Payload | None:
    """Return a body of `declared` bytes if it has arrived with its head, which our own server can tell.

    Raises as `read_body`.
    """
    direct = scope.get("extensions", {}).get(BODY_INTO)
    if direct is None or not declared:
        return None
    if declared > limit:
        raise _too_large(limit)
    whole = direct["arrived"]()
    return None if whole is None else publish(lender, whole)


async def read_body(scope: Scope, receive: Receive, lender: Lender, limit: int) -> Payload:
    """Return the body of a request, at most `limit` bytes; whoever receives it owns it.

    Raises `TooLargeError`, `BadRequestError` if it is longer than declared, `ServiceUnavailableError` if
    there is no memory for it, and `Gone`.
    """
    declared = declared_length(scope)
    if declared is not None and declared > limit:
        raise _too_large(limit)
    if (direct := scope.get("extensions", {}).get(BODY_INTO)) is not None and declared:
        return await _read_direct(direct["receive_into"], lender, declared)
    first, more = await _next_part(receive)
    if not more:
        if len(first) > limit:
            raise _too_large(limit)
        return publish(lender, first)
    if declared is None:
        return publish(lender, await _read_undeclared(first, receive, limit))
    return await _read_declared(first, receive, lender, declared)


async def _read_direct(receive_into: ReceiveInto, lender: Lender, declared: int) -> Payload:
    """Have the server receive the body where it will be read: our own server does, hypercorn cannot."""
    loan = lender.loan(declared)
    try:
        if await receive_into(loan.buffer[:declared]) is None:
            raise Gone
        return loan.publish(pack_header(Kind.BYTES, declared), 0, declared)
    finally:
        loan.release()


async def _read_declared(first: bytes, receive: Receive, lender: Lender, declared: int) -> Payload:
    """Fill a slot of the declared length as the parts arrive."""
    loan = lender.loan(max(1, declared))
    try:
        part, more, filled = first, True, 0
        while True:
            if filled + len(part) > declared:
                raise BadRequestError("Invalid HTTP message.")
            loan.buffer[filled : filled + len(part)] = part
            filled += len(part)
            if not more:
                return loan.publish(pack_header(Kind.BYTES, filled), 0, filled)
            part, more = await _next_part(receive)
    finally:
        loan.release()


async def _read_undeclared(first: bytes, receive: Receive, limit: int) -> bytearray:
    body, more = bytearray(first), True
    while more:
        part, more = await _next_part(receive)
        body += part
        if len(body) > limit:
            raise _too_large(limit)
    return body


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message.get("body", b""), message.get("more_body", False)


def declared_length(scope: Scope) -> int | None:
    """Return what a request says of its body's length in bytes."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the server has checked it
    return None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The request body is over {limit} bytes (max_request_size).")
