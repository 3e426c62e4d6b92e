"""A state directory has one owner, for as long as its process lives and no longer."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from wfserve.errors import ConfigError
from wfserve.state.lock import exclusive

HOLDER = """
import sys
from pathlib import Path
from wfserve.state.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_directory_is_made_and_locked_and_unlocked(tmp_path):
    directory = tmp_path / "a" / "b"
    for _ in range(2):
        with exclusive(directory):
            assert (directory / "lock").read_text() == f"{os.getpid()}\n"
            assert (directory / "lock").stat().st_mode & 0o777 == 0o600


def test_it_is_unlocked_however_the_block_ends(tmp_path):
    with pytest.raises(KeyError), exclusive(tmp_path):
        raise KeyError
    with exclusive(tmp_path):
        pass


def test_another_process_is_refused_until_the_owner_is_gone(tmp_path):
    """Even when it is killed, and has left its number in the file."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConfigError, match=f"process {holder.pid} already serves with"),
            exclusive(tmp_path),
        ):
            pytest.fail("it has two owners")
        holder.kill()
    with exclusive(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_owner_is_named_whatever_the_file_says(tmp_path):
    lock = tmp_path / "lock"
    with exclusive(tmp_path):
        lock.write_bytes(b"\xff")
        with pytest.raises(ConfigError, match="already serves"), exclusive(tmp_path):
            pytest.fail("it has two owners")
        lock.write_bytes(b"")
        with pytest.raises(ConfigError, match="process unknown already serves"), exclusive(tmp_path):
            pytest.fail("it has two owners")


@pytest.mark.parametrize("obstacle", ["a file", "a directory for a lock", "a name that is too long"])
def test_a_directory_that_cannot_be_used(tmp_path, obstacle):
    directory = tmp_path / "state"
    if obstacle == "a file":
        directory.touch()
    elif obstacle == "a directory for a lock":
        (directory / "lock").mkdir(parents=True)
    else:
        directory = tmp_path / ("x" * 300)
    with pytest.raises(ConfigError, match="cannot use the state directory"), exclusive(directory):
        pytest.fail("it was used")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match="No locks available"), exclusive(tmp_path):
        pytest.fail("it was used")
