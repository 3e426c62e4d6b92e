"""Workers come with the load and go without it, and no request is lost by either."""

import dataclasses

import pytest
import trio

from tests.archives import FUNCTIONS, pack, pack_handler
from tests.pools import workers
from tests.registries import predict, registry, until
from wfserve.errors import InternalError, ServiceUnavailableError

IDLE = 0.5  # seconds
SHORT = b"sleep 0.02"


@pytest.fixture
def config(config, store):
    pack_handler(store, "m", FUNCTIONS + "\nhandle = obey\n")
    for name, least in (("one", 1), ("none", 0)):
        settings = f"{{url: m.mar, min-workers: {least}, max-workers: 3}}"
        pack(store, name, f"models:\n  m: {settings}\ndag:\n  m: []\n")
    return dataclasses.replace(config, worker_idle_timeout=IDLE)


def wanted(workflow):
    return workflow.pools["m"].statistics().wanted


class Clients:
    """Closed loops over one workflow, until told to stop; each answer is checked."""

    def __init__(self, opened, workflow, nursery):
        self._opened, self._workflow, self._nursery = opened, workflow, nursery
        self._stop = False
        self.answers = self.running = 0

    def start(self, count):
        for _ in range(count):
            self._nursery.start_soon(self._run)

    async def _run(self):
        self.running += 1
        while not self._stop:
            assert await predict(self._workflow, SHORT, self._opened) == SHORT.decode()
            self.answers += 1
        self.running -= 1

    async def stop(self):
        self._stop = True
        await until(lambda: not self.running)


async def test_workers_come_under_load_within_a_second_and_go_when_idle(config):
    async with registry(config) as opened, trio.open_nursery() as nursery:
        workflow = await opened.register("one.war")
        before = workers()
        clients = Clients(opened, workflow, nursery)
        begun = trio.current_time()
        clients.start(8)
        await until(lambda: workflow.pools["m"].statistics().running >= 2)
        assert trio.current_time() - begun < 1
        await until(lambda: wanted(workflow) == 3)
        await clients.stop()
        await until(lambda: wanted(workflow) == 1)
        await workflow.scaled("m")
        assert len(workers()) == len(before)
        assert workflow.healthy()


async def test_one_client_alone_has_one_worker(config):
    async with registry(config) as opened:
        workflow = await opened.register("one.war")
        for _ in range(40):
            await predict(workflow, SHORT, opened)
            assert wanted(workflow) == 1


async def test_to_zero_and_back_again_and_again_under_load(config):
    async with registry(config) as opened, trio.open_nursery() as nursery:
        workflow = await opened.register("none.war")
        assert (wanted(workflow), workflow.healthy()) == (0, True)
        for _ in range(3):
            clients = Clients(opened, workflow, nursery)
            clients.start(4)
            await until(lambda: clients.answers > 8)  # noqa: B023 - it is waited for here
            await clients.stop()
            await until(lambda: wanted(workflow) == 0)
            await workflow.scaled("m")
            assert workers() == set()


async def test_a_worker_is_let_go_while_a_request_arrives(config):
    """It is served, by another worker, whether the first has left yet or not."""
    config = dataclasses.replace(config, worker_idle_timeout=0.05)
    async with registry(config) as opened:
        workflow = await opened.register("none.war")
        pids = set()
        for _ in range(5):
            pids.add(await predict(workflow, b"pid", opened))
            await until(lambda: wanted(workflow) == 0)
        assert len(pids) == 5


async def test_it_is_scaled_by_hand_while_it_grows(config):
    async with registry(config) as opened, trio.open_nursery() as nursery:
        workflow = await opened.register("one.war")
        clients = Clients(opened, workflow, nursery)
        clients.start(8)
        await until(lambda: wanted(workflow) > 1)
        for least, most in ((1, 1), (2, 4), (0, 1), (3, 3)):
            await opened.scale("one__m", None, least, most)
            assert least <= wanted(workflow) <= most
        answers = clients.answers
        await until(lambda: clients.answers > answers + 8)
        await clients.stop()


async def test_it_is_unregistered_while_it_grows(config):
    async with registry(config) as opened, trio.open_nursery() as nursery:
        workflow = await opened.register("one.war")
        refused = 0

        async def ask():
            while True:
                await predict(workflow, SHORT, opened)

        async def ask_until_refused():
            nonlocal refused
            with pytest.raises(ServiceUnavailableError, match="is being unregistered"):
                await ask()
            refused += 1

        for _ in range(8):
            nursery.start_soon(ask_until_refused)
        await until(lambda: wanted(workflow) > 1)
        await opened.unregister("one")
        await until(lambda: refused == 8)
        assert workers() == set()


SLEEPY = """
import time

def handle(data, context):
    if data is None:
        time.sleep(0.6)
        {then}
    return data and [row.get("body") for row in data]
"""


@pytest.mark.parametrize(("then", "answer"), [("pass", "x"), ("raise OSError('no weights')", None)])
async def test_a_request_waits_for_its_worker_to_load_but_for_none_that_cannot(config, store, then, answer):
    pack_handler(store, "sleepy", SLEEPY.format(then=then))
    settings = "{url: sleepy.mar, min-workers: 0, max-workers: 1, timeout-ms: 300, retry-attempts: 1}"
    pack(store, "sleepy", f"models:\n  m: {settings}\ndag:\n  m: []\n")
    async with registry(config) as opened:
        workflow = await opened.register("sleepy.war")
        with trio.fail_after(30):
            if answer is None:
                with pytest.raises(InternalError, match="Error executing m"):
                    await predict(workflow, b"x", opened)
            else:
                assert await predict(workflow, b"x", opened) == answer
