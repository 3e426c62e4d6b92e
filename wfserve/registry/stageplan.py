"""A StagePlan says all about one stage before anything of it runs: its workers, and how it schedules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from wfserve.archive.spec import LONGEST_NAME
from wfserve.child.spec import Place, WorkerSpec
from wfserve.registry.placement import Seats, placed
from wfserve.scheduling.settings import StageSettings, StepSettings
from wfserve.workers.keeping import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: its nodes, what their workers are told, and how it schedules."""

    nodes: tuple[str, ...]
    chain: tuple[WorkerSpec, ...]
    settings: StageSettings
    seats: tuple[Seats, ...]  # of each node's workers
    pins_results: bool
    shared: bool  # by its node with equal ones, wherever these stand
    number: int = 0  # of the pool, if another process keeps it

    def common(self) -> StagePlan:
        """Return the plan of the one stage of all nodes that may share workers with this one.

        It is called as the archive calls the model.
        """
        (worker,) = self.chain
        name = _model_name(worker)
        settings = replace(self.settings, name=name)
        return replace(self, nodes=(name,), chain=(worker.at(Place(name)),), settings=settings)

    def is_alike(self, other: StagePlan) -> bool:
        """Whether workers started by both would be the same, and scheduled alike.

        Where they go is said by the archive, which is the same then.
        """
        ours, theirs = ((plan.chain, plan.settings, plan.pins_results, plan.number) for plan in (self, other))
        return ours == theirs

    def shares(self, other: StagePlan) -> bool:
        """Whether the nodes of both have the same workers."""
        return self.shared and other.shared and self.common().is_alike(other.common())

    @property
    def pool(self) -> PoolSettings:
        """Return how its pool starts, and where its workers go."""
        place = partial(placed, seats=self.seats)
        return PoolSettings(
            self.settings.min_workers,
            self.settings.startup_timeout,
            place,
            self.pins_results,
            patience=sum(step.timeout for step in self.settings.steps),
        )


def _model_name(worker: WorkerSpec) -> str:
    """Return the model's own name, if it can stand in a log as the name of its workers."""
    name = ((worker.manifest or {}).get("model") or {}).get("modelName") or ""
    return name if name.isprintable() and 0 < len(name) <= LONGEST_NAME else "shared"


def fused(stages: Sequence[StageSettings]) -> StageSettings:
    """Return how a stage schedules that runs the nodes of several; of one, it is that one.

    As many requests may wait for it as for one of them. Its batches are as large as its models allow.
    """
    first, *behind = stages
    models = [stage for stage in stages if not stage.one_by_one]
    steps = tuple(StepSettings(s.name, s.timeout, s.retry_attempts, s.isolate) for s in behind)
    return replace(
        first,
        batch_size=min([stage.batch_size for stage in models], default=1),
        batch_delay=min([stage.batch_delay for stage in models], default=0.0),
        divisible=first.divisible and not behind,
        one_by_one=not models,
        min_workers=max(stage.min_workers for stage in stages),
        max_workers=max(stage.max_workers for stage in stages),
        startup_timeout=sum(stage.startup_timeout for stage in stages),
        queue_size=max(stage.queue_size for stage in stages),
        following=steps,
    )
