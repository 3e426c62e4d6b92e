"""Running is what a stage has given to its pool and not got back: batches, and who waits for their items."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.scheduling.queue import Ticket
    from wfserve.workers.base import Batch, Tenant


class Running:
    """The batches of one stage that run, with a ticket an item; None where nobody waits for it any more."""

    def __init__(self) -> None:
        self.batches: dict[Batch, list[Ticket | None]] = {}
        self._stopped: set[Batch] = set()  # by `overrun`, and not yet ended

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def begun(self) -> int:
        """Return how many batches do not wait behind others."""
        return sum([batch.begun for batch in self.batches])

    @property
    def items(self) -> int:
        """Return how many items there are in batches that have begun."""
        return sum([len(batch.items) for batch in self.batches if batch.begun])

    def waiting(self) -> list[Ticket]:
        """Return the tickets that are waited for of batches that have not."""
        found = [tickets for batch, tickets in self.batches.items() if not batch.begun]
        return [ticket for tickets in found for ticket in tickets if ticket is not None]

    def items_of(self, tenant: Tenant) -> int:
        """Return how many items there are in the batches of a tenant."""
        return sum(len(batch.items) for batch in self.batches if batch.items[0].tenant is tenant)

    def tickets(self) -> list[Ticket]:
        """Return the tickets that are waited for."""
        return [ticket for tickets in self.batches.values() for ticket in tickets if ticket is not None]

    def start(self, batch: Batch, tickets: Sequence[Ticket]) -> None:
        """Add a batch, in which `tickets` run from now on."""
        self.batches[batch] = list(tickets)
        for ticket in tickets:
            ticket.batch = batch

    def end(self, batch: Batch) -> list[Ticket | None]:
        """Take out a batch that has been reported, and return its tickets."""
        self._stopped.discard(batch)
        return self.batches.pop(batch)

    def abandon(self, batch: Batch, ticket: Ticket) -> bool:
        """Note that nobody waits for `ticket` any more; whether nobody is left that waits for its batch."""
        tickets = self.batches[batch]
        tickets[tickets.index(ticket)] = None
        return not any(tickets)

    def _deserted(self) -> list[Batch]:
        return [b for b, tickets in self.batches.items() if not any(tickets) and b not in self._stopped]

    def next_overrun(self) -> float:
        """Return when the first of the batches that nobody waits for will have taken as long as it may."""
        return min((batch.until for batch in self._deserted()), default=math.inf)

    def overrun(self, now: float) -> list[Batch]:
        """Return the batches that have, each once: nobody's timer will stop them if they hang."""
        found = [batch for batch in self._deserted() if now >= batch.until]
        self._stopped.update(found)
        return found
