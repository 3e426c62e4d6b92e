"""`/wfpredict/{name}` is a plain ASGI endpoint: at most one copy of the body, one walk, one answer.

A client that disconnects cancels the walk, whatever it waits for.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from wfserve.dag.walk import Request
from wfserve.errors import BadRequestError, InternalError, NotFoundError, TooLargeError
from wfserve.http.exchange import BODY_INTO
from wfserve.http.respond import as_wfserve_error, common_headers, error_headers, pretty, request_id
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.publish import publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from wfserve.dag.walk import Answer
    from wfserve.http.respond import Headers
    from wfserve.registry.catalogue import Registry
    from wfserve.transport.base import Arena, Payload
    from wfserve.workers.base import Done

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    ReceiveInto = Callable[[memoryview], Awaitable[int | None]]

log = logging.getLogger(__name__)
PREFIX = "wfpredict"


class _Gone(Exception):  # noqa: N818 - no error of ours
    """The client disconnected while it sent its request."""


async def predict(registry: Registry, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one prediction request. Any method, any further path segment; the query is ignored."""
    identity = request_id(scope["headers"])
    try:
        response = await _answer(registry, scope, receive)
    except _Gone:
        return
    except Exception as failure:  # the one boundary: as_wfserve_error logs what is not for the client
        error = as_wfserve_error(failure, identity)
        response = error.code, [_JSON, *error_headers(error)], pretty(error.body())
    if response is not None:
        await _respond(send, identity, *response)


_JSON = (b"content-type", b"application/json")


async def _answer(registry: Registry, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes] | None:
    workflow = registry.lookup(_workflow_name(scope))
    body = await _read_body(scope, receive, registry.arena, registry.config.max_request_size)
    try:
        headers = _headers_payload(scope["headers"], registry.arena)
    except BaseException:
        body.release()
        raise

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    answer = await workflow.predict(Request(headers, body), gone)
    if answer is None:
        return None
    try:
        return 200, *_render(answer, registry.config.max_response_size)
    finally:
        answer.release()


def _workflow_name(scope: Scope) -> str:
    segments = scope["path"].split("/")
    if len(segments) < 3 or not segments[2]:
        raise NotFoundError
    return unquote(segments[2]) if "%" in segments[2] else segments[2]


def _headers_payload(headers: Headers, arena: Arena) -> Payload:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return publish(arena, orjson.dumps(pairs), Kind.JSON)


async def _read_body(scope: Scope, receive: Receive, arena: Arena, limit: int) -> Payload:
    declared = _declared_length(scope["headers"])
    if declared is not None and declared > limit:
        raise _too_large(limit)
    if (direct := scope.get("extensions", {}).get(BODY_INTO)) is not None and declared:
        return await _read_direct(direct["receive_into"], arena, declared)
    first, more = await _next_part(receive)
    if not more:
        if len(first) > limit:
            raise _too_large(limit)
        return publish(arena, first)
    if declared is None:
        return publish(arena, await _read_undeclared(first, receive, limit))
    return await _read_declared(first, receive, arena, declared)


async def _read_direct(receive_into: ReceiveInto, arena: Arena, declared: int) -> Payload:
    """Have the server receive the body where it will be read: our own server does, hypercorn cannot."""
    loan = arena.loan(declared)
    try:
        if await receive_into(loan.buffer[:declared]) is None:
            raise _Gone
        return loan.publish(pack_header(Kind.BYTES, declared), 0, declared)
    finally:
        loan.release()


async def _read_declared(first: bytes, receive: Receive, arena: Arena, declared: int) -> Payload:
    """Fill a slot of the declared length as the parts arrive."""
    loan = arena.loan(max(1, declared))
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
        raise _Gone
    return message.get("body", b""), message.get("more_body", False)


def _declared_length(headers: Headers) -> int | None:
    for name, value in headers:
        if name == b"content-length":
            return int(value)  # the server has checked it
    return None


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The request body is over {limit} bytes (max_request_size).")


def _render(answer: Answer, limit: int) -> tuple[Headers, bytes]:
    if len(answer.leaves) == 1:
        (done,) = answer.leaves.values()
        headers, body = _handler_headers(done), bytes(done.payload.borrow())
    else:
        headers, body = [_JSON], _merge(answer)
    if len(body) > limit:
        raise InternalError(f"The response is over {limit} bytes (max_response_size).")
    return headers, body


def _handler_headers(done: Done) -> Headers:
    """Return the content type and headers that the leaf's handler set; JSON is what TorchServe says.

    What could not stand in a response is left out, and named in the log: it is the handler's mistake.
    """
    if not done.response:
        return [_JSON]
    said = orjson.loads(done.response)
    given = {"content-type": "application/json"}
    given |= {name.lower(): str(value) for name, value in (said.get("headers") or {}).items()}
    given["content-type"] = said.get("content_type") or given["content-type"]
    return [
        (name.encode("ascii"), value.encode("latin-1", "replace"))
        for name, value in given.items()
        if name not in _OURS and _is_sound(name, value)
    ]


def _is_sound(name: str, value: str) -> bool:
    sound = _NAME.fullmatch(name) is not None and _UNSOUND.search(value) is None
    if not sound:
        log.warning("a handler set a response header that cannot be sent: %r: %r", name, value)
    return sound


_OURS = {"content-length", "connection", "transfer-encoding", "x-request-id"}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, 5.6.2
_UNSOUND = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")


def _merge(answer: Answer) -> bytes:
    """Return one JSON object of all leaves, in order of completion, without nulls."""
    merged = {}
    for leaf, done in answer.leaves.items():
        try:
            value = json.loads(bytes(done.payload.borrow()))
        except ValueError:
            raise InternalError(
                f"The output of {leaf} is not JSON, as one of several leaves has to be."
            ) from None
        if value is not None:
            merged[leaf] = value
    return json.dumps(merged, indent=2, ensure_ascii=False).encode() + b"\n"


async def _respond(send: Send, identity: bytes, status: int, headers: Headers, body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode()), *common_headers(status, identity)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
