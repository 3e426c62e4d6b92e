"""A BorrowedPool runs batches on workers that another process keeps, each for as long as it is lent.

It never starts a worker, and ends none: it asks. A worker serves other front ends in turn, so a batch may wait
for theirs; as long as it has not begun, its time does not pass and nothing is its fault.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import trio

from wfserve.errors import FrameError, ServiceUnavailableError
from wfserve.transport import progress
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.joining import Rings
from wfserve.workers import process
from wfserve.workers.base import LoadError, Whereabouts
from wfserve.workers.loans import (
    Close,
    Kill,
    Offered,
    Open,
    Opened,
    Recalled,
    Returned,
    Settle,
    Settled,
    Want,
)
from wfserve.workers.pool import ProcessPool
from wfserve.workers.replica import Replica

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Loan, Payload, Transport
    from wfserve.transport.joining import JoinedLink
    from wfserve.transport.progress import Progress
    from wfserve.workers.base import Batch, Item, Listener
    from wfserve.workers.loans import FromFront, ToFront
    from wfserve.workers.pool import PoolSettings

log = logging.getLogger(__name__)
MOST_AHEAD = 8  # times what a batch may take: it has begun then, or its worker is stuck
OPENING = 5.0  # seconds for workers to answer that they have joined; they may be busy
NO_MEMORY = 0.1  # seconds until it is asked for again
FIRST_LOOK = 0.001  # seconds; whether a batch has begun that is to be stopped


class Offer(NamedTuple):
    """A worker that may be borrowed; the descriptors are the receiver's."""

    said: Offered
    rings: Rings
    pidfd: int

    def close(self) -> None:
        """Forget it."""
        for fd in (*self.rings, self.pidfd):
            os.close(fd)


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
        """Pass on what is said of a pool; workers that nobody is left to use are returned."""
        pool = self._pools.get(message.pool)
        if isinstance(message, Offered):
            *rings, pidfd = fds
            offer = Offer(message, Rings(*rings), pidfd)
            if pool is None:
                offer.close()
                self.send(Returned(message.pool, message.loan, dead=False))
            else:
                pool.offered(offer)
        elif pool is not None:
            pool.hear(message)


class BorrowedWorker:
    """A front end's view of a worker that it may use."""

    def __init__(self, offer: Offer, link: JoinedLink, scratch: Loan, kill: Callable[[], None]) -> None:
        self.pid = offer.said.pid
        self.started = offer.said.started
        self.link = link
        self.kill = kill
        self._pidfd = offer.pidfd
        self._scratch = scratch

    def progress(self, number: int) -> Progress | None:
        """Return how far the worker says it is with the batch of that number, None if it has not begun."""
        return progress.read(self._scratch.buffer, number)

    def forget_progress(self) -> None:
        """Have what it said of an earlier batch not be taken for a later one's."""
        progress.forget(self._scratch.buffer)

    def load_failure(self, _where: object) -> LoadError:
        """Refuse to believe that it could not load: else it would not have been offered."""
        raise FrameError("a worker that was lent says that it has not loaded")

    async def dead(self) -> None:
        """Return when the worker has died."""
        await trio.lowlevel.wait_readable(self._pidfd)

    async def leave(self, patience: float) -> bool:
        """Have the worker forget this process, and tell whether it lives on.

        One that does not do so within `patience` seconds is killed. Bounded in time otherwise, too.
        """
        with trio.move_on_after(patience):
            return await self._forgotten_or_dead()
        self.kill()
        with trio.move_on_after(process.REAP_GRACE):
            await self.dead()
        return False

    async def _forgotten_or_dead(self) -> bool:
        forgotten = False
        async with trio.open_nursery() as nursery:

            async def until_dead() -> None:
                await self.dead()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_dead)
            with suppress(FrameError, BufferError):
                self.link.send(Message(MessageKind.STOP, 0, NOWHERE))
                while not forgotten:
                    forgotten = any(each.kind == MessageKind.LEFT for each in await self.link.receive())
                nursery.cancel_scope.cancel()
        return forgotten


class BorrowedReplica(Replica):
    """A worker that is lent, for as long as that."""

    def __init__(self, offer: Offer, chain: Sequence[WorkerSpec]) -> None:
        super().__init__(offer.said.replica, chain, must_load=False)
        self.offer = offer
        self.created = offer.said.started
        self.recalled = False


class BorrowedPool(ProcessPool):
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
        self._settled: Settled | None = None  # the last that was told

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
            case Settled():
                self._settled = message
            case Recalled(_, loan):
                for replica in self._lent():
                    if replica.offer.said.loan == loan:
                        replica.recalled = replica.leaving = True
                        self._let_go(replica)
        self._tell()

    def offered(self, offer: Offer) -> None:
        """Use one more worker, unless the pool closes."""
        if self._closing or self._nursery is None:
            offer.close()
            self._borrower.send(Returned(self.number, offer.said.loan, dead=False))
            return
        replica = BorrowedReplica(offer, self._chain)
        self._replicas.append(replica)
        self._replicas.sort(key=lambda each: each.number)
        self._nursery.start_soon(self._keep, replica)

    def _lent(self) -> list[BorrowedReplica]:
        return [replica for replica in self._replicas if isinstance(replica, BorrowedReplica)]

    async def _keep(self, replica: Replica) -> None:
        """Use a worker until it is dead, recalled or not wanted any more."""
        assert isinstance(replica, BorrowedReplica)
        dead = False
        try:
            with replica.life:
                await self._live(replica)
                dead = True
                self._deaths += 1
        finally:
            replica.offer.close()
            self._borrower.send(Returned(self.number, replica.offer.said.loan, dead))
        self._replicas.remove(replica)
        self._tell()

    def _worker_for(self, replica: Replica) -> AbstractAsyncContextManager[process.Worker]:
        assert isinstance(replica, BorrowedReplica)
        return self._borrowed(replica)  # type: ignore[return-value]  # all that is asked of a worker

    @asynccontextmanager
    async def _borrowed(self, replica: BorrowedReplica) -> AsyncIterator[BorrowedWorker]:
        offer = replica.offer
        link = offer.rings.link()
        kill = Kill(self.number, offer.said.loan)
        try:
            scratch = await self._scratch(link)
            worker = BorrowedWorker(offer, link, scratch, lambda: self._borrower.send(kill))
            try:
                worker.forget_progress()
                link.send(Message(MessageKind.GRANT, 0, scratch.descriptor))
                yield worker
            finally:
                with trio.CancelScope(shield=True):
                    lives = await worker.leave(self._patience(replica, worker))
                    if lives and replica.kept:
                        self._hold(offer.pidfd, replica)
                scratch.release()
        finally:
            link.close()

    async def _scratch(self, link: JoinedLink) -> Loan:
        """Lend scratch memory, once there is some; a worker that has got nothing forgets this process."""
        while True:
            try:
                return self._transport.arena.loan(process.SCRATCH_BYTES)
            except ServiceUnavailableError:
                try:
                    await trio.sleep(NO_MEMORY)
                except trio.Cancelled:
                    link.send(Message(MessageKind.STOP, 0, NOWHERE))
                    raise

    def _patience(self, replica: Replica, worker: BorrowedWorker) -> float:
        """Return how long a worker may take to forget this process: others' batches may run before that."""
        lease = replica.lease
        runs = lease is not None and worker.progress(lease.number) is not None
        return process.STOP_GRACE if runs else MOST_AHEAD * self._settings.patience

    def _hold(self, pidfd: int, replica: Replica) -> None:
        """Keep what a worker that lives on still looks at, until it is dead or this pool closes."""
        assert self._nursery is not None
        kept, replica.kept = replica.kept, []
        self._nursery.start_soon(_hold_until_dead, os.dup(pidfd), kept)

    def _ask_remains(self, replica: Replica, worker: process.Worker) -> None:
        batch, lease = replica.batch, replica.lease
        if batch is not None and lease is not None:
            batch.begun = worker.progress(lease.number) is not None
        super()._ask_remains(replica, worker)

    def submit(self, items: Sequence[Item]) -> Batch:
        """Send `items` to an idle replica whose worker sleeps, else to the one that was busy last."""
        self._idle.sort(key=_sleeps)
        worker = self._idle[-1].worker
        assert isinstance(worker, BorrowedWorker)
        worker.forget_progress()
        return super().submit(items)

    def whereabouts(self, batch: Batch) -> Whereabouts | None:
        """Return how far a running batch is; one that has not begun is at its first step since now."""
        replica = batch.replica
        if not isinstance(replica, Replica) or replica.batch is not batch:
            return None
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
        while not self._closing:
            told = self._settled
            if told is not None and told.ticket >= ticket:
                if told.failure is not None:
                    raise LoadError(told.failure, told.step)
                if len(self._replicas) >= self._asked and all(map(_stays, self._replicas)):
                    return
            await self._news.wait()
        raise ServiceUnavailableError(f"{self._name} is being unregistered.")


def _stays(replica: Replica) -> bool:
    return replica.state in ("READY", "BUSY") and not replica.leaving


def _sleeps(replica: Replica) -> bool:
    worker = replica.worker
    return isinstance(worker, BorrowedWorker) and worker.link.child_sleeps


async def _hold_until_dead(pidfd: int, kept: list[Payload]) -> None:
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
        for payload in kept:
            payload.release()
