"""What is sent arrives whole, in order, with its descriptors, or the other end is gone."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from wfserve.transport import channel
from wfserve.transport.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator


def ends() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    async def close() -> None:
        for end in made:
            end.close()

    made = ends()
    yield made
    trio.run(close)


async def received(end: Channel, count: int) -> list[object]:
    with trio.fail_after(20):
        return [(await end.receive())[0] for _ in range(count)]


@given(st.lists(st.one_of(st.binary(max_size=200), st.integers(60_000, 70_000).map(bytes)), max_size=20))
def test_messages_arrive_as_they_were_sent(messages: list[bytes]) -> None:
    async def main() -> None:
        near, far = ends()
        for message in messages:
            near.send(message)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.run)
            assert await received(far, len(messages)) == messages
            nursery.cancel_scope.cancel()
        near.close()
        far.close()

    trio.run(main)


async def test_sending_waits_for_nobody(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    for number in range(5000):
        near.send((number, b"x" * 1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.run)
        found = await received(far, 5000)
        nursery.cancel_scope.cancel()
    assert [number for number, _ in found] == list(range(5000))  # type: ignore[misc]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_descriptors_come_along(pair: tuple[Channel, Channel], size: int) -> None:
    near, far = pair
    out, into = os.pipe()
    near.send(b"x" * size, into)
    os.close(into)
    _, (arrived,) = await far.receive()
    assert not os.get_inheritable(arrived)
    os.write(arrived, b"hello")
    os.close(arrived)
    assert os.read(out, 10) == b"hello"
    assert os.read(out, 10) == b""  # nobody has it open any more
    os.close(out)


async def test_an_end_that_is_gone_is_told_by_the_other(pair: tuple[Channel, Channel]) -> None:
    near, far = pair
    near.send("last words")
    near.close()
    assert await received(far, 1) == ["last words"]
    with pytest.raises(trio.EndOfChannel):
        await far.receive()
    far.send("into the void")
    far.send("again")


async def test_what_nobody_takes_is_bounded(
    pair: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MOST_WAITING", 10)
    near, _ = pair
    with pytest.raises(BufferError):
        send_again_and_again(near)


def send_again_and_again(end: Channel) -> None:
    for _ in range(10_000):
        end.send(b"x" * 10_000)
