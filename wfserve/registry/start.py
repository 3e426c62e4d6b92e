"""A Starter prepares and runs versions; the directory of each is gone once it has ended, or did not start.

work/<random>/   what was unpacked of one version
"""

from __future__ import annotations

import logging
import shutil
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from wfserve.registry.prepare import prepare
from wfserve.registry.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from wfserve.archive.war import WorkflowArchive
    from wfserve.config import Config
    from wfserve.measure.definitions import Definitions
    from wfserve.registry.identity import Identity
    from wfserve.registry.placement import Gpus
    from wfserve.registry.sources import Archives
    from wfserve.transport.base import Transport

log = logging.getLogger(__name__)
WORK = "work"


class Starter:
    """Starts the versions of one server, in tasks of `nursery`."""

    def __init__(
        self,
        config: Config,
        transport: Transport,
        server: int,
        gpus: Gpus,
        definitions: Definitions,
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._definitions = definitions
        self._transport = transport
        self._server = server
        self._gpus = gpus
        self._nursery = nursery
        self._work = config.state_dir / WORK

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
        directory = self._work / uuid.uuid4().hex
        try:
            directory.mkdir(parents=True)
            blueprint = await prepare(
                url,
                archives,
                config,
                directory,
                gpus=self._gpus,
                identified=identified,
            )
            workflow = Workflow(blueprint, self._transport, self._server, self._definitions)
            await self._nursery.start(self._keep, workflow, directory, ended)
        except BaseException:
            with trio.CancelScope(shield=True):
                await remove(directory)
            raise
        return workflow

    async def _keep(
        self,
        workflow: Workflow,
        directory: Path,
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
            with trio.CancelScope(shield=True):
                await remove(directory)
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


async def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, if it is there."""
    await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))
