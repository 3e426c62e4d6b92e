"""A Desk is what one of several nodes that share a stage sees of it: a stage of its own.

The queue, the batches and the workers are everybody's. Who is counted, how many may wait, what is known to be
coming, and by which name errors speak of the node, is each one's own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from wfserve.workers.base import Tenant

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any

    from wfserve.measure.counts import NodeCounts
    from wfserve.scheduling.dispatch import Source, Stage
    from wfserve.scheduling.policy import Coming
    from wfserve.scheduling.settings import StageSettings, StageStatistics
    from wfserve.scheduling.tally import Tally
    from wfserve.workers.base import Item, Outcome, Pool


class Desk(Tenant):
    """One node's view of a stage of one step; made by whoever sees to it that the stage serves."""

    def __init__(self, stage: Stage, settings: StageSettings, place: bytes, tally: Tally) -> None:
        """`settings` are the stage's, but for the name."""
        super().__init__(settings.name, place)
        self.settings = settings
        self.steps = settings.steps
        self.tallies: Sequence[Tally] = (tally,)
        self.sources: Sequence[Source] = ()
        self._stage = stage
        tally.measured.load_times = stage.measured().load_times  # the workers are the same

    @property
    def pool(self) -> Pool:
        """Return the workers, which are everybody's."""
        return self._stage.pool

    def attempt(
        self, item: Item, *, retry: bool = False, timeout: float | None = None
    ) -> Coroutine[Any, Any, Outcome]:
        """Run `item` once, as `Stage.attempt` does."""
        item.tenant = self
        return self._stage.attempt(item, retry=retry, timeout=timeout)

    def coming(self, now: float) -> Coming:
        """Return which of the node's items are expected to end next."""
        return self._stage.coming(now, self)

    def statistics(self, step: int = 0) -> StageStatistics:
        """Return the counts of the node as they are now."""
        counts, arrivals = self.tallies[step].counts, self._stage.queue.arrivals(self)
        counts.queued, counts.running = len(arrivals), self._stage.running(self)
        counts.queue_delay_seconds = max(0.0, trio.current_time() - min(arrivals, default=math.inf))
        return counts

    def measured(self, step: int = 0) -> NodeCounts:
        """Return the distributions of the node."""
        return self.tallies[step].measured
