"""Where tests of the state work."""

import tempfile
from pathlib import Path

import pytest

from tests.dying import MEMORY


@pytest.fixture
def memory():
    """A directory that waits for no disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)
