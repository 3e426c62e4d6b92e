"""Every change, and every one that was refused, is in the log with who asked for it, and from where."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import trio
from quart import request

from wfserve.errors import WfserveError
from wfserve.state.files import StateError
from wfserve.state.store import Author

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from wfserve.http.gate import Gate
    from wfserve.registry.catalogue import Registry

log = logging.getLogger(__name__)
ANYBODY = "anybody"  # no token is asked for


@asynccontextmanager
async def changing(
    registry: Registry, what: str, name: str | None, arguments: Mapping[str, Any]
) -> AsyncIterator[Author]:
    """Give the author of the current request, and log what the block refuses to change.

    A change that is made is logged by the state itself.
    """
    author = author_of(cast("Any", request.scope))
    try:
        yield author
    except WfserveError as error:
        await _log_refusal(registry, author, what, name, arguments, error)
        raise


def author_of(scope: Mapping[str, Any]) -> Author:
    """Return who makes a request to the management API: the name of the token that it has shown."""
    gate: Gate = scope["wfserve.gate"]
    client = scope.get("client")
    return Author("management" if gate.asks_for_tokens else ANYBODY, client[0] if client else "unix")


async def _log_refusal(
    registry: Registry,
    author: Author,
    what: str,
    name: str | None,
    arguments: Mapping[str, Any],
    error: WfserveError,
) -> None:
    with trio.CancelScope(shield=True):
        try:
            record = registry.state.record_refusal
            await trio.to_thread.run_sync(record, author, what, name, arguments, error.message)
        except StateError as failure:  # the client has to be told of the first error
            log.warning("%s", failure.message)
