"""Two real processes: nothing is lost between them, and a child killed at any instruction costs nothing."""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from wfserve.transport.base import Descriptor, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.transport.shm import ShmLink

MIB = 1 << 20
STOP = Message(MessageKind.STOP, 0, Descriptor(0, 0, 0))


@pytest.fixture
def transport() -> Iterator[ShmTransport]:
    with ShmTransport(64 * MIB) as made:
        yield made
        assert made.arena.statistics().slots == 0, "the test left a slot behind"


def call(tag: int) -> Message:
    return Message(MessageKind.CALL, tag, Descriptor(1, 64 * tag, tag))


def tags(messages: list[Message]) -> list[int]:
    return [message.tag for message in messages]


async def test_no_doorbell_is_lost(transport: ShmTransport, start: Any, children: Any) -> None:
    link, port = transport.connect()
    with start(children.echo, port):
        for tag in range(20_000):
            link.send(call(tag))
            with trio.fail_after(10):
                assert tags(await link.receive()) == [tag]
    link.close()


async def test_bursts_of_any_length_cross_in_order(
    transport: ShmTransport, start: Any, children: Any
) -> None:
    link, port = transport.connect()
    lengths = random.Random(7)
    sent = answered = 0
    with start(children.echo, port), trio.fail_after(30):
        while answered < 20_000:
            for _ in range(lengths.randrange(1, 256 - (sent - answered))):
                link.send(call(sent))
                sent += 1
            messages = await link.receive()
            assert tags(messages) == list(range(answered, answered + len(messages)))
            answered += len(messages)
            if sent - answered >= 250:
                answered += len(await link.receive())
    link.close()


async def test_a_full_ring_holds_the_child_up(transport: ShmTransport, start: Any, children: Any) -> None:
    link, port = transport.connect()
    received: list[int] = []
    with start(children.flood, port, 5000), trio.fail_after(30):
        while len(received) < 5000:
            received += tags(await link.receive())
    assert received == list(range(5000))
    link.close()


async def test_results_are_written_where_they_are_read(
    transport: ShmTransport, start: Any, children: Any
) -> None:
    link, port = transport.connect()
    data = os.urandom(100_000)
    with start(children.write, port, data), trio.fail_after(30):
        loan = transport.arena.loan(len(data))
        link.send(Message(MessageKind.CALL, 1, loan.descriptor))
        [answer] = await link.receive()
        payload = loan.publish(pack_header(Kind.BYTES, len(data)), 0, answer.descriptor.length)
        assert payload.borrow() == data
        loan.release()
        payload.release()
    link.close()


@pytest.mark.parametrize("seed", range(6))
async def test_a_killed_child_leaves_nothing(
    transport: ShmTransport, start: Any, children: Any, seed: int
) -> None:
    chance = random.Random(seed)
    link, port = transport.connect()
    lent = [transport.arena.loan(chance.randrange(1, MIB)) for _ in range(8)]
    with start(children.scribble, port) as process, trio.fail_after(30):
        await scribble(link, lent, rounds=chance.randrange(1, 40))
        for tag, loan in enumerate(lent):  # it dies in the middle of these
            link.send(Message(MessageKind.CALL, tag, loan.descriptor))
        for _ in range(chance.randrange(20_000)):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    done = tags(link.drain())
    assert done == list(range(len(done)))
    for tag in done:
        assert set(lent[tag].buffer) == {tag}
    link.close()
    for loan in lent:
        loan.release()
    assert transport.arena.statistics().slots == 0
    everything = transport.arena.loan(64 * MIB)
    everything.release()


async def scribble(link: ShmLink, lent: list[Any], rounds: int) -> None:
    for _ in range(rounds):
        for tag, loan in enumerate(lent):
            link.send(Message(MessageKind.CALL, tag, loan.descriptor))
        answered = 0
        while answered < len(lent):
            answered += len(await link.receive())


def test_descriptors_reach_only_the_child(transport: ShmTransport, start: Any, children: Any) -> None:
    def is_ours(fd: str) -> bool:
        return "wfserve" in os.readlink(f"/proc/self/fd/{fd}")

    def ours() -> list[str]:
        return sorted(fd for fd in os.listdir("/proc/self/fd") if exists(fd) and is_ours(fd))

    gc.collect()
    before = ours()
    link, port = transport.connect()
    with start(children.flood, port, 0):
        assert not any(
            os.get_inheritable(int(fd)) for fd in os.listdir("/proc/self/fd") if exists(fd) and is_ours(fd)
        )
    link.close()
    del link, port
    gc.collect()
    assert ours() == before


def exists(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_worker_dies_with_its_server_while_it_holds_the_gil(children: Any) -> None:
    server = subprocess.Popen([sys.executable, children.__file__], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        pids = [int(pid) for pid in server.stdout.readline().split()]
        gone = [os.pidfd_open(pid) for pid in pids]
        assert len(gone) == 2
        assert not any(ended(pidfd, 0) for pidfd in gone)
        server.kill()
        assert all(ended(pidfd, 20) for pidfd in gone)
        for pidfd in gone:
            os.close(pidfd)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def ended(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])
