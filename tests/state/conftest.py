"""Where tests of the state work, and what forks for them."""

import tempfile
from pathlib import Path

import pytest

from tests.dying import MEMORY, helper


@pytest.fixture(scope="session", autouse=True)
def _mortal():
    with helper():
        yield


@pytest.fixture
def memory():
    """A directory that waits for no disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)
