"""A LendingPool keeps its workers alone, and lends each to every front end that has opened the pool.

It has as many as the one that wants most. A worker leaves when it has been returned by all; a front end that
dies returns nothing, and the worker itself then says that it has forgotten it.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from wfserve.errors import FrameError, ServiceUnavailableError
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.joining import Introduction, JoinableLink
from wfserve.workers.base import LoadError
from wfserve.workers.loans import (
    Close,
    Kill,
    Offered,
    Open,
    Opened,
    Recalled,
    Refused,
    Returned,
    Settle,
    Settled,
    Unloadable,
    Want,
)
from wfserve.workers.process import Worker  # noqa: TC001 - compiled classes look at the types of their fields
from wfserve.workers.replica import Replica  # noqa: TC001 - as above
from wfserve.workers.turns import TurnsPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Transport
    from wfserve.transport.joining import JoinedLink
    from wfserve.workers.base import Batch, Listener
    from wfserve.workers.keeping import PoolSettings
    from wfserve.workers.loans import FromFront, ToFront

log = logging.getLogger(__name__)


class Front(Protocol):
    """A front end, as pools know it."""

    @property
    def segment(self) -> int:
        """The number of its segment, which no other process ever has."""

    @property
    def segment_fd(self) -> int:
        """The segment."""

    def send(self, message: ToFront, *fds: int) -> None:
        """Tell it something; never blocks."""


@dataclass(frozen=True, slots=True, eq=False)
class Loan:
    """One worker, lent to one front end."""

    number: int
    front: Front
    replica: Replica
    worker: Worker
    introduction: Introduction


class Lender:
    """The pools of one server that are lent, by number, and what front ends say to them."""

    def __init__(self) -> None:
        self._pools: dict[int, LendingPool] = {}
        self._numbers = itertools.count(1)
        self.loan_numbers = itertools.count(1)

    def enter(self, pool: LendingPool) -> int:
        """Return a number for `pool`, by which front ends may open it."""
        number = next(self._numbers)
        self._pools[number] = pool
        return number

    def leave(self, number: int) -> None:
        """Forget a pool that has closed."""
        del self._pools[number]

    def hear(self, front: Front, message: FromFront) -> None:
        """Do what a front end asks; what it says of a pool that has closed means nothing any more."""
        pool = self._pools.get(message.pool)
        if pool is not None:
            pool.hear(front, message)
        elif isinstance(message, Open):
            front.send(Opened(message.pool))

    def lost(self, front: Front) -> None:
        """Take back everything from a front end that is dead."""
        for pool in self._pools.values():
            pool.lost(front)


class LendingPool(TurnsPool):
    """A pool whose workers front ends use, too; `transport` lets others join them."""

    def __init__(
        self,
        chain: Sequence[WorkerSpec],
        settings: PoolSettings,
        transport: Transport,
        server: int,
        listener: Listener,
        lender: Lender,
    ) -> None:
        super().__init__(chain, settings, transport, server, listener)
        self._own = settings.min_workers  # workers that its own stage wants
        self._wants: dict[Front, int] = {}
        self._spared: dict[Front, frozenset[int]] = {}  # loans that are on their way back
        self._loans: dict[int, Loan] = {}
        self._lender = lender
        self.number = lender.enter(self)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the pool until cancelled, as `ProcessPool.run` does."""
        try:
            await super().run(task_status=task_status)
        finally:
            self._lender.leave(self.number)

    def hear(self, front: Front, message: FromFront) -> None:
        """Do what a front end asks."""
        match message:
            case Open(_, wanted):
                self._want(front, wanted)
                self._offer(front, self._replicas)
                front.send(Opened(self.number))
            case Close():
                self._forget(front)
            case Want(_, wanted, spared) if front in self._wants:
                self._spared[front] = frozenset(spared)
                self._want(front, wanted)
                self._offer_more(front)
            case Returned(_, number, dead) if not dead and number in self._loans:
                self._returned(self._loans[number])  # a dead one takes its loans along
            case Refused(_, number) if number in self._loans:
                self._start_taking_back(self._loans[number])
            case Kill(_, number) if number in self._loans:
                self._loans[number].worker.kill()
            case Settle(_, ticket) if self._nursery is not None and not self._closing:
                self._nursery.start_soon(self._tell_settled, front, ticket)

    def scale(self, wanted: int) -> None:
        """Have as many workers as are wanted here or by a front end."""
        self._own = wanted
        self._rescale()

    def _rescale(self) -> None:
        super().scale(max(self._own, *self._wants.values(), 0))
        for loan in self._loans.values():
            if loan.replica.leaving:
                loan.front.send(Recalled(self.number, loan.number))

    def takes_another(self, batch: Batch) -> bool:
        """Whether a worker takes one more batch: while nobody would join it, which it has to be idle for."""
        return not self._wants and super().takes_another(batch)

    def _rank(self, replica: Replica) -> tuple[int, int]:
        """Return something that is less the more a replica does, here and for front ends."""
        state, _ = super()._rank(replica)
        return state, -len(replica.lent.difference(*self._spared.values()))

    def _report(self, failure: str) -> None:
        super()._report(failure)
        for front in self._wants:
            front.send(Unloadable(self.number, failure))

    def _want(self, front: Front, wanted: int) -> None:
        self._wants[front] = wanted
        self._rescale()

    def _forget(self, front: Front) -> None:
        self._spared.pop(front, None)
        if self._wants.pop(front, None) is not None:
            self._rescale()
        self._tell()

    def _take_in(self, replica: Replica) -> None:
        super()._take_in(replica)
        for front in self._wants:
            self._offer(front, [replica])

    def _offer_more(self, front: Front) -> None:
        """Lend what a front end has returned and would have again."""
        if self._wants[front] > sum(loan.front is front for loan in self._loans.values()):
            self._offer(front, self._replicas)

    def _offer(self, front: Front, replicas: Iterable[Replica]) -> None:
        """Lend those of `replicas` that are idle here and that the front end does not have.

        One that runs a batch follows: it may wait for memory, and would hear of nothing else.
        """
        has = {loan.worker for loan in self._loans.values() if loan.front is front}
        for replica in replicas:
            worker, free = replica.worker, replica.ready and replica.batch is None and not replica.leaving
            if worker is not None and free and worker not in has:
                with self._distrusting(replica, worker):
                    self._lend(front, replica, worker)

    def _lend(self, front: Front, replica: Replica, worker: Worker) -> None:
        assert isinstance(worker.link, JoinableLink)
        try:
            introduction = worker.link.introduce(front.segment, front.segment_fd)
        except OSError as error:
            log.error("%s: worker %d cannot be lent: %s", self._name, worker.pid, error.strerror)
            return
        loan = Loan(next(self._lender.loan_numbers), front, replica, worker, introduction)
        self._loans[loan.number] = loan
        replica.lent.add(loan.number)
        replica.joined = True
        offer = Offered(self.number, loan.number, replica.number, worker.pid, worker.started)
        front.send(offer, *introduction.rings, worker.pidfd)

    def _returned(self, loan: Loan) -> None:
        del self._loans[loan.number]
        loan.replica.lent.remove(loan.number)
        self._let_go(loan.replica)
        if loan.front in self._wants:
            self._offer_more(loan.front)
        self._tell()

    def _bury(self, replica: Replica) -> None:
        """Take back what the dead worker held; one that has answered front ends starts again at once."""
        loans = [self._loans.pop(number) for number in replica.lent]
        if any(loan.introduction.written > 1 for loan in loans):  # more than that it was ready
            replica.deaths = 0
        replica.lent.clear()
        replica.joined = False
        super()._bury(replica)

    def lost(self, front: Front) -> None:
        """Take back what a dead front end had: its workers forget it when they have ended its batch."""
        for loan in self._loans.values():
            if loan.front is front:
                self._start_taking_back(loan)
        self._forget(front)

    def _start_taking_back(self, loan: Loan) -> None:
        if self._nursery is not None and not self._closing:
            self._nursery.start_soon(self._take_back, loan)

    async def _take_back(self, loan: Loan) -> None:
        """Speak for a front end that cannot, until its worker has forgotten it; kill one that does not."""
        forgotten = False
        try:
            with closing(loan.introduction.rings.link()) as link:
                link.send(Message(MessageKind.STOP, 0, NOWHERE))
                forgotten = await self._until_left(loan, link)
        except (OSError, FrameError, BufferError) as error:
            log.error("%s: worker %d cannot be taken back: %s", self._name, loan.worker.pid, str(error))
        if loan.number not in self._loans:
            return  # it has died meanwhile
        if forgotten:
            self._returned(loan)
        else:
            loan.worker.kill()

    async def _until_left(self, loan: Loan, link: JoinedLink) -> bool:
        """Wait until a worker has left `link`, as long as it ends batches: others' may be before that."""
        while loan.number in self._loans:
            before, heard = self._ended(loan.replica), list[Message]()
            with trio.move_on_after(self._settings.patience):
                heard = await link.receive()
            if any(message.kind == MessageKind.LEFT for message in heard):
                return True
            if not heard and self._ended(loan.replica) == before:
                break
        return False

    def _ended(self, replica: Replica) -> tuple[object, ...]:
        """Return something that changes when a worker ends a batch of any process."""
        return replica.batch, *(self._loans[number].introduction.written for number in replica.lent)

    async def _tell_settled(self, front: Front, ticket: int) -> None:
        failure: LoadError | None = None
        try:
            await self.settled()
        except LoadError as error:
            failure = error
        except ServiceUnavailableError:  # it closes, of which the front end is told otherwise
            return
        told = Settled(self.number, ticket)
        front.send(told if failure is None else told._replace(step=failure.step, failure=failure.message))

    async def unused(self) -> None:
        """Return when no front end uses the pool any more."""
        await trio.lowlevel.checkpoint()
        while self._wants or self._loans:
            await self._news.wait()
