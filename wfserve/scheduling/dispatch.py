"""A Stage turns attempts into batches and hands every attempt exactly one outcome.

Nothing here decides: `policy` does, and the Stage carries it out. An attempt goes

    attempt() ──▶ queued ──dispatch──▶ running ──batch_done──▶ its outcome
                    ▲                     │
                    └── run again, uncharged: the batch raised, or was lost (alone, on a fresh timer)

and leaves early, from wherever it is, when its time is up or its request is cancelled: a queued one is taken
out at once, a running one is dropped when its batch ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from wfserve.errors import InternalError, NoWorkerError, ServiceUnavailableError, WorkerDiedError
from wfserve.measure.counts import NodeCounts
from wfserve.scheduling import policy
from wfserve.scheduling.queue import StageQueue, Ticket
from wfserve.workers.base import Done, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfserve.workers.base import Batch, Item, Listener, Outcome, Pool


@dataclass(frozen=True, slots=True)
class StageSettings:
    """How one stage batches, retries and scales. Times are seconds."""

    name: str  # registered name, `W__N`
    batch_size: int = 1
    timeout: float = 10.0
    retry_attempts: int = 1
    min_workers: int = 1
    max_workers: int = 1
    startup_timeout: float = 120.0  # of a worker
    queue_size: int = 100
    isolate: bool = True
    one_by_one: bool = False  # the handler takes one item a call: a batch is only a way to travel


@dataclass(slots=True)
class StageStatistics:
    """Counts of a stage since it opened, and what waits and runs now."""

    queued: int = 0
    running: int = 0
    attempts: int = 0
    retries: int = 0
    refused: int = 0
    timeouts: int = 0
    abandoned: int = 0
    reruns: int = 0
    batches: int = 0
    batched_items: int = 0


class Stage:
    """The queue of one node, and the pool that serves it. `serve` must run while attempts are made."""

    def __init__(
        self,
        settings: StageSettings,
        open_pool: Callable[[Listener], Pool],
        measured: NodeCounts | None = None,
    ) -> None:
        self.settings = settings
        self.measured = measured or NodeCounts()
        self.queue = StageQueue(settings.queue_size)
        self._running: dict[Batch, list[Ticket | None]] = {}  # None: that item was abandoned
        self._stopped: set[Batch] = set()  # by `serve`, and not yet reported lost
        self._counts = StageStatistics()
        self._bell = trio.Event()
        self._wanted = settings.min_workers
        self._seconds_per_item: float | None = None  # recent mean, where calls are made one by one
        self.pool = open_pool(self)

    async def attempt(self, item: Item, *, retry: bool = False, timeout: float | None = None) -> Outcome:
        """Run `item` once, charged as one attempt however often it has to be run again for others' faults.

        Raises `ServiceUnavailableError` when the queue is full or the stage may have no worker. A timeout is
        a `Failed` outcome. `retry` says that `item` has been attempted before. With a `timeout` (seconds) it
        may wait that long and then run that long, whatever the stage's own is.
        """
        self._counts.retries += retry
        if not self.settings.max_workers:
            self._counts.refused += 1
            raise self._no_worker()
        if self.queue.full and not item.alone:
            self._counts.refused += 1
            raise ServiceUnavailableError(
                f"The queue of {self.settings.name} is full, {self.queue.limit} requests wait.", retry_after=1
            )
        self._counts.attempts += 1
        ticket = Ticket(item, trio.current_time(), timeout)
        deadline = self._enqueue(ticket)
        self._bell.set()
        try:
            outcome = await self._outcome_of(ticket, deadline)
        except BaseException:
            self._leave(ticket)
            raise
        if outcome is None:
            self._counts.timeouts += 1
            item.alone |= ticket.batch is not None and len(ticket.batch.items) > 1
            self._leave(ticket)
            return Failed(InternalError(f"{self.settings.name} timed out"))
        return outcome

    def _enqueue(self, ticket: Ticket) -> float:
        """Put `ticket` in line and return when its time is up."""
        if not ticket.item.alone:
            self.queue.append(ticket)
            return ticket.arrived + self._timeout_of(ticket)
        ticket.rerun = True
        until = self._rerun_deadline()
        self.queue.put_back([ticket])
        return until

    def _timeout_of(self, ticket: Ticket) -> float:
        return self.settings.timeout if ticket.timeout is None else ticket.timeout

    def _rerun_deadline(self) -> float:
        settings = self.settings
        return policy.rerun_deadline(
            trio.current_time(), self.queue.parts, settings.timeout, settings.startup_timeout
        )

    async def _outcome_of(self, ticket: Ticket, deadline: float) -> Outcome | None:
        """Wait for the outcome; None if the attempt's time is up and its result no longer wanted."""
        while True:
            with trio.CancelScope(deadline=deadline) as ticket.timer:
                return await self._settled(ticket)
            if ticket.outcome is not None:  # it came while the timer was ringing
                return ticket.outcome
            started = ticket.batch.started if ticket.batch is not None else None
            expiry = policy.after_timeout(started, trio.current_time(), self._timeout_of(ticket))
            if expiry is not policy.Expiry.STOP:
                return None
            assert ticket.batch is not None
            self.pool.stop(ticket.batch)  # batch_lost decides who is charged, once the worker is dead
            deadline = math.inf

    async def _settled(self, ticket: Ticket) -> Outcome:
        if ticket.outcome is None:
            ticket.task = trio.lowlevel.current_task()

            def forget(_raise_cancel: object) -> trio.lowlevel.Abort:
                ticket.task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(forget)
        assert ticket.outcome is not None
        return ticket.outcome

    def _settle(self, ticket: Ticket, result: Outcome) -> None:
        ticket.outcome = result
        if ticket.task is not None:
            trio.lowlevel.reschedule(ticket.task)
            ticket.task = None

    def _leave(self, ticket: Ticket) -> None:
        """Take out an attempt that nobody waits for any more, wherever it is."""
        if ticket.outcome is not None:  # it came while the cancellation was under way
            self._deliver(None, ticket.outcome)
            return
        if ticket.batch is None:
            self.queue.remove(ticket)
            return
        self._counts.abandoned += 1
        tickets = self._running[ticket.batch]
        tickets[tickets.index(ticket)] = None
        if not any(tickets):
            self._bell.set()  # nobody's timer will stop this batch if it hangs: `serve` has to
        ticket.batch = None

    async def serve(self) -> None:
        """Dispatch for ever. One task, so that attempts made in one scheduler tick leave in one batch."""
        while True:
            with trio.move_on_at(min(self._next_overrun(), self._next_growth())):
                await self._bell.wait()
            self._bell = trio.Event()
            self._stop_overrun()
            self._dispatch()

    def _deserted(self) -> list[Batch]:
        return [b for b, tickets in self._running.items() if not any(tickets) and b not in self._stopped]

    def _next_overrun(self) -> float:
        return min((b.started + self.settings.timeout for b in self._deserted()), default=math.inf)

    def _stop_overrun(self) -> None:
        now = trio.current_time()
        for batch in self._deserted():
            if now >= batch.started + self.settings.timeout:
                self._stopped.add(batch)
                self.pool.stop(batch)

    def _next_growth(self) -> float:
        """Return when the ticket served next will have waited long enough for one more replica."""
        if self._wanted >= self.settings.max_workers:
            return math.inf
        when = self.queue.oldest + 1.1 * policy.GROW_AFTER  # surely after it, as floats go
        return when if when > trio.current_time() else math.inf

    def resize(self, minimum: int, maximum: int) -> None:
        """Have from `minimum` to `maximum` replicas from now on; `pool.settled` tells when it is so.

        Without any (`maximum` is 0) all that waits is refused, as is every further attempt.
        """
        self.settings = replace(self.settings, min_workers=minimum, max_workers=maximum)
        self._wanted = policy.replicas_kept(self._wanted, minimum, maximum)
        self.pool.scale(self._wanted)
        self._bell.set()

    def _no_worker(self) -> NoWorkerError:
        return NoWorkerError(
            f'Model "{self.settings.name}" has no worker to serve inference request. Please use scale '
            "workers API to add workers. If this is a sequence inference, please check if it is closed, or "
            "expired; or exceeds maxSequenceJobQueueSize"
        )

    def _dispatch(self) -> None:
        while not self.settings.max_workers and (refused := self.queue.take(len(self.queue))):
            for ticket in refused:
                self._settle(ticket, Failed(self._no_worker()))
        while self.pool.idle and (tickets := self.queue.take(self._largest_batch())):
            self._start(tickets)
        self._grow()

    def _largest_batch(self) -> int:
        if self.settings.one_by_one:
            return policy.calls_per_hop(self._seconds_per_item)
        return self.settings.batch_size

    def _learn(self, batch: Batch) -> None:
        seen = batch.busy / len(batch.items)
        before = seen if self._seconds_per_item is None else self._seconds_per_item
        self._seconds_per_item = before + 0.25 * (seen - before)

    def _start(self, tickets: list[Ticket]) -> None:
        try:
            batch = self.pool.submit([ticket.item for ticket in tickets])
        except ServiceUnavailableError as refusal:
            for ticket in tickets:
                self._settle(ticket, Failed(refusal))
            return
        self._running[batch] = list(tickets)
        self._counts.batches += 1
        self._counts.batched_items += len(tickets)
        arrivals = [ticket.arrived for ticket in tickets if not ticket.rerun]
        self.measured.batch_started(batch.started, len(tickets), arrivals)
        for ticket in tickets:
            ticket.batch = batch
            timer = ticket.timer
            if timer is not None and not timer.cancel_called:
                timer.deadline = policy.running_deadline(
                    timer.deadline,
                    batch.started,
                    self._timeout_of(ticket),
                    rerun=ticket.rerun or ticket.timeout is not None,
                )
            ticket.rerun = False

    def _grow(self) -> None:
        waiting = len(self.queue)
        if not waiting:
            return
        settings = self.settings
        wanted = policy.replicas_wanted(
            queued=waiting,
            oldest_wait=trio.current_time() - self.queue.oldest,
            batch_size=settings.batch_size,
            idle=self.pool.idle,
            wanted=self._wanted,
            minimum=settings.min_workers,
            maximum=settings.max_workers,
        )
        if wanted > self._wanted:
            self._wanted = wanted
            self.pool.scale(wanted)

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Settle every item that somebody waits for; run again what the policy splits."""
        tickets = self._ended(batch)
        if self.settings.one_by_one:
            self._learn(batch)
        now = trio.current_time()
        self.measured.batch_ended(now, batch.started, batch.busy, batch.metrics)
        errors = [o for o in outcomes if isinstance(o, Failed)]
        if len(errors) == len(outcomes) and self._verdict(errors, len(tickets)) is policy.Failure.SPLIT:
            half, _ = policy.split(len(tickets))
            self._run_again(tickets[:half])
            self._run_again(tickets[half:])
        else:
            for ticket, result in zip(tickets, outcomes, strict=True):
                if ticket is not None and isinstance(result, Done):
                    self.measured.latency += now - ticket.arrived
                self._deliver(ticket, result)
        self._dispatch()

    def _ended(self, batch: Batch) -> list[Ticket | None]:
        self._stopped.discard(batch)
        return self._running.pop(batch)

    def _verdict(self, errors: list[Failed], size: int) -> policy.Failure:
        splittable = all(error.splittable for error in errors)
        return policy.after_error(size, splittable=splittable, isolate=self.settings.isolate)

    def _deliver(self, ticket: Ticket | None, result: Outcome) -> None:
        if ticket is not None:
            ticket.batch = None
            self._settle(ticket, result)
        elif isinstance(result, Done):
            result.payload.release()

    def batch_lost(self, batch: Batch, reason: str) -> None:
        """Run the items again one by one, or fail the one there is."""
        tickets = self._ended(batch)
        if policy.after_loss(len(tickets), isolate=self.settings.isolate) is policy.Failure.ALONE:
            for ticket in tickets:
                self._run_again([ticket])
        else:
            for ticket in tickets:
                self._deliver(ticket, Failed(WorkerDiedError(reason)))
        self._dispatch()

    def replica_ready(self) -> None:
        """Give the new replica what waits."""
        for replica in self.pool.statistics().replicas:
            if replica.state == "READY":
                self.measured.replica_loaded(replica.id, replica.pid, replica.started)
        self._bell.set()

    def _run_again(self, part: list[Ticket | None]) -> None:
        live = [ticket for ticket in part if ticket is not None]
        until = self._rerun_deadline()
        for ticket in live:
            ticket.batch = None
            ticket.rerun = True
            if ticket.timer is not None:
                ticket.timer.deadline = until
        self._counts.reruns += len(live)
        self.queue.put_back(live)

    def statistics(self) -> StageStatistics:
        """Return the counts as they are now."""
        self._counts.queued = len(self.queue)
        self._counts.running = sum(len(tickets) for tickets in self._running.values())
        return self._counts
