"""One nursery owns one request: when its walk is over, nothing of it is queued or waited for.

Its scope is the request's: the client's leaving, its deadline and the end of its workflow all cancel that.

A task a ready stage, which is a node or a chain of nodes; the task that completed one goes on with the first
child that became ready, and starts tasks for the others, so that a chain of stages is walked by one task.
Outputs live until their last reader has completed, since an attempt may have to read its inputs again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 - compiled classes look at the types of their fields
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import trio

from wfserve.dag.graph import Graph  # noqa: TC001 - as above
from wfserve.dag.progress import Progress
from wfserve.errors import (
    BadRequestError,
    InternalError,
    NoWorkerError,
    OutOfMemoryError,
    PredictionError,
    ServiceUnavailableError,
    TooLateError,
    WfserveError,
    WorkerDiedError,
)
from wfserve.identity import new_uuid
from wfserve.scheduling.policy import DEFAULT_PRIORITY, urgency
from wfserve.transport.base import Payload  # noqa: TC001 - as above
from wfserve.workers.base import Done, Failed, Item, Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.scheduling.desk import Desk
    from wfserve.scheduling.dispatch import Stage


# Trying again would not mend a body that cannot be read, and would add to what is too much already.
_FINAL = (BadRequestError, ServiceUnavailableError)


class Route(NamedTuple):
    """A graph, the stage that serves each of its nodes, and the nodes of each stage that has several."""

    graph: Graph
    stages: Mapping[str, Stage | Desk]
    chains: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # by each of their nodes
    patience: float = math.inf  # seconds that a request may take whose client has not said

    def chain(self, node: str) -> tuple[str, ...]:
        """Return the nodes of the stage of `node`, in the order they run."""
        return self.chains.get(node) or (node,)

    def step(self, node: str) -> int:
        """Return which step of its stage `node` is."""
        return self.chain(node).index(node)


def patience(graph: Graph, stages: Mapping[str, Stage | Desk], step: Callable[[str], int]) -> float:
    """Return the seconds of all attempts along the path that may take longest."""
    longest: dict[str, float] = {}
    for node in graph.nodes:
        settings = stages[node].steps[step(node)]
        before = max([longest[parent] for parent in graph.parents[node]], default=0.0)
        longest[node] = before + settings.timeout * (settings.retry_attempts + 1)
    return max(longest.values())


class Request(NamedTuple):
    """What a client sent. A `Walk` or `Call` takes both payloads over and releases them when it ends."""

    headers: Payload  # JSON list of [name, value]
    body: Payload
    deadline: float = math.inf  # by which the client wants its answer (trio clock)
    priority: int = DEFAULT_PRIORITY  # 0 to 9, of requests that are otherwise as urgent

    def terms(self, patience: float) -> Terms:
        """Return by when it is to be answered: as the client says, or within `patience` seconds."""
        asked_for = self.deadline < math.inf
        deadline = self.deadline if asked_for else trio.current_time() + patience
        return Terms(deadline, urgency(deadline, self.priority, asked_for=asked_for), self.deadline)

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
    """Run `request` through the graph and return what the leaves returned. Raises as `Walk.run` does."""
    answer = await Walk(route, request).run()
    assert answer is not None  # nobody else could give it up
    return answer


class Call:
    """A request for one node, which reads it as a client's, whatever its parents are."""

    def __init__(
        self,
        route: Route,
        node: str,
        request: Request,
        timeout: float | None = None,
        identity: str | None = None,
    ) -> None:
        """Prepare to run `request`, whose handler knows it by `identity`, a UUID, by default a new one.

        It may wait `timeout` seconds, then run as long, by default the stage's own.
        """
        self.route = route
        self._node = node
        self._request = request
        self._timeout = timeout
        self._identity = identity
        self._scope = trio.CancelScope(deadline=request.deadline)

    def give_up(self) -> None:
        """End the call early, from wherever."""
        self._scope.cancel()

    async def run(self) -> Done | None:
        """Return what the node returned, None if the call was given up or its deadline has passed.

        It is tried once. Raises what became of it in TorchServe's words: `NoWorkerError`, or an error with
        the code of the node's fault, among them the handler's own `PredictionError`.
        """
        request = self._request
        item = Item(self._identity or new_uuid(), request.headers, ((0, request.body),), direct=True)
        item.first = item.last = self.route.step(self._node)
        item.terms = request.terms(self.route.patience)._replace(deadline=request.deadline)
        outcome = None
        try:
            with self._scope:
                outcome = await self.route.stages[self._node].attempt(item, timeout=self._timeout)
        except TooLateError:
            raise
        except ServiceUnavailableError as refusal:
            raise NoWorkerError(refusal.message, retry_after=refusal.retry_after) from refusal
        finally:
            item.forget()
            request.release()
        if isinstance(outcome, Failed):
            raise _as_predicted(outcome.error)
        return outcome


class Walk:
    """One request on its way through the graph."""

    __slots__ = (
        "_error",
        "_given_up",
        "_leaves",
        "_nursery",
        "_outputs",
        "_progress",
        "_request",
        "_terms",
        "route",
    )

    def __init__(self, route: Route, request: Request) -> None:
        self.route = route
        self._nursery: trio.Nursery | None = None
        self._given_up = False
        self._request = request
        self._terms = request.terms(route.patience)
        self._progress = Progress(route.graph)
        self._outputs: dict[str, Done] = {}
        self._leaves: list[str] = []
        self._error: WfserveError | None = None

    def give_up(self) -> None:
        """End the walk early, from wherever."""
        self._given_up = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def run(self) -> Answer | None:
        """Return what the leaves returned, None if the walk was given up or its deadline has passed.

        Each node is tried `retry_attempts + 1` times, wherever in a stage it stands. Raises the error of the
        first that failed for good, after its siblings have been cancelled: `InternalError("Error executing
        N")`, the handler's own `PredictionError`, or `ServiceUnavailableError`.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._request.deadline < math.inf:
                    nursery.cancel_scope.deadline = self._request.deadline
                if self._given_up:
                    nursery.cancel_scope.cancel()
                await self._run_from(nursery, self.route.graph.start)
            return self._answer()
        finally:
            self._nursery = None
            self._release()

    async def _run_from(self, nursery: trio.Nursery, start: str) -> None:
        """Run a stage, then those that it made ready; a failure that is for the client ends the request."""
        node: str | None = start
        while node is not None:
            chain = self.route.chain(node)
            try:
                done = await self._tried(chain)
            except WfserveError as error:
                self._error = self._error or error
                nursery.cancel_scope.cancel()
                return
            node = self._complete(nursery, chain, done)

    async def _tried(self, chain: tuple[str, ...]) -> Done:
        """Run a stage until it has returned something, or one of its steps has failed for good."""
        stage, request = self.route.stages[chain[0]], self._request
        inputs = self._inputs(chain[0])
        item = Item(new_uuid(), request.headers, inputs, last=len(chain) - 1, terms=self._terms)
        failed: list[int] = []  # steps, one an attempt
        try:
            while not isinstance(outcome := await stage.attempt(item, retry=item.first in failed), Done):
                failed.append(outcome.step)
                again = failed.count(outcome.step) <= stage.steps[outcome.step].retry_attempts
                if not again or isinstance(outcome.error, _FINAL):
                    _fail(chain[outcome.step], outcome.error)
            return outcome
        finally:
            item.forget()

    def _inputs(self, node: str) -> tuple[tuple[int, Payload], ...]:
        parents = self.route.graph.parents[node]
        if not parents:
            return ((0, self._request.body),)
        if len(parents) == 1:
            return ((0, self._outputs[parents[0]].payload),)
        arrived = [name for name in self._outputs if name in parents]
        return tuple([(parents.index(name), self._outputs[name].payload) for name in arrived])

    def _complete(self, nursery: trio.Nursery, chain: tuple[str, ...], done: Done) -> str | None:
        node = chain[-1]  # what those before it returned has been read where it lay
        self._outputs[node] = done
        ready, spent = self._progress.complete_chain(chain)
        if node in self.route.graph.leaves:
            self._leaves.append(node)
        for parent in spent:
            self._outputs.pop(parent).payload.release()
        if not ready:
            return None
        for other in ready[1:]:
            nursery.start_soon(self._run_from, nursery, other, name=other)
        return ready[0]

    def _answer(self) -> Answer | None:
        if self._error is not None:
            raise self._error
        if len(self._leaves) < len(self.route.graph.leaves):
            return None
        return Answer({leaf: self._outputs.pop(leaf) for leaf in self._leaves})

    def _release(self) -> None:
        self._request.release()
        for done in self._outputs.values():
            done.payload.release()
        self._outputs.clear()


def _fail(node: str, error: WfserveError) -> NoReturn:
    """Raise what a request ends with that has failed at a node."""
    if isinstance(error, (*_FINAL, PredictionError)):
        raise error
    raise InternalError(f"Error executing {node}") from error


def _as_predicted(error: WfserveError) -> WfserveError:
    """Return a node's error as TorchServe says it of a model: all are its `InternalServerException`."""
    if isinstance(error, WorkerDiedError):
        return InternalError("Worker died.")
    if isinstance(error, OutOfMemoryError):
        return InternalError(error.message, code=error.code)
    return error
