"""A TurnsPool has workers that serve other processes, too: what waits for theirs is not timed, nor to blame.

A worker that others have joined says in the scratch memory of a batch's owner when it begins with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from wfserve.workers.base import Whereabouts
from wfserve.workers.pool import ProcessPool
from wfserve.workers.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.workers.base import Batch, Item
    from wfserve.workers.process import Worker

MOST_AHEAD = 8  # times what a batch may take: it has begun then, or its worker is stuck
FIRST_LOOK = 0.001  # seconds; whether a batch has begun that is to be stopped


class TurnsPool(ProcessPool):
    """A pool some of whose workers have been `joined` by others."""

    def submit(self, items: Sequence[Item], behind: Batch | None = None) -> Batch:
        """Send `items` as `ProcessPool` does."""
        if behind is None:
            worker = self._idle[-1].worker
            assert worker is not None
            worker.forget_progress()
        return super().submit(items, behind)

    def takes_another(self, batch: Batch) -> bool:
        """Whether the worker that runs `batch` is nobody else's, who would have to wait for one more."""
        replica = batch.replica
        alone = isinstance(replica, Replica) and not (replica.joined or replica.lent)
        return alone and super().takes_another(batch)

    def _ask_remains(self, replica: Replica, worker: Worker) -> None:
        batch, lease = replica.batch, replica.lease
        if batch is not None and lease is not None and replica.joined:
            batch.begun = worker.progress(lease.number) is not None
        super()._ask_remains(replica, worker)

    def _has_begun(self, replica: Replica) -> bool:
        if replica.worker is None or replica.lease is None or not replica.joined:
            return super()._has_begun(replica)
        return replica.worker.progress(replica.lease.number) is not None

    def withdraw(self, batch: Batch) -> None:
        """Tell the worker of `batch` not to begin with it."""
        replica = batch.replica
        if not isinstance(replica, Replica) or replica.batch is not batch or not replica.joined:
            super().withdraw(batch)
            return
        if replica.worker is not None and replica.lease is not None:
            replica.withdrawn = batch
            replica.worker.withdraw(replica.lease.number)

    def whereabouts(self, batch: Batch) -> Whereabouts | None:
        """Return how far a running batch is; one that has not begun is at its first step since now."""
        replica = batch.replica
        if not isinstance(replica, Replica) or replica.batch is not batch or not replica.joined:
            return super().whereabouts(batch)
        if replica.worker is None or replica.lease is None:
            return None
        first, last, *_ = batch.items[0].route
        age = trio.current_time() - batch.started
        seen = replica.worker.progress(replica.lease.number)
        if seen is None:
            stuck = max(0.0, age - MOST_AHEAD * self._settings.patience)
            return Whereabouts(first, stuck, age - stuck)
        step = seen.step if first <= seen.step <= last else first
        return Whereabouts(step, seen.seconds, max(0.0, age - seen.seconds))

    def stop(self, batch: Batch) -> None:
        """Have the worker killed that runs `batch`, as soon as it does."""
        if self._is_under_way(batch):
            super().stop(batch)
        elif self._nursery is not None and not self._closing:
            self._nursery.start_soon(self._stop_later, batch)

    def _is_under_way(self, batch: Batch) -> bool:
        seen = self.whereabouts(batch)
        return seen is None or seen.waited < trio.current_time() - batch.started

    async def _stop_later(self, batch: Batch) -> None:
        """Look whether a batch has begun, ever more seldom, and stop it then."""
        delay = FIRST_LOOK
        while not self._is_under_way(batch):
            await trio.sleep(delay)
            delay = min(2 * delay, self._settings.patience)
        super().stop(batch)
