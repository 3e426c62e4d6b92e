"""Dues ring the tickets of a stage when they are due, and wake it for that: it has one alarm for all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wfserve.scheduling.alarm import Alarm
    from wfserve.scheduling.queue import Ticket


class Dues:
    """When the first of a stage's tickets may be due, by which its `alarm` rings. Moments are the clock's."""

    def __init__(self, alarm: Alarm) -> None:
        self.next = math.inf  # no ticket is due before
        self._alarm = alarm

    def watch(self, due: float) -> None:
        """See to it that the tickets are rung that are due then."""
        if due < self.next:
            self.next = due
            self._alarm.no_later_than(due)

    def ring(self, tickets: Iterable[Ticket], now: float) -> None:
        """Ring those of `tickets`, which are all there are, that are due."""
        self.next = math.inf
        for ticket in tickets:
            if ticket.due <= now:
                ticket.ring()
            self.next = min(self.next, ticket.due)
