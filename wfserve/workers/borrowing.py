"""A BorrowedPool runs batches on workers that another process keeps, each for as long as it is lent.

It starts no worker and ends none: it asks. A worker serves other front ends in turn, so a batch may wait
for theirs; as long as it has not begun, its time does not pass and nothing is its fault.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from wfserve.errors import ServiceUnavailableError
from wfserve.workers.base import LoadError
from wfserve.workers.lent import BorrowedWorker, Offer, borrowed, hold_until_dead
from wfserve.workers.loans import (
    Close,
    Kill,
    Offered,
    Open,
    Opened,
    Recalled,
    Refused,
    Returned,
    Settle,
    Settled,
    Unloadable,
    Want,
)
from wfserve.workers.replica import Replica
from wfserve.workers.turns import MOST_AHEAD, TurnsPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Transport
    from wfserve.workers.base import Batch, Item, Listener
    from wfserve.workers.keeping import PoolSettings
    from wfserve.workers.loans import FromFront, ToFront
    from wfserve.workers.process import Worker

log = logging.getLogger(__name__)
OPENING = 5.0  # seconds for workers to answer that they have joined; they may be busy
NO_DESCRIPTORS = 1.0  # seconds until a worker is refused for that, which is offered again then


class Borrower:
    """What one front end says about workers, and is told of those of its pools; `send` never blocks."""

    def __init__(self, send: Callable[[FromFront], None]) -> None:
        self.send = send
        self._pools: dict[int, BorrowedPool] = {}

    def enter(self, pool: BorrowedPool) -> None:
        """Have a pool that opens be told."""
        self._pools[pool.number] = pool

    def leave(self, pool: BorrowedPool) -> None:
        """Tell a pool that has closed nothing more."""
        del self._pools[pool.number]

    def hear(self, message: ToFront, fds: Sequence[int]) -> None:
        """Pass on what is said of a pool; workers that nobody is left to use are refused."""
        pool = self._pools.get(message.pool)
        if isinstance(message, Offered):
            offer = Offer.of(message, fds)
            if pool is not None:
                pool.offered(message, offer)
                return
            if offer is not None:
                offer.close()
            self.send(Refused(message.pool, message.loan))
        elif pool is not None:
            pool.hear(message)


class BorrowedReplica(Replica):
    """A worker that is lent, for as long as that."""

    def __init__(self, offer: Offer, chain: Sequence[WorkerSpec]) -> None:
        super().__init__(offer.said.replica, chain, must_load=False)
        self.offer = offer
        self.created = offer.said.started
        self.recalled = False
        self.forgotten = False  # our process, by the worker
        self.joined = True


class BorrowedPool(TurnsPool):
    """The workers of pool `number`, as one front end uses them. `run` must be running meanwhile."""

    def __init__(
        self,
        number: int,
        chain: Sequence[WorkerSpec],
        settings: PoolSettings,
        transport: Transport,
        listener: Listener,
        borrower: Borrower,
    ) -> None:
        super().__init__(chain, replace(settings, startup_timeout=math.inf), transport, -1, listener)
        self.number = number
        self._borrower = borrower
        self._asked = settings.min_workers  # for how many workers
        self._opened = False
        self._tickets = itertools.count(1)
        self._settled: dict[int, Settled] = {}  # that was told, by ticket

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the pool until cancelled; `started` once it hears all workers, but for those that are busy."""
        self._borrower.enter(self)
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    self._borrower.send(Open(self.number, self._settings.min_workers))
                    await self._until_usable()
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._closing = True
                    self._tell()
        finally:
            self._borrower.leave(self)
            self._borrower.send(Close(self.number))

    async def _until_usable(self) -> None:
        while not self._opened:
            await self._news.wait()
        with trio.move_on_after(OPENING):
            while not all(replica.ready for replica in self._replicas):
                await self._news.wait()

    def hear(self, message: ToFront) -> None:
        """Take note of what the lender says."""
        match message:
            case Opened():
                self._opened = True
            case Unloadable(_, reason):
                self._listener.replica_failed(reason)
            case Settled():
                self._settled[message.ticket] = message
            case Recalled(_, loan):
                for replica in self._lent():
                    if replica.offer.said.loan == loan:
                        replica.recalled = replica.leaving = True
                        self._let_go(replica)
        self._tell()

    def offered(self, said: Offered, offer: Offer | None) -> None:
        """Use one more worker, unless the pool closes, or its descriptors have not arrived."""
        refused = Refused(self.number, said.loan)
        if self._closing or self._nursery is None:
            if offer is not None:
                offer.close()
            self._borrower.send(refused)
            return
        if offer is None:
            log.error("%s: no descriptor is left for worker %d", self._name, said.pid)
            self._nursery.start_soon(self._refuse_later, refused)
            return
        replica = BorrowedReplica(offer, self._chain)
        self._replicas.append(replica)
        self._replicas.sort(key=lambda each: each.number)
        self._nursery.start_soon(self._keep, replica)

    async def _refuse_later(self, refused: Refused) -> None:
        """Have a worker be offered again after a while."""
        try:
            await trio.sleep(NO_DESCRIPTORS)
        finally:
            self._borrower.send(refused)

    def _lent(self) -> list[BorrowedReplica]:
        return [replica for replica in self._replicas if isinstance(replica, BorrowedReplica)]

    async def _keep(self, replica: Replica) -> None:
        """Use a worker until it is dead, recalled or not wanted any more."""
        assert isinstance(replica, BorrowedReplica)
        dead = False
        try:
            with replica.life:
                await self._live(replica)
                dead = replica.offer.is_dead()
                self._deaths += dead
                if not dead:  # there was no descriptor left to talk to it
                    await trio.sleep(NO_DESCRIPTORS)
        finally:
            replica.offer.close()
            loan = replica.offer.said.loan
            known = dead or replica.forgotten
            self._borrower.send(Returned(self.number, loan, dead) if known else Refused(self.number, loan))
        self._replicas.remove(replica)
        self._tell()

    def _worker_for(self, replica: Replica) -> AbstractAsyncContextManager[Worker]:
        assert isinstance(replica, BorrowedReplica)
        kill = Kill(self.number, replica.offer.said.loan)
        return borrowed(  # type: ignore[return-value]  # all that is asked of a worker
            replica.offer,
            self._transport.arena,
            lambda: self._borrower.send(kill),
            partial(self._leave, replica),
        )

    async def _leave(self, replica: BorrowedReplica, worker: BorrowedWorker) -> None:
        """Have a worker forget this process, or die if it does not."""
        patience = MOST_AHEAD * self._settings.patience
        lives = await worker.leave(patience, lambda: self._has_begun(replica))
        replica.forgotten = lives
        if lives and replica.kept:
            self._hold(replica.offer.pidfd, replica)

    def _hold(self, pidfd: int, replica: Replica) -> None:
        """Keep what a worker that lives on still looks at, until it is dead or this pool closes."""
        assert self._nursery is not None
        kept, replica.kept = replica.kept, []
        self._nursery.start_soon(hold_until_dead, os.dup(pidfd), kept)

    def submit(self, items: Sequence[Item], behind: Batch | None = None) -> Batch:
        """Send `items` to an idle replica whose worker sleeps, else to the one that was busy last."""
        self._idle.sort(key=_sleeps)
        return super().submit(items, behind)

    def scale(self, wanted: int) -> None:
        """Ask for workers, or return those that do least; one that runs a batch may yet stay."""
        if self._closing:
            return
        present = [each for each in self._lent() if not (each.recalled or each.life.cancel_called)]
        self._keep_busiest(present, wanted)
        self._asked = wanted
        spared = tuple(each.offer.said.loan for each in present if each.leaving)
        self._borrower.send(Want(self.number, wanted, spared))

    async def settled(self) -> None:
        """Return when the workers that are wanted have loaded, and no others are left."""
        ticket = next(self._tickets)
        self._borrower.send(Settle(self.number, ticket))
        try:
            while not self._closing:
                if (told := self._settled.get(ticket)) is not None:
                    if told.failure is not None:
                        raise LoadError(told.failure, told.step)
                    if len(self._replicas) >= self._asked and all(map(_stays, self._replicas)):
                        return
                await self._news.wait()
        finally:
            self._settled.pop(ticket, None)
        raise ServiceUnavailableError(f"{self._name} is being unregistered.")


def _stays(replica: Replica) -> bool:
    return replica.state in ("READY", "BUSY") and not replica.leaving


def _sleeps(replica: Replica) -> bool:
    worker = replica.worker
    return isinstance(worker, BorrowedWorker) and worker.link.child_sleeps
