"""Servers that several tests share; each kind is started once."""

import pytest

from tests.archives import chain, pack
from tests.servers import Server

SHARED = {
    "upper": chain("echo", "upper"),
    "obey": chain("obey", settings="timeout-ms: 5000"),
    "impatient": chain("obey", settings="timeout-ms: 700"),
    "leaves": "models: {}\ndag:\n  echo: [left, right]\n",
    "diamond": "models: {}\ndag:\n  echo: [left, right]\n  left: [join]\n  right: [join]\n",
}


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A store with the workflows of SHARED."""
    directory = tmp_path_factory.mktemp("store")
    for name, spec in SHARED.items():
        pack(directory, name, spec)
    return directory


@pytest.fixture(scope="session", params=["serve", "fronts", "hypercorn"])
def server(request, tmp_path_factory, store):
    """A running server of each kind, with the workflows of SHARED; nothing is left of it."""
    with Server(tmp_path_factory.mktemp(request.param), store, request.param) as running:
        for name in SHARED:
            running.register(f"{name}.war")
        yield running
        for name in SHARED:
            running.call("DELETE", f"/workflows/{name}")
        assert running.metric("wfserve_arena_slots") == 0
