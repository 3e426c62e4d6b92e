"""A worker of a pool has its own GPU, which its successor keeps; results for a GPU lie in pinned memory."""

import contextlib
import os
from dataclasses import replace

import pytest
import trio

from tests.pools import MIB, PATIENCE, Bench, Recorder, spec
from tests.support import text
from wfserve.transport.pinned import PINNED_SEGMENT
from wfserve.transport.shm import ShmTransport
from wfserve.workers.keeping import PoolSettings
from wfserve.workers.pool import ProcessPool

GPUS = '''
import os, signal

def where(data, context):
    """Say which GPU this worker has been told of, or die."""
    if data is not None and bytes(data[0].get("body")) == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    return data and [f"{context.system_properties['gpu_id']} {os.getpid()}"]

def big(data, context):
    return data and [b"x" * int(data[0].get("body"))]
'''


@contextlib.asynccontextmanager
async def pool(directory, function="where", *, replicas=1, pinned_bytes=0, **settings):
    """A pool on a transport with or without pinned memory; nothing of either is held in the end."""
    server = os.pidfd_open(os.getpid())
    chain = [spec(directory, code=GPUS, function=function)]
    try:
        with ShmTransport(64 * MIB, pinned_bytes=pinned_bytes) as transport:
            recorder = Recorder()
            opened = ProcessPool(
                chain, PoolSettings(replicas, PATIENCE, **settings), transport, server, recorder
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(opened.run)
                bench = Bench(transport, recorder, opened, nursery)
                yield bench
                nursery.cancel_scope.cancel()
            bench.finish()
            assert transport.arena.statistics().slots == 0
            assert transport.pinned is None or transport.pinned.statistics().slots == 0
    finally:
        os.close(server)


def in_turn(*gpus):
    turns = iter(gpus)
    return lambda chain: tuple(replace(each, gpu_id=turn) for turn in [next(turns)] for each in chain)


async def told(bench):
    """What the worker that answers says: its GPU and its process."""
    (outcome,) = await bench.run("where")
    return text(outcome.payload).split()


async def test_each_worker_has_its_own_and_its_successor_keeps_it(tmp_path):
    async with pool(tmp_path, replicas=2, place=in_turn(5, 3)) as bench:
        first = bench.submit("where")
        second = bench.submit("where")
        found = [text((await bench.recorder.outcome(batch))[0].payload).split() for batch in (first, second)]
        assert sorted(gpu for gpu, _ in found) == ["3", "5"]
        killed, pid = await told(bench)  # the last to finish is the first to start again
        await bench.run("die")
        await bench.recorder.until(lambda: bench.pool.idle == 2)
        again = [bench.submit("where") for _ in range(2)]
        found = [text((await bench.recorder.outcome(batch))[0].payload).split() for batch in again]
        assert sorted(gpu for gpu, _ in found) == ["3", "5"]
        assert pid not in [new for _, new in found]
        assert killed in [gpu for gpu, new in found]


async def test_a_worker_that_is_added_takes_the_next(tmp_path):
    async with pool(tmp_path, place=in_turn(0, 1)) as bench:
        bench.pool.scale(2)
        await bench.pool.settled()
        batches = [bench.submit("where") for _ in range(2)]
        found = [text((await bench.recorder.outcome(batch))[0].payload).split()[0] for batch in batches]
        assert sorted(found) == ["0", "1"]


async def test_nobody_is_on_a_gpu_unless_placed(tmp_path):
    async with pool(tmp_path) as bench:
        assert (await told(bench))[0] == "None"


@pytest.mark.parametrize(
    ("pinned_bytes", "pins", "sizes", "segments"),
    [
        (MIB, True, [100, 100_000], [PINNED_SEGMENT, PINNED_SEGMENT]),
        (MIB, True, [100, 2 * MIB], [PINNED_SEGMENT, 1]),
        (MIB, False, [100], [1]),
        (0, True, [100], [1]),
    ],
)
async def test_results_lie_in_pinned_memory_while_there_is_some(
    tmp_path, pinned_bytes, pins, sizes, segments
):
    async with pool(tmp_path, "big", pinned_bytes=pinned_bytes, pins_results=pins) as bench:
        found = []
        for size in sizes:
            (outcome,) = await bench.run(str(size))
            assert bytes(outcome.payload.borrow()) == b"x" * size
            found.append(outcome.payload.descriptor.segment)
        assert found == segments
