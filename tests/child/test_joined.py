"""A worker of several processes: whose batch it runs, what it says of that, and how it forgets one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from wfserve.child.main import serve
from wfserve.transport import progress
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.joining import JoinableTransport
from wfserve.transport.message import Call, CallItem, Ref, call_size, decode_reply, encode_call
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wfserve.child.spec import WorkerSpec

    Make = Callable[..., WorkerSpec]

MIB = 1 << 20
STOP = Message(MessageKind.STOP, 0, NOWHERE)
KEEP = """
    kept = []
    def handle(data, context):
        if data is None:
            return None
        kept.append(data[0]["body"])
        return [bytes(kept[0])]
"""


class Host:
    """One process that uses the worker, and the memory that it lends."""

    def __init__(self, transport: ShmTransport, link: Any) -> None:
        self.transport = transport
        self.link = link
        self.held: list[Any] = []
        self.received: list[Message] = []
        self.scratch = transport.arena.loan(8192)
        link.send(Message(MessageKind.GRANT, 0, self.scratch.descriptor))

    def call(self, tag: int, body: bytes, extent: int = 1 << 16) -> None:
        def put(data: bytes, kind: Kind) -> Ref:
            loan = self.transport.arena.loan(len(data))
            self.held.append(loan)
            loan.buffer[: len(data)] = data
            place = loan.descriptor._replace(length=len(data))
            return Ref(pack_header(kind, len(data)), place)

        self.extent = self.transport.arena.loan(extent)
        item = CallItem(
            "00000000-0000-4000-8000-000000000000", put(b"[]", Kind.JSON), ((0, put(body, Kind.BYTES)),)
        )
        call = Call((item,), self.extent.descriptor._replace(length=extent), 0, 0, False)
        slot = self.transport.arena.loan(call_size(call))
        self.held += [self.extent, slot]
        length = encode_call(call, slot.buffer)
        self.link.send(Message(MessageKind.CALL, tag, slot.descriptor._replace(length=length)))

    async def next(self) -> Message:
        with trio.fail_after(20):
            while not self.received:
                self.received += await self.link.receive()
        return self.received.pop(0)

    async def result(self, tag: int) -> bytes:
        done = await self.next()
        assert (done.kind, done.tag) == (MessageKind.DONE, tag)
        start = done.descriptor.offset - self.extent.descriptor.offset
        reply = decode_reply(self.extent.buffer[start : start + done.descriptor.length])
        place = reply.results[0].ref.descriptor
        start = place.offset - self.extent.descriptor.offset
        return bytes(self.extent.buffer[start : start + place.length])


class Worker:
    """A worker in a thread; each test stops it."""

    def __init__(self, spec: WorkerSpec, transport: JoinableTransport) -> None:
        self.link, port = transport.connect()
        self.first = Host(transport, self.link)
        self.childs = port.attach()
        self.thread = threading.Thread(target=serve, args=([spec], self.childs), daemon=True)
        self.thread.start()

    def join(self, segment: int) -> Host:
        transport = ShmTransport(16 * MIB, segment)
        self.introduction = self.link.introduce(segment, transport.arena.fd)
        return Host(transport, self.introduction.rings.link())

    def stop(self) -> None:
        self.link.send(STOP)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.childs.close()
        self.link.close()


@pytest.fixture
def start(archive: Make) -> Iterator[Callable[[str], Worker]]:
    """Start a worker with a handler; its process would end with the test."""
    with JoinableTransport(16 * MIB) as transport:
        yield lambda code: Worker(archive(code, data_format="native"), transport)


async def test_each_process_has_its_own_batches(start: Callable[[str], Worker]) -> None:
    worker = start("def handle(data, context):\n    return data and [bytes(row['body']) for row in data]\n")
    assert (await worker.first.next()).kind == MessageKind.READY
    five, six = worker.join(5), worker.join(6)
    for host in (five, six):
        assert (await host.next()).kind == MessageKind.READY
    for host, text in ((five, b"five"), (worker.first, b"first"), (six, b"six"), (five, b"again")):
        host.call(1, text)
        assert await host.result(1) == text
    worker.stop()


async def test_a_batch_that_begins_says_so(start: Callable[[str], Worker]) -> None:
    worker = start("def handle(data, context):\n    return data and [bytes(row['body']) for row in data]\n")
    assert (await worker.first.next()).kind == MessageKind.READY
    five = worker.join(5)
    assert (await five.next()).kind == MessageKind.READY
    assert progress.read(five.scratch.buffer, 7) is None
    five.call(7, b"x")
    await five.result(7)
    seen = progress.read(five.scratch.buffer, 7)
    assert seen is not None
    assert seen.step == 0
    worker.stop()


async def test_a_process_that_leaves_is_forgotten(start: Callable[[str], Worker]) -> None:
    """Its rings are read no more; another one may come in its place."""
    worker = start("def handle(data, context):\n    return data and [bytes(row['body']) for row in data]\n")
    assert (await worker.first.next()).kind == MessageKind.READY
    five = worker.join(5)
    assert (await five.next()).kind == MessageKind.READY
    five.call(1, b"last")
    five.link.send(STOP)
    assert await five.result(1) == b"last"
    assert (await five.next()).kind == MessageKind.LEFT
    six = worker.join(6)
    assert (await six.next()).kind == MessageKind.READY
    six.call(1, b"next")
    assert await six.result(1) == b"next"
    worker.stop()


async def test_a_process_may_leave_while_its_batch_waits_for_memory(start: Callable[[str], Worker]) -> None:
    worker = start("def handle(data, context):\n    return data and [b'x' * 100_000]\n")
    assert (await worker.first.next()).kind == MessageKind.READY
    five = worker.join(5)
    assert (await five.next()).kind == MessageKind.READY
    five.call(1, b"", extent=4096)
    assert (await five.next()).kind == MessageKind.GROW
    heir = worker.introduction.rings.link()  # the process is gone
    heir.send(STOP)
    with trio.fail_after(20):
        assert [each.kind for each in await heir.receive()] == [MessageKind.LEFT]
    worker.first.call(1, b"")
    assert (await worker.first.next()).kind == MessageKind.GROW
    worker.stop()


async def test_what_a_handler_keeps_of_a_process_that_left_stays_readable(
    start: Callable[[str], Worker],
) -> None:
    worker = start(KEEP)
    assert (await worker.first.next()).kind == MessageKind.READY
    five = worker.join(5)
    assert (await five.next()).kind == MessageKind.READY
    five.call(1, b"kept")
    assert await five.result(1) == b"kept"
    five.link.send(STOP)
    assert (await five.next()).kind == MessageKind.LEFT
    five.link.close()
    five.transport.arena.close()
    worker.first.call(1, b"other")
    assert await worker.first.result(1) == b"kept"
    worker.stop()


async def test_a_batch_that_was_withdrawn_is_not_begun(start: Callable[[str], Worker]) -> None:
    worker = start("def handle(data, context):\n    return data and [bytes(row['body']) for row in data]\n")
    assert (await worker.first.next()).kind == MessageKind.READY
    five = worker.join(5)
    assert (await five.next()).kind == MessageKind.READY
    for host in (five, worker.first):
        progress.forget(host.scratch.buffer)
        progress.withdraw(host.scratch.buffer, 1)
        host.call(1, b"withdrawn")
        dropped = await host.next()
        assert (dropped.kind, dropped.tag) == (MessageKind.DROPPED, 1)
        assert progress.read(host.scratch.buffer, 1) is None
        host.call(2, b"next")
        assert await host.result(2) == b"next"
    worker.stop()
