"""A Workflow runs from the moment all its nodes have loaded until its nursery is left; then nothing is left.

Requests are walked in their own tasks, not in the workflow's: it counts them, lets them finish when it
closes, and cancels those that take too long.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from wfserve.dag.walk import Route, walk
from wfserve.errors import ServiceUnavailableError, WfserveError
from wfserve.registry.prepare import raise_failures
from wfserve.scheduling.dispatch import Stage
from wfserve.workers.pool import ProcessPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from wfserve.dag.walk import Answer, Request
    from wfserve.registry.prepare import Blueprint, NodePlan
    from wfserve.transport.base import Transport
    from wfserve.workers.base import Listener, Pool


class Workflow:
    """A registered workflow and its running parts."""

    def __init__(self, blueprint: Blueprint, transport: Transport, server: int) -> None:
        self.blueprint = blueprint
        self.name = blueprint.name
        self.pools: dict[str, ProcessPool] = {}
        self._transport = transport
        self._server = server
        self._requests: set[trio.CancelScope] = set()
        self._closing = trio.Event()
        self._idle = trio.Event()
        self.gone = trio.Event()  # set once nothing is left, not even its files
        stages = {node: self._stage(plan) for node, plan in blueprint.nodes.items()}
        self.route = Route(blueprint.graph, stages)

    def _stage(self, plan: NodePlan) -> Stage:
        def open_pool(listener: Listener) -> Pool:
            pool = ProcessPool(plan.worker, plan.pool, self._transport, self._server, listener)
            self.pools[plan.node] = pool
            return pool

        return Stage(plan.stage, open_pool)

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
            failures.append(f"Failed to start workers for model {plan.worker.name} version: {plan.version}")

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

    def close(self) -> None:
        """Take no more requests, and end `run` when those under way have been answered."""
        self._closing.set()

    @property
    def closing(self) -> bool:
        """Whether no more requests are taken."""
        return self._closing.is_set()

    async def predict(
        self, request: Request, gone: Callable[[], Awaitable[object]] | None = None
    ) -> Answer | None:
        """Walk `request`; None if `gone` returned first. Raises as `walk` does, and 503 while closing.

        Takes the request's payloads over, whatever becomes of it.
        """
        if self.closing:  # its body may have been read while the workflow was unregistered
            request.release()
            raise self._leaving()
        scope = trio.CancelScope()
        self._requests.add(scope)
        try:
            with scope:
                return await walk(self.route, request, gone)
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
        return all(self._alive(node) >= plan.pool.min_workers for node, plan in self.blueprint.nodes.items())

    def _alive(self, node: str) -> int:
        return sum(r.state != "BACKING_OFF" for r in self.pools[node].statistics().replicas)
