"""When the time of an attempt is up: of the step that it is at, never of one behind it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from wfserve.scheduling import policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.scheduling.queue import Ticket
    from wfserve.scheduling.settings import StageSettings
    from wfserve.workers.base import Batch, Item, Whereabouts


class _Way(NamedTuple):
    """How long the steps of an attempt may take (seconds)."""

    first: float
    behind: list[float]
    longest: float  # of those behind; 0 if there are none


class Timing:
    """The timeouts of a stage's steps. Moments are the clock's, times seconds."""

    def __init__(self, settings: StageSettings) -> None:
        self._timeouts = [step.timeout for step in settings.steps]
        self._startup = settings.startup_timeout
        self._ways: dict[tuple[int, int], _Way] = {}  # by the first and the last step

    def of(self, ticket: Ticket, step: int) -> float:
        """Return how long a step may take; a ticket may have its own time for the one that it begins with."""
        own = ticket.timeout if step == ticket.item.first else None
        return self._timeouts[step] if own is None else own

    def behind(self, ticket: Ticket, step: int) -> list[float]:
        """Return how long the steps may take that follow a step on the ticket's way."""
        return self._timeouts[step + 1 : ticket.item.last + 1]

    def queued(self, ticket: Ticket, *, asleep: bool) -> None:
        """Have a ticket wait as long as its step may take, or one behind it that holds others up.

        If the stage is `asleep`, its first worker may load meanwhile.
        """
        way = self._way(ticket.item)
        own = way.first if ticket.timeout is None else ticket.timeout
        ticket.until = ticket.due = ticket.arrived + max(own, way.longest) + asleep * self._startup

    def _way(self, item: Item) -> _Way:
        steps = item.first, item.last
        if (way := self._ways.get(steps)) is None:
            first, *behind = self._timeouts[item.first : item.last + 1]
            way = self._ways[steps] = _Way(first, behind, max(behind, default=0.0))
        return way

    def queued_again(self, ticket: Ticket, now: float, ahead: int) -> None:
        """Have a ticket wait to be run again, behind `ahead` parts."""
        own = self.of(ticket, ticket.item.first)
        ticket.until = ticket.due = policy.rerun_deadline(now, ahead, own, self._startup)

    def started(self, tickets: Sequence[Ticket], batch: Batch) -> None:
        """Have tickets be due when the first step's time is up that they may be found at.

        All of them, which are the batch's, have the same steps before them. It may take as long as all of
        those together.
        """
        first, behind, _ = self._way(batch.items[0])
        started, longest = batch.started, 0.0 if tickets else first
        look = policy.next_look(math.inf, started, behind)
        for ticket in tickets:
            own = first if ticket.timeout is None else ticket.timeout
            if own > longest:
                longest = own
            afresh = bool(behind) or _afresh(ticket, own)
            ticket.until = policy.running_deadline(ticket.until, started, own, afresh=afresh)
            ticket.due = min(ticket.until, look)
            ticket.rerun = False  # its timer runs
        batch.until = started + longest + sum(behind)

    def under_way(
        self, ticket: Ticket, batch: Batch, seen: Whereabouts | None, now: float
    ) -> tuple[int, float, float]:
        """Return the step that a batch is at, since when, and until when it may be."""
        if seen is None or seen.step == ticket.item.first:
            waited = 0.0 if seen is None else seen.waited
            return ticket.item.first, batch.started + waited, ticket.until + waited
        since = now - seen.seconds
        return seen.step, since, since + self._timeouts[seen.step]


def _afresh(ticket: Ticket, own: float) -> bool:
    """Whether what it waited is not part of its `own` time, which its only step may take."""
    may_wait_longer = ticket.until > ticket.arrived + own
    return ticket.rerun or may_wait_longer or ticket.timeout is not None
