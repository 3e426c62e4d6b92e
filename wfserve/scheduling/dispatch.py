"""A Stage turns attempts into batches and hands every attempt exactly one outcome.

It serves one node, or a chain of nodes that its workers run one after the other: its steps. An attempt begins
with one step and is charged to the one that fails; it goes on from there when it is made again.

Nothing here decides: `policy` does, and the Stage carries it out. An attempt goes

    attempt() ──▶ queued ──dispatch──▶ running ──batch_done──▶ its outcome
                    ▲                     │
                    └── run again, uncharged: the batch raised, or was lost (alone, on a fresh timer)

and leaves early, from wherever it is, when its time is up or its request is cancelled: a queued one is taken
out at once, a running one is dropped when its batch ends. A batch may have to wait at its replica for the one
before it; as long as it has not begun, its attempts are timed as if they were queued.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import trio

from wfserve.errors import InternalError, ServiceUnavailableError, WorkerDiedError
from wfserve.measure.pressure import MemoryPressure
from wfserve.scheduling import policy, refusals
from wfserve.scheduling.alarm import Alarm
from wfserve.scheduling.desk import Desk
from wfserve.scheduling.dues import Dues
from wfserve.scheduling.forecast import Forecast
from wfserve.scheduling.parts import in_parts
from wfserve.scheduling.queue import StageQueue, Ticket
from wfserve.scheduling.running import Running
from wfserve.scheduling.scaling import Scaling
from wfserve.scheduling.tally import Tally, count_end, count_start
from wfserve.scheduling.timing import Timing
from wfserve.workers.base import Failed, Form, Parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfserve.measure.counts import NodeCounts
    from wfserve.scheduling.settings import StageSettings, StageStatistics
    from wfserve.transport.base import Payload
    from wfserve.workers.base import Batch, Item, Listener, Outcome, Pool, Report, Tenant


class Source(Protocol):
    """Where a stage's items come from."""

    def coming(self, now: float) -> policy.Coming:
        """Return what of it is expected next."""


class Stage:
    """The queue of one node, and the pool that serves it. `serve` must run while attempts are made.

    Where several nodes share it, each has a `Desk`, which its items name as their tenant.
    """

    def __init__(
        self,
        settings: StageSettings,
        open_pool: Callable[[Listener], Pool],
        tallies: Sequence[Tally] = (),
        pressure: Callable[[float], bool] | None = None,
    ) -> None:
        self.settings = settings
        self.steps = settings.steps
        self._tallies = tallies or [Tally() for _ in self.steps]
        self.queue = StageQueue(settings.queue_size)
        self._running = Running()
        self._scaling = Scaling(settings, pressure or MemoryPressure())
        self._forecast = Forecast(settings)
        self._timing = Timing(settings)
        self._alarm = Alarm()  # of `serve`
        self._dues = Dues(self._alarm)
        self._hold = math.inf  # until when what waits is held back for what comes
        self._lonely = 0  # batches, in a row, of one item that nobody waited behind
        self.sources: Sequence[Source] = ()
        self.pool = open_pool(self)

    async def attempt(self, item: Item, *, retry: bool = False, timeout: float | None = None) -> Outcome:
        """Run `item` once, in parts if it is large; charged once, however often others' faults run it again.

        Raises `ServiceUnavailableError` when the queue is full, the stage may have no worker, or `item` would
        end after its deadline. A timeout is a `Failed` outcome. `retry` says that `item` has been attempted
        before. With a `timeout` (seconds) it may wait and then run that long, whatever the stage's own is.
        """
        if self.settings.divisible and self.settings.max_workers > 1 and item.form is Form.WHOLE:
            item.form = Form.DIVISIBLE
        report = await self._attempt(item, retry=retry, timeout=timeout)
        if isinstance(report, Parts):
            return await in_parts(item, report, self._attempt, at_once=self.settings.max_workers + 1)
        return report

    async def _attempt(self, item: Item, *, retry: bool = False, timeout: float | None = None) -> Report:
        counts = self._tallies_of(item)[item.first].counts
        counts.retries += retry
        if not self.settings.max_workers:
            counts.refused += 1
            raise refusals.no_worker(self._name_of(item))
        if self.queue.full(item.tenant) and not item.alone and item.form < Form.PART:
            counts.refused += 1
            raise refusals.queue_full(self._name_of(item), self.queue.limit)
        now = trio.current_time()
        if not (item.alone or retry) and self._is_late(item, now):
            counts.refused += 1
            raise refusals.too_late(self._name_of(item))
        counts.attempts += 1
        ticket = Ticket(item, now, timeout)
        self._enqueue(ticket)
        try:
            if policy.at_once(len(self.queue), self.pool.idle, self._lonely):
                self._dispatch(now)
            else:
                self._alarm.ring()
            while (outcome := await ticket.settled()) is None and self._awaited(ticket):
                pass
        except BaseException:
            self._leave(ticket)
            raise
        if outcome is None:
            counts.timeouts += 1
            batch = ticket.batch
            item.alone |= batch is not None and batch.begun and len(batch.items) > 1
            self._leave(ticket)
            return Failed(InternalError(f"{self._name_of(item, item.first)} timed out"), step=item.first)
        return outcome

    def _tallies_of(self, item: Item) -> Sequence[Tally]:
        """Return where what happens to an item is counted, a tally a step."""
        return item.tenant.tallies if isinstance(item.tenant, Desk) else self._tallies

    def _name_of(self, item: Item, step: int = 0) -> str:
        """Return what the node is called that an item is for."""
        return self.steps[step].name if item.tenant is None else item.tenant.name

    def _enqueue(self, ticket: Ticket) -> None:
        """Put `ticket` in line and note when its time is up."""
        if not ticket.item.alone:
            self.queue.append(ticket)
            self._timing.queued(ticket, asleep=self._asleep)
        else:
            ticket.rerun = True
            self._timing.queued_again(ticket, trio.current_time(), self.queue.parts)
            self.queue.put_back([ticket])
        self._dues.watch(ticket.due)

    @property
    def _asleep(self) -> bool:
        """Whether no replica is up, as nothing was asked for."""
        return not (self.settings.min_workers or self.pool.idle or len(self._running))

    def _is_late(self, item: Item, now: float) -> bool:
        """Whether an item that arrives now is expected to end after its deadline."""
        deadline = item.terms.deadline
        if deadline - now >= self._forecast.longest(len(self.queue)) or item.form >= Form.PART:
            return False  # it has time, or was admitted as a whole
        cost = self._forecast.cost(item)
        if not cost.known:
            return False
        last = None if self.pool.idle else self._forecast.first_to_end(self._running.batches)
        free = now if last is None else self._forecast.ends(last)
        ahead, limit = self.queue.ahead_of(item), self._largest_batch()
        end = policy.expected_end(ahead, free, cost, now, workers=self._scaling.wanted, limit=limit)
        return policy.refused(end, deadline, cost, now)

    def _awaited(self, ticket: Ticket) -> bool:
        """Do what is due with an attempt; whether its outcome is still wanted."""
        batch, now = ticket.batch, trio.current_time()
        if batch is None or not batch.begun:
            return now < ticket.until  # then it was due when it ran, and waits again
        seen = self.pool.whereabouts(batch)
        step, since, until = self._timing.under_way(ticket, batch, seen, now)
        if now < until:
            ticket.due = policy.next_look(until, now, self._timing.behind(ticket, step))
            self._dues.watch(ticket.due)
            return True
        if policy.after_timeout(since, now, self._timing.of(ticket, step)) is not policy.Expiry.STOP:
            return False
        self.pool.stop(batch)  # batch_lost decides who is charged, once the worker is dead
        return True

    def _leave(self, ticket: Ticket) -> None:
        """Take out an attempt that nobody waits for any more, wherever it is."""
        if ticket.outcome is not None:  # it came while the cancellation was under way
            self._deliver(None, ticket.outcome)
            return
        if ticket.batch is None:
            self.queue.remove(ticket)
            return
        self._tallies_of(ticket.item)[ticket.item.first].counts.abandoned += 1
        if self._running.abandon(ticket.batch, ticket):
            self.pool.withdraw(ticket.batch)
            self._alarm.ring()  # nobody's timer will stop this batch if it hangs: `serve` has to
        ticket.batch = None

    async def serve(self) -> None:
        """Dispatch for ever. One task, so that attempts of one tick leave in one batch, but for `at_once`."""
        await trio.lowlevel.checkpoint()  # those of this tick as well
        await self._alarm.attend(self._attend)

    def _attend(self) -> float:
        """Do what is due, and return when more will be."""
        now = trio.current_time()
        if now >= self._dues.next:
            self._dues.ring((*self.queue, *self._running.tickets()), now)
        for batch in self._running.overrun(now):
            self.pool.stop(batch)
        self._dispatch(now)
        return min(self._dues.next, self._running.next_overrun(), self._scaling.next, self._hold)

    def resize(self, minimum: int, maximum: int) -> None:
        """Have from `minimum` to `maximum` replicas from now on; `pool.settled` tells when it is so.

        Without any (`maximum` is 0) all that waits is refused, as is every further attempt.
        """
        self.settings = replace(self.settings, min_workers=minimum, max_workers=maximum)
        self.pool.scale(self._scaling.resize(minimum, maximum))
        self._alarm.ring()

    def configure(self, settings: StageSettings) -> None:
        """Batch, scale and time further attempts by `settings`, which are of the same nodes and queue."""
        self.settings, self.steps = settings, settings.steps
        self._timing = Timing(settings)
        self.resize(settings.min_workers, settings.max_workers)

    def _dispatch(self, now: float) -> None:
        if not self.settings.max_workers:
            for ticket in self.queue.empty():
                ticket.settle(Failed(refusals.no_worker(self._name_of(ticket.item))))
        self._hold = math.inf
        while self.queue and self.pool.idle and (tickets := self.queue.take_part() or self._next_batch(now)):
            self._start(tickets)
        if self.queue and not self.pool.idle:
            self._send_ahead(now)
        if self._scaling.elastic:
            self._scale(now)

    def _next_batch(self, now: float) -> list[Ticket]:
        """Take out what goes next; empty if nothing waits, or what waits is held back until `_hold`."""
        limit = self._largest_batch()
        while tickets := self.queue.look(limit, self._forecast.alike):
            cost = self._forecast.cost(tickets[0].item)
            earliest = min([ticket.item.terms.asked for ticket in tickets])
            if policy.refused(now + cost.of(1), earliest, cost, now):
                self._refuse_late(tickets, now + cost.of(1))
                continue
            if tickets[0].item.form is Form.PART:  # one a worker: to share them out is what they are for
                limit, tickets = 1, tickets[:1]
            waiting = policy.Waiting(len(tickets), min([ticket.arrived for ticket in tickets]), earliest)
            coming, delay = self._next_coming(tickets[0].item, now), self.settings.batch_delay
            size, self._hold = policy.next_batch(waiting, coming, cost, now, limit=limit, delay=delay)
            self._alarm.no_later_than(self._hold)
            self.queue.take_out(tickets[:size])
            return tickets[:size]
        return []

    def _refuse_late(self, tickets: Sequence[Ticket], end: float) -> None:
        late = [ticket for ticket in tickets if ticket.item.terms.asked < end]
        self.queue.take_out(late)
        for ticket in late:
            self._tallies_of(ticket.item)[ticket.item.first].counts.refused += 1
            ticket.settle(Failed(refusals.too_late(self._name_of(ticket.item))))

    def _next_coming(self, item: Item, now: float) -> policy.Coming:
        """Return what is expected next from where items like this one come from."""
        sources = item.tenant.sources if isinstance(item.tenant, Desk) else self.sources
        if self.settings.one_by_one or not sources:
            return policy.Coming()
        return min((source.coming(now) for source in sources), key=lambda coming: coming.at)

    def coming(self, now: float, tenant: Tenant | None = None) -> policy.Coming:
        """Return which of its items are expected to end next, and so come to the stages behind it."""
        return self._forecast.coming(self._running.batches, tenant)

    def _largest_batch(self) -> int:
        if self.settings.one_by_one:
            return self._forecast.calls_per_hop()
        return self.settings.batch_size

    def _send_ahead(self, now: float) -> None:
        """Have the next batch wait at the only replica already, if that makes no other difference."""
        before = self._forecast.first_to_end(self._running.batches)
        if before is None or self.settings.max_workers > 1 or self.queue.parts:
            return
        replica = policy.Occupied(self._forecast.ends(before), self._forecast.gap)
        known = self._forecast.knows(before) and policy.ends_soon(replica, now)
        if not (known and self.pool.takes_another(before)):
            return
        limit = self._largest_batch()
        tickets = self.queue.look(limit, self._forecast.alike)
        item = tickets[0].item
        if item.form is Form.PART:
            return
        earliest = min([ticket.item.terms.asked for ticket in tickets])
        waiting = policy.Waiting(len(tickets), min([ticket.arrived for ticket in tickets]), earliest)
        cost, work = self._forecast.cost(item), self._forecast.work(item)
        size = policy.ahead(waiting, replica, cost, work, now, limit=limit)
        if not size:
            return
        try:
            batch = self._submit(tickets[:size], before)
        except ServiceUnavailableError:
            return  # there may be memory when its turn has come
        self.queue.take_out(tickets[:size])
        batch.started = max(now, replica.until)  # as far as is known

    def _start(self, tickets: list[Ticket]) -> None:
        try:
            self._begin(self._submit(tickets))
        except ServiceUnavailableError as refusal:
            for ticket in tickets:
                ticket.settle(Failed(refusal))

    def _submit(self, tickets: list[Ticket], behind: Batch | None = None) -> Batch:
        """Give a batch of `tickets` to the pool. Raises `ServiceUnavailableError` if there is no memory."""
        batch = self.pool.submit([ticket.item for ticket in tickets], behind)
        batch.kind = self._forecast.kind(tickets[0].item)
        self._running.start(batch, tickets)
        return batch

    def _begin(self, batch: Batch) -> None:
        """Have the time of a batch run, from when it started."""
        tickets = [ticket for ticket in self._running.batches[batch] if ticket is not None]
        count_start(self._tallies_of(batch.items[0])[batch.items[0].first], batch, tickets)
        if self._scaling.elastic and tickets and not tickets[0].rerun:
            arrived = min([ticket.arrived for ticket in tickets])
            lasts = self._forecast.ends(batch) - batch.started
            self._scaling.took(len(tickets), arrived, lasts, batch.started)
        self._timing.started(tickets, batch)
        self._dues.watch(min([ticket.due for ticket in tickets], default=batch.until))

    def _begin_next(self, batch: Batch) -> None:
        """Have the time run of what waited for `batch`, unless that is lost as well."""
        if batch.next is not None and batch.next.begun:
            self._begin(batch.next)
        batch.next = None  # whoever keeps this one shall not keep all that follow

    def _scale(self, now: float) -> None:
        """Have as many replicas as what waits and what has run ask for."""
        before, busy, idle = self._scaling.wanted, self._running.begun, self.pool.idle
        backlog = self._forecast.backlog(self.queue, self._largest_batch())
        wanted = self._scaling.look(self.queue.oldest, *backlog, busy=busy, idle=idle, now=now)
        if wanted != before:
            self.pool.scale(wanted)
        self._alarm.no_later_than(self._scaling.next)

    def batch_done(self, batch: Batch, outcomes: Sequence[Report]) -> None:
        """Settle every item that somebody waits for; run again what the policy splits."""
        tickets = self._running.end(batch)
        now = trio.current_time()
        self._forecast.learn(batch, outcomes, now)
        self._lonely = 0 if len(outcomes) > 1 or self.queue or batch.next else self._lonely + 1
        self._begin_next(batch)
        count_end(self._tallies_of(batch.items[0]), batch, tickets, outcomes, now)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed) and outcome.splittable]
        splits = bool(failed) and self._splits(failed)
        together: list[Ticket] = []  # those that failed as one: their parts may do better alone
        for ticket, result in zip(tickets, outcomes, strict=True):
            if isinstance(result, Failed):
                if result.reached is not None:
                    _advance(ticket, result.step, result.reached)
                if splits and result.splittable:
                    together += [] if ticket is None else [ticket]
                    continue
            if ticket is not None and ticket.trial is not None:
                self._forecast.conclude(ticket, ticket.trial, result)
            self._deliver(ticket, result)
        for part in self._forecast.parts(together) if together else ():
            self._run_again(part)
        self._dispatch(now)

    def _splits(self, failed: Sequence[Failed]) -> bool:
        """Whether those that failed as one, at one step, are run again in parts."""
        isolate = self.steps[failed[0].step].isolate
        return policy.after_error(len(failed), splittable=True, isolate=isolate) is policy.Failure.SPLIT

    def _deliver(self, ticket: Ticket | None, result: Report) -> None:
        if ticket is not None:
            ticket.batch = None
            ticket.settle(result)
        elif not isinstance(result, Failed):
            result.release()

    def batch_lost(self, batch: Batch, reason: str) -> None:
        """Run the items again one by one, or fail the one there is."""
        tickets, step = self._running.end(batch), batch.lost_at
        self._begin_next(batch)
        if not batch.begun:
            self._run_again([ticket for ticket in tickets if ticket is not None])
            self._dispatch(trio.current_time())
            return
        for index, payload in batch.reached.items():
            _advance(tickets[index], step, payload)
        if policy.after_loss(len(tickets), isolate=self.steps[step].isolate) is policy.Failure.ALONE:
            for ticket in tickets:
                self._run_again([] if ticket is None else [ticket])
        else:
            for ticket in tickets:
                self._deliver(ticket, Failed(WorkerDiedError(reason), step=step))
        self._dispatch(trio.current_time())

    def replica_ready(self) -> None:
        """Give the new replica what waits."""
        for replica in self.pool.statistics().replicas:
            if replica.state == "READY":
                for tally in self._tallies:
                    tally.measured.replica_loaded(replica.id, replica.pid, replica.started)
        self._scaling.came(trio.current_time())
        self._alarm.ring()

    def replica_failed(self, reason: str) -> None:
        """Fail what a replica was to be started for."""
        if self._asleep:
            for ticket in self.queue.empty():
                ticket.settle(Failed(InternalError(reason), step=ticket.item.first))

    def _run_again(self, part: list[Ticket]) -> None:
        for ticket in part:
            ticket.batch = None
            ticket.rerun = True
            self._timing.queued_again(ticket, trio.current_time(), self.queue.parts)
            self._dues.watch(ticket.due)
            self._tallies_of(ticket.item)[ticket.item.first].counts.reruns += 1
        self.queue.put_back(part)

    def statistics(self, step: int = 0) -> StageStatistics:
        """Return the counts of one step as they are now; all that waits and runs is the first one's."""
        counts = self._tallies[step].counts
        if step == 0:
            waiting = self._running.waiting()
            oldest = min([self.queue.oldest, *[ticket.arrived for ticket in waiting]])
            counts.queued = len(self.queue) + len(waiting)
            counts.queue_delay_seconds = max(0.0, trio.current_time() - oldest)
            counts.running = self._running.items
        return counts

    def running(self, tenant: Tenant) -> int:
        """Return how many items of a tenant are in batches that run."""
        return self._running.items_of(tenant)

    def measured(self, step: int = 0) -> NodeCounts:
        """Return the distributions of one step."""
        return self._tallies[step].measured


def _advance(ticket: Ticket | None, step: int, reached: Payload) -> None:
    """Have an item go on with `step`, unless nobody waits for it any more."""
    if ticket is None:
        reached.release()
    else:
        ticket.item.advance(step, reached)
