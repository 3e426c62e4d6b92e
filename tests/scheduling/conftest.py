import pytest
import trio
import trio.testing

from tests.stages import Bench
from wfserve.transport.memory import MemoryTransport


@pytest.fixture
def transport():
    with MemoryTransport(1 << 20) as made:
        yield made
        assert made.arena.statistics().slots == 0


@pytest.fixture
def run_bench(transport):
    """Run `scenario(bench)` on a stage with this work, to its end."""

    async def run(scenario, work, **settings):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as attempts:
                bench = Bench(transport, attempts, work, **settings)
                await nursery.start(_keep, bench)
                await scenario(bench)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return bench

    async def _keep(bench, *, task_status):
        async with bench.pool.running():
            task_status.started()
            await bench.stage.serve()

    return run
