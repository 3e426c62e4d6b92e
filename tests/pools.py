"""Pools of all kinds, opened the same way, with a listener that remembers and can be waited for."""

import contextlib
import itertools
import os
import socket
import textwrap
from dataclasses import dataclass, field

import trio
import trio.testing

from tests.servers import descendants
from tests.support import item, release
from wfserve.child.spec import WorkerSpec
from wfserve.errors import InternalError
from wfserve.transport.channel import Channel
from wfserve.transport.joining import JoinableTransport
from wfserve.transport.shm import ShmTransport
from wfserve.workers.base import Failed
from wfserve.workers.borrowing import BorrowedPool, Borrower
from wfserve.workers.fake import FakePool, ReplicaDeath, echo
from wfserve.workers.keeping import PoolSettings
from wfserve.workers.lending import Lender, LendingPool
from wfserve.workers.pool import ProcessPool

MIB = 1 << 20
PATIENCE = 30.0  # seconds; only a hang takes as long

OBEY = '''
import os, signal, time

def obey(data, context):
    """Do what the body says."""
    if data is None:
        return None
    word = bytes(data[0].get("body")).decode()
    if word == "hang":
        time.sleep(3600)
    elif word == "nap":
        time.sleep(0.6)
    elif word == "wait":
        while not os.path.exists("go"):
            time.sleep(0.001)
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "raise":
        raise ValueError(word)
    return [word]
'''


async def obey(items):
    """The same for a fake pool."""
    words = [bytes(each.inputs[0][1].borrow()).decode() for each in items]
    await trio.lowlevel.checkpoint()
    if "die" in words:
        raise ReplicaDeath
    if "hang" in words:
        await trio.sleep_forever()
    return [
        Failed(InternalError(word)) if word == "raise" else outcome
        for word, outcome in zip(words, echo(items), strict=True)
    ]


class Recorder:
    """A listener that remembers what it was told; whoever waits is told of all news."""

    def __init__(self):
        self.done = []  # (batch, outcomes)
        self.lost = []  # (batch, reason)
        self.ready = 0
        self.failed = []
        self.on_report = lambda: None
        self._news = trio.Event()

    def _tell(self):
        self._news.set()
        self._news = trio.Event()
        self.on_report()

    def batch_done(self, batch, outcomes):
        self.done.append((batch, outcomes))
        self._tell()

    def batch_lost(self, batch, reason):
        self.lost.append((batch, reason))
        self._tell()

    def replica_ready(self):
        self.ready += 1
        self._tell()

    def replica_failed(self, reason):
        self.failed.append(reason)
        self._tell()

    def reports_of(self, batch):
        return [each for each in [*self.done, *self.lost] if each[0] is batch]

    async def until(self, holds):
        with trio.fail_after(PATIENCE):
            while not holds():
                await self._news.wait()

    async def outcome(self, batch):
        """The outcomes of `batch`, or why it was lost."""
        await self.until(lambda: self.reports_of(batch))
        return self.reports_of(batch)[0][1]


@dataclass
class Bench:
    """An open pool, what it reported, and the items that were submitted."""

    transport: object
    recorder: Recorder
    pool: object
    nursery: object
    items: list = field(default_factory=list)

    def submit(self, *words, keep=True, behind=None):
        items = [item(self.transport, word.encode()) for word in words]
        try:
            batch = self.pool.submit(items, behind)
        except BaseException:
            release(*items)
            raise
        if keep:
            self.items += items
        else:
            release(*items)
        return batch

    async def run(self, *words, keep=True):
        return await self.recorder.outcome(self.submit(*words, keep=keep))

    def finish(self):
        """Give up all that was submitted and answered."""
        release(*self.items)
        for _, outcomes in self.recorder.done:
            for outcome in outcomes:
                if not isinstance(outcome, Failed):
                    outcome.payload.release()


def spec(directory, code=OBEY, function="obey", **more):
    """A worker of `code`, which is written to `directory`."""
    (directory / "functions.py").write_text(textwrap.dedent(code))
    return WorkerSpec("w__n", f"functions.py:{function}", str(directory), is_function=True, **more)


@contextlib.asynccontextmanager
async def processes(directory, replicas=1, *, limit=64 * MIB, startup_timeout=PATIENCE, **more):
    """A ProcessPool with a real transport; when it has closed, nothing is left of it."""
    server = os.pidfd_open(os.getpid())
    settings = PoolSettings(replicas, startup_timeout)
    try:
        with ShmTransport(limit) as transport:
            recorder = Recorder()
            pool = ProcessPool([spec(directory, **more)], settings, transport, server, recorder)
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                bench = Bench(transport, recorder, pool, nursery)
                try:
                    yield bench
                finally:
                    nursery.cancel_scope.cancel()
            bench.finish()
            assert workers() == set()
            assert transport.arena.statistics().slots == 0
    finally:
        os.close(server)


class Front:
    """A front end in this process, as the pool that lends knows it."""

    def __init__(self, transport, channel):
        self.segment, self.segment_fd = transport.arena.segment, transport.arena.fd
        self.send = channel.send


class Office:
    """A pool that lends its workers, and what connects front ends with it."""

    def __init__(self, directory, settings, transport, server, nursery):
        self.lender = Lender()
        self.chain = [spec(directory)]
        self.settings = settings
        self.recorder = Recorder()
        self.pool = LendingPool(self.chain, settings, transport, server, self.recorder, self.lender)
        self.transport = transport
        self.nursery = nursery
        self._segments = itertools.count(10)

    @contextlib.asynccontextmanager
    async def front(self):
        """Borrow the workers in a front end of its own; returns what `dies` would need, as well."""
        near, far = map(Channel, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        with ShmTransport(self.settings_limit, next(self._segments)) as transport:
            front, borrower = Front(transport, near), Borrower(far.send)
            recorder = Recorder()
            pool = BorrowedPool(self.pool.number, self.chain, self.settings, transport, recorder, borrower)

            async def hear():
                with contextlib.suppress(trio.EndOfChannel):
                    while True:
                        message, _ = await near.receive()
                        self.lender.hear(front, message)

            async def obey():
                with contextlib.suppress(trio.EndOfChannel):
                    while True:
                        borrower.hear(*await far.receive())

            async with trio.open_nursery() as wires:
                for task in (near.run, far.run, hear, obey):
                    wires.start_soon(task)
                async with trio.open_nursery() as nursery:
                    await nursery.start(pool.run)
                    bench = Bench(transport, recorder, pool, nursery)
                    bench.front = front
                    try:
                        yield bench
                    finally:
                        nursery.cancel_scope.cancel()
                bench.finish()
                with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
                    await trio.testing.wait_all_tasks_blocked()  # its last words have been heard
                wires.cancel_scope.cancel()
            near.close()
            far.close()
            assert transport.arena.statistics().slots == 0

    settings_limit = 64 * MIB


@contextlib.asynccontextmanager
async def lending(directory, replicas=1, *, startup_timeout=PATIENCE, **more):
    """An Office; when it has closed, nothing is left of it."""
    server = os.pidfd_open(os.getpid())
    try:
        with JoinableTransport(64 * MIB) as transport:
            async with trio.open_nursery() as nursery:
                settings = PoolSettings(replicas, startup_timeout, **more)
                office = Office(directory, settings, transport, server, nursery)
                await nursery.start(office.pool.run)
                try:
                    yield office
                finally:
                    nursery.cancel_scope.cancel()
            assert workers() == set()
            assert transport.arena.statistics().slots == 0
    finally:
        os.close(server)


@contextlib.asynccontextmanager
async def borrowed(directory, replicas=1):
    """A BorrowedPool, of workers that another pool of this process keeps."""
    async with lending(directory, replicas) as office, office.front() as bench:
        office.pool.scale(0)  # of its own accord it would have none
        yield bench


@contextlib.asynccontextmanager
async def fakes(replicas=1):
    """A FakePool with shared memory, on whatever clock runs."""
    with ShmTransport(64 * MIB) as transport:
        recorder = Recorder()
        pool = FakePool(recorder, obey, replicas)
        async with trio.open_nursery() as nursery, pool.running():
            bench = Bench(transport, recorder, pool, nursery)
            yield bench
        bench.finish()
        assert transport.arena.statistics().slots == 0


def workers():
    """The workers of this process: each leads a process group; helpers of multiprocessing do not.

    Servers that other tests run in processes of their own lead sessions, and have workers that are not ours.
    """
    servers = {pid for pid in descendants(os.getpid()) if _leads(pid, os.getsid)}
    theirs = servers.union(*(descendants(pid) for pid in servers))
    return {pid for pid in descendants(os.getpid()) - theirs if _leads(pid)}


def _leads(pid, group_of=os.getpgid):
    try:
        return group_of(pid) == pid
    except ProcessLookupError:
        return False
