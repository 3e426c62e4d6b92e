"""A ProcessPool has the child processes of one stage run batches, one after the other.

`submit`, `stop` and `scale` are plain calls from the stage; each replica's task, which the Keeper runs, reads
what its worker answers.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from wfserve.errors import FrameError
from wfserve.transport.base import MessageKind
from wfserve.transport.pinned import pinned_first
from wfserve.workers.base import Batch, PoolStatistics, Whereabouts
from wfserve.workers.keeping import Keeper, PoolSettings
from wfserve.workers.lease import Lease, ResultSizes
from wfserve.workers.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Message, Transport
    from wfserve.transport.progress import Progress
    from wfserve.workers.base import Item, Listener
    from wfserve.workers.process import Worker


class ProcessPool(Keeper):
    """Workers for a chain of nodes. `run` must be running while batches are submitted."""

    def __init__(
        self,
        chain: Sequence[WorkerSpec],
        settings: PoolSettings,
        transport: Transport,
        server: int,
        listener: Listener,
    ) -> None:
        super().__init__(chain, settings, transport, server, listener)
        self.number = 0  # by which other processes know it
        self._sizes = ResultSizes()
        self._for_results = pinned_first(transport) if settings.pins_results else transport.arena
        self._batch_numbers = itertools.count(1)
        self._batches = self._lost = 0

    def _handle_all(self, replica: Replica, worker: Worker, messages: list[Message]) -> None:
        for message in messages:
            self._handle(replica, worker, message)

    def _handle(self, replica: Replica, worker: Worker, message: Message) -> None:
        match message.kind:
            case MessageKind.DONE:
                self._done(replica, message)
            case MessageKind.GROW if replica.lease is not None:
                worker.link.send(replica.lease.grow(message.descriptor.length))
            case MessageKind.DROPPED:
                self._dropped(replica, message)
            case MessageKind.RELEASE:
                replica.let_go(message.descriptor)
            case MessageKind.READY if not replica.ready:
                self._ready(replica)
            case MessageKind.FAILED if not replica.ready:
                replica.failure = self._checked(worker.load_failure(message.descriptor))
            case _:
                raise FrameError(f"message {message.kind} when the worker is {replica.state}")

    def _done(self, replica: Replica, message: Message) -> None:
        batch, lease = replica.batch, replica.lease
        if batch is None or lease is None or message.tag != lease.number:
            raise FrameError(f"an answer to batch {message.tag}, which is not running")
        outcomes = lease.outcomes(message.descriptor)
        batch.ran = lease.ran
        now = trio.current_time()
        if batch.behind:  # the end of the batch before may have been noticed later than this one began
            batch.started = max(batch.submitted, min(batch.started, now - batch.busy))
        replica.kept += lease.kept
        lease.end()
        replica.deaths = 0
        self._go_on(replica, now)
        self._batches += 1
        self._listener.batch_done(batch, outcomes)

    def _dropped(self, replica: Replica, message: Message) -> None:
        """Report that a batch was not begun, which has been withdrawn."""
        batch, lease = replica.batch, replica.lease
        if batch is None or lease is None or (lease.number, batch) != (message.tag, replica.withdrawn):
            raise FrameError(f"batch {message.tag} was dropped, which was not withdrawn")
        batch.begun, replica.withdrawn = False, None
        lease.end()
        self._go_on(replica, trio.current_time())
        self._listener.batch_lost(batch, "withdrawn")

    def _go_on(self, replica: Replica, now: float) -> None:
        """Have a replica whose batch has ended begin with the next, or be idle.

        A worker begins without being told: even one that has been killed meanwhile may have.
        """
        if replica.behind is None:
            replica.batch = replica.lease = None
            self._take_in(replica)
            return
        replica.batch, replica.lease = replica.behind
        replica.behind = None
        replica.batch.begun, replica.batch.started = True, now

    def _bury(self, replica: Replica) -> None:
        """Take back what the dead worker held, and report its batch lost."""
        held = [] if replica.batch is None or replica.lease is None else [(replica.batch, replica.lease)]
        held += [] if replica.behind is None else [replica.behind]
        replica.batch = replica.lease = replica.behind = replica.worker = None
        for _, lease in held:
            lease.end()
        while replica.kept:
            replica.kept.pop().release()
        for batch, _ in held:
            self._lost += 1
            self._listener.batch_lost(batch, f"{self._name}: {replica.end}")

    def _ask_remains(self, replica: Replica, worker: Worker) -> None:
        """Learn which step the dead worker was at with its batch, and what that had begun with.

        Raises `FrameError` if that cannot be.
        """
        batch, lease = replica.batch, replica.lease
        if batch is not None and lease is not None and (seen := self._seen(worker, lease, batch)):
            batch.lost_at, batch.reached = seen.step, lease.reached(seen)

    def _seen(self, worker: Worker, lease: Lease, batch: Batch) -> Progress | None:
        """Return what the worker says of its progress, if it can be true."""
        if len(self._chain) == 1:
            return None
        seen = worker.progress(lease.number)
        first, last, *_ = batch.items[0].route
        return seen if seen is not None and first <= seen.step <= last else None

    def whereabouts(self, batch: Batch) -> Whereabouts | None:
        """Return how far a running batch is."""
        replica = batch.replica
        if not isinstance(replica, Replica) or replica.batch is not batch:
            return None
        if replica.worker is None or replica.lease is None:
            return None
        if replica.behind is not None and self._seen(replica.worker, replica.behind[1], replica.behind[0]):
            return Whereabouts(batch.items[0].last, 0.0)  # it has ended, as we shall hear
        seen = self._seen(replica.worker, replica.lease, batch)
        return None if seen is None else Whereabouts(seen.step, seen.seconds)

    def submit(self, items: Sequence[Item], behind: Batch | None = None) -> Batch:
        """Send `items` to the idle replica that was busy last, or to the one that runs the batch before."""
        assert behind is None or self.takes_another(behind)
        replica = self._idle[-1] if behind is None else behind.replica
        assert isinstance(replica, Replica)
        worker = replica.worker
        assert worker is not None
        number, arena = next(self._batch_numbers), self._transport.arena
        lease = Lease(arena, number, items, self._sizes, self._for_results)
        now = trio.current_time()
        batch = Batch(items, now, replica, lost_at=items[0].first, submitted=now)
        if behind is None:
            self._idle.pop()
            replica.state = "BUSY"
            replica.batch, replica.lease = batch, lease
        else:
            batch.begun, batch.behind = False, True
            behind.next, replica.behind = batch, (batch, lease)
        try:
            worker.link.send(lease.call)
        except (FrameError, BufferError) as error:  # its ring is corrupted: `batch_lost` follows
            self._distrust(replica, worker, error)
        return batch

    def takes_another(self, batch: Batch) -> bool:
        """Whether the worker that runs `batch` is to go on, and none waits behind that."""
        replica = batch.replica
        if not isinstance(replica, Replica) or replica.batch is not batch or replica.behind is not None:
            return False
        return not (replica.leaving or replica.end)

    def stop(self, batch: Batch) -> None:
        """Kill the worker that runs `batch`."""
        replica = batch.replica
        if isinstance(replica, Replica) and replica.batch is batch and replica.worker is not None:
            replica.end = "timed out"
            replica.worker.kill()

    def withdraw(self, batch: Batch) -> None:
        """Tell the worker not to begin with `batch`, if that waits behind another."""
        replica = batch.replica
        if not isinstance(replica, Replica) or replica.worker is None or replica.behind is None:
            return
        if replica.behind[0] is batch:
            replica.withdrawn = batch
            replica.worker.withdraw(replica.behind[1].number)

    def _has_begun(self, replica: Replica) -> bool:
        """Whether its worker has begun with a batch of this process."""
        return replica.batch is not None

    def statistics(self) -> PoolStatistics:
        """Return counts and replicas."""
        return PoolStatistics(
            replicas=[replica.status() for replica in self._replicas],
            idle=len(self._idle),
            running=sum(replica.batch is not None for replica in self._replicas),
            begun=sum(map(self._has_begun, self._replicas)),
            wanted=sum(not replica.leaving for replica in self._replicas),
            deaths=self._deaths,
            batches=self._batches,
            batches_lost=self._lost,
        )
