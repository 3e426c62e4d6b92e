"""A Tally is what was counted at one node, whichever stages have served it one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wfserve.measure.counts import NodeCounts
from wfserve.scheduling.settings import StageStatistics
from wfserve.workers.base import Done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.scheduling.queue import Ticket
    from wfserve.workers.base import Batch, Report


@dataclass(slots=True)
class Tally:
    """Attempts and batches in plain numbers, and the distributions that `/metrics` shows."""

    counts: StageStatistics = field(default_factory=StageStatistics)
    measured: NodeCounts = field(default_factory=NodeCounts)


def count_start(tally: Tally, batch: Batch, tickets: Sequence[Ticket]) -> None:
    """Count a batch that leaves its queue for the step that `tally` is of."""
    tally.counts.batches += 1
    tally.counts.batched_items += len(batch.items)
    arrivals = [ticket.arrived for ticket in tickets if not ticket.rerun]
    tally.measured.batch_started(batch.started, len(batch.items), arrivals)


def count_end(
    tallies: Sequence[Tally],
    batch: Batch,
    tickets: Sequence[Ticket | None],
    outcomes: Sequence[Report],
    now: float,
) -> None:
    """Count what each step did; those of a batch follow one another, and only the first has a queue."""
    first, ran = batch.items[0].first, batch.ran
    ended = now - sum([busy for busy, *_ in ran[1:]])
    waits = [
        ended - ticket.arrived
        for ticket, outcome in zip(tickets, outcomes, strict=True)
        if ticket is not None and isinstance(outcome, Done)
    ]
    measured = tallies[first].measured
    measured.latency += sum(waits)
    if ran:
        busy, _, metrics, copies = ran[0]
        measured.batch_ended(ended, batch.started, busy, metrics, copies)
    for step, (busy, items, metrics, copies) in enumerate(ran[1:], first + 1):
        counts = tallies[step].counts
        counts.attempts += items
        counts.batches += 1
        counts.batched_items += items
        tallies[step].measured.batch_went_on(items, len(waits), busy, metrics, copies)
