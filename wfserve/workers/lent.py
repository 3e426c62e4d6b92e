"""A worker that is lent, as the front end sees it that may use it: it can ask for its end, and leave it."""

from __future__ import annotations

import os
import select
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

from wfserve.errors import FrameError, ServiceUnavailableError
from wfserve.transport import progress
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.joining import Rings
from wfserve.workers import process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from wfserve.transport.base import Arena, Loan, Payload
    from wfserve.transport.joining import JoinedLink
    from wfserve.transport.progress import Progress
    from wfserve.workers.base import LoadError
    from wfserve.workers.loans import Offered

NO_MEMORY = 0.1  # seconds until it is asked for again


class Offer(NamedTuple):
    """A worker that may be borrowed; the descriptors are the receiver's."""

    said: Offered
    rings: Rings
    pidfd: int

    @classmethod
    def of(cls, said: Offered, fds: Sequence[int]) -> Offer | None:
        """Return the offer that came with `fds`; None if some of them did not arrive."""
        if len(fds) == len(Rings._fields) + 1:
            *rings, pidfd = fds
            return cls(said, Rings(*rings), pidfd)
        for fd in fds:
            os.close(fd)
        return None

    def is_dead(self) -> bool:
        """Whether the worker has died."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def close(self) -> None:
        """Forget it."""
        for fd in (*self.rings, self.pidfd):
            os.close(fd)


class BorrowedWorker:
    """A front end's view of a worker that it may use."""

    def __init__(self, offer: Offer, link: JoinedLink, scratch: Loan, kill: Callable[[], None]) -> None:
        self.pid = offer.said.pid
        self.started = offer.said.started
        self.link = link
        self.kill = kill
        self._pidfd = offer.pidfd
        self._scratch = scratch

    def progress(self, number: int) -> Progress | None:
        """Return how far the worker says it is with the batch of that number, None if it has not begun."""
        return progress.read(self._scratch.buffer, number)

    def forget_progress(self) -> None:
        """Have what it said of an earlier batch not be taken for a later one's."""
        progress.forget(self._scratch.buffer)

    def withdraw(self, number: int) -> None:
        """Tell the worker not to begin with the batch of that number."""
        progress.withdraw(self._scratch.buffer, number)

    def load_failure(self, _where: object) -> LoadError:
        """Refuse to believe that it could not load: else it would not have been offered."""
        raise FrameError("a worker that was lent says that it has not loaded")

    async def dead(self) -> None:
        """Return when the worker has died."""
        await trio.lowlevel.wait_readable(self._pidfd)

    async def leave(self, patience: float, runs: Callable[[], bool]) -> bool:
        """Have the worker forget this process, and tell whether it lives on.

        It is killed if it does not do so within `patience` seconds, for it may run others' batches before, or
        soon if by then it `runs` one of this process.
        """
        with suppress(FrameError, BufferError):
            self.link.send(Message(MessageKind.STOP, 0, NOWHERE))
        end = trio.current_time() + patience
        while True:
            with trio.move_on_after(process.STOP_GRACE):
                return await self._forgotten_or_dead()
            if runs() or trio.current_time() >= end:
                break
        self.kill()
        with trio.move_on_after(process.REAP_GRACE):
            await self.dead()
        return False

    async def _forgotten_or_dead(self) -> bool:
        forgotten = False
        async with trio.open_nursery() as nursery:

            async def until_dead() -> None:
                await self.dead()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_dead)
            with suppress(FrameError):
                while not forgotten:
                    forgotten = any(each.kind == MessageKind.LEFT for each in await self.link.receive())
                nursery.cancel_scope.cancel()
        return forgotten


@asynccontextmanager
async def borrowed(
    offer: Offer,
    arena: Arena,
    kill: Callable[[], None],
    leave: Callable[[BorrowedWorker], Awaitable[None]],
) -> AsyncIterator[BorrowedWorker]:
    """Use a worker during the block, and then `leave` it, which is shielded from cancellation."""
    link = offer.rings.link()
    try:
        scratch = await _scratch(link, arena)
        worker = BorrowedWorker(offer, link, scratch, kill)
        try:
            worker.forget_progress()
            link.send(Message(MessageKind.GRANT, 0, scratch.descriptor))
            yield worker
        finally:
            with trio.CancelScope(shield=True):
                await leave(worker)
            scratch.release()
    finally:
        link.close()


async def _scratch(link: JoinedLink, arena: Arena) -> Loan:
    """Lend scratch memory, once there is some; a worker that has got nothing forgets this process."""
    while True:
        try:
            return arena.loan(process.SCRATCH_BYTES)
        except ServiceUnavailableError:
            try:
                await trio.sleep(NO_MEMORY)
            except trio.Cancelled:
                link.send(Message(MessageKind.STOP, 0, NOWHERE))
                raise


async def hold_until_dead(pidfd: int, kept: list[Payload]) -> None:
    """Release what a worker still looks at when it is dead, or nobody waits for that any more."""
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
        for payload in kept:
            payload.release()
