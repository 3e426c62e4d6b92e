"""A workflow is served whole or not at all; whoever is cancelled, and wherever, leaves nothing behind."""

import dataclasses
from types import SimpleNamespace

import pytest
import trio

from tests.archives import FUNCTIONS, chain, pack, pack_handler
from tests.pools import PATIENCE, workers
from tests.registries import left_in, predict, registry, running, until
from wfserve.archive.fetch import Fetcher
from wfserve.errors import (
    BadRequestError,
    ConflictError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    ServiceUnavailableError,
    WfserveError,
    WorkflowNotFoundError,
)
from wfserve.registry import prepare as preparing
from wfserve.registry.lines import Lines

SLEEPY = """
import time

def sleepy(data, context):
    time.sleep(3600)
"""
FAILING = """
def fails(data, context):
    raise KeyError("no such weights")
"""


async def test_register_serve_unregister(config):
    async with registry(config) as opened:
        workflow = await opened.register("two.war")
        assert opened.lookup("two") is workflow
        assert await predict(workflow, b"hello", opened) == "HELLO"
        assert len(workers()) == 1  # both nodes share it
        assert opened.healthy()
        await opened.unregister("two")
        assert workers() == set()
        assert left_in(config) == []
        with pytest.raises(WorkflowNotFoundError, match="two"):
            opened.lookup("two")
        with pytest.raises(WorkflowNotFoundError):
            await opened.unregister("two")


async def test_closing_the_registry_ends_what_is_registered(config):
    async with registry(config) as opened:
        await opened.register("two.war")
        await opened.register("echo.war", "another name")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "line\nbreak", "\0", "a" * 256])
async def test_a_name_that_cannot_be_in_a_path(config, name):
    async with registry(config) as opened:
        with pytest.raises(BadRequestError):
            await opened.register("echo.war", name)
        assert left_in(config) == []


def broken_archives(store):
    """Archives that fail at each step of a registration, and what it says."""
    (store / "rubbish.war").write_bytes(b"rubbish")
    pack(store, "cycle", "models: {}\ndag:\n  echo: [left]\n  left: [right]\n  right: [left]\n")
    pack(store, "no-model", "models:\n  m: {url: missing.mar}\ndag:\n  echo: [m]\n")
    (store / "bad.mar").write_bytes(b"rubbish")
    pack(store, "bad-model", "models:\n  m: {url: bad.mar}\ndag:\n  echo: [m]\n")
    pack(store, "no-load", chain("echo", "fails"), FUNCTIONS + FAILING)
    return {
        "missing.war": "",
        "rubbish.war": "",
        "cycle.war": "Not a valid DAG",
        "no-model.war": "Workflow Node no-model__m failed to register",
        "bad-model.war": "Workflow Node bad-model__m failed to register",
        "no-load.war": "Failed to start workers for model no-load__fails version: 1.0",
    }


async def test_what_fails_at_any_step_leaves_nothing(config, store):
    async with registry(config) as opened:
        for archive, why in broken_archives(store).items():
            with pytest.raises(WfserveError) as caught:
                await opened.register(archive)
            assert why in caught.value.message
            assert (archive, left_in(config), workers(), list(opened)) == (archive, [], set(), [])
        await opened.register("echo.war", "no-load")  # the name is free


async def test_a_name_is_taken_once(config):
    async with registry(config) as opened:
        await opened.register("echo.war")
        for archive, name in (("echo.war", None), ("two.war", "echo")):
            with pytest.raises(ConflictError, match="echo is already registered"):
                await opened.register(archive, name)
        assert len(left_in(config)) == 1
        assert opened.lookup("echo").blueprint.url == "echo.war"


@pytest.mark.parametrize("name", [None, "same"])
async def test_of_two_registrations_of_one_name_at_once_one_succeeds(config, name):
    async with registry(config) as opened:
        results = []

        async def register():
            try:
                results.append(await opened.register("echo.war", name))
            except ConflictError as error:
                results.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(register)
            nursery.start_soon(register)
        assert sum(isinstance(result, ConflictError) for result in results) == 1
        assert len(list(opened)) == len(left_in(config)) == len(workers()) == 1


async def started(opened):
    """Return when a worker has been started and loads."""
    with trio.fail_after(PATIENCE):
        while not workers():
            await trio.lowlevel.checkpoint()


async def test_unregistering_what_still_loads(config, store):
    pack(store, "sleepy", chain("sleepy"), SLEEPY)
    async with registry(config) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(opened.register, "sleepy.war")
        await started(opened)
        with pytest.raises(WorkflowNotFoundError):
            await opened.unregister("sleepy")
        with pytest.raises(ConflictError):
            await opened.register("echo.war", "sleepy")
        nursery.cancel_scope.cancel()


STAGES = ["fetched", "unpacked", "model", "loading", "served"]


@pytest.mark.parametrize("stage", STAGES)
async def test_a_registration_cancelled_at_any_stage_leaves_nothing(config, store, stage, monkeypatch):
    """A client that hangs up cancels its registration, wherever that is."""
    pack_handler(store, "m", "def handle(data, context):\n    return data and [r['body'] for r in data]\n")
    pack(store, "w", "models:\n  m: {url: m.mar}\ndag:\n  echo: [m]\n", FUNCTIONS + SLEEPY)
    async with registry(config) as opened:
        with trio.CancelScope() as scope:
            cancel_at(stage, scope, monkeypatch)
            await opened.register("w.war")
        assert scope.cancelled_caught
        assert (left_in(config), list(opened)) == ([], [])
        assert workers() == set()
        monkeypatch.undo()
        await opened.register("w.war")


def cancel_at(stage, scope, monkeypatch):
    """Cancel `scope` from within what `stage` names; threads go on until they have done their work."""
    where, name = {
        "fetched": (Fetcher, "workflow"),
        "unpacked": (preparing, "open_workflow"),
        "model": (preparing, "open_model"),
        "loading": (Lines, "start"),
        "served": (Lines, "start"),
    }[stage]
    original = getattr(where, name)

    def cancelling(*arguments):
        if trio.lowlevel.in_trio_run():
            scope.cancel()
        else:
            trio.from_thread.run_sync(scope.cancel)
        return original(*arguments)

    async def cancelling_then(*arguments):
        result = await original(*arguments)
        scope.cancel()
        return result

    monkeypatch.setattr(where, name, cancelling_then if stage == "served" else cancelling)


async def test_unregistering_lets_requests_finish_and_takes_no_more(config):
    async with registry(config) as opened:
        workflow = await opened.register("obey.war")
        answers = []

        async def slow():
            answers.append(await predict(workflow, b"sleep 0.3", opened))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await running(workflow)
            nursery.start_soon(opened.unregister, "obey")
            await until(lambda: workflow.closing)
            with pytest.raises(ConflictError):
                await opened.register("obey.war")
            with pytest.raises(ServiceUnavailableError):  # it was looked up before, and its body came late
                await predict(workflow, b"late", opened)
        assert answers == ["sleep 0.3"]
        await opened.register("obey.war")


async def test_unregistering_has_a_limit_in_time(config):
    impatient = dataclasses.replace(config, unregister_timeout=0.1)
    async with registry(impatient) as opened, trio.open_nursery() as nursery:
        workflow = await opened.register("obey.war")
        errors = []

        async def endless():
            try:
                await predict(workflow, b"sleep 3600", opened)
            except WfserveError as error:
                errors.append(error)

        nursery.start_soon(endless)
        await running(workflow)
        with trio.fail_after(PATIENCE):
            await opened.unregister("obey")
        await until(lambda: errors)
        assert isinstance(errors[0], ServiceUnavailableError)


async def test_unregistering_twice_at_once(config):
    async with registry(config) as opened:
        await opened.register("echo.war")
        results = []

        async def unregister():
            try:
                results.append(await opened.unregister("echo"))
            except (WorkflowNotFoundError, ConflictError) as error:
                results.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unregister)
            nursery.start_soon(unregister)
        assert [result is None for result in results].count(True) == 1


async def test_an_unregistration_that_is_cancelled_goes_on(config):
    async with registry(config) as opened:
        workflow = await opened.register("echo.war")
        with trio.CancelScope() as scope:
            scope.cancel()
            await opened.unregister("echo")
        with trio.fail_after(PATIENCE):
            await workflow.gone.wait()
        assert left_in(config) == []


@pytest.mark.parametrize("leaving", [False, True])
async def test_a_workflow_that_breaks_takes_nothing_else_along(config, leaving, monkeypatch, caplog):
    """Even if it has been unregistered and only its last requests run."""
    async with registry(config) as opened:
        await opened.register("echo.war")
        workflow = await opened.register("obey.war")
        refused = []

        async def request():
            try:
                await predict(workflow, b"sleep 3600", opened)
            except ServiceUnavailableError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await running(workflow)
            if leaving:
                nursery.start_soon(opened.unregister, "obey")
                await until(lambda: workflow.closing)

            def fail(batch, reason):
                raise RuntimeError("a bug")

            stage = workflow.route.stages["obey"]
            monkeypatch.setattr(stage.pool, "_listener", SimpleNamespace(batch_lost=fail))
            (batch,) = stage._running.batches
            stage.pool.stop(batch)
            with trio.fail_after(PATIENCE):
                await workflow.gone.wait()
        assert len(refused) == 1
        assert [each.name for each in opened] == ["echo"]
        assert await predict(opened.lookup("echo"), b"still", opened) == "still"
    assert any("workflow obey failed" in record.message for record in caplog.records)


async def test_nodes_are_found_by_the_name_they_are_registered_as(config):
    async with registry(config) as opened:
        inner, outer = await opened.register("echo.war", "a"), await opened.register("two.war", "a__b")
        assert opened.node("a__echo") == (inner, inner.blueprint.nodes["echo"])
        assert opened.node("a__b__upper", "1.0") == (outer, outer.blueprint.nodes["upper"])
        for name in ("a", "a__", "a__b", "a__b__", "a__upper", "echo", "__echo", ""):
            with pytest.raises(ModelNotFoundError, match=f"^Model not found: {name}$"):
                opened.node(name)
        with pytest.raises(ModelVersionNotFoundError, match=r"2\.0 does not exist for model: a__echo"):
            opened.node("a__echo", "2.0")
        await opened.unregister("a")
        with pytest.raises(ModelNotFoundError):
            opened.node("a__echo")


async def test_of_two_nodes_of_one_name_the_first_counts_while_it_is_there(config, store):
    functions = f"{FUNCTIONS}\nb__echo = echo\n"
    pack(store, "long", chain("b__echo"), functions)
    async with registry(config) as opened:
        first, second = await opened.register("long.war", "a"), await opened.register("echo.war", "a__b")
        assert opened.node("a__b__echo") == (first, first.blueprint.nodes["b__echo"])
        await opened.unregister("a")
        assert opened.node("a__b__echo") == (second, second.blueprint.nodes["echo"])


async def test_waiting_for_workers_of_a_workflow_that_leaves(config, store):
    code = (
        FUNCTIONS
        + """
def lame(data, context):
    if data is None and os.path.exists("loaded"):
        time.sleep(3600)
    open("loaded", "w").close()
    return data and ["x"]
"""
    )
    pack(store, "lame", chain("lame"), code)
    async with registry(config) as opened, trio.open_nursery() as nursery:
        workflow = await opened.register("lame.war")
        workflow.resize("lame", 2, 2)
        nursery.start_soon(opened.unregister, "lame")
        with pytest.raises(ServiceUnavailableError, match="is being unregistered"):
            await workflow.scaled("lame")


async def test_pages(config):
    async with registry(config) as opened:
        for name in "cab":
            await opened.register("echo.war", name)

        def page(limit, offset):
            found, following = opened.page(limit, offset)
            return [workflow.name for workflow in found], following

        assert page(2, 0) == (["a", "b"], 2)
        assert page(2, 2) == (["c"], None)
        assert page(100, 0) == page(-1, 0) == page(101, -5) == (["a", "b", "c"], None)
        assert page(3, 0) == (["a", "b", "c"], 3)
        assert page(2, 10**12) == ([], None)
