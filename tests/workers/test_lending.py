"""Front ends share workers as if each had them alone, and one that goes is of no concern to the others."""

import os
import signal

import pytest
import trio

from tests.pools import PATIENCE, Bench, lending
from tests.support import text
from wfserve.workers import borrowing, process
from wfserve.workers.lent import Offer

ORDERED = pytest.mark.parametrize("replicas", [1, 2])


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    monkeypatch.setattr(process, "STOP_GRACE", 0.05)


def words(outcomes):
    return [text(outcome.payload) for outcome in outcomes]


async def begun(bench, batch):
    """Return when the worker has begun with `batch`."""
    with trio.fail_after(PATIENCE):
        while not bench.pool.whereabouts(batch).seconds:
            await trio.lowlevel.checkpoint()


@ORDERED
async def test_front_ends_share_workers(tmp_path, replicas):
    async with lending(tmp_path, replicas) as office, office.front() as one, office.front() as other:
        assert one.pool.idle == other.pool.idle == replicas
        pids = [{each.pid for each in bench.pool.statistics().replicas} for bench in (one, other)]
        assert pids[0] == pids[1] == {each.pid for each in office.pool.statistics().replicas}
        for round_ in range(20):
            batches = [(bench, bench.submit(f"{round_}")) for bench in (one, other)]
            for bench, batch in batches:
                assert words(await bench.recorder.outcome(batch)) == [f"{round_}"]


async def test_the_worker_that_sleeps_is_taken(tmp_path):
    async with lending(tmp_path, 2) as office, office.front() as one, office.front() as other:
        hangs = one.submit("hang")
        await begun(one, hangs)
        for _ in range(5):
            assert words(await other.run("a")) == ["a"]
        one.pool.stop(hangs)
        assert isinstance(await one.recorder.outcome(hangs), str)


async def test_a_batch_that_waits_for_anothers_is_not_to_blame(tmp_path):
    async with lending(tmp_path) as office, office.front() as one, office.front() as other:
        hangs = one.submit("hang")
        await begun(one, hangs)
        waits = other.submit("a")
        seen = other.pool.whereabouts(waits)
        assert seen.seconds == 0.0
        assert seen.waited == pytest.approx(trio.current_time() - waits.started, abs=0.05)
        other.pool.stop(waits)  # it cannot be what hangs
        one.pool.stop(hangs)
        assert isinstance(await one.recorder.outcome(hangs), str)
        assert hangs.begun
        assert isinstance(await other.recorder.outcome(waits), str)
        assert not waits.begun


async def test_who_lends_waits_for_its_turn_like_the_others(tmp_path):
    async with lending(tmp_path) as office, office.front() as front:
        hangs = front.submit("hang")
        await begun(front, hangs)
        own = Bench(office.transport, office.recorder, office.pool, office.nursery)
        waits = own.submit("a")
        assert office.pool.whereabouts(waits).seconds == 0.0
        office.pool.stop(waits)
        front.pool.stop(hangs)
        assert isinstance(await own.recorder.outcome(waits), str)
        assert (hangs.begun, waits.begun) == (True, False)
        await own.recorder.until(lambda: office.pool.idle)
        assert words(await own.run("b")) == ["b"]
        own.finish()


async def test_as_many_workers_as_one_of_them_wants(tmp_path):
    async with lending(tmp_path) as office, office.front() as one, office.front() as other:
        one.pool.scale(3)
        await one.pool.settled()
        assert len(office.pool.statistics().replicas) == one.pool.idle == 3
        await other.recorder.until(lambda: other.pool.idle == 3)
        other.pool.scale(1)
        await other.pool.settled()
        assert (other.pool.idle, one.pool.idle) == (1, 3)
        one.pool.scale(1)
        await one.pool.settled()
        assert one.pool.idle == 1
        await office.pool.settled()
        assert len(office.pool.statistics().replicas) == 1
        assert words(await other.run("a")) == ["a"]


async def test_workers_outlive_a_front_end(tmp_path):
    async with lending(tmp_path, 2) as office:
        before = {each.pid for each in office.pool.statistics().replicas}
        for _ in range(3):
            async with office.front() as bench:
                assert words(await bench.run("a")) == ["a"]
        with trio.fail_after(PATIENCE):
            await office.pool.unused()
        assert {each.pid for each in office.pool.statistics().replicas} == before
        assert office.pool.statistics().deaths == 0


@pytest.mark.parametrize("word", ["a", "hang"])
async def test_what_a_dead_front_end_had_is_taken_back(tmp_path, word):
    """Its batch ends first, or is ended with its worker when it has had its time."""
    async with lending(tmp_path, patience=0.3) as office, office.front() as other:
        async with office.front() as dies:
            dies.submit(word)
            office.lender.lost(dies.front)
        await other.recorder.until(lambda: other.pool.idle == 1)
        assert words(await other.run("b")) == ["b"]
        assert office.pool.statistics().deaths == (word == "hang")


async def test_workers_that_have_served_start_again_at_once(tmp_path):
    """However many have died: each had answered a front end."""
    async with lending(tmp_path) as office, office.front() as bench:
        for number in range(8):
            ready = bench.recorder.ready
            assert words(await bench.run(f"{number}")) == [f"{number}"]
            (worker,) = office.pool.statistics().replicas
            os.kill(worker.pid, signal.SIGKILL)
            with trio.fail_after(3):
                await bench.recorder.until(lambda ready=ready: bench.recorder.ready > ready)
        assert office.pool.statistics().deaths == 8


async def test_a_batch_that_was_withdrawn_is_lost_at_its_turn(tmp_path):
    """And only then: until it comes, the worker may yet touch what was lent with the batch."""
    async with lending(tmp_path) as office, office.front() as one, office.front() as other:
        pid = office.pool.statistics().replicas[0].pid
        first = one.submit("wait")
        await begun(one, first)
        waits = other.submit("hang")
        other.pool.withdraw(waits)
        assert other.pool.idle == 0
        (tmp_path / "go").touch()
        assert words(await one.recorder.outcome(first)) == ["wait"]
        assert isinstance(await other.recorder.outcome(waits), str)
        assert not waits.begun
        assert words(await other.run("a")) == ["a"]
        assert [each.pid for each in office.pool.statistics().replicas] == [pid]


async def test_a_batch_that_has_begun_cannot_be_withdrawn(tmp_path):
    async with lending(tmp_path) as office, office.front() as front:
        batch = front.submit("wait")
        await begun(front, batch)
        front.pool.withdraw(batch)
        (tmp_path / "go").touch()
        assert words(await front.recorder.outcome(batch)) == ["wait"]


async def test_who_takes_a_worker_back_waits_for_others_batches(tmp_path):
    """Each may take as long as one may, and is not to be lost with a front end that is none of its."""
    async with lending(tmp_path, patience=0.9) as office, office.front() as other:
        async with office.front() as dies:
            first = dies.submit("nap")
            await begun(dies, first)
            second = other.submit("nap")
            office.lender.lost(dies.front)
            assert words(await other.recorder.outcome(second)) == ["nap"]
        assert office.pool.statistics().deaths == 0


async def test_a_worker_whose_descriptors_do_not_arrive_is_offered_again(tmp_path, monkeypatch):
    monkeypatch.setattr(borrowing, "NO_DESCRIPTORS", 0.01)
    arrive, refused = Offer.of, []

    def of(said, fds):
        if len(refused) < 3:
            refused.append(said.loan)
            for fd in fds[2:]:
                os.close(fd)
            return arrive(said, fds[:2])
        return arrive(said, fds)

    monkeypatch.setattr(Offer, "of", of)
    async with lending(tmp_path) as office, office.front() as front:
        await front.recorder.until(lambda: front.pool.idle == 1)
        assert words(await front.run("a")) == ["a"]
        assert len(refused) == 3
        assert office.pool.statistics().deaths == 0
        (replica,) = office.pool._replicas
        assert len(replica.lent) == 1
