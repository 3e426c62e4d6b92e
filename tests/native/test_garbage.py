"""Whatever a child writes into its rings, and whenever, the server hears of a FrameError or of messages."""

from __future__ import annotations

import mmap
import random
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pools import processes
from tests.support import text
from wfserve import _native
from wfserve.errors import FrameError
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.shm import ShmLink
from wfserve.workers.base import Done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RING = 192 + 32 * _native.RING_CAPACITY  # tail at 0, head at 64, asleep at 128, entries at 192
MEMORY = 2 * RING
INDICES = [ring + field for ring in (0, RING) for field in (0, 64, 128)]

indices = st.tuples(
    st.sampled_from(INDICES),
    (st.integers(0, 600) | st.integers(0, 2**64 - 1)).map(lambda value: struct.pack("<Q", value)),
)
anything = st.tuples(st.integers(0, MEMORY - 1), st.binary(min_size=1, max_size=400))
writes = indices | anything
uses = st.sampled_from(["drain", "send", "receive"])


@contextmanager
def opened() -> Iterator[tuple[ShmLink, mmap.mmap]]:
    """A link, and its rings as the child has them."""
    link = ShmLink()
    with mmap.mmap(link.fds[0], MEMORY) as memory:
        yield link, memory
    link.close()


def use(link: ShmLink, how: str) -> list[Message]:
    """Do one thing that a server does with a link; refusals are what it must be ready for."""
    try:
        match how:
            case "drain":
                return link.drain()
            case "send":
                link.send(Message(MessageKind.CALL, 1, NOWHERE))
            case "receive":
                return trio.run(receive_at_once, link)
    except (FrameError, BufferError):
        pass
    return []


async def receive_at_once(link: ShmLink) -> list[Message]:
    """Return what `receive` finds without waiting for a doorbell that may never be rung."""
    with trio.move_on_after(0):
        return await link.receive()
    return []


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(writes | uses, min_size=1, max_size=30))
def test_anything_may_be_written_between_uses(steps: list[tuple[int, bytes] | str]) -> None:
    with opened() as (link, memory):
        for step in steps:
            if isinstance(step, str):
                assert len(use(link, step)) <= _native.RING_CAPACITY
            else:
                at, data = step
                memory[at : min(at + len(data), MEMORY)] = data[: MEMORY - at]


@pytest.mark.parametrize("seed", range(4))
def test_anything_may_be_written_meanwhile(seed: int) -> None:
    """A thread scribbles as fast as it can while the server sends and drains."""
    chance = random.Random(seed)
    stop = threading.Event()

    def scribble(memory: mmap.mmap) -> None:
        while not stop.is_set():
            at = chance.choice(INDICES) if chance.random() < 0.5 else 8 * chance.randrange(MEMORY // 8)
            value = chance.choice([chance.randrange(600), chance.getrandbits(64)])
            struct.pack_into("<Q", memory, at, value)

    with opened() as (link, memory):
        scribbler = threading.Thread(target=scribble, args=(memory,))
        scribbler.start()
        try:
            for turn in range(3000):
                assert len(use(link, ("drain", "send")[turn % 2])) <= _native.RING_CAPACITY
        finally:
            stop.set()
            scribbler.join()


# Handlers are arbitrary code: this one finds what its worker shares with the server, and writes to all of it.
SCRIBBLER = (
    f"INDICES, RINGS = {INDICES}, {MEMORY}"
    + '''
import random, re, ctypes

def scribble(data, context):
    if data is None:
        return None
    word = bytes(data[0]["body"]).decode()
    if word.isdigit():
        chance = random.Random(int(word))
        for start, size in shared():
            for _ in range(chance.choice([1, 10, 1000])):
                is_index = size == RINGS and chance.random() < 0.5
                at = chance.choice(INDICES) if is_index else 8 * chance.randrange(size // 8)
                value = chance.choice([chance.randrange(600), chance.getrandbits(64)])
                ctypes.c_uint64.from_address(start + at).value = value
    return [word]

def shared():
    """The rings, and the first pages of the arena's regions for slots of up to 64 KiB."""
    for line in open("/proc/self/maps"):
        if found := re.match("([0-9a-f]+)-([0-9a-f]+) rw.s .*memfd:wfserve-(arena|rings)", line):
            start, end = int(found[1], 16), int(found[2], 16)
            if found[3] == "rings":
                yield start, RINGS
            else:
                yield from ((start + region * (end - start) // 32, 1 << 16) for region in range(11))
'''
)


@pytest.mark.timeout(60)
async def test_a_worker_that_scribbles_harms_only_itself(tmp_path: Path) -> None:
    """Rings, calls and replies are full of garbage; the next worker answers as if nothing had been."""
    async with processes(tmp_path, code=SCRIBBLER, function="scribble") as bench:
        for seed in range(12):
            batch = bench.submit(str(seed))
            with trio.move_on_after(0.5):
                await bench.recorder.outcome(batch)
            bench.pool.stop(batch)  # it may wait for ever for what is never rung
            await bench.recorder.outcome(batch)
            await bench.recorder.until(lambda: bench.pool.idle == 1)
        bench.pool.stop(bench.submit("the last that may be harmed"))
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        (answer,) = await bench.run("honest")
        assert isinstance(answer, Done)
        assert text(answer.payload) == "honest"
