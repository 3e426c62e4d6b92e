"""A store with a few workflows, and the configuration of a registry that serves them."""

import pytest

from tests.archives import chain, pack
from tests.pools import MIB, PATIENCE
from wfserve.config import Config
from wfserve.workers import process


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(process, "STOP_GRACE", 0.2)


@pytest.fixture
def store(tmp_path):
    made = tmp_path / "store"
    made.mkdir()
    pack(made, "echo", chain("echo"))
    pack(made, "two", chain("echo", "upper"))
    pack(made, "obey", chain("obey", settings="timeout-ms: 30000"))
    return made


@pytest.fixture
def config(tmp_path, store):
    return Config(
        workflow_store=store,
        model_store=store,
        state_dir=tmp_path / "state",
        arena_size=64 * MIB,
        unregister_timeout=PATIENCE,
    )
