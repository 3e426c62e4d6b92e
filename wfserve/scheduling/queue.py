"""A StageQueue holds tickets that wait for a replica; taking out and cancelling cost the same at any depth.

Two lines, the first served first: parts of batches that must be run again, each exactly as it is listed, and
new tickets in order of arrival, of which a batch takes as many as it may.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

    from wfserve.workers.base import Batch, Item, Outcome


class Ticket:
    """One attempt of one item at one stage."""

    __slots__ = ("arrived", "batch", "item", "outcome", "rerun", "task", "timeout", "timer", "until")

    def __init__(self, item: Item, arrived: float, timeout: float | None = None) -> None:
        self.item = item
        self.arrived = arrived
        self.timeout = timeout  # seconds its batch may run, if not the stage's; the wait before is extra
        self.until = math.inf  # when the time of the step is up that it begins with
        self.timer: trio.CancelScope | None = None  # rings then, or earlier
        self.batch: Batch | None = None  # set while it runs
        self.rerun = False  # it waits to be run again, uncharged, with a timer that starts afresh then
        self.outcome: Outcome | None = None
        self.task: trio.lowlevel.Task | None = None  # set while it is waited for


class StageQueue:
    """The tickets of one stage that are not running."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._new: dict[Ticket, None] = {}  # a dict keeps order, and removes from the middle at no cost
        self._parts: deque[dict[Ticket, None]] = deque()
        self._part_of: dict[Ticket, dict[Ticket, None]] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._part_of)

    @property
    def parts(self) -> int:
        """Return how many parts wait to be run again."""
        return len(self._parts)

    @property
    def full(self) -> bool:
        """Whether a new ticket has no place. Parts do not count: they had theirs."""
        return len(self._new) >= self.limit

    @property
    def oldest(self) -> float:
        """Return the arrival of the ticket served next, infinity if there is none."""
        first = next(iter(self._part_of), None) or next(iter(self._new), None)
        return math.inf if first is None else first.arrived

    def append(self, ticket: Ticket) -> None:
        """Add a new ticket at the end; the caller has checked `full`."""
        self._new[ticket] = None

    def put_back(self, part: list[Ticket]) -> None:
        """Add tickets that have to be run again together, and with no others."""
        if part:
            entry = dict.fromkeys(part)
            self._parts.append(entry)
            self._part_of.update(dict.fromkeys(part, entry))

    def take(self, limit: int) -> list[Ticket]:
        """Take the next batch out: a part as it is, or up to `limit` new tickets; empty if nothing waits.

        New tickets go together if they begin and end with the same steps.
        """
        if self._parts:
            part = list(self._parts.popleft())
            for ticket in part:
                del self._part_of[ticket]
            return part
        route = next(iter(self._new)).item.route if self._new else None
        alike = (ticket for ticket in self._new if ticket.item.route == route)
        taken = list(itertools.islice(alike, limit))
        for ticket in taken:
            del self._new[ticket]
        return taken

    def remove(self, ticket: Ticket) -> bool:
        """Take `ticket` out wherever it waits; False if it does not."""
        part = self._part_of.pop(ticket, None)
        if part is None:
            return self._new.pop(ticket, ticket) is None
        del part[ticket]
        if not part:
            self._parts.remove(part)  # any empty one is this one: there is no other
        return True
