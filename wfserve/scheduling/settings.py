"""How a stage is run, and what it has counted: plain data, no decision and no I/O.

Settings cross between processes, which compiled classes cannot: this module stays interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How one node is tried. Times are seconds."""

    name: str  # registered name, `W__N`
    timeout: float = 10.0
    retry_attempts: int = 1
    isolate: bool = True


@dataclass(frozen=True, slots=True)
class StageSettings(StepSettings):
    """How one stage batches and scales, and how its first node is tried."""

    batch_size: int = 1
    batch_delay: float = 0.05  # an item may wait for others that are known to be coming
    min_workers: int = 1
    max_workers: int = 1
    idle_timeout: float = 60.0  # that a worker above min_workers may be without use
    startup_timeout: float = 120.0  # of a worker
    queue_size: int = 100
    divisible: bool = False  # several workers may share the rows of one input
    one_by_one: bool = False  # all its handlers take one item a call: a batch is only a way to travel
    following: tuple[StepSettings, ...] = ()  # the nodes that its workers run behind the first

    @property
    def steps(self) -> tuple[StepSettings, ...]:
        """Return how each of its nodes is tried."""
        return (self, *self.following)


@dataclass(slots=True)
class StageStatistics:
    """Counts of a stage since it opened, and what waits and runs now."""

    queued: int = 0
    queue_delay_seconds: float = 0.0  # of what waits and came first
    running: int = 0
    attempts: int = 0
    retries: int = 0
    refused: int = 0
    timeouts: int = 0
    abandoned: int = 0
    reruns: int = 0
    batches: int = 0
    batched_items: int = 0
