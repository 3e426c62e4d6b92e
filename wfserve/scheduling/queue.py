"""A StageQueue holds tickets that wait for a replica, in order; cancelling costs the same at any depth.

Two lines, the first served first: parts of batches that must be run again, each exactly as it is listed, and
new tickets, the most urgent first and of equals those that came first, of which a batch takes as many as it
may.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wfserve.scheduling.forecast import Trial
    from wfserve.workers.base import Batch, Item, Report, Tenant

_LEAST_URGENT = (math.inf, 0)


class Ticket:
    """One attempt of one item at one stage."""

    __slots__ = (
        "_task",
        "arrived",
        "batch",
        "due",
        "item",
        "outcome",
        "rerun",
        "timeout",
        "trial",
        "until",
    )

    def __init__(self, item: Item, arrived: float, timeout: float | None = None) -> None:
        self.item = item
        self.arrived = arrived
        self.timeout = timeout  # seconds its batch may run, if not the stage's; the wait before is extra
        self.until = math.inf  # when the time of the step is up that it begins with
        self.due = math.inf  # when its stage is to `ring`: then, or earlier
        self.batch: Batch | None = None  # set while it runs
        self.trial: Trial | None = None  # what its next run shows, besides its outcome
        self.rerun = False  # it waits to be run again, uncharged, with a timer that starts afresh then
        self.outcome: Report | None = None
        self._task: trio.lowlevel.Task | None = None  # set while it is waited for

    async def settled(self) -> Report | None:
        """Wait for the outcome; None if it is not there yet, but the ticket is due."""
        if self.outcome is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._forget)
        return self.outcome

    def _forget(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def settle(self, outcome: Report) -> None:
        """Give the ticket its outcome."""
        self.outcome = outcome
        self._wake()

    def ring(self) -> None:
        """Have whoever waits for the ticket look at it: it is due."""
        self.due = math.inf
        self._wake()

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None


class StageQueue:
    """The tickets of one stage that are not running."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._new: dict[Ticket, None] = {}  # a dict keeps order, and removes from the middle at no cost
        self._last = _LEAST_URGENT  # the order of the ticket at its end
        self._in_order = True
        self._parts: deque[dict[Ticket, None]] = deque()
        self._part_of: dict[Ticket, dict[Ticket, None]] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._part_of)

    def __iter__(self) -> Iterator[Ticket]:
        """Go through all tickets, in no order that means anything."""
        return itertools.chain(self._part_of, self._new)

    @property
    def parts(self) -> int:
        """Return how many parts wait to be run again."""
        return len(self._parts)

    def full(self, tenant: Tenant | None = None) -> bool:
        """Whether a new ticket has no place, of which each tenant has as many.

        Parts do not count: they had theirs.
        """
        if len(self._new) < self.limit or tenant is None:
            return len(self._new) >= self.limit
        return sum(ticket.item.tenant is tenant for ticket in self._new) >= self.limit

    def arrivals(self, tenant: Tenant) -> list[float]:
        """Return when those came of a tenant that wait."""
        return [ticket.arrived for ticket in self if ticket.item.tenant is tenant]

    @property
    def first(self) -> Ticket | None:
        """Return the ticket served next, None if there is none."""
        return next(iter(self._part_of), None) or next(iter(self._sorted()), None)

    @property
    def oldest(self) -> float:
        """Return when the first came of those that wait, infinity if there is none."""
        return min([ticket.arrived for ticket in self], default=math.inf)

    def ahead_of(self, item: Item) -> int:
        """Return how many tickets are served before one of `item` would be that arrives now."""
        order = item.terms.order
        if self._in_order and order >= self._last:
            return len(self)
        return len(self._part_of) + sum(ticket.item.terms.order <= order for ticket in self._new)

    def append(self, ticket: Ticket) -> None:
        """Add a new ticket in its place; the caller has checked `full`."""
        order = ticket.item.terms.order
        if not self._new:
            self._in_order, self._last = True, order
        elif order < self._last:
            self._in_order = False
        else:
            self._last = order
        self._new[ticket] = None

    def _sorted(self) -> dict[Ticket, None]:
        """Return the new tickets in order. They mostly are: deadlines that nobody asked for are arrivals."""
        if not self._in_order:
            self._new = dict.fromkeys(sorted(self._new, key=_order))
            self._in_order, self._last = True, _order(next(reversed(self._new)))
        return self._new

    def put_back(self, part: list[Ticket]) -> None:
        """Add tickets that have to be run again together, and with no others."""
        if part:
            entry = dict.fromkeys(part)
            self._parts.append(entry)
            self._part_of.update(dict.fromkeys(part, entry))

    def take_part(self) -> list[Ticket]:
        """Take out the next part; empty if there is none."""
        part = list(self._parts.popleft()) if self._parts else []
        for ticket in part:
            del self._part_of[ticket]
        return part

    def look(self, limit: int, alike: Callable[[Item], object]) -> list[Ticket]:
        """Return up to `limit` new tickets that could go next, all `alike` the first. They stay in line."""
        new = self._sorted()
        if not new:
            return []
        if len(new) == 1:
            return list(new)
        kind, found = alike(next(iter(new)).item), list[Ticket]()
        for ticket in new:
            if alike(ticket.item) == kind:
                found.append(ticket)
                if len(found) == limit:  # those behind need not be looked at
                    break
        return found

    def take_out(self, tickets: Iterable[Ticket]) -> None:
        """Take new tickets out of the line, which all are in it."""
        for ticket in tickets:
            del self._new[ticket]

    def empty(self) -> list[Ticket]:
        """Take everything out."""
        everything = [*self._part_of, *self._sorted()]
        self._parts.clear()
        self._part_of.clear()
        self._new.clear()
        return everything

    def remove(self, ticket: Ticket) -> bool:
        """Take `ticket` out wherever it waits; False if it does not."""
        part = self._part_of.pop(ticket, None)
        if part is None:
            return self._new.pop(ticket, ticket) is None
        del part[ticket]
        if not part:
            self._parts.remove(part)  # any empty one is this one: there is no other
        return True


def _order(ticket: Ticket) -> tuple[float, int]:
    return ticket.item.terms.order
