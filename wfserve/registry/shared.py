"""What nodes share is there as long as one of them uses it: unpacked archives, and the lines of equal nodes.

Nodes that say `share: on` and name the same archive, by content, find it unpacked once. Those of them whose
workers would be told the same, and whose stages would schedule the same, have one line. The last that leaves
a line ends it; the last version that has ended takes the unpacked archive along.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from wfserve.errors import InternalError
from wfserve.registry.line import Line
from wfserve.registry.work import fresh, remove
from wfserve.scheduling.desk import Desk
from wfserve.workers.base import LoadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from wfserve.registry.line import OpenPool
    from wfserve.registry.prepare import Model
    from wfserve.registry.stageplan import StagePlan
    from wfserve.scheduling.tally import Tally
    from wfserve.workers.pool import ProcessPool

log = logging.getLogger(__name__)


class _Unpacked:
    """An archive, unpacked as soon as somebody needs it."""

    def __init__(self) -> None:
        self.users = 0
        self.opening = trio.Lock()
        self.model: Model | None = None
        self.directory: Path | None = None


class SharedModels:
    """Model archives of the content store, each unpacked once below `work`."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._unpacked: dict[Path, _Unpacked] = {}

    @asynccontextmanager
    async def opened(self, path: Path, open_into: Callable[[Path], Awaitable[Model]]) -> AsyncIterator[Model]:
        """Give the model of the archive at `path`, which says what is in it, for as long as the block.

        `open_into` opens it in a new directory if nobody has. Raises what that does.
        """
        unpacked = self._unpacked.setdefault(path, _Unpacked())
        unpacked.users += 1
        try:
            async with unpacked.opening:  # if it fails for who is first, who is next tries
                if unpacked.model is None:
                    await self._open(unpacked, open_into)
            assert unpacked.model is not None
            yield unpacked.model
        finally:
            unpacked.users -= 1
            if not unpacked.users:
                del self._unpacked[path]
                if unpacked.directory is not None:
                    await remove(unpacked.directory)

    async def _open(self, unpacked: _Unpacked, open_into: Callable[[Path], Awaitable[Model]]) -> None:
        directory = fresh(self._work)
        try:
            unpacked.model = await open_into(directory)
        except BaseException:
            await remove(directory)
            raise
        unpacked.directory = directory


class _Set:
    """The workers of one line, and the nodes that use them."""

    def __init__(self, plan: StagePlan, open_pool: OpenPool) -> None:
        self.plan = plan
        self.line = Line(plan, open_pool)
        self.users: list[Share] = []
        self.scope = trio.CancelScope()
        self.loaded = trio.Event()  # or it has failed to
        self.failure: LoadError | None = None
        self.over = trio.Event()


class SharedLines:
    """The lines that nodes share, in tasks of `nursery`."""

    def __init__(self, open_pool: OpenPool, nursery: trio.Nursery) -> None:
        self._open_pool = open_pool
        self._nursery = nursery
        self._sets: list[_Set] = []

    @asynccontextmanager
    async def used(self, share: Share) -> AsyncIterator[_Set]:
        """Give the set of workers that `share` is of, loaded, for as long as the block.

        Raises `LoadError` if one of its first workers does not load.
        """
        chosen = self.find(share.common) or self._started(share.common)
        chosen.users.append(share)
        try:
            await chosen.loaded.wait()
            if chosen.failure is not None:
                raise chosen.failure
            yield chosen
        finally:
            chosen.users.remove(share)
            if not chosen.users:
                await self._end(chosen)

    def find(self, plan: StagePlan) -> _Set | None:
        """Return the set of workers of nodes with this common plan, None if there are none."""
        return next((each for each in self._sets if each.plan.is_alike(plan)), None)

    def _started(self, plan: StagePlan) -> _Set:
        made = _Set(plan, self._open_pool)
        self._sets.append(made)
        self._nursery.start_soon(self._keep, made)
        return made

    async def _end(self, ending: _Set) -> None:
        """End a set that nobody uses; who wants one like it from now on starts another."""
        self._forget(ending)
        ending.scope.cancel()
        with trio.CancelScope(shield=True):
            await ending.over.wait()

    def _forget(self, ending: _Set) -> None:
        if ending in self._sets:
            self._sets.remove(ending)

    async def _keep(self, kept: _Set) -> None:
        """Run a line until nobody uses it any more."""
        try:
            with kept.scope:
                await self._run(kept)
        except Exception:  # what one line runs into must not end the server
            log.exception("the shared workers of %s have failed", kept.plan.settings.name)
            kept.failure = LoadError("its workers have failed")
        finally:
            self._forget(kept)
            kept.loaded.set()
            kept.over.set()

    async def _run(self, kept: _Set) -> None:
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(kept.line.run)
            except LoadError as error:  # the pool has logged why
                kept.failure = error
            kept.loaded.set()


class Share:
    """What one node has of a line that several use: to its workflow it is a line of its own."""

    stage: Desk
    pool: ProcessPool

    def __init__(self, plan: StagePlan, version: str | None, lines: SharedLines, tally: Tally) -> None:
        """`version` is the workflow's, where versions were given."""
        self.plan = plan
        self.common = plan.common()
        self._place = plan.chain[0].place
        self.name = self._place.name if version is None else f"{self._place.name}/{version}"
        self._lines = lines
        self._tally = tally
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._set: _Set | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Use the line until `retire`; `started` once its first workers have loaded.

        Raises `LoadError` if one of them does not.
        """
        try:
            with self._scope:
                async with self._lines.used(self) as used:
                    self._set, self.pool = used, used.line.pool
                    place = self._place.encoded()
                    self.stage = Desk(used.line.stage, self.plan.settings, place, self._tally)
                    task_status.started()
                    await used.over.wait()
                    raise InternalError(f"The workers of {self.name} have failed.")
        finally:
            self._ended.set()

    @property
    def others(self) -> list[str]:
        """Return which nodes have the same workers: `W__N`, or `W__N/version` where versions were given.

        One that has left and come back while requests were under way uses them twice until those have ended.
        """
        return [] if self._set is None else sorted({each.name for each in self._set.users} - {self.name})

    def serves(self, plan: StagePlan) -> bool:
        """Whether the line is the one of nodes with `plan`, or may become it by `configure`.

        It may while nobody else uses it, its workers would be told the same, and there is no such line.
        """
        common = plan.common()
        if self.common.is_alike(common):
            return True
        alone = self._set is not None and self._set.users == [self]
        same = (self.common.chain, self.common.number) == (common.chain, common.number)
        return alone and same and self._lines.find(common) is None

    def configure(self, plan: StagePlan) -> None:
        """Schedule as `plan` says, which it `serves`."""
        assert self._set is not None
        self.plan, self.common = plan, plan.common()
        self._set.plan = self.common
        self._set.line.configure(self.common)
        self.stage.settings, self.stage.steps = plan.settings, plan.settings.steps

    async def retire(self) -> None:
        """Leave the line, and return when that is done: if nobody is left, when its workers have ended."""
        self._scope.cancel()
        await self._ended.wait()
