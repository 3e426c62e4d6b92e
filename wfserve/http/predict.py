"""`/wfpredict/{name}[/{version}]` is a plain ASGI endpoint: one copy of a body at most, one walk, one answer.

A client that disconnects cancels the walk, whatever it waits for. What is the same for a call of one node
(`predictions.py`) is here, too.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

import orjson
import trio

from wfserve.dag.walk import Request
from wfserve.errors import DeadlineError, InternalError, NotFoundError, WfserveError
from wfserve.http.body import Gone, arrived_body, declared_length, read_body
from wfserve.http.exchange import GONE, known
from wfserve.http.respond import as_wfserve_error, own_request_id, send_error, send_whole
from wfserve.http.urgency import NO_HURRY, asked_for, in_hurry
from wfserve.identity import new_uuid
from wfserve.transport.frame import Kind
from wfserve.transport.publish import publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from wfserve.dag.walk import Answer
    from wfserve.http.body import Receive, Scope
    from wfserve.http.respond import Headers, Send
    from wfserve.measure.counts import ResponseCounts
    from wfserve.registry.answering import Answering
    from wfserve.registry.serving import Served
    from wfserve.registry.workflow import Watch, Workflow
    from wfserve.transport.base import Lender, Payload

    Response = tuple[int, Headers, bytes]

log = logging.getLogger(__name__)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PREFIX = "wfpredict"
JSON = "application/json"
NOBODY = nullcontext()
_JSON_ALONE = [(b"content-type", JSON.encode())]


def predict(registry: Answering, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Answer one prediction request. Any method; the query is ignored."""
    return respond(registry.responses, identity_of(scope), send, _answer(registry, scope, receive))


def identity_of(scope: Scope) -> bytes:
    """Return what names the request: the client's own `x-request-id`, or a new UUID."""
    return known(scope, _own_identity) or new_uuid().encode()


def _own_identity(scope: Scope) -> bytes | None:
    return own_request_id(scope["headers"])


async def respond(
    counts: ResponseCounts, identity: bytes, send: Send, answer: Awaitable[Response | None]
) -> None:
    """Send what `answer` returns, or what its error deserves, and count it.

    Nothing is sent if it is None: the client has gone.
    """
    try:
        response = await answer
    except Gone:
        return
    except Exception as failure:  # the one boundary: as_wfserve_error logs what is not for the client
        error = as_wfserve_error(failure, identity)
        counts.count(error.code)
        await send_error(send, identity, error)
    else:
        if response is not None:
            counts.count(response[0])
            await send_whole(send, identity, *response)


async def _answer(registry: Answering, scope: Scope, receive: Receive) -> Response | None:
    asked = known(scope, _asked_for)
    served, workflow = _answering(registry, scope, asked)
    request = arrived_request(registry, scope, lender=workflow.bodies)
    if request is None:
        request = await _arriving(registry, scope, receive, workflow)
    if workflow.closing:  # another may have taken its place while the body came
        with suppress(WfserveError):  # else it says itself why it does not answer
            served, workflow = _answering(registry, scope, asked)
    shadow = None if asked.version else served.shadow
    copy = None if shadow is None else registry.shadows.copy(request, shadow)
    recording = None
    if served.record.recording and workflow.version == served.record.default:
        recording = registry.samples.recording(workflow, request)
    with NOBODY if copy is None else copy, NOBODY if recording is None else recording:
        answer = await unless_gone(scope, receive, partial(workflow.predict, request))
        if answer is None:
            return None
        try:
            if copy is not None:
                copy.answered(answer)
            rendered = _render(answer, registry.config.max_response_size)
            if recording is not None:
                recording.answered()
            return 200, *rendered
        finally:
            answer.release()


def _answering(registry: Answering, scope: Scope, asked: _Asked) -> tuple[Served, Workflow]:
    served = registry.served(asked.name)
    return served, served.answering(asked.version, scope["headers"])


async def _arriving(registry: Answering, scope: Scope, receive: Receive, workflow: Workflow) -> Request:
    number = workflow.arrivals.begin(trio.current_time())
    try:
        return await receive_request(registry, scope, receive, lender=workflow.bodies)
    except BaseException:
        if not workflow.in_flight:
            workflow.bodies.rest()
        raise
    finally:
        workflow.arrivals.end(number, trio.current_time())


class _Asked(NamedTuple):
    """What a path asks for."""

    name: str
    version: str | None  # means something where versions were given


def _asked_for(scope: Scope) -> _Asked:
    segments = path_segments(scope)
    if len(segments) < 3 or not segments[2]:
        raise NotFoundError
    return _Asked(segments[2], segments[3] if len(segments) > 3 and segments[3] else None)


def path_segments(scope: Scope) -> list[str]:
    """Return what stands between the slashes of the path; the first is empty."""
    segments: list[str] = scope["path"].split("/")
    return [unquote(each) if "%" in each else each for each in segments]


def arrived_request(
    registry: Answering, scope: Scope, added: Sequence[tuple[str, str]] = (), *, lender: Lender | None = None
) -> Request | None:
    """Return what `receive_request` would, if all of it is here already. Raises as that does."""
    said = known(scope, _said)
    terms = asked_for(scope["headers"]) if said.in_hurry else NO_HURRY
    lender = lender or registry.arena
    body = arrived_body(scope, said.length, lender, registry.config.max_request_size)
    return None if body is None else _request(registry, said, body, added, terms)


async def receive_request(
    registry: Answering,
    scope: Scope,
    receive: Receive,
    added: Sequence[tuple[str, str]] = (),
    *,
    lender: Lender | None = None,
) -> Request:
    """Return the request, with headers of ours behind the client's: of equal names the last counts.

    Its body is received into what `lender` lends, by default the arena.

    Raises as `read_body` and `asked_for` do, and `DeadlineError` when the client's own passes meanwhile.
    Whoever receives it owns its payloads.
    """
    said = known(scope, _said)
    terms = asked_for(scope["headers"]) if said.in_hurry else NO_HURRY
    with trio.CancelScope(deadline=terms[0]):
        lender = lender or registry.arena
        body = await read_body(scope, receive, lender, registry.config.max_request_size)
        return _request(registry, said, body, added, terms)
    raise DeadlineError


class _Said(NamedTuple):
    """What heads of requests say of them, worked out once a head."""

    length: int | None  # of the body, in bytes
    in_hurry: bool  # there is something to be read by `asked_for`
    pairs: bytes  # the headers as handlers are given them: a JSON list of [name, value]


def _said(scope: Scope) -> _Said:
    headers: Headers = scope["headers"]
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return _Said(declared_length(scope), in_hurry(headers), orjson.dumps(pairs))


def _request(
    registry: Answering,
    said: _Said,
    body: Payload,
    added: Sequence[tuple[str, str]],
    terms: tuple[float, int],
) -> Request:
    try:
        return Request(publish(registry.arena, _with(said.pairs, added), Kind.JSON), body, *terms)
    except BaseException:
        body.release()
        raise


def _with(pairs: bytes, added: Sequence[tuple[str, str]]) -> bytes:
    """Return a JSON list with the elements of another behind its own."""
    return orjson.dumps([*orjson.loads(pairs), *added]) if added else pairs


class Visit(Protocol[T_co]):
    """A request that is made, of a whole workflow or one of its nodes."""

    def __call__(self, *, watch: Watch | None = None) -> Awaitable[T_co | None]:
        """Return the answer, None if it was given up by a call of what `watch` is told."""


def unless_gone(scope: Scope, receive: Receive, visit: Visit[T]) -> Awaitable[T | None]:
    """Return what `visit` does, or None if the client disconnects first; it is given up then.

    Our own server calls back when the client has gone. Any other has to be listened to in a task.
    """
    extension = scope.get("extensions", {}).get(GONE)
    return _unless_heard(receive, visit()) if extension is None else visit(watch=extension["call"])


async def _unless_heard(receive: Receive, answer: Awaitable[T | None]) -> T | None:
    with trio.CancelScope() as client:
        return await _listening(receive, client, answer)
    return None


async def _listening(receive: Receive, client: trio.CancelScope, answer: Awaitable[T]) -> T:
    async def cancel_when_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        client.cancel()

    refusal: WfserveError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_gone)
        try:
            found = await answer
        except WfserveError as error:  # which the nursery would wrap into a group
            refusal = error
        nursery.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
    return found


def _render(answer: Answer, limit: int) -> tuple[Headers, bytes]:
    if len(answer.leaves) == 1:
        (done,) = answer.leaves.values()
        headers = handler_headers(said_by(done.response), JSON) if done.response else _JSON_ALONE
        body = bytes(done.payload.borrow())
    else:
        headers, body = handler_headers({}, JSON), _merge(answer)
    return headers, checked_size(body, limit)


def checked_size(body: bytes, limit: int) -> bytes:
    """Return `body`. Raises `InternalError` if it is over the limit of a response."""
    if len(body) > limit:
        raise InternalError(f"The response is over {limit} bytes (max_response_size).")
    return body


def said_by(response: bytes) -> dict[str, Any]:
    """Return what a handler set on its response: `status`, `content_type`, `headers`, as far as it did."""
    said: dict[str, Any] = orjson.loads(response) if response else {}
    return said


def handler_headers(said: dict[str, Any], content_type: str | None) -> Headers:
    """Return the headers that a handler set; `content_type` is that of one that set none.

    What could not stand in a response is left out, and named in the log: it is the handler's mistake.
    """
    given = {} if content_type is None else {"content-type": content_type}
    given |= {name.lower(): str(value) for name, value in (said.get("headers") or {}).items()}
    if said.get("content_type"):
        given["content-type"] = said["content_type"]
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
