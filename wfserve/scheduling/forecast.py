"""A Forecast is what a stage expects of its batches, and what it puts together: learned as they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfserve.scheduling import policy
from wfserve.scheduling.cost import Cost, Costs
from wfserve.workers.base import Done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from wfserve.scheduling.queue import StageQueue, Ticket
    from wfserve.scheduling.settings import StageSettings
    from wfserve.workers.base import Batch, Item, Report, Tenant

    Running = Mapping[Batch, Sequence[Ticket | None]]

LATEST_GAP = 0.05  # weight of the latest hop in that mean
FOLLOWED = 0.25  # weight of the latest batch in the mean time of a call
TRY_TWO = 16  # batches, of which one has two calls where one was enough
SURPRISING = 2.0  # times what was expected


class Trial:
    """Parts of a batch that failed as one, run again apart by shape: all succeed, or nothing was shown."""

    def __init__(self, step: int, left: int) -> None:
        self.step = step
        self._left = left

    def ended(self, *, well: bool) -> bool:
        """Take note of one item of the parts; whether it was the last and all have ended well."""
        self._left = self._left - 1 if well else -1
        return self._left == 0


class Forecast:
    """What a stage has learned."""

    def __init__(self, settings: StageSettings) -> None:
        self._one_by_one = settings.one_by_one
        self._last = len(settings.steps) - 1
        self._costs = Costs()
        self._works = Costs()  # by the workers' clocks
        self.gap = 0.0  # recent mean of the seconds that a hop takes besides the work
        # By the workers' clocks, where calls are made one by one: on busy cores hops take long.
        self._work = Cost()
        self._seconds_per_item: float | None = None  # recent mean
        self._surprised = False  # by the last batch: it took far longer than those before
        self._largest = max(settings.batch_size, policy.MOST_CALLS)
        self._most_an_item = self._most_a_batch = 0.0  # seconds, of any kind
        # Steps whose batches must be of one shape: it was seen, or they may not be run twice to see it.
        self._uniform = {index for index, step in enumerate(settings.steps) if not step.isolate}

    def kind(self, item: Item) -> object:
        """Return what is equal for items that are expected to take alike."""
        return item.route if self._one_by_one else (item.route, item.shapes)

    def alike(self, item: Item) -> object:
        """Return what is equal for items that may go together."""
        if not self._uniform or self._uniform.isdisjoint(range(item.first, item.last + 1)):
            return item.tenant, item.route
        return item.tenant, item.route, item.likeness

    def cost(self, item: Item) -> Cost:
        """Return what batches take that are of such items."""
        return self._costs.of(self.kind(item))

    def work(self, item: Item) -> Cost:
        """Return what batches take the worker that are of such items."""
        return self._work if self._one_by_one else self._works.of(self.kind(item))

    def longest(self, ahead: int) -> float:
        """Return the seconds in which an item ends that arrives behind `ahead` others, at the most.

        That is `policy.expected_end` for whatever is running and waiting: with one worker, as many batches as
        items. It is cheap, and mostly enough to know that no deadline is in danger.
        """
        return 2 * self._most_a_batch + ahead * self._most_an_item

    def calls_per_hop(self) -> int:
        """Return how many calls travel together, where they are made one by one.

        As long as all went alone nothing tells how much of what they take is beginning: now and then two go.
        """
        work = self._work
        if not work.known or self._surprised:
            return policy.calls_per_hop(self._seconds_per_item)
        calls = policy.calls_per_hop(self._seconds_per_item, work.beta)
        return 2 if calls == 1 and work.samples % TRY_TWO == 0 else calls

    def ends(self, batch: Batch) -> float:
        """Return when a batch that runs is expected to end."""
        return batch.started + self._costs.of(batch.kind).of(len(batch.items))

    def knows(self, batch: Batch) -> bool:
        """Whether it is known what such batches take."""
        return self._costs.of(batch.kind).known

    def first_to_end(self, running: Iterable[Batch]) -> Batch | None:
        """Return which of the batches that run ends first of those that none waits behind."""
        return min([batch for batch in running if batch.next is None], key=self.ends, default=None)

    def backlog(self, queue: StageQueue, limit: int) -> tuple[int, float]:
        """Return how many batches what waits makes, and how long (seconds) one replica would need for it.

        All of it is taken to be like what is next; 0 seconds if what that takes is not known.
        """
        if (first := queue.first) is None:
            return 0, 0.0
        full, left = divmod(len(queue), limit)
        cost = self.cost(first.item)
        work = full * cost.of(limit) + (cost.of(left) if left else 0.0) if cost.known else 0.0
        return full + bool(left), work

    def learn(self, batch: Batch, outcomes: Sequence[Report], now: float) -> None:
        """Learn what batches take from one that has ended, unless it has just failed."""
        if any(isinstance(outcome, Done) for outcome in outcomes):
            took, busy = now - batch.started, batch.busy
            self._costs.of(batch.kind).observe(len(outcomes), took, now)
            if not batch.behind:
                self.gap += LATEST_GAP * (max(0.0, took - busy) - self.gap)
            if not self._one_by_one:
                self._works.of(batch.kind).observe(len(outcomes), busy, now)
            self._most_an_item, self._most_a_batch = self._costs.most(1), self._costs.most(self._largest)
        if self._one_by_one:
            self._follow(batch, now)

    def _follow(self, batch: Batch, now: float) -> None:
        size, seconds = len(batch.items), batch.busy
        self._surprised = seconds > SURPRISING * self._work.of(size)
        self._work.observe(size, seconds, now)
        before = seconds / size if self._seconds_per_item is None else self._seconds_per_item
        self._seconds_per_item = before + FOLLOWED * (seconds / size - before)

    def coming(self, running: Running, tenant: Tenant | None) -> policy.Coming:
        """Return which items of a tenant are expected to leave the stage next."""
        expected = [
            policy.Coming(sum(ticket is not None for ticket in tickets), self.ends(batch))
            for batch, tickets in running.items()
            if _goes_on(batch.items[0], tenant, self._last)
        ]
        return min(expected, key=lambda coming: coming.at, default=policy.Coming())

    def parts(self, failed: list[Ticket]) -> list[list[Ticket]]:
        """Return the parts that a failed batch is run again in: by shape, or halves where all have one."""
        groups = _grouped(failed, lambda item: item.shapes)
        if len(groups) < 2:  # what clients sent has a length only, and of JSON each its own
            groups = _grouped(failed, lambda item: item.likeness)
            if not 2 <= len(groups) <= len(failed) / 2:
                half, _ = policy.split(len(failed))
                return [failed[:half], failed[half:]]
        trial = Trial(failed[0].item.first, len(failed))
        for ticket in failed:
            ticket.trial = trial
        return groups

    def conclude(self, ticket: Ticket, trial: Trial, outcome: Report) -> None:
        """Learn from a ticket's trial by shapes: where all do well that failed as one, they stay apart."""
        ticket.trial = None
        if trial.ended(well=isinstance(outcome, Done)):
            self._uniform.add(trial.step)


def _goes_on(item: Item, tenant: Tenant | None, last: int) -> bool:
    """Whether an item that leaves the stage goes to the stages behind it, of that tenant."""
    return item.last == last and not item.direct and item.tenant is tenant


def _grouped(tickets: list[Ticket], key: Callable[[Item], object]) -> list[list[Ticket]]:
    groups: dict[object, list[Ticket]] = {}
    for ticket in tickets:
        groups.setdefault(key(ticket.item), []).append(ticket)
    return list(groups.values())
