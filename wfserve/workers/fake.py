"""A FakePool keeps the pool contract in one process and on trio's clock, so that tests run on a virtual one.

A replica is an async function from items to outcomes; it may sleep, hang or raise `ReplicaDeath`.
"""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from wfserve.errors import ServiceUnavailableError
from wfserve.workers.base import Batch, Done, Item, PoolStatistics, Ran, ReplicaStatus, Whereabouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from wfserve.transport.base import Payload
    from wfserve.workers.base import Listener, Report

    Work = Callable[[Sequence[Item]], Awaitable[Sequence[Report]]]


class ReplicaDeath(Exception):  # noqa: N818 - what happens, not what went wrong with us
    """Raised by the work of a fake replica to die in the middle of a batch, at a step."""

    def __init__(self, step: int = 0, reached: dict[int, Payload] | None = None) -> None:
        super().__init__()
        self.step = step
        self.reached = reached or {}


class FakePool:
    """Replicas as trio tasks. A dead one is replaced after `restart` seconds of the clock."""

    def __init__(self, listener: Listener, work: Work, replicas: int = 1, restart: float = 0.0) -> None:
        self._listener = listener
        self._work = work
        self._restart = restart
        self._scopes: dict[Batch, trio.CancelScope] = {}
        self._behind: dict[Batch, list[Item]] = {}  # that wait, and what they hold
        self._withdrawn: set[Batch] = set()  # of these
        self._steps: dict[Batch, tuple[int, float]] = {}
        self._wanted = replicas
        self._numbers = itertools.count()
        self.idle = replicas
        self._restarting = 0
        self._news = trio.Event()
        self.deaths = self._answered = self._lost = 0
        self.batches: list[Batch] = []
        self._nursery: trio.Nursery | None = None
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakePool]:
        """Run replicas until the block is left, which cancels them."""
        async with trio.open_nursery() as self._nursery:
            try:
                yield self
            finally:
                self.idle = 0
                self._closing = True
                self._tell()
                self._nursery.cancel_scope.cancel()

    def submit(self, items: Sequence[Item], behind: Batch | None = None) -> Batch:
        """Run `items` on an idle replica, or on one that is busy when it has ended that batch."""
        assert items
        batch = Batch(tuple(items), trio.current_time(), next(self._numbers))
        held = [_hold(item) for item in items]
        self.batches.append(batch)
        if behind is None:
            assert self.idle > 0
            self.idle -= 1
            self._begin(batch, held)
        else:
            assert self.takes_another(behind)
            batch.begun, batch.behind = False, True
            behind.next, self._behind[batch] = batch, held
        return batch

    def takes_another(self, batch: Batch) -> bool:
        """Whether `batch` runs, none waits behind it, and its replica stays."""
        return batch in self._scopes and batch.next is None and self._present() <= self._wanted

    def _begin(self, batch: Batch, held: list[Item]) -> None:
        assert self._nursery is not None
        self._scopes[batch] = trio.CancelScope()
        self._nursery.start_soon(self._run, batch, held)

    async def _run(self, batch: Batch, held: list[Item]) -> None:
        outcomes: Sequence[Report] | None = None
        try:
            with self._scopes[batch]:
                outcomes = await self._work(held)
        except ReplicaDeath as death:
            batch.lost_at, batch.reached = death.step, death.reached
            outcomes = None
        finally:
            del self._scopes[batch]
            for item in held:
                _let_go(item)
            batch.ran = (Ran(trio.current_time() - batch.started, len(held)),)
            self._report(batch, outcomes)
        if outcomes is None:
            await self._replace()

    def _report(self, batch: Batch, outcomes: Sequence[Report] | None) -> None:
        if outcomes is not None:
            self._answered += 1
            following = batch.next
            if following is None or following in self._withdrawn:
                self._add_idle()
            else:
                following.begun, following.started = True, trio.current_time()
                self._begin(following, self._behind.pop(following))
            self._listener.batch_done(batch, outcomes)
            if following in self._withdrawn:
                self._lose_waiting(following, "withdrawn")
        else:
            self._lost += 1
            following = batch.next
            self._listener.batch_lost(batch, "Worker died.")
            if following is not None:
                self._lost += 1
                self._lose_waiting(following, "Worker died.")

    def _lose_waiting(self, batch: Batch, reason: str) -> None:
        self._withdrawn.discard(batch)
        for item in self._behind.pop(batch):
            _let_go(item)
        self._listener.batch_lost(batch, reason)

    async def _replace(self) -> None:
        self.deaths += 1
        if self._present() < self._wanted:
            self._restarting += 1
        self._tell()
        await trio.sleep(self._restart)
        if self._restarting:  # whose place it was does not matter
            self._restarting -= 1
            self._add_idle()
            self._listener.replica_ready()

    def _present(self) -> int:
        return self.idle + len(self._scopes) + self._restarting

    def _add_idle(self) -> None:
        if not self._closing and self._present() < self._wanted:
            self.idle += 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def at(self, batch: Batch, step: int) -> None:
        """Say that `batch` begins with `step` now; for fakes of several steps."""
        self._steps[batch] = step, trio.current_time()

    def whereabouts(self, batch: Batch) -> Whereabouts | None:
        """Return what `at` was told last."""
        if batch not in self._steps:
            return None
        step, since = self._steps[batch]
        return Whereabouts(step, trio.current_time() - since)

    def stop(self, batch: Batch) -> None:
        """Kill the replica of `batch`."""
        if batch in self._scopes:
            batch.lost_at, _ = self._steps.get(batch, (batch.items[0].first, 0.0))
            self._scopes[batch].cancel()

    def withdraw(self, batch: Batch) -> None:
        """Have a batch that waits behind another not begin."""
        if batch in self._behind:
            self._withdrawn.add(batch)

    def scale(self, wanted: int) -> None:
        """Add replicas at once, or drop those that do least."""
        if self._closing:
            return
        self._wanted = wanted
        self.idle = max(0, min(self.idle, wanted - len(self._scopes)))
        self._restarting = max(0, min(self._restarting, wanted - len(self._scopes) - self.idle))
        for _ in range(self._present(), wanted):
            self._add_idle()
            self._listener.replica_ready()
        self._tell()

    async def settled(self) -> None:
        """Return when as many replicas are there as were asked for last."""
        while not self._closing:
            if self._present() == self._wanted and not self._restarting:
                return
            await self._news.wait()
        raise ServiceUnavailableError("The pool closes.")

    def statistics(self) -> PoolStatistics:
        """Count what the fake did."""
        count = max(self._wanted, self._present())
        replicas = [ReplicaStatus(str(i), 0, "READY", 0.0) for i in range(count)]
        return PoolStatistics(
            replicas, self.idle, len(self._scopes), self._wanted, self.deaths, self._answered, self._lost
        )


def _hold(item: Item) -> Item:
    """Share an item's payloads: its request may go while the batch still runs."""
    inputs = tuple((parent, payload.share()) for parent, payload in item.inputs)
    return replace(item, headers=item.headers.share(), inputs=inputs, reached=None)


def _let_go(item: Item) -> None:
    item.headers.release()
    for _, payload in item.inputs:
        payload.release()


def echo(items: Sequence[Item]) -> list[Report]:
    """Return each item's first input as its output."""
    return [Done(item.inputs[0][1].share()) for item in items]
