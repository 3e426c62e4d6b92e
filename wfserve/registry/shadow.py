"""A shadow version gets copies of requests that others answer; its own answers are compared and counted.

Nobody waits for it, and no more than `MOST` copies are under way: what exceeds that is counted as skipped.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from typing import TYPE_CHECKING

import trio

from wfserve.errors import WfserveError

if TYPE_CHECKING:
    from wfserve.dag.walk import Answer, Request
    from wfserve.registry.workflow import Workflow

log = logging.getLogger(__name__)
MOST = 32
OUTCOMES = ("same", "different", "failed", "skipped", "gone")


class Copy:
    """A copy of one request, which is answered while the block runs, or has failed when the block raises."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._gone = True  # the client of the request itself
        self._digest: bytes | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, WfserveError):
            self._gone = False
        self._over.set()

    def answered(self, answer: Answer) -> None:
        """Say what the request was answered with; it is not kept."""
        self._digest, self._gone = _digest(answer), False

    async def judge(self, digest: bytes | None) -> str:
        """Return how the shadow did, whose answer has `digest`, None if it was an error."""
        await self._over.wait()
        if self._gone:
            return "gone"
        if digest == self._digest:
            return "same"
        return "failed" if digest is None else "different"


class Shadows:
    """Sends copies of requests to shadows, in tasks of `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._under_way = 0

    def copy(self, request: Request, shadow: Workflow) -> Copy | None:
        """Send a copy of `request` to `shadow`; None if there are too many."""
        if self._under_way >= MOST:
            shadow.mirrored["skipped"] += 1
            return None
        self._under_way += 1
        copied = request._replace(headers=request.headers.share(), body=request.body.share())
        copy = Copy()
        self._nursery.start_soon(self._run, copied, shadow, copy)
        return copy

    async def _run(self, request: Request, shadow: Workflow, copy: Copy) -> None:
        try:
            shadow.mirrored[await copy.judge(await _answer_of(shadow, request))] += 1
        finally:
            self._under_way -= 1


async def _answer_of(shadow: Workflow, request: Request) -> bytes | None:
    """Return a digest of what `shadow` answers, None if that is an error."""
    try:
        answer = await shadow.predict(request)
    except WfserveError:
        return None
    except Exception:  # whatever it is, those who wait for the version that answers are not concerned
        log.exception("the shadow version %s of workflow %s failed", shadow.version, shadow.name)
        return None
    if answer is None:
        return None
    try:
        return _digest(answer)
    finally:
        answer.release()


def _digest(answer: Answer) -> bytes:
    """Return a digest of the leaves' bytes and of what their handlers said of the response."""
    whole = blake2b()
    for leaf, done in sorted(answer.leaves.items()):
        for part in (leaf.encode(), done.response, done.payload.borrow()):
            whole.update(len(part).to_bytes(8))
            whole.update(part)
    return whole.digest()
