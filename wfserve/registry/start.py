"""A Starter prepares and runs versions; what was unpacked of one goes when it has ended, or did not start."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from wfserve.registry.prepare import prepare
from wfserve.registry.shared import SharedLines, SharedModels
from wfserve.registry.work import WORK, fresh, remove
from wfserve.registry.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from wfserve.archive.war import WorkflowArchive
    from wfserve.config import Config
    from wfserve.measure.definitions import Definitions
    from wfserve.registry.identity import Identity
    from wfserve.registry.line import OpenPool
    from wfserve.registry.placement import Gpus
    from wfserve.registry.prepare import Model, Opening
    from wfserve.registry.sources import Archives
    from wfserve.transport.base import Transport

log = logging.getLogger(__name__)


class Starter:
    """Starts the versions of one server, in tasks of `nursery`."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        open_pool: OpenPool,
        gpus: Gpus,
        definitions: Definitions,
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._definitions = definitions
        self._transport = transport
        self._open_pool = open_pool
        self._gpus = gpus
        self._nursery = nursery
        self._work = config.state_dir / WORK
        self._models = SharedModels(self._work)
        self._lines = SharedLines(open_pool, nursery)

    async def start(
        self,
        url: str,
        config: Config,
        archives: Archives,
        identified: Callable[[WorkflowArchive], Identity],
        ended: Callable[[Workflow], None],
    ) -> Workflow:
        """Start what `archives` has of a workflow, as `prepare` says; it runs when this returns.

        `ended` is called once it takes no more requests, by itself or by `close`. Raises as `prepare` and
        `Workflow.run` do, and then nothing is left.
        """
        async with AsyncExitStack() as held:
            directory = fresh(self._work)
            held.push_async_callback(remove, directory)
            blueprint = await prepare(
                url,
                archives,
                config,
                directory,
                gpus=self._gpus,
                sharing=partial(self._share, held),
                identified=identified,
            )
            workflow = Workflow(blueprint, self._transport, self._open_pool, self._lines, self._definitions)
            await self._nursery.start(self._keep, workflow, held.pop_all(), ended)
        return workflow

    async def _share(self, held: AsyncExitStack, path: Path, opening: Opening) -> Model:
        """Return a model that nobody removes as long as `held` is open."""
        return await held.enter_async_context(self._models.opened(path, opening))

    async def _keep(
        self,
        workflow: Workflow,
        held: AsyncExitStack,
        ended: Callable[[Workflow], None],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Own one version: run it, and leave no trace of it."""
        started = False

        def loaded() -> None:
            nonlocal started
            started = True
            task_status.started()

        try:
            await workflow.run(self._config.unregister_timeout, loaded)
        except Exception:
            if not started:
                raise  # whoever starts it is told
            log.exception("workflow %s failed and is not served any more", workflow.name)
        finally:
            ended(workflow)
            await held.aclose()
            workflow.gone.set()


@asynccontextmanager
async def ended_unless_kept(workflow: Workflow) -> AsyncIterator[None]:
    """End `workflow` if the block raises; nothing is left of it then."""
    try:
        yield
    except BaseException:
        workflow.close()
        with trio.CancelScope(shield=True):
            await workflow.gone.wait()
        raise
