"""Nodes that share workers behave as if each had its own: who is tried again, who is blamed, who is found."""

import dataclasses

import pytest
import trio

from tests.archives import chain, pack, pack_handler
from tests.pools import workers
from tests.registries import predict, registry
from tests.support import payload, text
from wfserve.dag.walk import Request
from wfserve.errors import InternalError, WorkflowError

# Each step leaves a line in a file for every call, and `second` does what the body says.
CODE = """
import os, signal, time

def _called(name):
    with open("PATH", "a") as file:
        file.write(name + " ")

def first(data, context):
    if data is not None:
        _called("first")
        return [data[0]["body"]]

def second(data, context):
    if data is None:
        return None
    _called("second")
    word = bytes(data[0]["body"]).decode()
    fault, _, times = word.partition(" ")
    if open("PATH").read().count("second") <= int(times or 0):
        if fault == "hang":
            time.sleep(3600)
        elif fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(fault)
    return [word]

def third(data, context):
    if data is not None:
        _called("third")
        return [bytes(data[0]["body"]) + b"!"]
"""


@pytest.fixture
def called(tmp_path, store):
    """Pack the workflow `steps`; return what says which nodes were called."""
    path = tmp_path / "called"
    path.touch()
    settings = "retry-attempts: 1\ntimeout-ms: 500"
    pack(
        store, "steps", chain("first", "second", "third", settings=settings), CODE.replace("PATH", str(path))
    )
    pack(store, "apart", chain("first", "second", settings=f"{settings}\nfuse: off"), CODE)
    return lambda: path.read_text().split()


async def test_a_chain_has_one_worker(config, called):
    async with registry(config) as opened:
        workflow = await opened.register("steps.war")
        assert await predict(workflow, b"word", opened) == "word!"
        assert called() == ["first", "second", "third"]
        assert len(workers()) == 1
        assert [
            stage.statistics(step).attempts for step, stage in enumerate(workflow.route.stages.values())
        ] == [
            1,
            1,
            1,
        ]


async def test_unless_it_is_told_not_to(config, called):
    async with registry(config) as opened:
        await opened.register("apart.war")
        assert len(workers()) == 2


@pytest.mark.parametrize("fault", ["raise", "die", "hang"])
async def test_only_the_node_that_failed_is_tried_again(config, called, fault):
    async with registry(config) as opened:
        workflow = await opened.register("steps.war")
        assert await predict(workflow, fault.encode() + b" 1", opened) == f"{fault} 1!"
        assert called() == ["first", "second", "second", "third"]


@pytest.mark.parametrize("fault", ["raise", "die", "hang"])
async def test_the_node_that_failed_for_good_is_named(config, called, fault):
    async with registry(config) as opened:
        workflow = await opened.register("steps.war")
        began = trio.current_time()
        with pytest.raises(InternalError, match=r"^Error executing second$"):
            await predict(workflow, fault.encode() + b" 9", opened)
        assert called() == ["first", "second", "second"]
        if fault == "hang":
            assert 1.0 <= trio.current_time() - began < 5


async def test_a_node_of_a_chain_is_called_alone(config, called):
    async with registry(config) as opened:
        workflow = await opened.register("steps.war")
        request = Request(payload(opened._transport, b"[]"), payload(opened._transport, b"word"))
        done = await workflow.call_node("third", request)
        assert text(done.payload) == "word!"
        done.payload.release()
        assert called() == ["third"]


async def test_a_node_that_does_not_load_is_named(config, store):
    code = CODE.replace("def third(data, context):", "def third(data, context):\n    assert data is not None")
    pack(store, "lame", chain("first", "second", "third"), code)
    async with registry(config) as opened:
        with pytest.raises(WorkflowError, match=r"workers for model lame__third version: 1\.0"):
            await opened.register("lame.war")


@pytest.fixture
def around(store):
    """A model between two functions."""
    pack_handler(store, "m", "def handle(data, context):\n    return data and [r['body'] for r in data]\n")
    spec = "models:\n  timeout-ms: 20000\n  m: {url: m.mar}\ndag:\n  echo: [m]\n  m: [upper]\n"
    return pack(store, "around", spec)


async def test_a_model_that_gets_more_workers_gets_a_stage_of_its_own(config, around):
    """And shares one again when it has one; no request notices."""
    async with registry(config) as opened:
        workflow = await opened.register(around)
        answers = []

        async def client():
            while True:
                answers.append(await predict(workflow, b"x", opened))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(client)
            for count, alive in ((2, 4), (1, 1), (3, 5), (1, 1)):
                workflow.resize("m", count, count)
                await workflow.scaled("m")
                assert len(workers()) == alive
                seen = len(answers)
                while len(answers) < seen + 20:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert set(answers) == {"X"}
        assert workflow.blueprint.nodes["m"].stage.max_workers == 1


async def test_two_changes_at_once_leave_the_last(config, around):
    async with registry(config) as opened:
        workflow = await opened.register(around)
        workflow.resize("m", 2, 2)
        workflow.resize("m", 1, 1)
        await workflow.scaled("m")
        assert len(workers()) == 1
        assert await predict(workflow, b"x", opened) == "X"


async def test_a_stage_of_its_own_that_does_not_load_changes_nothing(config, store, tmp_path):
    code = """
    import os
    def handle(data, context):
        if data is None:
            assert not os.path.exists("once")
            open("once", "w").close()
        return data and [r['body'] for r in data]
    """
    pack_handler(store, "m", code)
    spec = "models:\n  timeout-ms: 20000\n  m: {url: m.mar}\ndag:\n  echo: [m]\n"
    pack(store, "once", spec)
    async with registry(dataclasses.replace(config, startup_timeout=20)) as opened:
        workflow = await opened.register("once.war")
        workflow.resize("m", 2, 2)
        with pytest.raises(InternalError, match="Failed to start workers for model once__m"):
            await workflow.scaled("m")
        assert workflow.blueprint.nodes["m"].stage.max_workers == 1
        assert await predict(workflow, b"x", opened) == "x"
        assert len(workers()) == 1


async def test_a_workflow_that_leaves_while_its_stages_are_exchanged(config, around):
    async with registry(config) as opened:
        workflow = await opened.register(around)
        workflow.resize("m", 2, 2)
        await opened.unregister("around")
        assert workers() == set()
