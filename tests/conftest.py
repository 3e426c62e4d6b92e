"""A test session leaves no process behind, but multiprocessing's two helpers, which end with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers import descendants, wait_until_gone

HELPERS = (b"multiprocessing.forkserver", b"multiprocessing.resource_tracker")

# Machines are shared: a slow example is no failure, and a hang is pytest-timeout's to report.
settings.register_profile("wfserve", deadline=None)
settings.load_profile("wfserve")


@pytest.fixture(scope="session", autouse=True)
def _no_process_left():
    yield
    started = {pid: command for pid in descendants(os.getpid()) if (command := _command(pid))}
    left = wait_until_gone(set(started))
    assert not left, f"still running: {[started[pid] for pid in left]}"


def _command(pid: int) -> bytes:
    """What `pid` was started as; empty for a helper, and for what has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return b""
    is_helper = parent == os.getpid() and any(helper in command for helper in HELPERS)
    return b"" if is_helper else command
