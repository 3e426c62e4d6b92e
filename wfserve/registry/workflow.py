"""A Workflow runs from the moment all its nodes have loaded until its nursery is left; then nothing is left.

Requests are walked in their own tasks, not in the workflow's: it counts them, lets them finish when it
closes, and cancels those that take too long. Its stages can be exchanged meanwhile: a request keeps the route
that it began with, and a stage that is on nobody's route any more ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, overload

import trio

from wfserve.dag.walk import Call, Route, Walk, patience
from wfserve.errors import DeadlineError, InternalError, ServiceUnavailableError, WfserveError
from wfserve.measure.counts import NodeCounts, RequestCounts, status_class
from wfserve.measure.definitions import EVERYTHING
from wfserve.measure.recorded import Recorded
from wfserve.registry.bodies import Bodies
from wfserve.registry.line import Line
from wfserve.registry.lines import Lines
from wfserve.registry.prepare import raise_failures
from wfserve.registry.shared import Share
from wfserve.scheduling.arrivals import Arrivals
from wfserve.scheduling.tally import Tally
from wfserve.workers.base import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from wfserve.dag.walk import Answer, Request
    from wfserve.measure.definitions import Definitions
    from wfserve.registry.line import OpenPool
    from wfserve.registry.prepare import Blueprint, NodePlan
    from wfserve.registry.shared import SharedLines
    from wfserve.registry.stageplan import StagePlan
    from wfserve.scheduling.desk import Desk
    from wfserve.scheduling.dispatch import Stage
    from wfserve.state.records import LiveSettings
    from wfserve.transport.base import Transport
    from wfserve.workers.base import Done, Pool
    from wfserve.workers.pool import ProcessPool

    Chain = tuple[str, ...]  # the nodes of a stage
    Watch = Callable[[Callable[[], object]], object]  # has one called when the client has gone


class Left(NamedTuple):
    """Stages that new requests do not take any more, and the route that led to them."""

    route: Route
    lines: list[Line | Share]


class Workflow:
    """A registered workflow and its running parts."""

    route: Route  # of new requests, once all nodes have loaded

    def __init__(
        self,
        blueprint: Blueprint,
        transport: Transport,
        open_pool: OpenPool,
        shared: SharedLines,
        definitions: Definitions = EVERYTHING,
    ) -> None:
        self.blueprint = blueprint
        self.name = blueprint.name
        self.version = blueprint.version
        self.mirrored = Counter[str]()  # copies of others' requests that it had, by what became of it
        self.measured = RequestCounts()
        self.arrivals = Arrivals()
        self.bodies = Bodies(blueprint, transport)
        self._open_pool = open_pool
        self._shared = shared
        self.on_change: Callable[[], object] = bool  # told when requests run by another blueprint
        self._requests: set[Walk | Call] = set()
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._news = trio.Event()  # a request has ended, or a change, or it closes
        self._listeners = 0  # to the news
        self._changes = 0  # of stages, under way
        self._changing = trio.Lock()
        self._not_changed: dict[str, str] = {}  # why not, by node
        self.gone = trio.Event()  # set once nothing is left, not even its files
        self.loaded_at_startup = False
        # A node keeps its counts when its stage is exchanged.
        self._tallies = {
            node: Tally(measured=NodeCounts(Recorded(plan.worker.name, definitions.model)))
            for node, plan in blueprint.nodes.items()
        }
        self._lines = Lines(blueprint.stages(), self._line)
        self.in_force = blueprint  # what requests run by; `blueprint` is what they will, after a change

    def _line(self, plan: StagePlan) -> Line | Share:
        tallies = [self._tallies[node] for node in plan.nodes]
        if plan.shared:
            version = self.version if self.blueprint.given else None
            return Share(plan, version, self._shared, tallies[0])
        return Line(plan, self._open_pool, tallies)

    def _routed(self) -> Route:
        lines = self._lines.by_chain
        stages = {node: line.stage for chain, line in lines.items() for node in chain}
        chains = {node: chain for chain in lines for node in chain if len(chain) > 1}
        graph = self.blueprint.graph
        self._connect(stages)
        route = Route(graph, {node: stages[node] for node in graph.nodes}, chains)
        return route._replace(patience=patience(graph, stages, route.step))

    def _connect(self, stages: Mapping[str, Stage | Desk]) -> None:
        """Tell each stage where its items come from, if that is from one place."""
        for chain, line in self._lines.by_chain.items():
            parents = self.blueprint.graph.parents[chain[0]]
            if not parents:
                line.stage.sources = (self.arrivals,)
            elif len(parents) == 1:
                line.stage.sources = (stages[parents[0]],)

    @property
    def pools(self) -> Mapping[str, ProcessPool]:
        """Return the pool of each node; those of a stage share one."""
        return {node: line.pool for chain, line in self._lines.by_chain.items() for node in chain}

    async def run(self, drain: float, loaded: Callable[[], None]) -> None:
        """Run until `close`; `loaded` is called when every node is. Requests then have `drain` seconds.

        Raises `WorkflowError` that lists the nodes which did not load.
        """
        failures: list[str] = []
        async with trio.open_nursery() as self._nursery:
            failures += map(self._not_started, await self._lines.start(self._nursery))
            if not failures:
                self.route = self._routed()
                await self._serve(drain, loaded)
            self._nursery.cancel_scope.cancel()
        raise_failures(self.name, failures)

    async def _serve(self, drain: float, loaded: Callable[[], None]) -> None:
        loaded()
        try:
            await self._closing.wait()
            with trio.move_on_after(drain):
                await self._until(lambda: not self._requests)
                await _unused(self._lines.by_chain.values())
        finally:  # however it ends: without its dispatchers a request would wait for ever
            self.close()
            for visit in self._requests:
                visit.give_up()
            with trio.CancelScope(shield=True):  # each of them ends at its next checkpoint
                await self._until(lambda: not self._requests)

    async def _until(self, holds: Callable[[], bool]) -> None:
        self._listeners += 1
        try:
            while not holds():
                await self._news.wait()
        finally:
            self._listeners -= 1

    def _tell(self) -> None:
        if self._listeners:
            self._news.set()
            self._news = trio.Event()

    def resize(self, node: str, minimum: int, maximum: int) -> None:
        """Have from `minimum` to `maximum` workers for one node from now on; `scaled` tells when it is so.

        A node that shares a stage gets one of its own unless it has one worker, and shares one again then, if
        that loads. One that shares its workers with other workflows leaves them, for those of its new equals,
        unless it is the only one.
        """
        before = self.blueprint
        self._not_changed.pop(node, None)
        self.blueprint = before.resized(node, minimum, maximum)
        chain, stages = self.route.chain(node), self.blueprint.plan().stages
        line, plan = self._lines.by_chain[chain], self.blueprint.stage(chain)
        as_before = stages == tuple(self._lines.by_chain)
        in_place = (as_before or len(chain) == 1) and line.serves(plan)
        if in_place:
            line.configure(plan)
            self._now_in_force(node)
        outrun = self._changing.locked()  # by an exchange that was planned without this
        if not (in_place and as_before and not outrun) and self._nursery is not None:
            self._changes += 1
            needed = None if in_place and len(chain) == 1 and not outrun else before.nodes[node]
            self._nursery.start_soon(self._exchange, node, needed)

    async def change(self, settings: Mapping[str, LiveSettings]) -> None:
        """Run new requests with other settings of some nodes; return when these are in force.

        What its workers need not know changes at once. Else new ones are loaded before the old ones end,
        with the last request that began with them. Raises `BadRequestError` if the settings contradict
        others, `InternalError` if new workers do not load, and `ServiceUnavailableError` while it closes;
        then all stays as it was.
        """
        async with self._changing:
            if self.closing:
                raise self._leaving()
            before = self.blueprint.nodes
            self.blueprint = self.blueprint.changed(settings)
            try:
                failures, left = await self._exchange_lines()
                if failures:
                    raise InternalError(failures[0])
            except BaseException:
                kept = {node: before[node] for node in settings}
                self.blueprint = replace(self.blueprint, nodes={**self.blueprint.nodes, **kept})
                raise
            if self._nursery is not None and not self.closing:  # else all of them end
                self._nursery.start_soon(self._retire, left)

    async def follow(self, blueprint: Blueprint) -> None:
        """Run new requests by `blueprint`, as another process does that keeps the workers."""
        async with self._changing:
            self.blueprint = blueprint
            _, left = await self._exchange_lines()
            if self._nursery is not None:
                self._nursery.start_soon(self._retire, left)

    def lent(self) -> Blueprint:
        """Return what another process needs to run requests on these workers."""
        pools = {chain: line.pool.number for chain, line in self._lines.by_chain.items()}
        return replace(self.in_force, pools=pools)

    def _now_in_force(self, *nodes: str) -> None:
        """Note that requests run by the settings of `nodes` as they are now."""
        settings = {node: self.blueprint.nodes[node] for node in nodes}
        self.in_force = replace(self.blueprint, nodes={**self.in_force.nodes, **settings})
        self.on_change()

    async def _exchange(self, node: str, before: NodePlan | None) -> None:
        """Start the stages that are planned now, let new requests take them, and end those they replace.

        If they do not load, all stays as it is, and `node`, if it was split off for this, as it was `before`.
        """
        try:
            async with self._changing:
                failures, left = await self._exchange_lines()
                await self._retire(left)
            if failures and before is not None:
                self._not_changed[node] = failures[0]
                stage = before.stage
                self.blueprint = self.blueprint.resized(node, stage.min_workers, stage.max_workers)
        finally:
            self._changes -= 1
            self._tell()

    async def _exchange_lines(self) -> tuple[list[str], Left]:
        """Have new requests take the stages that are planned now; return why not, and what they leave."""
        assert self._nursery is not None
        before = self.route
        failed, left = await self._lines.exchange(self.blueprint.stages(), self._nursery)
        if not failed:
            self.route = self._routed()
            self._now_in_force(*self.blueprint.nodes)
        return [self._not_started(node) for node in failed], Left(before, left)

    async def _retire(self, left: Left) -> None:
        """End the stages that have been left, once the last request has ended that began with them."""
        if left.lines:
            await self._until(lambda: all(visit.route is not left.route for visit in self._requests))
        await _unused(left.lines)
        for line in left.lines:
            await line.retire()

    async def scaled(self, node: str) -> None:
        """Return when a node has the workers that `resize` gave it, and no others.

        Raises `InternalError` if one of them does not load; it is tried again all the same, unless the node
        was to get a stage of its own: then everything stays as it was.
        """
        settled = False
        while not settled:
            await self._until(lambda: not self._changes or self.closing)
            if self.closing:
                raise self._leaving()
            if (failure := self._not_changed.pop(node, None)) is not None:
                raise InternalError(failure)
            settled = await self._settled(node)

    async def _settled(self, node: str) -> bool:
        """Wait for the workers of a node; False if it was given others meanwhile. Raises as `scaled` does."""
        pool = self.pools[node]
        try:
            await pool.settled()
        except LoadError as error:  # the pool has logged why
            raise InternalError(self._not_started(self.route.chain(node)[error.step])) from None
        except ServiceUnavailableError:
            if self.closing or self.pools[node] is pool:
                raise self._leaving() from None
            return False
        return True

    def _not_started(self, node: str) -> str:
        plan = self.blueprint.nodes[node]
        return f"Failed to start workers for model {plan.worker.name} version: {plan.version}"

    def close(self) -> None:
        """Take no more requests, and end `run` when those under way have been answered."""
        self._closing.set()
        self._tell()

    @property
    def closing(self) -> bool:
        """Whether no more requests are taken."""
        return self._closing.is_set()

    async def predict(self, request: Request, watch: Watch | None = None) -> Answer | None:
        """Walk `request`; None if it was given up, by a call of what `watch` is told.

        Raises as `Walk.run` does, `DeadlineError` after the request's own deadline, 503 while closing. Takes
        the request's payloads over, whatever becomes of it.
        """
        began, outcome = monotonic(), "5xx"
        try:
            answer = await self._visited(request, Walk(self.route, request), watch)
            outcome = "gone" if answer is None else "2xx"
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
        self,
        node: str,
        request: Request,
        timeout: float | None = None,
        identity: str | None = None,
        watch: Watch | None = None,
    ) -> Done | None:
        """Run `request` through one node alone, as TorchServe runs a model; None if it was given up.

        The node reads the body by the request's content type, wherever it stands in the workflow; what it
        returns is encoded as a leaf's, and the caller releases it. Headers beyond the client's, `explain` and
        `describe` among them, are part of `request`. The handler knows it by `identity`, a UUID, by default a
        new one. It may wait `timeout` seconds, then run as long: by default its plan's `response_timeout`.
        Takes the request's payloads over, raises as `Call.run` and `predict` do.
        """
        seconds = self.blueprint.nodes[node].response_timeout if timeout is None else timeout
        return await self._visited(request, Call(self.route, node, request, seconds, identity), watch)

    @overload
    async def _visited(self, request: Request, visit: Walk, watch: Watch | None) -> Answer | None: ...

    @overload
    async def _visited(self, request: Request, visit: Call, watch: Watch | None) -> Done | None: ...

    async def _visited(
        self, request: Request, visit: Walk | Call, watch: Watch | None
    ) -> Answer | Done | None:
        if self.closing:  # its body may have been read while the workflow was unregistered
            request.release()
            if not self._requests:
                self.bodies.rest()
            raise self._leaving()
        self._requests.add(visit)
        try:
            if watch is not None:
                watch(visit.give_up)
            found = await visit.run()
        finally:
            self._requests.remove(visit)
            if not self._requests:
                self.bodies.rest()
            self._tell()
        if found is None:
            if trio.current_time() >= request.deadline:
                raise DeadlineError
            if self.closing:
                raise self._leaving()
        return found

    def _leaving(self) -> ServiceUnavailableError:
        return ServiceUnavailableError(f"Workflow {self.name} is being unregistered.")

    @property
    def in_flight(self) -> int:
        """Requests that are being walked."""
        return len(self._requests)

    def sharing(self, node: str) -> list[str] | None:
        """Return the nodes of others that have the same workers as a node, None if it shares none."""
        line = self._lines.by_chain[self.route.chain(node)]
        return line.others if isinstance(line, Share) else None

    def healthy(self) -> bool:
        """Whether every node has as many living workers as it wants at least."""
        lines = self._lines.by_chain.values()
        return all(_alive(line.pool) >= line.stage.settings.min_workers for line in lines)


async def _unused(lines: Iterable[Line | Share]) -> None:
    """Return when no other process uses the workers of `lines` that end with them."""
    for line in lines:
        if isinstance(line, Line) or not line.others:
            await line.pool.unused()


def _alive(pool: Pool) -> int:
    return sum(r.state not in ("BACKING_OFF", "LEAVING") for r in pool.statistics().replicas)
