"""A Worker is one child process, from its start until it is reaped with everything it started.

Children are `torch.multiprocessing` processes of a forkserver that has torch and the child runtime loaded
(a start takes milliseconds), or, with packages of their own, of a new interpreter (seconds). Each leads a
process group, which is killed as one, because handlers start helpers of their own. They are not daemonic: a
native thread in each ends it when the server is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from contextlib import asynccontextmanager, contextmanager, suppress
from multiprocessing import reduction, spawn
from typing import TYPE_CHECKING, Any

import trio

from wfserve.child.spec import stage_name
from wfserve.child.surroundings import OURS, SAFE_PATH
from wfserve.errors import FrameError
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.message import decode_load_failure
from wfserve.transport.progress import forget, read, withdraw
from wfserve.workers.base import LoadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from multiprocessing.context import ForkServerProcess, SpawnProcess

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Descriptor, Link, Loan, Transport
    from wfserve.transport.progress import Progress

    ChildProcess = ForkServerProcess | SpawnProcess
    Chain = Sequence[WorkerSpec]

log = logging.getLogger(__name__)
SCRATCH_BYTES = 65536  # for what a child says before its first batch: why its model failed to load
STOP_GRACE = 2.0  # seconds an idle worker has to leave by itself, running its exit handlers
REAP_GRACE = 5.0  # seconds for the kernel and the forkserver to confirm a death
PRELOAD = ["wfserve.workers.process", "wfserve.child.preload"]  # the second freezes the heap

_starting = threading.Lock()  # multiprocessing keeps its list of children without one


class CarriedFd:
    """A file descriptor that reaches a child with its start; there it is a plain number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._fd),)


def _received(carried: Any) -> int:
    return int(carried.detach())


@contextmanager
def _launcher_hidden() -> Iterator[None]:
    """Start children that do not run the launcher's script again, even from a daemonic process.

    multiprocessing has every child import the parent's `__main__`, which is a console script here, or a
    test runner. And hypercorn runs the application in a daemonic process, which may not have children: a
    terminated one would leave them behind. Ours end by themselves.
    """
    settings: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    main, daemon = sys.modules["__main__"], settings.get("daemon")
    sys.modules["__main__"] = types.ModuleType("__main__")
    settings["daemon"] = False
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        settings["daemon"] = daemon


@contextmanager
def _working_directory_ignored() -> Iterator[None]:
    """Start interpreters that import nothing from the working directory, where `python -c` looks first.

    A file there may have the name of any module, and would stop every worker.
    """
    if os.environ.get(SAFE_PATH):
        yield
        return
    os.environ[SAFE_PATH] = OURS
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]


def warm_up() -> None:
    """Start the fork server, which takes seconds to load torch, before the first worker is wanted. Blocks."""
    from multiprocessing import forkserver

    with _starting, _working_directory_ignored():
        forkserver.set_forkserver_preload(PRELOAD)
        forkserver.ensure_running()
    import torch.multiprocessing  # noqa: F401 - heavy, and loaded while the fork server loads it, too


def _start(chain: Chain, port: object, server: int) -> ChildProcess:
    """Start a child and return once it exists. Blocks: milliseconds, or seconds the first time."""
    warm_up()
    own = chain[0].python is not None or chain[0].packages is not None
    make = _with_own_interpreter if own else _of_fork_server
    with _starting, _launcher_hidden(), _working_directory_ignored(), _executable(chain[0].python):
        process = make(chain, port, CarriedFd(server))
        process.start()
    return process


def _of_fork_server(chain: Chain, *more: object) -> ForkServerProcess:
    from torch.multiprocessing import get_context  # heavy

    from wfserve.child.main import run

    context = get_context("forkserver")
    process: ForkServerProcess = context.Process(
        target=run, args=(chain, *more), name=stage_name(chain), daemon=False
    )
    return process


def _with_own_interpreter(chain: Chain, *more: object) -> SpawnProcess:
    from torch.multiprocessing import get_context  # heavy

    from wfserve.child.arrival import Carried, run

    carried = Carried(chain[0].packages, chain, *more)
    process: SpawnProcess = get_context("spawn").Process(
        target=run, args=(carried,), name=stage_name(chain), daemon=False
    )
    return process


@contextmanager
def _executable(python: str | None) -> Iterator[None]:
    """Have `spawn` start another interpreter than ours."""
    ours = spawn.get_executable()
    spawn.set_executable(python or ours)
    try:
        yield
    finally:
        spawn.set_executable(ours)


class Worker:
    """The server's view of one child."""

    def __init__(self, process: ChildProcess, link: Link, scratch: Loan) -> None:
        assert process.pid is not None
        self.pid: int = process.pid
        self.link = link
        self._scratch = scratch
        self.started = time.time()
        self._process = process
        self.pidfd = os.pidfd_open(self.pid)

    def progress(self, number: int) -> Progress | None:
        """Return how far the child says it is with the batch of that number, None if it has not begun."""
        return read(self._scratch.buffer, number)

    def forget_progress(self) -> None:
        """Have what it said of an earlier batch not be taken for a later one's."""
        forget(self._scratch.buffer)

    def withdraw(self, number: int) -> None:
        """Tell the child not to begin with the batch of that number."""
        withdraw(self._scratch.buffer, number)

    def load_failure(self, where: Descriptor) -> LoadError:
        """Return why a handler did not load, as the child wrote it into its scratch extent."""
        start = where.offset - self._scratch.descriptor.offset
        scratch = self._scratch.descriptor
        if where.segment != scratch.segment or start < 0 or start + where.length > scratch.length:
            raise FrameError(f"{where} lies outside the scratch extent")
        failure = decode_load_failure(self._scratch.buffer[start : start + where.length])
        return LoadError(f"{failure.message} ({failure.code})", failure.step)

    async def dead(self) -> None:
        """Return when the child has died."""
        await trio.lowlevel.wait_readable(self.pidfd)

    def kill(self) -> None:
        """Kill the child and whatever it started in its group; it cannot refuse."""
        for end in (self._kill_group, self._kill_child):
            with suppress(ProcessLookupError, PermissionError):  # nothing left, or only what changed its user
                end()

    def _kill_group(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)

    def _kill_child(self) -> None:  # it may not lead its group yet
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def end(self, *, gently: bool) -> None:
        """Stop the child, kill what is left, and reap it. Bounded in time, whatever the child does."""
        if gently:
            # Rings that the child has filled or corrupted carry no STOP.
            with trio.move_on_after(STOP_GRACE), suppress(FrameError, BufferError):
                self.link.send(Message(MessageKind.STOP, 0, NOWHERE))
                await self.dead()
        self.kill()
        with trio.move_on_after(REAP_GRACE) as waited:
            await self.dead()
            await trio.lowlevel.wait_readable(self._process.sentinel)
        if waited.cancelled_caught:
            log.error("worker %d was killed and is still there after %.0f s", self.pid, REAP_GRACE)
            return
        self._process.join()
        self._process.close()
        os.close(self.pidfd)


def _adopt(process: ChildProcess, link: Link, scratch: Loan) -> Worker:
    try:
        return Worker(process, link, scratch)
    except OSError:  # no more descriptors; the child would wait for its first message for ever
        process.kill()
        process.join()
        raise


@asynccontextmanager
async def start_worker(chain: Chain, transport: Transport, server: int) -> AsyncIterator[Worker]:
    """Start a child for the nodes of `chain`; leaving the block means it is gone.

    `server` is a pidfd of this process.

    Raises `OSError` or `EOFError` if the process cannot be started, `ServiceUnavailableError` if there is no
    memory to lend it.
    """
    link, port = transport.connect()
    try:
        scratch = transport.arena.loan(SCRATCH_BYTES)
    except BaseException:
        link.close()
        raise
    try:
        process = await trio.to_thread.run_sync(_start, chain, port, server)
        worker = _adopt(process, link, scratch)
        gently = False
        try:
            worker.forget_progress()
            link.send(Message(MessageKind.GRANT, 0, scratch.descriptor))
            yield worker
            gently = True
        except trio.Cancelled:
            gently = True  # the pool closes; kill() has been called already if the worker is to die
            raise
        finally:
            with trio.CancelScope(shield=True):
                await worker.end(gently=gently)
    finally:
        scratch.release()
        link.close()
