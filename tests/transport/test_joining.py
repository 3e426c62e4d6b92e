"""A child hears all processes that it has joined, in turn; one that dies is of no concern to the others."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.joining import JoinableTransport
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.transport.joining import JoinableLink

MIB = 1 << 20


@pytest.fixture
def transport() -> Iterator[JoinableTransport]:
    with JoinableTransport(16 * MIB) as made:
        yield made


@contextmanager
def joined(link: JoinableLink, segment: int) -> Iterator[tuple[Any, ShmTransport]]:
    """One more process, as far as the child can see."""
    with ShmTransport(16 * MIB, segment) as transport:
        introduction = link.introduce(segment, transport.arena.fd)
        end = introduction.rings.link()
        yield end, transport
        end.close()


def message(tag: int, descriptor: Descriptor = NOWHERE) -> Message:
    return Message(MessageKind.CALL, tag, descriptor)


async def tags(link: Any, count: int) -> list[int]:
    found: list[int] = []
    with trio.fail_after(30):
        while len(found) < count:
            found += [each.tag for each in await link.receive()]
    return found


async def test_every_process_is_heard(transport: JoinableTransport, start: Any, children: Any) -> None:
    link, port = transport.connect()
    with (
        start(children.echo_to_all, port),
        joined(link, 5) as (five, _),
        joined(link, 6) as (six, _),
    ):
        chance = random.Random(5)
        for tag in range(3000):  # it sleeps or is awake as chance will have it
            end = chance.choice([link, five, six])
            end.send(message(tag))
            assert await tags(end, 1) == [tag]
    link.close()


async def test_they_take_turns(transport: JoinableTransport, start: Any, children: Any) -> None:
    """Whoever has much to say does not keep another waiting for more than one message."""
    link, port = transport.connect()
    with start(children.log_turns, port), joined(link, 5) as (five, _), joined(link, 6) as (six, _):
        for tag in range(100):
            five.send(message(tag))
        for tag in range(3):
            six.send(message(tag))
        link.send(message(0))  # what it has waited for to begin
        heard = await tags(link, 103)
    assert heard.index(6) < 3
    assert [number for number in heard[:8] if number == 6] == [6, 6, 6]
    link.close()


async def test_each_has_its_own_segment(transport: JoinableTransport, start: Any, children: Any) -> None:
    link, port = transport.connect()
    with start(children.turn_around, port), joined(link, 5) as (five, its):
        loans = [(link, transport.arena.loan(8)), (five, its.arena.loan(8))]
        for (end, loan), text in zip(loans, (b"abcdefgh", b"ijklmnop"), strict=True):
            loan.buffer[:8] = text
            end.send(message(1, loan.descriptor._replace(length=8)))
            assert await tags(end, 1) == [1]
        assert [bytes(loan.buffer[:8]) for _, loan in loans] == [b"hgfedcba", b"ponmlkji"]
    link.close()


async def test_what_a_dead_process_has_left_is_taken_over(
    transport: JoinableTransport, start: Any, children: Any
) -> None:
    """Its own end goes without a word; another one reads and writes on."""
    link, port = transport.connect()
    with start(children.echo_to_all, port), ShmTransport(MIB, 5) as theirs:
        introduction = link.introduce(5, theirs.arena.fd)
        gone = introduction.rings.link()
        for tag in range(40):
            gone.send(message(tag))
        assert await tags(gone, 10)  # some of the answers have been read, others not
        read = introduction.written
        gone.close()
        heir = introduction.rings.link()
        heir.send(message(40))
        answers = [] if read == 41 else await tags(heir, 1)
        while not answers or answers[-1] != 40:
            answers += await tags(heir, 1)
        assert answers == list(range(answers[0], 41))
        assert introduction.written == 41
    link.close()


async def test_whoever_sends_sees_whether_the_child_sleeps(
    transport: JoinableTransport, start: Any, children: Any
) -> None:
    link, port = transport.connect()
    with start(children.echo_to_all, port), joined(link, 5) as (five, _), joined(link, 6) as (six, _):
        five.send(message(1))
        assert await tags(five, 1) == [1]
        with trio.fail_after(10):
            while not (five.child_sleeps and six.child_sleeps):  # it spins before it sleeps
                await trio.lowlevel.checkpoint()
        loan = transport.arena.loan(1)
        loan.buffer[0] = 0
        link.send(message(2, loan.descriptor._replace(length=1)))
        assert await tags(link, 1) == [2]
        assert not five.child_sleeps
        assert not six.child_sleeps
        loan.buffer[0] = 1
    link.close()


def test_a_child_that_joins_nobody_is_no_reason_to_wait(transport: JoinableTransport) -> None:
    link, _ = transport.connect()
    with ShmTransport(MIB, 5) as theirs, pytest.raises((BufferError, OSError)):
        introduce_again_and_again(link, theirs.arena.fd)
    link.close()


def introduce_again_and_again(link: JoinableLink, fd: int) -> None:
    for _ in range(10_000):
        link.introduce(5, fd)
