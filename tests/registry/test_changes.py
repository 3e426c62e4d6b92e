"""A change happens or has not happened: to what runs, to what requests see, and to what is kept."""

import contextlib
import sqlite3
from dataclasses import replace
from functools import partial

import pytest
import trio

from tests.archives import FUNCTIONS, chain, pack, pack_handler
from tests.pools import workers
from tests.registries import left_in, predict, registry, running, until
from wfserve.errors import (
    BadRequestError,
    ConflictError,
    InternalError,
    ServiceUnavailableError,
    WorkflowError,
)
from wfserve.registry.catalogue import ITSELF
from wfserve.registry.startup import load
from wfserve.state.files import StateError
from wfserve.state.records import LiveSettings, Traffic

SHY = """
import os

def handle(data, context):
    if data is None and os.path.exists("loaded"):
        raise KeyError("only once")
    open("loaded", "w").close()
    return data and ["x" for _ in data]
"""


@pytest.fixture
def full(monkeypatch):
    """Have the disk be full in a block."""

    @contextlib.contextmanager
    def filled(opened):
        def refuse(*_):
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(opened.state._store, "_log", refuse)
            yield

    return filled


def seen(opened):
    return {each.name: (each.record, list(each.running)) for each in opened.names}


def living(opened):
    return {each.pid for w in opened for pool in w.pools.values() for each in pool.statistics().replicas}


@pytest.mark.parametrize(
    "change",
    [
        lambda opened: opened.register("echo.war", "w", "3.0"),
        lambda opened: opened.register("echo.war", "w", "3.0", replace=True),
        lambda opened: opened.register("echo.war", "v"),
        lambda opened: opened.unregister("w"),
        lambda opened: opened.unregister("w", "2.0"),
        lambda opened: opened.set_default("w", "2.0"),
        lambda opened: opened.set_traffic("w", Traffic({"2.0": 1})),
        lambda opened: opened.change("w", "1.0", {"echo": LiveSettings(timeout_ms=1000)}),
        lambda opened: opened.scale("w__echo", "1.0", 2, 2),
    ],
)
async def test_what_cannot_be_kept_does_not_happen(config, full, change):
    async with registry(config) as opened:
        for version in ("1.0", "2.0"):
            await opened.register("echo.war", "w", version)
        before, processes = seen(opened), living(opened)
        with full(opened), pytest.raises(StateError, match="disk is full"):
            await change(opened)
        assert seen(opened) == before
        assert len(left_in(config)) == 2
        assert living(opened) == processes
        assert opened.lookup("w").blueprint.nodes["echo"].settings.timeout_ms == 10_000
        assert await predict(opened.lookup("w"), b"still", opened) == "still"
        await change(opened)


async def test_settings_whose_workers_do_not_load_change_nothing(config, store):
    pack_handler(store, "shy", SHY)
    pack(store, "shy", "models:\n  m: {url: shy.mar}\ndag:\n  m: [echo]\n")
    async with registry(config) as opened:
        workflow = await opened.register("shy.war")
        before, processes, record = workflow.blueprint, living(opened), opened.state.workflow("shy")
        with pytest.raises(InternalError, match="Failed to start workers for model shy__m"):
            await opened.change("shy", None, {"m": LiveSettings(batch_size=4, timeout_ms=7)})
        assert workflow.blueprint == before
        assert living(opened) == processes
        assert opened.state.workflow("shy") == record
        assert await predict(workflow, b"x", opened) == "x"


async def test_settings_that_contradict_others_change_nothing(config):
    async with registry(config) as opened:
        workflow = await opened.register("two.war")
        before = workflow.blueprint
        with pytest.raises(BadRequestError, match="min_workers 2 is more than max_workers 1"):
            await opened.change("two", None, {"echo": LiveSettings(timeout_ms=5), "upper": LiveSettings(2)})
        assert workflow.blueprint == before


async def test_a_change_that_is_cancelled_while_workers_load(config, store):
    pack_handler(store, "lazy", SHY.replace('raise KeyError("only once")', "import time; time.sleep(3600)"))
    pack(store, "lazy", "models:\n  m: {url: lazy.mar}\ndag:\n  m: []\n")
    async with registry(config) as opened:
        workflow = await opened.register("lazy.war")
        before, processes = workflow.blueprint, workers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.change, "lazy", None, {"m": LiveSettings(batch_size=4)})
            await until(lambda: workers() > processes)
            for contradicting in (
                opened.change("lazy", None, {"m": LiveSettings(timeout_ms=5)}),
                opened.scale("lazy__m", None, 2, 2),
                opened.unregister("lazy"),
                opened.unregister("lazy", "1.0"),
                opened.register("echo.war", "lazy", "2.0", replace=True),
            ):
                with pytest.raises(ConflictError):
                    await contradicting
            nursery.cancel_scope.cancel()
        assert workflow.blueprint == before
        assert await predict(workflow, b"x", opened) == "x"


async def test_a_node_is_scaled_while_another_one_loads_workers(config, store, tmp_path):
    gate = tmp_path / "gate"
    code = f"import os, time\n\ndef handle(data, context):\n    while os.path.exists({str(gate)!r}):\n"
    pack_handler(store, "m", code + "        time.sleep(0.01)\n    return data and ['x' for _ in data]\n")
    models = "models:\n  m: {url: m.mar, min-workers: 1, max-workers: 2}\n  n: {url: m.mar}\n"
    pack(store, "w", models + "dag:\n  m: [n]\n")
    async with registry(config) as opened:
        workflow, before = await opened.register("w.war"), workers()
        gate.touch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(opened.change, "w", None, {"n": LiveSettings(batch_size=2)})
            await until(lambda: workers() > before)
            await opened.scale("w__m", None, 1, 3)
            gate.unlink()
        await workflow.scaled("m")
        stages = workflow.route.stages
        assert (stages["m"].settings.max_workers, stages["n"].settings.batch_size) == (3, 2)


async def test_a_request_keeps_the_workers_that_it_began_with(config, store):
    pack_handler(store, "m", FUNCTIONS + "\nhandle = obey\n")
    pack(store, "w", "models:\n  m: {url: m.mar}\ndag:\n  m: []\n")
    async with registry(config) as opened:
        workflow = await opened.register("w.war")
        answers = []

        async def slow():
            answers.append(await predict(workflow, b"sleep 0.5", opened))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await running(workflow)
            await opened.change("w", None, {"m": LiveSettings(batch_size=4)})
            assert answers == []  # nobody waits for it
            assert await predict(workflow, b"new", opened) == "new"
        assert answers == ["sleep 0.5"]
        await until(lambda: len(workers()) == 1)


async def test_of_two_changes_at_once_that_contradict_each_other_one_wins(config):
    async with registry(config) as opened:
        for version in ("1.0", "2.0", "3.0"):
            await opened.register("echo.war", "w", version)
        outcomes = []

        async def attempt(change):
            try:
                await change
                outcomes.append(None)
            except ConflictError as error:
                outcomes.append(error.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, opened.set_default("w", "2.0"))
            nursery.start_soon(attempt, opened.set_default("w", "3.0"))
        assert sorted(outcomes, key=str) == [None, "Workflow w is being changed by another call."]


async def test_versions_load_side_by_side_and_are_restored_so(config):
    async with registry(config) as opened, trio.open_nursery() as nursery:
        for version in ("1.0", "2.0", "3.0"):
            nursery.start_soon(opened.register, "echo.war", "w", version)
    async with registry(config) as opened:
        load(opened)
        assert not opened.healthy()
        with pytest.raises(ServiceUnavailableError, match="has not been loaded"):
            opened.lookup("w")
        await opened.loaded()
        assert opened.healthy()
        assert sorted(opened.served("w").running) == ["1.0", "2.0", "3.0"]
        with pytest.raises(ConflictError, match=r"Workflow version 1\.0 is already registered"):
            await opened.register("echo.war", "w", "1.0")


async def test_archives_that_nothing_needs_are_removed(config):
    contents = config.state_dir / "registry" / "contents"

    def kept():
        return [path.name for path in contents.iterdir() if path.is_file()]

    async with registry(config) as opened:
        await opened.register("echo.war")
        await opened.register("two.war")
        assert len(kept()) == 2
        await opened.unregister("two")
        await until(lambda: len(kept()) == 1)


async def test_archives_of_what_has_failed_are_removed(config, store):
    contents = config.state_dir / "registry" / "contents"

    def kept():
        return [path.name for path in contents.iterdir() if path.is_file()]

    pack_handler(store, "broken", "def handle(data, context):\n    raise KeyError\n")
    pack(store, "broken", "models:\n  m: {url: broken.mar}\ndag:\n  m: []\n")
    async with registry(config) as opened:
        await opened.register("obey.war")
        for call, failure in (
            (lambda: opened.register("broken.war"), WorkflowError),
            (lambda: opened.samples.keep("obey", b"raise", {}, author=ITSELF), BadRequestError),
        ):
            with pytest.raises(failure):
                await call()
            await until(lambda: len(kept()) == 1)


@contextlib.contextmanager
def meanwhile(opened, monkeypatch, call):
    """Have something happen while a version that is to be registered is warmed up."""
    warm_up = opened.samples.warm_up

    async def busy(workflow, *, is_new):
        await call()
        await warm_up(workflow, is_new=is_new)

    with monkeypatch.context() as patch:
        patch.setattr(opened.samples, "warm_up", busy)
        yield


async def test_settings_are_not_changed_of_a_version_that_is_registered_again(config, monkeypatch):
    """Else what was acknowledged would not hold of the workers that take over."""
    async with registry(config) as opened:
        await opened.register("echo.war")
    async with registry(config) as opened:
        load(opened)
        await opened.loaded()
        settings = {"echo": LiveSettings(timeout_ms=77)}

        async def change():
            for call in (opened.change("echo", None, settings), opened.scale("echo__echo", None, 2, 2)):
                with pytest.raises(ConflictError):
                    await call

        with meanwhile(opened, monkeypatch, change):
            await opened.register("echo.war")
        await opened.change("echo", None, settings)
        assert opened.lookup("echo").blueprint.nodes["echo"].settings.timeout_ms == 77


async def test_what_is_registered_again_is_not_seen_before_it_is_kept(config):
    """Not even if another change of the workflow comes first, and is shown."""
    async with registry(config) as opened:
        await opened.register("echo.war", "w", "1.0")
        before = await opened.register("two.war", "w", "2.0")
        async with trio.open_nursery() as nursery, opened._committing:
            nursery.start_soon(partial(opened.register, "two.war", "w", "2.0", again=True))
            await until(lambda: opened._committing.statistics().tasks_waiting)
            opened._show("w")
            assert opened.lookup("w", "2.0") is before
        assert opened.lookup("w", "2.0") is not before


async def test_what_could_not_be_loaded_is_registered_again_with_its_settings(config):
    async with registry(config) as opened:
        await opened.register("echo.war", "w", "1.0")
        await opened.change("w", "1.0", {"echo": LiveSettings(timeout_ms=77)})
        kept = opened.state.contents.path(opened.state.workflow("w").version("1.0").archive)
    kept.unlink()
    async with registry(config) as opened:
        load(opened)
        await opened.loaded()
        with pytest.raises(ConflictError, match=r"version 1\.0 is already registered"):
            await opened.register("two.war", "w", "1.0")
        workflow = await opened.register("echo.war", "w", "1.0")
        assert workflow.blueprint.nodes["echo"].settings.timeout_ms == 77
        assert opened.healthy()
        with pytest.raises(ConflictError, match=r"version 1\.0 is already registered"):
            await opened.register("echo.war", "w", "1.0")


@pytest.mark.parametrize("replaces", [False, True])
async def test_what_is_registered_again_becomes_the_default_if_that_is_asked_for(config, replaces):
    async with registry(config) as opened:
        await opened.register("echo.war", "w")
        await opened.register("two.war", "w", "2.0", default=True)
    async with registry(config) as opened:
        load(opened)
        await opened.loaded()
        before = opened.lookup("w")
        await opened.register("echo.war", "w", default=not replaces, replace=replaces)
        record = opened.served("w").record
        assert record.default == "1.0"
        assert [each.version for each in record.versions] == (["1.0"] if replaces else ["1.0", "2.0"])
        assert before.closing == replaces


async def test_a_version_whose_snapshot_left_out_a_model(config, store, caplog):
    pack_handler(store, "m", "def handle(data, context):\n    return data and ['x' for _ in data]\n")
    pack(store, "m", "models:\n  m: {url: m.mar}\ndag:\n  m: []\n")
    async with registry(config) as opened:
        await opened.register("m.war")
        (version,) = opened.state.workflow("m").versions
        opened.state.exchange_version(ITSELF, "m", replace(version, models={}))
    async with registry(config) as opened:
        load(opened)
        await opened.loaded()
        (said,) = (each for each in caplog.records if "cannot load workflow m 1.0" in each.message)
        assert "No archive was kept for the model m." in said.message
        assert said.exc_info is None
        await opened.unregister("m")


async def test_nodes_of_versions_are_found(config, store):
    pack(store, "other", chain("left"))
    async with registry(config) as opened:
        one = await opened.register("two.war", "w", "1.0")
        two = await opened.register("other.war", "w", "2.0", default=True)
        assert opened.node("w__left")[0] is opened.node("w__left", "2.0")[0] is two
        assert opened.node("w__upper", "1.0")[0] is one
        assert [plan.version for _, plan in opened.nodes("w__upper")] == ["1.0"]
