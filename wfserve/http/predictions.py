"""`/predictions/{W__N}` and `/explanations/{W__N}` call one node alone, as TorchServe calls a model.

    /predictions/{W__N}[/{version}[/{anything}]]     any method but OPTIONS, which asks for a description

The handler sees `explain`, and as `url_path` what follows the version, among the client's headers. What it
sets on the response is honoured, the status included; a content type it has to set itself.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from wfserve.errors import (
    InternalError,
    NotFoundError,
    NoWorkerError,
    ServiceUnavailableError,
    WfserveError,
)
from wfserve.http.predict import (
    arrived_request,
    checked_size,
    handler_headers,
    identity_of,
    path_segments,
    receive_request,
    respond,
    said_by,
    unless_gone,
)
from wfserve.identity import as_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from wfserve.http.body import Receive, Scope
    from wfserve.http.predict import Response
    from wfserve.http.respond import Send
    from wfserve.registry.answering import Answering
    from wfserve.workers.base import Done

PREFIXES = ("/predictions/", "/explanations/")


class _Target(NamedTuple):
    """What a path asks for."""

    name: str  # registered name, `W__N`
    version: str | None
    rest: str  # of the path, behind the version
    explain: bool

    def headers(self) -> list[tuple[str, str]]:
        """Return what TorchServe adds to the client's headers, in place of any of that name."""
        return [("url_path", self.rest), ("explain", str(self.explain))]


def call_node(registry: Answering, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Answer one request below `PREFIXES`. Any method; the query is ignored."""
    identity = identity_of(scope)
    answer = _answer(registry, scope, receive, as_uuid(identity))
    return respond(registry.responses, identity, send, answer)


async def _answer(registry: Answering, scope: Scope, receive: Receive, identity: str) -> Response | None:
    target = _target(scope)
    workflow, plan = registry.node(target.name, target.version)
    request = arrived_request(registry, scope, target.headers())
    if request is None:
        request = await receive_request(registry, scope, receive, target.headers())
    if workflow.closing:  # another may have taken its place while the body came
        with suppress(WfserveError):  # else it says itself why it does not answer
            workflow, plan = registry.node(target.name, target.version)
    try:
        visit = partial(workflow.call_node, plan.node, request, identity=identity)
        done = await unless_gone(scope, receive, visit)
    except NoWorkerError as refusal:
        raise ServiceUnavailableError(_no_worker(target), retry_after=refusal.retry_after) from refusal
    if done is None:
        return None
    try:
        return _render(done, registry.config.max_response_size)
    finally:
        done.payload.release()


def _target(scope: Scope) -> _Target:
    _, endpoint, *segments = path_segments(scope)
    while segments and not segments[-1]:
        segments.pop()
    if not segments:
        raise NotFoundError
    version = segments[1] if len(segments) > 1 else None
    return _Target(segments[0], version, "/".join(segments[2:]), endpoint == "explanations")


def _no_worker(target: _Target) -> str:
    named = target.name if target.version is None else f'{target.name}" Version {target.version}'
    return (
        f'Model "{named}" has no worker to serve inference request. Please use scale workers API'
        " to add workers. If this is a sequence inference, please check if it is closed, or expired;"
        " or exceeds maxSequenceJobQueueSize"
    )


def _render(done: Done, limit: int) -> Response:
    said = said_by(done.response)
    status = said.get("status", 200)
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise InternalError(f"The handler set {status!r}, which is no status of a response.")
    body = checked_size(bytes(done.payload.borrow()), limit)
    return status, handler_headers(said, None), b"" if status in (204, 304) else body
