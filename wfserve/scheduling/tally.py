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
    tally.counts.batched_items += len(tickets)
    arrivals = [ticket.arrived for ticket in tickets if not ticket.rerun]
    tally.measured.batch_started(batch.started, len(tickets), arrivals)


def count_end(
    tallies: Sequence[Tally],
    batch: Batch,
    tickets: Sequence[Ticket | None],
    outcomes: Sequence[Report],
    now: float,
) -> None:
    """Count what each step did; those of a batch follow one another, and only the first has a queue."""
    first = batch.items[0].first
    begun, ended = batch.started, now - sum(ran.busy for ran in batch.ran[1:])
    done = [t for t, o in zip(tickets, outcomes, strict=True) if t is not None and isinstance(o, Done)]
    tallies[first].measured.latency += sum(ended - ticket.arrived for ticket in done)
    for step, ran in enumerate(batch.ran, first):
        counts, measured = tallies[step].counts, tallies[step].measured
        if step > first:
            begun, ended = ended, ended + ran.busy
            counts.attempts += ran.items
            counts.batches += 1
            counts.batched_items += ran.items
            measured.batch_started(begun, ran.items, [])
            measured.latency += ran.busy * len(done)
        measured.batch_ended(ended, begun, ran.busy, ran.metrics, travelled=step == first)
        measured.copies += ran.copies
