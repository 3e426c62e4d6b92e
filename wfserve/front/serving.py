"""A front end serves what it is shown, on workers that it borrows; it changes nothing by itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from wfserve.front.messages import Recorded
from wfserve.registry.answering import Answering
from wfserve.registry.samples import Recording
from wfserve.registry.serving import Served
from wfserve.registry.shared import SharedLines
from wfserve.registry.warmup import MOST_BYTES
from wfserve.registry.workflow import Workflow
from wfserve.workers.borrowing import BorrowedPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from wfserve.config import Config
    from wfserve.dag.walk import Request
    from wfserve.front.asking import Questions
    from wfserve.front.messages import Show, Shown
    from wfserve.registry.prepare import Blueprint
    from wfserve.registry.stageplan import StagePlan
    from wfserve.transport.base import Transport
    from wfserve.workers.base import Listener
    from wfserve.workers.borrowing import Borrower

log = logging.getLogger(__name__)
REST = 1.0  # seconds between two requests that may become the sample of a workflow


class _Recorder:
    """Tells the supervisor of requests that may be kept, now and then."""

    def __init__(self, tell: Callable[[Recorded], None]) -> None:
        self._tell = tell
        self._resting: dict[str, float] = {}  # until when none of a workflow is told of (trio clock)

    def recording(self, workflow: Workflow, request: Request) -> Recording | None:
        """Return a copy of `request`, to keep once a default has answered it; None if it cannot be."""
        resting = trio.current_time() < self._resting.get(workflow.name, 0.0)
        return None if resting or request.body.nbytes > MOST_BYTES else Recording(self, workflow, request)

    def record_soon(self, workflow: Workflow, body: bytes, headers: Mapping[str, str]) -> None:
        """Tell of a request that was answered."""
        self._resting[workflow.name] = trio.current_time() + REST
        self._tell(Recorded(workflow.name, body, headers))


class Front(Answering):
    """The workflows of one front end, in tasks of `nursery`."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        nursery: trio.Nursery,
        borrower: Borrower,
        questions: Questions,
        tell: Callable[[Recorded], None],
    ) -> None:
        super().__init__(config, transport, nursery)
        self._borrower = borrower
        self._questions = questions
        self.samples = _Recorder(tell)
        self._running: dict[str, dict[Path, Workflow]] = {}  # of each name, by directory: it is nobody else's
        self._lines = SharedLines(self._open_pool, nursery)
        self._shown: dict[str, int] = {}  # number of what is served under a name
        self._showing: dict[str, trio.Lock] = {}

    async def show(self, show: Show) -> None:
        """Serve what is shown, unless something newer is already; what is not shown any more leaves."""
        async with self._showing.setdefault(show.name, trio.Lock()):
            if show.number < self._shown.get(show.name, 0):  # tasks of one moment begin in any order
                return
            self._shown[show.name] = show.number
            before, now = self._running.pop(show.name, {}), {}
            if show.shown is not None:
                now = await self._run(show.shown, before)
                self._running[show.name] = now
                running = {workflow.version: workflow for workflow in now.values()}
                self.publish(show.name, Served.of(show.shown.record, running))
            else:
                self.publish(show.name, None)
            for directory, workflow in before.items():
                if directory not in now:
                    workflow.close()

    async def _run(self, shown: Shown, before: dict[Path, Workflow]) -> dict[Path, Workflow]:
        """Return the workflows that are shown, those among them that run already as they are shown now."""
        running: dict[Path, Workflow] = {}
        for blueprint in shown.versions.values():
            workflow = before.get(blueprint.directory)
            if workflow is None:
                workflow = await self._start(blueprint)
            else:
                await workflow.follow(blueprint)
            running[blueprint.directory] = workflow
        return running

    async def _start(self, blueprint: Blueprint) -> Workflow:
        workflow = Workflow(blueprint, self._transport, self._open_pool, self._lines, self.definitions)
        await self._nursery.start(self._keep, workflow)
        return workflow

    async def _keep(self, workflow: Workflow, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await workflow.run(self.config.unregister_timeout, task_status.started)
        except Exception:
            log.exception("workflow %s failed and is not served any more", workflow.name)
        finally:
            workflow.gone.set()

    def _open_pool(self, plan: StagePlan, listener: Listener) -> BorrowedPool:
        return BorrowedPool(plan.number, plan.chain, plan.pool, self._transport, listener, self._borrower)

    async def health(self) -> bool:
        """Return what the supervisor says; no answer is a bad one."""
        return bool(await self._questions.ask("health"))
