"""A Keeper has worker processes for one stage: each is replaced when it dies, until the Keeper ends.

    STARTING ──READY──▶ READY ◀────── BUSY        any of them ──died──▶ BACKING_OFF ──▶ STARTING
                          └────────────▶          any of them ──too many──▶ LEAVING ──▶ gone

One task a replica holds its worker and reads its ring. What is said there of batches is the pool's business
(`workers.pool`), which is a Keeper.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from wfserve.child.spec import stage_name
from wfserve.errors import FrameError, ServiceUnavailableError
from wfserve.workers.base import LoadError
from wfserve.workers.process import start_worker
from wfserve.workers.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Message, Transport
    from wfserve.workers.base import Listener
    from wfserve.workers.process import Worker

log = logging.getLogger(__name__)
FREE_DEATHS = 5  # in a row without a completed batch, before restarts are delayed
FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
_BUSIEST_FIRST = ("BUSY", "READY", "STARTING", "BACKING_OFF")


def restart_delay(deaths: int) -> float:
    """Return the seconds to wait after `deaths` in a row: none at first, then 0.1, 0.1, 0.2, 0.3, 0.5 …

    Single crashes never delay a restart, and overload does not become a storm of model reloads.
    """
    delay, following = 0.0, FIRST_DELAY
    for _ in range(min(deaths - FREE_DEATHS, 64)):
        delay, following = following, delay + following
    return min(delay, LONGEST_DELAY)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many workers a pool starts with, and how long one may take to load (seconds)."""

    min_workers: int = 1
    startup_timeout: float = 120.0
    place: Callable[[Sequence[WorkerSpec]], Sequence[WorkerSpec]] = tuple  # says on which GPU one more runs
    pins_results: bool = False  # what it returns goes on to a GPU
    patience: float = 10.0  # for a batch, from its first step to its last (seconds)


class Keeper(ABC):
    """Workers for a chain of nodes. `run` must be running meanwhile."""

    def __init__(
        self,
        chain: Sequence[WorkerSpec],
        settings: PoolSettings,
        transport: Transport,
        server: int,
        listener: Listener,
    ) -> None:
        self._chain = tuple(chain)
        self._name = stage_name(chain)
        self._settings = settings
        self._transport = transport
        self._server = server
        self._listener = listener
        self._replicas: list[Replica] = []
        self._idle: list[Replica] = []  # the last to finish is the first to start again: its caches are warm
        self._numbers = itertools.count()  # of replicas
        self._load_failures = 0
        self._news = trio.Event()  # a replica has loaded, failed to, or gone
        self._nursery: trio.Nursery | None = None
        self._closing = False
        self._failure: LoadError | None = None
        self._last_failure = LoadError("")
        self._deaths = 0

    @property
    def idle(self) -> int:
        """Replicas that would take a batch now."""
        return len(self._idle)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the pool until cancelled; `started` once the first `min_workers` have loaded.

        Raises `LoadError` if one of those does not load.
        """
        async with trio.open_nursery() as self._nursery:
            try:
                first = [self._add(must_load=True) for _ in range(self._settings.min_workers)]
                for replica in first:
                    await replica.loaded.wait()
                task_status.started()
                await trio.sleep_forever()
            finally:  # its workers end now, and none is added
                self._closing = True
                self._tell()
        if self._failure is not None:
            raise self._failure

    def _add(self, *, must_load: bool) -> Replica:
        assert self._nursery is not None
        placed = self._settings.place(self._chain)
        replica = Replica(next(self._numbers), placed, must_load=must_load)
        self._replicas.append(replica)
        self._nursery.start_soon(self._keep, replica, name=f"{self._name} worker {replica.number}")
        return replica

    async def _keep(self, replica: Replica) -> None:
        """Fill a replica with one worker after another, until the pool closes or it is one too many."""
        with replica.life:
            while not replica.leaving:
                failure = await self._live(replica)
                self._deaths += 1
                replica.deaths += 1
                if failure is not None:
                    self._note(failure)
                    if replica.must_load and not replica.loaded.is_set():
                        self._give_up(failure)
                        return
                await self._back_off(replica)
        self._replicas.remove(replica)
        self._tell()

    def _note(self, failure: LoadError) -> None:
        log.error("%s: %s", self._chain[failure.step].name, failure.message)
        self._load_failures += 1
        self._last_failure = failure
        self._report(f"Worker for {self._chain[failure.step].name} did not load.")
        self._tell()

    def _report(self, failure: str) -> None:
        self._listener.replica_failed(failure)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _give_up(self, failure: LoadError) -> None:
        assert self._nursery is not None
        self._failure = self._failure or failure
        self._nursery.cancel_scope.cancel()

    async def _back_off(self, replica: Replica) -> None:
        if not replica.leaving and (delay := restart_delay(replica.deaths)):
            replica.state = "BACKING_OFF"
            log.warning("%s: starting a worker again in %.1f s", self._name, delay)
            await trio.sleep(delay)

    def _worker_for(self, replica: Replica) -> AbstractAsyncContextManager[Worker]:
        """Return what has a worker during its block."""
        return start_worker(replica.chain, self._transport, self._server)

    async def _live(self, replica: Replica) -> LoadError | None:
        """Run one worker from its start until it is dead; return why it did not load, if it did not."""
        replica.vacate("STARTING")
        try:
            async with self._worker_for(replica) as worker:
                replica.worker = worker
                try:
                    await self._attend(replica, worker)
                finally:  # it may take seconds to end, and takes no batch meanwhile
                    self._retire(replica)
        except (OSError, EOFError, ServiceUnavailableError) as error:
            replica.failure = LoadError(f"a worker could not be started: {error}")
        finally:
            self._bury(replica)
        return None if replica.ready else replica.failure or LoadError("the worker died while it loaded")

    async def _attend(self, replica: Replica, worker: Worker) -> None:
        """Hear the worker until it is dead, its last words included."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_dead, worker, nursery.cancel_scope)
            with self._distrusting(replica, worker):
                await self._load(replica, worker)
                while replica.ready:
                    self._handle_all(replica, worker, await worker.link.receive())
            nursery.cancel_scope.cancel()  # it has been killed, or is told to stop
        replica.end = replica.end or "Worker died."
        if replica.heard:
            with self._distrusting(replica, worker):
                self._handle_all(replica, worker, worker.link.drain())
                self._ask_remains(replica, worker)

    async def _until_dead(self, worker: Worker, scope: trio.CancelScope) -> None:
        await worker.dead()
        scope.cancel()

    async def _load(self, replica: Replica, worker: Worker) -> None:
        timeout = self._settings.startup_timeout
        with trio.move_on_after(timeout) as waited:
            while not (replica.ready or replica.failure):
                self._handle_all(replica, worker, await worker.link.receive())
        if waited.cancelled_caught:
            replica.failure = LoadError(f"the worker did not load within {timeout:g} s")
            self._condemn(replica, worker, replica.failure.message)

    @contextmanager
    def _distrusting(self, replica: Replica, worker: Worker) -> Iterator[None]:
        """Have no more trust in a worker that breaks the rules or lets its ring overflow."""
        try:
            yield
        except (FrameError, BufferError) as error:
            self._distrust(replica, worker, error)

    def _distrust(self, replica: Replica, worker: Worker, error: Exception) -> None:
        # As text: a record that holds the traceback holds views of the worker's extents.
        log.error("%s: worker %d cannot be trusted any more: %s", self._name, worker.pid, str(error))
        self._condemn(replica, worker, "its worker could not be trusted any more")

    def _condemn(self, replica: Replica, worker: Worker, why: str) -> None:
        replica.heard = False
        replica.end = replica.end or why
        self._retire(replica)
        worker.kill()

    def _retire(self, replica: Replica) -> None:
        replica.end = replica.end or "its pool closes"
        if replica in self._idle:
            self._idle.remove(replica)

    def _checked(self, failure: LoadError) -> LoadError:
        if failure.step >= len(self._chain):
            raise FrameError(f"there is no step {failure.step} that could not load")
        return failure

    def _ready(self, replica: Replica) -> None:
        replica.ready = True
        replica.loaded.set()
        self._take_in(replica)
        self._tell()
        self._listener.replica_ready()

    def _take_in(self, replica: Replica) -> None:
        if replica.leaving and not replica.lent:
            replica.life.cancel()
        elif not replica.end:  # a dying worker may still answer, but takes nothing more
            replica.state = "READY"
            self._idle.append(replica)

    @abstractmethod
    def _handle_all(self, replica: Replica, worker: Worker, messages: list[Message]) -> None:
        """Do what a worker's messages ask for, in order. Raises `FrameError` where one breaks the rules."""

    @abstractmethod
    def _ask_remains(self, replica: Replica, worker: Worker) -> None:
        """Look at what a dead worker has left. Raises `FrameError` if that cannot be."""

    @abstractmethod
    def _bury(self, replica: Replica) -> None:
        """Take back what a dead worker held."""

    def scale(self, wanted: int) -> None:
        """Start workers, or let go of those that do least; one that runs a batch may yet stay.

        Of idle ones, those go first that have been idle longest: least of the model is in their caches.
        """
        if self._closing:
            return
        present = [replica for replica in self._replicas if not replica.life.cancel_called]
        self._keep_busiest(present, wanted)
        for _ in range(len(present), wanted):
            self._add(must_load=False)

    def _keep_busiest(self, present: Sequence[Replica], wanted: int) -> None:
        """Have all but `wanted` of `present` leave, as soon as they may."""
        coldest = {replica: place for place, replica in enumerate(self._idle)}
        ranked = sorted(present, key=lambda each: (*self._rank(each), -coldest.get(each, -1)))
        for rank, replica in enumerate(ranked):
            replica.leaving = rank >= wanted
            self._let_go(replica)

    def _rank(self, replica: Replica) -> tuple[int, int]:
        """Return something that is less the more a replica does."""
        return _BUSIEST_FIRST.index(replica.state), -len(replica.lent)

    def _let_go(self, replica: Replica) -> None:
        """End a replica that is one too many, unless it runs a batch or somebody else may have it run one."""
        if replica.leaving and replica.batch is None and not replica.lent:
            self._retire(replica)
            replica.life.cancel()

    async def unused(self) -> None:
        """Return when no other process uses the pool's workers."""
        await trio.lowlevel.checkpoint()

    async def settled(self) -> None:
        """Return when the workers that are wanted have loaded, and no others are left."""
        failures = self._load_failures
        while not self._closing:
            if all(r.state in ("READY", "BUSY") and not r.leaving for r in self._replicas):
                return
            if self._load_failures > failures:
                raise self._last_failure
            await self._news.wait()
        raise ServiceUnavailableError(f"{self._name} is being unregistered.")
