"""Pools of one worker that runs some code."""

import pytest

from tests.pools import processes
from wfserve.workers import process


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(process, "STOP_GRACE", 0.2)


@pytest.fixture
def one(tmp_path):
    """Open a pool of one worker of some code."""

    def open_pool(code, function, **more):
        return processes(tmp_path, code=code, function=function, **more)

    return open_pool
