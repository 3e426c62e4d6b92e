"""One nursery owns one request: when `walk` or `call` is over, nothing of it is queued or waited for.

Whoever wants a request given up cancels the scope that it is walked in.

A task a ready node; the task that completed a node goes on with the first child that became ready, and
starts tasks for the others, so that a chain is walked by one task. Outputs live until their last reader has
completed, since an attempt may have to read its inputs again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from wfserve.dag.graph import Progress
from wfserve.errors import (
    BadRequestError,
    InternalError,
    NoWorkerError,
    OutOfMemoryError,
    PredictionError,
    ServiceUnavailableError,
    WfserveError,
    WorkerDiedError,
)
from wfserve.identity import new_uuid
from wfserve.workers.base import Done, Item

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.dag.graph import Graph
    from wfserve.scheduling.dispatch import Stage
    from wfserve.transport.base import Payload


# Trying again would not mend a body that cannot be read, and would add to what is too much already.
_FINAL = (BadRequestError, ServiceUnavailableError)


class Route(NamedTuple):
    """A graph and the stage that serves each of its nodes."""

    graph: Graph
    stages: Mapping[str, Stage]


class Request(NamedTuple):
    """What a client sent. `walk` and `call` take both payloads over and release them."""

    headers: Payload  # JSON list of [name, value]
    body: Payload

    def release(self) -> None:
        """Give both payloads up."""
        self.headers.release()
        self.body.release()


class Answer(NamedTuple):
    """The leaves' outputs in order of completion; the caller releases the payloads."""

    leaves: dict[str, Done]

    def release(self) -> None:
        """Give all payloads up."""
        for done in self.leaves.values():
            done.payload.release()


async def walk(route: Route, request: Request) -> Answer:
    """Run `request` through the graph and return what the leaves returned.

    Each node is tried `retry_attempts + 1` times. Raises the error of the first node that failed for good,
    after its siblings have been cancelled:
    `InternalError("Error executing N")`, the handler's own `PredictionError`, or `ServiceUnavailableError`.
    """
    return await _Errand(route, request).run()


async def call(
    route: Route, request: Request, timeout: float | None = None, identity: str | None = None
) -> Answer:
    """Run `request` through a route of one node, which reads it as a client's, whatever its parents are.

    The handler knows it by `identity`, a UUID, by default a new one. It is tried once: it may wait `timeout`
    seconds, then run as long, by default the stage's own. Raises what became of the call in TorchServe's
    words: `NoWorkerError`, or an error with the code of the node's fault, among them the handler's own
    `PredictionError`.
    """
    return await _Call(route, request, timeout, identity or new_uuid()).run()


class _Errand:
    """The state of one request on its way."""

    __slots__ = ("_error", "_leaves", "_outputs", "_progress", "_request", "_route", "nursery")

    nursery: trio.Nursery

    def __init__(self, route: Route, request: Request) -> None:
        self._route = route
        self._request = request
        self._progress = Progress(route.graph)
        self._outputs: dict[str, Done] = {}
        self._leaves: list[str] = []
        self._error: WfserveError | None = None

    async def run(self) -> Answer:
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                await self.run_from(self._route.graph.start)
            return self.answer()
        finally:
            self.release()

    async def run_from(self, start: str) -> None:
        """Run a node, then those that it made ready; a failure that is for the client ends the request."""
        node: str | None = start
        while node is not None:
            try:
                done = await self._run(node)
            except WfserveError as error:
                self._fail(error)
                return
            node = self._complete(node, done)

    def _fail(self, error: WfserveError) -> None:
        if self._error is None:
            self._error = error
        self.nursery.cancel_scope.cancel()

    async def _run(self, node: str) -> Done:
        stage = self._route.stages[node]
        item = Item(new_uuid(), self._request.headers, self._inputs(node))
        error: WfserveError | None = None
        for number in range(stage.settings.retry_attempts + 1):
            outcome = await stage.attempt(item, retry=number > 0)
            if isinstance(outcome, Done):
                return outcome
            error = outcome.error
            if isinstance(error, _FINAL):
                raise error
        if isinstance(error, PredictionError):
            raise error
        raise InternalError(f"Error executing {node}") from error

    def _inputs(self, node: str) -> tuple[tuple[int, Payload], ...]:
        parents = self._route.graph.parents[node]
        if not parents:
            return ((0, self._request.body),)
        if len(parents) == 1:
            return ((0, self._outputs[parents[0]].payload),)
        arrived = (name for name in self._outputs if name in parents)
        return tuple((parents.index(name), self._outputs[name].payload) for name in arrived)

    def _complete(self, node: str, done: Done) -> str | None:
        self._outputs[node] = done
        step = self._progress.complete(node)
        if node in self._route.graph.leaves:
            self._leaves.append(node)
        for spent in step.spent:
            self._outputs.pop(spent).payload.release()
        for other in step.ready[1:]:
            self.nursery.start_soon(self.run_from, other, name=other)
        return step.ready[0] if step.ready else None

    def answer(self) -> Answer:
        if self._error is not None:
            raise self._error
        return Answer({leaf: self._outputs.pop(leaf) for leaf in self._leaves})

    def release(self) -> None:
        self._request.release()
        for done in self._outputs.values():
            done.payload.release()
        self._outputs.clear()


class _Call(_Errand):
    """The state of a call of one node by itself."""

    __slots__ = ("_identity", "_timeout")

    def __init__(self, route: Route, request: Request, timeout: float | None, identity: str) -> None:
        super().__init__(route, request)
        self._timeout = timeout
        self._identity = identity

    async def _run(self, node: str) -> Done:
        item = Item(self._identity, self._request.headers, self._inputs(node), direct=True)
        try:
            outcome = await self._route.stages[node].attempt(item, timeout=self._timeout)
        except ServiceUnavailableError as refusal:
            raise NoWorkerError(refusal.message, retry_after=refusal.retry_after) from refusal
        if isinstance(outcome, Done):
            return outcome
        raise _as_predicted(outcome.error)


def _as_predicted(error: WfserveError) -> WfserveError:
    """Return a node's error as TorchServe says it of a model: all are its `InternalServerException`."""
    if isinstance(error, WorkerDiedError):
        return InternalError("Worker died.")
    if isinstance(error, OutOfMemoryError):
        return InternalError(error.message, code=error.code)
    return error
