"""A Workflow runs from the moment all its nodes have loaded until its nursery is left; then nothing is left.

Requests are walked in their own tasks, not in the workflow's: it counts them, lets them finish when it
closes, and cancels those that take too long.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from wfserve.dag.graph import Graph
from wfserve.dag.walk import Route, call, walk
from wfserve.errors import InternalError, ServiceUnavailableError, WfserveError
from wfserve.measure.counts import NodeCounts, RequestCounts, status_class
from wfserve.measure.definitions import EVERYTHING
from wfserve.measure.recorded import Recorded
from wfserve.registry.prepare import raise_failures
from wfserve.scheduling.dispatch import Stage
from wfserve.workers.base import LoadError
from wfserve.workers.pool import ProcessPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from wfserve.dag.walk import Answer, Request
    from wfserve.measure.definitions import Definitions
    from wfserve.registry.prepare import Blueprint, NodePlan
    from wfserve.transport.base import Transport
    from wfserve.workers.base import Done, Listener, Pool


class Workflow:
    """A registered workflow and its running parts."""

    def __init__(
        self, blueprint: Blueprint, transport: Transport, server: int, definitions: Definitions = EVERYTHING
    ) -> None:
        self.blueprint = blueprint
        self.name = blueprint.name
        self.measured = RequestCounts()
        self._definitions = definitions
        self.pools: dict[str, ProcessPool] = {}
        self._transport = transport
        self._server = server
        self._requests: set[trio.CancelScope] = set()
        self._closing = trio.Event()
        self._idle = trio.Event()
        self.gone = trio.Event()  # set once nothing is left, not even its files
        self.loaded_at_startup = False
        stages = {node: self._stage(plan) for node, plan in blueprint.nodes.items()}
        self.route = Route(blueprint.graph, stages)
        self._alone = {
            node: Route(Graph.from_edges({node: ()}), {node: stage}) for node, stage in stages.items()
        }

    def _stage(self, plan: NodePlan) -> Stage:
        def open_pool(listener: Listener) -> Pool:
            pool = ProcessPool(plan.worker, plan.pool, self._transport, self._server, listener)
            self.pools[plan.node] = pool
            return pool

        recorded = Recorded(plan.worker.name, self._definitions.model)
        return Stage(plan.stage, open_pool, NodeCounts(recorded))

    async def run(self, drain: float, loaded: Callable[[], None]) -> None:
        """Run until `close`; `loaded` is called when every node is. Requests then have `drain` seconds.

        Raises `WorkflowError` that lists the nodes which did not load.
        """
        failures: list[str] = []
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as loading:
                for node in self.blueprint.graph.nodes:
                    loading.start_soon(self._load, node, nursery, failures)
            if not failures:
                await self._serve(nursery, drain, loaded)
            nursery.cancel_scope.cancel()
        raise_failures(self.name, failures)

    async def _serve(self, nursery: trio.Nursery, drain: float, loaded: Callable[[], None]) -> None:
        for stage in self.route.stages.values():
            nursery.start_soon(stage.serve, name=f"{stage.settings.name} dispatcher")
        loaded()
        try:
            await self._closing.wait()
            await self._drained(drain)
        finally:  # however it ends: without its dispatchers a request would wait for ever
            self.close()
            await self._cancel_requests()

    async def _load(self, node: str, nursery: trio.Nursery, failures: list[str]) -> None:
        plan = self.blueprint.nodes[node]
        try:
            await nursery.start(self.pools[node].run)
        except WfserveError:  # the pool has logged why
            failures.append(_not_started(plan))

    async def _drained(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while self._requests:
                self._idle = trio.Event()
                await self._idle.wait()

    async def _cancel_requests(self) -> None:
        for scope in self._requests:
            scope.cancel()
        with trio.CancelScope(shield=True):  # each of them ends at its next checkpoint, it waits for nothing
            await self._drained(math.inf)

    async def scaled(self, plan: NodePlan) -> None:
        """Return when a node has the workers that its stage was given by `resize`, and no others.

        Raises `InternalError` if one of them does not load; it is tried again all the same.
        """
        try:
            await self.route.stages[plan.node].pool.settled()
        except LoadError:  # the pool has logged why
            raise InternalError(_not_started(plan)) from None

    def close(self) -> None:
        """Take no more requests, and end `run` when those under way have been answered."""
        self._closing.set()

    @property
    def closing(self) -> bool:
        """Whether no more requests are taken."""
        return self._closing.is_set()

    async def predict(self, request: Request) -> Answer:
        """Walk `request`. Raises as `walk` does, and 503 while closing.

        Takes the request's payloads over, whatever becomes of it.
        """
        began, outcome = monotonic(), "5xx"
        try:
            answer = await self._answer(request, walk(self.route, request))
            outcome = "2xx"
        except trio.Cancelled:
            outcome = "gone"
            raise
        except WfserveError as error:
            outcome = status_class(error.code)
            raise
        finally:
            self.measured.ended(outcome, monotonic() - began)
        return answer

    async def call_node(
        self, node: str, request: Request, timeout: float | None = None, identity: str | None = None
    ) -> Done:
        """Run `request` through one node alone, as TorchServe runs a model.

        The node reads the body by the request's content type, wherever it stands in the workflow; what it
        returns is encoded as a leaf's, and the caller releases it. Headers beyond the client's, `explain` and
        `describe` among them, are part of `request`. The handler knows it by `identity`, a UUID, by default a
        new one. It may wait `timeout` seconds, then run as long: by
        default its plan's `response_timeout`. Takes the request's payloads over, raises as `dag.walk.call`
        does, and 503 while closing.
        """
        seconds = self.blueprint.nodes[node].response_timeout if timeout is None else timeout
        answer = await self._answer(request, call(self._alone[node], request, seconds, identity))
        return answer.leaves[node]

    async def _answer(self, request: Request, walking: Coroutine[Any, Any, Answer]) -> Answer:
        if self.closing:  # its body may have been read while the workflow was unregistered
            walking.close()
            request.release()
            raise self._leaving()
        scope = trio.CancelScope()
        self._requests.add(scope)
        try:
            with scope:
                return await walking
        finally:
            self._requests.discard(scope)
            if not self._requests:
                self._idle.set()
        raise self._leaving()

    def _leaving(self) -> ServiceUnavailableError:
        return ServiceUnavailableError(f"Workflow {self.name} is being unregistered.")

    @property
    def in_flight(self) -> int:
        """Requests that are being walked."""
        return len(self._requests)

    def healthy(self) -> bool:
        """Whether every node has as many living workers as it wants at least."""
        return all(_alive(stage.pool) >= stage.settings.min_workers for stage in self.route.stages.values())


def _alive(pool: Pool) -> int:
    return sum(r.state not in ("BACKING_OFF", "LEAVING") for r in pool.statistics().replicas)


def _not_started(plan: NodePlan) -> str:
    return f"Failed to start workers for model {plan.worker.name} version: {plan.version}"
