"""The lines of one workflow are exchanged as a whole: all that are new have loaded, or none is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from wfserve.workers.base import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from wfserve.registry.line import Line
    from wfserve.registry.shared import Share
    from wfserve.registry.stageplan import StagePlan

    Chain = tuple[str, ...]  # the nodes of a stage


class Lines:
    """A line for each stage of a workflow; `make` makes one, which a task of a nursery runs then."""

    def __init__(self, plans: Mapping[Chain, StagePlan], make: Callable[[StagePlan], Line | Share]) -> None:
        self._make = make
        self.by_chain = {chain: make(plan) for chain, plan in plans.items()}

    async def start(self, nursery: trio.Nursery) -> list[str]:
        """Start all of them; return when each has loaded, or has not: the nodes are listed that have not."""
        return await _start(self.by_chain.values(), nursery)

    async def exchange(
        self, plans: Mapping[Chain, StagePlan], nursery: trio.Nursery
    ) -> tuple[list[str], list[Line | Share]]:
        """Have lines for `plans`; return the nodes that did not load, and the lines that are to be retired.

        If there is one of the former, all is as before.
        """
        before, planned = self.by_chain, {chain: line.plan for chain, line in self.by_chain.items()}
        failed, fresh = await self._fresh(plans, nursery)
        if failed:
            return failed, []
        kept = plans.keys() - fresh.keys()
        self.by_chain = {chain: fresh.get(chain) or before[chain] for chain in plans}
        for chain in kept:
            if before[chain].plan is planned[chain]:  # else it was configured meanwhile, and that counts
                before[chain].configure(plans[chain])
        return [], [line for chain, line in before.items() if chain not in kept]

    async def _fresh(
        self, plans: Mapping[Chain, StagePlan], nursery: trio.Nursery
    ) -> tuple[list[str], dict[Chain, Line | Share]]:
        """Start lines for those of `plans` that no line serves, or none of them: then say for which nodes."""
        fresh: dict[Chain, Line | Share] = {}
        failed: list[str] = []
        try:  # while some load, others may begin to use a line that was to be changed in place
            while not failed and (missing := self._unserved([c for c in plans if c not in fresh], plans)):
                fresh |= {chain: self._make(plans[chain]) for chain in missing}
                failed = await _start([fresh[chain] for chain in missing], nursery)
        except BaseException:
            await _end(fresh.values())
            raise
        if failed:
            await _end(fresh.values())
        return failed, fresh

    def _unserved(self, chains: Iterable[Chain], plans: Mapping[Chain, StagePlan]) -> list[Chain]:
        """Return those of `chains` that no line serves, or one that would not be shared as `plans` say."""
        unserved: list[Chain] = []
        served: list[Chain] = []
        for chain in chains:
            line = self.by_chain.get(chain)
            serves = line is not None and line.serves(plans[chain])
            apart = serves and any(self._are_apart(chain, each, plans) for each in served)
            (served if serves and not apart else unserved).append(chain)
        return unserved

    def _are_apart(self, one: Chain, other: Chain, plans: Mapping[Chain, StagePlan]) -> bool:
        """Whether two stages that are to have the same workers have others now."""
        return plans[one].shares(plans[other]) and self.by_chain[one].pool is not self.by_chain[other].pool


async def _start(lines: Iterable[Line | Share], nursery: trio.Nursery) -> list[str]:
    """Start `lines`; return when each has loaded, or has not: the nodes are listed that have not."""
    failed: list[str] = []

    async def load(line: Line | Share) -> None:
        try:
            await nursery.start(line.run)
        except LoadError as error:  # the pool has logged why
            failed.append(line.plan.nodes[error.step])

    async with trio.open_nursery() as loading:
        for line in lines:
            loading.start_soon(load, line)
    return failed


async def _end(lines: Iterable[Line | Share]) -> None:
    with trio.CancelScope(shield=True):
        for line in lines:
            await line.retire()
