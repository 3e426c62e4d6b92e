"""A tensor goes to a worker and comes back: through a pool as stages use it, or what peers use.

The pool is driven without stage, walk and HTTP: from `submit` to `batch_done`, with call and reply encoded
and decoded on either side. Its node is native and hands on what it gets, which lies in the arena before.
The others are two queues of `torch.multiprocessing`, and two pipes that carry the bytes.
"""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import trio

from bench.cores import cpu_seconds
from wfserve.child.objects import DTYPE_NAMES
from wfserve.child.spec import WorkerSpec
from wfserve.identity import new_uuid
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.publish import publish
from wfserve.transport.shm import ShmTransport
from wfserve.workers.base import Done, Item
from wfserve.workers.keeping import PoolSettings
from wfserve.workers.pool import ProcessPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from multiprocessing.connection import Connection

    from wfserve.transport.base import Arena, Payload
    from wfserve.workers.base import Batch, Outcome

ARENA_BYTES = 1 << 29
IDENTITY = """
def identity(data, context):
    return None if data is None else [row["body"] for row in data]
"""


def payload_of(arena: Arena, tensor: torch.Tensor) -> Payload:
    """Return a contiguous tensor as a payload: as a body or a parent's result would be."""
    loan = arena.loan(tensor.nbytes)
    loan.buffer[: tensor.nbytes] = memoryview(tensor.numpy()).cast("B")
    header = pack_header(Kind.TENSOR, tensor.nbytes, DTYPE_NAMES[tensor.dtype], tensor.shape)
    payload = loan.publish(header, 0, tensor.nbytes)
    loan.release()
    return payload


class Echo:
    """A listener, and the open pool that it hears; one batch is under way at a time."""

    def __init__(self, transport: ShmTransport) -> None:
        self.arena = transport.arena
        self._headers = publish(transport.arena, b"[]", Kind.JSON)
        self._done: list[Sequence[Outcome]] = []
        self._waiter: trio.lowlevel.Task | None = None
        self.pool: ProcessPool

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self.pool.statistics().replicas[0].pid

    def batch_done(self, _batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Wake the one that waits."""
        self._done.append(outcomes)
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
            self._waiter = None

    def batch_lost(self, _batch: Batch, reason: str) -> None:
        """End the measurement: it would count for nothing."""
        raise SystemExit(reason)

    def replica_ready(self) -> None:
        """Nothing waits for it: the pool is not used before it has loaded."""

    def items(self, payloads: Sequence[Payload]) -> list[Item]:
        """Return the jobs of a batch, one a payload."""
        return [Item(new_uuid(), self._headers, ((0, payload),)) for payload in payloads]

    async def hop(self, items: Sequence[Item]) -> Sequence[Outcome]:
        """Run one batch and return its outcomes, whose payloads are the caller's."""
        self.pool.submit(items)
        if not self._done:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        return self._done.pop()

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED


def spec(directory: Path) -> WorkerSpec:
    """Return a node whose handler takes a batch and returns what it was given."""
    (directory / "identity.py").write_text(IDENTITY)
    return WorkerSpec(
        "echo", "identity.py:identity", str(directory), parents=("parent",), data_format="native"
    )


@asynccontextmanager
async def echo_pool() -> AsyncIterator[Echo]:
    """Open a pool of one worker; when it has closed nothing is left of it."""
    server = os.pidfd_open(os.getpid())
    try:
        with TemporaryDirectory() as directory, ShmTransport(ARENA_BYTES) as transport:
            echo = Echo(transport)
            echo.pool = ProcessPool([spec(Path(directory))], PoolSettings(), transport, server, echo)
            async with trio.open_nursery() as nursery:
                await nursery.start(echo.pool.run)
                yield echo
                nursery.cancel_scope.cancel()
    finally:
        os.close(server)


class Hops(NamedTuple):
    """What a number of hops took: seconds each, and the CPU seconds of server and worker for all of them."""

    times: list[float]
    server_cpu: float
    worker_cpu: float


async def time_hops(echo: Echo, items: Sequence[Item], count: int) -> Hops:
    """Send the same batch `count` times. Raises `AssertionError` if it does not come back where it lay."""
    times, sent = [], [item.inputs[0][1].descriptor.offset for item in items]
    server, worker = cpu_seconds(os.getpid()), cpu_seconds(echo.pid)
    for _ in range(count):
        start = time.perf_counter()
        outcomes = await echo.hop(items)
        times.append(time.perf_counter() - start)
        returned = [outcome.payload for outcome in outcomes if isinstance(outcome, Done)]
        assert [payload.descriptor.offset for payload in returned] == sent, outcomes
        for payload in returned:
            payload.release()
    return Hops(times, cpu_seconds(os.getpid()) - server, cpu_seconds(echo.pid) - worker)


def answer_queue(there: Any, back: Any) -> None:
    """Hand on what comes, until that is None."""
    while (tensor := there.get()) is not None:
        back.put(tensor)


def answer_pipe(there: Connection, back: Connection) -> None:
    """Hand on what comes, until that is empty."""
    while data := there.recv_bytes():
        back.send_bytes(data)


class QueueEcho:
    """A context: a process on `core` that echoes through two `torch.multiprocessing` queues."""

    def __init__(self, core: int) -> None:
        context = torch.multiprocessing.get_context("forkserver")
        self._there, self._back = context.Queue(), context.Queue()
        self._process = context.Process(target=answer_queue, args=(self._there, self._back), daemon=True)
        self._core = core

    def __enter__(self) -> Self:
        self._process.start()
        os.sched_setaffinity(self._process.pid or 0, {self._core})
        return self

    def __exit__(self, *_exception: object) -> None:
        self._there.put(None)
        self._process.join()

    def time_hops(self, tensor: torch.Tensor, count: int, *, shared: bool = False) -> list[float]:
        """Return the seconds of `count` hops of equal tensors; `shared`: they lie in shared memory before."""
        times = []
        for _ in range(count):
            sent = tensor.clone()
            if shared:
                sent.share_memory_()
            start = time.perf_counter()
            self._there.put(sent)
            returned = self._back.get()
            times.append(time.perf_counter() - start)
            assert returned.shape == tensor.shape
        return times


class PipeEcho:
    """A context: a process on `core` that echoes the bytes of tensors through two pipes."""

    def __init__(self, core: int) -> None:
        context = torch.multiprocessing.get_context("forkserver")
        child_reads, self._there = context.Pipe(duplex=False)
        self._back, child_writes = context.Pipe(duplex=False)
        self._process = context.Process(target=answer_pipe, args=(child_reads, child_writes), daemon=True)
        self._core = core

    def __enter__(self) -> Self:
        self._process.start()
        os.sched_setaffinity(self._process.pid or 0, {self._core})
        return self

    def __exit__(self, *_exception: object) -> None:
        self._there.send_bytes(b"")
        self._process.join()

    def time_hops(self, tensor: torch.Tensor, count: int) -> list[float]:
        """Return the seconds of `count` hops of the tensor's bytes."""
        data = memoryview(tensor.numpy()).cast("B")
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self._there.send_bytes(data)
            returned = torch.frombuffer(bytearray(self._back.recv_bytes()), dtype=tensor.dtype)
            times.append(time.perf_counter() - start)
            assert returned.nbytes == tensor.nbytes
        return times
