"""Whatever a child does or says, its pool goes on; whenever a pool is cancelled, nothing of it is left."""

import contextlib
import logging
import os
import signal
import time

import pytest
import trio

from tests.pools import MIB, PATIENCE, processes, workers
from tests.servers import wait_until_gone
from tests.support import item, text
from wfserve.errors import ServiceUnavailableError
from wfserve.workers import process
from wfserve.workers.base import Done, Failed, LoadError
from wfserve.workers.keeping import LONGEST_DELAY, restart_delay

FAILING = '''
import ctypes, os, signal, sys, threading, time

def raises(data, context):
    raise KeyError("no such weights")

def exits(data, context):
    sys.exit(3)

def crashes(data, context):
    ctypes.string_at(0)

def killed(data, context):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(data, context):
    time.sleep(3600)

def lingers(data, context):
    """Fails, and a thread of it keeps the process."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    raise KeyError("no such weights")
'''


async def failure_of(opening):
    """The error that opening a pool ends with."""
    with trio.fail_after(PATIENCE):
        try:
            async with opening:
                pytest.fail("the pool has opened")
        except* LoadError as group:
            assert workers() == set()
            error = group.exceptions[0]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.message


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("raises", "KeyError: 'no such weights' (500)"),
        ("exits", "SystemExit: 3 (500)"),
        ("crashes", "the worker died while it loaded"),
        ("killed", "the worker died while it loaded"),
        ("lingers", "KeyError: 'no such weights' (500)"),
        ("missing", "(500)"),
    ],
)
async def test_a_pool_whose_worker_does_not_load_does_not_open(one, function, why):
    assert why in await failure_of(one(FAILING, function))


async def test_loading_has_a_limit_in_time(one):
    began = time.monotonic()
    assert (
        await failure_of(one(FAILING, "hangs", startup_timeout=0.5)) == "the worker did not load within 0.5 s"
    )
    assert time.monotonic() - began < 5


async def test_one_that_does_not_load_takes_the_others_along(tmp_path):
    code = """
    import os

    def picky(data, context):
        if data is None and os.path.exists("taken"):
            raise KeyError("taken")
        open("taken", "w").close()
    """
    assert "taken" in await failure_of(processes(tmp_path, 3, code=code, function="picky"))


async def test_an_arena_without_room_starts_no_worker(one):
    assert "no shared memory" in await failure_of(one(FAILING, "raises", limit=1024))


async def test_a_start_that_fails_leaves_no_child(one, monkeypatch):
    """No more descriptors: the child is there, and cannot be waited for."""

    def refuse(pid):
        raise OSError(24, "Too many open files")

    class Os:
        pidfd_open = staticmethod(refuse)

        def __getattr__(self, name):
            return getattr(os, name)

    monkeypatch.setattr(process, "os", Os())
    assert "Too many open files" in await failure_of(one(FAILING, "hangs"))


WRITER = """
def write(data, context):
    if data is None:
        return None
    return [bytes(int(data[0]["body"]))]
"""


async def test_a_result_larger_than_its_extent_gets_another(one):
    async with one(WRITER, "write") as bench:
        for nbytes in (1, 3 * MIB, 0, 100_000):
            (outcome,) = await bench.run(str(nbytes))
            assert outcome.payload.nbytes == nbytes


async def test_a_result_larger_than_the_arena_fails_its_item_alone(one):
    async with one(WRITER, "write", limit=4 * MIB) as bench:
        (outcome,) = await bench.run(str(16 * MIB))
        assert isinstance(outcome, Failed)
        assert outcome.error.status == 507
        assert isinstance((await bench.run("100"))[0], Done)


def everything(arena):
    """Lend all of an arena, in ever smaller pieces."""
    for nbytes in (128 * 1024, 4096, 64):
        with contextlib.suppress(ServiceUnavailableError):
            while True:
                yield arena.loan(nbytes)


async def test_a_batch_for_which_there_is_no_room_is_refused_and_nothing_has_started(one):
    async with one(WRITER, "write", limit=MIB) as bench:
        given = item(bench.transport, b"1")
        bench.items.append(given)
        loans = list(everything(bench.transport.arena))
        with pytest.raises(ServiceUnavailableError) as refusal:
            bench.pool.submit([given])
        assert refusal.value.retry_after == 1
        assert (bench.pool.idle, bench.pool.statistics().running) == (1, 0)
        for loan in loans:
            loan.release()
        batch = bench.pool.submit([given])
        assert isinstance((await bench.recorder.outcome(batch))[0], Done)


KEEPER = """
kept = []

def keep(data, context):
    if data is None:
        return None
    if bytes(data[0]["body"]) == b"forget":
        kept.clear()
    else:
        kept.append(data[0]["body"])
    return [str(len(kept))]
"""


async def test_a_kept_input_is_held_until_it_is_dropped(one):
    async with one(KEEPER, "keep", data_format="native") as bench:
        slots = bench.transport.arena.statistics().slots
        for count in ("1", "2"):
            (outcome,) = await bench.run("x" * 1000, keep=False)
            assert text(outcome.payload) == count
            outcome.payload.release()
        assert bench.transport.arena.statistics().slots == slots + 2
        for _ in range(2):  # what was dropped is noticed with the answer
            await bench.run("forget", keep=False)
        for _, outcomes in bench.recorder.done:
            outcomes[0].payload.release()
        with trio.fail_after(PATIENCE):
            while bench.transport.arena.statistics().slots > slots:
                await trio.lowlevel.checkpoint()


async def test_what_a_dead_worker_kept_is_released(one):
    async with one(KEEPER, "keep", data_format="native") as bench:
        slots = bench.transport.arena.statistics().slots
        (outcome,) = await bench.run("x", keep=False)
        outcome.payload.release()
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)
        await bench.recorder.until(lambda: bench.recorder.ready == 2)
        assert bench.transport.arena.statistics().slots == slots


HELPED = """
import os, subprocess, sys

def helped(data, context):
    if data is None:
        return None
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    if bytes(data[0]["body"]) == b"die":
        open("helper", "w").write(str(helper.pid))
        os.abort()
    return [str(helper.pid)]
"""


async def test_helpers_end_with_their_worker(one, tmp_path):
    async with one(HELPED, "helped") as bench:
        await bench.run("die")
        helper = int((tmp_path / "helper").read_text())
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert wait_until_gone({helper}) == set()
        helpers = {int(text((await bench.run("stay"))[0].payload)) for _ in range(2)}
    assert wait_until_gone(helpers) == set()


def test_restarts_are_free_five_times_then_grow_to_a_bound():
    delays = [restart_delay(deaths) for deaths in range(12)]
    assert delays == pytest.approx([0, 0, 0, 0, 0, 0, 0.1, 0.1, 0.2, 0.3, 0.5, 0.8])
    assert restart_delay(20) == restart_delay(10**6) == LONGEST_DELAY


async def test_a_worker_that_keeps_dying_is_started_later_and_later(one):
    code = "import os\n\ndef dies(data, context):\n    return None if data is None else os.abort()\n"
    async with one(code, "dies") as bench:
        began = trio.current_time()
        for _ in range(7):
            await bench.run("x")
            await bench.recorder.until(lambda: bench.pool.idle)
        assert bench.pool.statistics().deaths == 7
        assert trio.current_time() - began >= restart_delay(6) + restart_delay(7)


async def test_a_worker_killed_while_it_starts_again_is_replaced(one, tmp_path):
    code = """
    import os, time

    def slow(data, context):
        if data is None and os.path.exists("slow"):
            os.rename("slow", "told")
            open("told", "w").write("I shall be loading for an hour")
            time.sleep(3600)
        return None if data is None else ["x"]
    """
    async with one(code, "slow") as bench:
        os.mkfifo(tmp_path / "slow")
        told = os.open(tmp_path / "slow", os.O_RDWR | os.O_NONBLOCK)
        (first,) = workers()
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(told)
        os.close(told)
        (second,) = workers()
        assert [replica.state for replica in bench.pool.statistics().replicas] == ["STARTING"]
        os.kill(second, signal.SIGKILL)
        await bench.recorder.until(lambda: bench.pool.idle == 1)
        assert isinstance((await bench.run("a"))[0], Done)
        assert bench.pool.statistics().deaths == 2


async def test_one_that_starts_leaves_before_it_has_loaded(one):
    code = """
    import os, time

    def slow(data, context):
        if data is None and os.path.exists("slow"):
            time.sleep(3600)
        return None if data is None else ["x"]

    open("slow", "w").close() if os.path.exists("loaded") else open("loaded", "w").close()
    """
    async with one(code, "slow") as bench:
        before = workers()
        bench.pool.scale(2)
        with trio.fail_after(PATIENCE):
            while len(workers()) < 2:
                await trio.lowlevel.checkpoint()
            bench.pool.scale(1)
            await bench.pool.settled()
        assert workers() == before
        assert isinstance((await bench.run("a"))[0], Done)


@pytest.mark.parametrize("reverse", [False, True])
async def test_the_one_that_works_stays_whichever_it_is(tmp_path, reverse):
    async with processes(tmp_path, 2) as bench:
        bench.pool._idle.sort(key=lambda replica: replica.number, reverse=reverse)
        batch = bench.submit("a")
        bench.pool.scale(1)
        await bench.recorder.outcome(batch)
        await bench.pool.settled()
        assert [each.id for each in bench.pool.statistics().replicas] == [str(batch.replica.number)]


async def test_of_idle_ones_those_leave_first_that_have_been_idle_longest(tmp_path):
    async with processes(tmp_path, 3) as bench:
        first, second = bench.submit("a"), bench.submit("b")
        for batch in (first, second):
            await bench.recorder.outcome(batch)
        warm = [str(batch.replica.number) for batch, _ in bench.recorder.done]
        for left in (2, 1):
            bench.pool.scale(left)
            await bench.pool.settled()
            assert {each.id for each in bench.pool.statistics().replicas} == set(warm[-left:])


async def test_a_scale_whose_workers_do_not_load_is_told_and_goes_on_trying(one, tmp_path):
    code = """
    import os

    def picky(data, context):
        if data is None and os.path.exists("full"):
            raise KeyError("no room")
        return None if data is None else ["x"]
    """
    async with one(code, "picky") as bench:
        (tmp_path / "full").touch()
        bench.pool.scale(2)
        with pytest.raises(LoadError, match="no room"):
            await bench.pool.settled()
        assert "did not load" in bench.recorder.failed[0]
        assert isinstance((await bench.run("a"))[0], Done)
        (tmp_path / "full").unlink()
        await bench.recorder.until(lambda: bench.pool.idle == 2)
        await bench.pool.settled()


SLOW = """
import time

def slow(data, context):
    time.sleep(3600 if data is not None or {loading} else 0)
"""


async def cancelled_at(opening, moment):
    """Open a pool, cancel it at `moment`, and return how long it took to be gone."""
    began = trio.current_time()
    with trio.CancelScope() as scope:
        scope.deadline = began + moment
        async with opening as bench:
            await bench.run("x")
    return trio.current_time() - began - moment


@pytest.mark.parametrize("moment", [0, 0.001, 0.003, 0.005, 0.008, 0.015, 0.05])
@pytest.mark.parametrize("loading", [True, False])
async def test_a_pool_cancelled_at_any_moment_is_gone(tmp_path, moment, loading):
    """While its workers start, load, are idle, or run; `processes` asserts that nothing is left."""
    code = SLOW.format(loading=loading)
    took = await cancelled_at(processes(tmp_path, 2, code=code, function="slow"), moment)
    assert took < 5
    assert workers() == set()


async def test_a_pool_that_is_ending_may_be_cancelled_again(one, caplog):
    caplog.set_level(logging.ERROR)
    with trio.CancelScope() as outer:
        outer.deadline = trio.current_time() + 0.3
        async with one(SLOW.format(loading=False), "slow") as bench:
            bench.submit("x")
            outer.cancel()
            await trio.lowlevel.checkpoint()
    assert workers() == set()
    assert [record for record in caplog.records if "still there" in record.message] == []


LARGE = """
def large(data, context):
    \"\"\"As many bytes as the body says.\"\"\"
    if data is None:
        return None
    return [b"x" * int(bytes(row.get("body"))) for row in data]
"""


async def test_a_worker_that_waits_for_memory_keeps_what_waits_behind(tmp_path):
    """The next call is in its ring before the memory that it has asked for."""
    sizes = [300_000, 5, 700_000, 900_000]
    async with processes(tmp_path, code=LARGE, function="large") as bench:
        batches = [bench.submit(str(sizes[0]))]
        batches.append(bench.submit(str(sizes[1]), behind=batches[0]))

        def report():
            if len(batches) < len(sizes):
                batches.append(bench.submit(str(sizes[len(batches)]), behind=batches[-1]))

        bench.recorder.on_report = report
        await bench.recorder.until(lambda: len(bench.recorder.done) == len(sizes))
        found = [outcomes for _, outcomes in bench.recorder.done]
        assert [outcome.payload.nbytes for (outcome,) in found] == sizes
