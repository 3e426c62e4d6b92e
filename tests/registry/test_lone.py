"""Models of a snapshot are served under their names, once, with the settings and default that they had."""

import json
from dataclasses import replace

import pytest

from tests.archives import pack_handler
from tests.registries import predict, registry
from wfserve.archive.war import open_workflow
from wfserve.errors import ConfigError
from wfserve.registry.lone import missing, models_of, packed
from wfserve.registry.startup import load
from wfserve.state.torchserve import SnapshotModel

MODEL = SnapshotModel("noop", "1.0", False, "noop.mar", 1, 2, 3, 100, 60, None)
DEFAULT = replace(MODEL, version="1.11", is_default=True)
HANDLER = "def handle(data, context):\n    return data and ['noop' for _ in data]\n"


@pytest.fixture
def lone(config, store):
    pack_handler(store, "noop", HANDLER)
    return config


def versions(opened):
    return [each.version for each in opened.served("noop").record.versions]


async def test_they_are_served_as_they_ran(lone):
    async with registry(lone) as opened:
        load(opened, models=[DEFAULT, MODEL])
        await opened.loaded()
        assert opened.healthy()
        assert versions(opened) == ["1.11", "1.0"]
        workflow = opened.lookup("noop")
        assert workflow.version == "1.11"
        settings = workflow.blueprint.nodes["noop"].settings
        assert (settings.min_workers, settings.max_workers, settings.batch_size) == (1, 2, 3)
        assert (settings.max_batch_delay_ms, settings.timeout_ms, settings.retry_attempts) == (100, 60_000, 0)
        assert await predict(workflow, b"x", opened) == "noop"
        for name in ("noop", "noop__noop"):
            assert opened.node(name)[0] is workflow
            assert opened.node(name, "1.0")[0] is opened.lookup("noop", "1.0")


async def test_what_is_there_stays_as_it_is(lone, store):
    async with registry(lone) as opened:
        load(opened, models=[DEFAULT, MODEL])
        await opened.loaded()
        await opened.set_default("noop", "1.0")
        before = opened.state.workflow("noop"), opened.state.history()
    (store / "noop.mar").unlink()
    async with registry(lone) as opened:
        load(opened, models=[DEFAULT, MODEL])
        await opened.loaded()
        assert opened.healthy()
        assert (opened.state.workflow("noop"), opened.state.history()) == before
        assert opened.lookup("noop").version == "1.0"


async def test_one_more_version_beside_those_that_are_there(lone):
    async with registry(lone) as opened:
        load(opened, models=[MODEL])
        await opened.loaded()
    async with registry(lone) as opened:
        load(opened, models=[DEFAULT, MODEL])
        await opened.loaded()
        assert versions(opened) == ["1.0", "1.11"]
        assert opened.lookup("noop").version == "1.0"  # who answers is not changed by a start


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"archive": "nowhere.mar"}, "Model not found at: nowhere.mar"),
        ({"archive": "../noop.mar"}, "Relative path is not allowed in url: ../noop.mar"),
        ({"version": "v1"}, "Version 'v1' is not made of digits and dots"),
        ({"name": "a/b"}, "cannot name a node"),
        ({"min_workers": 3}, "min-workers"),
    ],
)
async def test_one_that_does_not_load_is_told_and_keeps_no_other_from_it(lone, caplog, broken, told):
    async with registry(lone) as opened:
        load(opened, models=[replace(DEFAULT, **broken), MODEL])
        await opened.loaded()
        assert not opened.healthy()
        assert told in caplog.text
        assert opened.lookup("noop").version == "1.0"


def test_an_archive_is_equal_for_an_equal_model_and_can_be_read(tmp_path):
    named = replace(MODEL, name="ein Name: {#")
    assert packed(named) == packed(replace(named))
    (tmp_path / "w.war").write_bytes(packed(named))
    read = open_workflow(tmp_path / "w.war", tmp_path / "into")
    assert (read.name, list(read.spec.dag)) == ("ein Name: {#", ["ein Name: {#"])


def test_what_is_there_is_not_missing():
    other = replace(MODEL, name="other")
    assert missing([DEFAULT, MODEL, other], {("noop", "1.11")}) == [[MODEL], [other]]


def test_where_they_are_named(config, tmp_path):
    state = {"defaultVersion": True, "marName": "noop.mar", "minWorkers": 1, "maxWorkers": 1}
    state |= {"batchSize": 1, "maxBatchDelay": 100}
    text = json.dumps({"models": {"noop": {"1.0": {**state, "defaultVersion": False}, "2.0": state}}})
    (tmp_path / "one.cfg").write_text(f"model_snapshot={text}\n")
    inline = models_of(replace(config, model_snapshot=text))
    assert [each.version for each in inline] == ["2.0", "1.0"]  # the default first
    assert models_of(replace(config, snapshot=tmp_path / "one.cfg")) == inline
    assert models_of(config) == ()
    for wrong in ({"model_snapshot": "{"}, {"snapshot": tmp_path / "nowhere"}):
        with pytest.raises(ConfigError):
            models_of(replace(config, **wrong))
