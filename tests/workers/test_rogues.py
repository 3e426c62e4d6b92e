"""A worker that lies is killed, its batch is lost, and neither its neighbours nor its pool suffer."""

import pytest

from tests.pools import processes, workers
from tests.servers import wait_until_gone
from tests.support import text
from wfserve.workers.base import Done

# Handlers are arbitrary code: these reach into the runtime around them, and speak to the server themselves.
ROGUE = '''
import ctypes
import gc
from wfserve.transport.base import Descriptor, Message, MessageKind
from wfserve.transport.shm import ShmChildLink

class Liar:
    """What stands between the runtime and its end of the rings."""

    def __init__(self, link):
        self.link, self.end = link, link.end

    def __getattr__(self, name):
        return getattr(self.end, name)

    def map(self, place):
        return self.link.map(place)

    def send(self, message):
        if message.kind == MessageKind.DONE and (behave := BEHAVIOUR.get(word)):
            message = message._replace(descriptor=behave(self, message.descriptor))
        self.end.send(message)

def garbage(link, place):
    link.map(place)[:] = b"\\xff" * place.length
    return place

def send(*message):
    def behave(link, place):
        link.end.send(Message(*message))
        return place
    return behave

def flood(link, place):
    for _ in range(1000):
        link.send(Message(MessageKind.GROW, 0, Descriptor(0, 0, 64)))
    return place

def corrupt(offset):
    """Overwrite an index of one of the rings, wherever they are mapped."""
    def behave(link, place):
        for line in open("/proc/self/maps"):
            if "memfd" in line and "wfserve" in line:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                if end - start < 1 << 20:
                    ctypes.c_uint64.from_address(start + offset).value = 2**63
        link.send(Message(MessageKind.RELEASE, 0, Descriptor(9, 9, 9)))
        return place
    return behave

NOWHERE = Descriptor(0, 0, 0)
BEHAVIOUR = {
    "garbage": garbage,
    "elsewhere": lambda link, place: Descriptor(1, 0, 2**40),
    "another segment": lambda link, place: place._replace(segment=7),
    "unknown kind": send(99, 0, NOWHERE),
    "kind of the server": send(MessageKind.CALL, 0, NOWHERE),
    "ready twice": send(MessageKind.READY, 0, NOWHERE),
    "failed when ready": send(MessageKind.FAILED, 0, NOWHERE),
    "another batch": send(MessageKind.DONE, 12345, NOWHERE),
    "released what it never kept": send(MessageKind.RELEASE, 0, Descriptor(1, 64, 64)),
    "flood": flood,
    "corrupt 64": corrupt(64),
    "corrupt 8384": corrupt(8384),
}
word = ""

def rogue(data, context):
    global word
    if data is None:
        (link,) = (each for each in gc.get_objects() if type(each) is ShmChildLink)
        link.end = Liar(link)
        return None
    word = bytes(data[0]["body"]).decode()
    return [word]
'''
LIES = [
    *("garbage", "elsewhere", "another segment", "unknown kind", "kind of the server", "ready twice"),
    *("failed when ready", "another batch", "released what it never kept", "flood"),
    *("corrupt 64", "corrupt 8384"),  # the index that the child advances, of either ring
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_that_lies_is_killed_and_its_neighbours_never_see_it(tmp_path, lie, caplog):
    async with processes(tmp_path, 2, code=ROGUE, function="rogue") as bench:
        before = workers()
        lying, honest = bench.submit(lie), bench.submit("honest")
        assert "trusted" in await bench.recorder.outcome(lying)
        assert text((await bench.recorder.outcome(honest))[0].payload) == "honest"
        await bench.recorder.until(lambda: bench.pool.idle == 2)
        assert len(before & workers()) == 1
        assert bench.pool.statistics().deaths == 1
        assert [len(bench.recorder.reports_of(batch)) for batch in (lying, honest)] == [1, 1]
    assert any("cannot be trusted" in record.message for record in caplog.records)


async def test_a_corrupt_ring_is_noticed_when_a_batch_is_sent(one):
    """The worker says nothing more, so that `submit` is first to see it; the batch is lost, not the pool."""
    code = ROGUE.replace("link.send(Message(MessageKind.RELEASE", "(Message(MessageKind.RELEASE")
    async with one(code, "rogue") as bench:
        (outcome,) = await bench.run("corrupt 64")
        assert isinstance(outcome, Done)
        assert "trusted" in await bench.run("next")
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert isinstance((await bench.run("honest"))[0], Done)


async def test_a_corrupt_ring_does_not_hold_a_closing_pool(one):
    code = ROGUE.replace("link.send(Message(MessageKind.RELEASE", "(Message(MessageKind.RELEASE")
    async with one(code, "rogue") as bench:
        await bench.run("corrupt 64")
        (pid,) = workers()
    assert wait_until_gone({pid}, 0) == set()
