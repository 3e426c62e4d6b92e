"""When the time of an attempt is up: of the step that it is at, never of one behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfserve.scheduling import policy

if TYPE_CHECKING:
    from wfserve.scheduling.queue import Ticket
    from wfserve.scheduling.settings import StageSettings
    from wfserve.workers.base import Batch, Whereabouts


class Timing:
    """The timeouts of a stage's steps. Moments are the clock's, times seconds."""

    def __init__(self, settings: StageSettings) -> None:
        self._timeouts = [step.timeout for step in settings.steps]
        self._startup = settings.startup_timeout

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
        first = ticket.item.first
        longest = max([self.of(ticket, first), *self.behind(ticket, first)])
        ticket.until = ticket.due = ticket.arrived + longest + asleep * self._startup

    def queued_again(self, ticket: Ticket, now: float, ahead: int) -> None:
        """Have a ticket wait to be run again, behind `ahead` parts."""
        own = self.of(ticket, ticket.item.first)
        ticket.until = ticket.due = policy.rerun_deadline(now, ahead, own, self._startup)

    def started(self, ticket: Ticket, batch: Batch) -> None:
        """Have a ticket be due when the first step's time is up that it may be found at."""
        item = ticket.item
        ticket.until = policy.running_deadline(
            ticket.until,
            batch.started,
            self.of(ticket, item.first),
            afresh=self._afresh(ticket),
        )
        ticket.due = policy.next_look(ticket.until, batch.started, self.behind(ticket, item.first))

    def _afresh(self, ticket: Ticket) -> bool:
        """Whether what it waited is not part of the time that its step may take."""
        item, own = ticket.item, self.of(ticket, ticket.item.first)
        may_wait_longer = ticket.until > ticket.arrived + own
        return ticket.rerun or may_wait_longer or ticket.timeout is not None or item.last > item.first

    def under_way(
        self, ticket: Ticket, batch: Batch, seen: Whereabouts | None, now: float
    ) -> tuple[int, float, float]:
        """Return the step that a batch is at, since when, and until when it may be."""
        if seen is None or seen.step == ticket.item.first:
            return ticket.item.first, batch.started, ticket.until
        since = now - seen.seconds
        return seen.step, since, since + self._timeouts[seen.step]

    def longest(self, ticket: Ticket, started: float) -> float:
        """Return when a batch that has `started` has taken as long as all steps may together."""
        first = ticket.item.first
        return started + self.of(ticket, first) + sum(self.behind(ticket, first))
