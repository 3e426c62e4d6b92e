"""The holder of a state directory's lock is told to stop, and nobody who only looks like it."""

import signal
import subprocess
import sys

import pytest

from wfserve.errors import ConfigError
from wfserve.state.holder import stop_holder
from wfserve.state.lock import LOCK

HOLDER = """
import signal, sys
from pathlib import Path
from wfserve.state.lock import exclusive
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def started(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline()
    return process


def test_the_holder_stops(tmp_path):
    with started(HOLDER, tmp_path) as process:
        assert stop_holder(tmp_path, 30) == process.pid
        assert process.wait() == -signal.SIGTERM


def test_one_that_does_not_stop(tmp_path):
    with started(HOLDER, tmp_path, "deaf") as process:
        with pytest.raises(TimeoutError, match=f"process {process.pid} .* 0.05 seconds"):
            stop_holder(tmp_path, 0.05)
        process.kill()


@pytest.mark.parametrize("content", [None, "", "unknown", "9" * 40, "4194304"])
def test_nobody_holds_it(tmp_path, content):
    if content is not None:
        (tmp_path / LOCK).write_text(content)
    assert stop_holder(tmp_path, 30) is None


def test_a_number_that_is_another_process_by_now(tmp_path):
    with started("print(flush=True); input()") as bystander:
        (tmp_path / LOCK).write_text(str(bystander.pid))
        assert stop_holder(tmp_path, 30) is None
        bystander.communicate(b"\n")
        assert bystander.returncode == 0


@pytest.mark.parametrize("what", ["pathlib.Path.read_bytes", "os.scandir"])
def test_another_users_server(tmp_path, monkeypatch, what):
    def refuse(*_):
        raise PermissionError

    with started(HOLDER, tmp_path) as process:
        with monkeypatch.context() as context:
            context.setattr(what, refuse)
            with pytest.raises(ConfigError, match="another user's"):
                stop_holder(tmp_path, 30)
        assert process.poll() is None
        process.kill()
