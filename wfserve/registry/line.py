"""A Line is one stage and its pool, from its start until it is retired; then nothing of both is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from wfserve.scheduling.dispatch import Stage
from wfserve.workers.base import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfserve.registry.stageplan import StagePlan
    from wfserve.scheduling.tally import Tally
    from wfserve.workers.base import Listener, Pool
    from wfserve.workers.pool import ProcessPool

    OpenPool = Callable[[StagePlan, Listener], ProcessPool]


class Line:
    """One stage and its pool."""

    def __init__(self, plan: StagePlan, open_pool: OpenPool, tallies: Sequence[Tally] = ()) -> None:
        self.plan = plan
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

        def opened(listener: Listener) -> Pool:
            self.pool = open_pool(plan, listener)
            return self.pool

        self.stage = Stage(plan.settings, opened, tallies)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until `retire`; `started` once the first workers have loaded.

        Raises `LoadError` if one of them does not.
        """
        failure: LoadError | None = None
        try:
            failure = await self._run(task_status)
        finally:
            self._ended.set()
        if failure is not None:
            raise failure

    async def _run(self, task_status: trio.TaskStatus[None]) -> LoadError | None:
        failure: LoadError | None = None
        with self._scope:
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(self.pool.run)
                except LoadError as error:
                    failure = error
                else:
                    nursery.start_soon(self.stage.serve, name=f"{self.stage.settings.name} dispatcher")
                    task_status.started()
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        return failure

    def serves(self, plan: StagePlan) -> bool:
        """Whether its workers would be told the same if they were started by `plan`."""
        return (self.plan.chain, self.plan.number) == (plan.chain, plan.number)

    def configure(self, plan: StagePlan) -> None:
        """Schedule as `plan` says, whose workers it has."""
        self.plan = plan
        self.stage.configure(plan.settings)

    async def retire(self) -> None:
        """End the stage and its workers, and return when they have ended."""
        self._scope.cancel()
        await self._ended.wait()
