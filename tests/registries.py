"""A registry in this process, which must leave nothing, and what is asked of it."""

import contextlib

import trio

from tests.pools import PATIENCE, workers
from tests.support import payload, text
from wfserve.dag.walk import Request
from wfserve.registry.opening import open_registry


@contextlib.asynccontextmanager
async def registry(config):
    """An open registry; when it is closed, nothing is left of it but its lock."""
    async with open_registry(config) as opened:
        yield opened
    assert workers() == set()
    assert opened.arena.statistics().slots == 0
    assert left_in(config) == []


def left_in(config):
    work = config.state_dir / "work"
    return sorted(work.iterdir()) if work.exists() else []


async def predict(workflow, body, registry):
    request = Request(payload(registry._transport, b"[]"), payload(registry._transport, body))
    answer = await workflow.predict(request)
    (done,) = answer.leaves.values()
    try:
        return text(done.payload)
    finally:
        answer.release()


async def running(workflow):
    await until(lambda: any(pool.statistics().running for pool in workflow.pools.values()))


async def until(holds):
    with trio.fail_after(PATIENCE):
        while not holds():
            await trio.lowlevel.checkpoint()
