"""A registry starts whatever it finds, loads what it can, and says whether it is healthy."""

import os

import pytest
import trio

from tests.archives import chain, pack
from tests.registries import left_in, predict, registry, until
from wfserve.errors import ConfigError, InternalError
from wfserve.registry import opening, start
from wfserve.registry.opening import open_registry
from wfserve.registry.startup import load


async def test_loading_at_start(config, store):
    async with registry(config) as opened:
        load(opened, ("echo.war", "second=echo.war"))
        assert not opened.healthy()
        async with trio.open_nursery() as nursery:  # any number may wait
            nursery.start_soon(opened.loaded)
            nursery.start_soon(opened.loaded)
        assert sorted(workflow.name for workflow in opened) == ["echo", "second"]
        assert opened.healthy()
        assert opened.failed_to_load == []
        await opened.loaded()


async def test_what_does_not_load_at_start_is_unhealthy_and_stops_nothing(config, caplog, monkeypatch):
    async with registry(config) as opened:
        original = start.prepare

        async def prepare(url, *more, **named):
            if url == "full.war":
                raise OSError(28, "No space left on device")
            return await original(url, *more, **named)

        monkeypatch.setattr(start, "prepare", prepare)
        load(opened, ("missing.war", "full.war", "echo.war"))
        await opened.loaded()
        assert [workflow.name for workflow in opened] == ["echo"]
        assert sorted(opened.failed_to_load) == ["full.war", "missing.war"]
        assert not opened.healthy()
    assert any("cannot load workflow missing.war" in record.message for record in caplog.records)


async def test_a_node_without_its_workers_is_unhealthy(config, store):
    code = """
    import os

    def once(data, context):
        if data is None:
            if os.path.exists("loaded"):
                raise KeyError("only once")
            open("loaded", "w").close()
            return None
        os.abort()
    """
    pack(store, "once", chain("once", settings="retry-attempts: 0\ntimeout-ms: 5000"), code)
    async with registry(config) as opened:
        workflow = await opened.register("once.war")
        assert opened.healthy()
        with pytest.raises(InternalError, match="Error executing once"):
            await predict(workflow, b"x", opened)
        await until(lambda: not opened.healthy())


async def test_files_of_a_server_that_was_killed_are_removed(config):
    (config.state_dir / "work" / "old").mkdir(parents=True)
    async with registry(config):
        assert left_in(config) == []


async def test_a_state_directory_has_one_registry(config):
    async with registry(config):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} already serves"):
            async with open_registry(config):
                pytest.fail("it has opened")


async def test_memory_that_cannot_be_reserved_is_one_line(config, monkeypatch):
    def refuse(limit, pinned_bytes):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(opening, "ShmTransport", refuse)
    with pytest.raises(ConfigError, match="cannot reserve shared memory"):
        async with open_registry(config):
            pytest.fail("it has opened")
    monkeypatch.undo()
    async with registry(config):  # and the state directory is free
        pass


async def test_a_fork_server_that_does_not_start_at_first(config, monkeypatch, caplog):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(opening, "warm_up", refuse)
    async with registry(config) as opened:
        await until(lambda: caplog.records)
        assert "cannot start the fork server" in caplog.text
        await opened.register("echo.war")
